//! The program: reads the settings, wires the parts together and runs the roles that were asked for.
//! Never: a rule of the product. Those live one floor down, and everything here can be replaced by another `main`.

pub mod config;
pub mod data;
pub mod npm;
pub mod tasks;

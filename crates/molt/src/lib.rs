//! The program: reads the settings, wires the parts together and runs the roles that were asked for.
//! Never: a rule of the product. Those live one floor down, and everything here can be replaced by another `main`.

pub mod code;
pub mod commands;
pub mod config;
pub mod data;
pub mod database;
pub mod dev;
pub mod doctor;
pub mod hosts;
pub mod http;
pub mod image;
pub mod install;
pub mod log;
pub mod npm;
pub mod outdated;
pub mod prices;
pub mod rotate;
pub mod screen;
pub mod serve;
pub mod signal;
pub mod tasks;
pub mod wire;

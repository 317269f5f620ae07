//! The cell's binary against a runtime, through its door. With the stand-in by default; with the real one when
//! `MOLT_TEST_RUNTIME` holds its command as a JSON array.
//! Never: look inside the cell; what a test needs to know, the platform needs to know as well.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod chat;
mod crash;
mod isolate;
mod model;
mod process;
mod rig;
mod settings;

//! The fleet as a whole on a real Postgres: against a world in memory that survives its crashes, and against real
//! processes.
//! Never: sleep for something that can be waited for.

#![expect(clippy::unwrap_used, reason = "a test that can't go on says so by ending")]

mod crash;
mod ladder;
mod line;
mod many;
mod points;
mod process;
#[path = "../programs/mod.rs"]
mod programs;
mod repair;
#[cfg(target_os = "linux")]
mod sealed;
#[path = "../simulated/mod.rs"]
mod simulated;
mod stage;
mod sweep;
mod undo;
mod world;

//! The fleet as a whole on a real Postgres: against a world in memory that survives its crashes, and against real
//! processes.
//! Never: sleep for something that can be waited for.

#![expect(clippy::unwrap_used, reason = "a test that can't go on says so by ending")]

mod ahead;
mod contained;
mod crash;
#[path = "../conformance/engine.rs"]
mod engine;
mod fly;
#[path = "../fly_simulator/mod.rs"]
#[expect(dead_code, reason = "the conformance suite uses the rest of it")]
mod fly_simulator;
mod full;
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
#[path = "../conformance/small_engine.rs"]
mod small_engine;
mod spares;
mod stage;
mod suspended;
mod sweep;
mod undo;
mod world;

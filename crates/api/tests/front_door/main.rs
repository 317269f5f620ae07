//! The front door by HTTP, against a real Postgres: every noun's way through, wrong input at every address, and a stranger
//! who gets nowhere.
//! Never: a look behind the door for what the door itself can show.

#![expect(clippy::unwrap_used, reason = "a test panics where it can't go on")]

mod bots;
mod caps;
mod egress;
mod kit;
mod operators;
mod pages;
mod people;
mod plan;
mod spoil;
mod strangers;
mod suspend;
mod watch;
mod wrong_input;

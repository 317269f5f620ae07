//! The chat through the front door: a real server, a real Postgres, browsers on one side and on the other a cell that
//! speaks the wire types over a unix socket and misbehaves on demand.

#![expect(clippy::unwrap_used, reason = "this crate is tests only; clippy excuses test functions, not what they share")]

mod cell;
mod conversations;
mod door;
mod events;
mod kit;
mod lines;
mod messages;
mod resume;

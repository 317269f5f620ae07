//! How the platform and a cell speak: wire types, the client, and the rendering of settings into the runtime's
//! configuration.
//! Never: the database, a host's API, or the runtime's own frames (the cell translates those).

mod client;
mod connect;
mod error;
pub mod leftovers;
mod render;
mod stream;
mod wire;

pub use client::Client;
pub use connect::{CellAddress, InvalidAddress};
pub use error::ClientError;
pub use render::{MOLT_SECTION, ModelFacts, RenderInputs, canonical_hash, render, runtime_model};
pub use stream::{CellReceiver, CellSender, CellStream};
pub use wire::{
    Applied, CellHealth, CellSeq, Decision, Event, Fault, Frame, FromCell, MemoryAction, Op, Phase, REVISION_HEADER,
    Reply, Revision, Role, RunError, RunPhase, Text,
};

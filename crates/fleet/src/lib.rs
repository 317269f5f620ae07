//! Cells: one per bot that is meant to run, none for the others. A pure plan decides, a loop does one step at a time, and
//! a host (processes of this machine, or containers of its Docker engine) keeps the cells.
//! Never: write what a person wants (intent, settings), or hold a transaction open over a call to a host or a cell.

mod act;
mod claim;
mod configuration;
mod docker;
mod error;
mod fly;
mod health;
mod host;
mod listen;
mod pace;
mod patience;
mod plan;
mod process;
mod reconcile;
mod refused;
mod room;
mod rounds;
mod runtime;
mod spares;
mod start;
mod sweep;
mod words;

pub use docker::{DockerConfig, DockerHost, EngineFound, look_at_engine};
pub use error::FleetError;
pub use fly::{FlyHost, FlySettings, WATCH_PERIOD};
pub use host::{BoxFuture, CellSpec, Ensured, Host, HostError, Prepares, Report, Used};
pub use pace::{Pace, Paced};
pub use plan::{ATTEMPTS_MAX, CellFact, ENDS_MAX, Facts, RuntimeFact, Stage, Step, Why, plan};
pub use process::{ProcessHost, SealFound, SealMode, Sealing, cell_users, look_at_seal};
pub use reconcile::{Config, Counts, Fleet};
pub use runtime::RuntimeState;
pub use sweep::Swept;

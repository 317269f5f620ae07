//! Cells: one per bot that is meant to run, none for the others. A pure plan decides, a loop does one step at a time, and
//! a host (processes of this machine) keeps the cells.
//! Never: write what a person wants (intent, settings), or hold a transaction open over a call to a host or a cell.

mod act;
mod configuration;
mod error;
mod fly;
mod host;
mod plan;
mod process;
mod reconcile;
mod rounds;
mod runtime;
mod start;
mod words;

pub use error::FleetError;
pub use fly::{FlyHost, FlySettings, WATCH_PERIOD};
pub use host::{BoxFuture, CellSpec, Ensured, Host, HostError, Report};
pub use plan::{ATTEMPTS_MAX, CellFact, Facts, RuntimeFact, Stage, Step, Why, plan};
pub use process::{ProcessHost, cell_users};
pub use reconcile::{Config, Counts, Fleet};
pub use runtime::RuntimeState;

//! What can go wrong in the loop itself; what goes wrong with one bot is on that bot's timeline.
//! Never: a secret, or the text of a cell.

use molt_store::StoreError;

#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    #[error("the fleet can't use the database")]
    Store(#[from] StoreError),
    #[error("the host can't be used")]
    Host(#[from] crate::HostError),
}

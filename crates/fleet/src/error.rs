//! What can go wrong in the loop itself; what goes wrong with one bot is on that bot's timeline.
//! Never: a secret, or the text of a cell.

use molt_store::StoreError;

#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    #[error("the fleet can't use the database")]
    Store(#[from] StoreError),
    #[error("the host can't be used")]
    Host(#[from] crate::HostError),
    /// A fault of ours; the bot stays as it is, and is named as stuck.
    #[error("the fleet tried a step that the machine of states doesn't have")]
    Impossible(#[from] molt_model::bot::Impossible),
}

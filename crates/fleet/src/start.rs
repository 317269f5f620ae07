//! What a fleet does first: it takes over what an earlier one left, however that one ended.
//! Never: remove what belongs to another database that was used with the same data folder.

use anyhow::Context;
use uuid::Uuid;

use crate::error::FleetError;
use crate::host::HostError;
use crate::reconcile::Shared;

/// Says which database the bots of this data folder belong to.
const OWNER_FILE: &str = "bots/.installation";

/// Ends the leases of a dead predecessor and has every bot looked at; the sweeper finds what belongs to none.
pub(crate) async fn take_over(shared: &Shared) -> Result<(), FleetError> {
    let mut system = shared.store.system().await?;
    let bots = system.all_bots_are_due(shared.clock.now()).await?;
    shared.take_over_spares(&mut system).await?;
    let installation = system.installation().await?;
    system.commit().await?;
    tracing::info!(bots, "the fleet looks at every bot");
    if !is_ours(shared, installation).map_err(HostError::Unexpected)? {
        tracing::warn!(
            "the bots in this data folder belong to another database; they are left alone. \
             Use another --data-dir, or remove its folder `bots` if you don't need them"
        );
    }
    Ok(())
}

/// Whether the bots in the data folder are this database's. A folder without an owner becomes ours.
pub(crate) fn is_ours(shared: &Shared, installation: Uuid) -> anyhow::Result<bool> {
    let path = shared.config.data_dir.join(OWNER_FILE);
    match std::fs::read_to_string(&path) {
        Ok(owner) => Ok(owner.trim() == installation.to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let folder = path.parent().context("the owner file lies in a folder")?;
            std::fs::create_dir_all(folder).context("make the folder for bots")?;
            std::fs::write(&path, format!("{installation}\n")).context("note whose bots these are")?;
            Ok(true)
        }
        Err(error) => Err(error).context("read whose bots these are"),
    }
}

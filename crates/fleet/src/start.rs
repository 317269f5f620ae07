//! What a fleet does first: it takes over what an earlier one left, however that one ended.
//! Never: remove what belongs to another database that was used with the same data folder.

use anyhow::Context;
use molt_model::BotId;
use uuid::Uuid;

use crate::error::FleetError;
use crate::host::HostError;
use crate::reconcile::Shared;

/// Says which database the bots of this data folder belong to.
const OWNER_FILE: &str = "bots/.installation";

/// Ends the leases of a dead predecessor, has every bot looked at, and removes cells and folders of bots that are gone.
pub(crate) async fn take_over(shared: &Shared) -> Result<(), FleetError> {
    let mut system = shared.store.system().await?;
    let bots = system.all_bots_are_due(shared.clock.now()).await?;
    let installation = system.installation().await?;
    system.commit().await?;
    tracing::info!(bots, "the fleet looks at every bot");
    if is_ours(shared, installation).map_err(HostError::Unexpected)? {
        remove_orphans(shared).await
    } else {
        tracing::warn!(
            "the bots in this data folder belong to another database; they are left alone. \
             Use another --data-dir, or remove its folder `bots` if you don't need them"
        );
        Ok(())
    }
}

async fn remove_orphans(shared: &Shared) -> Result<(), FleetError> {
    let held = shared.host.list().await?;
    let mut system = shared.store.system().await?;
    let known = system.bots_with_row(&held).await?;
    system.commit().await?;
    for orphan in held.iter().filter(|bot| !known.contains(bot)) {
        remove_orphan(shared, orphan).await;
    }
    Ok(())
}

async fn remove_orphan(shared: &Shared, orphan: &BotId) {
    match shared.host.stop(orphan, true).await {
        Ok(()) => tracing::info!(bot.id = %orphan, "removed what was left of a bot that is gone"),
        Err(error) => tracing::warn!(bot.id = %orphan, error = &error as &dyn std::error::Error,
            "what is left of a bot that is gone can't be removed yet; the next start tries again"),
    }
}

/// Whether the bots in the data folder are this database's. A folder without an owner becomes ours.
fn is_ours(shared: &Shared, installation: Uuid) -> anyhow::Result<bool> {
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

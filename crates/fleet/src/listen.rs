//! What wakes the loop between its rounds: the database's wake-ups, and the installer of the runtime.
//! Never: work of its own; whoever is woken looks for itself.

use std::sync::Arc;

use molt_model::Time;
use molt_store::{Channel, Store};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;

use crate::error::FleetError;
use crate::reconcile::Shared;
use crate::runtime::RuntimeState;

/// Turns wake-ups of the database and of the installer into wake-ups of the loop.
pub(crate) async fn listen(shared: Arc<Shared>) {
    let (mut wakeups, mut runtime) = (shared.store.wakeups().subscribe(), shared.runtime.clone());
    let (wake, store, clock) = (shared.wake.clone(), shared.store.clone(), shared.clock.clone());
    let mut installing = true;
    let fails = |runtime: &mut watch::Receiver<RuntimeState>| {
        matches!(*runtime.borrow_and_update(), RuntimeState::Failed { .. })
    };
    let mut failed = fails(&mut runtime);
    // A task of the fleet must not keep the fleet alive.
    drop(shared);
    loop {
        tokio::select! {
            wakeup = wakeups.recv() => match wakeup {
                Ok(Channel::Fleet | Channel::All) | Err(RecvError::Lagged(_)) => wake.notify_one(),
                Ok(_) => {}
                Err(RecvError::Closed) => return,
            },
            changed = runtime.changed(), if installing => {
                // When whoever installs the runtime is gone, its last word stands.
                installing = changed.is_ok();
                let failed_before = std::mem::replace(&mut failed, fails(&mut runtime));
                if failed_before && !failed && let Err(error) = call_those_who_wait(&store, clock.now()).await {
                    tracing::warn!(error = &error as &dyn std::error::Error,
                        "bots that wait for OpenClaw could not be called; they look by themselves");
                }
                wake.notify_one();
            }
        }
    }
}

async fn call_those_who_wait(store: &Store, now: Time) -> Result<(), FleetError> {
    let mut system = store.system().await?;
    system.bots_without_runtime_are_due(now).await?;
    Ok(system.commit().await?)
}

//! Whose a place is: what the names of an app's secrets and the state of its machine say about who used it.
//! Never: a start on a volume that another bot was given.

use uuid::Uuid;

use super::app::Place;
use super::machine::{USED_PREFIX, claim_of};
use super::wire::Machine;
use crate::host::{HostError, Used};

/// What was ever started in a place. A machine is launched after the app has the marks.
pub(super) fn used(machine: Option<&Machine>, names: &[String]) -> Used {
    let launched = machine.is_some_and(|machine| !machine.was_never_launched());
    if launched || names.iter().any(|name| name.starts_with(USED_PREFIX)) {
        Used::By(names.iter().filter_map(|name| claim_of(name)).collect())
    } else {
        Used::Never
    }
}

impl Place<'_> {
    /// The names of the app's secrets where a claim has to be found among them.
    pub(super) async fn names_for(&self, claim: Option<Uuid>) -> Result<Vec<String>, HostError> {
        if claim.is_some() { self.secret_names().await } else { Ok(Vec::new()) }
    }

    /// Nothing of ours was in the place when its bot came to it, so what was used since was used under the bot's claim, or by
    /// another bot that this database knows nothing of.
    pub(super) fn check_claim(
        &self,
        claim: Option<Uuid>,
        machine: Option<&Machine>,
        names: &[String],
    ) -> Result<(), HostError> {
        let Some(claim) = claim else { return Ok(()) };
        let used = used(machine, names);
        if used == Used::Never || used.is_by(claim) {
            return Ok(());
        }
        Err(HostError::Unusable(format!(
            "another bot was started in the app {} at Fly, of which this database knows nothing: it was probably restored from a \
             backup. What is there is left alone. Delete this bot, which deletes the app as well, and have another one made",
            self.app
        )))
    }
}

//! What was made ahead is taken away again: a machine that was never launched, and the volume that it was to have.
//! Never: the app. An order to delete it that Fly carries out late would take a bot that was started meanwhile; a machine and a
//! volume go by their ids, which nothing that is made later has, and with nothing in it an app costs nothing.

use http::{Method, StatusCode};

use super::TRIES;
use super::api::{Call, Failure, Kind};
use super::app::Place;
use super::life::is_busy;
use super::pace::Action;
use super::wire::Machine;
use crate::host::HostError;

impl Place<'_> {
    /// The regions in which there was anything. `given`: the volume was marked as used for a start that Fly then refused.
    pub(super) async fn withdraw(&self, given: bool) -> Result<Vec<String>, HostError> {
        if !given && !self.used_marks().await?.is_empty() {
            return Err(self.may_hold_something());
        }
        let mut tries = 0;
        while let Some(machine) = self.settled_machine().await? {
            if !machine.was_never_launched() {
                return Err(self.may_hold_something());
            }
            if tries == TRIES {
                return Err(Failure::Unknown("a machine was not taken away").into());
            }
            tries += 1;
            self.destroy(&machine, given).await?;
        }
        if !self.used_marks().await?.is_empty() {
            return Err(self.may_hold_something());
        }
        let mut regions = Vec::new();
        for _ in 0..TRIES {
            let volumes = self.volumes().await?;
            if volumes.is_empty() {
                return Ok(regions);
            }
            for volume in volumes {
                self.delete_unused(&volume).await?;
                regions.push(volume.region);
            }
        }
        Err(Failure::Unknown("a volume was not taken away").into())
    }

    fn may_hold_something(&self) -> HostError {
        HostError::Unusable(format!("a machine was started in the app {}, so nothing in it is taken away", self.app))
    }

    /// Under its lease nobody starts it meanwhile; without force Fly refuses if somebody did. What became of it, the next look
    /// shows.
    async fn destroy(&self, machine: &Machine, given: bool) -> Result<(), HostError> {
        let nonce = self.lease(&machine.id).await?;
        let destroyed = self.destroy_under(machine, given, &nonce).await;
        if !matches!(destroyed, Ok(true)) {
            self.release(&machine.id, &nonce).await;
        }
        destroyed.map(drop)
    }

    /// `false`: nobody knows whether it was done.
    async fn destroy_under(&self, machine: &Machine, given: bool, nonce: &str) -> Result<bool, HostError> {
        let unlaunched = self.read_machine(&machine.id).await?.is_some_and(|machine| machine.was_never_launched());
        if !unlaunched {
            return Err(Failure::Unknown("a machine changed while it was to be taken away").into());
        }
        if let Some(volume) = machine.volume().filter(|_| given) {
            self.clear_used(volume).await?;
        }
        let path = self.path(&format!("/machines/{}", machine.id));
        let call = Call::new(Action::Destroy, &machine.id, Method::DELETE, path).under(nonce);
        match self.api.tell(call).await {
            Ok(()) => Ok(true),
            Err(failure) if failure.is_status(StatusCode::NOT_FOUND) => Ok(true),
            Err(failure) if failure.is_unknown() || is_busy(&failure) => Ok(false),
            Err(failure) => Err(failure.into()),
        }
    }
}

/// Fly has no room where this was to be.
pub(super) fn lacks_room(error: &HostError) -> bool {
    let HostError::Unexpected(cause) = error else { return false };
    cause.downcast_ref::<Failure>().is_some_and(|failure| failure.is_kind(Kind::InsufficientCapacity))
}

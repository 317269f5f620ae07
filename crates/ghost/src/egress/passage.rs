//! One way out that is open: whose it is, where it leads, and until when it may stay open.
//! Never: open longer than the domain is allowed.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use molt_model::egress::{Place, Reason};
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::asked::Asked;
use super::count::Counts;
use super::lists::List;
use super::{Denied, Guest, Parts};

pub(super) struct Passage {
    parts: Arc<Parts>,
    guest: Guest,
    pub(super) place: Place,
    pub(super) port: u16,
    list: watch::Receiver<Option<List>>,
    /// Of the bot's ways, and of all.
    _places: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

impl Passage {
    pub(super) fn new(
        parts: Arc<Parts>,
        guest: Guest,
        asked: &Asked,
        list: watch::Receiver<Option<List>>,
        places: (OwnedSemaphorePermit, OwnedSemaphorePermit),
    ) -> Self {
        parts.counts.open.fetch_add(1, Ordering::Relaxed);
        Self { parts, guest, place: asked.place.clone(), port: asked.port, list, _places: places }
    }

    pub(super) fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.parts.counts)
    }

    /// Writes a refusal down that came up on the way, not counted yet.
    pub(super) fn refuse(&self, reason: Reason) -> Denied {
        self.parts.note(&self.guest.bot, &self.place, self.port, reason);
        Denied::Refused(reason, self.place.clone())
    }

    /// The same where no answer says it.
    pub(super) fn refuse_silently(&self, reason: Reason) {
        self.parts.counts.refused(reason);
        let _ = self.refuse(reason);
    }

    /// Comes when it may not stay open: the process stops, the bot may not go there any more, or the key is revoked by which
    /// it came in.
    pub(super) async fn ended(&self) {
        let mut list = self.list.clone();
        let no_more = async {
            loop {
                let allows = |list: &List| {
                    let refusal = self.parts.rules.refusal(&list.entries, &self.place, self.port);
                    refusal.is_none() && list.admits(self.guest.key.as_ref())
                };
                if !list.borrow_and_update().as_ref().is_some_and(allows) {
                    return;
                }
                if list.changed().await.is_err() {
                    // The lists are gone, so the process is about to stop.
                    return pending().await;
                }
            }
        };
        tokio::select! {
            () = no_more => {}
            () = self.parts.stop.cancelled() => {}
        }
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        self.parts.counts.open.fetch_sub(1, Ordering::Relaxed);
    }
}

//! The loop that empties the outbox. A message is claimed under a lease, sent outside any transaction, and marked.
//! Never: give up silently; what can't be sent says so in its row and in the log.

use std::sync::Arc;

use chrono::TimeDelta;
use molt_model::{Clock, Time};
use molt_store::outbox::{OutboxRow, data_binding};
use molt_store::{Store, StoreError};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::template::{self, Faulty};
use crate::{Mail, Mailer};

/// Messages of one run; the next run comes at once when there are more.
const BATCH_MAX: i64 = 20;
/// Longer than any carrier takes; whoever dies with a message leaves it to the next worker after this.
const LEASE: TimeDelta = TimeDelta::minutes(2);
/// A mail that could not leave for a day and a half isn't news any more.
const ATTEMPTS_MAX: i32 = 12;
/// The first pause after a failure; it doubles up to `PAUSE_MAX`.
const PAUSE: TimeDelta = TimeDelta::seconds(10);
const PAUSE_MAX: TimeDelta = TimeDelta::hours(6);

/// What one run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub sent: u32,
    /// To be tried again.
    pub failed: u32,
    /// Not to be tried again.
    pub given_up: u32,
}

/// The loop and what it needs.
pub struct Deliver {
    store: Store,
    clock: Arc<dyn Clock>,
    mailer: Arc<dyn Mailer>,
    public_url: String,
}

impl Deliver {
    /// `public_url` is where links in mails lead, without a trailing slash.
    #[must_use]
    pub fn new(store: Store, clock: Arc<dyn Clock>, mailer: Arc<dyn Mailer>, public_url: String) -> Self {
        Self { store, clock, mailer, public_url }
    }

    /// Sends what is due, at most a batch. Safe to run in several processes, and after a crash: a mail may only go twice
    /// if we die between sending it and marking it, and carries the same id then.
    pub async fn run_once(&self) -> Result<Counts, StoreError> {
        let now = self.clock.now();
        let mut tx = self.store.system().await?;
        let rows = tx.claim_outbox(now, now + LEASE, BATCH_MAX).await?;
        tx.commit().await?;
        let mut counts = Counts::default();
        for row in rows {
            self.deliver(&row, now, &mut counts).await?;
        }
        Ok(counts)
    }

    async fn deliver(&self, row: &OutboxRow, now: Time, counts: &mut Counts) -> Result<(), StoreError> {
        let outcome = match self.write(row) {
            Ok(mail) => self.mailer.send(mail).await.map_err(|error| (error, true)),
            Err(faulty) => Err((anyhow::Error::from(faulty), false)),
        };
        let mut tx = self.store.system().await?;
        match outcome {
            Ok(()) => {
                tx.outbox_is_sent(row.id, now).await?;
                counts.sent += 1;
            }
            Err((error, again)) if again && row.attempts < ATTEMPTS_MAX => {
                tracing::warn!(mail.id = %row.id, error = &*error, "a mail could not be sent; trying again later");
                tx.outbox_has_failed(row.id, &format!("{error:#}"), Some(now + pause(row.attempts))).await?;
                counts.failed += 1;
            }
            Err((error, _)) => {
                tracing::error!(mail.id = %row.id, error = &*error, "a mail can't be sent");
                tx.outbox_has_failed(row.id, &format!("{error:#}"), None).await?;
                counts.given_up += 1;
            }
        }
        tx.commit().await
    }

    fn write(&self, row: &OutboxRow) -> Result<Mail, Faulty> {
        let mut data = row.data.clone();
        if !data.is_object() {
            data = json!({});
        }
        if let Some(sealed) = data.get("link_sealed").and_then(Value::as_str) {
            let sealed = hex::decode(sealed).map_err(|_| Faulty::Unsealable)?;
            let link = self.store.seal().open(&data_binding(row.id), &sealed).map_err(|_| Faulty::Unsealable)?;
            data["link"] = link.expose_secret().into();
        }
        data["public_url"] = self.public_url.as_str().into();
        let (subject, text) = template::write(&row.template, &data)?;
        Ok(Mail { id: row.id, to_address: row.to_address.clone(), subject, text })
    }
}

/// How long to wait after the `attempts`th failure.
fn pause(attempts: i32) -> TimeDelta {
    let doublings = attempts.clamp(1, 20) - 1;
    (PAUSE * 2_i32.pow(doublings.unsigned_abs())).min(PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit() {
        for (attempts, seconds) in [(0, 10), (1, 10), (2, 20), (5, 160), (12, 20_480), (13, 21_600), (99, 21_600)] {
            assert_eq!(pause(attempts).num_seconds(), seconds, "{attempts}");
        }
    }
}

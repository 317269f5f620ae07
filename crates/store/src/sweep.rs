//! What nobody needs any more goes: ended log-ins, used tickets, delivered messages, processed payment events.
//! Never: the books, the audit log, or a row that somebody still waits for.

use chrono::TimeDelta;
use molt_model::Time;

use crate::{Result, Store, SystemTx};

/// Ended log-ins are kept this long, so that a stolen refresh token that comes back late is still known as one.
const SESSIONS_KEPT: TimeDelta = TimeDelta::days(7);
/// Long enough to answer "did that mail go out?".
const MESSAGES_KEPT: TimeDelta = TimeDelta::days(30);
/// One day more than a bot's usual use is made of.
const HOURS_KEPT: TimeDelta = TimeDelta::days(15);
/// Nobody asks later what a bot was refused.
const REFUSALS_KEPT: TimeDelta = TimeDelta::days(30);
/// Longer than any host or any backup of one is away.
const TOMBSTONES_KEPT: TimeDelta = TimeDelta::days(400);
/// Payment providers repeat an event for days at most.
const PAYMENT_EVENTS_KEPT: TimeDelta = TimeDelta::days(90);

impl Store {
    /// Removes what is over. Returns how many rows went. Pure SQL: safe at any time, in any number of processes.
    pub async fn sweep(&self, now: Time) -> Result<u64> {
        let mut tx = self.system().await?;
        let gone = tx.sweep_sessions(now - SESSIONS_KEPT).await?
            + tx.sweep_chat_tickets(now).await?
            + tx.sweep_queues(now).await?;
        tx.commit().await?;
        Ok(gone)
    }
}

impl SystemTx {
    async fn sweep_queues(&mut self, now: Time) -> Result<u64> {
        let mut gone = 0;
        for (sql, before) in [
            ("delete from molt.outbox where sent_at < $1", now - MESSAGES_KEPT),
            ("delete from molt.mails where created_at < $1", now - MESSAGES_KEPT),
            ("delete from molt.inbox where processed_at < $1", now - PAYMENT_EVENTS_KEPT),
            ("delete from molt.bot_hours where hour < $1", now - HOURS_KEPT),
            ("delete from molt.egress_refusals where last_at < $1", now - REFUSALS_KEPT),
            ("delete from molt.tombstones where gone_at < $1", now - TOMBSTONES_KEPT),
            ("delete from molt.checkouts where state <> 'completed' and expires_at < $1", now - SESSIONS_KEPT),
        ] {
            gone += sqlx::query(sql).bind(before).execute(&mut *self.tx).await?.rows_affected();
        }
        Ok(gone)
    }
}

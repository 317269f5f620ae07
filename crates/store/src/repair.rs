//! What the fleet writes when it repairs: a change of the settings that is undone, and the net under everything that a crash
//! or a lost wake-up may leave behind.
//! Never: undo settings that somebody replaced meanwhile, or touch a bot that rests as it should.

use molt_model::{BotId, Settings, Time};
use serde_json::Value;

use crate::fleet::{Lease, bot_id};
use crate::{Result, StoreError, SystemTx};

impl SystemTx {
    /// Puts `settings` in the place of revision `bad`, as a revision of its own, so that whoever has seen the bad one is
    /// told that it is stale. `None`: the lease was lost, or somebody wrote newer ones.
    pub async fn undo_settings(&mut self, lease: &Lease, bad: i64, settings: &Settings) -> Result<Option<i64>> {
        let json: Value = serde_json::to_value(settings).map_err(|error| StoreError::Unexpected(error.into()))?;
        let sql = "update molt.bots set settings = $4, bot_name = $5, revision = revision + 1
                   where id = $1 and leased_until = $2 and revision = $3 returning revision";
        let revision = sqlx::query_scalar(sql)
            .bind(lease.bot.as_str())
            .bind(lease.until)
            .bind(bad)
            .bind(json)
            .bind(&settings.bot_name)
            .fetch_optional(&mut *self.tx)
            .await?;
        Ok(revision)
    }

    /// Whether the bot was deleted.
    pub async fn is_buried(&mut self, bot: &BotId) -> Result<bool> {
        let sql = "select exists (select from molt.tombstones where bot_id = $1)";
        Ok(sqlx::query_scalar(sql).bind(bot.as_str()).fetch_one(&mut *self.tx).await?)
    }

    /// Makes up to `limit` bots due that are in the middle of something and that nobody will look at.
    pub async fn forgotten_bots_are_due(&mut self, now: Time, limit: i64) -> Result<u64> {
        let sql = "update molt.bots set due_at = $1 where id in (
                     select id from molt.bots where due_at is null and leased_until is null
                       and (intent = 'deleted' or observed in ('infrastructure', 'booting', 'stopping', 'deleting'))
                     limit $2 for update skip locked)";
        Ok(sqlx::query(sql).bind(now).bind(limit).execute(&mut *self.tx).await?.rows_affected())
    }

    /// Makes up to `limit` bots due whose cell should be at the host, and isn't among what the host holds.
    pub async fn bots_without_cell_are_due(&mut self, held: &[BotId], now: Time, limit: i64) -> Result<u64> {
        let held: Vec<&str> = held.iter().map(BotId::as_str).collect();
        let sql = "update molt.bots set due_at = least(due_at, $2) where id in (
                     select id from molt.bots where intent = 'running' and leased_until is null
                       and (due_at is null or due_at > $2)
                       and (observed in ('booting', 'running')
                         or observed = 'degraded' and phase in ('reconnecting', 'restarting_runtime'))
                       and not exists (select from unnest($1::text[]) held where held = id)
                     limit $3 for update skip locked)";
        Ok(sqlx::query(sql).bind(held).bind(now).bind(limit).execute(&mut *self.tx).await?.rows_affected())
    }

    /// Up to `limit` of the held bots after `after`, in the order of their ids, whose rows say that no cell runs.
    pub async fn held_bots_at_rest(&mut self, held: &[BotId], after: &str, limit: i64) -> Result<Vec<BotId>> {
        let held: Vec<&str> = held.iter().map(BotId::as_str).collect();
        let sql = "select id from molt.bots where id = any($1) and id > $2 and leased_until is null and due_at is null
                     and (observed in ('reserved', 'stopped', 'suspended')
                       or observed = 'degraded' and phase in ('failed', 'no_runtime'))
                   order by id limit $3";
        let rows = sqlx::query(sql).bind(held).bind(after).bind(limit).fetch_all(&mut *self.tx).await?;
        rows.iter().map(|row| bot_id(row, "id")).collect()
    }
}

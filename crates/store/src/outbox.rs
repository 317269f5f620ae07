//! Messages that must go out, once each: the queue of `notify::deliver`.
//! Never: an address or a text in a log.

use molt_model::{Time, UserId};
use serde_json::Value;
use uuid::Uuid;

use crate::{Channel, Place, Result, SystemTx};

/// A message about to be queued.
#[derive(Clone, Debug)]
pub struct NewMessage<'a> {
    pub id: Uuid,
    pub user: Option<UserId>,
    /// A file of `notify/templates/`.
    pub template: &'a str,
    pub to_address: &'a str,
    /// What the template needs. A secret in it is sealed for `data_binding`.
    pub data: Value,
}

/// A message that a worker holds under a lease.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct OutboxRow {
    pub id: Uuid,
    pub template: String,
    pub to_address: String,
    pub data: Value,
    pub attempts: i32,
}

/// What a secret in the data of this message is sealed for.
#[must_use]
pub fn data_binding(id: Uuid) -> Place {
    Place::MailLink(id)
}

impl SystemTx {
    /// Queues a message; it leaves when this transaction has committed.
    pub async fn enqueue(&mut self, message: &NewMessage<'_>, now: Time) -> Result<()> {
        let sql = "insert into molt.outbox (id, user_id, template, to_address, data, due_at, created_at)
                   values ($1, $2, $3, $4, $5, $6, $6)";
        sqlx::query(sql)
            .bind(message.id)
            .bind(message.user.map(|user| user.0))
            .bind(message.template)
            .bind(message.to_address)
            .bind(&message.data)
            .bind(now)
            .execute(&mut *self.tx)
            .await?;
        self.notify(&Channel::Outbox).await
    }

    /// Takes up to `limit` due messages until `until`; whoever dies meanwhile leaves them to the next worker then.
    pub async fn claim_outbox(&mut self, now: Time, until: Time, limit: i64) -> Result<Vec<OutboxRow>> {
        let sql = "update molt.outbox set leased_until = $2, attempts = attempts + 1 where id in (
                     select id from molt.outbox
                     where sent_at is null and due_at <= $1 and (leased_until is null or leased_until <= $1)
                     order by due_at limit $3 for update skip locked)
                   returning id, template, to_address, data, attempts";
        Ok(sqlx::query_as(sql).bind(now).bind(until).bind(limit).fetch_all(&mut *self.tx).await?)
    }

    pub async fn outbox_is_sent(&mut self, id: Uuid, now: Time) -> Result<()> {
        let sql = "update molt.outbox set sent_at = $2, due_at = null, leased_until = null, last_error = null
                   where id = $1";
        sqlx::query(sql).bind(id).bind(now).execute(&mut *self.tx).await?;
        Ok(())
    }

    /// The message could not be sent; `next` is when to try again, none: never.
    pub async fn outbox_has_failed(&mut self, id: Uuid, why: &str, next: Option<Time>) -> Result<()> {
        let sql = "update molt.outbox set last_error = $2, due_at = $3, leased_until = null where id = $1";
        sqlx::query(sql).bind(id).bind(why).bind(next).execute(&mut *self.tx).await?;
        Ok(())
    }
}

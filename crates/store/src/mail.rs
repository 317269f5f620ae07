//! Built-in mail: messages that land here instead of at a mail server, for operators to read.
//! Never: shown to anybody but an operator.

use chrono::{DateTime, Utc};
use molt_model::Time;
use uuid::Uuid;

use crate::{Result, SystemTx};

/// A delivered message.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct MailRow {
    #[sqlx(rename = "outbox_id")]
    pub id: Uuid,
    pub to_address: String,
    pub subject: String,
    pub text: String,
    pub created_at: DateTime<Utc>,
}

impl SystemTx {
    /// Delivers a message. The same outbox row twice is one mail.
    pub async fn insert_mail(&mut self, mail: &MailRow) -> Result<()> {
        let sql = "insert into molt.mails (outbox_id, to_address, subject, text, created_at)
                   values ($1, $2, $3, $4, $5) on conflict do nothing";
        sqlx::query(sql)
            .bind(mail.id)
            .bind(&mail.to_address)
            .bind(&mail.subject)
            .bind(&mail.text)
            .bind(mail.created_at)
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }

    /// Mails before the one of `before` (its time and id), newest first, at most `limit`.
    pub async fn mails_before(&mut self, before: Option<(Time, Uuid)>, limit: i64) -> Result<Vec<MailRow>> {
        let sql = "select outbox_id, to_address, subject, text, created_at from molt.mails
                   where $1::timestamptz is null or (created_at, outbox_id) < ($1, $2)
                   order by created_at desc, outbox_id desc limit $3";
        let (at, id) = before.unzip();
        Ok(sqlx::query_as(sql).bind(at).bind(id).bind(limit).fetch_all(&mut *self.tx).await?)
    }
}

//! Built-in mail: messages that land here instead of at a mail server, for operators to read. Their texts hold log-in links,
//! so they rest sealed.
//! Never: shown to anybody but an operator, or a text in clear in the database.

use chrono::{DateTime, Utc};
use molt_model::Time;
use secrecy::SecretString;
use uuid::Uuid;

use crate::seal::Place;
use crate::{Result, SealRing, SystemTx};

/// A delivered message.
#[derive(Clone, Debug)]
pub struct MailRow {
    pub id: Uuid,
    pub to_address: String,
    pub subject: String,
    /// `None`: it was sealed under a key that this installation no longer has.
    pub text: Option<SecretString>,
    pub created_at: DateTime<Utc>,
}

#[derive(sqlx::FromRow)]
struct Kept {
    outbox_id: Uuid,
    to_address: String,
    subject: String,
    /// Of mails from before they were sealed; they are swept like all others.
    text: Option<String>,
    text_sealed: Option<Vec<u8>>,
    created_at: DateTime<Utc>,
}

impl Kept {
    fn opened(self, seal: &SealRing) -> MailRow {
        let sealed = self.text_sealed.and_then(|sealed| seal.open(&Place::MailText(self.outbox_id), &sealed).ok());
        MailRow {
            id: self.outbox_id,
            to_address: self.to_address,
            subject: self.subject,
            text: sealed.or(self.text.map(SecretString::from)),
            created_at: self.created_at,
        }
    }
}

impl SystemTx {
    /// Delivers a message. The same outbox row twice is one mail.
    pub async fn insert_mail(&mut self, mail: &MailRow, seal: &SealRing) -> Result<()> {
        let sql = "insert into molt.mails (outbox_id, to_address, subject, text_sealed, created_at)
                   values ($1, $2, $3, $4, $5) on conflict do nothing";
        sqlx::query(sql)
            .bind(mail.id)
            .bind(&mail.to_address)
            .bind(&mail.subject)
            .bind(mail.text.as_ref().map(|text| seal.seal(&Place::MailText(mail.id), text)))
            .bind(mail.created_at)
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }

    /// Mails before the one of `before` (its time and id), newest first, at most `limit`, opened.
    pub async fn mails_before(
        &mut self,
        before: Option<(Time, Uuid)>,
        limit: i64,
        seal: &SealRing,
    ) -> Result<Vec<MailRow>> {
        let sql = "select outbox_id, to_address, subject, text, text_sealed, created_at from molt.mails
                   where $1::timestamptz is null or (created_at, outbox_id) < ($1, $2)
                   order by created_at desc, outbox_id desc limit $3";
        let (at, id) = before.unzip();
        let rows: Vec<Kept> = sqlx::query_as(sql).bind(at).bind(id).bind(limit).fetch_all(&mut *self.tx).await?;
        Ok(rows.into_iter().map(|row| row.opened(seal)).collect())
    }
}

//! People: who they are to us, and who is calling.
//! Never: a password or token that isn't hashed.

use molt_model::UserId;
use uuid::Uuid;

use crate::{Result, SystemTx};

/// What a person may do beside their own things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    User,
    Operator,
}

impl Role {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Operator => "operator",
        }
    }

    pub(crate) fn of(text: &str) -> Self {
        if text == "operator" { Self::Operator } else { Self::User }
    }
}

impl SystemTx {
    /// The person whom a checked token names, unless they asked to be erased or the log-in `family` was ended.
    pub async fn caller(&mut self, issuer: &str, subject: &str, family: Option<Uuid>) -> Result<Option<(UserId, Role)>> {
        let row: Option<(Uuid, String)> = sqlx::query_as(
            "select u.id, u.role from molt.users u
             where u.issuer = $1 and u.subject = $2 and u.erase_requested_at is null
               and ($3::uuid is null or exists (select from molt.sessions s where s.family = $3 and s.revoked_at is null))",
        )
        .bind(issuer)
        .bind(subject)
        .bind(family)
        .fetch_optional(&mut *self.tx)
        .await?;
        Ok(row.map(|(id, role)| (UserId(id), Role::of(&role))))
    }
}

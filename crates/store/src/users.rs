//! People: who they are to us, what they set about themselves, and how they leave.
//! Never: a password or token that isn't hashed.

use chrono::{DateTime, Utc};
use molt_model::{Nanos, Time, UserId};
use serde_json::Value;
use uuid::Uuid;

use crate::{Channel, Result, SystemTx, TenantTx};

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

    fn of(text: &str) -> Self {
        if text == "operator" { Self::Operator } else { Self::User }
    }
}

/// A person as they and operators see them.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct UserRow {
    id: Uuid,
    pub email: String,
    pub name: Option<String>,
    pub timezone: String,
    role: String,
    cap_nanos: Option<i64>,
    pub created_at: DateTime<Utc>,
}

impl UserRow {
    #[must_use]
    pub fn id(&self) -> UserId {
        UserId(self.id)
    }

    #[must_use]
    pub fn role(&self) -> Role {
        Role::of(&self.role)
    }

    /// The cap that the person set.
    #[must_use]
    pub fn cap(&self) -> Option<Nanos> {
        self.cap_nanos.map(Nanos)
    }
}

/// A person about to be known here.
#[derive(Clone, Debug)]
pub struct NewUserRow<'a> {
    pub id: UserId,
    pub issuer: &'a str,
    pub subject: &'a str,
    pub email: &'a str,
    pub name: Option<&'a str>,
}

impl SystemTx {
    /// The person whom a checked token names, unless they asked to be erased or the log-in `family` was ended.
    pub async fn caller(
        &mut self,
        issuer: &str,
        subject: &str,
        family: Option<Uuid>,
    ) -> Result<Option<(UserId, Role)>> {
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

    /// Adds a person. A taken address is `Constraint { "users_email" }`.
    pub async fn insert_user(&mut self, user: &NewUserRow<'_>, now: Time) -> Result<()> {
        let sql = "insert into molt.users (id, issuer, subject, email, name, created_at, updated_at)
                   values ($1, $2, $3, $4, $5, $6, $6)";
        sqlx::query(sql)
            .bind(user.id.0)
            .bind(user.issuer)
            .bind(user.subject)
            .bind(user.email)
            .bind(user.name)
            .bind(now)
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }

    /// Sets the password's hash (PHC text).
    pub async fn set_password_hash(&mut self, user: UserId, hash: &str, now: Time) -> Result<()> {
        let sql = "insert into molt.credentials (user_id, password_hash, updated_at) values ($1, $2, $3)
                   on conflict (user_id) do update set password_hash = $2, updated_at = $3";
        sqlx::query(sql).bind(user.0).bind(hash).bind(now).execute(&mut *self.tx).await?;
        Ok(())
    }

    /// The person of this address and their password's hash, unless they asked to be erased.
    pub async fn credentials(&mut self, email: &str) -> Result<Option<(UserId, String)>> {
        let sql = "select u.id, c.password_hash from molt.users u join molt.credentials c on c.user_id = u.id
                   where lower(u.email) = lower($1) and u.erase_requested_at is null";
        let row: Option<(Uuid, String)> = sqlx::query_as(sql).bind(email).fetch_optional(&mut *self.tx).await?;
        Ok(row.map(|(id, hash)| (UserId(id), hash)))
    }

    pub async fn user(&mut self, user: UserId) -> Result<Option<UserRow>> {
        let sql = "select id, email, name, timezone, role, cap_nanos, created_at from molt.users where id = $1";
        Ok(sqlx::query_as(sql).bind(user.0).fetch_optional(&mut *self.tx).await?)
    }

    pub async fn user_by_email(&mut self, email: &str) -> Result<Option<UserRow>> {
        let sql = "select id, email, name, timezone, role, cap_nanos, created_at from molt.users
                   where lower(email) = lower($1)";
        Ok(sqlx::query_as(sql).bind(email).fetch_optional(&mut *self.tx).await?)
    }

    /// People in the order of their ids, those after `after`, at most `limit`.
    pub async fn users_after(&mut self, after: Option<UserId>, limit: i64) -> Result<Vec<UserRow>> {
        let sql = "select id, email, name, timezone, role, cap_nanos, created_at from molt.users
                   where $1::uuid is null or id > $1 order by id limit $2";
        Ok(sqlx::query_as(sql).bind(after.map(|id| id.0)).bind(limit).fetch_all(&mut *self.tx).await?)
    }

    /// Gives or takes the operator role, and writes down who did it. `None`: nobody has this address.
    pub async fn set_role(&mut self, email: &str, role: Role, actor: &str, now: Time) -> Result<Option<UserId>> {
        let sql = "update molt.users set role = $2, updated_at = $3 where lower(email) = lower($1) returning id";
        let row: Option<Uuid> =
            sqlx::query_scalar(sql).bind(email).bind(role.as_str()).bind(now).fetch_optional(&mut *self.tx).await?;
        let Some(id) = row else { return Ok(None) };
        let detail = serde_json::json!({ "role": role.as_str() });
        self.audit(actor, "user.role", &id.to_string(), &detail, now).await?;
        Ok(Some(UserId(id)))
    }

    /// Writes down what an operator did. `actor` is a user's id or `command line`.
    pub async fn audit(&mut self, actor: &str, action: &str, target: &str, detail: &Value, now: Time) -> Result<()> {
        let sql = "insert into molt.audit_log (actor, action, target, detail, at) values ($1, $2, $3, $4, $5)";
        let query = sqlx::query(sql).bind(actor).bind(action).bind(target).bind(detail).bind(now);
        query.execute(&mut *self.tx).await?;
        Ok(())
    }
}

impl TenantTx {
    /// The person themselves. `None`: they were erased meanwhile.
    pub async fn me(&mut self) -> Result<Option<UserRow>> {
        let sql = "select id, email, name, timezone, role, cap_nanos, created_at from molt.users where id = $1";
        Ok(sqlx::query_as(sql).bind(self.user.0).fetch_optional(&mut *self.tx).await?)
    }

    /// Changes what is given; the rest stays.
    pub async fn update_me(
        &mut self,
        name: Option<&str>,
        timezone: Option<&str>,
        now: Time,
    ) -> Result<Option<UserRow>> {
        let sql = "update molt.users set name = coalesce($2, name), timezone = coalesce($3, timezone), updated_at = $4
                   where id = $1 returning id, email, name, timezone, role, cap_nanos, created_at";
        let query = sqlx::query_as(sql).bind(self.user.0).bind(name).bind(timezone).bind(now);
        Ok(query.fetch_optional(&mut *self.tx).await?)
    }

    /// Sets the person's own cap; none: the installation's holds.
    pub async fn set_cap(&mut self, cap: Option<Nanos>, now: Time) -> Result<()> {
        let sql = "update molt.users set cap_nanos = $2, updated_at = $3 where id = $1";
        sqlx::query(sql).bind(self.user.0).bind(cap.map(|cap| cap.0)).bind(now).execute(&mut *self.tx).await?;
        Ok(())
    }

    /// Starts to erase the person: no session and no log-in works from now on, every bot goes, and the fleet removes the
    /// row once the last bot is gone.
    pub async fn request_erase(&mut self, now: Time) -> Result<()> {
        let sql = "update molt.users set erase_requested_at = coalesce(erase_requested_at, $2) where id = $1";
        sqlx::query(sql).bind(self.user.0).bind(now).execute(&mut *self.tx).await?;
        let sql = "update molt.bots set intent = 'deleted', due_at = $2, attempts = 0, updated_at = $2
                   where user_id = $1 and intent <> 'deleted'";
        sqlx::query(sql).bind(self.user.0).bind(now).execute(&mut *self.tx).await?;
        let sql = "update molt.ghost_keys set revoked_at = $2 where user_id = $1 and revoked_at is null";
        sqlx::query(sql).bind(self.user.0).bind(now).execute(&mut *self.tx).await?;
        self.notify(&Channel::Fleet).await
    }
}

//! The built-in identity: e-mail and password, or a link by mail; short-lived signed tokens and a rotating refresh token.
//! Never: a different answer, or a different time to answer, for an e-mail address that is unknown.

mod email;
mod invite;
mod keys;
mod magic_link;
mod password;
mod session;
mod token;

use std::sync::Arc;

use chrono::TimeDelta;
use jsonwebtoken::jwk::JwkSet;
use molt_model::{Clock, UserId};
use molt_store::users::NewUserRow;
use molt_store::{Store, StoreError};
use secrecy::SecretString;

use crate::tries::Tries;
use crate::{Answer, Config, Identity, IdentityError, Result, SignUp};

pub use invite::invite;
pub use magic_link::MAGIC_LINK_TEMPLATE;
pub use session::{REFRESH_LIFE, Session};

/// `iss` and `aud` of the built-in identity's tokens, and `users.issuer` of its people.
const ISSUER: &str = "molt";
/// Wrong passwords per address and place in a window: a person who forgot gives up sooner, a guesser gets nowhere.
const LOGIN_TRIES_MAX: u32 = 10;
/// Mails that a stranger can make us send to one address in a window.
const LINK_TRIES_MAX: u32 = 5;
const TRIES_WINDOW: TimeDelta = TimeDelta::minutes(10);
/// Longer names break mails and screens.
const NAME_CHARACTERS_MAX: usize = 80;

/// The built-in identity of one installation.
pub struct Local {
    store: Store,
    clock: Arc<dyn Clock>,
    config: Config,
    keys: keys::SigningKeys,
    hasher: password::Hasher,
    login_tries: Tries,
    link_tries: Tries,
}

/// Somebody who signs up.
pub struct NewPerson {
    pub email: String,
    pub password: SecretString,
    pub name: Option<String>,
    pub invite: Option<SecretString>,
}

/// Somebody who logs in, and from where: tries are counted per address and place.
pub struct LogIn {
    pub email: String,
    pub password: SecretString,
    pub place: String,
}

impl Local {
    #[must_use]
    pub fn new(config: Config, store: Store, clock: Arc<dyn Clock>) -> Self {
        Self {
            keys: keys::SigningKeys::new(store.clone()),
            hasher: password::Hasher::new(),
            login_tries: Tries::new(LOGIN_TRIES_MAX, TRIES_WINDOW),
            link_tries: Tries::new(LINK_TRIES_MAX, TRIES_WINDOW),
            store,
            clock,
            config,
        }
    }

    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Makes an account and logs it in.
    pub async fn sign_up(&self, person: NewPerson) -> Result<Session> {
        if self.config.signup == SignUp::Closed {
            return Err(IdentityError::SignupClosed);
        }
        let email = email::check(&person.email)?.to_owned();
        let name = person.name.as_deref().map(check_name).transpose()?.flatten();
        password::check(&person.password, &email)?;
        if self.config.signup == SignUp::Invite && person.invite.is_none() {
            return Err(IdentityError::InviteInvalid);
        }
        let hash = self.hasher.hash(person.password).await?;
        let now = self.clock.now();
        let user = UserId::random();
        let subject = user.to_string();
        let mut tx = self.store.system().await?;
        if self.config.signup == SignUp::Invite {
            let code = person.invite.ok_or(IdentityError::InviteInvalid)?;
            if !tx.use_invite(&token::hash(&code), &email, now).await? {
                return Err(IdentityError::InviteInvalid);
            }
        }
        let row = NewUserRow { id: user, issuer: ISSUER, subject: &subject, email: &email, name };
        tx.insert_user(&row, now).await.map_err(email_taken)?;
        tx.set_password_hash(user, &hash, now).await?;
        let session = self.begin_session(tx, user, now).await?;
        tracing::info!(user.id = %user, "a person signed up");
        Ok(session)
    }

    /// Logs in by e-mail and password.
    pub async fn log_in(&self, person: LogIn) -> Result<Session> {
        let now = self.clock.now();
        let email = email::check(&person.email)?;
        let tries = [email, person.place.as_str()];
        let too_many = |retry_after_s| IdentityError::TooManyTries { retry_after_s };
        self.login_tries.count(&tries, now).map_err(too_many)?;
        let found = self.store.system().await?.credentials(email).await?;
        let (user, hash) = found.unzip();
        if !self.hasher.verify(person.password, hash).await? {
            return Err(IdentityError::WrongCredentials);
        }
        self.login_tries.forget(&tries);
        let user = user.ok_or(IdentityError::WrongCredentials)?;
        let tx = self.store.system().await?;
        self.begin_session(tx, user, now).await
    }
}

impl Identity for Local {
    fn issuer(&self) -> &str {
        ISSUER
    }

    fn audience(&self) -> Option<&str> {
        Some(ISSUER)
    }

    fn keys(&self) -> Answer<'_, Result<JwkSet>> {
        Box::pin(self.keys.published())
    }
}

/// The name without surrounding space; nothing is no name.
fn check_name(name: &str) -> Result<Option<&str>> {
    let name = name.trim();
    if name.chars().count() > NAME_CHARACTERS_MAX || name.chars().any(char::is_control) {
        let problem = format!("write a name of at most {NAME_CHARACTERS_MAX} characters, on one line");
        return Err(IdentityError::Field { field: "name", problem });
    }
    Ok((!name.is_empty()).then_some(name))
}

fn email_taken(error: StoreError) -> IdentityError {
    match error {
        StoreError::Constraint { constraint } if constraint == "users_email" => IdentityError::EmailTaken,
        other => other.into(),
    }
}

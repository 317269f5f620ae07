//! Logging in by a link that comes by mail.
//! Never: tell whether an address is known, or keep the link's token readable in a row of ours.

use chrono::TimeDelta;
use molt_store::outbox::NewMessage;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use uuid::Uuid;

use super::{Local, email, token};
use crate::{IdentityError, Result, Session};

/// The mail's template.
pub const MAGIC_LINK_TEMPLATE: &str = "magic-link";
/// Long enough for slow mail, short enough for a mailbox that somebody else reads later.
const LINK_LIFE: TimeDelta = TimeDelta::minutes(15);

impl Local {
    /// Mails a link to the address, if somebody here has it. `place` is where the request came from.
    pub async fn send_magic_link(&self, address: &str, place: &str) -> Result<()> {
        let address = email::check(address)?;
        let now = self.clock.now();
        let too_many = |retry_after_s| IdentityError::TooManyTries { retry_after_s };
        self.link_tries.count(&[address, place], now).map_err(too_many)?;
        let token = token::make()?;
        let mut tx = self.store.system().await?;
        let user = tx.insert_magic_link(address, &token::hash(&token), now + LINK_LIFE).await?;
        let Some(user) = user else { return Ok(()) };
        let id = Uuid::new_v4();
        let link: SecretString = format!("{}/link#{}", self.config.public_url, token.expose_secret()).into();
        let sealed = self.store.seal().seal(&molt_store::outbox::data_binding(id), &link);
        let message = NewMessage {
            id,
            user: Some(user),
            template: MAGIC_LINK_TEMPLATE,
            to_address: address,
            data: json!({ "link_sealed": hex::encode(sealed), "minutes": LINK_LIFE.num_minutes() }),
        };
        tx.enqueue(&message, now).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Logs in by the token of a link, which works once.
    pub async fn use_magic_link(&self, token: &SecretString) -> Result<Session> {
        let now = self.clock.now();
        let mut tx = self.store.system().await?;
        let user = tx.use_magic_link(&token::hash(token), now).await?.ok_or(IdentityError::LinkInvalid)?;
        self.begin_session(tx, user, now).await
    }
}

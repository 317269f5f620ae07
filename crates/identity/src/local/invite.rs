//! Invitations: a code that lets one person sign up where sign-up is by invitation.
//! Never: a code that works twice.

use chrono::TimeDelta;
use molt_model::Time;
use molt_store::Store;
use secrecy::SecretString;

use super::{email, token};
use crate::Result;

/// Long enough for a person who reads mail once a week.
const INVITE_LIFE: TimeDelta = TimeDelta::days(14);

/// Makes an invitation, for one address or for whoever has the code. The code is shown once, here.
pub async fn invite(store: &Store, address: Option<&str>, now: Time) -> Result<SecretString> {
    let address = address.map(email::check).transpose()?;
    let code = token::make()?;
    let mut tx = store.system().await?;
    tx.insert_invite(&token::hash(&code), address, now, now + INVITE_LIFE).await?;
    tx.commit().await?;
    Ok(code)
}

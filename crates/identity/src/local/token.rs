//! Random tokens that open something once: refresh tokens, magic links, invitations. Only their hash is kept.
//! Never: a token in a row.

use anyhow::anyhow;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use crate::Result;

/// Beyond guessing.
const TOKEN_BYTES: usize = 32;

/// A new token, as text that fits into a URL and a cookie.
pub(crate) fn make() -> Result<SecretString> {
    let mut bytes = [0u8; TOKEN_BYTES];
    getrandom::fill(&mut bytes).map_err(|error| anyhow!("the operating system gives no random bytes: {error}"))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes).into())
}

/// What is kept of a token.
pub(crate) fn hash(token: &SecretString) -> Vec<u8> {
    Sha256::digest(token.expose_secret().as_bytes()).to_vec()
}

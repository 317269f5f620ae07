//! Who is calling: session tokens checked against the keys of whoever signs them, and the built-in identity that signs
//! its own.
//! Never: a password, token or key in a log, an error or a row that isn't hashed or sealed.

mod config;
mod error;
mod local;
mod tries;
mod verify;

use std::future::Future;
use std::pin::Pin;

use jsonwebtoken::jwk::JwkSet;

pub use config::{Config, SignUp};
pub use error::{IdentityError, Result};
pub use local::{Local, LogIn, MAGIC_LINK_TEMPLATE, NewPerson, REFRESH_LIFE, Session, invite};
pub use verify::{Claims, Verifier, VerifyError};

/// The future that a trait object's method gives.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Whoever signs the session tokens: the built-in identity, or an outside one.
pub trait Identity: Send + Sync + 'static {
    /// `iss` of the tokens, and `users.issuer` of the people they name.
    fn issuer(&self) -> &str;
    /// `aud` that a token must carry; none: the issuer doesn't use it.
    fn audience(&self) -> Option<&str>;
    /// The public keys in force.
    fn keys(&self) -> Answer<'_, Result<JwkSet>>;
}

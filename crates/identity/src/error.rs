//! What can go wrong when somebody says who they are.
//! Never: a hint which of e-mail and password was wrong.

use molt_store::StoreError;

/// A variant per thing that a caller does differently.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A field has a value that can't be taken; the sentence says what to do.
    #[error("{field}: {problem}")]
    Field { field: &'static str, problem: String },
    #[error("e-mail or password is wrong")]
    WrongCredentials,
    #[error("the e-mail address is in use")]
    EmailTaken,
    #[error("sign-up is closed")]
    SignupClosed,
    #[error("the invitation can't be used")]
    InviteInvalid,
    /// The refresh token is unknown, used, expired or revoked.
    #[error("the session has ended")]
    SessionEnded,
    /// The magic link is unknown, used or expired.
    #[error("the link can't be used")]
    LinkInvalid,
    #[error("too many tries")]
    TooManyTries { retry_after_s: u64 },
    #[error("the database did not do its part")]
    Store(#[from] StoreError),
    #[error("unexpected identity error")]
    Unexpected(#[from] anyhow::Error),
}

pub type Result<T, E = IdentityError> = std::result::Result<T, E>;

//! Passwords: what is accepted, and how they rest (argon2id).
//! Never: a password in a log or an error, or more hashing at once than the machine can take.

use std::time::Duration;

use anyhow::anyhow;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, PasswordHash, Version};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;

use crate::{IdentityError, Result};

/// Guessing a password of ten characters over the network is hopeless; longer rules only make people write it down.
const CHARACTERS_MIN: usize = 10;
/// Longer is no safer, and hashing megabytes would cost us time.
const CHARACTERS_MAX: usize = 200;
/// One of the equal settings that OWASP recommends for argon2id: 7 MiB, five passes, one lane. The one with the least memory,
/// since the whole program lives in 60 MiB.
const MEMORY_KIB: u32 = 7 * 1024;
const PASSES: u32 = 5;
/// Each takes 7 MiB and a core for some 30 ms, so two at once are what a small machine can give.
const HASHES_AT_ONCE: usize = 2;
/// Whoever waits longer is told to come back, so that a crowd can't pile up here.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Whether a new password is acceptable for the owner of `email`.
pub(crate) fn check(password: &SecretString, email: &str) -> Result<()> {
    let text = password.expose_secret();
    let count = text.chars().count();
    let problem = if count < CHARACTERS_MIN {
        format!("choose a password of at least {CHARACTERS_MIN} characters")
    } else if count > CHARACTERS_MAX {
        format!("choose a password of at most {CHARACTERS_MAX} characters")
    } else if text.trim().eq_ignore_ascii_case(email) {
        "choose a password that isn't your e-mail address".to_owned()
    } else {
        return Ok(());
    };
    Err(IdentityError::Field { field: "password", problem })
}

/// Hashes on the blocking pool, a few at a time.
pub(crate) struct Hasher {
    places: Semaphore,
    /// What an unknown address is checked against, so that it takes as long as a known one.
    nobody: String,
}

impl Hasher {
    pub(crate) fn new() -> Self {
        // The hash of nothing anybody can type: right parameters, constant salt, zero digest.
        let nobody =
            format!("$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p=1$bm9ib2R5bm9ib2R5bm9ib2R5${}", "A".repeat(43));
        Self { places: Semaphore::new(HASHES_AT_ONCE), nobody }
    }

    pub(crate) async fn hash(&self, password: SecretString) -> Result<String> {
        self.work(move || {
            let hash: PasswordHash = argon2().hash_password(password.expose_secret().as_bytes())?;
            Ok(hash.to_string())
        })
        .await?
        .map_err(|error: argon2::password_hash::Error| IdentityError::Unexpected(anyhow!("argon2: {error}")))
    }

    /// Whether the password is the one of this hash; without a hash it works as long and says no.
    pub(crate) async fn verify(&self, password: SecretString, hash: Option<String>) -> Result<bool> {
        let known = hash.is_some();
        let hash = hash.unwrap_or_else(|| self.nobody.clone());
        let right = self
            .work(move || {
                let parsed = PasswordHash::new(&hash);
                parsed.is_ok_and(|hash| argon2().verify_password(password.expose_secret().as_bytes(), &hash).is_ok())
            })
            .await?;
        Ok(right && known)
    }

    async fn work<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let Ok(place) = tokio::time::timeout(WAIT_MAX, self.places.acquire()).await else {
            return Err(IdentityError::TooManyTries { retry_after_s: WAIT_MAX.as_secs() });
        };
        let _place = place.expect("the semaphore is never closed");
        tokio::task::spawn_blocking(job).await.map_err(|error| IdentityError::Unexpected(error.into()))
    }
}

fn argon2() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, PASSES, 1, None).expect("the parameters are constants in range");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_password_must_be() {
        for (password, good) in [
            ("correct horse", true),
            ("ünïcödé-zehn", true),
            ("short", false),
            ("123456789", false),
            ("Ann@Example.com", false),
            ("x".repeat(200).as_str(), true),
            ("x".repeat(201).as_str(), false),
        ] {
            let result = check(&password.to_owned().into(), "ann@example.com");
            assert_eq!(result.is_ok(), good, "{password}");
        }
    }

    #[tokio::test]
    async fn only_the_right_password_opens() {
        let hasher = Hasher::new();
        let hash = hasher.hash("correct horse".to_owned().into()).await.unwrap();
        assert!(hash.starts_with("$argon2id$"));
        assert!(PasswordHash::new(&hasher.nobody).is_ok(), "the stand-in is a real hash, so it costs as much");
        assert!(hasher.verify("correct horse".to_owned().into(), Some(hash.clone())).await.unwrap());
        assert!(!hasher.verify("wrong horse".to_owned().into(), Some(hash)).await.unwrap());
        assert!(!hasher.verify("correct horse".to_owned().into(), None).await.unwrap());
    }
}

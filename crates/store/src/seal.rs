//! Encryption at rest: XChaCha20-Poly1305 under a key that is kept outside the database, bound to the row it belongs to.
//! Never: a sealed value that opens in another row, or a key in a log.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use secrecy::{ExposeSecret, SecretSlice, SecretString};

const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
/// Leads every sealed value, so that another cipher or key can be told apart later.
const FORMAT: u8 = 1;

/// The installation's sealing key. Cheap to clone; the bytes are wiped when the last copy goes.
#[derive(Clone)]
pub struct SealKey(std::sync::Arc<SecretSlice<u8>>);

/// The value was sealed under another key, for another row, or was damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a sealed value can't be opened: wrong seal key, or the value was moved or damaged")]
pub struct Unsealable;

impl SealKey {
    /// Thirty-two bytes as sixty-four hexadecimal digits.
    pub fn from_hex(text: &SecretString) -> Result<Self, Unsealable> {
        let bytes = hex::decode(text.expose_secret().trim()).map_err(|_| Unsealable)?;
        if bytes.len() == KEY_BYTES { Ok(Self(std::sync::Arc::new(bytes.into()))) } else { Err(Unsealable) }
    }

    /// A new random key, as the text that `from_hex` reads.
    #[must_use]
    pub fn generate_hex() -> SecretString {
        let mut bytes = [0u8; KEY_BYTES];
        getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
        hex::encode(bytes).into()
    }

    /// Seals `plain` for one place: `binding` names table, column and row, and must be given again to open it.
    #[must_use]
    pub fn seal(&self, binding: &str, plain: &SecretString) -> Vec<u8> {
        let mut nonce = [0u8; NONCE_BYTES];
        getrandom::fill(&mut nonce).expect("the operating system gives random bytes");
        let payload = Payload { msg: plain.expose_secret().as_bytes(), aad: binding.as_bytes() };
        let sealed = self.cipher().encrypt(&XNonce::from(nonce), payload).expect("a short text always seals");
        let mut out = vec![FORMAT];
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&sealed);
        out
    }

    pub fn open(&self, binding: &str, sealed: &[u8]) -> Result<SecretString, Unsealable> {
        let body = sealed.strip_prefix(&[FORMAT]).ok_or(Unsealable)?;
        let (nonce, text) = body.split_at_checked(NONCE_BYTES).ok_or(Unsealable)?;
        let nonce: [u8; NONCE_BYTES] = nonce.try_into().map_err(|_| Unsealable)?;
        let payload = Payload { msg: text, aad: binding.as_bytes() };
        let plain = self.cipher().decrypt(&XNonce::from(nonce), payload).map_err(|_| Unsealable)?;
        String::from_utf8(plain).map(SecretString::from).map_err(|_| Unsealable)
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new_from_slice(self.0.expose_secret()).expect("the length was checked when the key was made")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_value_opens_only_in_its_own_place() {
        let key = SealKey::from_hex(&SealKey::generate_hex()).unwrap();
        let sealed = key.seal("bots.gateway_token:a", &"secret".to_owned().into());
        assert_eq!(key.open("bots.gateway_token:a", &sealed).unwrap().expose_secret(), "secret");
        assert!(key.open("bots.gateway_token:b", &sealed).is_err());
        let other = SealKey::from_hex(&SealKey::generate_hex()).unwrap();
        assert!(other.open("bots.gateway_token:a", &sealed).is_err());
        for cut in 0..sealed.len() {
            assert!(key.open("bots.gateway_token:a", &sealed[..cut]).is_err());
        }
    }
}

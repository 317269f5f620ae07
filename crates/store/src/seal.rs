//! Encryption at rest: XChaCha20-Poly1305 under keys that are kept outside the database. A sealed value names its key and is
//! bound to the row it belongs to; the newest key seals, older ones only open, until their last value is sealed anew.
//! Never: a sealed value that opens in another row, or a key in a log.

mod file;
mod place;
mod reseal;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use sha2::{Digest, Sha256};

pub use file::KeyFile;
pub use place::Place;
pub use reseal::Resealed;
pub(crate) use reseal::listener_name;

const KEY_BYTES: usize = 32;
const ID_BYTES: usize = 8;
const NONCE_BYTES: usize = 24;
/// Leads every sealed value: this form names its key.
const FORMAT: u8 = 2;
/// Leads values from before keys had names.
const FORMAT_UNNAMED: u8 = 1;
/// A rotation has two keys in force at most; more are what somebody put there by hand.
const KEYS_MAX: usize = 16;

/// What a key is called: a digest of it, so that it says nothing about the key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SealKeyId([u8; ID_BYTES]);

/// One sealing key. Cheap to clone; the bytes are wiped when the last copy goes.
#[derive(Clone)]
pub struct SealKey {
    id: SealKeyId,
    bytes: Arc<SecretSlice<u8>>,
}

/// The installation's sealing keys, newest first. All clones see the same keys, also after `reload`.
#[derive(Clone)]
pub struct SealRing(Arc<Ring>);

struct Ring {
    file: Option<PathBuf>,
    keys: RwLock<Arc<[SealKey]>>,
}

/// The value was sealed under another key, for another row, or was damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a sealed value can't be opened: wrong seal key, or the value was moved or damaged")]
pub struct Unsealable;

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum NoKeys {
    #[error("a seal key must be 64 hexadecimal digits; `openssl rand -hex 32` makes one")]
    Malformed,
    #[error("the file with the seal key can't be read")]
    Unreadable(#[from] std::io::Error),
}

impl SealKey {
    /// Thirty-two bytes as sixty-four hexadecimal digits.
    pub fn from_hex(text: &SecretString) -> Result<Self, NoKeys> {
        Self::parse(text.expose_secret())
    }

    fn parse(text: &str) -> Result<Self, NoKeys> {
        let bytes = hex::decode(text.trim()).map_err(|_| NoKeys::Malformed)?;
        if bytes.len() != KEY_BYTES {
            return Err(NoKeys::Malformed);
        }
        let digest = Sha256::new().chain_update(b"molt seal key ").chain_update(&bytes).finalize();
        let id = SealKeyId(digest[..ID_BYTES].try_into().expect("a digest is longer than an id"));
        Ok(Self { id, bytes: Arc::new(bytes.into()) })
    }

    /// A new random key, as the text that `from_hex` reads.
    #[must_use]
    pub fn generate_hex() -> SecretString {
        let mut bytes = Zeroizing::new([0u8; KEY_BYTES]);
        getrandom::fill(&mut *bytes).expect("the operating system gives random bytes");
        hex::encode(*bytes).into()
    }

    #[must_use]
    pub const fn id(&self) -> SealKeyId {
        self.id
    }

    fn seal(&self, binding: &str, plain: &SecretString) -> Vec<u8> {
        let mut nonce = [0u8; NONCE_BYTES];
        getrandom::fill(&mut nonce).expect("the operating system gives random bytes");
        let mut text = Vec::with_capacity(plain.expose_secret().len() + 16);
        text.extend_from_slice(plain.expose_secret().as_bytes());
        let sealed = self.cipher().encrypt_in_place(&XNonce::from(nonce), binding.as_bytes(), &mut text);
        sealed.expect("a short text always seals");
        [&[FORMAT][..], &self.id.0, &nonce, &text].concat()
    }

    /// `body` is the nonce and what follows it.
    fn open(&self, binding: &str, body: &[u8]) -> Result<SecretString, Unsealable> {
        let (nonce, text) = body.split_at_checked(NONCE_BYTES).ok_or(Unsealable)?;
        let nonce: [u8; NONCE_BYTES] = nonce.try_into().map_err(|_| Unsealable)?;
        // Wiped at the end: what leaves here is the one copy that wipes itself.
        let mut plain = Zeroizing::new(text.to_vec());
        let opened = self.cipher().decrypt_in_place(&XNonce::from(nonce), binding.as_bytes(), &mut *plain);
        opened.map_err(|_| Unsealable)?;
        std::str::from_utf8(&plain).map(|text| text.to_owned().into()).map_err(|_| Unsealable)
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new_from_slice(self.bytes.expose_secret())
            .expect("the length was checked when the key was made")
    }
}

impl SealRing {
    /// Keys as sixty-four hexadecimal digits each, the newest first, between white space or commas. A line that begins with
    /// `#` is a comment.
    pub fn parse(text: &SecretString) -> Result<Self, NoKeys> {
        Ok(Self(Arc::new(Ring { file: None, keys: RwLock::new(keys_in(text)?) })))
    }

    /// The keys in a file, which `reload` reads again.
    pub fn read(file: &Path) -> Result<Self, NoKeys> {
        let keys = RwLock::new(keys_in(&std::fs::read_to_string(file)?.into())?);
        Ok(Self(Arc::new(Ring { file: Some(file.to_owned()), keys })))
    }

    /// Reads the file again, if the keys come from one. An error leaves the keys as they were.
    pub fn reload(&self) -> Result<(), NoKeys> {
        let Some(file) = &self.0.file else { return Ok(()) };
        let keys = keys_in(&std::fs::read_to_string(file)?.into())?;
        *self.0.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(())
    }

    /// What the keys are called, newest first; there is at least one.
    #[must_use]
    pub fn ids(&self) -> Vec<SealKeyId> {
        self.keys().iter().map(SealKey::id).collect()
    }

    /// The key that seals.
    #[must_use]
    pub fn newest(&self) -> SealKeyId {
        self.keys()[0].id
    }

    /// Seals `plain` under the newest key for one place, which must be given again to open it.
    #[must_use]
    pub fn seal(&self, place: &Place, plain: &SecretString) -> Vec<u8> {
        self.keys()[0].seal(&place.binding(), plain)
    }

    /// Opens with the key that the value names. A name that isn't known yet is looked for in the file: another process may
    /// just have begun to use a newer key.
    pub fn open(&self, place: &Place, sealed: &[u8]) -> Result<SecretString, Unsealable> {
        let (keys, binding) = (self.keys(), place.binding());
        let Some(id) = key_of(sealed) else {
            let body = sealed.strip_prefix(&[FORMAT_UNNAMED]).ok_or(Unsealable)?;
            return keys.iter().find_map(|key| key.open(&binding, body).ok()).ok_or(Unsealable);
        };
        let body = &sealed[1 + ID_BYTES..];
        if let Some(key) = keys.iter().find(|key| key.id == id) {
            return key.open(&binding, body);
        }
        self.reload().map_err(|_| Unsealable)?;
        let keys = self.keys();
        keys.iter().find(|key| key.id == id).ok_or(Unsealable)?.open(&binding, body)
    }

    fn keys(&self) -> Arc<[SealKey]> {
        self.0.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl From<SealKey> for SealRing {
    fn from(key: SealKey) -> Self {
        Self(Arc::new(Ring { file: None, keys: RwLock::new(Arc::from([key])) }))
    }
}

impl fmt::Display for SealKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for SealKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealKeyId({self})")
    }
}

/// The name of the key that a value was sealed under; `None`: from before they had names, or no sealed value at all.
fn key_of(sealed: &[u8]) -> Option<SealKeyId> {
    let named = sealed.strip_prefix(&[FORMAT])?;
    Some(SealKeyId(named.get(..ID_BYTES)?.try_into().ok()?))
}

fn keys_in(text: &SecretString) -> Result<Arc<[SealKey]>, NoKeys> {
    let lines = text.expose_secret().lines().filter(|line| !line.trim_start().starts_with('#'));
    let words = lines.flat_map(|line| line.split(|c: char| c.is_whitespace() || c == ','));
    let keys: Vec<SealKey> = words.filter(|word| !word.is_empty()).map(SealKey::parse).collect::<Result<_, _>>()?;
    if keys.is_empty() || keys.len() > KEYS_MAX { Err(NoKeys::Malformed) } else { Ok(keys.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SealKey {
        SealKey::from_hex(&SealKey::generate_hex()).unwrap()
    }

    #[test]
    fn a_sealed_value_opens_only_in_its_own_place() {
        let ring = SealRing::from(key());
        let (here, there) = (Place::SigningKey("a".to_owned()), Place::SigningKey("b".to_owned()));
        let sealed = ring.seal(&here, &"secret".to_owned().into());
        assert_eq!(ring.open(&here, &sealed).unwrap().expose_secret(), "secret");
        assert_eq!(key_of(&sealed), Some(ring.newest()));
        assert!(ring.open(&there, &sealed).is_err());
        assert!(SealRing::from(key()).open(&here, &sealed).is_err());
        for cut in 0..sealed.len() {
            assert!(ring.open(&here, &sealed[..cut]).is_err());
        }
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert!(ring.open(&here, &damaged).is_err(), "byte {at}");
        }
    }

    #[test]
    fn older_keys_open_and_the_newest_seals() {
        let (new, old) = (SealKey::generate_hex(), SealKey::generate_hex());
        let (new, old) = (new.expose_secret(), old.expose_secret());
        let place = Place::SigningKey("a".to_owned());
        let before = SealRing::parse(&old.to_owned().into()).unwrap();
        let sealed = before.seal(&place, &"secret".to_owned().into());
        // The same value in the form that had no name for its key.
        let unnamed = [&[FORMAT_UNNAMED][..], &sealed[1 + ID_BYTES..]].concat();
        for text in [format!("{new} {old}"), format!("# two keys\n{new}\n{old}\n"), format!("{new},{old}")] {
            let ring = SealRing::parse(&text.into()).unwrap();
            assert_eq!(ring.open(&place, &sealed).unwrap().expose_secret(), "secret");
            assert_eq!(ring.open(&place, &unnamed).unwrap().expose_secret(), "secret");
            assert!(before.open(&place, &ring.seal(&place, &"newer".to_owned().into())).is_err());
        }
        for wrong in ["", "# nothing", "short", &format!("{new} short")] {
            assert!(SealRing::parse(&wrong.to_owned().into()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_key_that_another_process_added_is_found_in_the_file() {
        let path = std::env::temp_dir().join(format!("molt-ring-{}", uuid::Uuid::new_v4().simple()));
        let (new, old) = (SealKey::generate_hex(), SealKey::generate_hex());
        std::fs::write(&path, old.expose_secret()).unwrap();
        let ring = SealRing::read(&path).unwrap();
        std::fs::write(&path, format!("{}\n{}\n", new.expose_secret(), old.expose_secret())).unwrap();
        let place = Place::SigningKey("a".to_owned());
        let sealed = SealRing::parse(&new).unwrap().seal(&place, &"secret".to_owned().into());
        assert_eq!(ring.open(&place, &sealed).unwrap().expose_secret(), "secret");
        assert_eq!(ring.ids().len(), 2);
        std::fs::write(&path, "damaged").unwrap();
        assert!(ring.reload().is_err());
        assert_eq!(ring.ids().len(), 2, "the keys stay as they were");
        std::fs::remove_file(&path).unwrap();
    }
}

//! The file with the keys, as a rotation changes it: whole or not at all, for its owner only, the old key last to go.
//! Never: a moment at which the file holds no key that opens what is in the database.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Gid, Uid};
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretString};

use super::{NoKeys, SealKey, keys_in};

/// A key file that this process alone changes for as long as this lives.
pub struct KeyFile {
    path: PathBuf,
    _lock: File,
}

impl KeyFile {
    /// `None`: somebody else is changing it.
    pub fn lock(path: &Path) -> std::io::Result<Option<Self>> {
        let beside = path.with_extension("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(beside)?;
        let ours = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
        Ok(ours.then(|| Self { path: path.to_owned(), _lock: lock }))
    }

    /// Puts a new key before the others, unless a rotation that didn't end left two. `true`: a key was made.
    pub fn begin(&self) -> Result<bool, NoKeys> {
        let text = SecretString::from(fs::read_to_string(&self.path)?);
        if keys_in(&text)?.len() > 1 {
            return Ok(false);
        }
        let new = SealKey::generate_hex();
        let both = Zeroizing::new(format!("{}\n{}\n", new.expose_secret(), text.expose_secret().trim()));
        write_secret(&self.path, &both)?;
        Ok(true)
    }

    /// Leaves the newest key alone in the file. To be called once nothing is sealed under the others.
    pub fn finish(&self) -> Result<(), NoKeys> {
        let text = SecretString::from(fs::read_to_string(&self.path)?);
        let newest = hex::encode(keys_in(&text)?[0].bytes.expose_secret());
        write_secret(&self.path, &Zeroizing::new(format!("{newest}\n")))?;
        Ok(())
    }
}

/// In place of the file, for the account that it belonged to, and on the disk before this returns.
fn write_secret(path: &Path, text: &str) -> std::io::Result<()> {
    let before = fs::metadata(path)?;
    let draft = path.with_extension("draft");
    let _ = fs::remove_file(&draft);
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&draft)?;
    if file.metadata()?.uid() != before.uid() || file.metadata()?.gid() != before.gid() {
        rustix::fs::fchown(&file, Some(Uid::from_raw(before.uid())), Some(Gid::from_raw(before.gid())))?;
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::seal::{Place, SealRing};

    #[test]
    fn a_file_holds_a_key_that_opens_at_every_step() {
        let folder = std::env::temp_dir().join(format!("molt-keys-{}", uuid::Uuid::new_v4().simple()));
        fs::create_dir(&folder).unwrap();
        let path = folder.join("seal.key");
        fs::write(&path, SealKey::generate_hex().expose_secret()).unwrap();
        let (before, place) = (SealRing::read(&path).unwrap(), Place::SigningKey("a".to_owned()));
        let sealed = before.seal(&place, &"secret".to_owned().into());

        let file = KeyFile::lock(&path).unwrap().unwrap();
        assert!(KeyFile::lock(&path).unwrap().is_none(), "one at a time");
        // A draft that a killed rotation left is in nobody's way.
        fs::write(folder.join("seal.draft"), "half").unwrap();
        assert!(file.begin().unwrap());
        assert!(!file.begin().unwrap(), "an unfinished rotation goes on with its key");
        let both = SealRing::read(&path).unwrap();
        assert_eq!(both.ids()[1], before.newest());
        assert!(both.open(&place, &sealed).is_ok());
        file.finish().unwrap();
        let after = SealRing::read(&path).unwrap();
        assert_eq!(after.ids(), [both.newest()]);
        assert!(after.open(&place, &sealed).is_err());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(file);
        fs::remove_dir_all(&folder).unwrap();
    }
}

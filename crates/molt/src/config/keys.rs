//! The master keys of the providers: where they are, and what is there.
//! Never: read by a process that isn't the proxy, shown, or named in a fault by more than the place where it should be.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use molt_ghost::{KeyFileFault, MasterKey};
use secrecy::SecretString;
use serde::Deserialize;

/// Everybody on the machine may read the file.
const READABLE_BY_ALL: u32 = 0o004;

/// Where a provider's keys are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum KeySource {
    /// It needs none.
    #[default]
    None,
    /// Each variable holds one; those that aren't set are left out.
    Environment(Vec<String>),
    /// One key a line; read again when the file changes.
    File(PathBuf),
}

/// One name, or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Names {
    One(String),
    Several(Vec<String>),
}

impl Default for Names {
    fn default() -> Self {
        Self::Several(Vec::new())
    }
}

impl KeySource {
    /// The file wins, so that `molt.toml` can name one where the defaults name a variable.
    pub(super) fn new(names: &Names, file: &Path) -> Self {
        let names = match names {
            Names::One(name) => vec![name.clone()],
            Names::Several(names) => names.clone(),
        };
        let names: Vec<String> = names.into_iter().filter(|name| !name.is_empty()).collect();
        match (names.is_empty(), file.as_os_str().is_empty()) {
            (_, false) => Self::File(file.to_owned()),
            (true, true) => Self::None,
            (false, true) => Self::Environment(names),
        }
    }

    /// All keys that are there. An error says what to do, and nothing of what was read.
    pub(super) fn read(&self, environment: &dyn Fn(&str) -> Option<String>) -> Result<Vec<MasterKey>, String> {
        match self {
            Self::None => Ok(Vec::new()),
            Self::Environment(names) => {
                let set = names.iter().filter_map(|name| environment(name));
                let keys = set.map(|key| key.trim().to_owned()).filter(|key| !key.is_empty());
                Ok(keys.map(|key| SecretString::from(key).into()).collect())
            }
            Self::File(path) => {
                let shown = path.display();
                molt_ghost::read_key_file(path).map_err(|fault| match fault {
                    KeyFileFault::Unreadable(error) => format!("{shown} can't be read: {error}"),
                    KeyFileFault::Wrong(what) => format!("{shown}: {what}"),
                })
            }
        }
    }

    /// A sentence for the operator when others can read the keys.
    pub(super) fn warning(&self) -> Option<String> {
        let Self::File(path) = self else { return None };
        let mode = std::fs::metadata(path).ok()?.permissions().mode();
        (mode & READABLE_BY_ALL != 0).then(|| {
            format!("{} holds keys and can be read by everybody on this machine; chmod 600 it", path.display())
        })
    }

    /// What should be there, for faults.
    pub(super) fn wanted(&self) -> String {
        match self {
            Self::None => "nothing".to_owned(),
            Self::Environment(names) => format!("the variable {} is not set", names.join(" or ")),
            Self::File(path) => format!("{} holds no key", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    #[test]
    fn keys_come_from_where_the_settings_say_and_leak_nowhere() {
        let folder = std::env::temp_dir().join(format!("molt-keys-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("keys");
        std::fs::write(&file, "sk-lobster not-a-weight").unwrap();
        let environment = |name: &str| (name == "SECOND").then(|| " sk-2 ".to_owned());
        let names = Names::Several(vec!["FIRST".to_owned(), "SECOND".to_owned()]);

        let source = KeySource::new(&names, Path::new(""));
        let keys = source.read(&environment).unwrap();
        assert_eq!((keys.len(), keys[0].secret.expose_secret()), (1, "sk-2"));
        assert_eq!(source.wanted(), "the variable FIRST or SECOND is not set");

        let source = KeySource::new(&names, &file);
        let fault = source.read(&environment).unwrap_err();
        assert!(fault.contains("weight") && !fault.contains("lobster"), "{fault}");
        std::fs::write(&file, "sk-lobster 2").unwrap();
        let mode = |mode| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o644);
        assert!(source.warning().unwrap().contains("chmod 600"));
        mode(0o640);
        assert_eq!(source.warning(), None);
        let keys = source.read(&environment).unwrap();
        assert_eq!((keys[0].secret.expose_secret(), keys[0].weight), ("sk-lobster", 2));
        assert!(!format!("{keys:?}").contains("lobster"));
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(source.read(&environment).unwrap_err().contains("can't be read"));
        assert_eq!(KeySource::new(&Names::One(String::new()), Path::new("")), KeySource::None);
    }
}

//! The runtime's configuration on disk, and the workspace files that come with it.
//! Never: write outside the workspace, or lose the last configuration that worked.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::{Component, Path, PathBuf};

use anyhow::Context;
use molt_bot::{Applied, MOLT_SECTION, Revision, canonical_hash};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::layout::Layout;
use crate::runtime::Ports;

/// Files that come with a configuration are instructions and skills, not data.
const FILE_BYTES_MAX: usize = 512 * 1024;
const FILES_MAX: usize = 500;

/// A configuration as the platform gave it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    pub revision: Revision,
    /// What the platform sent, with the section for the cell.
    pub body: Value,
}

/// A file path or size that the cell doesn't write.
#[derive(Debug, thiserror::Error)]
#[error("workspace file {0:?} can't be written")]
pub struct InvalidFile(String);

impl Config {
    #[must_use]
    pub fn applied(&self) -> Applied {
        Applied { revision: self.revision, hash: canonical_hash(&self.body) }
    }

    /// The runtime's part, with the way to the world outside that only the cell knows.
    #[must_use]
    pub fn for_runtime(&self, ports: Ports) -> Value {
        let mut body = self.body.clone();
        if let Some(map) = body.as_object_mut() {
            map.shift_remove(MOLT_SECTION);
            if let Some(url) = ports.world_url() {
                map.insert("proxy".to_owned(), json!({ "proxyUrl": url }));
            }
        }
        body
    }

    /// The workspace files, checked.
    pub fn files(&self) -> Result<Vec<(PathBuf, &str)>, InvalidFile> {
        let files = self.body[MOLT_SECTION]["workspace_files"].as_object();
        if files.is_some_and(|files| files.len() > FILES_MAX) {
            return Err(InvalidFile("too many files".to_owned()));
        }
        let invalid = |name: &str| InvalidFile(name.to_owned());
        files
            .into_iter()
            .flatten()
            .map(|(name, content)| {
                let path = PathBuf::from(name);
                let inside = !name.is_empty() && path.components().all(|part| matches!(part, Component::Normal(_)));
                let content = content.as_str().filter(|text| text.len() <= FILE_BYTES_MAX);
                content.filter(|_| inside).map(|content| (path, content)).ok_or_else(|| invalid(name))
            })
            .collect()
    }

    /// The configuration to start with: the one from the host, unless a newer one was accepted since.
    #[must_use]
    pub fn newest(layout: &Layout, from_host: Self) -> Self {
        let accepted = std::fs::read(layout.accepted_config()).ok();
        let accepted = accepted.and_then(|text| serde_json::from_slice::<Self>(&text).ok());
        accepted.filter(|accepted| accepted.revision > from_host.revision).unwrap_or(from_host)
    }

    /// Remembers the configuration for the next start of the cell.
    pub fn remember(&self, layout: &Layout) -> anyhow::Result<()> {
        let text = serde_json::to_vec(self).context("encode the configuration")?;
        replace(&layout.accepted_config(), &text)
    }

    /// Writes the runtime's configuration file.
    pub fn write_runtime_file(&self, layout: &Layout, ports: Ports) -> anyhow::Result<()> {
        let text = serde_json::to_vec_pretty(&self.for_runtime(ports)).context("encode the configuration")?;
        replace(&layout.runtime_config(), &text)
    }

    /// Writes the workspace files, and removes those that an earlier configuration brought and this one doesn't.
    pub fn write_workspace(&self, layout: &Layout) -> anyhow::Result<()> {
        let workspace = layout.workspace();
        let files = self.files()?;
        let names: BTreeSet<PathBuf> = files.iter().map(|(path, _)| path.clone()).collect();
        let earlier = std::fs::read(layout.written_files()).ok();
        let earlier: BTreeSet<PathBuf> =
            earlier.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        // First the list, so that a crash in between leaves no file that nobody remembers.
        let all: BTreeSet<&PathBuf> = names.union(&earlier).collect();
        replace(&layout.written_files(), &serde_json::to_vec(&all).context("encode the list of files")?)?;
        for (path, content) in files {
            let path = guarded(&workspace, &path)?;
            if std::fs::read(&path).is_ok_and(|old| old == content.as_bytes()) {
                continue;
            }
            replace(&path, content.as_bytes())?;
        }
        for path in earlier.difference(&names) {
            let path = guarded(&workspace, path)?;
            std::fs::remove_file(&path).ok();
            // Folders that are empty now go too; one that isn't stays.
            let parents = path.ancestors().skip(1).take_while(|parent| *parent != workspace);
            parents.take_while(|parent| std::fs::remove_dir(parent).is_ok()).for_each(drop);
        }
        replace(&layout.written_files(), &serde_json::to_vec(&names).context("encode the list of files")?)
    }
}

/// The full path, with its folders made. The assistant can write the workspace: a link in the way is removed instead of
/// followed, so that a file can't be led out of the workspace.
fn guarded(workspace: &Path, inside: &Path) -> anyhow::Result<PathBuf> {
    let mut path = workspace.to_owned();
    for part in inside.parent().into_iter().flat_map(Path::components) {
        path.push(part);
        match std::fs::symlink_metadata(&path) {
            Ok(facts) if facts.is_dir() => continue,
            Ok(_) => std::fs::remove_file(&path).context("clear the way of a workspace file")?,
            Err(_) => {}
        }
        std::fs::create_dir(&path).context("make a workspace folder")?;
    }
    Ok(workspace.join(inside))
}

/// Writes beside it and renames: a reader sees the old or the new content, never half of it.
fn replace(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".molt-draft");
    std::fs::remove_file(&draft).ok();
    let mut file = File::options().write(true).create_new(true).open(&draft).context("start a file")?;
    file.write_all(content).context("write a file")?;
    file.sync_data().context("sync a file")?;
    std::fs::rename(&draft, path).context("put a file in its place")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(revision: Revision, files: Value) -> Config {
        Config { revision, body: json!({"gateway": {"mode": "local"}, "molt": {"workspace_files": files}}) }
    }

    #[test]
    fn files_come_go_and_stay_inside() {
        let state = std::env::temp_dir().join(format!("molt-config-{}", uuid::Uuid::new_v4()));
        let layout = Layout::create(&state).unwrap();
        let workspace = layout.workspace();
        config(1, json!({"SOUL.md": "kind", "skills/a/SKILL.md": "a"})).write_workspace(&layout).unwrap();
        assert_eq!(std::fs::read_to_string(workspace.join("skills/a/SKILL.md")).unwrap(), "a");
        std::fs::write(workspace.join("own.md"), "mine").unwrap();
        config(2, json!({"SOUL.md": "brief"})).write_workspace(&layout).unwrap();
        assert_eq!(std::fs::read_to_string(workspace.join("SOUL.md")).unwrap(), "brief");
        assert!(!workspace.join("skills").exists(), "a removed skill leaves nothing behind");
        assert!(workspace.join("own.md").exists(), "the assistant's own files stay");

        std::os::unix::fs::symlink("/tmp", workspace.join("skills")).unwrap();
        config(3, json!({"skills/b/SKILL.md": "b"})).write_workspace(&layout).unwrap();
        assert!(workspace.join("skills").symlink_metadata().unwrap().is_dir());

        for wrong in ["../x", "/etc/x", "a/../../x", ""] {
            assert!(config(4, json!({wrong: "x"})).files().is_err(), "{wrong}");
        }
        let ports = Ports { models: 20_000, world: None };
        let body = config(5, json!({})).for_runtime(ports);
        assert!(body.get("molt").is_none() && body.get("proxy").is_none());
        let body = config(5, json!({})).for_runtime(Ports { world: Some(3128), ..ports });
        assert_eq!(body["proxy"], json!({ "proxyUrl": "http://127.0.0.1:3128" }));
        std::fs::remove_dir_all(&state).unwrap();
    }

    #[test]
    fn a_newer_configuration_survives_an_older_host() {
        let state = std::env::temp_dir().join(format!("molt-config-{}", uuid::Uuid::new_v4()));
        let layout = Layout::create(&state).unwrap();
        let (old, new) = (config(1, json!({})), config(2, json!({"A.md": "a"})));
        new.remember(&layout).unwrap();
        assert_eq!(Config::newest(&layout, old).revision, 2);
        assert_eq!(Config::newest(&layout, config(3, json!({}))).revision, 3);
        std::fs::remove_dir_all(&state).unwrap();
    }
}

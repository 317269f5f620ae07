//! Where things lie in the state folder.
//! Never: a path outside it.

use std::path::{Path, PathBuf};

/// The state folder: `molt/` belongs to the cell, `openclaw/` to the runtime, `workspace/` to the assistant.
#[derive(Clone, Debug)]
pub struct Layout {
    state: PathBuf,
}

impl Layout {
    /// Makes the folders, the cell's own one for its user only.
    pub fn create(state: &Path) -> std::io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;

        let layout = Self { state: state.to_owned() };
        for folder in [layout.own(), layout.runtime_home(), layout.workspace()] {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        Ok(layout)
    }

    #[must_use]
    pub fn own(&self) -> PathBuf {
        self.state.join("molt")
    }

    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.own().join("cell.lock")
    }

    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.own().join("journal.jsonl")
    }

    /// The newest configuration that was accepted.
    #[must_use]
    pub fn accepted_config(&self) -> PathBuf {
        self.own().join("config.json")
    }

    /// The port under which the runtime reaches its models.
    #[must_use]
    pub fn forwarder_port(&self) -> PathBuf {
        self.own().join("forwarder.port")
    }

    /// What the runtime prints.
    #[must_use]
    pub fn runtime_log(&self) -> PathBuf {
        self.own().join("runtime.log")
    }

    /// Which workspace files were written from the configuration.
    #[must_use]
    pub fn written_files(&self) -> PathBuf {
        self.own().join("workspace-files.json")
    }

    #[must_use]
    pub fn runtime_home(&self) -> PathBuf {
        self.state.join("openclaw")
    }

    #[must_use]
    pub fn runtime_config(&self) -> PathBuf {
        self.runtime_home().join("openclaw.json")
    }

    #[must_use]
    pub fn workspace(&self) -> PathBuf {
        self.state.join("workspace")
    }

    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }
}

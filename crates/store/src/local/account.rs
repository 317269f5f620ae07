//! Who the private Postgres runs as. It refuses to run as root, so root gives it an account that owns nothing else.
//! Never: rights left over. The child has no supplementary groups and none of molt's environment.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use tokio::process::Command;

use super::LocalError;

const NAME: &str = "molt-postgres";

/// The user of the server's process: this one, or the unprivileged account when this one is root.
#[derive(Clone, Copy, Debug)]
pub(super) struct Account {
    uid: u32,
    gid: u32,
    switch: bool,
}

impl Account {
    /// `folder` is where the cluster will be: the account must be able to walk there.
    pub(super) fn unprivileged(folder: &Path) -> Result<Self, LocalError> {
        let uid = rustix::process::geteuid();
        if !uid.is_root() {
            return Ok(Self { uid: uid.as_raw(), gid: rustix::process::getegid().as_raw(), switch: false });
        }
        let (uid, gid) = match look_up() {
            Some(ids) => ids,
            None => create()?,
        };
        let account = Self { uid, gid, switch: true };
        if let Some(parent) = folder.parent() {
            fs::create_dir_all(parent).map_err(|error| LocalError::io("making", parent, &error))?;
            account.can_reach(parent)?;
        }
        Ok(account)
    }

    /// A folder that only the account may enter. One that somebody else prepared is refused.
    pub(super) fn own_folder(&self, folder: &Path) -> Result<(), LocalError> {
        let failed = |error: std::io::Error| LocalError::io("preparing", folder, &error);
        match fs::create_dir(folder) {
            Ok(()) => {
                fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(failed)?;
                if self.switch {
                    chown(folder, Some(self.uid), Some(self.gid)).map_err(failed)?;
                }
                return Ok(());
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(error)),
        }
        let facts = fs::symlink_metadata(folder).map_err(failed)?;
        if !facts.is_dir() || facts.uid() != self.uid {
            let text = "is not a folder of the account that runs the database; move it away and start again";
            return Err(LocalError::Refused(format!("{} {text}", folder.display())));
        }
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(failed)
    }

    /// Whether every folder on the way lets the account pass.
    pub(super) fn can_reach(&self, folder: &Path) -> Result<(), LocalError> {
        if !self.switch {
            return Ok(());
        }
        for step in folder.ancestors().filter(|step| !step.as_os_str().is_empty()) {
            let facts = fs::metadata(step).map_err(|error| LocalError::io("looking at", step, &error))?;
            let open = facts.mode() & 0o001 != 0 || facts.uid() == self.uid;
            if !open {
                return Err(LocalError::Refused(format!(
                    "{} is closed to other users, and the database runs as {NAME} because molt runs as root; \
                     choose another place with --data-dir",
                    step.display()
                )));
            }
        }
        Ok(())
    }

    /// A command that runs as the account, with an environment made from nothing.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C").current_dir("/");
        if self.switch {
            command.uid(self.uid).gid(self.gid);
        }
        command
    }
}

fn look_up() -> Option<(u32, u32)> {
    let text = fs::read_to_string("/etc/passwd").ok()?;
    let line = text.lines().find(|line| line.split(':').next() == Some(NAME))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn create() -> Result<(u32, u32), LocalError> {
    let made = std::process::Command::new("useradd")
        .args(["--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"])
        .args(["--shell", "/usr/sbin/nologin", NAME])
        .output();
    // Another molt may have been faster: what counts is that the account is there now.
    look_up().ok_or_else(|| {
        let why = made.map_or_else(|error| error.to_string(), |out| String::from_utf8_lossy(&out.stderr).into_owned());
        LocalError::Refused(format!(
            "Postgres does not run as root, and making the account {NAME} failed ({}); make it by hand, run molt as an \
             ordinary user, or set DATABASE_URL",
            why.trim()
        ))
    })
}

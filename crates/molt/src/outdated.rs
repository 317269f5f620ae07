//! What earlier versions installed: removed once nothing runs from it any more.
//! Never: a folder that something still runs from, or a name that no install of ours has.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use molt_bot::leftovers;
use tokio::time::sleep;

use crate::npm;

/// Cells of the version before are replaced within seconds of a start; one that is busy may take minutes.
const LOOK_PERIOD: Duration = Duration::from_secs(20);
/// Installs are named by so many hexadecimal digits of their content.
const NAME_DIGITS: usize = 12;

/// Removes the installs below `parent` but for these, each as soon as no process needs it. Ends when none is left.
pub async fn forget(parent: &Path, keep: &[PathBuf]) {
    // Without processes to look at nobody knows what is in use.
    if !Path::new("/proc/self/exe").exists() {
        return;
    }
    while !others(parent, keep).is_empty() {
        match forget_idle(parent, keep).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => tracing::debug!(
                error = &error as &dyn std::error::Error,
                "an outdated install can't be removed; it is tried again"
            ),
        }
        sleep(LOOK_PERIOD).await;
    }
}

/// One look. Whether nothing is left.
async fn forget_idle(parent: &Path, keep: &[PathBuf]) -> std::io::Result<bool> {
    let lock = npm::lock(&parent.join(".lock")).await?;
    let (parent, keep) = (parent.to_owned(), keep.to_vec());
    let work = move || {
        let _lock = lock;
        npm::sweep(&parent);
        for folder in others(&parent, &keep).into_iter().filter(|folder| !is_used(folder)) {
            // Out of its place first, so that half an install is never found there.
            let draft = npm::draft_path(&parent);
            fs::rename(&folder, &draft)?;
            match fs::remove_dir_all(&draft) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => tracing::info!(folder = %folder.display(), "removed an outdated install"),
            }
        }
        Ok(others(&parent, &keep).is_empty())
    };
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}

fn others(parent: &Path, keep: &[PathBuf]) -> Vec<PathBuf> {
    let is_install = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.len() == NAME_DIGITS && name.bytes().all(|byte| byte.is_ascii_hexdigit()) && path.is_dir()
    };
    let entries = fs::read_dir(parent).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| is_install(path) && !keep.contains(path)).collect()
}

/// Whether some process runs a program of the folder, or was started with its path.
fn is_used(folder: &Path) -> bool {
    let Some(name) = folder.to_str() else { return true };
    leftovers::living().into_iter().any(|pid| {
        let program = fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|program| program.starts_with(folder));
        let command = || fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        program
            || String::from_utf8_lossy(&command()).contains(name)
            || leftovers::environment(pid).iter().any(|entry| entry.contains(name))
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[tokio::test]
    async fn an_old_install_goes_when_nothing_runs_from_it() {
        let parent = std::env::temp_dir().join(format!("molt-outdated-{}", uuid::Uuid::new_v4().simple()));
        let [new, old, idle] = ["0123456789ab", "ba9876543210", "abcdefabcdef"].map(|name| parent.join(name));
        for folder in [&new, &old, &idle, &parent.join("mine"), &parent.join(".draft-x")] {
            fs::create_dir_all(folder).unwrap();
        }
        fs::copy("/bin/sleep", old.join("sleep")).unwrap();
        let mut running = Command::new(old.join("sleep")).arg("60").spawn().unwrap();
        let keep = [new.clone()];
        assert!(!forget_idle(&parent, &keep).await.unwrap());
        assert!(old.exists() && !idle.exists() && !parent.join(".draft-x").exists());
        running.kill().unwrap();
        running.wait().unwrap();
        assert!(forget_idle(&parent, &keep).await.unwrap());
        assert!(new.exists() && !old.exists() && parent.join("mine").exists());
        fs::remove_dir_all(&parent).unwrap();
    }
}

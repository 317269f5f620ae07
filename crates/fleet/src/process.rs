//! The host of one machine: a cell is a process with a folder of its own, which outlives this program and is found again.
//! Never: judge who lives by a remembered number, put a secret where `ps` shows it, or follow what a cell put into its
//! own folder.

mod folder;
mod life;
#[cfg(target_os = "linux")]
mod seal;
#[cfg(not(target_os = "linux"))]
#[path = "process/no_seal.rs"]
mod seal;
mod spawn;
mod users;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, anyhow};
use molt_bot::{CellAddress, leftovers};
use molt_model::BotId;
use tokio::sync::OwnedMutexGuard;

use crate::host::{BoxFuture, CellSpec, Ensured, Host, HostError, Report};
use crate::reconcile::Config;
use folder::Folder;
use seal::Seal;
#[cfg(all(test, target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) use seal::says;
pub use seal::{SealFound, SealMode, Sealing, look_at_seal};
pub use users::cell_users;

/// Longest path of a socket that the system takes, without the closing zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Processes of this machine. One of these per data folder: the folder's lock is the caller's.
pub struct ProcessHost {
    bots: PathBuf,
    cell_binary: PathBuf,
    /// None: cells share the machine's network and see its files.
    seal: Option<Arc<Seal>>,
    /// One call per bot at a time.
    busy: Mutex<HashMap<BotId, Arc<tokio::sync::Mutex<()>>>>,
}

impl ProcessHost {
    /// Makes the folder of all bots, and checks what would only fail later, in front of a user.
    pub fn new(config: &Config, sealing: &Sealing) -> Result<Self, HostError> {
        let bots = config.data_dir.join("bots");
        std::fs::create_dir_all(&bots).context("make the folder for bots")?;
        let bots = bots.canonicalize().context("find the folder for bots")?;
        let longest = Folder::new(&bots, &BotId::random()).socket();
        if longest.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            let room = SOCKET_PATH_BYTES_MAX + config.data_dir.as_os_str().len() - longest.as_os_str().len();
            return Err(HostError::Unusable(format!(
                "the path of the data folder is too long for sockets: choose one of at most {room} bytes (--data-dir)"
            )));
        }
        if config.uid_range.is_some() {
            users::allow_passing_through(&bots).context("open the folder for bots to the cells' users")?;
            for path in [bots.as_path(), config.cell_binary.as_path()] {
                users::check_reachable(path).map_err(HostError::Unusable)?;
            }
        }
        let seal = Seal::new(sealing, config.uid_range.as_ref())?.map(Arc::new);
        Ok(Self { bots, cell_binary: config.cell_binary.clone(), seal, busy: Mutex::default() })
    }

    /// What stands for the proxy's address in a sealed cell. None: cells aren't sealed and take the address itself. A fleet
    /// that is told replaces the cells that were started otherwise.
    #[must_use]
    pub fn way_out(&self) -> Option<String> {
        self.seal.as_ref().map(|_| seal::way_out())
    }

    fn folder(&self, bot: &BotId) -> Folder {
        Folder::new(&self.bots, bot)
    }

    async fn alone(&self, bot: &BotId) -> OwnedMutexGuard<()> {
        let lock = {
            let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
            busy.retain(|_, lock| Arc::strong_count(lock) > 1);
            busy.entry(bot.clone()).or_default().clone()
        };
        lock.lock_owned().await
    }
}

impl Host for ProcessHost {
    fn kind(&self) -> &'static str {
        "process"
    }

    fn ensure<'a>(&'a self, spec: &'a CellSpec) -> BoxFuture<'a, Result<Ensured, HostError>> {
        Box::pin(async move {
            let guard = self.alone(&spec.bot).await;
            let (folder, binary, spec) = (self.folder(&spec.bot), self.cell_binary.clone(), spec.clone());
            let seal = self.seal.clone();
            blocking(move || {
                let _guard = guard;
                ensure(&folder, &binary, &spec, seal.as_deref())
            })
            .await
        })
    }

    fn inspect<'a>(&'a self, bot: &'a BotId) -> BoxFuture<'a, Result<Report, HostError>> {
        Box::pin(async move {
            let guard = self.alone(bot).await;
            let folder = self.folder(bot);
            blocking(move || {
                let _guard = guard;
                if !life::lives(&folder).context("look for the cell")? {
                    return Ok(Report::Absent);
                }
                folder.bound_log().context("bound the log")?;
                Ok(Report::Present { address: CellAddress::Unix(folder.socket()) })
            })
            .await
        })
    }

    fn stop<'a>(&'a self, bot: &'a BotId, remove: bool) -> BoxFuture<'a, Result<(), HostError>> {
        Box::pin(async move {
            let guard = self.alone(bot).await;
            let folder = self.folder(bot);
            blocking(move || {
                let _guard = guard;
                life::end(&folder)?;
                seal::remove(&folder.bot);
                if remove {
                    users::remove_strays(&folder).context("remove what the cell left outside its folder")?;
                    folder.remove().context("remove the folder")?;
                }
                Ok(())
            })
            .await
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<BotId>, HostError>> {
        Box::pin(async move {
            let bots = self.bots.clone();
            blocking(move || {
                let mut found = folder::on_disk(&bots).context("read the folder for bots")?;
                found.extend(in_memory(&bots));
                found.sort();
                found.dedup();
                Ok(found)
            })
            .await
        })
    }

    fn gone<'a>(&'a self, bot: &'a BotId) -> BoxFuture<'a, ()> {
        Box::pin(async move { life::gone(&self.folder(bot)).await })
    }
}

fn ensure(folder: &Folder, binary: &Path, spec: &CellSpec, seal: Option<&Seal>) -> Result<Ensured, HostError> {
    folder.check_room().context("ask for room")?;
    folder.create(spec.uid).context("make the cell's folder")?;
    let Some(alive) = life::claim(folder).context("claim the cell's place")? else {
        return Ok(Ensured::AlreadyThere);
    };
    folder.remove_socket().context("remove the old socket")?;
    spawn::spawn(folder, binary, spec, seal, alive).context("start the cell")?;
    tracing::info!(bot.id = %spec.bot, "a cell was started");
    Ok(Ensured::Started)
}

/// Bots of which a cell lives, whether or not its folder is still there.
fn in_memory(bots: &Path) -> Vec<BotId> {
    let state = |entry: &str| Some(PathBuf::from(entry.strip_prefix("MOLT_STATE_DIR=")?));
    leftovers::living()
        .into_iter()
        .filter_map(|pid| leftovers::environment(pid).iter().find_map(|entry| state(entry)))
        .filter_map(|state| state.parent()?.strip_prefix(bots).ok()?.to_str()?.parse().ok())
        .collect()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HostError> + Send + 'static,
) -> Result<T, HostError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| anyhow!(error).context("work of the host"))?
}

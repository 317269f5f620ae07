//! The gates: a unix socket per bot of this machine, by which its sealed cell reaches the proxy and nothing else. Who comes
//! through a gate is its bot, so no key is asked for.
//! Never: a gate in a folder that isn't the platform's own, or more connections of one bot than its share.

mod place;
pub(crate) mod serve;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use molt_model::BotId;
use tokio_util::sync::CancellationToken;

use crate::Ghost;
use place::Place;

/// The gates of one data folder. Dropped, it closes them; the next one puts its own in their place.
pub struct Gates {
    ghost: Ghost,
    bots: PathBuf,
    open: Mutex<BTreeMap<BotId, Gate>>,
}

/// One open gate.
struct Gate {
    place: Place,
    stop: CancellationToken,
}

/// What one round found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GatesHeld {
    /// Open now.
    pub open: usize,
    pub opened: usize,
    pub closed: usize,
}

impl Gates {
    /// `data_dir` is the one whose `bots/<bot>/run/out` the gates lie in. Nothing is open before the first round.
    #[must_use]
    pub fn new(ghost: &Ghost, data_dir: &Path) -> Self {
        Self { ghost: ghost.clone(), bots: data_dir.join("bots"), open: Mutex::default() }
    }

    /// Opens a gate for every bot whose folder is here and closes the others. Needs a tokio runtime, which serves them from
    /// then on.
    pub fn run_once(&self) -> io::Result<GatesHeld> {
        let here = self.bots_here()?;
        let mut open = self.open();
        let before = open.len();
        open.retain(|bot, gate| here.contains(bot) && gate.place.is_still_there());
        let mut held = GatesHeld { closed: before - open.len(), ..GatesHeld::default() };
        for bot in here {
            if open.contains_key(&bot) {
                continue;
            }
            match self.open_gate(&bot) {
                Ok(Some(gate)) => {
                    held.opened += 1;
                    open.insert(bot, gate);
                }
                Ok(None) => {}
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(bot.id = %bot, error, "a bot's gate can't be opened; the next round tries again");
                }
            }
        }
        held.open = open.len();
        Ok(held)
    }

    /// Open requests get a moment; new ones find nobody.
    pub fn close(&self) {
        self.open().clear();
    }

    /// `None`: its folder has no room for a gate (any more).
    fn open_gate(&self, bot: &BotId) -> io::Result<Option<Gate>> {
        let Some((place, listener)) = Place::take(&self.bots.join(bot.as_str()).join("run/out"))? else {
            return Ok(None);
        };
        let stop = CancellationToken::new();
        tokio::spawn(serve::accept(self.ghost.clone(), bot.clone(), listener, stop.clone()));
        Ok(Some(Gate { place, stop }))
    }

    fn bots_here(&self) -> io::Result<BTreeSet<BotId>> {
        let entries = match std::fs::read_dir(&self.bots) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
            entries => entries?,
        };
        Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<BotId, Gate>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

//! The usage journal: what was let through and what it used, on disk before the caller has the last byte.
//! Never: a record removed before it is in the books, or a start that trusts the last line of a file to be whole.
//!
//! A record is in the page cache when `write` returns, so it outlives a kill of the process. A power cut can take the
//! last moments with it, as the rows reach Postgres within milliseconds and Postgres syncs them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use molt_model::usage::Estimate;
use molt_model::{BotId, HolderId, KeyId, Price, PriceVersion, RequestId, RunId, Time, TokenUsage, UserId};
use molt_store::usage::SettledCall;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::StartError;

/// Then a new file is begun, so that old ones can go while calls are always in flight. About ten thousand records.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
const FILE_PREFIX: &str = "calls-";
const FILE_SUFFIX: &str = ".jsonl";

/// What is known of a call before it is sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AdmittedCall {
    pub(crate) id: RequestId,
    pub(crate) holder: HolderId,
    pub(crate) period_start: Time,
    pub(crate) user: UserId,
    pub(crate) book_key: Uuid,
    pub(crate) bot: Option<BotId>,
    pub(crate) key: KeyId,
    pub(crate) run: Option<RunId>,
    pub(crate) provider: String,
    pub(crate) model: String,
    pub(crate) surface: String,
    pub(crate) price: Price,
    pub(crate) price_version: PriceVersion,
    pub(crate) input_tokens_estimate: i64,
    pub(crate) at: Time,
}

impl AdmittedCall {
    /// The row of the books for this call.
    pub(crate) fn settled(&self, usage: TokenUsage, estimate: Option<Estimate>) -> SettledCall {
        SettledCall {
            id: self.id,
            holder: self.holder,
            period_start: self.period_start,
            user: self.user,
            book_key: self.book_key,
            bot: self.bot.clone(),
            key: self.key,
            run: self.run,
            provider: self.provider.clone(),
            model: self.model.clone(),
            surface: self.surface.clone(),
            usage,
            reserved_nanos: 0,
            operator_nanos: 0,
            cost_nanos: self.price.charge(&usage).0,
            price_version: self.price_version.clone(),
            estimate,
            first_byte_ms: None,
            duration_ms: 0,
            at: self.at,
        }
    }
}

/// One line of a file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
enum Line {
    Admitted(AdmittedCall),
    /// It is about to leave for the provider. Without this line after its admission, nothing was used.
    Sent {
        id: RequestId,
    },
    /// The provider didn't take it; it may be sent again.
    Returned {
        id: RequestId,
    },
    /// So much of an answer had gone by when this was written.
    Relayed {
        id: RequestId,
        pieces: i64,
    },
    Settled(SettledCall),
    /// No provider took the call: nothing to charge.
    Void {
        id: RequestId,
    },
}

/// The open journal. One process at a time.
pub(crate) struct Journal {
    folder: PathBuf,
    _lock: File,
    state: Mutex<State>,
}

struct State {
    file: File,
    generation: u64,
    bytes: u64,
    /// Calls that aren't in the books yet, and the file in which each was admitted.
    live: HashMap<RequestId, u64>,
    /// Files on disk, the open one included.
    files: BTreeSet<u64>,
}

impl Journal {
    /// Opens the journal and returns what an earlier process left: settled calls as they are, the others as estimates.
    pub(crate) fn open(folder: &Path, now: Time) -> Result<(Self, Vec<SettledCall>), StartError> {
        let shown = folder.display().to_string();
        let failed = |source| StartError::Journal { folder: shown.clone(), source };
        std::fs::create_dir_all(folder).map_err(failed)?;
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).open(folder.join("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StartError::JournalTaken(shown)),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let files = generations(folder).map_err(failed)?;
        let mut left = Left::default();
        for &generation in &files {
            left.read(&path(folder, generation), generation).map_err(failed)?;
        }
        let generation = files.last().map_or(0, |last| last + 1);
        let file = create(folder, generation).map_err(failed)?;
        let live = left.live();
        let calls = left.calls(now);
        let mut state = State { file, generation, bytes: 0, live, files };
        state.files.insert(generation);
        let journal = Self { folder: folder.to_owned(), _lock: lock, state: Mutex::new(state) };
        journal.remove_old(&mut journal.state());
        Ok((journal, calls))
    }

    /// Before the call is sent. An error: the disk doesn't take it, so the call must not go out.
    pub(crate) fn admit(&self, call: &AdmittedCall) -> std::io::Result<()> {
        let mut state = self.state();
        self.append(&mut state, &Line::Admitted(call.clone()))?;
        let generation = state.generation;
        state.live.insert(call.id, generation);
        Ok(())
    }

    /// The connection stands and the next thing to leave is the call.
    pub(crate) fn sent(&self, id: RequestId) -> std::io::Result<()> {
        self.append(&mut self.state(), &Line::Sent { id })
    }

    /// An attempt came to nothing, and another one may follow.
    pub(crate) fn returned(&self, id: RequestId) -> std::io::Result<()> {
        self.append(&mut self.state(), &Line::Returned { id })
    }

    /// While a long answer goes by, so that a restart estimates from what was relayed.
    pub(crate) fn relayed(&self, id: RequestId, pieces: i64) -> std::io::Result<()> {
        self.append(&mut self.state(), &Line::Relayed { id, pieces })
    }

    /// Before the last byte goes to the caller.
    pub(crate) fn settle(&self, call: &SettledCall) -> std::io::Result<()> {
        self.append(&mut self.state(), &Line::Settled(call.clone()))
    }

    /// Nothing was used.
    pub(crate) fn void(&self, id: RequestId) -> std::io::Result<()> {
        let mut state = self.state();
        let written = self.append(&mut state, &Line::Void { id });
        self.forget(&mut state, [id].into_iter());
        written
    }

    /// These are in the books. Files in which nothing else is needed are removed.
    pub(crate) fn booked(&self, ids: impl Iterator<Item = RequestId>) {
        self.forget(&mut self.state(), ids);
    }

    fn forget(&self, state: &mut State, ids: impl Iterator<Item = RequestId>) {
        for id in ids {
            state.live.remove(&id);
        }
        self.remove_old(state);
        if state.live.is_empty() && state.bytes > 0 && state.file.set_len(0).is_ok() {
            state.bytes = 0;
        }
    }

    fn append(&self, state: &mut State, line: &Line) -> std::io::Result<()> {
        if state.bytes > FILE_BYTES_MAX {
            let generation = state.generation + 1;
            state.file = create(&self.folder, generation)?;
            state.files.insert(generation);
            (state.generation, state.bytes) = (generation, 0);
        }
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        state.bytes += text.len() as u64;
        let written = state.file.write_all(&text);
        if written.is_err() {
            // The line may be torn: the next one must not be glued to it.
            state.bytes = u64::MAX;
        }
        written
    }

    /// A call's later records are never in an older file than its admission, so everything before the oldest live
    /// admission can go.
    fn remove_old(&self, state: &mut State) {
        let oldest = state.live.values().min().copied().unwrap_or(state.generation);
        while let Some(&first) = state.files.first().filter(|&&first| first < oldest) {
            if let Err(error) = std::fs::remove_file(path(&self.folder, first)) {
                tracing::warn!(error = &error as &dyn std::error::Error, "an old usage journal can't be removed");
            }
            state.files.remove(&first);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the files of earlier processes say, put together by call.
#[derive(Default)]
struct Left {
    admitted: HashMap<RequestId, (AdmittedCall, u64)>,
    sent: HashSet<RequestId>,
    relayed: HashMap<RequestId, i64>,
    settled: HashMap<RequestId, SettledCall>,
}

impl Left {
    /// A line that can't be read was being written when its process died: nothing after it was promised to anybody.
    fn read(&mut self, path: &Path, generation: u64) -> std::io::Result<()> {
        for line in BufReader::new(File::open(path)?).split(b'\n') {
            match serde_json::from_slice(&line?) {
                Ok(Line::Admitted(call)) => _ = self.admitted.insert(call.id, (call, generation)),
                Ok(Line::Sent { id }) => _ = self.sent.insert(id),
                Ok(Line::Returned { id }) => _ = self.sent.remove(&id),
                Ok(Line::Relayed { id, pieces }) => _ = self.relayed.insert(id, pieces),
                Ok(Line::Settled(call)) => _ = self.settled.insert(call.id, call),
                Ok(Line::Void { id }) => _ = self.admitted.remove(&id),
                Err(_) => tracing::warn!(file = %path.display(), "a torn line of the usage journal is left out"),
            }
        }
        Ok(())
    }

    fn live(&self) -> HashMap<RequestId, u64> {
        let settled =
            self.settled.keys().map(|id| (*id, self.admitted.get(id).map_or(0, |(_, generation)| *generation)));
        let left = self.admitted.iter().filter(|(id, _)| self.sent.contains(id));
        left.map(|(id, (_, generation))| (*id, *generation)).chain(settled).collect()
    }

    fn calls(self, now: Time) -> Vec<SettledCall> {
        let Self { admitted, sent, relayed, mut settled } = self;
        for (id, (call, _)) in admitted.into_iter().filter(|(id, _)| sent.contains(id)) {
            settled.entry(id).or_insert_with(|| {
                let output = relayed.get(&id).copied().unwrap_or(0);
                let usage = TokenUsage { input: call.input_tokens_estimate, output, ..TokenUsage::default() };
                let row = call.settled(usage, Some(Estimate::ProxyRestarted));
                SettledCall { duration_ms: (now - call.at).num_milliseconds().max(0), ..row }
            });
        }
        let mut calls: Vec<_> = settled.into_values().collect();
        calls.sort_by_key(|call| (call.at, call.id));
        calls
    }
}

fn generations(folder: &Path) -> std::io::Result<BTreeSet<u64>> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let number: Option<u64> =
            name.to_str().and_then(|name| name.strip_prefix(FILE_PREFIX)?.strip_suffix(FILE_SUFFIX)?.parse().ok());
        found.extend(number);
    }
    Ok(found)
}

fn path(folder: &Path, generation: u64) -> PathBuf {
    folder.join(format!("{FILE_PREFIX}{generation:08}{FILE_SUFFIX}"))
}

fn create(folder: &Path, generation: u64) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path(folder, generation))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> AdmittedCall {
        AdmittedCall {
            id: RequestId::random(),
            holder: HolderId::random(),
            period_start: Time::UNIX_EPOCH,
            user: UserId::random(),
            book_key: Uuid::new_v4(),
            bot: None,
            key: KeyId::random(),
            run: None,
            provider: "mine".to_owned(),
            model: "mine/model".to_owned(),
            surface: "chat".to_owned(),
            price: Price { input: 1_000_000_000, output: 1_000_000_000, ..Price::default() },
            price_version: PriceVersion("a".to_owned()),
            input_tokens_estimate: 10,
            at: Time::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_restart_charges_for_what_left_and_for_nothing_else() {
        let folder = std::env::temp_dir().join(format!("molt-journal-{}", RequestId::random()));
        let (waiting, away, refused, again) = (call(), call(), call(), call());
        {
            let (journal, left) = Journal::open(&folder, Time::UNIX_EPOCH).unwrap();
            assert!(left.is_empty());
            for call in [&waiting, &away, &refused, &again] {
                journal.admit(call).unwrap();
            }
            for call in [&away, &refused, &again] {
                journal.sent(call.id).unwrap();
            }
            for call in [&refused, &again] {
                journal.returned(call.id).unwrap();
            }
            journal.sent(again.id).unwrap();
            journal.relayed(again.id, 3).unwrap();
        }
        let (_journal, left) = Journal::open(&folder, Time::UNIX_EPOCH).unwrap();
        let mut charged: Vec<_> = left.iter().map(|call| (call.id, call.usage.output)).collect();
        charged.sort();
        let mut expected = vec![(away.id, 0), (again.id, 3)];
        expected.sort();
        assert_eq!(charged, expected);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

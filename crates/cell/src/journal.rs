//! What must survive the cell: accepted messages, how far each came, and the finished frames that the platform hasn't
//! acknowledged. JSON lines, append-only, rewritten when it grew.
//! Never: trust a line to be whole. A torn or foreign line is skipped, because the file dies with the process that
//! writes it and the assistant's tools can reach it.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use molt_bot::{CellSeq, Frame};
use molt_model::clock::Time;
use molt_model::id::{ConversationId, RunId};
use serde::{Deserialize, Serialize};

/// Rewriting costs a read of what is kept; below this it isn't worth it.
const REWRITE_BYTES: u64 = 4 * 1024 * 1024;
/// A platform that never acknowledges must not fill the bot's disk: beyond this, new messages are refused.
const JOURNAL_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// A line holds one frame; longer ones are not ours.
const LINE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How many ended runs are remembered, so that a message that is sent again isn't run again.
const ENDED_MAX: usize = 4096;
/// Positions start at the current second times this, so that they grow even when the newest lines were lost.
const SEQ_PER_SECOND: i64 = 1_000_000;

/// One line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "k", rename_all = "snake_case")]
enum Entry {
    /// Accepted from the platform.
    Send {
        run_id: RunId,
        conversation: ConversationId,
        text: String,
        at: Time,
    },
    /// About to be given to the runtime: from here on it may know the message.
    Given {
        run_id: RunId,
    },
    /// The runtime goes on with the run under another id.
    Resumed {
        run_id: RunId,
        runtime_run: String,
    },
    /// The platform asked for the run's end.
    Abort {
        run_id: RunId,
    },
    Frame {
        frame: Frame,
    },
    Ack {
        cell_seq: CellSeq,
    },
    /// Ended, and its frames are no longer kept.
    Ended {
        run_id: RunId,
    },
}

/// A run without a last frame.
#[derive(Clone, Debug)]
pub struct OpenRun {
    pub run_id: RunId,
    pub conversation: ConversationId,
    pub text: String,
    pub at: Time,
    pub given: bool,
    pub abort: bool,
    /// Ids under which the runtime went on with it.
    pub runtime_runs: Vec<String>,
    /// Its finished frames so far.
    pub frames: Vec<Frame>,
}

/// A finished frame, as it goes over the wire.
#[derive(Clone, Debug)]
pub struct Line {
    pub cell_seq: CellSeq,
    pub run_id: RunId,
    pub json: Arc<str>,
}

/// The open journal.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    bytes: u64,
    next_seq: CellSeq,
    acked: CellSeq,
    /// In order of acceptance.
    open: Vec<OpenRun>,
    ended: VecDeque<RunId>,
    ended_set: HashSet<RunId>,
    lines: VecDeque<Line>,
}

impl Journal {
    /// Reads what is there and goes on behind it. `now` keeps positions growing when lines were lost.
    pub fn open(path: &Path, now: Time) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).read(true).open(path).context("open the journal")?;
        let mut journal = Self {
            path: path.to_owned(),
            file,
            bytes: 0,
            next_seq: 0,
            acked: 0,
            open: Vec::new(),
            ended: VecDeque::new(),
            ended_set: HashSet::new(),
            lines: VecDeque::new(),
        };
        journal.load()?;
        let acked = journal.acked;
        journal.lines.retain(|line| line.cell_seq > acked);
        journal.next_seq = (journal.next_seq + 1).max(now.timestamp() * SEQ_PER_SECOND);
        journal.rewrite()?;
        Ok(journal)
    }

    fn load(&mut self) -> anyhow::Result<()> {
        let mut reader = BufReader::new(self.file.try_clone().context("read the journal")?);
        let mut line = Vec::new();
        loop {
            line.clear();
            if reader.read_until(b'\n', &mut line).context("read the journal")? == 0 {
                return Ok(());
            }
            if line.len() > LINE_BYTES_MAX || line.last() != Some(&b'\n') {
                continue;
            }
            match serde_json::from_slice::<Entry>(&line) {
                Ok(entry) => self.replay(entry),
                Err(_) => tracing::warn!(line_bytes = line.len(), "skipped a damaged line of the journal"),
            }
        }
    }

    fn replay(&mut self, entry: Entry) {
        match entry {
            Entry::Send { run_id, conversation, text, at } => {
                if !self.knows(run_id) {
                    self.open.push(OpenRun::new(run_id, conversation, text, at));
                }
            }
            Entry::Given { run_id } => self.change(run_id, |run| run.given = true),
            Entry::Resumed { run_id, runtime_run } => self.change(run_id, |run| run.runtime_runs.push(runtime_run)),
            Entry::Abort { run_id } => self.change(run_id, |run| run.abort = true),
            Entry::Frame { frame } => {
                if let Some(cell_seq) = frame.cell_seq.filter(|&seq| seq > self.next_seq) {
                    self.next_seq = cell_seq;
                    self.note_frame(frame, cell_seq);
                }
            }
            Entry::Ack { cell_seq } => self.acked = self.acked.max(cell_seq),
            Entry::Ended { run_id } => self.note_ended(run_id),
        }
    }

    fn change(&mut self, run_id: RunId, change: impl FnOnce(&mut OpenRun)) {
        if let Some(run) = self.open.iter_mut().find(|run| run.run_id == run_id) {
            change(run);
        }
    }

    fn note_frame(&mut self, frame: Frame, cell_seq: CellSeq) {
        let run_id = frame.run_id;
        let json = serde_json::to_string(&frame).expect("a frame is always JSON").into();
        self.lines.push_back(Line { cell_seq, run_id, json });
        if frame.event.ends_run() {
            self.note_ended(run_id);
        } else {
            self.change(run_id, |run| run.frames.push(frame));
        }
    }

    fn note_ended(&mut self, run_id: RunId) {
        self.open.retain(|run| run.run_id != run_id);
        if self.ended_set.insert(run_id) {
            self.ended.push_back(run_id);
        }
        while self.ended.len() > ENDED_MAX {
            if let Some(oldest) = self.ended.pop_front() {
                self.ended_set.remove(&oldest);
            }
        }
    }

    /// Runs without a last frame, in order of acceptance.
    #[must_use]
    pub fn open_runs(&self) -> &[OpenRun] {
        &self.open
    }

    /// The run was accepted before (and may have ended since).
    #[must_use]
    pub fn knows(&self, run_id: RunId) -> bool {
        self.has_ended(run_id) || self.open.iter().any(|run| run.run_id == run_id)
    }

    #[must_use]
    pub fn has_ended(&self, run_id: RunId) -> bool {
        self.ended_set.contains(&run_id)
    }

    /// No more room: the platform has to acknowledge first.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.bytes > JOURNAL_BYTES_MAX
    }

    /// Finished frames behind `after`, in order.
    pub fn lines_after(&self, after: CellSeq) -> impl Iterator<Item = &Line> {
        let start = self.lines.partition_point(|line| line.cell_seq <= after);
        self.lines.range(start..)
    }

    /// The newest position given out, or the one before the first.
    #[must_use]
    pub const fn last_seq(&self) -> CellSeq {
        self.next_seq - 1
    }

    /// Accepts a message. On disk (also against a power cut) when this returns.
    pub fn accept(
        &mut self,
        run_id: RunId,
        conversation: ConversationId,
        text: String,
        at: Time,
    ) -> anyhow::Result<()> {
        self.write(&Entry::Send { run_id, conversation: conversation.clone(), text: text.clone(), at })?;
        self.file.sync_data().context("sync the journal")?;
        self.open.push(OpenRun::new(run_id, conversation, text, at));
        Ok(())
    }

    pub fn note_given(&mut self, run_id: RunId) -> anyhow::Result<()> {
        self.write(&Entry::Given { run_id })?;
        self.change(run_id, |run| run.given = true);
        Ok(())
    }

    pub fn note_resumed(&mut self, run_id: RunId, runtime_run: String) -> anyhow::Result<()> {
        self.write(&Entry::Resumed { run_id, runtime_run: runtime_run.clone() })?;
        self.change(run_id, |run| run.runtime_runs.push(runtime_run));
        Ok(())
    }

    pub fn note_abort(&mut self, run_id: RunId) -> anyhow::Result<()> {
        self.write(&Entry::Abort { run_id })?;
        self.change(run_id, |run| run.abort = true);
        Ok(())
    }

    /// Numbers a finished frame and keeps it; returns it as it goes over the wire.
    pub fn append(&mut self, mut frame: Frame) -> anyhow::Result<Arc<str>> {
        let cell_seq = self.next_seq;
        frame.cell_seq = Some(cell_seq);
        self.write(&Entry::Frame { frame: frame.clone() })?;
        self.next_seq += 1;
        self.note_frame(frame, cell_seq);
        Ok(self.lines.back().expect("just added").json.clone())
    }

    /// The platform has everything up to here.
    pub fn ack(&mut self, cell_seq: CellSeq) -> anyhow::Result<()> {
        let cell_seq = cell_seq.min(self.last_seq());
        if cell_seq <= self.acked {
            return Ok(());
        }
        self.write(&Entry::Ack { cell_seq })?;
        self.acked = cell_seq;
        while self.lines.front().is_some_and(|line| line.cell_seq <= cell_seq) {
            self.lines.pop_front();
        }
        if self.bytes > REWRITE_BYTES { self.rewrite() } else { Ok(()) }
    }

    fn write(&mut self, entry: &Entry) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(entry).context("encode a line")?;
        line.push(b'\n');
        // One write per line: a killed process leaves whole lines.
        self.file.write_all(&line).context("write the journal")?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    /// Writes what is still needed into a new file and puts it in the place of the old one.
    fn rewrite(&mut self) -> anyhow::Result<()> {
        let draft = self.path.with_extension("draft");
        let file = File::create(&draft).context("start a new journal")?;
        let mut writer = BufWriter::new(file);
        for entry in self.needed() {
            serde_json::to_writer(&mut writer, &entry).context("write the new journal")?;
            writer.write_all(b"\n").context("write the new journal")?;
        }
        let file = writer.into_inner().context("write the new journal")?;
        file.sync_data().context("sync the new journal")?;
        std::fs::rename(&draft, &self.path).context("replace the journal")?;
        self.file = File::options().append(true).open(&self.path).context("open the new journal")?;
        self.bytes = self.file.metadata().context("measure the journal")?.len();
        Ok(())
    }

    fn needed(&self) -> Vec<Entry> {
        let mut entries: Vec<Entry> = self.ended.iter().map(|&run_id| Entry::Ended { run_id }).collect();
        for run in &self.open {
            let run_id = run.run_id;
            let (conversation, text) = (run.conversation.clone(), run.text.clone());
            entries.push(Entry::Send { run_id, conversation, text, at: run.at });
            entries.extend(run.given.then_some(Entry::Given { run_id }));
            entries.extend(run.abort.then_some(Entry::Abort { run_id }));
            let resumed = run.runtime_runs.iter().cloned();
            entries.extend(resumed.map(|runtime_run| Entry::Resumed { run_id, runtime_run }));
        }
        let mut frames: BTreeMap<CellSeq, Frame> = BTreeMap::new();
        for line in &self.lines {
            if let Ok(frame) = serde_json::from_str(&line.json) {
                frames.insert(line.cell_seq, frame);
            }
        }
        for frame in self.open.iter().flat_map(|run| &run.frames) {
            frames.extend(frame.cell_seq.map(|seq| (seq, frame.clone())));
        }
        entries.extend(frames.into_values().map(|frame| Entry::Frame { frame }));
        entries.push(Entry::Ack { cell_seq: self.acked });
        entries
    }
}

impl OpenRun {
    fn new(run_id: RunId, conversation: ConversationId, text: String, at: Time) -> Self {
        let (given, abort) = (false, false);
        Self { run_id, conversation, text, at, given, abort, runtime_runs: Vec::new(), frames: Vec::new() }
    }
}

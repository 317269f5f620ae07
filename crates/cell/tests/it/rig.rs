//! A cell in a folder of its own, with a model behind it and a platform in front of it.
//! Never: leave a process behind when a test ends, however it ends.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use molt_bot::leftovers::{MARK_VARIABLE, environment, living, mark};
use molt_bot::{
    CellAddress, CellHealth, CellReceiver, CellSender, Client, Event, Frame, FromCell, ModelFacts, Op, Phase,
    RenderInputs, Reply, RunPhase, Text, render,
};
use molt_model::bot::Vertical;
use molt_model::id::{BotId, ConversationId, RunId};
use secrecy::SecretString;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::model::Model;

pub(crate) const TOKEN: &str = "gateway-token";
pub(crate) const GHOST_KEY: &str = "ghost-key";

pub(crate) struct Rig {
    pub(crate) bot: BotId,
    pub(crate) folder: PathBuf,
    pub(crate) model: Model,
    pub(crate) proxy_port: u16,
    proxy: JoinHandle<()>,
    pub(crate) client: Client,
    cell: Option<Child>,
    /// Everything the platform ever heard, in order, deltas too.
    pub(crate) heard: Vec<Frame>,
    pub(crate) last_seq: i64,
}

/// The real runtime needs its time.
pub(crate) fn patience() -> Duration {
    Duration::from_secs(if is_real() { 150 } else { 30 })
}

pub(crate) fn is_real() -> bool {
    std::env::var_os("MOLT_TEST_RUNTIME").is_some()
}

fn runtime_command() -> String {
    if let Ok(command) = std::env::var("MOLT_TEST_RUNTIME") {
        return command;
    }
    let stand_in = cell_program().parent().unwrap().join("examples/molt-stand-in-runtime");
    serde_json::to_string(&[stand_in.to_str().unwrap(), "gateway"]).unwrap()
}

pub(crate) fn cell_program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_molt-cell"))
}

pub(crate) fn inputs() -> RenderInputs {
    let facts = |id: &str| ModelFacts {
        id: id.into(),
        name: id.into(),
        context_window: 128_000,
        max_output: 8192,
        reasoning: false,
        vision: false,
    };
    RenderInputs {
        bot_name: "Pip".into(),
        personality_text: "Plain.".into(),
        timezone: "Europe/Berlin".into(),
        default_model: "practice/practice-1".into(),
        fallback_model: None,
        vertical: Vertical::Developer,
        models: vec![facts("practice/practice-1"), facts("practice/practice-2")],
        embedding_model: "practice/embed-1".into(),
    }
}

impl Rig {
    /// A cell that is ready.
    pub(crate) async fn ready() -> Self {
        let mut rig = Self::prepared().await;
        rig.start();
        rig.wait_for(Phase::Ready).await;
        rig
    }

    pub(crate) async fn prepared() -> Self {
        let bot = BotId::random();
        let folder = std::env::temp_dir().join(format!("cell-{bot}"));
        std::fs::create_dir_all(&folder).unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let proxy_port = listener.local_addr().unwrap().port();
        let model = Model::default();
        let proxy = model.serve(listener);
        let client = Client::new(CellAddress::Unix(folder.join("in/cell.sock")), SecretString::from(TOKEN));
        Self { bot, folder, model, proxy_port, client, proxy, cell: None, heard: Vec::new(), last_seq: 0 }
    }

    /// The platform goes down: nobody listens where model calls go.
    pub(crate) async fn stop_proxy(&mut self) {
        self.proxy.abort();
        (&mut self.proxy).await.ok();
    }

    /// The platform is back at the same place.
    pub(crate) async fn start_proxy(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.proxy_port)).await.unwrap();
        self.proxy = self.model.serve(listener);
    }

    pub(crate) fn command(&self) -> Command {
        self.command_with(&render(&inputs()), 1)
    }

    pub(crate) fn command_with(&self, config: &Value, revision: i64) -> Command {
        let mut command = Command::new(cell_program());
        command
            .env_clear()
            .env("MOLT_BOT_ID", self.bot.as_str())
            .env("MOLT_STATE_DIR", self.state())
            .env("MOLT_LISTEN", self.client.address().to_string())
            .env("MOLT_GATEWAY_TOKEN", TOKEN)
            .env("MOLT_GHOST_KEY", GHOST_KEY)
            .env("MOLT_PROXY_URL", format!("http://127.0.0.1:{}/v1", self.proxy_port))
            .env("CLAWDBOT_CONFIG", config.to_string())
            .env("MOLT_CONFIG_REVISION", revision.to_string())
            .env("MOLT_RUNTIME_COMMAND", runtime_command())
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn start(&mut self) {
        let command = self.command();
        self.start_with(command);
    }

    pub(crate) fn start_with(&mut self, mut command: Command) {
        let log = std::fs::File::options().create(true).append(true).open(self.folder.join("cell.log")).unwrap();
        self.cell = Some(command.stderr(log).spawn().unwrap());
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    pub(crate) fn workspace(&self) -> PathBuf {
        self.state().join("workspace")
    }

    pub(crate) fn cell_pid(&self) -> u32 {
        self.cell.as_ref().unwrap().id()
    }

    /// Ends the cell without warning.
    pub(crate) fn kill_cell(&mut self) {
        let mut cell = self.cell.take().unwrap();
        cell.kill().unwrap();
        cell.wait().unwrap();
    }

    /// Waits for the cell's own end; its exit code.
    pub(crate) async fn wait_for_exit(&mut self) -> Option<i32> {
        let mut cell = self.cell.take().unwrap();
        tokio::task::spawn_blocking(move || cell.wait().unwrap().code()).await.unwrap()
    }

    pub(crate) async fn wait_for(&self, phase: Phase) -> CellHealth {
        self.wait_until(|health| health.phase == phase).await
    }

    pub(crate) async fn wait_until(&self, wanted: impl Fn(&CellHealth) -> bool) -> CellHealth {
        let deadline = Instant::now() + patience();
        loop {
            match self.client.health().await {
                Ok(health) if wanted(&health) => return health,
                other if Instant::now() > deadline => panic!("waited too long; last: {other:?}\n{}", self.logs()),
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    pub(crate) fn logs(&self) -> String {
        let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
        let (cell, runtime) = (read(&self.folder.join("cell.log")), read(&self.state().join("molt/runtime.log")));
        format!("--- cell\n{cell}\n--- runtime\n{runtime}")
    }

    /// Processes of this bot's runtime, found by what they inherited.
    pub(crate) fn runtimes(&self) -> Vec<u32> {
        let wanted = format!("{MARK_VARIABLE}={}", mark(self.bot.as_str(), &self.state()));
        living().into_iter().filter(|&pid| environment(pid).contains(&wanted)).collect()
    }

    pub(crate) async fn open(&self) -> Line {
        Line::split(self.client.stream(self.last_seq).await.unwrap())
    }

    /// Hears frames until `enough`; checks on the way that positions only grow.
    pub(crate) async fn hear(&mut self, line: &mut Line, enough: impl Fn(&[Frame]) -> bool) {
        let deadline = Instant::now() + patience();
        while !enough(&self.heard) {
            let left = deadline.saturating_duration_since(Instant::now());
            let next = tokio::time::timeout(left, line.receiver.next()).await;
            let Ok(next) = next else { panic!("waited too long; heard: {:#?}\n{}", self.heard, self.logs()) };
            match next {
                Ok(Some(FromCell::Frame(frame))) => self.note(frame),
                Ok(Some(FromCell::Reply(reply))) => line.replies.push(reply),
                gone => panic!("the stream ended: {gone:?}\n{}", self.logs()),
            }
        }
    }

    pub(crate) fn note(&mut self, frame: Frame) {
        if let Some(seq) = frame.cell_seq {
            assert!(seq > self.last_seq, "a frame came twice or out of order: {frame:?}");
            self.last_seq = seq;
        }
        self.heard.push(frame);
    }

    pub(crate) async fn send(&mut self, line: &mut Line, conversation: &str, text: &str) -> RunId {
        let run_id = RunId::random();
        self.send_as(line, run_id, conversation, text).await;
        run_id
    }

    pub(crate) async fn send_as(&mut self, line: &mut Line, run_id: RunId, conversation: &str, text: &str) {
        let conversation: ConversationId = conversation.parse().unwrap();
        line.sender.send(&Op::Send { run_id, conversation, text: text.into() }).await.unwrap();
        self.hear_reply(line, |reply| *reply == Reply::Accepted { run_id }).await;
    }

    pub(crate) async fn hear_reply(&mut self, line: &mut Line, wanted: impl Fn(&Reply) -> bool) -> Reply {
        loop {
            if let Some(at) = line.replies.iter().position(&wanted) {
                return line.replies.remove(at);
            }
            match line.receiver.next().await.unwrap().unwrap() {
                FromCell::Frame(frame) => self.note(frame),
                FromCell::Reply(reply) => line.replies.push(reply),
            }
        }
    }

    pub(crate) async fn hear_end(&mut self, line: &mut Line, run_id: RunId) -> RunPhase {
        self.hear(line, |frames| ends(frames, run_id).len() == 1).await;
        ends(&self.heard, run_id)[0]
    }

    pub(crate) fn finished(&self, run_id: RunId) -> Vec<&Event> {
        let frames = self.heard.iter().filter(|frame| frame.run_id == run_id && frame.cell_seq.is_some());
        frames.map(|frame| &frame.event).collect()
    }

    /// The run's finished messages.
    pub(crate) fn said(&self, run_id: RunId) -> Vec<String> {
        let events = self.finished(run_id).into_iter();
        events
            .filter_map(|event| match event {
                Event::Message { text: Text::Done(text), .. } => Some(text.trim().to_owned()),
                _ => None,
            })
            .collect()
    }

    /// What every run must look like when all is over: one end, and it is the last.
    pub(crate) fn check_runs(&self) {
        let mut by_run: HashMap<RunId, Vec<&Event>> = HashMap::new();
        for frame in self.heard.iter().filter(|frame| frame.cell_seq.is_some()) {
            by_run.entry(frame.run_id).or_default().push(&frame.event);
        }
        for (run_id, events) in by_run {
            let ends: Vec<usize> =
                events.iter().enumerate().filter(|(_, event)| event.ends_run()).map(|(at, _)| at).collect();
            assert_eq!(ends, vec![events.len() - 1], "run {run_id}: {events:#?}");
        }
    }
}

pub(crate) fn ends(frames: &[Frame], run_id: RunId) -> Vec<RunPhase> {
    let ends = frames.iter().filter(|frame| frame.run_id == run_id && frame.event.ends_run());
    ends.filter_map(|frame| match frame.event {
        Event::Run { phase, .. } => Some(phase),
        _ => None,
    })
    .collect()
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(mut cell) = self.cell.take() {
            cell.kill().ok();
            cell.wait().ok();
        }
        for pid in self.runtimes() {
            if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
            }
        }
        if !std::thread::panicking() {
            std::fs::remove_dir_all(&self.folder).ok();
        }
    }
}

/// An open stream.
pub(crate) struct Line {
    pub(crate) sender: CellSender,
    pub(crate) receiver: CellReceiver,
    pub(crate) replies: Vec<Reply>,
}

impl Line {
    fn split(stream: molt_bot::CellStream) -> Self {
        let (sender, receiver) = stream.split();
        Self { sender, receiver, replies: Vec::new() }
    }
}

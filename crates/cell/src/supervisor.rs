//! Keeps one runtime alive: starts it, notices when it is ready, joins it, restarts it with back-off, and takes
//! configurations.
//! Never: two runtimes on one state folder, or a runtime that repairs itself on the user's money: one that doesn't come
//! up is killed.

use std::time::{Duration, Instant};

use anyhow::Context;
use molt_bot::{Applied, Phase};
use tokio::sync::{mpsc, oneshot, watch};

use crate::apply::{ApplyError, apply};
use crate::chat::Chat;
use crate::config::Config;
use crate::gateway::{Connected, Gateway, GatewayEvent};
use crate::health::Board;
use crate::layout::Layout;
use crate::process::{Exit, Keeper, sweep, terminate};
use crate::runtime::{Place, Ports, bound_log, spawn};

/// Ready is noticed this soon.
const PROBE_PAUSE: Duration = Duration::from_millis(50);
/// Slow machines were seen to need 48 s.
const BOOT_MAX: Duration = Duration::from_secs(150);
/// A connection that dropped is made again within this time, or the runtime is started anew.
const REJOIN_MAX: Duration = Duration::from_secs(5);
/// A runtime that lived this long was healthy; its end starts the count of failures anew.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);
/// After this many failures in a row somebody is told, and the tries become rare.
const FAILURES_MAX: u32 = 5;
/// Pauses before the next start, by failures in a row.
const BACK_OFF_MS: [u64; 7] = [0, 0, 200, 500, 2_000, 10_000, 30_000];
/// How long the runtime may take to end by itself when the cell is asked to.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// How often the runtime's log is measured.
const LOG_PERIOD: Duration = Duration::from_secs(60);
/// The exit code of a runtime whose configuration doesn't validate.
const EXIT_CONFIG: i32 = 78;

/// A configuration that waits to be applied.
#[derive(Debug)]
pub struct Command {
    pub config: Config,
    pub reply: oneshot::Sender<Result<Applied, ApplyError>>,
}

/// Everything that a life of the runtime needs.
pub struct Supervisor {
    pub layout: Layout,
    pub board: Board,
    pub chat: Chat,
    pub keeper: Keeper,
    pub exits: mpsc::UnboundedReceiver<Exit>,
    pub commands: mpsc::Receiver<Command>,
    pub command: Vec<String>,
    pub ports: Ports,
    pub mark: String,
    pub config: Config,
}

/// Why a life of the runtime ended.
#[derive(Debug)]
enum End {
    Exited(Exit),
    BootTimeout,
    Unjoinable,
    Unexpected(anyhow::Error),
}

impl From<anyhow::Error> for End {
    fn from(error: anyhow::Error) -> Self {
        Self::Unexpected(error)
    }
}

impl Supervisor {
    /// Runs until it is told to stop; then nothing of the runtime is left.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut failures = 0;
        let mut candidate = None;
        loop {
            let begun = Instant::now();
            let end = tokio::select! {
                end = self.life(&mut candidate) => end,
                () = told(&mut stop) => return self.stop().await,
            };
            self.chat.down().await;
            self.sweep().await;
            self.board.exited();
            failures = if begun.elapsed() > HEALTHY_AFTER { 1 } else { failures + 1 };
            self.explain(&end, failures);
            if let Some(Candidate { command, before }) = candidate.take() {
                self.config = before;
                command.reply.send(Err(ApplyError::NotApplied)).ok();
            }
            tokio::select! {
                () = tokio::time::sleep(back_off(failures)) => {}
                command = self.commands.recv() => {
                    let Some(command) = command else { return };
                    candidate = Some(self.try_next(command));
                }
                () = told(&mut stop) => return self.stop().await,
            }
        }
    }

    /// A configuration arrived while no runtime was there to ask: it is the next one to start with, and counts once
    /// that worked.
    fn try_next(&mut self, command: Command) -> Candidate {
        let before = std::mem::replace(&mut self.config, command.config.clone());
        Candidate { command, before }
    }

    fn explain(&self, end: &End, failures: u32) {
        let (code, message) = match end {
            End::Exited(Exit { code: Some(EXIT_CONFIG), .. }) => {
                ("config_invalid", "The assistant doesn't start with its present settings.")
            }
            End::Exited(_) => ("runtime_ended", "The assistant stopped unexpectedly."),
            End::BootTimeout => ("boot_timeout", "The assistant took too long to start."),
            End::Unjoinable => ("runtime_lost", "The assistant stopped answering."),
            End::Unexpected(_) => ("start_failed", "The assistant couldn't be started."),
        };
        match end {
            End::Unexpected(error) => tracing::warn!(failures, error = format!("{error:#}"), "the runtime ended"),
            end => tracing::warn!(failures, ?end, "the runtime ended"),
        }
        self.board.fault(code, message);
        self.board.enter(if failures >= FAILURES_MAX { Phase::Failed } else { Phase::Restarting });
    }

    /// One life of the runtime, from an empty table to its end.
    async fn life(&mut self, candidate: &mut Option<Candidate>) -> End {
        match self.boot(candidate).await {
            Ok((place, pid, connected)) => self.serve(&place, pid, connected).await,
            Err(end) => end,
        }
    }

    async fn boot(&mut self, candidate: &mut Option<Candidate>) -> Result<(Place, u32, Connected), End> {
        self.sweep().await;
        self.config.write_workspace(&self.layout)?;
        self.config.write_runtime_file(&self.layout, self.ports)?;
        let place = Place::find().await?;
        let started = Instant::now();
        let what = spawn(&self.command, &self.layout, &place, self.ports, &self.mark)?;
        let pid = self.keeper.spawn(what).await.context("start the runtime")?;
        self.board.spawned(pid);
        self.board.enter(Phase::Booting);
        self.wait_until_ready(&place, pid, started).await?;
        self.board.enter(Phase::Connecting);
        let connected = join(&place, REJOIN_MAX).await.ok_or(End::Unjoinable)?;
        let boot_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.config.remember(&self.layout)?;
        self.board.booted(boot_ms, connected.version.clone());
        self.board.applied(self.config.applied());
        self.board.enter(Phase::Ready);
        tracing::info!(boot_ms, runtime.pid = pid, "the runtime is ready");
        if let Some(Candidate { command, .. }) = candidate.take() {
            command.reply.send(Ok(self.config.applied())).ok();
        }
        Ok((place, pid, connected))
    }

    async fn wait_until_ready(&mut self, place: &Place, pid: u32, started: Instant) -> Result<(), End> {
        loop {
            tokio::select! {
                exit = exit_of(&mut self.exits, pid) => return Err(End::Exited(exit)),
                ready = place.is_ready() => if ready { return Ok(()) },
            }
            if started.elapsed() > BOOT_MAX {
                return Err(End::BootTimeout);
            }
            tokio::time::sleep(PROBE_PAUSE).await;
        }
    }

    /// Serves a ready runtime until it ends.
    async fn serve(&mut self, place: &Place, pid: u32, connected: Connected) -> End {
        let mut gateway = connected.gateway;
        let mut closed = self.attend(gateway.clone(), connected.events).await;
        let mut log_check = tokio::time::interval(LOG_PERIOD);
        loop {
            tokio::select! {
                exit = exit_of(&mut self.exits, pid) => return End::Exited(exit),
                _ = &mut closed => {
                    self.chat.down().await;
                    self.board.enter(Phase::Connecting);
                    let again = tokio::select! {
                        exit = exit_of(&mut self.exits, pid) => return End::Exited(exit),
                        again = join(place, REJOIN_MAX) => again,
                    };
                    let Some(again) = again else { return End::Unjoinable };
                    self.board.enter(Phase::Ready);
                    gateway = again.gateway;
                    closed = self.attend(gateway.clone(), again.events).await;
                }
                command = self.commands.recv() => {
                    let Some(Command { config, reply }) = command else { continue };
                    let result = apply(&gateway, &self.layout, self.ports, &self.config, &config).await;
                    if let Ok(applied) = &result {
                        self.config = config;
                        self.board.applied(applied.clone());
                    }
                    reply.send(result).ok();
                }
                _ = log_check.tick() => bound_log(&self.layout),
            }
        }
    }

    /// Lets the chat hear the runtime; the receiver tells when the connection is gone.
    async fn attend(&self, gateway: Gateway, mut events: mpsc::Receiver<GatewayEvent>) -> oneshot::Receiver<()> {
        self.chat.up(gateway).await;
        let (gone, closed) = oneshot::channel();
        let chat = self.chat.clone();
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                chat.event(event).await;
            }
            gone.send(()).ok();
        });
        closed
    }

    async fn stop(mut self) {
        if let Some(pid) = self.board.read().runtime_pid {
            terminate(pid);
            if tokio::time::timeout(STOP_GRACE, exit_of(&mut self.exits, pid)).await.is_err() {
                tracing::warn!(runtime.pid = pid, "the runtime didn't stop in time and is killed");
            }
        }
        self.sweep().await;
    }

    /// Ends whatever is left of a runtime of this bot.
    async fn sweep(&self) {
        let mark = self.mark.clone();
        match tokio::task::spawn_blocking(move || sweep(&mark)).await {
            Ok(0) | Err(_) => {}
            Ok(ended) => tracing::info!(ended, "ended leftover processes of the runtime"),
        }
    }
}

/// A configuration that is tried at a start, and the one before it.
struct Candidate {
    command: Command,
    before: Config,
}

/// Waits until the cell is to stop (or nobody is left to say so).
async fn told(stop: &mut watch::Receiver<bool>) {
    stop.wait_for(|stop| *stop).await.ok();
}

async fn join(place: &Place, patience: Duration) -> Option<Connected> {
    let deadline = Instant::now() + patience;
    loop {
        match Gateway::connect(place.port, &place.token).await {
            Ok(connected) => return Some(connected),
            Err(error) if Instant::now() > deadline => {
                tracing::warn!(%error, "the runtime can't be joined");
                return None;
            }
            Err(_) => tokio::time::sleep(PROBE_PAUSE).await,
        }
    }
}

async fn exit_of(exits: &mut mpsc::UnboundedReceiver<Exit>, pid: u32) -> Exit {
    loop {
        match exits.recv().await {
            Some(exit) if exit.pid == pid => return exit,
            Some(_) => {}
            // The reaper never ends before the cell does.
            None => std::future::pending().await,
        }
    }
}

fn back_off(failures: u32) -> Duration {
    let at = usize::try_from(failures).unwrap_or(usize::MAX).min(BACK_OFF_MS.len() - 1);
    Duration::from_millis(BACK_OFF_MS[at])
}

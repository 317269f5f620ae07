//! Keeps one runtime alive: starts it, notices when it is ready, joins it, restarts it with back-off, and takes
//! configurations.
//! Never: two runtimes on one state folder, or a runtime that repairs itself on the user's money: one that doesn't come
//! up is killed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::FutureExt;
use molt_bot::{Applied, Phase, Revision};
use tokio::sync::{Notify, mpsc, oneshot, watch};

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
/// With a configuration that is on trial, while somebody waits for the answer.
const TRIAL_MAX: Duration = Duration::from_secs(90);
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
/// A runtime that dropped its connection because it ended is known to have ended this soon.
const EXIT_NOTICE: Duration = Duration::from_millis(500);
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
    /// Notified when the runtime is to start anew.
    pub restart: Arc<Notify>,
    pub command: Vec<String>,
    pub ports: Ports,
    pub mark: String,
    pub config: Config,
    /// A runtime came up with `config` in this process.
    pub worked: bool,
    /// No runtime came up with this revision, and one did with the one before.
    pub broken: Option<Revision>,
}

/// Why a life of the runtime ended.
#[derive(Debug)]
enum End {
    Exited(Exit),
    BootTimeout,
    Unjoinable,
    /// The platform wants a fresh one.
    Asked,
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
            let tried = candidate.is_some();
            let restart = self.restart.clone();
            // What was asked for before this life began comes with it.
            restart.notified().now_or_never();
            let end = tokio::select! {
                end = self.life(&mut candidate) => end,
                () = restart.notified() => End::Asked,
                () = told(&mut stop) => return self.stop().await,
            };
            self.chat.down().await;
            if matches!(end, End::Asked) {
                self.end_gently().await;
            }
            self.sweep().await;
            self.board.exited(match end {
                End::Asked => self.board.read().phase != Phase::Ready,
                // With a change on trial, or when it was given one: that is to blame.
                _ => candidate.is_none(),
            });
            failures = match end {
                End::Asked => 0,
                _ if begun.elapsed() > HEALTHY_AFTER => 1,
                _ => failures + 1,
            };
            self.explain(&end, failures);
            // One that arrived in this life, and ended it, is tried in the next.
            if tried && let Some(candidate) = candidate.take() {
                self.go_back(candidate, &end);
            }
            tokio::select! {
                () = tokio::time::sleep(back_off(failures)) => {}
                command = self.commands.recv(), if candidate.is_none() => {
                    let Some(command) = command else { return };
                    candidate = self.worth_a_try(command).map(|command| self.try_next(command));
                }
                () = told(&mut stop) => return self.stop().await,
            }
        }
    }

    /// A configuration arrived while no runtime was there to ask, or ended the one that was: it is the next one to start
    /// with, and counts once that worked.
    fn try_next(&mut self, command: Command) -> Candidate {
        let before = std::mem::replace(&mut self.config, command.config.clone());
        Candidate { command, before }
    }

    /// No runtime came up with the candidate: the configuration before it is back.
    fn go_back(&mut self, candidate: Candidate, end: &End) {
        let Candidate { command, before } = candidate;
        self.config = before;
        let came_down = matches!(end, End::Exited(_) | End::BootTimeout | End::Unjoinable);
        // Where nothing ever came up, the fault may be anything's.
        let breaks = came_down && self.worked;
        self.broken = breaks.then_some(command.config.revision);
        let fault = if breaks { ApplyError::Breaks } else { ApplyError::NotApplied };
        tracing::warn!(revision = command.config.revision, "the runtime didn't come up with a new configuration");
        command.reply.send(Err(fault)).ok();
    }

    fn explain(&self, end: &End, failures: u32) {
        if matches!(end, End::Asked) {
            tracing::info!("the runtime starts anew, as the platform asked");
            return self.board.enter(Phase::Restarting);
        }
        let (code, message) = match end {
            End::Exited(Exit { code: Some(EXIT_CONFIG), .. }) => {
                ("config_invalid", "The assistant doesn't start with its present settings.")
            }
            End::Exited(_) | End::Asked => ("runtime_ended", "The assistant stopped unexpectedly."),
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
            Ok((place, pid, connected)) => self.serve(&place, pid, connected, candidate).await,
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
        let limit = if candidate.is_some() && self.worked { TRIAL_MAX } else { BOOT_MAX };
        self.wait_until_ready(&place, pid, started, limit).await?;
        self.board.enter(Phase::Connecting);
        let connected = join(&place, REJOIN_MAX).await.ok_or(End::Unjoinable)?;
        let boot_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.config.remember(&self.layout)?;
        self.worked = true;
        self.board.booted(boot_ms, connected.version.clone());
        self.board.applied(self.config.applied());
        self.board.enter(Phase::Ready);
        tracing::info!(boot_ms, runtime.pid = pid, "the runtime is ready");
        if let Some(Candidate { command, .. }) = candidate.take() {
            command.reply.send(Ok(self.config.applied())).ok();
        }
        Ok((place, pid, connected))
    }

    async fn wait_until_ready(
        &mut self,
        place: &Place,
        pid: u32,
        started: Instant,
        limit: Duration,
    ) -> Result<(), End> {
        loop {
            tokio::select! {
                exit = exit_of(&mut self.exits, pid) => return Err(End::Exited(exit)),
                ready = place.is_ready() => if ready { return Ok(()) },
            }
            if started.elapsed() > limit {
                return Err(End::BootTimeout);
            }
            tokio::time::sleep(PROBE_PAUSE).await;
        }
    }

    /// Serves a ready runtime until it ends.
    async fn serve(&mut self, place: &Place, pid: u32, connected: Connected, candidate: &mut Option<Candidate>) -> End {
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
                    let Some(command) = command.and_then(|command| self.worth_a_try(command)) else { continue };
                    let result = apply(&gateway, &self.layout, self.ports, &self.config, &command.config).await;
                    if let Ok(applied) = &result {
                        self.config = command.config;
                        self.board.applied(applied.clone());
                    } else if let Some(end) = self.lost_on(&result, place, pid).await {
                        *candidate = Some(self.try_next(command));
                        return end;
                    }
                    command.reply.send(result).ok();
                }
                _ = log_check.tick() => bound_log(&self.layout),
            }
        }
    }

    /// Whether the runtime ended, or can't be reached any more, when it was given a configuration. Whether because of it, the
    /// next start shows.
    async fn lost_on(&mut self, result: &Result<Applied, ApplyError>, place: &Place, pid: u32) -> Option<End> {
        if !matches!(result, Err(ApplyError::NotApplied)) {
            return None;
        }
        if let Ok(exit) = tokio::time::timeout(EXIT_NOTICE, exit_of(&mut self.exits, pid)).await {
            return Some(End::Exited(exit));
        }
        tokio::select! {
            exit = exit_of(&mut self.exits, pid) => Some(End::Exited(exit)),
            joined = join(place, REJOIN_MAX) => joined.is_none().then_some(End::Unjoinable),
        }
    }

    /// The same configuration isn't tried twice when no runtime came up with it.
    fn worth_a_try(&self, command: Command) -> Option<Command> {
        if self.broken != Some(command.config.revision) {
            return Some(command);
        }
        command.reply.send(Err(ApplyError::Breaks)).ok();
        None
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
        self.end_gently().await;
        self.sweep().await;
    }

    async fn end_gently(&mut self) {
        if let Some(pid) = self.board.read().runtime_pid {
            terminate(pid);
            if tokio::time::timeout(STOP_GRACE, exit_of(&mut self.exits, pid)).await.is_err() {
                tracing::warn!(runtime.pid = pid, "the runtime didn't stop in time and is killed");
            }
        }
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

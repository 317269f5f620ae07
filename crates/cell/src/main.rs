//! Starts the cell: reads its environment once, hides it, takes the lock, opens the door, keeps the runtime alive.
//! Never: start anything before the lock is held.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use chrono::Utc;
use molt_cell::chat::Chat;
use molt_cell::config::Config;
use molt_cell::environment::{Environment, ProxyAddress};
use molt_cell::forward::Forwarder;
use molt_cell::health::Board;
use molt_cell::http::{Door, Listener, bind_early, serve};
use molt_cell::isolate::{self, Outside};
use molt_cell::journal::Journal;
use molt_cell::layout::Layout;
use molt_cell::lock::{CellLock, LockError};
use molt_cell::outlet::{self, Way};
use molt_cell::process::{HOLD_ARGUMENT, Keeper, hold};
use molt_cell::proxy::Proxy;
use molt_cell::runtime::Ports;
use molt_cell::supervisor::Supervisor;
use molt_cell::traces::Traces;
use rustix::process::{DumpableBehavior, Signal};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};

/// Another cell holds the lock: a temporary failure to the host, which may try again (EX_TEMPFAIL).
const EXIT_LOCKED: u8 = 75;
/// The environment isn't valid; trying again doesn't help (EX_CONFIG).
const EXIT_ENVIRONMENT: u8 = 78;
/// Configurations that wait for the one before.
const COMMANDS_MAX: usize = 16;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, parent, command @ ..] = arguments.as_slice()
        && first == HOLD_ARGUMENT
    {
        let error = hold(parent, command);
        eprintln!("molt-cell: {error:#}");
        return ExitCode::FAILURE;
    }
    let environment = match Environment::of_this_process() {
        Ok(environment) => environment,
        Err(error) => {
            eprintln!("molt-cell: {error}");
            return ExitCode::from(EXIT_ENVIRONMENT);
        }
    };
    let apart = match environment.isolate.then(|| set_apart(&environment)).transpose() {
        Ok(apart) => apart,
        Err(error) => {
            eprintln!("molt-cell: {error:#}");
            return ExitCode::from(EXIT_ENVIRONMENT);
        }
    };
    // From here on nobody but root can read this process's memory and environment through /proc.
    if let Err(error) = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        eprintln!("molt-cell: can't protect its secrets: {error}");
        return ExitCode::FAILURE;
    }
    if environment.dies_with_parent
        && let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
    {
        eprintln!("molt-cell: can't tie itself to its keeper: {error}");
        return ExitCode::FAILURE;
    }
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).with_max_level(tracing::Level::INFO).init();
    match start(environment, apart) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if let Some(LockError::Taken) = error.downcast_ref() {
                eprintln!("molt-cell: {error}");
                return ExitCode::from(EXIT_LOCKED);
            }
            tracing::error!(error = format!("{error:#}"), "the cell ends");
            ExitCode::FAILURE
        }
    }
}

/// The door, opened in the network that is left, and the way back to it.
type Apart = (std::net::TcpListener, Outside);

fn set_apart(environment: &Environment) -> anyhow::Result<Apart> {
    let listener = bind_early(&environment.listen)?;
    Ok((listener, isolate::enter(&environment.state_dir)?))
}

fn start(environment: Environment, apart: Option<Apart>) -> anyhow::Result<()> {
    let layout = Layout::create(&environment.state_dir).context("make the state folder")?;
    let _lock = CellLock::take(&layout.lock())?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("start tokio")?;
    runtime.block_on(live(environment, layout, apart))
}

async fn live(environment: Environment, layout: Layout, apart: Option<Apart>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let (listener, outside) = match apart {
        Some((listener, outside)) => (Listener::Tcp(tokio::net::TcpListener::from_std(listener)?), Some(outside)),
        None => (Listener::bind(&environment.listen).await?, None),
    };
    let board = Board::new(environment.bot_id.clone());
    let traces = Traces::default();
    let journal = Journal::open(&layout.journal(), Utc::now())?;
    let (chat, mut chat_failed) = Chat::start(journal, traces.clone());
    let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
    let restart = Arc::new(Notify::new());
    let token = environment.gateway_token;
    let door = Door { token, board: board.clone(), chat: chat.clone(), commands, restart: restart.clone() };
    let mut door = tokio::spawn(serve(listener, door));

    let proxy = Proxy::new(environment.proxy, outside)?;
    let way = match (proxy.address(), environment.egress_key) {
        (ProxyAddress::Unix { .. }, _) => Some(Way::Gate),
        (_, Some(egress_key)) => Some(Way::Door { ghost_key: environment.ghost_key.clone(), egress_key }),
        (_, None) => None,
    };
    let world = match way {
        Some(way) => Some(outlet::start(proxy.clone(), way).await?),
        None => None,
    };
    let forwarder = Forwarder::new(proxy, environment.ghost_key, traces);
    let ports = Ports { models: forwarder.start(&layout.forwarder_port()).await?, world };
    let from_host = Config { revision: environment.revision, body: environment.config };
    let config = Config::newest(&layout, from_host);
    let (keeper, exits) = Keeper::start()?;
    let (command, mark) = (environment.runtime_command, environment.mark);
    let supervisor = Supervisor {
        layout,
        board,
        chat,
        keeper,
        exits,
        commands: inbox,
        restart,
        command,
        ports,
        mark,
        config,
        worked: false,
        broken: None,
    };
    let (stop, stopped) = watch::channel(false);
    let mut supervisor = tokio::spawn(supervisor.run(stopped));

    let end = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        error = &mut chat_failed => Err(error.unwrap_or_else(|_| anyhow::anyhow!("the chat is gone"))),
        result = &mut door => Err(result.context("the door is gone")?.err().context("the door closed")?),
        result = &mut supervisor => return result.context("the supervisor is gone"),
    };
    stop.send(true).ok();
    supervisor.await.context("stop the runtime")?;
    end
}

//! `molt dev`: the whole stack on one machine, from nothing.
//! Never: a question, an account or a network that isn't needed; and nothing left running after Ctrl-C.

use std::io::{IsTerminal, Write, stdin, stdout};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use molt_fleet::{RuntimeState, cell_users, look_at_seal};
use molt_identity::SignUp;
use molt_model::SystemClock;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, ProviderKind};
use crate::data::DataDir;
use crate::database::{self, Database};
use crate::hosts::{HostKind, Parts};
use crate::prices::Prices;
use crate::screen::Screen;
use crate::signal::Stop;
use crate::wire::{Platform, Roles};
use crate::{hosts, http, log};

/// What the person asked for besides the settings.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wishes {
    /// Forget everything first.
    pub reset: bool,
    /// Don't ask whether that is meant.
    pub yes: bool,
}

/// Runs until somebody asks it to stop.
pub async fn run(config: Config, wishes: Wishes, screen: Screen) -> anyhow::Result<()> {
    let begun = Instant::now();
    screen.title("Molt");
    let data = DataDir::claim(&config.data_dir)?;
    if wishes.reset {
        reset(&config, &data, wishes.yes, &screen).await?;
    }
    log::to_file(&config.log, &data.log())?;
    config.offer.warnings().iter().for_each(|warning| screen.note(warning));
    let (mut first, mut second) = (Stop::listen()?, Stop::listen()?);
    tokio::select! {
        done = live(&config, &data, &screen, begun, &mut first) => done,
        () = second.twice() => {
            screen.note("Stopped at once. What still runs is taken over or ended by the next start.");
            std::process::exit(130);
        }
    }
}

async fn live(config: &Config, data: &DataDir, screen: &Screen, begun: Instant, stop: &mut Stop) -> anyhow::Result<()> {
    let listener = http::bind(config.listen, "--listen").await?;
    let operator = http::bind(config.operator_listen, "operator_listen (MOLT_OPERATOR_LISTEN)").await?;
    let bound = listener.local_addr()?;
    screen.changing("Starting Postgres");
    let opened = tokio::select! {
        opened = Database::open(config, data, screen) => opened?,
        () = stop.asked() => {
            database::stop(data).await;
            return Ok(());
        }
    };
    screen.good(&opened.sentence);
    let done = serve(config, data, screen, &opened, (listener, operator), begun, stop).await;
    opened.close().await;
    if done.is_ok() {
        screen.good(&format!("Stopped. Everything is kept in {}", data.root().display()));
    }
    tracing::info!(listen = %bound, "stopped");
    done
}

/// From an open database to the end.
async fn serve(
    config: &Config,
    data: &DataDir,
    screen: &Screen,
    database: &Database,
    listeners: (TcpListener, TcpListener),
    begun: Instant,
    stop: &mut Stop,
) -> anyhow::Result<()> {
    let (listener, operator) = listeners;
    let bound = listener.local_addr()?;
    let store = database.store(data.seal_key_or_new(config)?).await?;
    let (parts, installing) = Parts::prepare(config, data, &store).await?;
    let runtime = parts.runtime.clone();
    let prices = Prices::open(&config.offer, true, store.clone(), Arc::new(SystemClock)).await?;
    let platform = Platform::start(config, Roles::ALL, bound, store, &prices, data.root().to_owned(), Some(parts))?;
    let stopping = CancellationToken::new();
    let public = http::serve(listener, platform.router.clone(), stopping.clone());
    let fleet = platform.fleet.as_ref().map(|_| platform.store.clone());
    let router = http::operator_router(platform.tasks.clone(), platform.ready.clone(), platform.ghost.clone(), fleet);
    let private = http::serve(operator, router, stopping.clone());
    greet(config, screen, bound, data, begun);
    tracing::info!(listen = %bound, "ready");

    tokio::select! {
        () = watch_runtime(runtime, screen) => stop.asked().await,
        () = stop.asked() => {}
    }
    screen.gap();
    screen.changing("Stopping the assistants, then Postgres (Ctrl-C again: at once)");
    installing.abort();
    let unlisten = async {
        stopping.cancel();
        let _ = tokio::join!(public, private);
    };
    platform.stop(unlisten).await;
    Ok(())
}

/// Shows how the installation goes; ends when the runtime is there.
async fn watch_runtime(mut runtime: watch::Receiver<RuntimeState>, screen: &Screen) {
    let mut failed = false;
    let mut fetched = false;
    loop {
        match runtime.borrow_and_update().clone() {
            RuntimeState::Installing { percent: 0, .. } => {}
            RuntimeState::Installing { percent, sentence } => {
                fetched = true;
                screen.changing(&format!("{sentence}: {percent} %"));
            }
            RuntimeState::Ready { .. } if failed || fetched => return screen.good("OpenClaw is here"),
            RuntimeState::Ready { .. } => return,
            RuntimeState::Failed { sentence } => {
                failed = true;
                screen.note(&sentence);
            }
        }
        if runtime.changed().await.is_err() {
            return;
        }
    }
}

fn greet(config: &Config, screen: &Screen, bound: SocketAddr, data: &DataDir, begun: Instant) {
    let real: Vec<&str> =
        config.offer.providers().filter(|p| p.kind != ProviderKind::Practice).map(|p| &*p.name).collect();
    let models = match real.as_slice() {
        [] => "Models: the built-in practice model. Set OPENAI_API_KEY or VENICE_API_KEY for real ones".to_owned(),
        names => format!("Models: {}", names.join(", ")),
    };
    screen.good(&models);
    match config.fleet.host {
        HostKind::Docker => screen.good("Assistants live in sealed containers of this machine's Docker engine"),
        HostKind::Fly => screen.good("Assistants live on machines at Fly"),
        HostKind::Process => greet_processes(config, screen),
    }
    screen.good(&format!("Ready in {:.1} s", begun.elapsed().as_secs_f64()));
    screen.gap();
    screen.fact("Open", config.public_url(bound).as_str());
    screen.fact("Data", &data.root().display().to_string());
    screen.fact("Log", &data.log().display().to_string());
    screen.fact("Stop", "Ctrl-C");
    if config.signup != SignUp::Open {
        screen.fact("Invite", "molt invite");
    }
    screen.gap();
}

fn greet_processes(config: &Config, screen: &Screen) {
    let seal = look_at_seal(&config.fleet.sealing(Some(Arc::default())), cell_users().as_ref());
    match (seal.sealed, seal.missing.as_slice()) {
        (true, []) => screen.good("Assistants are sealed off from this machine and from each other"),
        (true, missing) => screen.note(&format!("Assistants are sealed off, but {}", missing.join("; "))),
        (false, missing) => screen.note(&format!("Assistants are not sealed off: {}", missing.join("; "))),
    }
    if cell_users().is_none() {
        screen.note("Assistants run as your own user here. For a user each, start molt as root");
    }
}

/// Stops what an earlier run left, then forgets all but the downloads.
async fn reset(config: &Config, data: &DataDir, yes: bool, screen: &Screen) -> anyhow::Result<()> {
    if config.database_url.is_some() {
        bail!("--reset only clears a private database; empty the one in DATABASE_URL yourself, or unset the variable");
    }
    if !yes {
        let question =
            format!("This deletes every account, assistant and memory in {}. Go on? [y/N] ", data.root().display());
        if !confirmed(&question)? {
            bail!("nothing was changed");
        }
    }
    if let Some(host) = hosts::existing(config, data.root())? {
        for bot in host.list().await? {
            host.stop(&bot, true).await.with_context(|| format!("the assistant {bot} could not be removed"))?;
        }
    }
    database::forget(&data.postgres()).await?;
    data.clear()?;
    screen.good("Cleared");
    Ok(())
}

fn confirmed(question: &str) -> anyhow::Result<bool> {
    if !stdin().is_terminal() {
        bail!("--reset asks before it deletes; add --yes where nobody can answer");
    }
    print!("  {question}");
    stdout().flush()?;
    let mut answer = String::new();
    stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

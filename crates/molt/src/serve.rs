//! The roles of a larger installation, one process each, on a database that was named.
//! Never: a private Postgres, or a migration that nobody asked for.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use molt_fleet::{FlySettings, RuntimeState};
use molt_ghost::{Listeners, Server};
use molt_model::SystemClock;
use molt_store::Store;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::data::DataDir;
use crate::prices::Prices;
use crate::signal::Stop;
use crate::wire::{FleetParts, Platform, Roles};
use crate::{http, install, wire};

/// Runs the roles until somebody asks this process to stop.
pub async fn run(config: Config, roles: Roles) -> anyhow::Result<()> {
    let url = config.database_url.clone().context("set DATABASE_URL; only `molt dev` runs a Postgres of its own")?;
    let mut stop = Stop::listen()?;
    // Two processes of one folder would write one journal and keep the same cells. The API alone keeps nothing there.
    let data =
        if roles.proxy || roles.fleet { DataDir::claim(&config.data_dir)? } else { DataDir::look(&config.data_dir) };
    let listener = Listener::bind(&config, roles).await?;
    let operator = http::bind(config.operator_listen, "operator_listen (MOLT_OPERATOR_LISTEN)").await?;
    let bound = listener.address()?;
    let store = Store::connect(&url, data.seal_key(&config)?).await.context(
        "the database in DATABASE_URL can't be reached, or `molt migrate` has not run there; check the address",
    )?;
    let fleet = match roles.fleet {
        true => Some(fleet_parts(&config, &data, wire::fly_of(&config, &store).await?)?),
        false => None,
    };
    let prices = Prices::open(&config.offer, roles.proxy, store.clone(), Arc::new(SystemClock)).await?;
    let platform = Platform::start(&config, roles, bound, store, &prices, data.root().to_owned(), fleet)?;
    let stopping = CancellationToken::new();
    let router = http::operator_router(platform.tasks.clone(), platform.ready.clone(), platform.ghost.clone());
    let private = http::serve(operator, router, stopping.clone());
    let public = listener.serve(&platform, stopping.clone())?;
    tracing::info!(listen = %bound, "ready");
    stop.asked().await;
    tracing::info!("stopping");
    let unlisten = async {
        stopping.cancel();
        let _ = private.await;
        let _ = public.await;
    };
    tokio::select! {
        () = platform.stop(unlisten) => {}
        () = stop.asked() => tracing::warn!("stopped at once; the next start takes up what was left"),
    }
    Ok(())
}

/// What the world reaches of this process.
enum Listener {
    /// The fleet has no public listener, and takes the address all the same: two of one installation are noticed.
    None(TcpListener),
    /// API and app, and the proxy among them if it runs here too.
    Pages(TcpListener),
    /// The proxy alone.
    Proxy(Listeners),
}

impl Listener {
    async fn bind(config: &Config, roles: Roles) -> anyhow::Result<Self> {
        let option = "--listen";
        Ok(match roles {
            Roles { serve: true, .. } => Self::Pages(http::bind(config.listen, option).await?),
            Roles { proxy: true, .. } => Self::Proxy(http::bind_proxy(config.listen, option)?),
            _ => Self::None(http::bind(config.listen, option).await?),
        })
    }

    fn address(&self) -> std::io::Result<SocketAddr> {
        match self {
            Self::None(listener) | Self::Pages(listener) => listener.local_addr(),
            Self::Proxy(listeners) => Ok(listeners.address()),
        }
    }

    fn serve(self, platform: &Platform, stopping: CancellationToken) -> anyhow::Result<JoinHandle<()>> {
        Ok(match (self, &platform.ghost) {
            (Self::Pages(listener), _) => http::serve(listener, platform.router.clone(), stopping),
            (Self::Proxy(listeners), Some(ghost)) => {
                let server = Server::start(ghost, listeners).context("the proxy can't listen")?;
                tokio::spawn(async move {
                    stopping.cancelled().await;
                    server.stop().await;
                })
            }
            (Self::None(_) | Self::Proxy(_), _) => tokio::spawn(async {}),
        })
    }
}

fn fleet_parts(config: &Config, data: &DataDir, fly: Option<FlySettings>) -> anyhow::Result<FleetParts> {
    let own = config.runtime.command.clone();
    // An image brings its runtime along.
    let ready = !own.is_empty() || fly.is_some();
    let (sender, runtime) =
        watch::channel(if ready { RuntimeState::Ready { command: own } } else { install::before() });
    let sender = Arc::new(sender);
    let folder = data.packages();
    tokio::spawn(async move {
        if !ready {
            install::runtime(folder, &sender).await;
        }
        sender.closed().await;
    });
    Ok(FleetParts {
        data_dir: data.root().to_owned(),
        cell_binary: wire::cell_program(config, fly.as_ref(), data)?,
        runtime,
        fly,
    })
}

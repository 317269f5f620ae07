//! A host whose fleet can be killed at every point, and what there is on it, seen by other means than the host's own.
//! Never: an answer of the host under test taken for what there is.

use std::sync::Arc;
use std::time::Duration;

use molt_bot::CellAddress;
use molt_fleet::Host;
use molt_model::BotId;
use tokio::net::TcpListener;

use crate::simulated::{Rules, Simulated, SimulatedHost, serve_cells};

/// From a cell's start until its runtime is ready.
pub(crate) const BOOT: Duration = Duration::from_millis(30);

pub(crate) trait Scene {
    /// The host as a program that was just started finds it.
    fn host(&self) -> Arc<dyn Host>;

    /// The cells, and the fuse.
    fn cells(&self) -> &Arc<Simulated>;

    /// A bot's volume; one that was lost and made again is another one.
    fn volume(&self, bot: &BotId) -> Option<String>;

    /// A name for each machine that lives, and for each thing that keeps a bot's state: the bot's own, or what is odd.
    fn holds(&self) -> (Vec<String>, Vec<String>);
}

/// The host in memory.
pub(crate) struct InMemory {
    host: Arc<Simulated>,
    cells: tokio::task::AbortHandle,
}

impl InMemory {
    pub(crate) async fn set() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = CellAddress::Tcp(listener.local_addr().unwrap().to_string());
        let host = Simulated::new(Rules { boot: BOOT, ..Rules::default() }, address);
        let cells = tokio::spawn(serve_cells(listener, host.clone())).abort_handle();
        Self { host, cells }
    }
}

impl Drop for InMemory {
    fn drop(&mut self) {
        self.cells.abort();
    }
}

impl Scene for InMemory {
    fn host(&self) -> Arc<dyn Host> {
        Arc::new(SimulatedHost(self.host.clone()))
    }

    fn cells(&self) -> &Arc<Simulated> {
        &self.host
    }

    fn volume(&self, bot: &BotId) -> Option<String> {
        self.host.volume(bot).map(|volume| format!("{volume:?}"))
    }

    fn holds(&self) -> (Vec<String>, Vec<String>) {
        let names = |bots: Vec<BotId>| bots.iter().map(|bot| bot.as_str().to_owned()).collect();
        let (machines, volumes) = self.host.holds();
        (names(machines), names(volumes))
    }
}

//! Many bots on a simulated host that is slow, fails and has a limit: all come up, what hangs delays nobody, and an outage of the
//! host ends without hammering it. The whole of it, with ten thousand, is `crates/fleet/tests/bench/fleet.rs`.

use std::sync::Arc;
use std::time::Duration;

use molt_bot::CellAddress;
use molt_fleet::{Fleet, Pace, Paced};
use molt_model::{BotId, Clock, Intent};
use tokio::net::TcpListener;

use crate::simulated::{Rules, Simulated, SimulatedHost, serve_cells};
use crate::stage::Stage;

const BOTS: usize = 150;
const PACE: Pace = Pace { calls_per_second: 400, burst: 40 };
const RULES: Rules = Rules {
    latency: Duration::from_millis(5),
    faults: 50,
    calls_per_second: 500,
    boot: Duration::from_millis(200),
    ahead: false,
};

async fn cast(rules: Rules) -> (Stage, Arc<Simulated>, Fleet) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = CellAddress::Tcp(listener.local_addr().unwrap().to_string());
    let host = Simulated::new(rules, address);
    tokio::spawn(serve_cells(listener, host.clone()));
    let stage = Stage::new().await;
    let clock: Arc<dyn Clock> = Arc::new(stage.clock.clone());
    let paced = Arc::new(Paced::new(SimulatedHost(host.clone()), PACE));
    let fleet = Fleet::new(stage.config(), stage.database.store.clone(), clock, paced, stage.runtime.subscribe());
    (stage, host, fleet)
}

async fn bots(stage: &Stage, count: usize) -> Vec<BotId> {
    let mut bots = Vec::new();
    for _ in 0..count {
        bots.push(stage.bot(Intent::Running).await);
    }
    bots
}

const ALL_RUN: &str = "select bool_and(observed = 'running') from molt.bots";

#[tokio::test]
async fn many_come_up_and_come_back_after_an_outage_within_the_hosts_limit() {
    let (stage, host, fleet) = cast(RULES).await;
    bots(&stage, BOTS).await;
    stage.work(&fleet, ALL_RUN).await;
    let (machines, volumes) = host.holds();
    assert_eq!((machines.len(), volumes.len()), (BOTS, BOTS));

    let since = stage.database.text("select max(running_since) from molt.bots").await.unwrap();
    host.go_away();
    stage
        .work(&fleet, "select exists (select from molt.bots where due_at is not null or leased_until is not null)")
        .await;
    host.come_back();
    // Whoever waits a moment after an error is due by now.
    let again = format!("select bool_and(observed = 'running' and running_since > '{since}') from molt.bots");
    let moving = async {
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            stage.clock.forward(chrono::TimeDelta::milliseconds(500));
        }
    };
    tokio::select! {
        () = stage.work(&fleet, &again) => {}
        () = moving => {}
    }
    let counted = host.counted();
    assert_eq!(host.holds().0.len(), BOTS);
    assert_eq!(counted.hammering, 0, "{counted:?}");
    assert!(counted.calls > 10 * BOTS as u64 && counted.failed > 0 && counted.most <= 500, "{counted:?}");
}

#[tokio::test]
async fn what_hangs_delays_nobody() {
    let (stage, host, fleet) = cast(Rules { faults: 0, boot: Duration::ZERO, ..RULES }).await;
    let sick = bots(&stage, 150).await;
    stage.work(&fleet, ALL_RUN).await;
    sick.iter().for_each(|bot| host.hang(bot, true));
    for bot in &sick {
        stage.ask(bot, "revision = revision + 1").await;
    }
    // More than there are places are busy with cells that don't answer; a new bot comes up beside them.
    let began = std::time::Instant::now();
    let well = stage.bot(Intent::Running).await;
    stage.work(&fleet, &format!("select observed = 'running' from molt.bots where id = '{well}'")).await;
    let waited = began.elapsed();
    assert!(waited < Duration::from_secs(20), "{waited:?}");
}

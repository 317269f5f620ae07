//! Whose a place at Fly is that was there before its bot, on our simulator: the first one that is started in it, and nobody
//! else, whatever a database says that was restored from a backup.

use molt_fleet::{CellSpec, Ensured, FlyHost, Host, HostError, Report, Used};
use molt_model::BotId;
use uuid::Uuid;

use crate::fly_faults::{assert_one_of_all, host, spec};
use crate::fly_simulator::{Fault, Simulator};

fn claiming(bot: &BotId, claim: Uuid) -> CellSpec {
    CellSpec { claim: Some(claim), ..spec(bot, 1) }
}

async fn used(host: &FlyHost, bot: &BotId) -> Used {
    host.prepares().unwrap().used(bot).await.unwrap()
}

/// The names of the marks that the app has, without what they name.
fn marks(simulator: &Simulator) -> (usize, usize) {
    let app = simulator.app();
    let count = |prefix: &str| app.secrets.keys().filter(|name| name.starts_with(prefix)).count();
    (count("MOLT_USED_"), count("MOLT_CLAIM_"))
}

/// Another bot's start there is refused and changes nothing.
async fn assert_refused(simulator: &Simulator, host: &FlyHost, bot: &BotId, what: &str) {
    let before = simulator.state().calls.len();
    let refused = host.ensure(&claiming(bot, Uuid::new_v4())).await.unwrap_err();
    assert!(matches!(&refused, HostError::Unusable(sentence) if sentence.contains("another bot")), "{what}: {refused}");
    let state = simulator.state();
    assert!(state.calls[before..].iter().all(|call| call.method == "GET"), "{what}: {:?}", &state.calls[before..]);
}

#[tokio::test]
async fn a_place_is_the_first_ones_that_is_started_in_it() {
    let simulator = Simulator::new().await;
    let (host, bot, claim) = (host(&simulator), BotId::random(), Uuid::new_v4());
    assert_eq!(used(&host, &bot).await, Used::Never, "there is none");
    host.prepares().unwrap().prepare(&bot).await.unwrap();
    assert_eq!(used(&host, &bot).await, Used::Never);
    assert_eq!(host.ensure(&claiming(&bot, claim)).await.unwrap(), Ensured::Started);
    assert_eq!(marks(&simulator), (1, 1));
    assert_eq!(used(&host, &bot).await, Used::By(vec![claim]));
    let app = simulator.app();
    assert_one_of_all(&app, &bot);

    assert_refused(&simulator, &host, &bot, "running").await;
    assert_eq!(host.ensure(&claiming(&bot, claim)).await.unwrap(), Ensured::AlreadyThere);
    host.stop(&bot, false).await.unwrap();
    assert_refused(&simulator, &host, &bot, "stopped").await;
    assert_eq!(used(&host, &bot).await, Used::By(vec![claim]));
    simulator.destroy_machine(&app.name);
    assert_refused(&simulator, &host, &bot, "without a machine").await;
    assert_eq!(host.inspect(&bot).await.unwrap(), Report::Absent);
    assert_eq!(host.ensure(&claiming(&bot, claim)).await.unwrap(), Ensured::Started);
    assert_eq!(simulator.app().volumes[0].id, app.volumes[0].id);
    assert_eq!(marks(&simulator), (1, 1), "its claim stays the only one");

    // Somebody at Fly took the marks of the volume away, as we say they may: what runs there is still another's.
    simulator.state().apps.get_mut(&app.name).unwrap().secrets.retain(|name, _| !name.starts_with("MOLT_USED_"));
    assert_refused(&simulator, &host, &bot, "unmarked").await;
}

#[tokio::test]
async fn what_was_used_without_a_claim_is_anothers_for_who_has_one_and_as_ever_for_who_has_none() {
    let simulator = Simulator::new().await;
    let (host, bot) = (host(&simulator), BotId::random());
    host.ensure(&spec(&bot, 1)).await.unwrap();
    assert_eq!(marks(&simulator), (1, 0));
    assert_eq!(used(&host, &bot).await, Used::By(Vec::new()));
    assert_refused(&simulator, &host, &bot, "no claim on it").await;
    let reads = simulator.calls("GET", "/secrets").len();
    assert_eq!(host.ensure(&spec(&bot, 2)).await.unwrap(), Ensured::AlreadyThere);
    assert_eq!(simulator.calls("GET", "/secrets").len(), reads, "nobody asks whose it is");
}

/// Of our own first start nothing that breaks off looks like another bot.
#[tokio::test]
async fn a_first_start_that_broke_off_anywhere_is_known_as_its_own() {
    for ahead in [true, false] {
        for calls in 1..14 {
            let simulator = Simulator::new().await;
            let (bot, claim) = (BotId::random(), Uuid::new_v4());
            let first = host(&simulator);
            if ahead {
                first.prepares().unwrap().prepare(&bot).await.unwrap();
            }
            let before = simulator.state().calls.len();
            {
                let spec = claiming(&bot, claim);
                let start = first.ensure(&spec);
                tokio::pin!(start);
                loop {
                    let step = tokio::time::timeout(std::time::Duration::from_millis(1), start.as_mut()).await;
                    if step.is_ok() || simulator.state().calls.len() - before >= calls {
                        break;
                    }
                }
            }
            simulator
                .state()
                .apps
                .values_mut()
                .flat_map(|app| &mut app.machines)
                .for_each(|machine| machine.lease = None);
            let second = host(&simulator);
            second.ensure(&claiming(&bot, claim)).await.unwrap();
            assert_one_of_all(&simulator.app(), &bot);
            assert_eq!(marks(&simulator), (1, 1), "after {calls} calls, ahead: {ahead}");
            assert_eq!(used(&second, &bot).await, Used::By(vec![claim]));
        }
    }
}

#[tokio::test]
async fn a_claim_goes_with_the_place_to_another_region_and_is_set_again_where_its_answer_was_lost() {
    for fault in [None, Some(Fault::LoseAnswer), Some(Fault::LoseRequest), Some(Fault::Broken)] {
        let simulator = Simulator::new().await;
        let (host, bot, claim) = (host(&simulator), BotId::random(), Uuid::new_v4());
        host.prepares().unwrap().prepare(&bot).await.unwrap();
        simulator.state().full_for_machines.insert("fra".into());
        if let Some(fault) = fault {
            simulator.state().plan("POST", "/secrets", fault, 2);
            simulator.state().plan("GET", "/secrets", fault, 1);
        }
        assert_eq!(host.ensure(&claiming(&bot, claim)).await.unwrap(), Ensured::Started);
        let app = simulator.app();
        assert_one_of_all(&app, &bot);
        assert_eq!((app.volumes[0].region.as_str(), marks(&simulator)), ("ams", (1, 1)), "{fault:?}");
        assert_eq!(used(&host, &bot).await, Used::By(vec![claim]));
        assert_refused(&simulator, &host, &bot, "moved").await;
    }
}

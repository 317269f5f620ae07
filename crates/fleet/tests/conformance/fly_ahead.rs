//! Places that are made ahead, on our simulator of Fly: nothing runs in them, no secret is in them, every step is done again
//! after its answer was lost, and what never ran isn't bound to where it lies.

use molt_fleet::{Ensured, FlyHost, Host, HostError, Prepares, Report};
use molt_model::BotId;
use serde_json::json;

use crate::fly_faults::{app_of, assert_one_of_all, host, settings, spec};
use crate::fly_simulator::{App, Fault, Simulator};

fn ahead(host: &FlyHost) -> &dyn Prepares {
    host.prepares().unwrap()
}

/// An app, an address, a volume and a machine that never ran, and nothing else.
#[track_caller]
fn assert_waits(app: &App, bot: &BotId) {
    assert_one_of_all(app, bot);
    let machine = app.living().next().unwrap();
    assert_eq!((machine.state.as_str(), machine.starts, app.ips.len()), ("created", 0, 1));
    assert!(app.secrets.is_empty(), "{:?}", app.secrets);
}

#[tokio::test]
async fn all_but_the_secrets_is_there_and_the_start_that_follows_uses_it() {
    for update_starts in [false, true] {
        let simulator = Simulator::new().await;
        simulator.state().update_starts = update_starts;
        let (host, bot) = (host(&simulator), BotId::random());
        ahead(&host).prepare(&bot).await.unwrap();
        let app = simulator.app();
        assert_waits(&app, &bot);
        assert_eq!(simulator.calls("POST", "/machines")[0].body["skip_launch"], true);
        assert_eq!(host.inspect(&bot).await.unwrap(), Report::Absent, "it is no cell");
        host.stop(&bot, false).await.unwrap();
        ahead(&host).prepare(&bot).await.unwrap();
        assert_eq!(simulator.calls("POST", "/machines").len(), 1);

        assert_eq!(host.ensure(&spec(&bot, 7)).await.unwrap(), Ensured::Started);
        let again = simulator.app();
        assert_one_of_all(&again, &bot);
        let machine = again.living().next().unwrap();
        assert_eq!((&machine.id, machine.state.as_str()), (&app.living().next().unwrap().id, "started"));
        assert_eq!((again.volumes[0].id.clone(), again.ips.clone()), (app.volumes[0].id.clone(), app.ips));
        assert_eq!(machine.config["env"]["MOLT_CONFIG_REVISION"], "7");
        assert_eq!(machine.config["env"]["MOLT_PROXY_URL"], "https://proxy.molt.example/v1");
        assert_eq!(machine.secrets["CLAWDBOT_CONFIG"], r#"{"note":"configured"}"#);
        assert!(again.secrets.contains_key(&format!("MOLT_USED_{}", app.volumes[0].id.to_uppercase())));

        // From its next start on it is a machine like all others.
        host.stop(&bot, false).await.unwrap();
        assert_eq!(host.ensure(&spec(&bot, 8)).await.unwrap(), Ensured::Started);
        assert_eq!(simulator.app().living().next().unwrap().config["metadata"].get("molt_ahead"), None);
        assert_eq!(simulator.state().refused_for_pace, 0);
    }
}

#[tokio::test]
async fn every_step_of_making_one_and_of_taking_it_away_may_be_lost_or_break() {
    for fault in [Fault::LoseAnswer, Fault::LoseRequest, Fault::Broken] {
        let simulator = Simulator::new().await;
        for (method, end) in
            [("POST", "/v1/apps"), ("POST", "/ip_assignments"), ("POST", "/volumes"), ("POST", "/machines")]
        {
            simulator.state().plan(method, end, fault, 1);
        }
        let (host, bot) = (host(&simulator), BotId::random());
        ahead(&host).prepare(&bot).await.unwrap();
        assert_eq!(simulator.state().faults_left(), 0, "{fault:?}");
        assert_waits(&simulator.app(), &bot);

        for (method, end) in
            [("GET", app_of(&bot).as_str()), ("DELETE", "/machines/*"), ("DELETE", "/volumes/*"), ("GET", "/volumes")]
        {
            simulator.state().plan(method, end, fault, 1);
        }
        ahead(&host).withdraw(&bot).await.unwrap();
        assert_eq!(simulator.state().faults_left(), 0, "{fault:?}");
        let app = simulator.app();
        assert_eq!(
            (app.living().count(), app.volumes.len(), app.ips.len()),
            (0, 0, 1),
            "what costs is gone: {fault:?}"
        );
        assert_eq!(host.list().await.unwrap(), std::slice::from_ref(&bot), "what is left is still known");
        host.ensure(&spec(&bot, 1)).await.unwrap();
        assert_one_of_all(&simulator.app(), &bot);
        host.stop(&bot, true).await.unwrap();
        assert!(simulator.state().apps.is_empty());
    }
}

#[tokio::test]
async fn a_host_that_died_while_it_made_a_place_is_followed_by_one_that_finishes() {
    for calls in 1..8 {
        let simulator = Simulator::new().await;
        let bot = BotId::random();
        {
            let first = host(&simulator);
            let made = ahead(&first).prepare(&bot);
            tokio::pin!(made);
            loop {
                let step = tokio::time::timeout(std::time::Duration::from_millis(1), made.as_mut()).await;
                if step.is_ok() || simulator.state().calls.len() >= calls {
                    break;
                }
            }
        }
        let second = host(&simulator);
        match calls % 3 {
            0 => second.ensure(&spec(&bot, 1)).await.map(drop).unwrap(),
            1 => ahead(&second).prepare(&bot).await.unwrap(),
            _ => {
                ahead(&second).withdraw(&bot).await.unwrap();
                ahead(&second).prepare(&bot).await.unwrap();
            }
        }
        assert_one_of_all(&simulator.app(), &bot);
        second.stop(&bot, true).await.unwrap();
        assert!(simulator.state().apps.is_empty(), "after {calls}");
    }
}

#[tokio::test]
async fn where_there_is_no_room_the_next_region_is_taken_when_it_is_made_and_when_it_is_started_first() {
    let simulator = Simulator::new().await;
    simulator.state().full_for_machines.insert("fra".into());
    let (host, bot) = (host(&simulator), BotId::random());
    ahead(&host).prepare(&bot).await.unwrap();
    let app = simulator.app();
    assert_waits(&app, &bot);
    assert_eq!(app.volumes[0].region, "ams");

    // Nothing ran on the volume, so the first start may go where there is room.
    simulator.state().full_for_machines.insert("ams".into());
    assert_eq!(host.ensure(&spec(&bot, 1)).await.unwrap(), Ensured::Started);
    let moved = simulator.app();
    assert_one_of_all(&moved, &bot);
    assert_eq!((moved.volumes[0].region.as_str(), moved.ips.clone()), ("cdg", app.ips));
    let marks: Vec<&String> = moved.secrets.keys().filter(|name| name.starts_with("MOLT_USED_")).collect();
    assert_eq!(marks, [&format!("MOLT_USED_{}", moved.volumes[0].id.to_uppercase())]);

    // Now something did, and it stays.
    host.stop(&bot, false).await.unwrap();
    simulator.state().full_for_machines.insert("cdg".into());
    host.ensure(&spec(&bot, 1)).await.unwrap_err();
    assert_eq!(simulator.app().volumes[0].id, moved.volumes[0].id);
    assert!(simulator.state().lost.is_empty());

    let nowhere = BotId::random();
    simulator.state().apps.clear();
    let error = ahead(&host).prepare(&nowhere).await.unwrap_err();
    assert!(matches!(&error, HostError::Unusable(sentence) if sentence.contains("fleet.fly.regions")), "{error}");
    ahead(&host).withdraw(&nowhere).await.unwrap();
    assert!(simulator.app().volumes.is_empty());
}

#[tokio::test]
async fn what_may_hold_something_or_is_somebody_elses_is_not_taken_away() {
    let simulator = Simulator::new().await;
    let (host, bot, foreign) = (host(&simulator), BotId::random(), BotId::random());
    simulator.state().add_app(&app_of(&foreign), "somebody", "x");
    ahead(&host).withdraw(&foreign).await.unwrap();
    ahead(&host).prepare(&foreign).await.unwrap_err();
    simulator.state().apps.clear();

    // A start that died between what it gave the app and the launch: nothing ran yet, but the next start is on its way.
    ahead(&host).prepare(&bot).await.unwrap();
    let app = simulator.app();
    let mark = format!("MOLT_USED_{}", app.volumes[0].id.to_uppercase());
    simulator.state().apps.get_mut(&app.name).unwrap().secrets.insert(mark, "1".into());
    // Somebody at Fly starts the machine by hand, without anything in it that a cell needs.
    {
        let mut state = simulator.state();
        let id = app.living().next().unwrap().id.clone();
        state.machine(&app.name, &id).unwrap().state = "started".into();
    }
    let error = ahead(&FlyHost::new(settings(simulator.url())).unwrap()).withdraw(&bot).await.unwrap_err();
    assert!(matches!(&error, HostError::Unusable(sentence) if sentence.contains("was started")), "{error}");
    assert_eq!(simulator.app().living().count(), 1);
    simulator.destroy_machine(&app.name);
    ahead(&host).withdraw(&bot).await.unwrap_err();
    assert_eq!(json!(simulator.app().volumes[0].id), json!(app.volumes[0].id), "a marked volume stays");
}

//! The host that is Fly, on our simulator of it: every step once more after its answer was lost, no room, machines that are
//! gone, names that are somebody else's, limits. What is shown here was never shown on Fly itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use molt_bot::CellAddress;
use molt_fleet::{CellSpec, Ensured, FlyHost, FlySettings, Host, HostError, Report};
use molt_model::BotId;
use secrecy::SecretString;
use serde_json::json;
use uuid::Uuid;

use crate::fly_simulator::{App, Fault, ORG, Simulator, TOKEN};

const INSTALLATION: Uuid = Uuid::from_u128(0xfeed_beef << 96);
/// Of what must never be seen outside the app's secrets.
const SECRETS: [&str; 4] = ["gateway-5ecret", "ghost-5ecret", "configured", "egress-5ecret"];

pub(crate) fn settings(api_url: String) -> FlySettings {
    FlySettings {
        api_url,
        token: TOKEN.to_owned().into(),
        org: ORG.into(),
        network: "platform".into(),
        app_prefix: "molt".into(),
        regions: vec!["fra".into(), "ams".into(), "cdg".into()],
        image: "registry.fly.io/molt-bot:1".into(),
        cpu_kind: "shared".into(),
        cpus: 2,
        memory_mib: 2048,
        volume_gib: 3,
        watch_period: Duration::from_millis(200),
        installation: INSTALLATION,
    }
}

pub(crate) fn host(simulator: &Simulator) -> FlyHost {
    FlyHost::new(settings(simulator.url())).unwrap()
}

pub(crate) fn spec(bot: &BotId, revision: i64) -> CellSpec {
    CellSpec {
        bot: bot.clone(),
        uid: None,
        gateway_token: SecretString::from(SECRETS[0].to_owned()),
        ghost_key: SecretString::from(SECRETS[1].to_owned()),
        egress_key: SecretString::from(SECRETS[3].to_owned()),
        proxy_url: "https://proxy.molt.example/v1".into(),
        config: json!({ "note": SECRETS[2] }),
        revision,
        runtime_command: Vec::new(),
        claim: None,
    }
}

pub(crate) fn app_of(bot: &BotId) -> String {
    format!("molt-feedbeef-{}", bot.as_str().trim_start_matches("molt-"))
}

/// One of everything, and nothing that isn't named after the bot.
#[track_caller]
pub(crate) fn assert_one_of_all(app: &App, bot: &BotId) {
    assert_eq!((app.name.as_str(), app.network.as_str()), (app_of(bot).as_str(), app_of(bot).as_str()));
    assert_eq!(app.living().count(), 1, "{:?}", app.machines);
    assert_eq!(app.volumes.len(), 1, "{:?}", app.volumes);
    let machine = app.living().next().unwrap();
    assert_eq!(machine.mount(), Some(app.volumes[0].id.as_str()));
    assert_eq!(machine.region, app.volumes[0].region);
}

async fn absent(host: &FlyHost, bot: &BotId) -> bool {
    host.inspect(bot).await.unwrap() == Report::Absent
}

#[tokio::test]
async fn a_bot_is_an_app_of_its_own_and_comes_and_goes_with_it() {
    let simulator = Simulator::new().await;
    let (host, bot) = (host(&simulator), BotId::random());
    assert!(absent(&host, &bot).await);
    assert_eq!(host.ensure(&spec(&bot, 1)).await.unwrap(), Ensured::Started);
    let app = simulator.app();
    assert_one_of_all(&app, &bot);
    let machine = app.living().next().unwrap().clone();
    assert_eq!(machine.state, "started");

    // The way in is private, in the platform's network, and the way to reach it is what the host says.
    assert_eq!(app.ips.len(), 1);
    assert_eq!(app.ips[0].1, "platform");
    let address = CellAddress::Tcp(format!("{}:18789", app.ips[0].0));
    assert_eq!(host.inspect(&bot).await.unwrap(), Report::Present { address });
    let service = &machine.config["services"][0];
    assert_eq!((&service["autostop"], &service["internal_port"]), (&json!("off"), &json!(18789)));
    assert!(service["ports"][0].get("handlers").is_none());

    // Secrets are the app's; what anybody with a token can read holds none. The machine was started with the newest.
    let shown = json!([machine.config, simulator.calls("POST", "/machines")[0].body]).to_string();
    for secret in SECRETS {
        assert!(!shown.contains(secret), "{secret}");
    }
    assert_eq!(machine.secrets["MOLT_GATEWAY_TOKEN"], SECRETS[0]);
    assert_eq!(machine.secrets["MOLT_EGRESS_KEY"], SECRETS[3]);
    assert_eq!(machine.secrets["CLAWDBOT_CONFIG"], r#"{"note":"configured"}"#);

    assert_eq!(host.ensure(&spec(&bot, 1)).await.unwrap(), Ensured::AlreadyThere);
    assert_eq!(host.list().await.unwrap(), std::slice::from_ref(&bot));
    host.stop(&bot, false).await.unwrap();
    assert!(absent(&host, &bot).await);
    host.stop(&bot, false).await.unwrap();
    assert_eq!(host.list().await.unwrap(), std::slice::from_ref(&bot), "what is stopped is still held");

    // The same machine on the same volume, changed as a whole.
    assert_eq!(
        host.ensure(&CellSpec { ghost_key: "newer".to_owned().into(), ..spec(&bot, 2) }).await.unwrap(),
        Ensured::Started
    );
    let again = simulator.app();
    assert_one_of_all(&again, &bot);
    let machine_again = again.living().next().unwrap();
    assert_eq!((&machine_again.id, &again.volumes[0].id), (&machine.id, &app.volumes[0].id));
    assert_eq!(machine_again.config["env"]["MOLT_CONFIG_REVISION"], "2");
    assert_eq!(machine_again.secrets["MOLT_GHOST_KEY"], "newer");
    assert_eq!(
        simulator.calls("POST", &format!("/machines/{}", machine.id))[0].body["current_version"],
        machine.version
    );

    host.stop(&bot, true).await.unwrap();
    assert!(simulator.state().apps.is_empty(), "it was gone before the host said so");
    host.stop(&bot, true).await.unwrap();
    assert!(host.list().await.unwrap().is_empty());
    assert_eq!(simulator.state().refused_for_pace, 0, "the host keeps the limits by itself");
}

#[tokio::test]
async fn every_step_whose_answer_is_lost_is_found_again_and_nothing_is_doubled() {
    every_step_has_a(Fault::LoseAnswer).await;
}

#[tokio::test]
async fn every_step_that_never_arrived_is_done_again() {
    every_step_has_a(Fault::LoseRequest).await;
}

#[tokio::test]
async fn every_step_that_broke_at_fly_is_done_again() {
    every_step_has_a(Fault::Broken).await;
}

async fn every_step_has_a(fault: Fault) {
    let simulator = Simulator::new().await;
    for (method, end) in [
        ("POST", "/v1/apps"),
        ("POST", "/ip_assignments"),
        ("POST", "/volumes"),
        ("POST", "/secrets"),
        ("POST", "/machines"),
    ] {
        simulator.state().plan(method, end, fault, 1);
    }
    let (host, bot) = (host(&simulator), BotId::random());
    host.ensure(&spec(&bot, 1)).await.unwrap();
    assert_eq!(simulator.state().faults_left(), 0, "{fault:?}");
    assert_one_of_all(&simulator.app(), &bot);
    assert_eq!(simulator.app().living().next().unwrap().state, "started");

    // A lease whose answer was lost is in the way until it ends.
    for (method, end) in [("GET", "/machines"), ("POST", "/stop"), ("GET", "/wait"), ("DELETE", "/lease")] {
        simulator.state().plan(method, end, fault, 1);
    }
    host.stop(&bot, false).await.unwrap();
    assert_eq!(simulator.state().faults_left(), 0, "{fault:?}");
    assert!(absent(&host, &bot).await, "{fault:?}");

    let id = simulator.app().living().next().unwrap().id.clone();
    simulator.state().plan("POST", &format!("/machines/{id}"), fault, 1);
    simulator.state().plan("POST", "/start", fault, 1);
    assert_eq!(host.ensure(&spec(&bot, 2)).await.unwrap(), Ensured::Started, "{fault:?}");
    assert_eq!(simulator.state().faults_left(), 0, "{fault:?}");
    assert_one_of_all(&simulator.app(), &bot);

    let app = app_of(&bot);
    simulator.state().plan("DELETE", &app, fault, 1);
    simulator.state().plan("GET", &app, fault, 1);
    host.stop(&bot, true).await.unwrap();
    assert!(simulator.state().apps.is_empty());
}

#[tokio::test]
async fn a_host_that_died_between_any_two_calls_is_followed_by_one_that_finishes() {
    for calls in 1..8 {
        let simulator = Simulator::new().await;
        let bot = BotId::random();
        {
            let first = host(&simulator);
            let cell = spec(&bot, 1);
            let made = first.ensure(&cell);
            tokio::pin!(made);
            // Dropped as soon as so many calls were answered.
            loop {
                let step = tokio::time::timeout(Duration::from_millis(1), made.as_mut()).await;
                if step.is_ok() || simulator.state().calls.len() >= calls {
                    break;
                }
            }
        }
        let second = host(&simulator);
        second.ensure(&spec(&bot, 1)).await.unwrap();
        assert_one_of_all(&simulator.app(), &bot);
        assert_eq!(second.list().await.unwrap(), std::slice::from_ref(&bot));
        second.stop(&bot, true).await.unwrap();
        assert!(simulator.state().apps.is_empty(), "after {calls}");
    }
}

#[tokio::test]
async fn where_there_is_no_room_the_next_region_is_taken_and_a_used_volume_never_moves() {
    let simulator = Simulator::new().await;
    simulator.state().full_for_volumes.insert("fra".into());
    simulator.state().full_for_machines.insert("ams".into());
    let (host, bot) = (host(&simulator), BotId::random());
    host.ensure(&spec(&bot, 1)).await.unwrap();
    let app = simulator.app();
    assert_one_of_all(&app, &bot);
    assert_eq!(app.volumes[0].region, "cdg", "the volume that was made in ams in vain is gone");
    let marks: Vec<&String> = app.secrets.keys().filter(|name| name.starts_with("MOLT_USED_")).collect();
    assert_eq!(marks, [&format!("MOLT_USED_{}", app.volumes[0].id.to_uppercase())]);

    // Now it holds a state. The machine goes, the region fills up: the volume stays where it is.
    simulator.destroy_machine(&app.name);
    simulator.state().full_for_machines.insert("cdg".into());
    simulator.state().full_for_machines.remove("ams");
    let error = host.ensure(&spec(&bot, 1)).await.unwrap_err();
    assert!(matches!(&error, HostError::Unusable(sentence) if sentence.contains("cdg")), "{error}");
    assert_eq!(simulator.app().volumes[0].id, app.volumes[0].id);
    simulator.state().full_for_machines.clear();
    host.ensure(&spec(&bot, 1)).await.unwrap();
    assert_one_of_all(&simulator.app(), &bot);
    assert_eq!(simulator.app().volumes[0].id, app.volumes[0].id);

    // A volume that is gone is not replaced by an empty one behind anybody's back.
    simulator.destroy_machine(&app.name);
    simulator.state().apps.get_mut(&app.name).unwrap().volumes.clear();
    let error = host.ensure(&spec(&bot, 1)).await.unwrap_err();
    assert!(matches!(&error, HostError::Unusable(sentence) if sentence.contains("snapshot")), "{error}");
    assert!(simulator.app().volumes.is_empty());

    let nowhere = BotId::random();
    simulator.state().apps.clear();
    simulator.state().full_for_volumes.extend(["fra", "ams", "cdg"].map(String::from));
    let error = host.ensure(&spec(&nowhere, 1)).await.unwrap_err();
    assert!(matches!(&error, HostError::Unusable(sentence) if sentence.contains("fleet.fly.regions")), "{error}");
}

#[tokio::test]
async fn a_machine_that_went_by_itself_comes_back_on_its_volume_and_an_unreachable_one_is_not_doubled() {
    let simulator = Simulator::new().await;
    let (host, bot) = (Arc::new(host(&simulator)), BotId::random());
    host.ensure(&spec(&bot, 1)).await.unwrap();
    let app = simulator.app();
    let watched = tokio::spawn({
        let (host, bot) = (host.clone(), bot.clone());
        async move { host.gone(&bot).await }
    });
    tokio::time::timeout(Duration::from_millis(700), host.gone(&bot)).await.expect_err("it is there");
    simulator.destroy_machine(&app.name);
    tokio::time::timeout(Duration::from_secs(10), watched).await.expect("the listing shows it").unwrap();
    assert!(absent(&host, &bot).await);
    host.ensure(&spec(&bot, 1)).await.unwrap();
    let again = simulator.app();
    assert_one_of_all(&again, &bot);
    assert_eq!(again.volumes[0].id, app.volumes[0].id);

    {
        let mut state = simulator.state();
        let id = again.living().next().unwrap().id.clone();
        state.machine(&app.name, &id).unwrap().host_status = "unreachable".into();
    }
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert!(matches!(host.inspect(&bot).await.unwrap(), Report::Present { .. }), "it may still run");
    for error in [host.ensure(&spec(&bot, 1)).await.unwrap_err(), host.stop(&bot, false).await.unwrap_err()] {
        assert!(matches!(&error, HostError::Unusable(sentence) if sentence.contains("can't be reached")), "{error}");
    }
    assert_one_of_all(&simulator.app(), &bot);
}

#[tokio::test]
async fn what_is_somebody_elses_is_left_alone() {
    let simulator = Simulator::new().await;
    let (host, foreign, strange, mixed) = (host(&simulator), BotId::random(), BotId::random(), BotId::random());
    simulator.state().add_app(&app_of(&foreign), "somebody", "x");
    simulator.state().add_app(&app_of(&strange), ORG, "made-by-hand");
    simulator.state().add_app("molt-00000000-0123456789ab", ORG, "molt-00000000-0123456789ab");
    simulator.state().add_app("shop", ORG, "shop");
    for bot in [&foreign, &strange] {
        let error = host.ensure(&spec(bot, 1)).await.unwrap_err();
        assert!(matches!(&error, HostError::Unusable(sentence) if sentence.contains("app_prefix")), "{error}");
        host.stop(bot, true).await.unwrap();
    }
    assert_eq!(simulator.state().apps.len(), 4, "nothing of it was deleted");
    assert_eq!(host.list().await.unwrap(), std::slice::from_ref(&strange), "another installation's bots are not ours");
    assert!(simulator.calls("POST", "/secrets").is_empty());

    host.ensure(&spec(&mixed, 1)).await.unwrap();
    {
        let mut state = simulator.state();
        let machines = &mut state.apps.get_mut(&app_of(&mixed)).unwrap().machines;
        let mut other = machines[0].clone();
        (other.id, other.name) = ("0ther".into(), "by-hand".into());
        machines.push(other);
    }
    let error = host.stop(&mixed, true).await.unwrap_err();
    assert!(matches!(&error, HostError::Unusable(sentence) if sentence.contains("not the bot's")), "{error}");
    host.stop(&mixed, false).await.unwrap();
    let state = simulator.state();
    let states: Vec<&str> = state.apps[&app_of(&mixed)].machines.iter().map(|machine| machine.state.as_str()).collect();
    assert_eq!(states, ["stopped", "started"], "only the bot's own machine was stopped");
}

#[tokio::test]
async fn when_fly_asks_to_slow_down_it_is_obeyed_and_slow_answers_are_waited_for() {
    let simulator = Simulator::new().await;
    let (host, bot) = (host(&simulator), BotId::random());
    simulator.state().plan("POST", "/machines", Fault::TooMany(2), 2);
    simulator.state().plan("POST", "/volumes", Fault::Slow(Duration::from_millis(900)), 1);
    let begun = Instant::now();
    host.ensure(&spec(&bot, 1)).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(4900), "{:?}", begun.elapsed());
    assert_one_of_all(&simulator.app(), &bot);
    let others = Instant::now();
    host.ensure(&spec(&BotId::random(), 1)).await.unwrap();
    assert!(others.elapsed() < Duration::from_secs(2), "another bot waits for nobody: {:?}", others.elapsed());
}

#[tokio::test]
async fn a_lease_of_somebody_else_is_waited_out() {
    let simulator = Simulator::new().await;
    let (host, bot) = (host(&simulator), BotId::random());
    host.ensure(&spec(&bot, 1)).await.unwrap();
    let id = simulator.app().living().next().unwrap().id.clone();
    let until = Instant::now() + Duration::from_secs(2);
    simulator.state().machine(&app_of(&bot), &id).unwrap().lease = Some(("theirs".into(), until));
    host.stop(&bot, false).await.unwrap();
    assert!(Instant::now() >= until);
}

#[tokio::test]
async fn lists_are_read_to_their_end_and_a_wrong_token_is_said() {
    let simulator = Simulator::new().await;
    let host = host(&simulator);
    let mut bots: Vec<BotId> = (0..7).map(|_| BotId::random()).collect();
    bots.sort();
    for bot in &bots {
        simulator.state().add_app(&app_of(bot), ORG, &app_of(bot));
    }
    simulator.state().page = 3;
    assert_eq!(host.list().await.unwrap(), bots);
    assert_eq!(host.check().await.unwrap(), 7);
    let wrong = FlySettings { token: "hunter2".to_owned().into(), ..settings(simulator.url()) };
    let error = FlyHost::new(wrong).unwrap().list().await.unwrap_err();
    assert!(error.to_string().contains("token_env") && !format!("{error:?}").contains("hunter2"), "{error}");
}

//! Configurations: applied while it runs, refused when they don't validate, kept over restarts.

use molt_bot::{ClientError, Phase, RunPhase, canonical_hash, render};
use serde_json::json;

use crate::rig::{Rig, inputs, is_real};

#[tokio::test]
async fn a_change_is_applied_without_a_restart_and_survives_one() {
    let mut rig = Rig::ready().await;
    let before = rig.client.health().await.unwrap();
    assert_eq!(before.applied.unwrap().hash, canonical_hash(&render(&inputs())));
    assert!(std::fs::read_to_string(rig.workspace().join("SOUL.md")).unwrap().contains("Pip"));

    let mut changed = inputs();
    changed.bot_name = "Pop".into();
    changed.default_model = "practice/practice-2".into();
    let config = render(&changed);
    let applied = rig.client.apply(2, &config).await.unwrap();
    assert_eq!((applied.revision, applied.hash.as_str()), (2, canonical_hash(&config).as_str()));
    let health = rig.client.health().await.unwrap();
    assert_eq!(health.applied.as_ref(), Some(&applied));
    assert_eq!(health.runtime_pid, before.runtime_pid, "a hot change");
    assert!(std::fs::read_to_string(rig.workspace().join("SOUL.md")).unwrap().contains("Pop"));
    let mut line = rig.open().await;
    let run = rig.send(&mut line, "main", "WORDS 1").await;
    assert_eq!(rig.hear_end(&mut line, run).await, RunPhase::Finished);
    assert_eq!(rig.model.calls().iter().rfind(|call| call.chat).unwrap().model, "practice/practice-2");

    let mut wrong = config.clone();
    wrong["nonsense"] = json!(true);
    let refused = rig.client.apply(3, &wrong).await.unwrap_err();
    assert!(matches!(&refused, ClientError::Refused { fault, .. } if fault.code == "config_invalid"), "{refused:?}");
    assert_eq!(rig.client.health().await.unwrap().applied, Some(applied.clone()));
    assert_eq!(rig.client.apply(4, &config).await.unwrap().revision, 4, "the same again only counts up");

    // The host starts the cell with the environment it was made with.
    drop(line);
    rig.kill_cell();
    rig.start();
    let health = rig.wait_for(Phase::Ready).await;
    assert_eq!(health.applied.unwrap().revision, 4);
}

#[tokio::test]
async fn a_cell_that_cannot_start_takes_a_better_configuration() {
    let mut rig = Rig::prepared().await;
    let mut wrong = render(&inputs());
    wrong["nonsense"] = json!(true);
    let command = rig.command_with(&wrong, 1);
    rig.start_with(command);
    let health = rig.wait_until(|health| health.error.is_some()).await;
    assert_eq!(health.error.unwrap().code, "config_invalid");
    let applied = rig.client.apply(2, &render(&inputs())).await.unwrap();
    assert_eq!(applied.revision, 2);
    rig.wait_for(Phase::Ready).await;
}

/// Time zones at which the stand-in breaks; the real runtime knows nothing of them.
const ENDS_ON_CHANGE: &str = "Antarctica/Vostok";
const HANGS_ON_CHANGE: &str = "Antarctica/Mawson";

/// The runtime ends when it is given the change, and does not start with it either: the evidence is its own start.
#[tokio::test]
async fn a_change_that_breaks_the_runtime_is_tried_once_and_then_taken_back() {
    if is_real() {
        return;
    }
    let mut rig = Rig::ready().await;
    let mut breaks = inputs();
    breaks.timezone = ENDS_ON_CHANGE.into();
    let refused = rig.client.apply(2, &render(&breaks)).await.unwrap_err();
    assert!(matches!(&refused, ClientError::Refused { fault, .. } if fault.code == "config_breaks"), "{refused:?}");
    let health = rig.wait_for(Phase::Ready).await;
    assert_eq!(health.applied.unwrap().revision, 1, "the one before is back");
    assert_eq!(health.runtime_restarts, 0, "a bad change isn't a bad runtime");
    assert!(rig.client.apply(3, &render(&inputs())).await.is_ok());
    let mut line = rig.open().await;
    let run = rig.send(&mut line, "main", "WORDS 1").await;
    assert_eq!(rig.hear_end(&mut line, run).await, RunPhase::Finished);
}

#[tokio::test]
async fn a_restart_of_the_runtime_leaves_the_cell_and_its_settings() {
    let mut rig = Rig::ready().await;
    let before = rig.client.health().await.unwrap();
    rig.client.restart_runtime().await.unwrap();
    let after = rig.wait_until(|health| health.phase == Phase::Ready && health.runtime_pid != before.runtime_pid).await;
    assert_eq!((after.boot_id, &after.applied), (before.boot_id, &before.applied));
    assert_eq!((after.runtime_restarts, &after.error), (0, &None), "asked for, so nothing went wrong");
    assert_eq!(rig.runtimes().len(), 1);
    let mut line = rig.open().await;
    let run = rig.send(&mut line, "main", "WORDS 1").await;
    assert_eq!(rig.hear_end(&mut line, run).await, RunPhase::Finished);
}

/// As the real runtime was seen to do: it lives on, doesn't listen any more, and doesn't come up again with the change. That
/// takes as long as the cell gives a start on trial.
#[tokio::test]
async fn a_change_on_which_the_runtime_hangs_is_taken_back_as_well() {
    if is_real() || std::env::var_os("MOLT_PROVE").is_none() {
        return;
    }
    let mut rig = Rig::ready().await;
    let before = rig.client.health().await.unwrap();
    let mut hangs = inputs();
    hangs.timezone = HANGS_ON_CHANGE.into();
    let refused = rig.client.apply(2, &render(&hangs)).await.unwrap_err();
    assert!(matches!(&refused, ClientError::Refused { fault, .. } if fault.code == "config_breaks"), "{refused:?}");
    let again = std::time::Instant::now();
    let refused = rig.client.apply(2, &render(&hangs)).await.unwrap_err();
    assert!(matches!(&refused, ClientError::Refused { fault, .. } if fault.code == "config_breaks"), "{refused:?}");
    assert!(again.elapsed().as_secs() < 10, "it isn't tried twice");
    let health = rig.wait_for(Phase::Ready).await;
    assert_eq!((health.boot_id, health.applied), (before.boot_id, before.applied));
    assert_eq!(rig.runtimes().len(), 1, "the hanging one is gone");
    let mut line = rig.open().await;
    let run = rig.send(&mut line, "main", "WORDS 1").await;
    assert_eq!(rig.hear_end(&mut line, run).await, RunPhase::Finished);
}

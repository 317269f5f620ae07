//! Configurations: applied while it runs, refused when they don't validate, kept over restarts.

use molt_bot::{ClientError, Phase, RunPhase, canonical_hash, render};
use serde_json::json;

use crate::rig::{Rig, inputs};

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

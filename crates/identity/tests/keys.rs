//! The signing key is one for all processes, and only its own tokens open.
//! Never: a test on the system's clock.

use std::sync::Arc;

use chrono::TimeDelta;
use molt_identity::{Config, Identity as _, Local, NewPerson, SignUp, Verifier, VerifyError};
use molt_model::Clock as _;
use molt_model::clock::MovedClock;
use molt_store::Store;
use molt_store::testing::database;
use secrecy::ExposeSecret as _;

fn local(store: Store, clock: &MovedClock) -> Local {
    let config = Config { signup: SignUp::Open, https: true, public_url: "https://molt.example".to_owned() };
    Local::new(config, store, Arc::new(clock.clone()))
}

fn person(email: &str) -> NewPerson {
    NewPerson { email: email.to_owned(), password: "correct horse".to_owned().into(), name: None, invite: None }
}

#[tokio::test]
async fn processes_that_start_together_agree_on_one_key() {
    let database = database().await;
    let clock = MovedClock::default();
    let mut processes = Vec::new();
    for _ in 0..4 {
        processes.push(Arc::new(local(database.second_store().await, &clock)));
    }
    let all = processes.iter().enumerate().map(|(n, process)| {
        let process = process.clone();
        async move { process.sign_up(person(&format!("p{n}@example.com"))).await.unwrap() }
    });
    let mut sessions = Vec::new();
    for task in all.map(tokio::spawn).collect::<Vec<_>>() {
        sessions.push(task.await.unwrap());
    }
    assert_eq!(database.count("select count(*) from molt.signing_keys").await, 1);
    let published = processes[0].keys().await.unwrap();
    let text = serde_json::to_string(&published).unwrap();
    assert!(!text.contains("\"d\""), "no private part is published");
    for process in &processes {
        let verifier = Verifier::new(process.clone());
        for session in &sessions {
            let claims = verifier.verify(session.token.expose_secret(), clock.now()).await.unwrap();
            assert_eq!(claims.subject, session.user.id().to_string());
            assert!(claims.session.is_some());
        }
    }
}

#[tokio::test]
async fn a_token_opens_for_ten_minutes_and_only_with_a_key_in_force() {
    let database = database().await;
    let clock = MovedClock::default();
    let process = Arc::new(local(database.store.clone(), &clock));
    let verifier = Verifier::new(process.clone());
    let session = process.sign_up(person("ann@example.com")).await.unwrap();
    let token = session.token.expose_secret();
    let now = clock.now();
    for (minutes, good) in [(0, true), (9, true), (11, false)] {
        let result = verifier.verify(token, now + TimeDelta::minutes(minutes)).await;
        assert_eq!(result.is_ok(), good, "{minutes}");
        assert!(good || matches!(result, Err(VerifyError::Expired)));
    }
    assert!(matches!(verifier.verify("a.b.c", now).await, Err(VerifyError::Invalid)));
    // the key is retired: at the latest when the copy of the keys is old, its tokens stop to open
    database.execute("update molt.signing_keys set retired_at = now()").await;
    let fresh = Verifier::new(Arc::new(local(database.store.clone(), &clock)));
    assert!(matches!(fresh.verify(token, now).await, Err(VerifyError::Invalid)));
}

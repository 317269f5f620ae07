//! What operators may do, and nobody else.

use http::StatusCode;
use molt_store::mail::MailRow;
use molt_store::users::Role;
use serde_json::json;

use crate::kit::{Door, door};

#[tokio::test]
async fn operators_read_mails_and_give_roles_and_all_of_it_is_written_down() {
    let door = door().await;
    let (ann, bob) = (door.person("Ann").await, door.person("Bob").await);
    for path in ["/api/admin/mails", "/api/admin/users"] {
        door.get(path, &ann.token).await.problem(403, "not_an_operator");
    }
    let now = chrono::Utc::now();
    let mut tx = door.database.store.system().await.unwrap();
    assert!(tx.set_role("nobody@example.com", Role::Operator, "command line", now).await.unwrap().is_none());
    assert!(tx.set_role("ANN@example.com", Role::Operator, "command line", now).await.unwrap().is_some());
    for n in 0..3 {
        let mail = MailRow {
            id: uuid::Uuid::new_v4(),
            to_address: "bob@example.com".to_owned(),
            subject: format!("mail {n}"),
            text: Some(format!("text {n}").into()),
            created_at: now + chrono::TimeDelta::seconds(n),
        };
        tx.insert_mail(&mail, door.database.store.seal()).await.unwrap();
        tx.insert_mail(&mail, door.database.store.seal()).await.unwrap();
    }
    tx.commit().await.unwrap();
    let in_clear = "select count(*) from molt.mails m where m::text like '%text _%'";
    assert_eq!(door.database.count(in_clear).await, 0, "the texts rest sealed");

    let first = door.get("/api/admin/mails?limit=2", &ann.token).await.json();
    let next = first["next"].as_str().unwrap();
    let second = door.get(&format!("/api/admin/mails?limit=2&after={next}"), &ann.token).await.json();
    let subjects: Vec<_> = [&first, &second]
        .iter()
        .flat_map(|page| page["items"].as_array().unwrap())
        .map(|mail| &mail["subject"])
        .collect();
    assert_eq!(subjects, ["mail 2", "mail 1", "mail 0"]);
    assert_eq!((&first["items"][1]["text"], &second["items"][0]["text"]), (&json!("text 1"), &json!("text 0")));
    texts_that_are_kept_otherwise(&door, &ann.token).await;
    assert_eq!(second["next"], json!(null));
    door.get("/api/admin/mails?after=x", &ann.token).await.problem(400, "invalid_query");
    door.get("/api/admin/mails?limit=many", &ann.token).await.problem(400, "invalid_query");

    let users = door.get("/api/admin/users?limit=1", &ann.token).await.json();
    assert_eq!(users["items"].as_array().unwrap().len(), 1);
    let next = users["next"].as_str().unwrap();
    let rest = door.get(&format!("/api/admin/users?after={next}"), &ann.token).await.json();
    assert_eq!((rest["items"].as_array().unwrap().len(), &rest["next"]), (1, &json!(null)));

    let role = |id: &str, role: &str| {
        let (path, body) = (format!("/api/admin/users/{id}/role"), json!({ "role": role }));
        let (door, token) = (&door, &ann.token);
        async move { door.call("PUT", &path, token, Some(&body)).await }
    };
    assert_eq!(role(&bob.id, "operator").await.json()["role"], "operator");
    assert_eq!(door.get("/api/admin/users", &bob.token).await.status, StatusCode::OK);
    assert_eq!(role(&bob.id, "user").await.json()["role"], "user");
    door.get("/api/admin/users", &bob.token).await.problem(403, "not_an_operator");
    role(&ann.id, "user").await.problem(409, "not_in_this_state");
    role("00000000-0000-4000-8000-000000000000", "user").await.problem(404, "user_not_found");
    role(&bob.id, "king").await.problem(422, "invalid_body");
    let actions = door.database.text("select string_agg(action, ' ' order by at, action) from molt.audit_log").await;
    let actions = actions.unwrap();
    for (action, count) in [("user.role", 3), ("mails.read", 4), ("users.read", 3)] {
        assert_eq!(actions.matches(action).count(), count, "{actions}");
    }
}

async fn texts_that_are_kept_otherwise(door: &Door, token: &str) {
    // From before texts were sealed, and one that was moved into another row.
    for (set, said) in [
        ("text = 'in clear', text_sealed = null", "in clear"),
        ("text_sealed = (select text_sealed from molt.mails where subject = 'mail 1')", "(This mail was sealed under"),
    ] {
        door.database.execute(&format!("update molt.mails set {set} where subject = 'mail 2'")).await;
        let first = door.get("/api/admin/mails?limit=1", token).await.json();
        assert!(first["items"][0]["text"].as_str().unwrap().starts_with(said), "{first}");
        door.database.execute("update molt.mails set text = null where subject = 'mail 2'").await;
    }
}

//! Signing up, in, on and out.

use chrono::TimeDelta;
use http::StatusCode;
use molt_identity::SignUp;
use serde_json::json;

use crate::kit::{PASSWORD, door, door_with, person_of};

#[tokio::test]
async fn a_person_signs_up_logs_in_and_out() {
    let door = door().await;
    let config = door.get("/api/client-config", "").await.json();
    assert_eq!(
        (&config["identity"], &config["payments"], &config["signup"]),
        (&json!("local"), &json!("local"), &json!("open"))
    );
    let ann = door.person("Ann").await;
    let me = door.get("/api/me", &ann.token).await.json();
    assert_eq!((&me["email"], &me["name"], &me["role"]), (&json!("ann@example.com"), &json!("Ann"), &json!("user")));
    assert_eq!(me["plan"], json!(null));

    // the same address in other letters is the same person
    let again = json!({ "email": "ANN@example.com", "password": PASSWORD });
    assert_eq!(door.post("/api/auth/signup", "", again.clone()).await.problem(409, "email_taken")["field"], "email");
    let answer = door.post("/api/auth/login", "", again).await;
    assert_eq!(answer.status, StatusCode::OK);
    let second = person_of("ann@example.com", &answer);
    assert_eq!(second.id, ann.id);
    let cookie = answer.headers["set-cookie"].to_str().unwrap();
    for rule in ["HttpOnly", "SameSite=Strict", "Path=/api/auth", "Max-Age=2592000"] {
        assert!(cookie.contains(rule), "{cookie}");
    }

    for (email, password) in [("ann@example.com", "wrong horse battery"), ("nobody@example.com", PASSWORD)] {
        let answer = door.post("/api/auth/login", "", json!({ "email": email, "password": password })).await;
        answer.problem(401, "wrong_credentials");
    }

    let out = door.with_cookie("/api/auth/logout", &second.cookie).await;
    assert_eq!(out.status, StatusCode::NO_CONTENT);
    assert!(out.headers["set-cookie"].to_str().unwrap().contains("Max-Age=0"));
    door.with_cookie("/api/auth/refresh", &second.cookie).await.problem(401, "session_ended");
    door.get("/api/me", &second.token).await.problem(401, "unauthenticated");
    assert_eq!(door.get("/api/me", &ann.token).await.status, StatusCode::OK, "the other log-in goes on");
    assert_eq!(door.with_cookie("/api/auth/logout", &second.cookie).await.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_session_is_refreshed_and_a_stolen_cookie_ends_it() {
    let door = door().await;
    let ann = door.person("Ann").await;
    door.clock.forward(TimeDelta::minutes(11));
    let expired = door.get("/api/me", &ann.token).await.problem(401, "unauthenticated");
    assert!(expired["detail"].as_str().unwrap().contains("refresh"));

    // two tabs wake up together: both go on
    let first = door.with_cookie("/api/auth/refresh", &ann.cookie).await;
    let second = door.with_cookie("/api/auth/refresh", &ann.cookie).await;
    assert_eq!((first.status, second.status), (StatusCode::OK, StatusCode::OK));
    let tab = person_of(&ann.email, &first);
    assert_ne!(first.cookie(), second.cookie());
    assert_eq!(door.get("/api/me", &tab.token).await.status, StatusCode::OK);

    // the used cookie comes back later: somebody else has it, so the log-in ends for all
    door.clock.forward(TimeDelta::seconds(11));
    door.with_cookie("/api/auth/refresh", &ann.cookie).await.problem(401, "session_ended");
    door.with_cookie("/api/auth/refresh", &tab.cookie).await.problem(401, "session_ended");
    door.get("/api/me", &tab.token).await.problem(401, "unauthenticated");

    door.with_cookie("/api/auth/refresh", "molt_refresh=made-up").await.problem(401, "session_ended");
    door.with_cookie("/api/auth/refresh", "other=1").await.problem(401, "session_ended");
    let count = door.database.count("select count(*) from molt.sessions where refresh_hash is null").await;
    assert_eq!(count, 0);
}

#[tokio::test]
async fn a_session_ends_after_a_month_away() {
    let door = door().await;
    let ann = door.person("Ann").await;
    door.clock.forward(TimeDelta::days(29));
    let answer = door.with_cookie("/api/auth/refresh", &ann.cookie).await;
    assert_eq!(answer.status, StatusCode::OK);
    door.clock.forward(TimeDelta::days(31));
    door.with_cookie("/api/auth/refresh", &answer.cookie()).await.problem(401, "session_ended");
}

#[tokio::test]
async fn only_our_own_pages_use_the_cookie() {
    let door = door().await;
    let ann = door.person("Ann").await;
    for (origin, status) in
        [("https://evil.example", 403), ("null", 403), ("http://127.0.0.1:8787", 200), ("http://localhost:8787", 200)]
    {
        let headers = [("cookie", ann.cookie.as_str()), ("origin", origin)];
        let answer = door.call_with("POST", "/api/auth/refresh", "", None, &headers).await;
        assert_eq!(answer.status.as_u16(), status, "{origin}");
        assert!(answer.headers.get("access-control-allow-origin").is_none(), "no other origin reads our answers");
    }
}

#[tokio::test]
async fn guessing_a_password_gets_slow() {
    let door = door().await;
    door.person("Ann").await;
    let wrong = json!({ "email": "ann@example.com", "password": "wrong horse battery" });
    for _ in 0..10 {
        door.post("/api/auth/login", "", wrong.clone()).await.problem(401, "wrong_credentials");
    }
    let right = json!({ "email": "ann@example.com", "password": PASSWORD });
    let answer = door.post("/api/auth/login", "", right.clone()).await;
    answer.problem(429, "too_many_tries");
    assert!(answer.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() > 500);
    door.clock.forward(TimeDelta::minutes(10));
    assert_eq!(door.post("/api/auth/login", "", right).await.status, StatusCode::OK);
}

#[tokio::test]
async fn sign_up_by_invitation_or_not_at_all() {
    let door = door_with(SignUp::Invite).await;
    let now = chrono::Utc::now();
    let store = &door.database.store;
    let person = |email: &str, invite: Option<&str>| json!({ "email": email, "password": PASSWORD, "invite": invite });
    let sign_up = |body| door.post("/api/auth/signup", "", body);
    sign_up(person("ann@example.com", None)).await.problem(403, "invite_invalid");
    sign_up(person("ann@example.com", Some("made-up"))).await.problem(403, "invite_invalid");

    use secrecy::ExposeSecret as _;
    let code = molt_identity::invite(store, Some("ann@example.com"), now).await.unwrap();
    let code = code.expose_secret();
    sign_up(person("bob@example.com", Some(code))).await.problem(403, "invite_invalid");
    assert_eq!(sign_up(person("Ann@example.com", Some(code))).await.status, StatusCode::CREATED);
    sign_up(person("ann2@example.com", Some(code))).await.problem(403, "invite_invalid");

    let late = molt_identity::invite(store, None, now).await.unwrap();
    door.clock.forward(TimeDelta::days(15));
    sign_up(person("eve@example.com", Some(late.expose_secret()))).await.problem(403, "invite_invalid");

    let closed = door_with(SignUp::Closed).await;
    let body = person("ann@example.com", None);
    closed.post("/api/auth/signup", "", body).await.problem(403, "signup_closed");
    assert_eq!(closed.database.count("select count(*) from molt.users").await, 0);
}

#[tokio::test]
async fn a_link_by_mail_logs_in_once() {
    use secrecy::ExposeSecret as _;
    let door = door().await;
    let ann = door.person("Ann").await;
    for email in ["ann@example.com", "nobody@example.com"] {
        let answer = door.post("/api/auth/magic-link", "", json!({ "email": email })).await;
        assert_eq!((answer.status, answer.text.as_str()), (StatusCode::ACCEPTED, ""), "{email}");
    }
    assert_eq!(door.database.count("select count(*) from molt.outbox where template = 'magic-link'").await, 1);
    let id = door.database.text("select id from molt.outbox").await.unwrap();
    let data = door.database.text("select data ->> 'link_sealed' from molt.outbox").await.unwrap();
    let binding = molt_store::outbox::data_binding(id.parse().unwrap());
    let link = door.database.store.seal().open(&binding, &hex::decode(data).unwrap()).unwrap();
    let (page, token) = link.expose_secret().split_once('#').unwrap();
    assert_eq!(page, "http://127.0.0.1:8787/link");

    let consume = |token: String| door.post("/api/auth/magic-link/consume", "", json!({ "token": token }));
    let answer = consume(token.to_owned()).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(person_of("ann@example.com", &answer).id, ann.id);
    consume(token.to_owned()).await.problem(401, "link_invalid");
    consume("made-up".to_owned()).await.problem(401, "link_invalid");
    for n in 1..=5 {
        let answer = door.post("/api/auth/magic-link", "", json!({ "email": "ann@example.com" })).await;
        assert_eq!(answer.status.as_u16(), if n < 5 { 202 } else { 429 });
    }
}

#[tokio::test]
async fn a_person_changes_takes_along_and_erases_what_is_theirs() {
    let door = door().await;
    let ann = door.person("Ann").await;
    let bot = door.bot(&ann, "Pip").await;
    let patch = |body| {
        let (door, token) = (&door, &ann.token);
        async move { door.call("PATCH", "/api/me", token, Some(&body)).await }
    };
    let me = patch(json!({ "timezone": "America/Los_Angeles" })).await.json();
    assert_eq!((&me["name"], &me["timezone"]), (&json!("Ann"), &json!("America/Los_Angeles")));
    assert_eq!(patch(json!({ "name": " Anna " })).await.json()["name"], "Anna");
    assert_eq!(patch(json!({ "timezone": "Mars" })).await.problem(422, "invalid_body")["field"], "timezone");
    assert_eq!(patch(json!({ "name": "a\u{0}b" })).await.problem(422, "invalid_body")["field"], "name");

    let export = door.get("/api/me/export", &ann.token).await;
    assert!(export.headers["content-disposition"].to_str().unwrap().contains("molt-export.json"));
    let export = export.json();
    assert_eq!((&export["user"]["email"], &export["bots"][0]["id"]), (&json!(ann.email), &json!(bot)));
    assert_eq!(export["events"][0]["kind"], "bot.created");

    assert_eq!(door.call("DELETE", "/api/me", &ann.token, None).await.status, StatusCode::ACCEPTED);
    door.get("/api/me", &ann.token).await.problem(401, "unauthenticated");
    door.with_cookie("/api/auth/refresh", &ann.cookie).await.problem(401, "session_ended");
    let login = json!({ "email": ann.email, "password": PASSWORD });
    door.post("/api/auth/login", "", login).await.problem(401, "wrong_credentials");
    let intents = door.database.text("select string_agg(intent, ',') from molt.bots where due_at is not null").await;
    assert_eq!(intents.as_deref(), Some("deleted"));
}

#[tokio::test]
async fn what_is_over_goes_and_the_rest_stays() {
    let door = door().await;
    let ann = door.person("Ann").await;
    door.post("/api/auth/magic-link", "", json!({ "email": ann.email })).await;
    door.call("POST", "/api/billing/checkout", &ann.token, None).await;
    door.plan(&ann).await;
    let sweep = async || door.database.store.sweep(molt_model::Clock::now(&door.clock)).await.unwrap();
    assert_eq!(sweep().await, 0);
    door.clock.forward(TimeDelta::days(100));
    assert_eq!(sweep().await, 4, "a log-in, a link, an open checkout, a processed payment event");
    assert_eq!(sweep().await, 0);
    assert_eq!(door.database.count("select count(*) from molt.outbox").await, 1, "a mail that waits is kept");
    let state = door.database.text("select string_agg(state, ' ') from molt.checkouts").await;
    assert_eq!(state.as_deref(), Some("completed"));
}

//! Pages, files, health, and what surrounds every answer.

use http::StatusCode;

use molt_identity::SignUp;

use crate::kit::{door, door_for};

#[tokio::test]
async fn pages_and_files_are_served_with_care() {
    let door = door().await;
    let landing = door.get("/", "").await;
    assert_eq!(landing.status, StatusCode::OK);
    assert!(landing.text.contains("<title>Molt"));
    let policy = landing.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("default-src 'self'") && policy.contains("frame-ancestors 'none'"));
    assert!(!policy.contains("unsafe-eval") && !policy.contains("script-src"));
    assert_eq!(landing.headers["x-content-type-options"], "nosniff");
    assert_eq!(landing.headers["referrer-policy"], "same-origin");
    let etag = landing.headers["etag"].to_str().unwrap();
    let again = door.call_with("GET", "/", "", None, &[("if-none-match", etag)]).await;
    assert_eq!((again.status, again.text.as_str()), (StatusCode::NOT_MODIFIED, ""));
    assert_eq!(door.get("/site.css", "").await.headers["content-type"], "text/css; charset=utf-8");
    for path in [
        "/no-such-file",
        "/..%2f..%2fCargo.toml",
        "/%2e%2e/Cargo.toml",
        "/api/none",
        "/checkout/7",
        "/app/_expo/static/none.js",
    ] {
        door.get(path, "").await.problem(404, "route_not_found");
    }
    let compressed = door.call_with("GET", "/site.css", "", None, &[("accept-encoding", "gzip")]).await;
    assert_eq!(compressed.headers["content-encoding"], "gzip");

    assert_eq!(door.get("/app", "").await.headers["location"], "/app/");
    for path in ["/app/", "/app/bots/molt-0"] {
        let app = door.get(path, "").await;
        let built = app.status == StatusCode::OK && app.headers["content-type"] == "text/html; charset=utf-8";
        assert!(built || app.any_problem()["code"] == "unavailable", "{path}");
    }

    for (page, script) in [("/admin/mails", "/admin/mails.js"), ("/admin/fleet", "/admin/fleet.js")] {
        let shown = door.get(page, "").await;
        assert!(shown.status == StatusCode::OK && shown.text.contains(script), "{page}");
        assert!(
            !shown.text.contains("<style") && !shown.text.contains("style="),
            "{page}: the policy refuses such styles"
        );
        let script = door.get(script, "").await;
        assert_eq!(script.headers["content-type"], "text/javascript; charset=utf-8");
        assert!(script.text.contains("from \"/admin/operator.js\""), "{page}");
    }
    assert!(door.get("/admin/operator.js", "").await.text.contains("export async function ask"));
    assert_eq!(door.get("/admin/operator.css", "").await.headers["content-type"], "text/css; charset=utf-8");

    let checkout = door.get("/checkout/00000000-0000-4000-8000-000000000000", "").await.text;
    for (page, title, script, button) in [
        (door.get("/link", "").await.text, "<title>Log in · Molt</title>", "/link.js", "link-enter"),
        (checkout, "<title>Start the plan · Molt</title>", "/checkout.js", "checkout-accept"),
    ] {
        let frame = page.contains("<title>") && page.contains("</html>") && !page.contains('{');
        assert!(frame && [title, script, button].iter().all(|part| page.contains(part)), "{page}");
        assert_eq!(door.get(script, "").await.headers["content-type"], "text/javascript; charset=utf-8");
    }
    assert!(door.get("/link.js", "").await.text.contains("/api/auth/magic-link/consume"));

    let docs = door.get("/api/docs", "").await;
    assert!(docs.text.contains("/api/bots/{id}/config") && docs.text.contains("id=\"revision_stale\""));
    assert!(!docs.text.contains("<script"));
    assert_eq!(door.get("/api/openapi.json", "").await.text, molt_api::openapi_json());
}

#[tokio::test]
async fn health_says_what_is_missing() {
    let door = door().await;
    assert_eq!(door.get("/healthz", "").await.text, "ok\n");
    let ready = door.get("/readyz", "").await;
    assert_eq!((ready.status, ready.json()["ready"].as_bool()), (StatusCode::OK, Some(true)));
    door.database.store.close().await;
    let waiting = door.get("/readyz", "").await;
    assert_eq!(waiting.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(waiting.json()["waiting_for"][0], "The database doesn't answer.");
    let answer =
        door.post("/api/auth/login", "", serde_json::json!({ "email": "a@example.com", "password": "x" })).await;
    answer.problem(503, "unavailable");
    assert_eq!(answer.headers["retry-after"], "2");
}

#[tokio::test]
async fn only_named_origins_read_our_answers() {
    let door = door_for(SignUp::Open, &["https://app.example"]).await;
    let ask = |method: &'static str, origin: &'static str| {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "if-match"),
        ];
        let door = &door;
        async move { door.call_with(method, "/api/client-config", "", None, &headers).await }
    };
    for (origin, allowed) in [("https://app.example", true), ("https://evil.example", false)] {
        for method in ["OPTIONS", "GET"] {
            let answer = ask(method, origin).await;
            let header = answer.headers.get("access-control-allow-origin").map(|value| value.to_str().unwrap());
            assert_eq!(header, allowed.then_some(origin), "{method}");
        }
    }
    let preflight = ask("OPTIONS", "https://app.example").await;
    assert!(preflight.headers["access-control-allow-headers"].to_str().unwrap().contains("if-match"));
}

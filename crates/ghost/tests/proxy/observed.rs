//! What an operator sees of the proxy: its figures are those of the books.
//! Never: a figure that is only looked at in the proxy's own memory.

use std::time::Duration;

use serde_json::json;

use crate::rig::{Call, Rig};

/// The value of the one line with this beginning.
fn value(page: &str, beginning: &str) -> f64 {
    let mut lines = page.lines().filter_map(|line| line.strip_prefix(beginning));
    let value = lines.next().unwrap_or_else(|| panic!("no {beginning} in {page}")).trim();
    assert_eq!(lines.next(), None, "{beginning} stands there twice");
    value.parse().unwrap()
}

#[tokio::test]
async fn the_figures_are_those_of_the_books_and_name_nobody() {
    let rig = Rig::start().await;
    let stream = json!({ "stream": true });
    let mut answers = Vec::new();
    for extra in [stream.clone(), json!({}), stream.clone()] {
        answers.push(rig.chat("up/ok", extra).await);
    }
    answers.push(rig.chat("up/cut", stream.clone()).await);
    let mut charged = 0;
    for answer in &answers[..3] {
        charged += rig.row(answer).await["cost_nanos"].as_i64().unwrap();
    }
    let cut = rig.row(&answers[3]).await;
    let hung_up = rig.hang_up("up/slow", &stream, 1).await;
    let hung_up = rig.row_of(&hung_up, Duration::from_secs(20)).await;
    assert_eq!(rig.chat("up/broken", stream.clone()).await.status, 429);
    assert_eq!(rig.chat("up/flaky", stream.clone()).await.status, 200);
    assert_eq!(rig.chat("other/badkey", stream).await.status, 429);
    assert_eq!(rig.chat("up/unknown", json!({})).await.status, 404);
    let free = rig.call(Call::get("/v1/nothing")).await;
    assert_eq!(free.status, 404);

    let page = rig.ghost.metrics();
    let of = |model: &str| format!("provider=\"up\",model=\"{model}\",surface=\"chat\"");
    let calls = |model: &str, status: &str| {
        value(&page, &format!("molt_ghost_calls_total{{{},status=\"{status}\"}}", of(model)))
    };
    assert_eq!((calls("ok", "ok"), calls("ok", "unanswered")), (3.0, 0.0));
    assert_eq!((calls("cut", "provider_cut"), calls("cut", "ok")), (1.0, 0.0));
    assert_eq!((calls("broken", "unanswered"), calls("flaky", "ok")), (1.0, 1.0));
    assert_eq!(calls("slow", hung_up["estimate"].as_str().unwrap_or("ok")), 1.0);
    let tokens =
        |model: &str, kind: &str| value(&page, &format!("molt_ghost_tokens_total{{{},kind=\"{kind}\"}}", of(model)));
    assert_eq!((tokens("ok", "input"), tokens("ok", "output")), (3003.0, 21.0));
    assert_eq!((tokens("ok", "cache_read"), tokens("ok", "reasoning")), (1200.0, 9.0));
    assert_eq!(tokens("cut", "output"), cut["tokens_out"].as_f64().unwrap());
    let money = |model: &str| value(&page, &format!("molt_ghost_charged_nanos_total{{{}}}", of(model)));
    assert_eq!(
        (money("ok"), money("cut")),
        (f64::from(i32::try_from(charged).unwrap()), cut["cost_nanos"].as_f64().unwrap())
    );
    for family in ["first_byte", "call", "added"] {
        let count = format!("molt_ghost_{family}_seconds_count{{{}}}", of("ok"));
        assert_eq!(value(&page, &count), 3.0, "{family}");
    }

    // Each of four calls once, and the slow one; three for the broken one, three for the flaky one.
    assert_eq!(value(&page, "molt_ghost_attempts_total{provider=\"up\"}"), 11.0);
    assert_eq!(value(&page, "molt_ghost_retries_total{provider=\"up\"}"), 4.0);
    assert_eq!(value(&page, "molt_ghost_attempts_failed_total{provider=\"up\",reason=\"away\"}"), 5.0);
    assert_eq!(value(&page, "molt_ghost_attempts_failed_total{provider=\"other\",reason=\"key_refused\"}"), 1.0);
    assert_eq!(value(&page, "molt_ghost_keys{provider=\"other\",state=\"refused\"}"), 1.0);
    assert_eq!(value(&page, "molt_ghost_keys{provider=\"up\",state=\"ready\"}"), 1.0);
    assert_eq!(value(&page, "molt_ghost_breaker_open{provider=\"up\"}"), 0.0);
    let refused = |surface: &str, reason: &str| {
        let labels = format!("surface=\"{surface}\",reason=\"{reason}\",answer=\"error\"");
        value(&page, &format!("molt_ghost_refused_total{{{labels}}}"))
    };
    assert_eq!((refused("chat", "model_not_found"), refused("none", "not_found")), (1.0, 1.0));
    assert_eq!(value(&page, "molt_ghost_calls_in_flight "), 0.0);
    assert!(value(&page, "molt_ghost_journal_bytes ") > 0.0);
    assert!(value(&page, "molt_ghost_lease_exchanges_total{outcome=\"answered\"}") >= 1.0);
    assert!(value(&page, "molt_ghost_leased_nanos_total ") >= money("ok") + money("cut"));

    let row = rig.row(&answers[0]).await;
    for secret in ["user_id", "bot_id", "key_id", "id"] {
        let named = row[secret].as_str().unwrap_or("");
        assert!(!named.is_empty() && !page.contains(named), "{secret}: {named:?}");
    }
    assert!(!page.contains("unknown"), "a name that a caller made up");
}

#[tokio::test]
async fn a_provider_that_is_left_alone_and_a_notice_are_seen() {
    let rig = Rig::start().await;
    futures_util::future::join_all((0..5).map(|_| rig.chat("down/x", json!({})))).await;
    rig.database.execute("update molt.billing set subscription_status = 'canceled'").await;
    rig.chat_until("up/ok", "no plan is in force").await;
    let page = rig.ghost.metrics();
    assert_eq!(value(&page, "molt_ghost_breaker_open{provider=\"down\"}"), 1.0);
    for family in ["attempts", "connections_opened"] {
        let none = format!("molt_ghost_{family}_total{{provider=\"down\"}}");
        assert_eq!(value(&page, &none), 0.0, "nothing ever left");
    }
    let notice = "molt_ghost_refused_total{surface=\"chat\",reason=\"not_available\",answer=\"notice\"}";
    assert_eq!(value(&page, notice), 1.0);
}

//! A proxy whose machine is gone for good: an operator gives back what it held, and only then others may spend it.
//! Never: money of a proxy that may still be at work.

use molt_store::testing::database;
use serde_json::json;

use crate::stack::http::{Ask, Client};
use crate::stack::{LOOK_AGAIN, fresh_folder};
use crate::storm::people::program;
use crate::storm::plan::{HONEST, Plan, Surface, Wish};
use crate::storm::provider::Provider;
use crate::storm::proxies::Proxies;
use crate::storm::{Folder, settings};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_lost_proxy_held_goes_back_by_an_operators_word() {
    let folder = Folder(fresh_folder());
    let (database, provider) = (database().await, Provider::start().await);
    let keys = folder.0.join("keys");
    std::fs::write(&keys, "sk-one\n").expect("our own folder");
    let settings = settings(&provider, &keys, crate::stack::free_port());
    let mut proxies = Proxies::start(&folder.0, 1, &settings, &database.url).await;
    let key = program(&database).await;
    let wish = Wish { marker: 1, plan: Plan::Good, words: 3 };
    let body = json!({ "model": HONEST.id, "max_tokens": 9, "messages": [{ "role": "user", "content": wish.text() }] });
    let ask = Ask::new("post", Surface::Chat.path()).bearer(&key).json(&body);
    Client::new(proxies.ports()[0]).send(ask).await.ok();
    while database.count("select count(*) from molt.usage_logs").await == 0 {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    proxies.lose(0);
    let held = database.count("select sum(leased_nanos) from molt.budgets where scope = 'user'").await;
    assert!(held > 0, "it held money");
    let id = database.text("select id::text from molt.holders where released_at is null").await.expect("a holder");

    let run = |arguments: &[&str]| {
        let output = proxies.operator(arguments);
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    };
    let (listed, said) = run(&["admin", "proxies"]);
    assert!(listed && said.contains(&id) && said.contains("seen"), "{said}");
    let (done, said) = run(&["admin", "lose-proxy", &id]);
    assert!(!done && said.contains("was seen") && said.contains("stop it first"), "{said}");
    assert_eq!(database.count("select sum(leased_nanos) from molt.budgets where scope = 'user'").await, held);
    database.execute("update molt.holders set seen_at = seen_at - interval '2 minutes'").await;
    let (done, said) = run(&["admin", "lose-proxy", &id]);
    assert!(done && said.contains("went back"), "{said}");
    assert_eq!(database.count("select sum(leased_nanos) from molt.budgets").await, 0);
    let audited = "select count(*) from molt.audit_log where action = 'proxy.lost' and actor = 'command line'";
    assert_eq!(database.count(audited).await, 1);
    for id in [id.as_str(), "00000000-0000-0000-0000-000000000000"] {
        let (done, said) = run(&["admin", "lose-proxy", id]);
        assert!(!done && said.contains("no such proxy"), "{said}");
    }
    let (listed, said) = run(&["admin", "proxies"]);
    assert!(listed && said.contains("No proxy holds any money"), "{said}");
}

//! Prices as an operator meets them: a list is imported while everything runs, and what calls cost follows at once.
//! Never: a call that costs nothing because nobody wrote a price down.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::stack::Stack;
use crate::stack::http::{Answer, Ask};
use crate::stack::people::Person;
use crate::stack::upstream::{Call, Upstream};

/// How long an imported price may take to be in force (the issue's own figure).
const IN_FORCE_MAX: Duration = Duration::from_secs(1);

struct Story {
    stack: Stack,
    upstream: Upstream,
    person: Person,
    key: String,
}

/// A provider whose models have no price in the settings, and one with a ceiling at the same address.
fn settings(upstream: &Upstream) -> String {
    let address = format!("http://127.0.0.1:{}/v1", upstream.port);
    format!(
        "[aliases]\nbest = [\"practice/practice-1\"]\n\
         [providers.bare]\nkind = \"openai\"\nbase_url = \"{address}\"\n\
         [providers.capped]\nkind = \"openai\"\nbase_url = \"{address}\"\n\
         ceiling_input_usd = \"7.000000001\"\nceiling_output_usd = \"9\"\n"
    )
}

fn list(day: &str, input: &str, output: &str) -> Value {
    let rates = json!({"input": input, "output": output, "tiers": [
        {"tier": {"size": 1_010}, "input": "3.000000003", "output": output}
    ]});
    json!({"date": day, "source": "the test's own", "unit": "US dollars per million tokens", "models": [
        {"provider": "bare", "model": "parrot", "usd_per_million_tokens": rates}
    ]})
}

impl Story {
    async fn begin() -> Self {
        let upstream = Upstream::start(Duration::ZERO).await;
        let stack = Stack::start_with(&settings(&upstream)).await;
        let (person, _) = stack.with_bot("Ada").await;
        let key = stack.make_key(&person.email).await;
        Self { stack, upstream, person, key }
    }

    async fn call(&self, model: &str) -> Answer {
        let body = json!({"model": model, "messages": [{"role": "user", "content": "hello"}]});
        let ask = Ask::new("post", "/v1/chat/completions").bearer(&self.key).json(&body);
        self.stack.http.send(ask).await
    }

    /// The newest row of this model: cost and price book.
    async fn row(&self, model: &str, number: i64) -> (i64, String) {
        let rows = format!("from molt.usage_logs where model = '{model}'");
        let count = format!("select count(*) {rows}");
        let database = &self.stack.database;
        self.stack.eventually("a row", async || (database.count(&count).await == number).then_some(())).await;
        let cost = database.count(&format!("select cost_nanos {rows} order by at desc limit 1")).await;
        let version = database.text(&format!("select price_version {rows} order by at desc limit 1")).await;
        (cost, version.expect("every row names its book"))
    }

    async fn import(&self, list: &Value) -> String {
        let file = self.stack.data().join("list.json");
        std::fs::write(&file, list.to_string()).expect("our own folder");
        self.stack.operator(&["prices", "import", &file.display().to_string()]).await
    }

    fn last(&self) -> Call {
        *self.upstream.calls().last().expect("the provider was called")
    }
}

/// Nano-dollars of a call at these nano-dollars per million tokens, 20 % on top, rounded down once.
fn charged(call: Call, input: i64, output: i64) -> i64 {
    let total = i128::from(call.tokens_in) * i128::from(input) + i128::from(call.tokens_out) * i128::from(output);
    i64::try_from(total * 12 / 10_000_000).expect("a small sum")
}

#[tokio::test]
async fn an_imported_price_is_in_force_at_once_and_old_rows_keep_theirs() {
    let story = Story::begin().await;
    let refused = story.call("bare/parrot").await;
    assert_eq!((refused.status, story.upstream.calls().len()), (404, 0), "no price, no call: {}", refused.text);

    let said = story.import(&list("2026-11-01", "1.000000001", "2.000000001")).await;
    assert!(said.contains("+ bare/parrot: $1.000000001 in, $2.000000001 out; above 1010 tokens"), "{said}");
    assert!(!said.contains("openai/"), "what the list doesn't name stays: {said}");
    let began = Instant::now();
    while story.call("bare/parrot").await.status == 404 {
        assert!(began.elapsed() < IN_FORCE_MAX, "the imported price is not in force");
    }
    let (cost, first_book) = story.row("bare/parrot", 1).await;
    let first = story.last();
    assert_eq!(cost, charged(first, 1_000_000_001, 2_000_000_001));
    // Its input is above the tier's threshold.
    story.call("bare/parrot").await.ok();
    let (cost, book) = story.row("bare/parrot", 2).await;
    assert!(story.last().tokens_in > 1_010);
    assert_eq!((cost, &book), (charged(story.last(), 3_000_000_003, 2_000_000_001), &first_book));

    let said = story.import(&list("2026-11-02", "1.000000001", "5")).await;
    assert!(said.contains("~ bare/parrot: $1.000000001 in, $2.000000001 out"), "{said}");
    let books = "select count(*) from molt.price_books";
    story.stack.eventually("a new book", async || (story.stack.database.count(books).await == 3).then_some(())).await;
    let imported = Instant::now();
    let (cost, second_book) = loop {
        story.call("bare/parrot").await.ok();
        let calls = i64::try_from(story.upstream.calls().len()).expect("few");
        let row = story.row("bare/parrot", calls).await;
        if row.1 != first_book {
            break row;
        }
        assert!(imported.elapsed() < IN_FORCE_MAX, "the new price is not in force");
    };
    assert_eq!(cost, charged(story.last(), 3_000_000_003, 5_000_000_000));
    assert!(first_book.starts_with("2026-11-01-") && second_book.starts_with("2026-11-02-"));
    let then = story.stack.operator(&["prices", "show", "bare/parrot", "--version", &first_book]).await;
    assert!(then.contains("$1.000000001 in, $2.000000001 out") && then.contains("the test's own"), "{then}");
    let now = story.stack.operator(&["prices", "show", "bare/parrot"]).await;
    assert!(now.contains("$5 out"), "{now}");
    let same = story.import(&list("2026-11-02", "1.000000001", "5")).await;
    assert!(same.contains("in force already"), "{same}");
    story.stack.finish().await;
}

#[tokio::test]
async fn a_model_that_nobody_knows_costs_the_ceiling_and_a_broken_list_changes_nothing() {
    let story = Story::begin().await;
    story.call("capped/who-knows").await.ok();
    let (cost, book) = story.row("capped/who-knows", 1).await;
    assert_eq!(cost, charged(story.last(), 7_000_000_001, 9_000_000_000));
    for name in ["best", "molt/best"] {
        story.call(name).await.ok();
    }
    let aliased = story.row("practice/practice-1", 2).await;
    assert!(aliased.0 > 0 && aliased.1 == book, "the books name the model, not the alias");
    let models = story.stack.http.get("/api/models", &story.person).await.ok();
    let ids: Vec<_> = models["items"].as_array().into_iter().flatten().filter_map(|item| item["id"].as_str()).collect();
    assert_eq!(ids, ["molt/best", "practice/practice-1"], "what nobody listed isn't shown");

    let mut broken = list("2026-11-03", "1", "1");
    broken["models"][0]["usd_per_million_tokens"]["input_audio"] = json!(4);
    let file = story.stack.data().join("broken.json");
    std::fs::write(&file, broken.to_string()).expect("our own folder");
    let output =
        story.stack.operator_command(&["prices", "import"]).arg(&file).output().expect("the program was built");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("input_audio"), "{said}");
    assert_eq!(story.stack.database.count("select count(*) from molt.price_lists").await, 0);
    story.stack.finish().await;
}

//! The steps of the journey that every flow begins with, each through the front door.
//! Never: a row written behind the program's back.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::http::Ask;
use super::{LOOK_AGAIN, PATIENCE, Stack};

/// Somebody with an account.
#[derive(Clone, Debug)]
pub(crate) struct Person {
    pub(crate) email: String,
    pub(crate) id: String,
    pub(crate) token: String,
}

pub(crate) const PASSWORD: &str = "a lobster in the garden";

impl Stack {
    pub(crate) async fn signup(&self, name: &str) -> Person {
        let email = format!("{}@example.com", name.to_lowercase());
        let body = json!({"email": email, "password": PASSWORD, "name": name});
        let answer = self.http.send(Ask::new("post", "/api/auth/signup").json(&body)).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        Person { email, id: text(&answer.json["user"]["id"]), token: text(&answer.json["token"]) }
    }

    /// The wizard's three answers; the id of what comes of it.
    pub(crate) async fn wizard(&self, person: &Person, bot_name: &str) -> String {
        let body = json!({"bot_name": bot_name, "vertical": "developer", "timezone": "Europe/Berlin"});
        let answer = self.http.post("/api/bots", person, &body).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        answer.json["id"].as_str().expect("an id").to_owned()
    }

    /// Checkout and its one button.
    pub(crate) async fn accept_plan(&self, person: &Person, bot: &str) {
        let checkout = self.http.post("/api/billing/checkout", person, &json!({"bot_id": bot})).await.ok();
        let url = checkout["url"].as_str().expect("an address").to_owned();
        let path = url.strip_prefix(&format!("http://127.0.0.1:{}", self.port)).expect("a page of ours").to_owned();
        self.http.send(Ask::new("post", &path).by(person)).await.ok();
    }

    pub(crate) async fn bot(&self, person: &Person, bot: &str) -> Value {
        self.http.get(&format!("/api/bots/{bot}"), person).await.ok()
    }

    /// Waits until the bot runs; how long that took.
    pub(crate) async fn wait_running(&self, person: &Person, bot: &str) -> Duration {
        let began = Instant::now();
        self.wait_status(person, bot, "running").await;
        began.elapsed()
    }

    pub(crate) async fn wait_status(&self, person: &Person, bot: &str, status: &str) {
        let began = Instant::now();
        loop {
            let seen = self.bot(person, bot).await;
            if seen["status"] == status {
                return;
            }
            assert!(seen["status"] != "error" && began.elapsed() < PATIENCE, "not {status}: {seen:#}");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Somebody with a running bot: person and bot.
    pub(crate) async fn with_bot(&self, name: &str) -> (Person, String) {
        let person = self.signup(name).await;
        let bot = self.wizard(&person, "Pip").await;
        self.accept_plan(&person, &bot).await;
        self.wait_running(&person, &bot).await;
        (person, bot)
    }

    /// What whoever runs the installation types.
    pub(crate) async fn grant_operator(&self, email: &str) {
        self.operator(&["admin", "grant-operator", email]).await;
    }

    /// A Ghost Key for a program of this person's.
    pub(crate) async fn make_key(&self, email: &str) -> String {
        let said = self.operator(&["keys", "create", "--user", email]).await;
        said.split_whitespace().max_by_key(|word| word.len()).expect("a key").to_owned()
    }

    /// Runs a command line of the operator's; what it printed.
    pub(crate) async fn operator(&self, arguments: &[&str]) -> String {
        let mut command = self.operator_command(arguments);
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
        let output = output.expect("the program was built");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

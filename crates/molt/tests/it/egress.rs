//! The way out of a real sealed cell, as an assistant's own shell takes it and its owner decides it.
//! Never: a server that isn't this machine's own.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::stack::people::Person;
use crate::stack::{LOOK_AGAIN, PATIENCE, Stack};

/// What an owner allows is in force after no more than this.
const IN_FORCE_WITHIN: Duration = Duration::from_secs(1);

/// Says to everybody that they came through.
async fn web() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("a port");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\nconnection: close\r\n\r\ncame-through\n";
            let _ = stream.write_all(answer).await;
        }
    });
    address
}

/// An assistant with a shell in its cell.
struct Shell<'a> {
    stack: &'a Stack,
    person: Person,
    bot: String,
    turns: u32,
}

impl Shell<'_> {
    /// Has the assistant run a command; what the command said.
    async fn run(&mut self, command: &str) -> String {
        self.turns += 1;
        let mut chat = self.stack.chat(&self.person, &self.bot).await;
        let text = format!("Please execute the command `{command}` and tell me what it prints.");
        let turn = chat.turn(&format!("m-{}", self.turns), "main", &text).await;
        let results = turn.of("tool_result");
        results.iter().map(|frame| frame["result"].to_string()).collect::<Vec<_>>().join("\n")
    }

    /// By the cell's own forwarder, as the runtime tells its tools.
    async fn get(&mut self, address: &str) -> String {
        self.run(&format!("curl -sS --max-time 10 -x http://127.0.0.1:3128 {address} 2>&1; true")).await
    }

    async fn egress(&self) -> Value {
        self.stack.http.get(&format!("/api/bots/{}/egress", self.bot), &self.person).await.ok()
    }
}

#[tokio::test]
async fn a_sealed_assistant_reaches_what_is_allowed_and_nothing_else() {
    let (listed, other) = (web().await, web().await);
    let settings = format!(
        "[egress]\nallow = [\"listed.example\"]\n\
         [egress.private]\n\"listed.example:80\" = \"{listed}\"\n\"other.example:80\" = \"{other}\"\n"
    );
    let stack = Stack::start_with(&settings).await;
    let (person, bot) = stack.with_bot("Ada").await;
    let mut shell = Shell { stack: &stack, person, bot, turns: 0 };
    assert_eq!(
        shell.egress().await,
        json!({ "allowed": [{ "domain": "listed.example", "source": "operator", "since": null }], "refused": [] })
    );
    let said = shell.get("http://listed.example/").await;
    assert!(said.contains("came-through"), "{said}");
    // Past the proxy there is no way at all, and its own words lead nowhere inside.
    let said = shell.run(&format!("curl -sS --max-time 5 http://{listed}/ 2>&1; true")).await;
    assert!(!said.contains("came-through"), "{said}");
    for inside in
        [format!("http://{listed}/"), "http://169.254.169.254/".to_owned(), format!("http://127.0.0.1:{}/", stack.port)]
    {
        let said = shell.get(&inside).await;
        assert!(said.contains("ask for a domain name"), "{inside}: {said}");
    }
    let said = shell.get("http://other.example/").await;
    assert!(said.contains("may not reach other.example"), "{said}");
    let began = Instant::now();
    let line = loop {
        let seen = shell.egress().await;
        let mut lines = seen["refused"].as_array().expect("a list").iter();
        if let Some(line) = lines.find(|line| line["domain"] == "other.example") {
            break line.clone();
        }
        assert!(began.elapsed() < PATIENCE, "not shown: {seen}");
        tokio::time::sleep(LOOK_AGAIN).await;
    };
    assert_eq!((&line["reason"], &line["can_allow"], &line["port"]), (&json!("not_listed"), &json!(true), &json!(80)));
    let path = format!("/api/bots/{}/egress/allow", shell.bot);
    stack.http.post(&path, &shell.person, &json!({ "domain": "other.example" })).await.ok();
    tokio::time::sleep(IN_FORCE_WITHIN).await;
    let said = shell.get("http://other.example/").await;
    assert!(said.contains("came-through"), "{said}");
    stack.http.delete(&format!("{path}/other.example"), &shell.person).await.ok();
    tokio::time::sleep(IN_FORCE_WITHIN).await;
    let said = shell.get("http://other.example/").await;
    assert!(said.contains("may not reach other.example"), "{said}");
    stack.finish().await;
}

//! Ctrl-C while people are there: everything ends in an order in which nobody misses what has ended before.
//! Never: a stack without streams, sockets and requests under way.

use crate::stack::Stack;
use crate::stack::http::Ask;

/// One stop may be lucky.
const STOPS: u32 = 3;

#[tokio::test]
async fn a_stop_while_people_are_there_leaves_no_warning() {
    let mut stack = Stack::start_private().await;
    let person = stack.signup("Ada").await;
    let bot = stack.wizard(&person, "Pip").await;
    for _ in 0..STOPS {
        let _live = stack.live(&person, None).await;
        let _chat = stack.chat(&person, &bot).await;
        let (http, ask) = (stack.http.clone(), Ask::new("get", "/api/me").by(&person));
        let asking = tokio::spawn(async move { while http.try_send(ask.clone()).await.is_some() {} });
        let status = stack.interrupt().await;
        assert!(status.success(), "{status}");
        asking.await.expect("it ends with the program");
        stack.launch().await;
    }
    let log = stack.finish_quietly().await;
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).collect();
    assert!(warnings.is_empty(), "warnings in the log:\n{}", warnings.join("\n"));
}

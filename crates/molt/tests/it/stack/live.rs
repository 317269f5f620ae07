//! A reader of `GET /api/events`, as somebody else would write it.
//! Never: an event skipped because it came in two pieces.

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::http::header::CONTENT_TYPE;
use serde_json::Value;

use super::http::Ask;
use super::people::Person;
use super::{PATIENCE, Stack};

pub(crate) struct Live {
    body: Incoming,
    unread: String,
    /// What came so far: `id:` and the data.
    pub(crate) events: Vec<(i64, Value)>,
}

impl Stack {
    /// Everything that changes for this person: from now on, or behind an event.
    pub(crate) async fn live(&self, person: &Person, after: Option<i64>) -> Live {
        let mut ask = Ask::new("get", "/api/events").by(person);
        if let Some(id) = after {
            ask = ask.header("last-event-id", &id.to_string());
        }
        let answer = self.http.open(ask).await.expect("the program listens");
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()[CONTENT_TYPE], "text/event-stream");
        Live { body: answer.into_body(), unread: String::new(), events: Vec::new() }
    }
}

impl Live {
    /// Reads until an event of this kind came.
    pub(crate) async fn until(&mut self, kind: &str) -> Value {
        self.until_that(kind, |event| event["kind"] == kind).await
    }

    pub(crate) async fn until_that(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            while let Some((block, rest)) = self.unread.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.unread = rest;
                if let Some((id, data)) = read(&block) {
                    self.events.push((id, data.clone()));
                    if wanted(&data) {
                        return data;
                    }
                }
            }
            let piece = tokio::time::timeout(PATIENCE, self.body.frame()).await;
            let Ok(Some(Ok(piece))) = piece else { panic!("no {what} came: {:#?}", self.events) };
            self.unread.push_str(&String::from_utf8_lossy(piece.data_ref().map_or(&[][..], |data| data)));
        }
    }
}

/// One block of lines; comments that only keep the connection open are none.
fn read(block: &str) -> Option<(i64, Value)> {
    let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let data = field("data:")?;
    Some((field("id:")?.parse().expect("a number"), serde_json::from_str(data).expect("data is JSON")))
}

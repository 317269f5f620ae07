//! What a provider's refusal means, and its words made fit to be passed on.
//! Never: a key or a part of one in a sentence, or words that make the runtime lock the provider out.

use std::time::Duration;

use http::StatusCode;
use serde_json::Value;

use super::keyring::Keyring;
use crate::answer::Refusal;

/// Of a provider's sentence that is passed on.
const TEXT_CHARACTERS_MAX: usize = 500;
/// Asked of the caller when the provider names no time.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(10);
/// Words that make the runtime lock the provider out, whatever the status.
const LOCKING_WORDS: [&str; 7] = ["credit", "billing", "balance", "payment", "quota", "insufficient", "subscription"];
/// How keys of the known providers begin.
const KEY_BEGINNINGS: [&str; 7] = ["sk-", "sk_", "pk-", "xai-", "gsk_", "AIza", "VENICE_"];
/// A word of letters and figures that is so long isn't one that people read.
const WORD_CHARACTERS_MAX: usize = 40;

/// Why an attempt came to nothing, and so who could do better.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The request itself: nobody would take it. Passed on.
    Caller(Refusal),
    /// This key isn't taken; another may be.
    Key {
        /// It is the key, and can't be what is asked under it.
        surely: bool,
    },
    /// No more under this key for so long.
    Busy(Duration),
    /// The provider failed, was silent or can't be reached.
    Away {
        /// Trying again is harmless and may help.
        again: bool,
        /// It says when it is back.
        wait: Option<Duration>,
    },
    /// Not the provider: nothing can leave here.
    Here,
}

/// What an answer that is no success means.
#[cold]
pub(super) fn judge(status: StatusCode, retry_after: Option<Duration>, body: &[u8], keys: &Keyring) -> Trouble {
    match status.as_u16() {
        400 | 404 | 413 | 415 | 422 => {
            let said = sentence(body, keys).unwrap_or_else(|| "The model's provider refused the request.".to_owned());
            Trouble::Caller(Refusal::new(status, "invalid_request_error", "provider_refused", said))
        }
        401 => Trouble::Key { surely: true },
        402 | 403 => Trouble::Key { surely: false },
        429 => Trouble::Busy(retry_after.unwrap_or(RETRY_AFTER)),
        408 | 409 | 425 => Trouble::Away { again: true, wait: retry_after },
        _ => Trouble::Away { again: status.is_server_error(), wait: retry_after },
    }
}

/// What only time or the operator can mend: neutral words and a time to come back.
#[cold]
pub(super) fn unavailable(wait: Duration) -> Refusal {
    Refusal::later("provider_unavailable", "The model can't be reached just now; please try again.", seconds(wait))
}

#[cold]
pub(super) fn busy(wait: Duration) -> Refusal {
    Refusal::later("provider_busy", "The model is busy just now; please try again.", seconds(wait))
}

/// Rounded up, and at least one.
fn seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

/// The provider's own sentence. `None`: it has none that may be passed on.
fn sentence(body: &[u8], keys: &Keyring) -> Option<String> {
    let value: Value = serde_json::from_slice(body).ok()?;
    let message = value.pointer("/error/message").or_else(|| value.get("message")).or_else(|| value.get("error"))?;
    let text = keys.hide(message.as_str()?.to_owned());
    let text: String = text.split_inclusive(char::is_whitespace).map(hidden).collect();
    let text: String = text.chars().take(TEXT_CHARACTERS_MAX).collect();
    let lower = text.to_lowercase();
    (!LOCKING_WORDS.iter().any(|word| lower.contains(word))).then_some(text)
}

/// The word, or a mark in its place. Providers quote a part of a wrong key (`sk-…abcd`).
fn hidden(word: &str) -> &str {
    let of_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '*' | '.' | '…');
    let suspect = word.split(|c| !of_key(c)).any(|part| {
        let begins = KEY_BEGINNINGS.iter().any(|beginning| part.starts_with(beginning));
        let starred = part.contains("***") && part.len() > 8;
        begins || starred || part.chars().count() > WORD_CHARACTERS_MAX
    });
    match (suspect, word.chars().next_back()) {
        (false, _) => word,
        (true, Some('\n')) => "[key]\n",
        (true, Some(last)) if last.is_whitespace() => "[key] ",
        (true, _) => "[key]",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn keys() -> Keyring {
        Keyring::new(vec![secrecy::SecretString::from("master-0123456789").into()]).unwrap()
    }

    fn said(message: &str) -> Option<String> {
        sentence(json!({ "error": { "message": message } }).to_string().as_bytes(), &keys())
    }

    #[test]
    fn no_sentence_carries_a_key() {
        for (given, passed) in [
            ("The task-list is 12 tokens too long.", "The task-list is 12 tokens too long."),
            ("Incorrect API key provided: sk-abc***xyz. See docs", "Incorrect API key provided: [key] See docs"),
            ("key=sk-abc, Bearer master-0123456789\nend", "[key] Bearer [key]\nend"),
            ("(\"gsk_x\") ab****cdef ok", "[key] [key] ok"),
            ("of org 0123456789abcdef0123456789abcdef0123456789 now", "of org [key] now"),
        ] {
            assert_eq!(said(given).as_deref(), Some(passed), "{given}");
        }
        assert_eq!(said(&"word ".repeat(300)).map(|text| text.len()), Some(TEXT_CHARACTERS_MAX));
        for locking in ["You exceeded your current quota", "Insufficient funds", "BILLING hard limit"] {
            assert_eq!(said(locking), None, "{locking}");
        }
        for (body, passed) in [
            (json!({ "type": "error", "error": { "type": "x", "message": "too long" } }).to_string(), Some("too long")),
            (json!({ "message": "no" }).to_string(), Some("no")),
            (json!({ "error": "no" }).to_string(), Some("no")),
            (json!({ "error": { "code": 3 } }).to_string(), None),
            ("<html>".to_owned(), None),
        ] {
            assert_eq!(sentence(body.as_bytes(), &keys()).as_deref(), passed, "{body}");
        }
    }

    #[test]
    fn each_status_has_one_meaning() {
        let meaning = |status: u16, seconds: Option<u64>| {
            let status = StatusCode::from_u16(status).unwrap();
            match judge(status, seconds.map(Duration::from_secs), b"", &keys()) {
                Trouble::Caller(refusal) => format!("caller {}", refusal.status.as_u16()),
                Trouble::Key { surely } => format!("key {surely}"),
                Trouble::Busy(wait) => format!("busy {}", wait.as_secs()),
                Trouble::Away { again, wait } => format!("away {again} {:?}", wait.map(|wait| wait.as_secs())),
                Trouble::Here => "here".to_owned(),
            }
        };
        for (status, retry_after, expected) in [
            (400, None, "caller 400"),
            (404, None, "caller 404"),
            (413, None, "caller 413"),
            (415, None, "caller 415"),
            (422, None, "caller 422"),
            (401, None, "key true"),
            (402, None, "key false"),
            (403, None, "key false"),
            (429, None, "busy 10"),
            (429, Some(3), "busy 3"),
            (500, None, "away true None"),
            (503, Some(4), "away true Some(4)"),
            (529, None, "away true None"),
            (408, None, "away true None"),
            (301, None, "away false None"),
            (405, None, "away false None"),
        ] {
            assert_eq!(meaning(status, retry_after), expected, "{status}");
        }
        assert_eq!(busy(Duration::from_millis(2100)).retry_after_seconds, Some(3));
        assert_eq!(unavailable(Duration::ZERO).retry_after_seconds, Some(1));
    }
}

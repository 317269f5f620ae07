//! Who calls, and whether the call may go out: one query, then one pure decision.
//! Never: a call let through on a guess; without the database there is no admission.

use axum::http::HeaderMap;
use http::{StatusCode, header};
use molt_model::{Nanos, RunId, Time};
use molt_store::StoreError;
use molt_store::ghost::{Admission, key_hash};
use secrecy::SecretString;
use serde_json::json;
use url::Url;
use uuid::Uuid;

use crate::Inner;
use crate::answer::Refusal;

/// Our keys have 68 bytes; anything much longer isn't hashed.
const KEY_BYTES_MAX: usize = 256;
/// When the database is away. It is back within seconds or an operator is looking.
const DATABASE_RETRY_SECONDS: u64 = 5;
/// Where a notice can't be given (embeddings): as often as the user may have mended it.
pub(crate) const NOTICE_RETRY_SECONDS: u64 = 60;

/// Why a call gets an answer of the proxy's own instead of a model's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    PlanNotInForce,
    /// The lower of the person's own cap and the installation's.
    UserCap(Nanos),
    KeyCap(Nanos),
}

/// The decision. `None`: the call goes out.
pub(crate) fn decide(admission: &Admission, installation_cap: Nanos) -> Option<Notice> {
    let user_cap = admission.user_cap.map_or(installation_cap, |cap| cap.min(installation_cap));
    let key_cap = admission.key_cap.filter(|&cap| admission.key_spent >= cap);
    if !admission.plan_in_force {
        Some(Notice::PlanNotInForce)
    } else if admission.user_spent >= user_cap {
        Some(Notice::UserCap(user_cap))
    } else {
        key_cap.map(Notice::KeyCap)
    }
}

impl Notice {
    /// What the bot says in the user's chat: what happened, and where to mend it.
    pub(crate) fn text(self, public_url: &Url, period_end: Time) -> String {
        let page = |path: &str| format!("{}{path}", public_url.as_str().trim_end_matches('/'));
        let again = period_end.format("%-d %B");
        match self {
            Self::PlanNotInForce => format!(
                "I can't think just now: no plan is in force for this account. You can choose or renew it here, and I \
                 answer again at once: {}",
                page("/app/plan")
            ),
            Self::UserCap(cap) => format!(
                "I stopped here because this month's spending limit of {} is reached. You can raise the limit here, and \
                 I answer again at once: {} Otherwise I'm back on {again}.",
                dollars(cap),
                page("/app/usage")
            ),
            Self::KeyCap(cap) => format!(
                "I stopped here because this key's own spending limit of {} is reached. You can see what it was used for \
                 here: {} It works again on {again}.",
                dollars(cap),
                page("/app/usage")
            ),
        }
    }

    /// The same where no message can be given.
    pub(crate) fn refusal(self) -> Refusal {
        match self {
            Self::PlanNotInForce => {
                Refusal::later("not_available", "Not available for this account just now.", NOTICE_RETRY_SECONDS)
            }
            Self::UserCap(_) | Self::KeyCap(_) => {
                Refusal::later("monthly_allowance_reached", "Monthly allowance reached.", NOTICE_RETRY_SECONDS)
            }
        }
    }
}

/// With cents, as people write it; smaller amounts in full.
fn dollars(amount: Nanos) -> String {
    let text = amount.to_string();
    let short =
        text.strip_suffix("0000").filter(|rest| rest.split_once('.').is_some_and(|(_, cents)| cents.len() == 2));
    format!("${}", short.unwrap_or(&text))
}

/// The key of the call.
pub(crate) fn bearer(headers: &HeaderMap) -> Result<SecretString, Refusal> {
    let refused = || {
        let message = "Send your Ghost Key as \"Authorization: Bearer <key>\". A revoked or unknown key opens nothing.";
        Refusal::new(StatusCode::UNAUTHORIZED, "authentication_error", "invalid_api_key", message)
    };
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).ok_or_else(refused)?;
    let (scheme, key) = value.split_once(' ').ok_or_else(refused)?;
    let key = key.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(refused());
    }
    Ok(key.to_owned().into())
}

/// The run that the caller says it works for: the trace id of `traceparent`. A label, never the basis of a bill.
pub(crate) fn run_label(headers: &HeaderMap) -> Option<RunId> {
    let value = headers.get("traceparent")?.to_str().ok()?;
    let mut parts = value.split('-');
    let (_version, trace) = (parts.next()?, parts.next()?);
    let plain = trace.len() == 32 && trace.bytes().all(|byte| byte.is_ascii_hexdigit());
    plain.then(|| Uuid::parse_str(trace).ok().map(RunId)).flatten()
}

impl Inner {
    /// Looks the key up. An error is an answer: unknown key, or no database.
    pub(crate) async fn admission(&self, key: &SecretString) -> Result<Admission, Refusal> {
        let found = self.look_up(key).await.map_err(|error| {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "no call can be admitted: the database doesn't answer"
            );
            Refusal::later("not_available", "Not available just now; please try again.", DATABASE_RETRY_SECONDS)
        })?;
        found.filter(|admission| !admission.revoked).ok_or_else(|| {
            let message = "This Ghost Key is unknown or was revoked. Use the bot's current key.";
            Refusal::new(StatusCode::UNAUTHORIZED, "authentication_error", "invalid_api_key", message)
        })
    }

    async fn look_up(&self, key: &SecretString) -> Result<Option<Admission>, StoreError> {
        let now = self.clock.now();
        self.book_kept.get_or_try_init(|| self.keep_book(now)).await?;
        let mut tx = self.store.system().await?;
        let admission = tx.admission(&key_hash(key), now).await?;
        tx.commit().await?;
        Ok(admission)
    }

    /// Usage rows name the price book, so it is in the database before the first call is admitted.
    async fn keep_book(&self, now: Time) -> Result<(), StoreError> {
        let catalog = self.catalog.current();
        let prices = json!(catalog.prices());
        let mut tx = self.store.system().await?;
        tx.keep_price_book(&catalog.version.0, &prices, now).await?;
        tx.commit().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use molt_model::{KeyId, UserId};

    fn admission(plan_in_force: bool, user: (i64, Option<i64>), key: (i64, Option<i64>)) -> Admission {
        Admission {
            key: KeyId::random(),
            user: UserId::random(),
            book_key: Uuid::new_v4(),
            bot: None,
            revoked: false,
            plan_in_force,
            period_end: Time::UNIX_EPOCH,
            user_spent: Nanos(user.0),
            user_cap: user.1.map(Nanos),
            key_spent: Nanos(key.0),
            key_cap: key.1.map(Nanos),
        }
    }

    #[test]
    fn the_lowest_cap_counts() {
        let installation = Nanos(100);
        for (given, decision) in [
            (admission(true, (0, None), (0, None)), None),
            (admission(false, (0, None), (0, None)), Some(Notice::PlanNotInForce)),
            (admission(true, (99, None), (99, None)), None),
            (admission(true, (100, None), (0, None)), Some(Notice::UserCap(installation))),
            (admission(true, (100, Some(500)), (0, None)), Some(Notice::UserCap(installation))),
            (admission(true, (10, Some(10)), (0, None)), Some(Notice::UserCap(Nanos(10)))),
            (admission(true, (0, Some(0)), (0, None)), Some(Notice::UserCap(Nanos(0)))),
            (admission(true, (10, None), (10, Some(10))), Some(Notice::KeyCap(Nanos(10)))),
            (admission(true, (50, None), (9, Some(10))), None),
        ] {
            assert_eq!(decide(&given, installation), decision, "{given:?}");
        }
    }

    #[test]
    fn notices_link_and_avoid_the_words_that_lock_a_provider() {
        let url: Url = "https://molt.example/base/".parse().unwrap();
        for notice in [Notice::PlanNotInForce, Notice::UserCap(Nanos::dollars(5)), Notice::KeyCap(Nanos(123_000))] {
            let text = format!("{} {}", notice.text(&url, Time::UNIX_EPOCH), notice.refusal().message);
            assert!(text.contains("https://molt.example/base/app/"), "{text}");
            for word in ["credit", "billing", "balance", "payment", "quota", "insufficient"] {
                assert!(!text.to_lowercase().contains(word), "{word}: {text}");
            }
        }
        assert_eq!(dollars(Nanos::dollars(5)), "$5.00");
        assert_eq!(dollars(Nanos(123_000)), "$0.000123");
    }

    #[test]
    fn keys_and_labels_are_read_strictly() {
        let with = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            headers
        };
        assert!(bearer(&with("authorization", "bearer  mgk_x ")).is_ok());
        for wrong in ["", "Bearer", "Bearer ", "Basic x", &format!("Bearer {}", "k".repeat(300))] {
            assert_eq!(bearer(&with("authorization", wrong)).unwrap_err().status, 401, "{wrong}");
        }
        let run = Uuid::new_v4();
        let parent = format!("00-{}-00f067aa0ba902b7-01", run.simple());
        assert_eq!(run_label(&with("traceparent", &parent)), Some(RunId(run)));
        for wrong in ["", "00", "00-xyz-1-01", "00-{00000000-0000-0000-0000-00000000}-1-1"] {
            assert_eq!(run_label(&with("traceparent", wrong)), None, "{wrong}");
        }
    }
}

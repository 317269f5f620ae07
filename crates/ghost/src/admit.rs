//! What a call says about itself in its headers: its key, and the run that it works for.
//! Never: trust in a label; the bill follows the key.

use axum::http::HeaderMap;
use http::{StatusCode, header};
use molt_model::{RunId, Time};
use molt_store::StoreError;
use secrecy::SecretString;
use serde_json::json;
use uuid::Uuid;

use crate::Inner;
use crate::answer::Refusal;

/// Our keys have 68 bytes; anything much longer isn't hashed.
const KEY_BYTES_MAX: usize = 256;
/// When the database is away. It is back within seconds or an operator is looking.
const DATABASE_RETRY_SECONDS: u64 = 5;

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
    /// Usage rows name the price book, so it is in the database before the first call is admitted.
    pub(crate) async fn book(&self) -> Result<(), Refusal> {
        let now = self.clock.now();
        let kept = self.book_kept.get_or_try_init(|| self.keep_book(now)).await;
        kept.copied().map_err(|error| {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "no call can be admitted: the database doesn't answer"
            );
            Refusal::later("not_available", "Not available just now; please try again.", DATABASE_RETRY_SECONDS)
        })
    }

    async fn keep_book(&self, now: Time) -> Result<(), StoreError> {
        let prices: serde_json::Map<_, _> =
            self.catalog.models.iter().map(|model| (model.id.clone(), json!(model.price))).collect();
        let mut tx = self.store.system().await?;
        tx.keep_price_book(&self.catalog.version.0, &prices.into(), now).await?;
        tx.commit().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

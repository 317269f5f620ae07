//! Giving a running runtime a new configuration.
//! Never: report success before the runtime has really taken it over, or keep half of it.

use std::time::{Duration, Instant};

use anyhow::Context;
use molt_bot::Applied;
use serde_json::{Value, json};

use crate::config::Config;
use crate::gateway::{Gateway, GatewayError};
use crate::layout::Layout;
use crate::runtime::Ports;

const ASK_TIMEOUT: Duration = Duration::from_secs(15);
/// A hot change takes 0.1 to 2.5 s; on a loaded machine several times that.
const APPLY_TIMEOUT: Duration = Duration::from_secs(60);
/// The runtime answers before the last part of a change has settled.
const SETTLE_MAX: Duration = Duration::from_secs(30);
const SETTLE_PAUSE: Duration = Duration::from_millis(100);
/// Somebody else (the runtime itself) may write the file between our read and our write.
const TRIES_MAX: u32 = 4;

#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// It doesn't validate; the text says where. The old configuration stays.
    #[error("the configuration isn't valid: {0}")]
    Invalid(String),
    /// It could not be given to the runtime now. The old configuration stays; try again.
    #[error("the configuration couldn't be applied")]
    NotApplied,
}

/// Applies `next` in the place of `current`.
pub async fn apply(
    gateway: &Gateway,
    layout: &Layout,
    ports: Ports,
    current: &Config,
    next: &Config,
) -> Result<Applied, ApplyError> {
    next.files().map_err(|error| ApplyError::Invalid(error.to_string()))?;
    let body = next.for_runtime(ports);
    if body != current.for_runtime(ports) {
        give(gateway, &body).await?;
    }
    // Only behind the runtime's yes: a refused configuration changes no file either.
    let written = next.write_workspace(layout).and_then(|()| next.remember(layout));
    if let Err(error) = written {
        tracing::error!(error = format!("{error:#}"), "a configuration couldn't be written");
        return Err(ApplyError::NotApplied);
    }
    Ok(next.applied())
}

async fn give(gateway: &Gateway, body: &Value) -> Result<(), ApplyError> {
    let raw = serde_json::to_string_pretty(body).map_err(|error| ApplyError::Invalid(error.to_string()))?;
    for _ in 0..TRIES_MAX {
        let state = ask(gateway, "config.get", json!({}), ASK_TIMEOUT).await?;
        let params = json!({"raw": raw, "baseHash": state["hash"]});
        match gateway.request("config.apply", params, APPLY_TIMEOUT).await {
            Ok(_) => return settle(gateway).await,
            Err(GatewayError::Refused { message, .. }) if message.starts_with("invalid config") => {
                return Err(ApplyError::Invalid(message));
            }
            // The base moved: read it again.
            Err(GatewayError::Refused { message, .. }) if message.contains("config changed") => {}
            Err(error) => {
                tracing::warn!(%error, "the runtime didn't take a configuration");
                return Err(ApplyError::NotApplied);
            }
        }
    }
    Err(ApplyError::NotApplied)
}

/// Waits until what is applied is what is written.
async fn settle(gateway: &Gateway) -> Result<(), ApplyError> {
    let deadline = Instant::now() + SETTLE_MAX;
    loop {
        let state = ask(gateway, "config.get", json!({}), ASK_TIMEOUT).await?;
        let written = &state["configRevisionHash"];
        if written.is_null() || *written == state["appliedConfigHash"] {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(ApplyError::NotApplied);
        }
        tokio::time::sleep(SETTLE_PAUSE).await;
    }
}

async fn ask(gateway: &Gateway, method: &'static str, params: Value, deadline: Duration) -> Result<Value, ApplyError> {
    gateway.request(method, params, deadline).await.context(method).map_err(|error| {
        tracing::warn!(error = format!("{error:#}"), "the runtime didn't answer");
        ApplyError::NotApplied
    })
}

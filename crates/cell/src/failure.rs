//! Why a run failed, in our own words.
//! Never: the runtime's or a provider's text.

use molt_bot::RunError;

/// From the runtime's reason for a failed model call.
#[must_use]
pub fn describe(reason: &str) -> RunError {
    let (code, message, retry) = match reason {
        "rate_limit" | "overloaded" => ("model_busy", "The model is busy right now. Try again in a moment.", true),
        "auth" | "auth_permanent" | "billing" => (
            "model_refused",
            "The model refused the request. Try again in a few minutes, or choose another model.",
            true,
        ),
        "timeout" => ("model_timeout", "The model took too long to answer. Try again.", true),
        "server_error" => ("model_failed", "The model had a problem of its own. Try again.", true),
        "model_not_found" => {
            ("model_unknown", "The chosen model isn't available. Choose another one in the settings.", false)
        }
        "context_overflow" => {
            ("conversation_too_long", "The model can't take this conversation. Start a new one.", false)
        }
        _ => ("run_failed", "The assistant couldn't finish this. Try again.", true),
    };
    error(code, message, retry)
}

/// The runtime went down and will not go on with the run.
#[must_use]
pub fn interrupted() -> RunError {
    error("interrupted", "The assistant was interrupted and couldn't pick this up again. Send it again.", true)
}

/// The runtime refused the message itself.
#[must_use]
pub fn refused() -> RunError {
    error("not_taken", "The assistant couldn't take this message. Try again.", true)
}

fn error(code: &str, message: &str, retry: bool) -> RunError {
    RunError { code: code.to_owned(), message: message.to_owned(), retry }
}

//! The one shape of every refusal: a Problem (RFC 9457) with a stable code and a sentence that says what to do.
//! Never: the text of an inner error, or a code that is not in this list.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use molt_identity::IdentityError;
use molt_model::settings::InvalidSettings;
use molt_store::StoreError;
use serde::Serialize;
use utoipa::ToSchema;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $status:ident, $code:literal, $title:literal;)+) => {
        /// The stable codes of this API. A client may switch on them; their words never change.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
        pub enum Code { $($(#[$doc])* #[serde(rename = $code)] $name),+ }

        // By hand: the derive doesn't see a rename whose text comes from a macro, and would list the variants' names.
        impl utoipa::PartialSchema for Code {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                let text = utoipa::openapi::ObjectBuilder::new().schema_type(utoipa::openapi::schema::Type::String);
                let words = "The stable codes of this API. A client may switch on them; their words never change.";
                text.description(Some(words)).enum_values(Some([$($code),+])).into()
            }
        }

        impl ToSchema for Code {}

        impl Code {
            /// Every code, for the reference page.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code),+ }
            }

            #[must_use]
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status),+ }
            }

            /// What happened, in a few words that are the same for every occurrence.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title),+ }
            }
        }
    };
}

codes! {
    /// The body isn't JSON at all.
    InvalidJson = BAD_REQUEST, "invalid_json", "The body isn't valid JSON";
    InvalidQuery = BAD_REQUEST, "invalid_query", "The query doesn't fit";
    InvalidHeader = BAD_REQUEST, "invalid_header", "A header doesn't fit";
    /// The body is JSON of another shape, or a field has a value that can't be taken; `field` names it.
    InvalidBody = UNPROCESSABLE_ENTITY, "invalid_body", "The body doesn't fit";
    /// The same `Idempotency-Key` came with another request before.
    IdempotencyKeyReused = UNPROCESSABLE_ENTITY, "idempotency_key_reused", "The key belongs to another request";
    /// Bearer token missing, malformed, expired, forged, or of somebody who is gone.
    Unauthenticated = UNAUTHORIZED, "unauthenticated", "Not logged in";
    WrongCredentials = UNAUTHORIZED, "wrong_credentials", "E-mail or password is wrong";
    SessionEnded = UNAUTHORIZED, "session_ended", "The session has ended";
    LinkInvalid = UNAUTHORIZED, "link_invalid", "The link can't be used";
    TicketInvalid = UNAUTHORIZED, "ticket_invalid", "The ticket can't be used";
    NotAnOperator = FORBIDDEN, "not_an_operator", "Operators only";
    SignupClosed = FORBIDDEN, "signup_closed", "Sign-up is closed";
    InviteInvalid = FORBIDDEN, "invite_invalid", "The invitation can't be used";
    OriginNotAllowed = FORBIDDEN, "origin_not_allowed", "This origin isn't allowed";
    BotLimitReached = FORBIDDEN, "bot_limit_reached", "No more assistants";
    DomainLimitReached = FORBIDDEN, "domain_limit_reached", "No more domains";
    RouteNotFound = NOT_FOUND, "route_not_found", "No such address";
    BotNotFound = NOT_FOUND, "bot_not_found", "No such assistant";
    KeyNotFound = NOT_FOUND, "key_not_found", "No such key";
    ConversationNotFound = NOT_FOUND, "conversation_not_found", "No such conversation";
    CheckoutNotFound = NOT_FOUND, "checkout_not_found", "No such checkout";
    UnknownSkill = NOT_FOUND, "unknown_skill", "No such skill";
    DomainNotFound = NOT_FOUND, "domain_not_found", "No such domain";
    UserNotFound = NOT_FOUND, "user_not_found", "No such user";
    /// The installation has no such outside service: built-in identity and payments have no webhooks.
    NotConfigured = NOT_FOUND, "not_configured", "Not part of this installation";
    MethodNotAllowed = METHOD_NOT_ALLOWED, "method_not_allowed", "This address doesn't take that method";
    RequestTimeout = SERVICE_UNAVAILABLE, "request_timeout", "The request took too long";
    EmailTaken = CONFLICT, "email_taken", "The e-mail address is in use";
    CheckoutExpired = CONFLICT, "checkout_expired", "The checkout is too old";
    /// Only what keeps it from running can be mended; the assistant's `suspended` says how.
    BotSuspended = CONFLICT, "bot_suspended", "The assistant is suspended";
    NotInThisState = CONFLICT, "not_in_this_state", "Not possible now";
    /// `If-Match` names another revision than the newest.
    RevisionStale = PRECONDITION_FAILED, "revision_stale", "Somebody changed this meanwhile";
    BodyTooLarge = PAYLOAD_TOO_LARGE, "body_too_large", "The body is too large";
    UnsupportedMediaType = UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", "The body isn't marked as JSON";
    RevisionRequired = PRECONDITION_REQUIRED, "revision_required", "The revision is missing";
    /// One person's live streams or chat sockets.
    TooManyOpen = TOO_MANY_REQUESTS, "too_many_open", "Too many open connections";
    TooManyTries = TOO_MANY_REQUESTS, "too_many_tries", "Too many tries";
    Unexpected = INTERNAL_SERVER_ERROR, "unexpected", "Something went wrong here";
    Unavailable = SERVICE_UNAVAILABLE, "unavailable", "Not available just now";
}

/// A refusal. `detail` is written for the person or the program that asked.
#[derive(Clone, Debug)]
pub struct Problem {
    pub code: Code,
    pub detail: String,
    /// The path of the body's field at fault, such as `notifications.daily_summary_at`.
    pub field: Option<String>,
    /// Seconds to wait before another try makes sense.
    pub retry_after_s: Option<u64>,
    /// Methods of the address, for `method_not_allowed`.
    pub(crate) allow: Option<HeaderValue>,
}

/// The body of every answer that isn't a success (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemBody {
    /// Where the code is explained.
    #[serde(rename = "type")]
    pub kind: String,
    pub code: Code,
    pub title: String,
    pub status: u16,
    /// What to do about it.
    pub detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

impl Problem {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), field: None, retry_after_s: None, allow: None }
    }

    /// A value that can't be taken, with the path of its field.
    pub fn field(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..Self::new(Code::InvalidBody, detail) }
    }

    #[must_use]
    pub fn retry_after_s(self, seconds: u64) -> Self {
        Self { retry_after_s: Some(seconds), ..self }
    }

    /// No bot of the caller's has this id.
    #[must_use]
    pub fn bot_not_found() -> Self {
        Self::new(Code::BotNotFound, "None of your assistants has this id; GET /api/bots lists them.")
    }

    /// The installation does without this outside service.
    #[must_use]
    pub fn not_configured(detail: &str) -> Self {
        Self::new(Code::NotConfigured, detail)
    }

    /// The fault is ours. The chain is logged here, once; the caller gets a neutral sentence.
    pub fn unexpected(error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error, "a request failed unexpectedly");
        Self::new(Code::Unexpected, "The fault is on our side and has been written down. Please try again.")
    }

    /// The body as it is sent.
    #[must_use]
    pub fn body(&self) -> ProblemBody {
        ProblemBody {
            kind: format!("/api/docs#{}", self.code.as_str()),
            code: self.code,
            title: self.code.title().to_owned(),
            status: self.code.status().as_u16(),
            detail: self.detail.clone(),
            field: self.field.clone(),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.code.status();
        let mut response = (status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after_s {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, allow);
        }
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the database did not answer a request");
                Self::new(Code::Unavailable, "The database is away for the moment. Please try again shortly.")
                    .retry_after_s(2)
            }
            _ => Self::unexpected(&error),
        }
    }
}

impl From<InvalidSettings> for Problem {
    fn from(invalid: InvalidSettings) -> Self {
        Self::field(invalid.field, sentence(&invalid.problem))
    }
}

impl From<IdentityError> for Problem {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::Field { field, problem } => Self::field(field, sentence(&problem)),
            IdentityError::WrongCredentials => {
                Self::new(Code::WrongCredentials, "Check both, or ask for a link by mail and log in with that.")
            }
            IdentityError::EmailTaken => {
                let detail = "An account with this address exists; log in instead.";
                Self { field: Some("email".to_owned()), ..Self::new(Code::EmailTaken, detail) }
            }
            IdentityError::SignupClosed => {
                Self::new(Code::SignupClosed, "This installation takes no new people; ask whoever runs it.")
            }
            IdentityError::InviteInvalid => {
                let detail =
                    "Sign-up needs an invitation that is yours, unused and not too old; ask whoever runs this.";
                Self { field: Some("invite".to_owned()), ..Self::new(Code::InviteInvalid, detail) }
            }
            IdentityError::SessionEnded => Self::new(Code::SessionEnded, "Log in again."),
            IdentityError::LinkInvalid => {
                Self::new(Code::LinkInvalid, "A link works once and not for long; ask for a new one.")
            }
            IdentityError::TooManyTries { retry_after_s } => {
                Self::new(Code::TooManyTries, format!("Wait {retry_after_s} seconds, then try again."))
                    .retry_after_s(retry_after_s)
            }
            IdentityError::Store(error) => error.into(),
            IdentityError::Unexpected(error) => Self::unexpected(&*error),
        }
    }
}

/// The text with a capital first letter and a full stop.
pub(crate) fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string()).unwrap_or_default();
    let stop = if text.ends_with(['.', '?', '!']) { "" } else { "." };
    format!("{first}{}{stop}", letters.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_one_word_and_refuses() {
        let mut seen = std::collections::HashSet::new();
        for code in Code::ALL {
            assert!(seen.insert(code.as_str()), "{} twice", code.as_str());
            assert!(code.status().is_client_error() || code.status().is_server_error());
            assert!(code.as_str().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
        }
        assert_eq!(sentence("give a name"), "Give a name.");
        assert_eq!(sentence(""), ".");
    }
}

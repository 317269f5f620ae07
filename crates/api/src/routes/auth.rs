//! Built-in identity: sign-up, log-in, refresh, log-out, links by mail, and the keys that check session tokens.
//! Never: a refresh token outside its cookie, or an answer that tells whether an address is known.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use http::header::{CACHE_CONTROL, COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderName, StatusCode};
use molt_identity::{Identity, Local, LogIn, NewPerson, REFRESH_LIFE, Session};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::me::Me;
use crate::extract::{self, Place, SameOrigin};
use crate::problem::{Code, Problem};
use crate::state::ApiState;

pub(crate) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(sign_up))
        .routes(routes!(log_in))
        .routes(routes!(refresh))
        .routes(routes!(log_out))
        .routes(routes!(magic_link))
        .routes(routes!(use_magic_link))
        .routes(routes!(webhook))
        .routes(routes!(keys))
}

/// The cookie that holds the refresh token; only the routes below ever get it.
const REFRESH_COOKIE: &str = "molt_refresh";
const REFRESH_PATH: &str = "/api/auth";
/// How long others may keep our public keys.
const KEYS_AGE: &str = "public, max-age=300";

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SignUpBody {
    #[schema(example = "ann@example.com")]
    email: String,
    /// 10 to 200 characters, and not the e-mail address.
    password: String,
    name: Option<String>,
    /// The code of an invitation, where sign-up needs one.
    invite: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct LogInBody {
    email: String,
    password: String,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct MagicLinkBody {
    email: String,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct UseMagicLinkBody {
    /// What the link carries behind the `#`.
    token: String,
}

/// A session: send `token` as `Authorization: Bearer <token>`; before `expires_at`, refresh.
#[derive(Serialize, ToSchema)]
struct LoggedIn {
    token: String,
    expires_at: DateTime<Utc>,
    user: Me,
}

type Answer = Result<(StatusCode, [(HeaderName, String); 1], Json<LoggedIn>), Problem>;

/// Makes an account and logs it in. The refresh token comes as an HttpOnly cookie.
#[utoipa::path(post, path = "/api/auth/signup", operation_id = "signUp", tag = "who",
    security(()), request_body = SignUpBody,
    responses((status = 201, body = LoggedIn)))]
async fn sign_up(
    State(state): State<ApiState>,
    _: SameOrigin,
    extract::Json(body): extract::Json<SignUpBody>,
) -> Answer {
    let person = NewPerson {
        email: body.email,
        password: body.password.into(),
        name: body.name,
        invite: body.invite.map(SecretString::from),
    };
    let session = local(&state)?.sign_up(person).await?;
    logged_in(&state, StatusCode::CREATED, session).await
}

/// Logs in by e-mail and password.
#[utoipa::path(post, path = "/api/auth/login", operation_id = "logIn", tag = "who",
    security(()), request_body = LogInBody,
    responses((status = 200, body = LoggedIn)))]
async fn log_in(
    State(state): State<ApiState>,
    Place(place): Place,
    _: SameOrigin,
    extract::Json(body): extract::Json<LogInBody>,
) -> Answer {
    let person = LogIn { email: body.email, password: body.password.into(), place };
    let session = local(&state)?.log_in(person).await?;
    logged_in(&state, StatusCode::OK, session).await
}

/// Changes the refresh cookie for a new one and a new session token. A used cookie that comes back ends its log-in.
#[utoipa::path(post, path = "/api/auth/refresh", operation_id = "refreshSession", tag = "who",
    security(()), responses((status = 200, body = LoggedIn)))]
async fn refresh(State(state): State<ApiState>, _: SameOrigin, headers: HeaderMap) -> Answer {
    let local = local(&state)?;
    let Some(token) = refresh_token(&headers) else {
        return Err(Problem::new(Code::SessionEnded, "There is no session here; log in."));
    };
    let session = local.refresh(&token).await?;
    logged_in(&state, StatusCode::OK, session).await
}

/// Ends the log-in of the refresh cookie, on every tab that shares it.
#[utoipa::path(post, path = "/api/auth/logout", operation_id = "logOut", tag = "who",
    security(()), responses((status = 204)))]
async fn log_out(
    State(state): State<ApiState>,
    _: SameOrigin,
    headers: HeaderMap,
) -> Result<(StatusCode, [(HeaderName, String); 1]), Problem> {
    let local = local(&state)?;
    if let Some(token) = refresh_token(&headers) {
        local.log_out(&token).await?;
    }
    Ok((StatusCode::NO_CONTENT, [forget_cookie(local)]))
}

/// Mails a link that logs in, if the address has an account. The answer is the same if it has none.
#[utoipa::path(post, path = "/api/auth/magic-link", operation_id = "sendMagicLink", tag = "who",
    security(()), request_body = MagicLinkBody,
    responses((status = 202)))]
async fn magic_link(
    State(state): State<ApiState>,
    Place(place): Place,
    _: SameOrigin,
    extract::Json(body): extract::Json<MagicLinkBody>,
) -> Result<StatusCode, Problem> {
    local(&state)?.send_magic_link(&body.email, &place).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Logs in by the token of a mailed link, which works once.
#[utoipa::path(post, path = "/api/auth/magic-link/consume", operation_id = "useMagicLink", tag = "who",
    security(()), request_body = UseMagicLinkBody,
    responses((status = 200, body = LoggedIn)))]
async fn use_magic_link(
    State(state): State<ApiState>,
    _: SameOrigin,
    extract::Json(body): extract::Json<UseMagicLinkBody>,
) -> Answer {
    let session = local(&state)?.use_magic_link(&body.token.into()).await?;
    logged_in(&state, StatusCode::OK, session).await
}

/// Where an outside identity says who came, changed or left. Built-in identity has no use for it.
#[utoipa::path(post, path = "/api/auth/webhook", operation_id = "receiveIdentityWebhook", tag = "who",
    security(()), responses((status = 204)))]
async fn webhook() -> Problem {
    Problem::not_configured("Identity is built in here, so there is nothing to receive.")
}

/// The public keys that session tokens are checked against.
#[utoipa::path(get, path = "/.well-known/jwks.json", operation_id = "readKeys", tag = "who", security(()),
    responses((status = 200, description = "A JSON Web Key Set (RFC 7517)", body = Object)))]
async fn keys(
    State(state): State<ApiState>,
) -> Result<([(HeaderName, &'static str); 1], Json<serde_json::Value>), Problem> {
    let keys = local(&state)?.keys().await?;
    let keys = serde_json::to_value(keys).map_err(|error| Problem::unexpected(&error))?;
    Ok(([(CACHE_CONTROL, KEYS_AGE)], Json(keys)))
}

fn local(state: &ApiState) -> Result<&Arc<Local>, Problem> {
    let detail = "Log in where this installation's identity provider says; GET /api/client-config names it.";
    state.local_identity.as_ref().ok_or_else(|| Problem::not_configured(detail))
}

async fn logged_in(state: &ApiState, status: StatusCode, session: Session) -> Answer {
    let mut tx = state.store.tenant(session.user.id()).await?;
    let plan = tx.billing().await?;
    let cookie = refresh_cookie(local(state)?, &session.refresh);
    let user = Me::of(&session.user, plan.as_ref());
    let body = LoggedIn { token: session.token.expose_secret().to_owned(), expires_at: session.expires_at, user };
    Ok((status, [cookie], Json(body)))
}

fn refresh_cookie(local: &Local, token: &SecretString) -> (HeaderName, String) {
    let age = REFRESH_LIFE.num_seconds();
    (SET_COOKIE, format!("{REFRESH_COOKIE}={}; Max-Age={age}{}", token.expose_secret(), cookie_rules(local)))
}

/// What takes the refresh cookie away.
pub(crate) fn forget_cookie(local: &Local) -> (HeaderName, String) {
    (SET_COOKIE, format!("{REFRESH_COOKIE}=; Max-Age=0{}", cookie_rules(local)))
}

fn cookie_rules(local: &Local) -> String {
    let secure = if local.config().https { "; Secure" } else { "" };
    format!("; Path={REFRESH_PATH}; HttpOnly; SameSite=Strict{secure}")
}

fn refresh_token(headers: &HeaderMap) -> Option<SecretString> {
    let cookies = headers.get_all(COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, value)| *name == REFRESH_COOKIE && !value.is_empty()).map(|(_, value)| value.to_owned().into())
}

//! Who is asking. A handler that takes a `Caller` can reach this person's rows only.
//! Never: a caller from anything but a checked session token.

use axum::extract::FromRequestParts;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use http::request::Parts;
use molt_identity::VerifyError;
use molt_model::{BotId, UserId};
use molt_store::TenantTx;
use molt_store::sessions::LogIn;
use molt_store::users::Role;
use uuid::Uuid;

use crate::extract::BotPath;
use crate::problem::{Code, Problem};
use crate::state::ApiState;

/// The person whose session token came with the request.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    pub user: UserId,
    pub role: Role,
    /// The log-in that the token belongs to, if it is one of the built-in identity.
    pub session: Option<Uuid>,
}

impl Caller {
    /// Checks `Authorization: Bearer <session token>`; also for places that take a token or something else.
    pub async fn authenticate(state: &ApiState, headers: &HeaderMap) -> Result<Self, Problem> {
        let token = bearer(headers).ok_or_else(|| {
            unauthenticated("Log in, and send the session token in the header Authorization: Bearer <token>.")
        })?;
        let claims = match state.verifier.verify(token, state.now()).await {
            Ok(claims) => claims,
            Err(VerifyError::Expired) => {
                return Err(unauthenticated("The session token has expired; get a new one at POST /api/auth/refresh."));
            }
            Err(VerifyError::Invalid) => return Err(unauthenticated("The session token isn't valid; log in again.")),
            Err(VerifyError::Unavailable(error)) => return Err(Problem::unexpected(&*error)),
        };
        let mut tx = state.store.system().await?;
        let found = tx.caller(&claims.issuer, &claims.subject, claims.session).await?;
        let Some((user, role)) = found else {
            return Err(unauthenticated("This session has ended; log in again."));
        };
        Ok(Self { user, role, session: claims.session })
    }

    /// What a line that this caller opens lasts as long as.
    #[must_use]
    pub fn log_in(&self) -> LogIn {
        LogIn { user: self.user, family: self.session }
    }

    /// A transaction that shows and takes only this person's rows.
    pub async fn tx(&self, state: &ApiState) -> Result<TenantTx, Problem> {
        Ok(state.store.tenant(self.user).await?)
    }
}

/// A caller with the operator role.
#[derive(Clone, Copy, Debug)]
pub struct Operator(pub Caller);

/// A caller and a bot of theirs, named by `{id}` of the path. Anybody else's bot is not found, before anything else of the
/// request is looked at.
#[derive(Clone, Debug)]
pub struct OwnBot {
    pub caller: Caller,
    pub id: BotId,
}

impl FromRequestParts<ApiState> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        Self::authenticate(state, &parts.headers).await
    }
}

impl FromRequestParts<ApiState> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        let caller = Caller::authenticate(state, &parts.headers).await?;
        if caller.role == Role::Operator {
            return Ok(Self(caller));
        }
        let detail = "Ask whoever runs this installation: `molt admin grant-operator <e-mail>` gives the role.";
        Err(Problem::new(Code::NotAnOperator, detail))
    }
}

impl FromRequestParts<ApiState> for OwnBot {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        let caller = Caller::authenticate(state, &parts.headers).await?;
        let BotPath(id) = BotPath::from_request_parts(parts, state).await?;
        if caller.tx(state).await?.has_bot(&id).await? {
            return Ok(Self { caller, id });
        }
        Err(Problem::bot_not_found())
    }
}

fn unauthenticated(detail: &str) -> Problem {
    Problem::new(Code::Unauthenticated, detail)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty()).then(|| token.trim())
}

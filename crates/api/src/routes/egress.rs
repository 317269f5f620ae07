//! Where an assistant may go besides its models, where it wanted to go, and its owner's word about that.
//! Never: an address or a name of a private network let in by a person; those are the operator's.

use axum::Json;
use axum::extract::{FromRequestParts, State};
use chrono::{DateTime, Utc};
use http::StatusCode;
use http::request::Parts;
use molt_model::BotId;
use molt_model::egress::{Domain, Entry, InvalidPlace, Place, Reason};
use molt_store::egress::{Allowed, Egress, Refused};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::caller::OwnBot;
use crate::extract::{self, Path};
use crate::problem::{Code, Problem, sentence};
use crate::state::ApiState;

/// A person who allows more than this by hand wants an operator to think about it.
const DOMAINS_MAX: i64 = 100;

pub(crate) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(read))
        .routes(routes!(allow))
        .routes(routes!(take_back))
        .routes(routes!(dismiss))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct DomainBody {
    /// A domain name such as `example.org`: this one only, not what lies below it.
    domain: String,
}

/// Where an assistant may go, and where it wanted to go and wasn't let.
#[derive(Serialize, ToSchema)]
struct EgressView {
    allowed: Vec<AllowedView>,
    /// The newest first.
    refused: Vec<RefusedView>,
}

/// Who allowed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Source {
    Operator,
    Skill,
    You,
}

/// Where an assistant may go.
#[derive(Serialize, ToSchema)]
struct AllowedView {
    /// A domain; of the operator's and of skills also a pattern such as `*.example.org`, with a port if only that one is meant.
    domain: String,
    source: Source,
    /// Null: as long as the installation runs with these settings.
    since: Option<DateTime<Utc>>,
}

/// Where an assistant wanted to go and wasn't let.
#[derive(Serialize, ToSchema)]
struct RefusedView {
    /// Or an address that was asked for in place of a name.
    domain: String,
    #[schema(minimum = 0, maximum = 65535)]
    port: u16,
    count: i64,
    last_at: DateTime<Utc>,
    /// Why, the newest time.
    reason: Reason,
    /// `POST /api/bots/{id}/egress/allow` would let it through.
    can_allow: bool,
    /// Its owner doesn't want to be asked about it.
    dismissed: bool,
}

/// Where the assistant may go besides its models, and what was refused.
#[utoipa::path(get, path = "/api/bots/{id}/egress", operation_id = "readEgress", tag = "bots",
    params(("id" = String, Path)), responses((status = 200, body = EgressView)))]
async fn read(State(state): State<ApiState>, own: OwnBot) -> Result<Json<EgressView>, Problem> {
    Ok(Json(view(&state, &own.caller.tx(&state).await?.egress(&own.id).await?)))
}

/// Lets the assistant reach a domain, at the ports of web pages, from within a second on. Twice is once.
#[utoipa::path(post, path = "/api/bots/{id}/egress/allow", operation_id = "allowDomain", tag = "bots",
    request_body = DomainBody, params(("id" = String, Path)), responses((status = 200, body = AllowedView)))]
async fn allow(
    State(state): State<ApiState>,
    own: OwnBot,
    extract::Json(body): extract::Json<DomainBody>,
) -> Result<Json<AllowedView>, Problem> {
    let domain: Domain = body.domain.parse().map_err(not_a_domain)?;
    if !state.config.egress.rules.may_be_allowed(&domain) {
        let detail = "This name belongs to a private network; only whoever runs this installation can open it.";
        return Err(Problem::field("domain", detail));
    }
    let mut tx = own.caller.tx(&state).await?;
    let since = match tx.allow_domain(&own.id, &domain, DOMAINS_MAX, state.now()).await? {
        Allowed::Since(since) => since,
        Allowed::NotFound => return Err(Problem::bot_not_found()),
        Allowed::TooMany => {
            let detail = format!("One assistant may have {DOMAINS_MAX}. Take some back that it doesn't need any more.");
            return Err(Problem::new(Code::DomainLimitReached, detail));
        }
    };
    tx.commit().await?;
    said(&own, "a domain was allowed by an assistant's owner");
    Ok(Json(AllowedView { domain: domain.to_string(), source: Source::You, since: Some(since) }))
}

/// Takes a domain back that was allowed; what is open to it is closed within a second.
#[utoipa::path(delete, path = "/api/bots/{id}/egress/allow/{domain}", operation_id = "takeBackDomain", tag = "bots",
    params(("id" = String, Path), ("domain" = String, Path)), responses((status = 204)))]
async fn take_back(
    State(state): State<ApiState>,
    own: OwnBot,
    DomainPath(domain): DomainPath,
) -> Result<StatusCode, Problem> {
    let mut tx = own.caller.tx(&state).await?;
    if !tx.take_back_domain(&own.id, &domain, state.now()).await? {
        return Err(domain_not_found());
    }
    tx.commit().await?;
    said(&own, "a domain was taken back by an assistant's owner");
    Ok(StatusCode::NO_CONTENT)
}

/// Puts the refusals of a place aside: it stays closed, and its owner isn't asked again. Twice is once.
#[utoipa::path(post, path = "/api/bots/{id}/egress/dismiss", operation_id = "dismissRefusals", tag = "bots",
    request_body = DomainBody, params(("id" = String, Path)), responses((status = 204)))]
async fn dismiss(
    State(state): State<ApiState>,
    own: OwnBot,
    extract::Json(body): extract::Json<DomainBody>,
) -> Result<StatusCode, Problem> {
    let place = molt_model::egress::place(&body.domain).map_err(not_a_domain)?.to_string();
    let mut tx = own.caller.tx(&state).await?;
    if !tx.dismiss_refusals(&own.id, &place, state.now()).await? {
        return Err(domain_not_found());
    }
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

fn said(own: &OwnBot, what: &'static str) {
    tracing::info!(user.id = %own.caller.user, bot.id = %own.id, "{what}");
}

/// `{domain}` of the path. A text that is no domain was never allowed.
struct DomainPath(Domain);

impl<S: Send + Sync> FromRequestParts<S> for DomainPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(names) = Path::<std::collections::HashMap<String, String>>::from_request_parts(parts, state).await?;
        names.get("domain").and_then(|text| text.parse().ok()).map(Self).ok_or_else(domain_not_found)
    }
}

fn not_a_domain(error: InvalidPlace) -> Problem {
    Problem::field("domain", sentence(&format!("what you sent {error}")))
}

fn domain_not_found() -> Problem {
    let detail = "This assistant has nothing of that name; GET /api/bots/{id}/egress lists what it has.";
    Problem::new(Code::DomainNotFound, detail)
}

/// For the export: what is kept of one assistant.
pub(super) fn kept(id: &BotId, egress: &Egress) -> Value {
    let allowed = egress.allowed.iter().map(|(domain, since)| json!({ "domain": domain, "since": since }));
    let refused = egress.refused.iter().map(|refused| {
        json!({ "domain": refused.place, "port": refused.port, "count": refused.count, "reason": refused.reason,
            "first_at": refused.first_at, "last_at": refused.last_at, "dismissed": refused.quiet })
    });
    json!({ "bot_id": id, "allowed": allowed.collect::<Vec<_>>(), "refused": refused.collect::<Vec<_>>() })
}

fn view(state: &ApiState, egress: &Egress) -> EgressView {
    let settings = &state.config.egress;
    let operators = settings.rules.allow.iter().map(|entry| AllowedView {
        domain: entry.to_string(),
        source: Source::Operator,
        since: None,
    });
    let of_skills = egress.skills.iter().flat_map(|(skill, since)| {
        settings.skills.get(skill).into_iter().flatten().map(|entry| AllowedView {
            domain: entry.to_string(),
            source: Source::Skill,
            since: Some(*since),
        })
    });
    let yours = egress.allowed.iter().map(|(domain, since)| AllowedView {
        domain: domain.to_string(),
        source: Source::You,
        since: Some(*since),
    });
    let own: Vec<Entry> = egress
        .skills
        .iter()
        .filter_map(|(skill, _)| settings.skills.get(skill))
        .flatten()
        .cloned()
        .chain(egress.allowed.iter().map(|(domain, _)| Entry::exactly(domain.clone())))
        .collect();
    EgressView {
        allowed: yours.chain(of_skills).chain(operators).collect(),
        refused: egress.refused.iter().filter_map(|refused| refused_view(state, &own, refused)).collect(),
    }
}

/// `None`: it is allowed by now.
fn refused_view(state: &ApiState, own: &[Entry], refused: &Refused) -> Option<RefusedView> {
    let rules = &state.config.egress.rules;
    let place = molt_model::egress::place(&refused.place).ok();
    let not_listed = refused.reason == Reason::NotListed;
    if not_listed && place.as_ref().is_some_and(|place| rules.refusal(own, place, refused.port).is_none()) {
        return None;
    }
    let may_be = |place: &Place| matches!(place, Place::Domain(domain) if rules.may_be_allowed(domain));
    Some(RefusedView {
        domain: refused.place.clone(),
        port: refused.port,
        count: refused.count,
        last_at: refused.last_at,
        reason: refused.reason,
        can_allow: not_listed && place.as_ref().is_some_and(may_be),
        dismissed: refused.quiet,
    })
}

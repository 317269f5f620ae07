//! What surrounds every request: limits, security headers, and answers for addresses that don't exist.
//! Never: a rule about one route; that is the route's own.

use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderName, HeaderValue, Method};
use tower_http::compression::CompressionLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::extract::IDEMPOTENCY_KEY;
use crate::problem::{Code, Problem};
use crate::routes::LAST_EVENT_ID;
use crate::state::ApiState;

/// The largest body that any route of this API needs is the settings of a bot, some kilobytes.
pub(crate) const BODY_BYTES_MAX: usize = 1024 * 1024;
/// A body that announces itself as too large is still read, up to this and for so long: whoever is cut off in the middle of
/// sending never gets to see why.
const REFUSED_BODY_BYTES_MAX: usize = 16 * BODY_BYTES_MAX;
const REFUSED_BODY_TIME: Duration = Duration::from_secs(5);
/// Handlers only read and write rows; one that takes longer waits for a database that is in trouble.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Browsers ask again for permission after this long.
const PREFLIGHT_AGE: Duration = Duration::from_secs(600);

/// The app's own files only. The hash is that of the empty text: the app's components make one empty style element and fill
/// it by script.
const CONTENT_POLICY: &str = "default-src 'self'; \
     style-src 'self' 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='; img-src 'self' data:; connect-src 'self'; \
     object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'";

/// Puts limits and headers around a router whose routes are complete.
pub(crate) fn around(router: Router<ApiState>, state: &ApiState) -> Router<ApiState> {
    let limited = router
        .fallback(not_found)
        .layer(from_fn(finish))
        .layer(from_fn(refuse_large))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX));
    let shared = if state.config.origins.is_empty() { limited } else { limited.layer(cors(state)) };
    shared.layer(CompressionLayer::new()).layer(from_fn_with_state(state.clone(), headers))
}

async fn not_found() -> Problem {
    Problem::new(Code::RouteNotFound, "Nothing is at this address; /api/docs lists what there is.")
}

/// Refuses a body by its announced length. One that announces nothing meets the limit while it is read.
async fn refuse_large(request: Request, next: Next) -> Response {
    let announced = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_none_or(|bytes| bytes <= BODY_BYTES_MAX) {
        return next.run(request).await;
    }
    let mut body = request.into_body().into_data_stream();
    let read = async {
        let mut bytes = 0;
        while let Some(Ok(piece)) = body.next().await {
            bytes += piece.len();
            if bytes > REFUSED_BODY_BYTES_MAX {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(REFUSED_BODY_TIME, read).await;
    Problem::new(Code::BodyTooLarge, format!("Send a body of at most {BODY_BYTES_MAX} bytes.")).into_response()
}

/// Bounds the time until an answer begins, and turns axum's bare 405 into a Problem.
async fn finish(request: Request, next: Next) -> Response {
    let Ok(response) = tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await else {
        let detail = "The answer took too long; whatever was asked may still happen. Please try again.";
        return Problem::new(Code::RequestTimeout, detail).retry_after_s(5).into_response();
    };
    if response.status() != http::StatusCode::METHOD_NOT_ALLOWED {
        return response;
    }
    let allow = response.headers().get(ALLOW).cloned();
    let methods = allow.as_ref().and_then(|value| value.to_str().ok()).unwrap_or("another method");
    let mut problem = Problem::new(Code::MethodNotAllowed, format!("This address takes {methods}."));
    problem.allow = allow;
    problem.into_response()
}

async fn headers(State(_): State<ApiState>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.entry(CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(CONTENT_POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    response
}

/// For the origins that the operator named. Without any there is no such layer: the app is of the same origin.
fn cors(state: &ApiState) -> CorsLayer {
    let origins = state.config.origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok());
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers([
            http::header::AUTHORIZATION,
            http::header::CONTENT_TYPE,
            http::header::IF_MATCH,
            HeaderName::from_static(IDEMPOTENCY_KEY),
            HeaderName::from_static(LAST_EVENT_ID),
        ])
        .allow_credentials(true)
        .max_age(PREFLIGHT_AGE)
}

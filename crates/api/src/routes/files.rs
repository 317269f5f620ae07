//! The landing pages at `/` and the app at `/app`, baked into the binary; a build for development reads them from disk.
//! Never: a file outside the two folders, or a stale page after an upgrade.

use std::borrow::Cow;
use std::sync::LazyLock;

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, StatusCode};
use molt_model::CheckoutId;
use rust_embed::{EmbeddedFile, RustEmbed};
use sha2::{Digest, Sha256};

use crate::problem::{Code, Problem};
use crate::state::ApiState;

/// The landing pages and what they need.
#[derive(RustEmbed)]
#[folder = "$CARGO_MANIFEST_DIR/../../site"]
struct Site;

/// The app's web build. Missing before the first build; `/app` says so then.
#[derive(RustEmbed)]
#[folder = "$CARGO_MANIFEST_DIR/../../app/dist"]
#[allow_missing = true]
struct App;

/// Where a mailed link leads, and what logs in there.
static LINK_PAGE: LazyLock<String> =
    LazyLock::new(|| framed("Log in", "/link.js", "/", include_str!("../../pages/link.html")));
const LINK_SCRIPT: &str = include_str!("../../pages/link.js");
/// Where built-in payments ask whether to start the plan. Its script is one of the site's.
static CHECKOUT_PAGE: LazyLock<String> =
    LazyLock::new(|| framed("Start the plan", "/checkout.js", "/app/", include_str!("../../pages/checkout.html")));
/// What operators open: built-in mail and the fleet. What is shown comes from `GET /api/admin/…`, which asks who they are.
static MAILS_PAGE: LazyLock<String> =
    LazyLock::new(|| operators("Mails", "/admin/mails", include_str!("../../pages/mails.html")));
static FLEET_PAGE: LazyLock<String> =
    LazyLock::new(|| operators("Assistants", "/admin/fleet", include_str!("../../pages/fleet.html")));
const OPERATORS_FILES: [(&str, &str, &str); 4] = [
    ("/admin/mails.js", ".js", include_str!("../../pages/mails.js")),
    ("/admin/fleet.js", ".js", include_str!("../../pages/fleet.js")),
    ("/admin/operator.js", ".js", include_str!("../../pages/operator.js")),
    ("/admin/operator.css", ".css", include_str!("../../pages/operator.css")),
];

/// A file whose name carries a hash of its content never changes.
const FOR_EVER: &str = "public, max-age=31536000, immutable";
/// Other files are asked for again each time, which costs a 304.
const ASK_AGAIN: &str = "no-cache";
/// Folders of the app's build whose file names carry a hash.
const HASHED_FOLDERS: [&str; 2] = ["_expo/static/", "assets/"];

pub(crate) fn routes() -> Router<ApiState> {
    let operators = OPERATORS_FILES.iter().fold(Router::new(), |router, (address, kind, text)| {
        router.route(address, get(move |headers: HeaderMap| async move { own_file(kind, text, &headers) }))
    });
    Router::new()
        .merge(operators)
        .route("/admin/mails", get(|headers: HeaderMap| async move { own_file(".html", &MAILS_PAGE, &headers) }))
        .route("/admin/fleet", get(|headers: HeaderMap| async move { own_file(".html", &FLEET_PAGE, &headers) }))
        .route("/", get(|headers: HeaderMap| async move { site_file("index.html", &headers) }))
        .route("/checkout/{id}", get(checkout_page))
        .route("/link", get(|headers: HeaderMap| async move { own_file(".html", &LINK_PAGE, &headers) }))
        .route("/link.js", get(|headers: HeaderMap| async move { own_file(".js", LINK_SCRIPT, &headers) }))
        .route("/app", get(|| async { Redirect::permanent("/app/") }))
        .route("/app/", get(|headers: HeaderMap| async move { app_file("index.html", &headers) }))
        .route(
            "/app/{*path}",
            get(|Path(path): Path<String>, headers: HeaderMap| async move { app_file(&path, &headers) }),
        )
        .route("/{file}", get(|Path(file): Path<String>, headers: HeaderMap| async move { site_file(&file, &headers) }))
}

async fn checkout_page(Path(id): Path<String>, headers: HeaderMap) -> Response {
    if id.parse::<CheckoutId>().is_err() {
        return nothing_here().into_response();
    }
    own_file(".html", &CHECKOUT_PAGE, &headers)
}

fn site_file(path: &str, headers: &HeaderMap) -> Response {
    Site::get(path).map_or_else(|| nothing_here().into_response(), |file| send(path, file, ASK_AGAIN, headers))
}

/// A file of the app, or the app itself for an address that only the app knows.
fn app_file(path: &str, headers: &HeaderMap) -> Response {
    let hashed = HASHED_FOLDERS.iter().any(|folder| path.starts_with(folder));
    if let Some(file) = App::get(path) {
        return send(path, file, if hashed { FOR_EVER } else { ASK_AGAIN }, headers);
    }
    if hashed {
        return nothing_here().into_response();
    }
    match App::get("index.html") {
        Some(file) => send("index.html", file, ASK_AGAIN, headers),
        None => {
            let detail = "The app isn't built yet; run `make app`, then load this page again.";
            Problem::new(Code::Unavailable, detail).into_response()
        }
    }
}

/// A page with one card, in the frame that all such pages share.
fn framed(title: &str, script: &str, home: &str, card: &str) -> String {
    let frame = include_str!("../../pages/frame.html");
    frame.replace("{title}", title).replace("{script}", script).replace("{home}", home).replace("{card}", card)
}

/// A page for operators, in the frame that theirs share, which leads to the others. Its script is beside it.
fn operators(title: &str, page: &str, body: &str) -> String {
    let frame = include_str!("../../pages/operator.html");
    let here = format!("href=\"{page}\"");
    let frame = frame.replace(&here, &format!("{here} aria-current=\"page\""));
    frame.replace("{title}", title).replace("{page}", page).replace("{body}", body)
}

/// A page of this crate.
fn own_file(path: &str, text: &'static str, headers: &HeaderMap) -> Response {
    send_bytes(path, Cow::Borrowed(text.as_bytes()), &Sha256::digest(text.as_bytes()), ASK_AGAIN, headers)
}

fn send(path: &str, file: EmbeddedFile, age: &'static str, headers: &HeaderMap) -> Response {
    let hash = file.metadata.sha256_hash();
    send_bytes(path, file.data, &hash, age, headers)
}

fn send_bytes(path: &str, bytes: Cow<'static, [u8]>, hash: &[u8], age: &'static str, headers: &HeaderMap) -> Response {
    let etag = format!("\"{}\"", &hex::encode(hash)[..32]);
    let known = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut known = known.flat_map(|list| list.split(',')).map(|one| one.trim().trim_start_matches("W/"));
    let etag_value = HeaderValue::from_str(&etag).expect("hexadecimal digits fit into a header");
    let heads = [(ETAG, etag_value), (CACHE_CONTROL, HeaderValue::from_static(age))];
    if known.any(|one| one == etag || one == "*") {
        return (StatusCode::NOT_MODIFIED, heads).into_response();
    }
    let body = match bytes {
        Cow::Borrowed(bytes) => Body::from(bytes),
        Cow::Owned(bytes) => Body::from(bytes),
    };
    (heads, [(CONTENT_TYPE, HeaderValue::from_static(kind(path)))], body).into_response()
}

/// What our own two folders hold; anything else is bytes.
fn kind(path: &str) -> &'static str {
    match path.rsplit_once('.').map_or("", |(_, extension)| extension) {
        "html" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "json" | "map" => "application/json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        "ttf" => "font/ttf",
        "txt" => "text/plain; charset=utf-8",
        "webmanifest" => "application/manifest+json",
        _ => "application/octet-stream",
    }
}

fn nothing_here() -> Problem {
    Problem::new(Code::RouteNotFound, "Nothing is at this address; /api/docs lists what there is.")
}

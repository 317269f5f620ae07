//! Plain HTTP: one request in absolute form, or those of a tunnel to port 80, each for the host that was allowed.
//! Never: a header that belongs to one connection only passed on to the next, or a head without a bound.

use std::io;
use std::sync::Arc;

use axum::body::Body;
use http::header::{self, HeaderName};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use molt_model::egress::{Place, Reason};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_util::task::TaskTracker;

use super::Denied;
use super::asked::{place_of, port_of};
use super::pace::{Paced, Pulse};
use super::passage::Passage;
use crate::framing::Watched;
use crate::serve::HEAD_TIME_MAX;

/// What may be buffered of a connection. A head is a few kilobytes, or it is no head.
const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// Of one connection only (RFC 9110, 7.6.1), and what old programs send in their place.
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHORIZATION,
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];
const HTTP_PORT: u16 = 80;

/// Sends a request on and gives its answer back, on a connection of its own.
pub(super) async fn forward(
    tasks: &TaskTracker,
    request: Request<Incoming>,
    stream: TcpStream,
    passage: Passage,
) -> Result<Response<Body>, Denied> {
    let unreachable = Denied::Unreachable(passage.place.clone());
    let host = host(&passage.place, passage.port);
    let pulse = Pulse::new();
    let world = TokioIo::new(Paced::new(stream, &pulse, passage.counts()));
    let shaken = Builder::new().max_buf_size(BUFFER_BYTES_MAX).handshake(world).await;
    let Ok((mut sender, connection)) = shaken else { return Err(unreachable) };
    tasks.spawn(async move {
        // It ends by itself once the answer was read, and the answer breaks off if it ends before.
        tokio::select! {
            _ = connection => {}
            () = passage.ended() => {}
            () = pulse.stopped() => {}
        }
    });
    let Some(request) = outgoing(request, &host) else {
        return Err(Denied::Malformed("The address can't be read."));
    };
    send(&mut sender, request).await.ok_or(unreachable)
}

/// Serves the HTTP of a tunnel: many programs open one for `http://` as well.
pub(super) async fn serve<S>(cell: S, world: Paced, passage: &Passage) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let shaken = Builder::new().max_buf_size(BUFFER_BYTES_MAX).handshake(TokioIo::new(world)).await;
    let (sender, connection) = shaken.map_err(io::Error::other)?;
    let sender = Arc::new(Mutex::new(sender));
    let host = &host(&passage.place, passage.port);
    let cell = Watched::new(cell);
    let framing = cell.framing();
    let service = service_fn(|request: Request<Incoming>| {
        let (sender, double) = (Arc::clone(&sender), framing.is_double(request.headers()));
        async move {
            if double {
                passage.counts().denied(&Denied::TWO_LENGTHS);
                return Ok(Denied::TWO_LENGTHS.last_response());
            }
            if !is_for(&request, &passage.place) {
                passage.refuse_silently(Reason::OtherName);
                return Ok(Denied::Refused(Reason::OtherName, passage.place.clone()).last_response());
            }
            let mut sender = sender.lock().await;
            let answer = match outgoing(request, host) {
                Some(request) => send(&mut sender, request).await,
                None => None,
            };
            // The connection closes, as it would without us.
            answer.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionAborted))
        }
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(cell), service);
    tokio::pin!(serving);
    tokio::select! {
        served = serving.as_mut() => return served.map_err(io::Error::other),
        // What was answered is still given back; then a new tunnel is needed.
        _ = connection => serving.as_mut().graceful_shutdown(),
    }
    serving.await.map_err(io::Error::other)
}

/// Whether a request of a tunnel is for its place: by its `Host`, and by its address if that is written in full.
fn is_for<B>(request: &Request<B>, place: &Place) -> bool {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let named = |uri: &Uri| place_of(uri).as_ref() == Ok(place) && matches!(port_of(uri), Ok(None | Some(HTTP_PORT)));
    let by_header = Uri::try_from(host.as_bytes()).is_ok_and(|uri| uri.path_and_query().is_none() && named(&uri));
    by_header && (request.uri().authority().is_none() || named(request.uri()))
}

/// The request as it goes to the world. `None`: it has no address that can be sent.
fn outgoing(request: Request<Incoming>, host: &str) -> Option<Request<Incoming>> {
    let (mut head, body) = request.into_parts();
    drop_hop_by_hop(&mut head.headers);
    head.headers.remove(header::EXPECT);
    head.headers.insert(header::HOST, HeaderValue::from_str(host).ok()?);
    let path = head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    head.uri = Uri::from(path);
    head.version = http::Version::HTTP_11;
    head.extensions.clear();
    Some(Request::from_parts(head, body))
}

async fn send(sender: &mut SendRequest<Incoming>, request: Request<Incoming>) -> Option<Response<Body>> {
    sender.ready().await.ok()?;
    let answer = sender.send_request(request).await.ok()?;
    // Nobody was asked to change the protocol.
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        return None;
    }
    let (mut head, body) = answer.into_parts();
    drop_hop_by_hop(&mut head.headers);
    head.version = http::Version::HTTP_11;
    head.extensions.clear();
    Some(Response::from_parts(head, Body::new(body)))
}

fn drop_hop_by_hop(headers: &mut HeaderMap) {
    // A body that comes in chunks is as long as they are, whatever length is claimed beside them.
    if headers.contains_key(header::TRANSFER_ENCODING) {
        headers.remove(header::CONTENT_LENGTH);
    }
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        // How long the body is must not depend on what a caller calls its own.
        if *name != header::CONTENT_LENGTH && *name != header::HOST {
            headers.remove(name);
        }
    }
}

fn host(place: &Place, port: u16) -> String {
    let name = match place {
        Place::Address(std::net::IpAddr::V6(address)) => format!("[{address}]"),
        place => place.to_string(),
    };
    if port == HTTP_PORT { name } else { format!("{name}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_one_connection_stay_there() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONNECTION, HeaderValue::from_static("content-length"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("5"));
        drop_hop_by_hop(&mut headers);
        assert_eq!(headers.len(), 1, "how long the body is stays");
        for (name, value) in [
            ("connection", "close, x-secret, content-length, host"),
            ("connection", "x-other"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authorization", "Basic x"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("x-secret", "1"),
            ("x-other", "1"),
            ("content-length", "5"),
            ("host", "example.org"),
            ("accept", "*/*"),
        ] {
            headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_static(value));
        }
        drop_hop_by_hop(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "host"]);
    }

    #[test]
    fn a_request_in_a_tunnel_is_for_its_own_host_only() {
        let place = molt_model::egress::place("example.org").unwrap();
        for (uri, hosts, good) in [
            ("/a", &["example.org"][..], true),
            ("/a", &["EXAMPLE.org:80"], true),
            ("/a", &["example.org."], true),
            ("http://example.org/a", &["example.org"], true),
            ("/a", &["example.org:81"], false),
            ("/a", &["other.example"], false),
            ("/a", &[], false),
            ("/a", &["example.org", "other.example"], false),
            ("/a", &["example.org/x"], false),
            ("/a", &["x@example.org"], false),
            ("http://other.example/a", &["example.org"], false),
        ] {
            let mut request = Request::builder().uri(uri);
            for host in hosts {
                request = request.header("host", *host);
            }
            assert_eq!(is_for(&request.body(()).unwrap(), &place), good, "{uri} {hosts:?}");
        }
    }
}

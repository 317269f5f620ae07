//! What a request for the way out asks for.
//! Never: a place read in another spelling than the one that the lists have.

use http::{Method, Request, Uri};
use molt_model::egress::{self, Place};

/// How the way is to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `CONNECT`: bytes in both directions.
    Tunnel,
    /// One request in absolute form.
    Plain,
}

/// Where a program wants to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) kind: Kind,
    pub(super) place: Place,
    pub(super) port: u16,
}

/// Of plain HTTP.
const HTTP_PORT: u16 = 80;

impl Asked {
    /// The error says what would do.
    pub(super) fn read<B>(request: &Request<B>) -> Result<Self, &'static str> {
        let uri = request.uri();
        let tunnel = request.method() == Method::CONNECT;
        if !tunnel && uri.scheme_str() != Some("http") {
            return Err("Ask for http:// addresses in full; for https:// open a tunnel with CONNECT.");
        }
        let port = match (port_of(uri)?, tunnel) {
            (Some(port), _) => port,
            (None, false) => HTTP_PORT,
            (None, true) => return Err("Name the port, as in CONNECT example.org:443."),
        };
        let place = place_of(uri)?;
        Ok(Self { kind: if tunnel { Kind::Tunnel } else { Kind::Plain }, place, port })
    }
}

/// `None`: the address names no port.
pub(super) fn port_of(uri: &Uri) -> Result<Option<u16>, &'static str> {
    const WRONG: &str = "The port must be a number from 1 to 65535.";
    match uri.port() {
        Some(port) => port.as_str().parse().ok().filter(|port| *port > 0).map(Some).ok_or(WRONG),
        None => Ok(None),
    }
}

/// The host of an address that is written in full.
pub(super) fn place_of(uri: &Uri) -> Result<Place, &'static str> {
    let authority = uri.authority().ok_or("Name the host to reach.")?;
    if authority.as_str().contains('@') {
        return Err("Leave the user and the password out of the address.");
    }
    egress::place(authority.host()).map_err(|_| "The host isn't a domain name or an address.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_in_one_spelling_or_not_at_all() {
        let read = |method: &str, uri: &str| {
            let uri: Uri = uri.parse().ok()?;
            let request = Request::builder().method(method).uri(uri).body(()).unwrap();
            let asked = Asked::read(&request).ok()?;
            Some(format!("{:?} {}:{}", asked.kind, asked.place, asked.port))
        };
        for (method, uri, expected) in [
            ("CONNECT", "Example.ORG.:443", Some("Tunnel example.org:443")),
            ("CONNECT", "example.org", None),
            ("CONNECT", "example.org:0", None),
            ("CONNECT", "example.org:66000", None),
            ("CONNECT", "a@example.org:443", None),
            ("CONNECT", "[::ffff:127.0.0.1]:443", Some("Tunnel ::ffff:127.0.0.1:443")),
            ("CONNECT", "0x7f.1:443", Some("Tunnel 127.0.0.1:443")),
            ("GET", "http://example.org/a?b", Some("Plain example.org:80")),
            ("GET", "HTTP://EXAMPLE.org:8080/", Some("Plain example.org:8080")),
            ("GET", "http://user:secret@example.org/", None),
            ("GET", "https://example.org/", None),
            ("GET", "ftp://example.org/", None),
            ("GET", "/v1/models", None),
            ("GET", "http://2130706433/", Some("Plain 127.0.0.1:80")),
        ] {
            assert_eq!(read(method, uri).as_deref(), expected, "{method} {uri}");
        }
    }
}

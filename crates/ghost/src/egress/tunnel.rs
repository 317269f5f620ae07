//! `CONNECT`: a connection through which bytes go both ways, once it is seen that they are meant for the place that was
//! allowed. At 443 they must be TLS for that name, at 80 HTTP for that host; at a port that the operator named anything, and
//! if it is TLS, for that name.
//! Never: a byte to the world before that, or TLS opened.

use std::io;

use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use molt_model::egress::{Place, Reason};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy, split};
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

use super::hello::{self, Said};
use super::pace::{Paced, Pulse};
use super::passage::Passage;
use super::plain;

const HTTPS_PORT: u16 = 443;
const HTTP_PORT: u16 = 80;

/// Answers that the way is open and carries what comes, on a task of its own.
pub(super) fn open(
    tasks: &TaskTracker,
    request: Request<Incoming>,
    stream: TcpStream,
    passage: Passage,
) -> Response<Body> {
    let upgrade = hyper::upgrade::on(request);
    tasks.spawn(async move {
        let pulse = Pulse::new();
        let carried = async {
            // An error: the caller was gone before it had the answer.
            let Ok(upgraded) = upgrade.await else { return };
            let (cell, world) = (TokioIo::new(upgraded), Paced::new(stream, &pulse, passage.counts()));
            // A connection that breaks is ordinary, and its two ends' own doing.
            let _ = match passage.port {
                HTTP_PORT => plain::serve(cell, world, &passage).await,
                port => carry(cell, world, &passage, port == HTTPS_PORT).await,
            };
        };
        tokio::select! {
            () = carried => {}
            () = passage.ended() => {}
            () = pulse.stopped() => {}
        }
    });
    Response::new(Body::empty())
}

async fn carry<S>(mut cell: S, world: Paced, passage: &Passage, must_be_tls: bool) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut first = Vec::new();
    if must_be_tls {
        let (said, bytes) = hello::read_soon(&mut cell).await?;
        if let Some(reason) = objection(&said, &passage.place, true) {
            passage.refuse_silently(reason);
            if matches!(said, Said::Tls(_)) {
                cell.write_all(&hello::ALERT).await?;
            }
            return cell.shutdown().await;
        }
        first = bytes;
    }
    let (mut from_cell, mut to_cell) = split(cell);
    let (mut from_world, mut to_world) = split(world);
    let up = async {
        if !must_be_tls {
            let (said, bytes) = hello::read(&mut from_cell).await?;
            if let Some(reason) = objection(&said, &passage.place, false) {
                passage.refuse_silently(reason);
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            first = bytes;
        }
        to_world.write_all(&first).await?;
        drop(std::mem::take(&mut first));
        copy(&mut from_cell, &mut to_world).await?;
        to_world.shutdown().await
    };
    let down = async {
        copy(&mut from_world, &mut to_cell).await?;
        to_cell.shutdown().await
    };
    tokio::try_join!(up, down).map(|_| ())
}

/// What is wrong with first bytes on the way to that place.
fn objection(said: &Said, place: &Place, must_be_tls: bool) -> Option<Reason> {
    let expected = match place {
        Place::Domain(domain) => Some(domain.as_str()),
        Place::Address(_) => None,
    };
    match said {
        Said::Tls(name) if name.as_deref() == expected => None,
        Said::Tls(None) if !must_be_tls => None,
        Said::Tls(None) => Some(Reason::NoName),
        Said::Tls(Some(_)) => Some(Reason::OtherName),
        Said::NotTls if !must_be_tls => None,
        Said::NotTls | Said::Broken => Some(Reason::NoName),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_must_be_for_the_place_that_was_allowed() {
        let place = |text: &str| molt_model::egress::place(text).unwrap();
        let tls = |name: &str| Said::Tls(Some(name.to_owned()));
        for (said, asked, must, expected) in [
            (tls("example.org"), "example.org", true, None),
            (tls("example.org"), "example.org", false, None),
            (tls("other.example"), "example.org", true, Some(Reason::OtherName)),
            (tls("other.example"), "example.org", false, Some(Reason::OtherName)),
            (Said::Tls(None), "example.org", true, Some(Reason::NoName)),
            (Said::Tls(None), "example.org", false, None),
            (Said::Tls(None), "9.9.9.9", true, None),
            (tls("example.org"), "9.9.9.9", true, Some(Reason::OtherName)),
            (Said::NotTls, "example.org", true, Some(Reason::NoName)),
            (Said::NotTls, "example.org", false, None),
            (Said::Broken, "example.org", true, Some(Reason::NoName)),
            (Said::Broken, "example.org", false, Some(Reason::NoName)),
        ] {
            assert_eq!(objection(&said, &place(asked), must), expected, "{said:?} {asked} {must}");
        }
    }
}

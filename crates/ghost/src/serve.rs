//! The proxy's own listener: one thread a core, each with its own runtime, its own accept queue and its own upstream
//! connections, so that a call never changes threads.
//! Never: a connection, a head or a stalled reader without a bound.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::thread::JoinHandle;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Ghost;
use crate::call::{self, Caller};
use crate::framing::Watched;
use crate::turn::{self, Turn};

/// A fresh connection, or one between two requests, gets so long for the next head. Callers that poll keep theirs.
pub(crate) const HEAD_TIME_MAX: Duration = Duration::from_secs(75);
/// What hyper may buffer of one connection. A head is a few kilobytes, or it is no head.
pub(crate) const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// Connections in one process. Idle ones cost some kilobytes each.
const CONNECTIONS_MAX: usize = 16 * 1024;
/// A caller that takes nothing of its answer for so long counts as gone.
const WRITE_STALL_MAX: Duration = Duration::from_secs(120);
/// The listener's queue of connections that nobody has taken yet.
pub(crate) const BACKLOG: i32 = 1024;
/// When no file handle is left for a connection; a moment later there may be one.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// How long open answers get at a stop. What is cut then is settled as an estimate.
const GRACE: Duration = Duration::from_secs(8);

/// An address that is taken and not served yet: one accept queue a thread.
pub struct Listeners {
    address: SocketAddr,
    sockets: Vec<std::net::TcpListener>,
}

impl Listeners {
    /// The kernel spreads connections over the queues. Refuses an address that another program has. Zero: a thread a core.
    pub fn bind(address: SocketAddr, threads: usize) -> io::Result<Self> {
        // Without SO_REUSEPORT, which would share the address with another process of this account.
        let address = std::net::TcpListener::bind(address)?.local_addr()?;
        let threads = if threads > 0 { threads } else { std::thread::available_parallelism()?.get() };
        let sockets = (0..threads).map(|_| listen(address)).collect::<io::Result<_>>()?;
        Ok(Self { address, sockets })
    }

    /// With the real port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// A listener at work.
pub struct Server {
    stop: CancellationToken,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Serves, with a thread for each queue.
    pub fn start(ghost: &Ghost, listeners: Listeners) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let open = Arc::new(AtomicUsize::new(0));
        let mut threads = Vec::with_capacity(listeners.sockets.len());
        for (number, socket) in listeners.sockets.into_iter().enumerate() {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().on_thread_park(turn::rests).build()?;
            let listener = {
                let _inside = runtime.enter();
                TcpListener::from_std(socket)?
            };
            let serving = accept(ghost.clone(), listener, stop.clone(), open.clone());
            let thread = std::thread::Builder::new().name(format!("ghost-{number}"));
            threads.push(thread.spawn(move || runtime.block_on(serving))?);
        }
        Ok(Self { stop, threads })
    }

    /// No new connections; open answers get a moment. Returns when all threads have ended.
    pub async fn stop(self) {
        self.stop.cancel();
        let (done, ended) = oneshot::channel();
        std::thread::spawn(move || {
            for thread in self.threads {
                let _ = thread.join();
            }
            let _ = done.send(());
        });
        let _ = ended.await;
    }
}

fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

async fn accept(ghost: Ghost, listener: TcpListener, stop: CancellationToken, open: Arc<AtomicUsize>) {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, _peer)) if open.load(Ordering::Relaxed) < CONNECTIONS_MAX => {
                let place = Place::take(&open);
                connections.spawn(connection(ghost.clone(), stream, stop.clone(), place));
            }
            // Closed at once: a caller that comes back in a moment finds a place.
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a connection can't be taken");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    let _ = tokio::time::timeout(GRACE, connections.wait()).await;
}

/// One place among the connections.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(open.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn connection(ghost: Ghost, stream: TcpStream, stop: CancellationToken, _place: Place) {
    // Words of an answer are small packets that must not wait for each other. Without it they are only slower.
    let _ = stream.set_nodelay(true);
    let stream = Watched::new(stream);
    let framing = stream.framing();
    let service = service_fn(move |request: Request<Incoming>| {
        let (ghost, double) = (ghost.clone(), framing.is_double(request.headers()));
        async move {
            if double {
                return Ok::<_, Infallible>(call::two_lengths());
            }
            Ok(call::handle(&ghost.0, Caller::KeyHolder, request).await)
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(Patient::new(stream)), service)
        .with_upgrades();
    tokio::pin!(serving);
    // A connection that breaks is its caller's own doing, and ordinary.
    tokio::select! {
        _ = serving.as_mut() => return,
        () = stop.cancelled() => serving.as_mut().graceful_shutdown(),
    }
    let _ = serving.await;
}

/// A stream that is written to when it is its turn, and whose reader may be slow, but not for ever: a write that makes no
/// progress for `WRITE_STALL_MAX` fails.
pub(crate) struct Patient<S> {
    stream: S,
    turn: Turn,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, turn: Turn::default(), stalled: None }
    }

    fn bounded<T>(&mut self, written: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.turn.over();
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_STALL_MAX)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.turn.poll(context));
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.bounded(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.turn.poll(context));
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.bounded(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.bounded(flushed, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.bounded(shut, context)
    }
}

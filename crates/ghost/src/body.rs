//! Reads a request's body: bounded in size, in time, and together with all others in memory.
//! Never: a large body taken into memory because its sender says that it is small.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Body;

use crate::answer::Refusal;

/// The runtime's own limit for a frame; pictures in a long conversation come near it.
const BODY_BYTES_MAX: usize = 25 * 1024 * 1024;
/// For the whole body: a caller that sends a byte a second holds a connection, not a call.
const BODY_TIME_MAX: Duration = Duration::from_secs(60);
/// All bodies that are held at one time. Beyond it callers are asked to come back.
const BUFFERED_BYTES_MAX: usize = 256 * 1024 * 1024;
const BUFFER_RETRY_SECONDS: u64 = 2;

/// The memory that all bodies share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Buffers(Arc<AtomicUsize>);

/// A body, and the room that it takes.
pub(crate) struct Buffered {
    pub(crate) bytes: Bytes,
    /// How long its caller took to send it.
    pub(crate) waited: Duration,
    _room: Room,
}

struct Room {
    buffers: Buffers,
    bytes: usize,
}

impl Room {
    fn grow(&mut self, bytes: usize) -> Result<(), Refusal> {
        let before = self.buffers.0.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        if before + bytes > BUFFERED_BYTES_MAX {
            let message = "Too many large requests at once; please try again in a moment.";
            return Err(Refusal::later("busy", message, BUFFER_RETRY_SECONDS));
        }
        Ok(())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.buffers.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The whole body, or why not.
pub(crate) async fn read<B>(buffers: &Buffers, headers: &HeaderMap, body: B) -> Result<Buffered, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
{
    let said = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if said.is_some_and(|said| said > BODY_BYTES_MAX) {
        return Err(too_large());
    }
    let (room, began) = (Room { buffers: buffers.clone(), bytes: 0 }, Instant::now());
    let read = tokio::time::timeout(BODY_TIME_MAX, collect(room, body)).await.map_err(|_elapsed| {
        let message = "The body didn't arrive in time.";
        Refusal::new(StatusCode::REQUEST_TIMEOUT, "invalid_request_error", "body_too_slow", message)
    })?;
    read.map(|body| Buffered { waited: began.elapsed(), ..body })
}

async fn collect<B: Body<Data = Bytes> + Unpin>(mut room: Room, mut body: B) -> Result<Buffered, Refusal> {
    // Most bodies come in one piece and stay where they are.
    let mut only = Bytes::new();
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return Err(Refusal::invalid("body_cut", "The body broke off before its end; send the whole of it."));
        };
        let Ok(data) = frame.into_data() else { continue };
        if room.bytes + data.len() > BODY_BYTES_MAX {
            return Err(too_large());
        }
        room.grow(data.len())?;
        if read.is_empty() && only.is_empty() {
            only = data;
            continue;
        }
        if read.is_empty() {
            read.extend_from_slice(&std::mem::take(&mut only));
        }
        read.extend_from_slice(&data);
    }
    let bytes = if read.is_empty() { only } else { read.freeze() };
    Ok(Buffered { bytes, waited: Duration::ZERO, _room: room })
}

fn too_large() -> Refusal {
    let message = format!("The body is larger than {} MB.", BODY_BYTES_MAX / 1024 / 1024);
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", "body_too_large", message)
}

//! The chat stream to one cell: typed frames over a WebSocket.
//! Never: hold back or reorder a frame, or reconnect by itself; the caller says `hello` again with its own position.

use std::time::Duration;

use anyhow::{Context, anyhow};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use http::header::{AUTHORIZATION, HeaderValue};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::connect::Connection;
use crate::error::ClientError;
use crate::wire::{CellSeq, FromCell, Op};

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// A write that takes longer means that the cell doesn't read.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// The cell pings every 15 s; three missed pings are a dead cell.
const SILENCE_MAX: Duration = Duration::from_secs(45);
/// A finished message is at most 2 MiB (the cell cuts it); with JSON escapes this is room enough.
const FRAME_BYTES_MAX: usize = 8 * 1024 * 1024;

/// An open stream, after `hello`.
pub struct CellStream {
    sender: CellSender,
    receiver: CellReceiver,
}

/// The half that gives operations to the cell.
pub struct CellSender(SplitSink<WebSocketStream<Connection>, Message>);

/// The half that yields replies and frames, in order.
pub struct CellReceiver(SplitStream<WebSocketStream<Connection>>);

impl CellStream {
    pub(crate) async fn open(connection: Connection, bearer: HeaderValue, after: CellSeq) -> Result<Self, ClientError> {
        let mut request =
            "ws://cell/api/stream".into_client_request().context("build the upgrade").map_err(ClientError::Protocol)?;
        request.headers_mut().insert(AUTHORIZATION, bearer);
        let config =
            WebSocketConfig::default().max_message_size(Some(FRAME_BYTES_MAX)).max_frame_size(Some(FRAME_BYTES_MAX));
        let handshake = tokio_tungstenite::client_async_with_config(request, connection, Some(config));
        let (socket, _) = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake)
            .await
            .map_err(|_| ClientError::Timeout)?
            .map_err(refused_or_broken)?;
        let (sink, source) = socket.split();
        let mut stream = Self { sender: CellSender(sink), receiver: CellReceiver(source) };
        stream.sender.send(&Op::Hello { after }).await?;
        Ok(stream)
    }

    /// Gives the cell an operation.
    pub async fn send(&mut self, op: &Op) -> Result<(), ClientError> {
        self.sender.send(op).await
    }

    /// The next reply or frame; none when the cell closed the stream.
    pub async fn next(&mut self) -> Result<Option<FromCell>, ClientError> {
        self.receiver.next().await
    }

    /// The two halves, for a reader and a writer that don't wait for each other.
    #[must_use]
    pub fn split(self) -> (CellSender, CellReceiver) {
        (self.sender, self.receiver)
    }
}

impl CellSender {
    /// Gives the cell an operation.
    pub async fn send(&mut self, op: &Op) -> Result<(), ClientError> {
        let text = serde_json::to_string(op).context("encode an operation").map_err(ClientError::Protocol)?;
        tokio::time::timeout(SEND_TIMEOUT, self.0.send(Message::text(text)))
            .await
            .map_err(|_| ClientError::Timeout)?
            .map_err(refused_or_broken)
    }
}

impl CellReceiver {
    /// The next reply or frame; none when the cell closed the stream. Safe to cancel.
    pub async fn next(&mut self) -> Result<Option<FromCell>, ClientError> {
        loop {
            let message = tokio::time::timeout(SILENCE_MAX, self.0.next()).await.map_err(|_| ClientError::Timeout)?;
            match message {
                None | Some(Ok(Message::Close(_)) | Err(Error::ConnectionClosed)) => return Ok(None),
                Some(Ok(Message::Text(text))) => {
                    let frame = serde_json::from_str(&text).context("decode a frame").map_err(ClientError::Protocol)?;
                    return Ok(Some(frame));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(refused_or_broken(error)),
            }
        }
    }
}

fn refused_or_broken(error: Error) -> ClientError {
    match error {
        Error::Http(response) if response.status() == http::StatusCode::UNAUTHORIZED => ClientError::Unauthorized,
        Error::Http(response) => ClientError::Protocol(anyhow!("the upgrade was answered with {}", response.status())),
        Error::Io(error) => ClientError::Unreachable(error),
        other => ClientError::Unreachable(std::io::Error::other(other)),
    }
}

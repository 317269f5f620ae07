//! What can go wrong when the platform speaks to a cell; a variant per thing a caller does differently.
//! Never: text of the cell's own beyond its stable code and its sentence.

use http::StatusCode;

use crate::wire::Fault;

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens, or the connection broke before an answer: the cell isn't there (yet).
    #[error("the cell can't be reached")]
    Unreachable(#[source] std::io::Error),
    /// The path holds something other than a socket; it was not opened.
    #[error("the cell's address isn't a socket")]
    NotASocket,
    #[error("the cell didn't answer in time")]
    Timeout,
    /// The gateway token is wrong.
    #[error("the cell refused the gateway token")]
    Unauthorized,
    /// The cell understood and said no: a configuration that doesn't validate, a body too large.
    #[error("the cell refused: {}", fault.code)]
    Refused { status: StatusCode, fault: Fault },
    /// The peer doesn't speak the protocol.
    #[error("the cell's answer can't be understood")]
    Protocol(#[source] anyhow::Error),
}

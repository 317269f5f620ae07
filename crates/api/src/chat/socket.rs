//! One browser's WebSocket: what it asks for, and its bot's stream from the moment it came.
//! Never: a finished frame twice on one socket, or one left out between two others.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code};
use molt_bot::Op;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio::time::{Instant, MissedTickBehavior};

use crate::chat::frames::{self, FromBrowser, Refusal};
use crate::chat::hub::{Outgoing, Place};
use crate::chat::person::{BotGone, Person, ROWS_MAX, trouble};
use crate::lines::Line;

/// A frame of a browser's: the longest message, with room for JSON's escapes.
pub(crate) const FRAME_BYTES_MAX: usize = 1024 * 1024;
/// A browser that takes longer to read a frame is gone or as good as gone; it comes back and resumes.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);
const PING_PERIOD: Duration = Duration::from_secs(20);
/// Three pings without any answer.
const SILENCE_MAX: Duration = Duration::from_secs(65);
/// A browser that resumes says so first. Until its first frame, or this much later, the live stream is held back, so that
/// what it missed comes before what is new.
const FIRST_FRAME_WAIT: Duration = Duration::from_millis(250);
/// "Policy violation" is for protocols; applications have the codes from 4000 on.
const CLOSE_GONE: u16 = 4404;
const CLOSE_LOGGED_OUT: u16 = 4401;
/// For the other side to say that it heard the close; by then nobody needs the connection any more.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a socket ends.
enum End {
    /// The browser can't be heard or written to.
    Left,
    /// The browser closes; it waits for our close.
    Closing,
    Close(u16, &'static str),
}

pub(crate) struct Session {
    socket: WebSocket,
    person: Person,
    stream: broadcast::Receiver<Outgoing>,
    /// Finished frames with `first < seq <= cursor` went out on this socket.
    first: i64,
    cursor: i64,
    flowing: bool,
    heard_at: Instant,
}

impl Session {
    pub(crate) fn new(socket: WebSocket, person: Person, place: Place) -> Self {
        let Place { stream, cursor, .. } = place;
        Self { socket, person, stream, first: cursor, cursor, flowing: false, heard_at: Instant::now() }
    }

    /// Serves the browser until either side ends it, or its log-in has ended.
    pub(crate) async fn run(mut self, line: Line) {
        let end = tokio::select! {
            () = line.ended() => End::Close(CLOSE_LOGGED_OUT, "This log-in has ended; log in again."),
            end = self.serve() => end,
        };
        self.close(end).await;
    }

    async fn serve(&mut self) -> End {
        let closing = self.person.relays.closing();
        tokio::pin!(closing);
        let mut ping = tokio::time::interval_at(Instant::now() + PING_PERIOD, PING_PERIOD);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let flow_at = tokio::time::sleep(FIRST_FRAME_WAIT);
        tokio::pin!(flow_at);
        loop {
            let turn = tokio::select! {
                () = &mut closing => Err(End::Close(close_code::AWAY, "The server restarts; connect again.")),
                () = &mut flow_at, if !self.flowing => {
                    self.flowing = true;
                    Ok(())
                }
                outgoing = self.stream.recv(), if self.flowing => self.pass_on(outgoing).await,
                message = self.socket.recv() => self.take(message).await,
                _ = ping.tick() => self.ping().await,
            };
            if let Err(end) = turn {
                return end;
            }
        }
    }

    /// Says why, and reads until the other side has said it too: whoever is cut off before never hears a reason.
    async fn close(mut self, end: End) {
        let said = async {
            match end {
                End::Left => return,
                // The answer to a close is written while reading on.
                End::Closing => {}
                End::Close(code, reason) => {
                    let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
                    if self.socket.send(Message::Close(Some(frame))).await.is_err() {
                        return;
                    }
                }
            }
            while let Some(Ok(_)) = self.socket.recv().await {}
        };
        // Too late to do anything about a failure.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, said).await;
    }

    async fn write(&mut self, message: Message) -> Result<(), End> {
        match tokio::time::timeout(WRITE_TIMEOUT, self.socket.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(End::Left),
        }
    }

    async fn say(&mut self, frame: &Value) -> Result<(), End> {
        self.write(Message::Text(frame.to_string().into())).await
    }

    async fn ping(&mut self) -> Result<(), End> {
        if self.heard_at.elapsed() > SILENCE_MAX {
            return Err(End::Left);
        }
        self.write(Message::Ping(Vec::new().into())).await
    }

    async fn pass_on(&mut self, outgoing: Result<Outgoing, broadcast::error::RecvError>) -> Result<(), End> {
        match outgoing {
            Ok(Outgoing::Frame { seq: Some(seq), .. }) if seq <= self.cursor => Ok(()),
            Ok(Outgoing::Frame { seq, text }) => {
                self.write(Message::Text(text)).await?;
                self.cursor = seq.unwrap_or(self.cursor);
                Ok(())
            }
            Ok(Outgoing::Goodbye(why)) => Err(End::Close(CLOSE_GONE, why)),
            Ok(Outgoing::Stopped) | Err(broadcast::error::RecvError::Closed) => {
                Err(End::Close(close_code::RESTART, "Connect again and resume."))
            }
            // Too slow for the stream: go on from the rows.
            Err(broadcast::error::RecvError::Lagged(_)) => {
                let cursor = self.cursor;
                self.resume(cursor).await
            }
        }
    }

    async fn take(&mut self, message: Option<Result<Message, axum::Error>>) -> Result<(), End> {
        let message = match message {
            Some(Ok(message)) => message,
            Some(Err(_)) => {
                let reason = "That was no frame of text below 1 MiB; connect again.";
                return Err(End::Close(close_code::PROTOCOL, reason));
            }
            None => return Err(End::Left),
        };
        self.heard_at = Instant::now();
        let text = match message {
            Message::Text(text) => text,
            Message::Close(_) => return Err(End::Closing),
            Message::Binary(_) => {
                let refusal = Refusal::new("bad_frame", "Send frames as text.");
                return self.write(Message::Text(refusal.text().into())).await;
            }
            Message::Ping(_) | Message::Pong(_) => return Ok(()),
        };
        let done = match frames::read(&text) {
            Ok(frame) => self.answer(frame).await?,
            Err(refusal) => Err(refusal),
        };
        self.flowing = true;
        match done {
            Ok(()) => Ok(()),
            Err(refusal) => self.write(Message::Text(refusal.text().into())).await,
        }
    }

    /// The outer result ends the socket, the inner one is an error frame.
    async fn answer(&mut self, frame: FromBrowser) -> Result<Result<(), Refusal>, End> {
        match frame {
            FromBrowser::Send { id, conversation, text } => match self.person.send(&id, &conversation, &text).await {
                Ok(Ok(run)) => self.say(&json!({ "type": "ack", "id": id, "run_id": run })).await.map(Ok),
                Ok(Err(refusal)) => Ok(Err(refusal)),
                Err(BotGone) => Err(End::Close(CLOSE_GONE, "This assistant was deleted.")),
            },
            FromBrowser::Abort { run_id } => {
                Ok(self.person.abort(run_id).await.unwrap_or_else(|error| Err(trouble(&error))))
            }
            FromBrowser::Approve { approval_id, decision } => {
                if self.person.hub.decide(Op::Approve { approval_id, decision }) {
                    return Ok(Ok(()));
                }
                let message = "The assistant can't be reached just now, so nothing was decided. Try again in a moment.";
                Ok(Err(Refusal::new("assistant_unreachable", message)))
            }
            FromBrowser::History { conversation, limit, before } => {
                let limit = limit.unwrap_or(frames::HISTORY_LIMIT).clamp(1, frames::HISTORY_LIMIT_MAX);
                let before = before.unwrap_or(i64::MAX);
                match self.person.history(&conversation, limit, before).await {
                    Ok(Ok(page)) => self.say(&page).await.map(Ok),
                    Ok(Err(refusal)) => Ok(Err(refusal)),
                    Err(error) => Ok(Err(trouble(&error))),
                }
            }
            FromBrowser::Resume { after } => self.resume(after.max(0)).await.map(Ok),
        }
    }

    /// Sends what was finished after `after` and did not go out here yet, then each open text so far, and goes on live.
    async fn resume(&mut self, after: i64) -> Result<(), End> {
        let place = self.person.hub.place();
        if self.first == self.cursor {
            // Nothing went out yet: the browser may know more than the moment of its connection.
            self.first = self.first.max(after.min(place.cursor));
            self.cursor = self.first;
        }
        if after < self.first {
            let upto = self.first;
            self.replay(after, upto).await?;
            self.first = after;
        }
        let cursor = self.cursor;
        self.replay(cursor, place.cursor).await?;
        self.cursor = place.cursor.max(cursor);
        for open in place.open {
            self.say(&open).await?;
        }
        self.stream = place.stream;
        Ok(())
    }

    async fn replay(&mut self, mut after: i64, upto: i64) -> Result<(), End> {
        while after < upto {
            let rows = match self.person.rows(after, upto).await {
                Ok(rows) => rows,
                Err(error) => {
                    tracing::warn!(bot.id = %self.person.bot, error = &error as &dyn std::error::Error, "a chat can't be replayed");
                    return Err(End::Close(close_code::AGAIN, "The database is away; connect again."));
                }
            };
            let last = (rows.len() as i64) < ROWS_MAX;
            for row in rows {
                after = row.seq.unwrap_or(after);
                self.say(&frames::of_row(row)).await?;
            }
            if last {
                return Ok(());
            }
        }
        Ok(())
    }
}

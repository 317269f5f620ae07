//! Being asked to stop: Ctrl-C, or a signal from whoever runs this program.
//! Never: end by a signal's default, which would leave things running.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Requests to stop, from the moment it is made.
#[derive(Debug)]
pub struct Stop {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Stop {
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next request.
    pub async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }

    /// The second request: somebody is in a hurry.
    pub async fn twice(&mut self) {
        self.asked().await;
        self.asked().await;
    }
}

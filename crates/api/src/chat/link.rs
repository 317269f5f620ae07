//! The connection to one bot's cell, carried by a task of its own so that neither side waits for the other.
//! Never: a frame dropped or reordered; when the relay is slow, the cell waits.

use std::collections::HashSet;

use molt_bot::{CellSeq, Client, ClientError, FromCell, Op};
use molt_model::{BotId, ConversationId, RunId};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// Frames between the cell and the database.
const FRAMES_MAX: usize = 256;
/// Operations on their way: the open runs, their aborts, and acknowledgements.
const OPS_MAX: usize = 512;

/// The cell reads slower than there is to say; the connection is given up and made anew.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the cell doesn't take what it is told")]
pub(crate) struct Stuck;

/// An open connection, and what was said on it.
pub(crate) struct Link {
    ops: mpsc::Sender<Op>,
    frames: mpsc::Receiver<FromCell>,
    /// The replay is over.
    pub(crate) caught_up: bool,
    /// Given to the cell on this connection, so that each is said once.
    pub(crate) sent: HashSet<RunId>,
    pub(crate) aborted: HashSet<RunId>,
    pub(crate) forgotten: HashSet<ConversationId>,
    task: AbortHandle,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    /// Connects in the background; `next` yields nothing more when that fails or ends.
    pub(crate) fn open(bot: &BotId, client: Client, after: CellSeq) -> Self {
        let (ops, ops_receiver) = mpsc::channel(OPS_MAX);
        let (frames_sender, frames) = mpsc::channel(FRAMES_MAX);
        let bot = bot.clone();
        let task = tokio::spawn(async move {
            let carried = carry(&client, after, ops_receiver, frames_sender).await;
            let error = carried.as_ref().err().map(|error| error as &dyn std::error::Error);
            tracing::debug!(bot.id = %bot, error, "the connection to a cell ended");
        });
        Self {
            ops,
            frames,
            caught_up: false,
            sent: HashSet::new(),
            aborted: HashSet::new(),
            forgotten: HashSet::new(),
            task: task.abort_handle(),
        }
    }

    /// The next reply or frame; `None`: the connection is over. Safe to cancel.
    pub(crate) async fn next(&mut self) -> Option<FromCell> {
        self.frames.recv().await
    }

    pub(crate) fn tell(&self, op: Op) -> Result<(), Stuck> {
        self.ops.try_send(op).map_err(|_| Stuck)
    }
}

async fn carry(
    client: &Client,
    after: CellSeq,
    mut ops: mpsc::Receiver<Op>,
    frames: mpsc::Sender<FromCell>,
) -> Result<(), ClientError> {
    let (mut sender, mut receiver) = client.stream(after).await?.split();
    let writing = async {
        while let Some(op) = ops.recv().await {
            sender.send(&op).await?;
        }
        Ok(())
    };
    let reading = async {
        while let Some(frame) = receiver.next().await? {
            if frames.send(frame).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    };
    tokio::select! {
        done = writing => done,
        done = reading => done,
    }
}

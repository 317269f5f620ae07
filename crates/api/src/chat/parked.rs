//! Frames that wait: the one that ends a run until the run's usage is in the books, and behind it what the same
//! conversation says next. Pure.
//! Never: a reordering within a conversation, or a wait without an end.

use std::collections::{BTreeMap, VecDeque};

use molt_bot::{CellSeq, Frame};
use molt_model::{ConversationId, RunId};
use tokio::time::Instant;

/// What one conversation may say in the seconds of a wait; more ends the wait.
const QUEUE_MAX: usize = 1000;

/// A run's last frame, and how many calls the books must know before it may go out.
pub(crate) struct Ending {
    pub(crate) frame: Frame,
    pub(crate) calls: u32,
    pub(crate) until: Instant,
}

struct Lane {
    ending: Ending,
    behind: VecDeque<Frame>,
}

/// The waiting frames of one bot.
#[derive(Default)]
pub(crate) struct Parked {
    lanes: BTreeMap<ConversationId, Lane>,
    /// Came behind an ending that is out; their turn is now.
    loose: VecDeque<Frame>,
}

impl Parked {
    pub(crate) fn hold(&mut self, ending: Ending) {
        let behind = VecDeque::new();
        self.lanes.insert(ending.frame.conversation.clone(), Lane { ending, behind });
    }

    /// Queues the frame if its conversation waits; otherwise gives it back.
    pub(crate) fn behind(&mut self, frame: Frame) -> Option<Frame> {
        let Some(lane) = self.lanes.get_mut(&frame.conversation) else { return Some(frame) };
        lane.behind.push_back(frame);
        None
    }

    /// The frames that conversations wait for.
    pub(crate) fn endings(&self) -> impl Iterator<Item = &Ending> {
        self.lanes.values().map(|lane| &lane.ending)
    }

    /// Whether the conversation has waited long enough, whatever the books say.
    pub(crate) fn is_due(&self, conversation: &ConversationId, now: Instant) -> bool {
        let due = |lane: &Lane| lane.ending.until <= now || lane.behind.len() >= QUEUE_MAX;
        self.lanes.get(conversation).is_some_and(due)
    }

    /// Ends a wait and gives the ending; what came behind it follows from `next_loose`.
    pub(crate) fn release(&mut self, conversation: &ConversationId) -> Option<Frame> {
        let lane = self.lanes.remove(conversation)?;
        self.loose.extend(lane.behind);
        Some(lane.ending.frame)
    }

    /// The next frame whose wait is over, to be handled like one that has just come.
    pub(crate) fn next_loose(&mut self) -> Option<Frame> {
        self.loose.pop_front()
    }

    /// Whether the end of this run waits here.
    pub(crate) fn holds_end_of(&self, run: RunId) -> bool {
        self.endings().any(|ending| ending.frame.run_id == run)
            || self.lanes.values().flat_map(|lane| &lane.behind).any(|frame| frame.run_id == run)
    }

    /// The earliest position of the cell's journal that still waits.
    pub(crate) fn lowest(&self) -> Option<CellSeq> {
        let lanes = self.lanes.values().filter_map(|lane| lane.ending.frame.cell_seq);
        lanes.chain(self.loose.iter().filter_map(|frame| frame.cell_seq)).min()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lanes.is_empty() && self.loose.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.lanes.clear();
        self.loose.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use molt_bot::{Event, RunPhase};
    use std::time::Duration;

    fn frame(conversation: &str, cell_seq: Option<CellSeq>) -> Frame {
        let event = Event::Run { phase: RunPhase::Finished, model: None, provider_calls: Some(1), error: None };
        let at = "2026-11-22T10:00:00Z".parse().unwrap();
        Frame { cell_seq, run_id: RunId::random(), conversation: conversation.parse().unwrap(), at, event }
    }

    #[tokio::test]
    async fn a_conversation_waits_in_order_and_the_others_go_on() {
        let now = Instant::now();
        let mut parked = Parked::default();
        assert!(parked.is_empty() && parked.lowest().is_none());
        parked.hold(Ending { frame: frame("a", Some(5)), calls: 1, until: now + Duration::from_secs(3) });
        assert!(parked.behind(frame("a", None)).is_none());
        assert!(parked.behind(frame("a", Some(6))).is_none());
        assert!(parked.behind(frame("b", Some(7))).is_some());
        parked.hold(Ending { frame: frame("b", Some(8)), calls: 1, until: now });
        assert_eq!(parked.lowest(), Some(5));
        let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
        assert!(!parked.is_due(&a, now) && parked.is_due(&b, now) && parked.is_due(&a, now + Duration::from_secs(3)));
        let ending = parked.release(&a).unwrap();
        assert_eq!((ending.cell_seq, parked.lowest()), (Some(5), Some(6)));
        assert_eq!(parked.next_loose().map(|frame| frame.cell_seq), Some(None));
        assert_eq!(parked.next_loose().map(|frame| frame.cell_seq), Some(Some(6)));
        assert!(parked.next_loose().is_none());
        assert_eq!(parked.lowest(), Some(8));
        for _ in 0..QUEUE_MAX {
            assert!(parked.behind(frame("b", Some(9))).is_none());
        }
        assert!(parked.is_due(&b, now - Duration::from_secs(1)));
    }
}

//! The journal over restarts, torn lines and rewrites.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::path::PathBuf;

use molt_bot::{Event, Frame, Role, RunPhase, Text};
use molt_cell::journal::Journal;
use molt_model::clock::Time;
use molt_model::id::{ConversationId, RunId};
use proptest::prelude::*;

fn now() -> Time {
    "2026-11-22T12:00:00Z".parse().unwrap()
}

fn path() -> PathBuf {
    std::env::temp_dir().join(format!("molt-journal-{}", uuid::Uuid::new_v4()))
}

fn frame(run_id: RunId, event: Event) -> Frame {
    Frame { cell_seq: None, run_id, conversation: ConversationId::main(), at: now(), event }
}

fn said(run_id: RunId, text: &str) -> Frame {
    let (message_id, text) = ("message-1".to_owned(), Text::Done(text.to_owned()));
    frame(run_id, Event::Message { role: Role::Assistant, message_id, text })
}

fn finished(run_id: RunId) -> Frame {
    frame(run_id, Event::Run { phase: RunPhase::Finished, model: None, provider_calls: Some(1), error: None })
}

fn seqs(journal: &Journal, after: i64) -> Vec<i64> {
    journal.lines_after(after).map(|line| line.cell_seq).collect()
}

#[test]
fn what_was_accepted_survives_with_its_place() {
    let path = path();
    let (one, two) = (RunId::random(), RunId::random());
    let mut journal = Journal::open(&path, now()).unwrap();
    journal.accept(one, ConversationId::main(), "hello".into(), now()).unwrap();
    journal.accept(two, ConversationId::main(), "again".into(), now()).unwrap();
    journal.note_given(one).unwrap();
    journal.note_resumed(one, "other-name".into()).unwrap();
    journal.append(said(one, "hi")).unwrap();
    journal.note_abort(two).unwrap();
    let before = seqs(&journal, 0);

    let mut journal = Journal::open(&path, now()).unwrap();
    let open = journal.open_runs();
    assert_eq!(open.iter().map(|run| run.run_id).collect::<Vec<_>>(), [one, two]);
    assert!(open[0].given && !open[0].abort && open[0].runtime_runs == ["other-name"] && open[0].frames.len() == 1);
    assert!(!open[1].given && open[1].abort);
    assert_eq!(seqs(&journal, 0), before);

    journal.append(finished(one)).unwrap();
    assert!(journal.has_ended(one) && journal.knows(two) && !journal.knows(RunId::random()));
    let last = journal.last_seq();
    journal.ack(last).unwrap();
    assert!(seqs(&journal, 0).is_empty());

    // What is acknowledged is gone, but its run is still known, and positions go on behind it.
    let mut journal = Journal::open(&path, now()).unwrap();
    assert!(journal.has_ended(one) && seqs(&journal, 0).is_empty());
    journal.append(said(two, "x")).unwrap();
    assert!(journal.last_seq() > last);
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn positions_grow_even_when_the_file_is_lost() {
    let path = path();
    let run = RunId::random();
    let mut journal = Journal::open(&path, now()).unwrap();
    for _ in 0..100 {
        journal.append(said(run, "x")).unwrap();
    }
    let last = journal.last_seq();
    std::fs::remove_file(&path).unwrap();
    let mut journal = Journal::open(&path, now() + chrono::TimeDelta::seconds(1)).unwrap();
    journal.append(said(run, "y")).unwrap();
    assert!(journal.last_seq() > last);
    std::fs::remove_file(&path).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Cut anywhere, or with rubbish at the end: what is read is a prefix of what was written, and it goes on.
    #[test]
    fn a_torn_file_is_a_prefix(cut in 0.0..1.0f64, rubbish in proptest::collection::vec(any::<u8>(), 0..40)) {
        let path = path();
        let runs: Vec<RunId> = (0..4).map(|_| RunId::random()).collect();
        let mut journal = Journal::open(&path, now()).unwrap();
        for &run in &runs {
            journal.accept(run, ConversationId::main(), "text".into(), now()).unwrap();
            journal.note_given(run).unwrap();
            journal.append(said(run, "hi")).unwrap();
            journal.append(finished(run)).unwrap();
        }
        let written = seqs(&journal, 0);
        let bytes = std::fs::read(&path).unwrap();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a place in a small file")]
        let end = (bytes.len() as f64 * cut) as usize;
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(&bytes[..end]).unwrap();
        file.write_all(&rubbish).unwrap();
        let mut journal = Journal::open(&path, now()).unwrap();
        let read = seqs(&journal, 0);
        prop_assert_eq!(&read[..], &written[..read.len()]);
        journal.append(said(runs[0], "more")).unwrap();
        let again = Journal::open(&path, now()).unwrap();
        prop_assert_eq!(seqs(&again, 0).len(), read.len() + 1);
        std::fs::remove_file(&path).unwrap();
    }
}

//! Talking: tools, memory, conversations, order, repetition, ends.

use molt_bot::{Event, MemoryAction, Op, Reply, RunPhase, Text};
use molt_model::id::RunId;

use crate::rig::{GHOST_KEY, Rig, ends};

#[tokio::test]
async fn a_turn_with_tools_is_told_step_by_step_and_belongs_to_its_run() {
    let mut rig = Rig::ready().await;
    let mut line = rig.open().await;
    let text = "SAY\nCALL write {\"path\":\"memory/tea.md\",\"content\":\"likes green tea\\n\"}\n\
                CALL exec {\"command\":\"echo hello from exec\"}\nCALL tool_call {\"id\":\"memory_search\",\"args\":{\"query\":\"tea\"}}";
    let run = rig.send(&mut line, "main", text).await;
    assert_eq!(rig.hear_end(&mut line, run).await, RunPhase::Finished);
    rig.check_runs();

    let events = rig.finished(run);
    assert!(matches!(events[0], Event::Run { phase: RunPhase::Started, .. }), "{events:#?}");
    let tools: Vec<&str> = events
        .iter()
        .filter_map(|event| match event {
            Event::ToolCall { tool, .. } => Some(tool.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(tools, ["write", "exec", "memory_search"]);
    let results: Vec<bool> = events
        .iter()
        .filter_map(|event| match event {
            Event::ToolResult { success, .. } => Some(*success),
            _ => None,
        })
        .collect();
    assert_eq!(results, [true, true, true], "{events:#?}");
    let memory: Vec<MemoryAction> = events
        .iter()
        .filter_map(|event| match event {
            Event::MemoryAccess { action, .. } => Some(*action),
            _ => None,
        })
        .collect();
    assert_eq!(memory, [MemoryAction::Write, MemoryAction::Search]);
    assert_eq!(rig.said(run), ["Step 0.", "Step 1.", "Step 2.", "word0 word1 word2"]);
    assert_eq!(std::fs::read_to_string(rig.workspace().join("memory/tea.md")).unwrap(), "likes green tea\n");

    // Deltas add up to the text.
    let streamed: String = rig
        .heard
        .iter()
        .filter_map(|frame| match &frame.event {
            Event::Message { text: Text::Delta(delta), message_id, .. } if message_id == "message-4" => {
                Some(delta.as_str())
            }
            _ => None,
        })
        .collect();
    assert_eq!(streamed.trim(), "word0 word1 word2");

    // The model was asked with the bot's key, under the run's trace, as often as the run says.
    let calls: Vec<_> =
        rig.model.calls().into_iter().filter(|call| call.trace_id == run.0.simple().to_string()).collect();
    assert!(calls.iter().all(|call| call.authorization == format!("Bearer {GHOST_KEY}")));
    assert_eq!(calls.iter().filter(|call| call.chat).count(), 4);
    let Some(Event::Run { provider_calls: Some(counted), .. }) = rig.finished(run).last().copied() else { panic!() };
    // Memory may still be indexed under the run's trace when the run ends.
    assert!((4..=calls.len()).contains(&(*counted as usize)), "{counted} of {calls:?}");
}

#[tokio::test]
async fn conversations_are_apart_and_a_message_waits_for_the_one_before() {
    let mut rig = Rig::ready().await;
    let mut line = rig.open().await;
    let slow = rig.send(&mut line, "main", "WORDS 8\nPAUSE 100").await;
    let next = rig.send(&mut line, "main", "WORDS 2").await;
    let other = rig.send(&mut line, "c-other", "WORDS 1").await;
    let waiting = rig.send(&mut line, "main", "WORDS 1").await;
    line.sender.send(&Op::Abort { run_id: waiting }).await.unwrap();
    for run in [slow, next, other] {
        assert_eq!(rig.hear_end(&mut line, run).await, RunPhase::Finished);
    }
    assert_eq!(ends(&rig.heard, waiting), [RunPhase::Aborted]);
    rig.check_runs();
    let at = |run: RunId, phase: RunPhase| {
        rig.heard
            .iter()
            .position(|frame| frame.run_id == run && matches!(&frame.event, Event::Run { phase: p, .. } if *p == phase))
            .unwrap()
    };
    assert!(at(slow, RunPhase::Finished) < at(next, RunPhase::Started), "one message is one run");
    assert!(at(other, RunPhase::Finished) < at(slow, RunPhase::Finished), "conversations don't wait for each other");
    assert_eq!(rig.said(next), ["word0 word1"]);

    // The same id is the same run, also when it is over.
    let frames = rig.heard.len();
    rig.send_as(&mut line, slow, "main", "WORDS 8").await;
    let after = rig.send(&mut line, "main", "WORDS 1").await;
    rig.hear_end(&mut line, after).await;
    assert!(rig.heard[frames..].iter().all(|frame| frame.run_id == after));

    // Forgetting a conversation empties it.
    line.sender.send(&Op::Forget { conversation: "c-other".parse().unwrap() }).await.unwrap();
    let forgotten = rig.hear_reply(&mut line, |reply| matches!(reply, Reply::Forgotten { .. })).await;
    assert_eq!(forgotten, Reply::Forgotten { conversation: "c-other".parse().unwrap() });
}

#[tokio::test]
async fn a_run_can_be_stopped_and_a_failed_one_says_so_in_our_words() {
    let mut rig = Rig::ready().await;
    let mut line = rig.open().await;
    let run = rig.send(&mut line, "main", "WORDS 200\nPAUSE 50").await;
    rig.hear(&mut line, |frames| frames.iter().any(|frame| matches!(&frame.event, Event::Message { .. }))).await;
    line.sender.send(&Op::Abort { run_id: run }).await.unwrap();
    assert_eq!(rig.hear_end(&mut line, run).await, RunPhase::Aborted);

    let failed = rig.send(&mut line, "main", "FAIL").await;
    assert_eq!(rig.hear_end(&mut line, failed).await, RunPhase::Failed);
    let Some(Event::Run { error: Some(error), .. }) = rig.finished(failed).last().copied() else { panic!() };
    assert_eq!(error.code, "run_failed", "{error:?}");
    assert!(error.retry);

    let after = rig.send(&mut line, "main", "WORDS 2").await;
    assert_eq!(rig.hear_end(&mut line, after).await, RunPhase::Finished);
    rig.check_runs();
}

#[tokio::test]
async fn a_reader_that_comes_back_gets_what_it_missed_and_nothing_twice() {
    let mut rig = Rig::ready().await;
    let mut line = rig.open().await;
    let first = rig.send(&mut line, "main", "WORDS 2").await;
    rig.hear_end(&mut line, first).await;
    line.sender.send(&Op::Ack { cell_seq: rig.last_seq }).await.unwrap();
    let second = rig.send(&mut line, "main", "WORDS 30\nPAUSE 50").await;
    let begun = |frames: &[molt_bot::Frame]| {
        frames.iter().any(|frame| frame.run_id == second && matches!(&frame.event, Event::Message { .. }))
    };
    rig.hear(&mut line, begun).await;
    drop(line);

    // An open text arrives once as it is so far.
    let mut line = rig.open().await;
    let count = rig.heard.len();
    rig.hear(&mut line, |frames| frames.len() > count).await;
    let snapshot = &rig.heard[count].event;
    assert!(
        matches!(snapshot, Event::Message { text: Text::SoFar(text), .. } if text.starts_with("word0")),
        "{snapshot:?}"
    );
    drop(line);
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;

    // Finished while nobody listened.
    let mut line = rig.open().await;
    assert_eq!(rig.hear_end(&mut line, second).await, RunPhase::Finished);
    rig.check_runs();
    assert_eq!(rig.said(second)[0].split(' ').count(), 30);
}

#[tokio::test]
async fn a_model_call_waits_for_a_platform_that_restarts() {
    let mut rig = Rig::ready().await;
    rig.stop_proxy().await;
    let mut line = rig.open().await;
    let run = rig.send(&mut line, "main", "WORDS 2").await;
    rig.hear(&mut line, |frames| !frames.is_empty()).await;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    rig.start_proxy().await;
    assert_eq!(rig.hear_end(&mut line, run).await, RunPhase::Finished);
    assert_eq!(rig.model.calls().iter().filter(|call| call.chat).count(), 1, "it was sent once");
    rig.check_runs();
}

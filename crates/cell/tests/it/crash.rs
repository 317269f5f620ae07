//! Killed without warning: nothing is lost, nothing comes twice, and there is never a second runtime.

use std::time::Duration;

use molt_bot::{Event, Frame, Phase, RunPhase};
use molt_model::id::RunId;
use rustix::process::{Pid, Signal, kill_process};

use crate::rig::Rig;

fn kill(pid: u32) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL).unwrap();
}

/// When to strike.
#[derive(Clone, Copy, Debug)]
enum Moment {
    Accepted,
    Streaming,
    InTool,
    Done,
}

const MOMENTS: [Moment; 4] = [Moment::Accepted, Moment::Streaming, Moment::InTool, Moment::Done];

impl Moment {
    const fn text(self) -> &'static str {
        match self {
            Self::Accepted | Self::Done => "WORDS 3",
            Self::Streaming => "WORDS 40\nPAUSE 50",
            Self::InTool => "CALL exec {\"command\":\"sleep 3; echo done\"}\nWORDS 3",
        }
    }

    fn has_come(self, frames: &[Frame], run: RunId) -> bool {
        let mut own = frames.iter().filter(|frame| frame.run_id == run).map(|frame| &frame.event);
        match self {
            Self::Accepted => true,
            Self::Streaming => own.any(|event| matches!(event, Event::Message { .. })),
            Self::InTool => own.any(|event| matches!(event, Event::ToolCall { .. })),
            Self::Done => own.any(Event::ends_run),
        }
    }
}

#[tokio::test]
async fn the_runtime_is_killed_in_the_middle() {
    let mut rig = Rig::ready().await;
    for (round, moment) in MOMENTS.into_iter().enumerate() {
        let mut line = rig.open().await;
        let run = rig.send(&mut line, "main", moment.text()).await;
        rig.hear(&mut line, |frames| moment.has_come(frames, run)).await;
        let pid = rig.client.health().await.unwrap().runtime_pid.unwrap();
        kill(pid);
        let end = rig.hear_end(&mut line, run).await;
        assert_eq!(end, RunPhase::Finished, "{moment:?}: {:#?}\n{}", rig.finished(run), rig.logs());
        let said = rig.said(run);
        assert!(said.last().is_some_and(|text| text.starts_with("word0 word1 word2")), "{moment:?}: {said:?}");
        let restarts = u32::try_from(round).unwrap() + 1;
        let health = rig.wait_until(|health| health.phase == Phase::Ready && health.runtime_restarts == restarts).await;
        assert!(!rig.runtimes().contains(&pid));
        assert!(rig.runtimes().contains(&health.runtime_pid.unwrap()));
    }
    rig.check_runs();
}

#[tokio::test]
async fn the_cell_is_killed_in_the_middle() {
    let mut rig = Rig::ready().await;
    for moment in MOMENTS {
        let mut line = rig.open().await;
        let run = rig.send(&mut line, "main", moment.text()).await;
        let queued = rig.send(&mut line, "main", "WORDS 4").await;
        rig.hear(&mut line, |frames| moment.has_come(frames, run)).await;
        let old = rig.runtimes();
        rig.kill_cell();
        drop(line);
        rig.start();
        rig.wait_for(Phase::Ready).await;
        assert!(rig.runtimes().iter().all(|pid| !old.contains(pid)), "a runtime outlived its cell");
        let mut line = rig.open().await;
        for run in [run, queued] {
            let end = rig.hear_end(&mut line, run).await;
            assert_eq!(end, RunPhase::Finished, "{moment:?}: {:#?}\n{}", rig.finished(run), rig.logs());
        }
        assert_eq!(rig.said(queued), ["word0 word1 word2 word3"], "{moment:?}");
        // Whatever was asked twice of the model, the person sees one answer.
        let said = rig.said(run);
        assert!(said.last().is_some_and(|text| text.starts_with("word0 word1 word2")), "{moment:?}: {said:?}");
    }
    rig.check_runs();
}

#[tokio::test]
async fn a_runtime_that_never_comes_up_is_told_and_not_spun() {
    let mut rig = Rig::prepared().await;
    let mut command = rig.command();
    command.env("MOLT_RUNTIME_COMMAND", "[\"/bin/false\"]");
    rig.start_with(command);
    let health = rig.wait_for(Phase::Failed).await;
    assert_eq!(health.error.as_ref().unwrap().code, "runtime_ended");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(rig.client.health().await.unwrap().runtime_restarts < 8);
}

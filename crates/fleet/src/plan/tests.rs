//! The plan as tables: every pair of what is wanted and what was seen, and what else decides.
//! Never: a world; `tests/it` has one.

use molt_model::bot::Reserved;

use super::*;

const NOW: &str = "2026-11-22T12:00:00Z";

fn facts(intent: Intent, observed: Observed, cell: CellFact) -> Facts {
    Facts {
        intent,
        suspended: observed == Observed::Suspended,
        generation: 3,
        observed_generation: 3,
        revision: 2,
        applied_revision: 2,
        refused_revision: None,
        undoable: false,
        observed,
        reserved: true,
        ahead: None,
        ahead_until: None,
        cell,
        runtime: RuntimeFact::Ready,
        step: None,
        attempts: 0,
        ends: 0,
        now: NOW.parse().unwrap(),
    }
}

fn says(phase: Phase) -> CellFact {
    CellFact::Says { phase, applied: Some(2), outdated: false, blames_settings: false, ended: 0 }
}

fn at(second: i64) -> Time {
    NOW.parse::<Time>().unwrap() + chrono::TimeDelta::seconds(second)
}

const CELLS: [CellFact; 6] = [
    CellFact::Absent,
    CellFact::Silent,
    says_const(Phase::Booting),
    says_const(Phase::Connecting),
    says_const(Phase::Ready),
    says_const(Phase::Failed),
];

const fn says_const(phase: Phase) -> CellFact {
    CellFact::Says { phase, applied: Some(2), outdated: false, blames_settings: false, ended: 0 }
}

/// Wanted running: every state against every kind of cell: absent, silent, booting, connecting, ready, failed.
#[test]
fn every_state_of_a_bot_that_is_wanted() {
    use Observed as O;
    use Step::{AwaitBoot, AwaitRepair, DeclareRunning, Reconnect, Remove, Reserve, StartCell};
    let died = Some(Step::Retry(Rung::RestartCell, Why::Died));
    let fails = Some(Step::Retry(Rung::RestartCell, Why::RuntimeFails));
    let restarts = Some(Step::RestartRuntime { ask: false });
    let (stop, boot, run, repair) = (Some(Step::Stop), Some(AwaitBoot), Some(DeclareRunning), Some(AwaitRepair));
    let start = [Some(StartCell), boot, boot, boot, boot, fails];
    let rest = [Some(Reserve), stop, stop, stop, stop, stop];
    for state in O::ALL {
        let steps = match state {
            O::Reserved(_) | O::Stopping | O::Stopped | O::Suspended => rest,
            O::Infrastructure(_) | O::Degraded(Rung::RestartCell | Rung::ReplaceCell) => start,
            O::Booting(_) => [died, boot, boot, boot, run, fails],
            O::Running => [died, Some(Reconnect), restarts, Some(Reconnect), None, fails],
            O::Degraded(Rung::Reconnect) => [died, repair, restarts, repair, run, fails],
            O::Degraded(Rung::RestartRuntime) => [died, repair, repair, repair, run, fails],
            O::Degraded(Rung::NoRuntime) => rest,
            O::Degraded(Rung::GivenUp) => [None, stop, stop, stop, stop, stop],
            O::Deleting(_) | O::Gone => [Some(Remove); 6],
        };
        // A rung has a deadline; here it has time left.
        let step = match state {
            O::Degraded(rung) => Stage::of_rung(rung).and_then(|stage| step(stage, 9)),
            _ => None,
        };
        for (cell, expected) in CELLS.into_iter().zip(steps) {
            let facts = Facts { step, suspended: false, ..facts(Intent::Running, state, cell) };
            assert_eq!(plan(&facts), expected, "{state:?} {cell:?}");
        }
    }
}

/// Not wanted: whatever was seen, it is stopped once and then left alone; and what is to go, goes.
#[test]
fn every_state_of_a_bot_that_is_not_wanted() {
    for state in Observed::ALL {
        for cell in CELLS {
            for intent in [Intent::AwaitingPlan, Intent::Stopped] {
                let facts = facts(intent, state, cell);
                let rests = matches!(state, Observed::Reserved(_) | Observed::Stopped | Observed::Suspended);
                let goes = matches!(state, Observed::Deleting(_) | Observed::Gone);
                let stop = (!rests || cell != CellFact::Absent).then_some(Step::Stop);
                let expected = if goes { Some(Step::Remove) } else { stop };
                assert_eq!(plan(&facts), expected, "{intent:?} {state:?} {cell:?}");
            }
            assert_eq!(plan(&facts(Intent::Deleted, state, cell)), Some(Step::Remove), "{state:?} {cell:?}");
        }
    }
    let stopped = facts(Intent::Stopped, Observed::Stopped, CellFact::Absent);
    let suspended = Facts { suspended: true, ..stopped.clone() };
    assert_eq!((plan(&stopped), plan(&suspended)), (None, Some(Step::Stop)), "it becomes suspended by way of a stop");
    let lifted = Facts { suspended: false, ..facts(Intent::Stopped, Observed::Suspended, CellFact::Absent) };
    assert_eq!(plan(&lifted), Some(Step::Stop));
}

fn running(observed: Observed, cell: CellFact) -> Facts {
    facts(Intent::Running, observed, cell)
}

fn step(stage: Stage, second: i64) -> Option<(Stage, Time)> {
    Some((stage, at(second)))
}

#[test]
fn what_decides_about_a_start() {
    use Observed as O;
    let ready = says(Phase::Ready);
    let outdated =
        CellFact::Says { phase: Phase::Booting, applied: None, outdated: true, blames_settings: false, ended: 0 };
    let (fetching, starting) = (O::Infrastructure(Place::Runtime), O::Infrastructure(Place::Name));
    let installing = RuntimeFact::Installing;
    let table = [
        ("restart asked", Facts { generation: 4, ..running(O::Running, ready) }, Some(Step::Stop)),
        ("restart, gone", Facts { generation: 4, ..running(O::Running, CellFact::Absent) }, Some(Step::Reserve)),
        (
            "restart of a failed one",
            Facts { generation: 4, ..running(O::Degraded(Rung::GivenUp), CellFact::Absent) },
            Some(Step::Reserve),
        ),
        ("never reserved", Facts { reserved: false, ..running(starting, CellFact::Absent) }, Some(Step::Reserve)),
        ("outdated cell", running(O::Running, outdated), Some(Step::Stop)),
        ("installing", Facts { runtime: installing, ..running(starting, CellFact::Absent) }, Some(Step::AwaitRuntime)),
        (
            "installing for too long",
            Facts { runtime: installing, step: step(Stage::Runtime, 0), ..running(fetching, CellFact::Absent) },
            Some(Step::GiveUp(Why::NoRuntime)),
        ),
        (
            "installed after too long",
            Facts { step: step(Stage::Runtime, -9), ..running(fetching, CellFact::Absent) },
            Some(Step::StartCell),
        ),
        (
            "not installable",
            Facts { runtime: RuntimeFact::Failed, ..running(starting, CellFact::Absent) },
            Some(Step::GiveUp(Why::NoRuntime)),
        ),
        (
            "still not installable",
            Facts { runtime: RuntimeFact::Failed, ..running(O::Degraded(Rung::NoRuntime), CellFact::Absent) },
            None,
        ),
    ];
    for (name, facts, step) in table {
        assert_eq!(plan(&facts), step, "{name}");
    }
}

#[test]
fn what_decides_about_a_cell() {
    use Observed as O;
    let booting = O::Booting(Boot::Waking);
    let ready = says(Phase::Ready);
    let stale =
        CellFact::Says { phase: Phase::Ready, applied: Some(1), outdated: false, blames_settings: false, ended: 0 };
    let table = [
        (
            "boots for too long",
            Facts { step: step(Stage::Booting, 0), ..running(booting, says(Phase::Connecting)) },
            Some(Step::Retry(Rung::RestartCell, Why::TooSlow)),
        ),
        (
            "still boots",
            Facts { step: step(Stage::Booting, 1), ..running(booting, says(Phase::Connecting)) },
            Some(Step::AwaitBoot),
        ),
        ("ready with older settings", running(booting, stale), Some(Step::ApplySettings)),
        ("new settings while running", Facts { revision: 3, ..running(O::Running, ready) }, Some(Step::ApplySettings)),
        (
            "not yet noted as applied",
            Facts { applied_revision: 1, ..running(booting, ready) },
            Some(Step::ApplySettings),
        ),
        (
            "settings stuck",
            Facts { revision: 3, step: step(Stage::Settings, 0), ..running(O::Running, ready) },
            Some(Step::Retry(Rung::RestartCell, Why::SettingsStuck)),
        ),
        ("settings refused", Facts { revision: 3, refused_revision: Some(3), ..running(O::Running, ready) }, None),
        (
            "newer than the refused ones",
            Facts { revision: 4, refused_revision: Some(3), ..running(O::Running, ready) },
            Some(Step::ApplySettings),
        ),
    ];
    for (name, facts, step) in table {
        assert_eq!(plan(&facts), step, "{name}");
    }
}

/// Each rung after its deadline, and the ladder's end.
#[test]
fn the_ladder() {
    use Observed as O;
    let connecting = says(Phase::Connecting);
    let lost = |rung: Rung, cell: CellFact| Facts {
        step: Stage::of_rung(rung).and_then(|stage| step(stage, 0)),
        ..running(O::Degraded(rung), cell)
    };
    let table = [
        ("answers and is not well", lost(Rung::Reconnect, connecting), Step::RestartRuntime { ask: true }),
        ("does not answer", lost(Rung::Reconnect, CellFact::Silent), Step::Retry(Rung::RestartCell, Why::Silent)),
        (
            "the runtime's restart did not help",
            lost(Rung::RestartRuntime, connecting),
            Step::Retry(Rung::RestartCell, Why::TooSlow),
        ),
    ];
    for (name, facts, step) in table {
        assert_eq!(plan(&facts), Some(step), "{name}");
    }
    let rungs = (0..ATTEMPTS_MAX)
        .map(|attempts| plan(&Facts { attempts, ..running(O::Booting(Boot::Waking), says(Phase::Failed)) }).unwrap());
    let (restart, replace) = (Rung::RestartCell, Rung::ReplaceCell);
    let expected = [restart, restart, replace, replace].map(|rung| Step::Retry(rung, Why::RuntimeFails));
    assert_eq!(rungs.collect::<Vec<_>>(), [&expected[..], &[Step::GiveUp(Why::RuntimeFails)]].concat());

    let looping = Facts { ends: ENDS_MAX - 1, ..running(O::Running, CellFact::Absent) };
    assert_eq!(plan(&looping), Some(Step::GiveUp(Why::CrashLoop)), "even if it ran for long in between");
    let ended = |ended| CellFact::Says {
        phase: Phase::Ready,
        applied: Some(2),
        outdated: false,
        blames_settings: false,
        ended,
    };
    assert_eq!(plan(&running(O::Running, ended(1))), Some(Step::NoteEnds));
    assert_eq!(plan(&running(O::Running, ended(ENDS_MAX))), Some(Step::GiveUp(Why::CrashLoop)));
}

/// When the newest settings are undone, and when they are not to blame.
#[test]
fn settings_to_blame() {
    use Observed as O;
    let booting = O::Booting(Boot::Waking);
    let blames =
        CellFact::Says { phase: Phase::Restarting, applied: None, outdated: false, blames_settings: true, ended: 0 };
    let slow = Facts { step: step(Stage::Booting, 0), ..running(booting, says(Phase::Booting)) };
    let table = [
        ("the runtime says so", running(booting, blames), Some(Step::UndoSettings(Why::RuntimeFails))),
        ("it ran before", running(O::Running, blames), Some(Step::UndoSettings(Why::RuntimeFails))),
        ("the cell gave up", running(booting, says(Phase::Failed)), Some(Step::UndoSettings(Why::RuntimeFails))),
        ("slow once", slow.clone(), Some(Step::Retry(Rung::RestartCell, Why::TooSlow))),
        ("slow twice", Facts { attempts: 1, ..slow }, Some(Step::UndoSettings(Why::TooSlow))),
        (
            "dies twice while it boots",
            Facts { attempts: 1, ..running(booting, CellFact::Absent) },
            Some(Step::UndoSettings(Why::Died)),
        ),
        (
            "dies while it runs",
            Facts { attempts: 1, ..running(O::Running, CellFact::Absent) },
            Some(Step::Retry(Rung::RestartCell, Why::Died)),
        ),
    ];
    for (name, facts, step) in table {
        assert_eq!(plan(&Facts { undoable: true, ..facts.clone() }), step, "{name}");
        let without = plan(&Facts { undoable: false, ..facts });
        assert!(!matches!(without, Some(Step::UndoSettings(_))), "{name}: there is nothing to go back to");
    }
}

/// What is made while a bot waits for a plan: only for one that never ran, and only while that may be soon.
#[test]
fn what_is_made_ahead() {
    use Observed as O;
    let waits = O::Reserved(Reserved::AwaitingPlan);
    let (prepare, withdraw) = (Some(Step::Prepare), Some(Step::Withdraw));
    let never = |intent| Facts {
        reserved: false,
        observed_generation: 0,
        ahead_until: Some(at(1)),
        ..facts(intent, waits, CellFact::Absent)
    };
    // What stands, and what is to be done: in time, late, where none is made, and when its owner wants it stopped or running.
    for (ahead, in_time, late, stopped, running) in [
        (None, prepare, None, None, Some(Step::Reserve)),
        (Some(Ahead::Making), prepare, withdraw, withdraw, Some(Step::Reserve)),
        (Some(Ahead::Made), None, withdraw, withdraw, Some(Step::Reserve)),
        (Some(Ahead::Leaving), withdraw, withdraw, withdraw, withdraw),
        (Some(Ahead::Lapsed), prepare, None, None, Some(Step::Reserve)),
    ] {
        let at_rest = Facts { ahead, ..never(Intent::AwaitingPlan) };
        assert_eq!(plan(&at_rest), in_time, "{ahead:?}");
        for ahead_until in [Some(at(0)), None] {
            assert_eq!(plan(&Facts { ahead_until, ..at_rest.clone() }), late, "{ahead:?} {ahead_until:?}");
        }
        assert_eq!(plan(&Facts { ahead, ..never(Intent::Stopped) }), stopped, "{ahead:?}");
        assert_eq!(plan(&Facts { ahead, ..never(Intent::Running) }), running, "{ahead:?}");
        assert_eq!(plan(&Facts { ahead, ..never(Intent::Deleted) }), Some(Step::Remove), "{ahead:?}");
    }
    // Whatever the row says of a place: one that has its token, or left the first state, is never prepared and never withdrawn.
    for ahead in [None, Some(Ahead::Making), Some(Ahead::Made), Some(Ahead::Leaving), Some(Ahead::Lapsed)] {
        for intent in [Intent::AwaitingPlan, Intent::Running, Intent::Stopped, Intent::Deleted] {
            for (observed, cell) in O::ALL.into_iter().flat_map(|state| CELLS.map(|cell| (state, cell))) {
                for ahead_until in [None, Some(at(0)), Some(at(1))] {
                    let ran = Facts { ahead, ahead_until, ..facts(intent, observed, cell) };
                    let left = Facts { reserved: matches!(observed, O::Reserved(_)), ..ran.clone() };
                    for step in [plan(&ran), plan(&left)] {
                        assert!(step != prepare && step != withdraw, "{ahead:?} {intent:?} {observed:?} {cell:?}");
                    }
                }
            }
        }
    }
}

/// Where everything does what the step asks for, repeating the plan always ends, ends as wanted, and every state on the way
/// is one that the machine lets follow.
#[test]
fn plans_end() {
    for intent in [Intent::AwaitingPlan, Intent::Running, Intent::Stopped, Intent::Deleted] {
        for observed in Observed::ALL {
            for cell in CELLS.into_iter().filter(|cell| *cell != says(Phase::Failed)) {
                for (generation, reserved, ahead, ahead_until) in [
                    (3, true, None, None),
                    (4, true, None, Some(at(9))),
                    (3, false, None, Some(at(9))),
                    (3, false, Some(Ahead::Making), Some(at(0))),
                    (3, false, Some(Ahead::Made), Some(at(9))),
                    (3, false, Some(Ahead::Leaving), Some(at(9))),
                    (3, false, Some(Ahead::Lapsed), Some(at(9))),
                ] {
                    let facts = facts(intent, observed, cell);
                    let mut facts = Facts { generation, reserved, ahead, ahead_until, applied_revision: 1, ..facts };
                    let mut taken = Vec::new();
                    while let Some(step) = plan(&facts) {
                        taken.push(step);
                        assert!(taken.len() < 12, "{intent:?} {observed:?} {cell:?}: {taken:?}");
                        if step == Step::Remove {
                            break;
                        }
                        let before = facts.observed;
                        obey(&mut facts, step);
                        if step != Step::Stop {
                            before.become_state(facts.observed).unwrap();
                        }
                    }
                }
            }
        }
    }
}

fn obey(facts: &mut Facts, step: Step) {
    match step {
        Step::Reserve => {
            facts.observed = Observed::Infrastructure(Place::Name);
            facts.observed_generation = facts.generation;
            (facts.reserved, facts.ahead) = (true, None);
        }
        Step::Prepare => facts.ahead = Some(Ahead::Made),
        Step::Withdraw => facts.ahead = Some(Ahead::Lapsed),
        Step::StartCell => {
            facts.observed = Observed::Booting(Boot::Waking);
            facts.cell = CellFact::Silent;
        }
        Step::AwaitBoot => {
            facts.observed = Observed::Booting(Boot::Waking);
            facts.cell = says(Phase::Ready);
        }
        Step::ApplySettings => facts.applied_revision = facts.revision,
        Step::DeclareRunning => facts.observed = Observed::Running,
        Step::Reconnect => facts.observed = Observed::Degraded(Rung::Reconnect),
        Step::RestartRuntime { .. } => facts.observed = Observed::Degraded(Rung::RestartRuntime),
        Step::AwaitRepair => facts.cell = says(Phase::Ready),
        Step::Retry(rung, _) => {
            facts.observed = Observed::Degraded(rung);
            facts.cell = CellFact::Absent;
            facts.attempts += 1;
        }
        Step::Stop => {
            facts.cell = CellFact::Absent;
            facts.observed = if facts.suspended { Observed::Suspended } else { Observed::Stopped };
        }
        Step::AwaitRuntime | Step::UndoSettings(_) | Step::NoteEnds | Step::GiveUp(_) | Step::Remove => {
            panic!("{step:?} has no place here")
        }
    }
}

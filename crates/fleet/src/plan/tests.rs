//! The plan as tables: every pair of what is wanted and what was seen, and what else decides.
//! Never: a world; `tests/it` has one.

use super::*;

const NOW: &str = "2026-11-22T12:00:00Z";

fn facts(intent: Intent, observed: Observed, cell: CellFact) -> Facts {
    Facts {
        intent,
        generation: 3,
        observed_generation: 3,
        revision: 2,
        applied_revision: 2,
        refused_revision: None,
        observed,
        reserved: true,
        failed_on_runtime: false,
        cell,
        runtime: RuntimeFact::Ready,
        step: None,
        attempts: 0,
        stable: true,
        now: NOW.parse().unwrap(),
    }
}

fn says(phase: Phase) -> CellFact {
    CellFact::Says { phase, applied: Some(2), outdated: false }
}

fn at(second: i64) -> Time {
    NOW.parse::<Time>().unwrap() + chrono::TimeDelta::seconds(second)
}

/// Every intent with everything that can have been seen, against every kind of cell:
/// absent, silent, booting, ready, failed.
#[test]
fn every_pair() {
    use Observed as O;
    use Step::{AwaitBoot, DeclareRunning, GiveUp, Recover, Remove, Reserve, StartCell, Stop};
    let retry = Some(Step::Retry(Why::RuntimeFails));
    let stop = Some(Stop);
    let gone = Some(Remove);
    let table = [
        (Intent::AwaitingPlan, O::Absent, [None, stop, stop, stop, stop]),
        (Intent::AwaitingPlan, O::Starting, [stop; 5]),
        (Intent::AwaitingPlan, O::Running, [stop; 5]),
        (Intent::AwaitingPlan, O::Stopping, [stop; 5]),
        (Intent::AwaitingPlan, O::Stopped, [None, stop, stop, stop, stop]),
        (Intent::AwaitingPlan, O::Failed, [stop; 5]),
        (Intent::Running, O::Absent, [Some(Reserve), stop, stop, stop, stop]),
        (
            Intent::Running,
            O::Starting,
            [Some(StartCell), Some(AwaitBoot), Some(AwaitBoot), Some(DeclareRunning), retry],
        ),
        (Intent::Running, O::Running, [Some(Recover), Some(Recover), Some(Recover), None, retry]),
        (Intent::Running, O::Stopping, [Some(Reserve), stop, stop, stop, stop]),
        (Intent::Running, O::Stopped, [Some(Reserve), stop, stop, stop, stop]),
        (Intent::Running, O::Failed, [None, stop, stop, stop, stop]),
        (Intent::Stopped, O::Absent, [None, stop, stop, stop, stop]),
        (Intent::Stopped, O::Starting, [stop; 5]),
        (Intent::Stopped, O::Running, [stop; 5]),
        (Intent::Stopped, O::Stopping, [stop; 5]),
        (Intent::Stopped, O::Stopped, [None, stop, stop, stop, stop]),
        (Intent::Stopped, O::Failed, [stop; 5]),
        (Intent::Deleted, O::Absent, [gone; 5]),
        (Intent::Deleted, O::Starting, [gone; 5]),
        (Intent::Deleted, O::Running, [gone; 5]),
        (Intent::Deleted, O::Stopping, [gone; 5]),
        (Intent::Deleted, O::Stopped, [gone; 5]),
        (Intent::Deleted, O::Failed, [gone; 5]),
    ];
    let cells = [CellFact::Absent, CellFact::Silent, says(Phase::Booting), says(Phase::Ready), says(Phase::Failed)];
    for (intent, observed, steps) in table {
        for (cell, step) in cells.into_iter().zip(steps) {
            assert_eq!(plan(&facts(intent, observed, cell)), step, "{intent:?} {observed:?} {cell:?}");
        }
    }
    let worn_out = Facts { attempts: ATTEMPTS_MAX - 1, ..facts(Intent::Running, O::Starting, says(Phase::Failed)) };
    assert_eq!(plan(&worn_out), Some(GiveUp(Why::RuntimeFails)));
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
    let outdated = CellFact::Says { phase: Phase::Booting, applied: None, outdated: true };
    let table = [
        ("restart asked", Facts { generation: 4, ..running(O::Running, ready) }, Some(Step::Stop)),
        (
            "restart, gone already",
            Facts { generation: 4, ..running(O::Running, CellFact::Absent) },
            Some(Step::Reserve),
        ),
        (
            "restart of a failed one",
            Facts { generation: 4, ..running(O::Failed, CellFact::Absent) },
            Some(Step::Reserve),
        ),
        ("never reserved", Facts { reserved: false, ..running(O::Starting, CellFact::Absent) }, Some(Step::Reserve)),
        ("outdated cell", running(O::Running, outdated), Some(Step::Stop)),
        (
            "installing",
            Facts { runtime: RuntimeFact::Installing, ..running(O::Starting, CellFact::Absent) },
            Some(Step::AwaitRuntime),
        ),
        (
            "installing for too long",
            Facts {
                runtime: RuntimeFact::Installing,
                step: step(Stage::Runtime, 0),
                ..running(O::Starting, CellFact::Absent)
            },
            Some(Step::GiveUp(Why::NoRuntime)),
        ),
        (
            "installed after too long",
            Facts { step: step(Stage::Runtime, -9), ..running(O::Starting, CellFact::Absent) },
            Some(Step::StartCell),
        ),
        (
            "not installable",
            Facts { runtime: RuntimeFact::Failed, ..running(O::Starting, CellFact::Absent) },
            Some(Step::GiveUp(Why::NoRuntime)),
        ),
        (
            "installable again",
            Facts { failed_on_runtime: true, ..running(O::Failed, CellFact::Absent) },
            Some(Step::Reserve),
        ),
    ];
    for (name, facts, step) in table {
        assert_eq!(plan(&facts), step, "{name}");
    }
}

#[test]
fn what_decides_about_a_cell() {
    use Observed as O;
    let ready = says(Phase::Ready);
    let stale = CellFact::Says { phase: Phase::Ready, applied: Some(1), outdated: false };
    let table = [
        (
            "died while booting",
            Facts { step: step(Stage::Booting, 9), ..running(O::Starting, CellFact::Absent) },
            Some(Step::Retry(Why::Died)),
        ),
        (
            "died again and again",
            Facts { stable: false, attempts: 9, ..running(O::Running, CellFact::Absent) },
            Some(Step::GiveUp(Why::Died)),
        ),
        ("died soon", Facts { stable: false, ..running(O::Running, CellFact::Absent) }, Some(Step::Retry(Why::Died))),
        (
            "boots for too long",
            Facts { step: step(Stage::Booting, 0), ..running(O::Starting, says(Phase::Connecting)) },
            Some(Step::Retry(Why::TooSlow)),
        ),
        (
            "still boots",
            Facts { step: step(Stage::Booting, 1), ..running(O::Starting, says(Phase::Connecting)) },
            Some(Step::AwaitBoot),
        ),
        ("ready with older settings", running(O::Starting, stale), Some(Step::ApplySettings)),
        ("new settings while running", Facts { revision: 3, ..running(O::Running, ready) }, Some(Step::ApplySettings)),
        (
            "not yet noted as applied",
            Facts { applied_revision: 1, ..running(O::Starting, ready) },
            Some(Step::ApplySettings),
        ),
        (
            "settings stuck",
            Facts { revision: 3, step: step(Stage::Settings, 0), ..running(O::Running, ready) },
            Some(Step::Retry(Why::SettingsStuck)),
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

/// Where everything does what the step asks for, repeating the plan always ends, and ends as wanted.
#[test]
fn plans_end() {
    for intent in [Intent::AwaitingPlan, Intent::Running, Intent::Stopped, Intent::Deleted] {
        for observed in [
            Observed::Absent,
            Observed::Starting,
            Observed::Running,
            Observed::Stopping,
            Observed::Stopped,
            Observed::Failed,
        ] {
            for cell in [CellFact::Absent, CellFact::Silent, says(Phase::Booting), says(Phase::Ready)] {
                for generation in [3, 4] {
                    let mut facts = Facts { generation, applied_revision: 1, ..facts(intent, observed, cell) };
                    let mut taken = Vec::new();
                    while let Some(step) = plan(&facts) {
                        taken.push(step);
                        assert!(taken.len() < 10, "{intent:?} {observed:?} {cell:?}: {taken:?}");
                        if step == Step::Remove {
                            break;
                        }
                        obey(&mut facts, step);
                    }
                }
            }
        }
    }
}

fn obey(facts: &mut Facts, step: Step) {
    match step {
        Step::Reserve => {
            facts.observed = Observed::Starting;
            facts.observed_generation = facts.generation;
        }
        Step::StartCell => facts.cell = CellFact::Silent,
        Step::AwaitBoot => facts.cell = says(Phase::Ready),
        Step::ApplySettings => facts.applied_revision = facts.revision,
        Step::DeclareRunning => facts.observed = Observed::Running,
        Step::Recover => facts.observed = Observed::Starting,
        Step::Stop => {
            facts.cell = CellFact::Absent;
            facts.observed = Observed::Stopped;
        }
        Step::AwaitRuntime | Step::Retry(_) | Step::GiveUp(_) | Step::Remove => panic!("{step:?} has no place here"),
    }
}

//! The machine of states as tables: every pair of states, every verb in every state, and the API's view of them.
//! Never: a rule that is computed here the way the code computes it.

use super::*;

/// What may follow what, by words: a row for each state, and the states that may follow it.
const DRAWING: [(&str, &[&str]); 10] = [
    ("reserved", &["reserved", "infrastructure", "stopping", "deleting"]),
    ("infrastructure", &["infrastructure", "booting", "degraded", "stopping", "stopped", "deleting"]),
    ("booting", &["infrastructure", "booting", "running", "degraded", "stopping", "stopped", "deleting"]),
    ("running", &["infrastructure", "running", "degraded", "stopping", "stopped", "deleting"]),
    ("degraded", &["infrastructure", "booting", "running", "degraded", "stopping", "stopped", "deleting"]),
    ("stopping", &["infrastructure", "stopping", "stopped", "suspended", "deleting"]),
    ("stopped", &["infrastructure", "stopping", "stopped", "suspended", "deleting"]),
    ("suspended", &["infrastructure", "stopping", "stopped", "suspended", "deleting"]),
    ("deleting", &["deleting", "gone"]),
    ("gone", &[]),
];

#[test]
fn every_pair_of_states_is_drawn_or_refused_with_a_reason() {
    let mut pairs = [0; 2];
    for from in Observed::ALL {
        let (_, next) = DRAWING.iter().find(|(word, _)| *word == from.word()).unwrap();
        for to in Observed::ALL {
            let drawn = next.contains(&to.word());
            match from.become_state(to) {
                Ok(state) => assert_eq!((state, drawn), (to, true), "{from:?} -> {to:?}"),
                Err(refused) => {
                    assert!(!drawn, "{from:?} -> {to:?} is drawn, and refused: {refused}");
                    assert!(!refused.why.is_empty() && refused.to_string().contains(refused.why));
                }
            }
            pairs[usize::from(drawn)] += 1;
        }
    }
    assert_eq!(pairs.iter().sum::<i32>(), 20 * 20);
    assert!(pairs.iter().all(|count| *count > 100), "{pairs:?}");
}

#[test]
fn states_are_read_back_from_their_two_words() {
    for state in Observed::ALL {
        assert_eq!(Observed::read(state.word(), state.phase()), Ok(state));
        assert!(!state.sentence("Pip").is_empty());
        assert_eq!(state.rests(), state.limit().is_none());
    }
    let phases: std::collections::BTreeSet<_> = Observed::ALL.iter().map(|state| state.phase()).collect();
    assert_eq!(phases.len(), Observed::ALL.len(), "every state has a phase of its own");
    assert_eq!(Observed::read("running", "awaiting_plan"), Ok(Observed::Running), "the first word decides");
    assert_eq!(Observed::read("lost", "running"), Err(UnknownWord));
}

#[test]
fn verbs_by_state() {
    use Verb::{Delete, Restart, Resume, Settings, Stop};
    let all = [Restart, Stop, Settings, Delete, Resume];
    for state in Observed::ALL {
        let expected: &[Verb] = match state {
            Observed::Deleting(_) | Observed::Gone => &[],
            Observed::Reserved(Reserved::AwaitingPlan) | Observed::Suspended => &[Settings, Delete],
            Observed::Stopped => &[Stop, Settings, Delete, Resume],
            _ => &all,
        };
        for verb in all {
            let allowed = state.allows(verb);
            assert_eq!(allowed.is_ok(), expected.contains(&verb), "{verb:?} in {state:?}");
            assert!(allowed.err().is_none_or(|sentence| sentence.ends_with('.')));
        }
    }
}

#[test]
fn what_is_wanted_colours_what_was_seen() {
    use Intent as I;
    use Observed as O;
    let table = [
        (I::AwaitingPlan, false, O::Stopped, O::Reserved(Reserved::AwaitingPlan)),
        (I::Running, false, O::Stopped, O::Reserved(Reserved::Queued)),
        (I::Running, false, O::Degraded(Rung::GivenUp), O::Degraded(Rung::GivenUp)),
        (I::Stopped, false, O::Running, O::Stopped),
        (I::Stopped, true, O::Running, O::Suspended),
        (I::Deleted, false, O::Running, O::Deleting(Left::Cell)),
        (I::Deleted, true, O::Deleting(Left::Volume), O::Deleting(Left::Volume)),
    ];
    for (intent, suspended, seen, shown) in table {
        assert_eq!(seen.under(intent, suspended), shown, "{intent:?} {seen:?}");
    }
}

#[test]
fn four_words_cover_every_pair() {
    use Intent as I;
    use Observed as O;
    let expected = [
        (I::AwaitingPlan, O::Reserved(Reserved::AwaitingPlan), Status::Provisioning),
        (I::Running, O::Reserved(Reserved::Queued), Status::Provisioning),
        (I::Running, O::Infrastructure(Place::Cell), Status::Provisioning),
        (I::Running, O::Booting(Boot::Waking), Status::Provisioning),
        (I::Running, O::Running, Status::Running),
        (I::Running, O::Degraded(Rung::Reconnect), Status::Provisioning),
        (I::Running, O::Degraded(Rung::GivenUp), Status::Error),
        (I::Running, O::Degraded(Rung::NoRuntime), Status::Error),
        (I::Stopped, O::Running, Status::Stopped),
        (I::Stopped, O::Stopped, Status::Stopped),
        (I::Stopped, O::Suspended, Status::Stopped),
        (I::Deleted, O::Deleting(Left::Volume), Status::Stopped),
    ];
    for (intent, observed, status) in expected {
        assert_eq!(Status::of(intent, observed), status, "{intent:?} {observed:?}");
    }
}

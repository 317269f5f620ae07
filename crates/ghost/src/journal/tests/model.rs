//! Any order of steps and kills, beside a model that says what the books are owed.
//! Never: a check of counts alone; each row is compared whole.

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Admit { routes: usize, run: bool, bot: bool },
    Sent(usize, usize),
    Returned(usize),
    Relayed(usize, i64),
    Settle(usize, i64),
    Void(usize),
    Book(usize),
    SetAside,
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    let which = 0..64usize;
    prop_oneof![
        8 => (1..=2usize, any::<bool>(), any::<bool>()).prop_map(|(routes, run, bot)| Step::Admit { routes, run, bot }),
        4 => (which.clone(), 0..2usize).prop_map(|(at, route)| Step::Sent(at, route)),
        2 => which.clone().prop_map(Step::Returned),
        2 => (which.clone(), 0..1_000i64).prop_map(|(at, pieces)| Step::Relayed(at, pieces)),
        4 => (which.clone(), 0..1_000i64).prop_map(|(at, output)| Step::Settle(at, output)),
        2 => which.prop_map(Step::Void),
        2 => (1..20usize).prop_map(Step::Book),
        1 => Just(Step::SetAside),
        1 => Just(Step::Kill),
    ]
}

/// What the books are owed, and the calls on their way with whether and where they left and what had come back.
struct Model<'a> {
    owed: BTreeMap<RequestId, SettledCall>,
    aside: BTreeSet<RequestId>,
    open: Vec<(Slot, AdmittedCall<'a>, Option<usize>, i64)>,
}

fn run_steps(steps: Vec<Step>) {
    let (folder, routes, bot) = (Folder::new(), routes(), BotId::random());
    let (mut journal, _) = folder.open(SMALL);
    let mut model = Model { owed: BTreeMap::new(), aside: BTreeSet::new(), open: Vec::new() };
    for step in steps.into_iter().chain([Step::Kill]) {
        let open = model.open.len();
        match step {
            Step::Admit { routes: count, run, bot: has_bot } => {
                let run = run.then(RunId::random);
                let one = AdmittedCall { run, ..call(has_bot.then_some(&bot), &routes[..count]) };
                model.open.push((journal.admit(&one).unwrap(), one, None, 0));
            }
            Step::Book(most) => {
                let batch = journal.collect(most);
                let waiting = model.owed.len() - model.aside.len();
                assert_eq!(batch.calls.len(), most.min(waiting));
                journal.booked(&batch.places);
                for call in batch.calls {
                    assert_eq!(model.owed.remove(&call.id), Some(call));
                }
            }
            Step::SetAside => {
                let batch = journal.collect(1);
                if let Some(place) = batch.places.first() {
                    journal.set_aside(place);
                    model.aside.insert(batch.calls[0].id);
                }
            }
            Step::Kill => {
                let holder = journal.holder();
                drop(journal);
                let left: Vec<_> =
                    model.open.drain(..).filter_map(|(_, call, route, pieces)| Some((call, route?, pieces))).collect();
                model.owed.extend(
                    left.iter().map(|(call, route, pieces)| (call.id, restarted(holder, call, *route, *pieces))),
                );
                model.aside.clear();
                let (opened, recovered) = folder.open(SMALL);
                journal = opened;
                assert_eq!((recovered.calls, recovered.estimated), (model.owed.len(), left.len()));
                assert_eq!(by_id(journal.collect(usize::MAX).calls), model.owed);
                assert!(recovered.holders.contains(&holder));
            }
            _ if open == 0 => {}
            Step::Sent(at, route) => {
                let (slot, call, sent, _) = &mut model.open[at % open];
                *sent = Some(route % call.routes.len());
                slot.sent(route % call.routes.len());
            }
            Step::Returned(at) => {
                let (slot, _, sent, _) = &mut model.open[at % open];
                *sent = None;
                slot.returned();
            }
            Step::Relayed(at, more) => {
                let (slot, _, _, pieces) = &mut model.open[at % open];
                *pieces += more;
                slot.relayed(*pieces);
            }
            Step::Settle(at, output) => {
                let (slot, call, _, _) = model.open.swap_remove(at % open);
                let outcome = outcome(at % call.routes.len(), output);
                slot.settle(&outcome);
                model.owed.insert(call.id, row(journal.holder(), &call, &outcome));
            }
            Step::Void(at) => model.open.swap_remove(at % open).0.void(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_the_next_start_knows_it(steps in proptest::collection::vec(step(), 1..400)) {
        run_steps(steps);
    }
}

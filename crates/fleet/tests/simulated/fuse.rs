//! The points at which a fleet may be killed: each is passed and counted, and at the one that was chosen the fleet stops for good.
//! Never: a call that comes back to a fleet that is dead.

use std::sync::Mutex;

use tokio::sync::Notify;

use super::locked;

/// What happens at the chosen point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blow {
    /// The fleet dies: none of its calls comes back, and nothing reaches or leaves its database connections.
    Kill,
    /// The call is refused, and the fleet lives on.
    Refuse,
    /// The call does its work, and its answer is lost.
    LoseAnswer,
}

#[derive(Default)]
pub(crate) struct Fuse {
    state: Mutex<State>,
    blown: Notify,
}

#[derive(Default)]
struct State {
    /// Points passed since it was lit.
    passed: u32,
    lit: Option<(u32, Blow)>,
    dead: bool,
    /// The chosen point was reached.
    reached: bool,
    here: Option<Blow>,
}

impl Fuse {
    /// The `at`th point from now on, counted from one, is the one.
    pub(crate) fn light(&self, at: u32, blow: Blow) {
        *locked(&self.state) = State { lit: Some((at, blow)), ..State::default() };
    }

    /// Nothing happens at any point from now on. Whether the chosen one was reached.
    pub(crate) fn put_out(&self) -> bool {
        std::mem::take(&mut *locked(&self.state)).reached
    }

    /// Resolves when the fleet has been killed.
    pub(crate) async fn killed(&self) {
        loop {
            let notified = self.blown.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if self.is_dead() {
                return;
            }
            notified.await;
        }
    }

    fn is_dead(&self) -> bool {
        locked(&self.state).dead
    }

    /// Never comes back to a fleet that is dead.
    pub(crate) async fn alive(&self) {
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
    }

    /// Passes a point. A dead fleet passes none.
    pub(crate) async fn point(&self) {
        let dead = {
            let mut state = locked(&self.state);
            state.passed += 1;
            let chosen = state.lit.filter(|(at, _)| *at == state.passed && !state.reached);
            if let Some((_, blow)) = chosen {
                state.reached = true;
                state.dead = blow == Blow::Kill;
                state.here = Some(blow);
            }
            state.dead
        };
        if dead {
            self.blown.notify_waiters();
            std::future::pending::<()>().await;
        }
    }

    /// What the call that just passed its point has to suffer, once.
    pub(crate) fn blow_here(&self) -> Option<Blow> {
        locked(&self.state).here.take()
    }
}

//! Counts how often a bot says the same, and judges it. All in memory, one ring of numbers a bot.
//! Never: a judgement from a few calls; a person who asks again, or an agent with a long task, says other things in between.

use std::collections::{HashMap, VecDeque};

use chrono::TimeDelta;
use molt_model::{Caution, Time};

use super::alike::Likeness;

/// What is looked at together.
const WINDOW: TimeDelta = TimeDelta::minutes(10);
/// As many calls are remembered as can lead to a pause, and some between them.
const CALLS_KEPT: usize = 96;
/// So many times the same within the window. A person who lets an answer be made anew again and again stays below the first;
/// at the walking pace that follows the second, the third is minutes away.
const STEPS: [(usize, Caution); 3] = [(48, Caution::Paused), (24, Caution::Slowed), (12, Caution::Warned)];

/// What one bot said lately.
#[derive(Debug, Default)]
pub(crate) struct Lately {
    calls: VecDeque<(Time, Likeness)>,
    /// What happened before this was forgiven.
    resumed_at: Option<Time>,
}

/// What is the same again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Circle {
    /// The same request.
    Request,
    /// The same tool with the same answer, in a talk that grows.
    Tool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Judgement {
    pub(crate) caution: Caution,
    pub(crate) circle: Circle,
    pub(crate) times: usize,
    pub(crate) since: Time,
}

impl Lately {
    /// Adds a call and judges all of them. `None`: nothing stands out.
    pub(crate) fn add(&mut self, likeness: Likeness, resumed_at: Option<Time>, now: Time) -> Option<Judgement> {
        if resumed_at > self.resumed_at {
            self.calls.clear();
            self.resumed_at = resumed_at;
        }
        while self.calls.front().is_some_and(|(at, _)| *at < now - WINDOW) || self.calls.len() >= CALLS_KEPT {
            self.calls.pop_front();
        }
        self.calls.push_back((now, likeness));
        let request = self.judge(Circle::Request, |likeness| Some(likeness.whole));
        let tool = self.judge(Circle::Tool, |likeness| likeness.tools);
        [request, tool].into_iter().flatten().max_by_key(|judgement| judgement.times)
    }

    pub(crate) fn is_over(&self, now: Time) -> bool {
        self.calls.back().is_none_or(|(at, _)| *at < now - WINDOW)
    }

    fn judge(&self, circle: Circle, of: impl Fn(&Likeness) -> Option<u64>) -> Option<Judgement> {
        let mut seen: HashMap<u64, (usize, Time)> = HashMap::new();
        for (at, likeness) in &self.calls {
            if let Some(number) = of(likeness) {
                seen.entry(number).or_insert((0, *at)).0 += 1;
            }
        }
        // A circle may have several stations; what comes once is none.
        let repeated: usize = seen.values().map(|(times, _)| times - 1).sum();
        let (times, since) = seen.into_values().max_by_key(|(times, _)| *times)?;
        let (_, caution) = STEPS.into_iter().find(|(least, _)| times >= *least)?;
        (repeated * 2 >= self.calls.len()).then_some(Judgement { caution, circle, times, since })
    }
}

impl Judgement {
    /// For the bot's owner.
    pub(crate) fn sentence(&self) -> String {
        let times = self.times;
        match self.circle {
            Circle::Request => format!("It sent the same request {times} times within ten minutes."),
            Circle::Tool => {
                format!("It called the same tool {times} times within ten minutes and got the same answer each time.")
            }
        }
    }
}

//! What goes wrong, when a test says so, and the limits that are always in force.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Asked, State};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Done, and nobody hears of it.
    LoseAnswer,
    /// Not done, and nobody hears of it.
    LoseRequest,
    /// Not done: a 503.
    Broken,
    Slow(Duration),
    /// 429, come back after so many seconds.
    TooMany(u64),
    /// An answer that the contract does not allow.
    Lie,
}

pub(crate) struct Planned {
    method: String,
    end: String,
    fault: Fault,
    times: u32,
}

impl State {
    /// The next calls with this method whose path ends so, or goes on with an id behind it for an end in `/*`.
    pub(crate) fn plan(&mut self, method: &str, end: &str, fault: Fault, times: u32) {
        self.faults.push(Planned { method: method.to_owned(), end: end.to_owned(), fault, times });
    }

    pub(crate) fn faults_left(&self) -> u32 {
        self.faults.iter().map(|planned| planned.times).sum()
    }

    pub(super) fn next_fault(&mut self, asked: &Asked) -> Option<Fault> {
        if self.away {
            return Some(Fault::LoseRequest);
        }
        if let Some((left, lost)) = &mut self.lose {
            *left -= 1;
            if *left == 0 {
                lost.store(true, Ordering::SeqCst);
                self.lose = None;
                return Some(Fault::LoseAnswer);
            }
        }
        let planned = self.faults.iter_mut().find(|planned| {
            planned.times > 0 && planned.method == asked.method.as_str() && fits(&planned.end, &asked.path)
        })?;
        planned.times -= 1;
        Some(planned.fault)
    }

    /// One a second and three at once, per action and per app or machine; machines are read five times a second.
    /// Lists of the whole organisation are not among what is documented as limited.
    pub(super) fn over_limit(&mut self, asked: &Asked) -> Option<u64> {
        if asked.method == "GET" && (asked.path == "/v1/apps" || asked.path.starts_with("/v1/orgs/")) {
            return None;
        }
        let reads_machine = asked.method == "GET" && fits("/machines/*", &asked.path);
        let deletes_app = asked.method == "DELETE" && fits("/v1/apps/*", &asked.path);
        let (period, burst) = match (reads_machine, deletes_app) {
            (true, _) => (Duration::from_millis(200), 10),
            (_, true) => (Duration::from_millis(600), 3),
            _ => (Duration::from_secs(1), 3),
        };
        let key = match deletes_app {
            true => "delete app".to_owned(),
            // The creation of an app counts against its name.
            false => format!(
                "{} {} {}",
                asked.method,
                asked.path,
                asked.body["name"].as_str().filter(|_| asked.path == "/v1/apps").unwrap_or("")
            ),
        };
        let now = Instant::now();
        let next = self.limits.entry(key).or_insert(now);
        *next = (*next).max(now);
        // Two clocks count the same seconds; the grace is for the way between them.
        let grace = Duration::from_millis(50);
        if next.saturating_duration_since(now) > period * (burst - 1) + grace {
            self.refused_for_pace += 1;
            return Some(1);
        }
        *next += period;
        None
    }
}

fn fits(end: &str, path: &str) -> bool {
    match end.strip_suffix("/*") {
        Some(folder) => path.rsplit_once('/').is_some_and(|(front, _)| front.ends_with(folder)),
        None => path.ends_with(end),
    }
}

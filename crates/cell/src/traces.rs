//! Which run a model call belongs to. The runtime passes a run's trace on to its model calls, but not for everything:
//! a run that it resumed gets a trace of its own, and embeddings have none. Where only one run is open, they are its.
//! Never: the basis of a bill; code in the cell can forge a trace.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use molt_model::id::RunId;

/// Open runs and how many model calls each has made. Shared by the chat and the forwarder.
#[derive(Clone, Debug, Default)]
pub struct Traces {
    open: Arc<Mutex<HashMap<String, u32>>>,
}

/// The trace id of a run: its id without dashes.
#[must_use]
pub fn trace_id(run_id: RunId) -> String {
    run_id.0.simple().to_string()
}

/// A traceparent header for a new request of the run.
#[must_use]
pub fn traceparent(run_id: RunId) -> String {
    format!("00-{}-{}-01", trace_id(run_id), new_span())
}

fn new_span() -> String {
    let mut span = uuid::Uuid::new_v4().simple().to_string();
    span.truncate(16);
    span
}

impl Traces {
    pub fn open(&self, run_id: RunId) {
        self.lock().entry(trace_id(run_id)).or_insert(0);
    }

    /// Ends the counting; how many model calls the run made.
    pub fn close(&self, run_id: RunId) -> u32 {
        self.lock().remove(&trace_id(run_id)).unwrap_or(0)
    }

    /// The traceparent that a model call should carry, given the one it came with: none when it belongs to no run.
    #[must_use]
    pub fn attribute(&self, incoming: Option<&str>) -> Option<String> {
        let mut parts = incoming.unwrap_or_default().split('-').skip(1);
        let (trace, span) = (parts.next().unwrap_or_default(), parts.next().filter(|span| span.len() == 16));
        let open = self.lock();
        let trace = if open.contains_key(trace) { trace } else { single(&open)? };
        Some(format!("00-{trace}-{}-01", span.map_or_else(new_span, str::to_owned)))
    }

    /// A model call of this trace was answered.
    pub fn count(&self, traceparent: &str) {
        let trace = traceparent.split('-').nth(1).unwrap_or_default();
        if let Some(calls) = self.lock().get_mut(trace) {
            *calls += 1;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, u32>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn single(open: &HashMap<String, u32>) -> Option<&str> {
    let mut keys = open.keys();
    keys.next().filter(|_| open.len() == 1).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_find_their_run() {
        let traces = Traces::default();
        let (one, two) = (RunId::random(), RunId::random());
        let stranger = "00-11111111111111111111111111111111-2222222222222222-01";
        assert_eq!(traces.attribute(Some(stranger)), None);
        traces.open(one);
        let attributed = traces.attribute(Some(stranger)).unwrap();
        assert_eq!(attributed, format!("00-{}-2222222222222222-01", trace_id(one)));
        assert!(traces.attribute(None).unwrap().contains(&trace_id(one)));
        traces.open(two);
        assert_eq!(traces.attribute(Some(stranger)), None);
        let own = traceparent(two);
        assert_eq!(traces.attribute(Some(&own)).as_deref(), Some(own.as_str()));
        traces.count(&own);
        traces.count(&own);
        assert_eq!((traces.close(two), traces.close(two), traces.close(one)), (2, 0, 0));
    }
}

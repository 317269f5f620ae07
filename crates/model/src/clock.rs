//! Time as a value. Code takes `now` or a `Clock`; only the edge of a program asks the system.
//! Never: sleep here, or read the system clock outside `SystemClock`.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, TimeDelta, Utc};

/// An instant in UTC.
pub type Time = DateTime<Utc>;

/// Where a program's idea of "now" comes from.
pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> Time;
}

/// The operating system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Time {
        Utc::now()
    }
}

/// The system's clock moved forward by a chosen amount: a program's day can be skipped without waiting for it.
#[derive(Clone, Debug, Default)]
pub struct MovedClock {
    offset_ms: Arc<AtomicI64>,
}

impl MovedClock {
    pub fn forward(&self, by: TimeDelta) {
        self.offset_ms.fetch_add(by.num_milliseconds(), Ordering::SeqCst);
    }
}

impl Clock for MovedClock {
    fn now(&self) -> Time {
        Utc::now() + TimeDelta::milliseconds(self.offset_ms.load(Ordering::SeqCst))
    }
}

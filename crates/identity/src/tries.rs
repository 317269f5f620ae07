//! Counts tries at something that can be guessed, in memory, so that guessing gets slow.
//! Never: unbounded memory, whatever strangers send, or a lock-out that outlasts the window.

use std::collections::HashMap;
use std::sync::Mutex;

use chrono::TimeDelta;
use molt_model::Time;
use sha2::{Digest, Sha256};

/// Keys held at once; at 40 bytes each that is under a megabyte. When it is full, the oldest windows go.
const KEYS_MAX: usize = 10_000;

/// So many tries in so long a window, per key.
pub(crate) struct Tries {
    tries_max: u32,
    window: TimeDelta,
    held: Mutex<HashMap<[u8; 16], Window>>,
}

struct Window {
    began_at: Time,
    count: u32,
}

impl Tries {
    pub(crate) fn new(tries_max: u32, window: TimeDelta) -> Self {
        Self { tries_max, window, held: Mutex::new(HashMap::new()) }
    }

    /// Counts a try. `Err`: too many; the seconds until the next one counts.
    pub(crate) fn count(&self, parts: &[&str], now: Time) -> Result<(), u64> {
        let mut held = self.held.lock().expect("no holder of this lock panics");
        if held.len() >= KEYS_MAX {
            make_room(&mut held, now - self.window);
        }
        let entry = held.entry(key(parts)).or_insert(Window { began_at: now, count: 0 });
        if now - entry.began_at >= self.window {
            *entry = Window { began_at: now, count: 0 };
        }
        if entry.count >= self.tries_max {
            let left = (entry.began_at + self.window - now).num_seconds();
            return Err(u64::try_from(left).unwrap_or(0).max(1));
        }
        entry.count += 1;
        Ok(())
    }

    /// Forgets the tries of a key: the last one was right.
    pub(crate) fn forget(&self, parts: &[&str]) {
        self.held.lock().expect("no holder of this lock panics").remove(&key(parts));
    }
}

fn make_room(held: &mut HashMap<[u8; 16], Window>, began_before: Time) {
    held.retain(|_, window| window.began_at > began_before);
    if held.len() < KEYS_MAX {
        return;
    }
    let mut times: Vec<Time> = held.values().map(|window| window.began_at).collect();
    times.sort_unstable();
    let middle = times[times.len() / 2];
    held.retain(|_, window| window.began_at > middle);
}

fn key(parts: &[&str]) -> [u8; 16] {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part.to_lowercase().as_bytes());
        digest.update([0]);
    }
    let mut key = [0u8; 16];
    key.copy_from_slice(&digest.finalize()[..16]);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guessing_gets_slow_and_starts_afresh() {
        let tries = Tries::new(3, TimeDelta::minutes(5));
        let start = Time::UNIX_EPOCH;
        for _ in 0..3 {
            assert_eq!(tries.count(&["Ann@example.com", "::1"], start), Ok(()));
        }
        assert_eq!(tries.count(&["ann@example.com", "::1"], start + TimeDelta::minutes(4)), Err(60));
        assert_eq!(tries.count(&["ann@example.com", "::2"], start), Ok(()));
        assert_eq!(tries.count(&["ann@example.com", "::1"], start + TimeDelta::minutes(5)), Ok(()));
        tries.forget(&["ann@example.com", "::1"]);
        assert_eq!(tries.held.lock().unwrap().len(), 1);
    }

    #[test]
    fn memory_is_bounded() {
        let tries = Tries::new(3, TimeDelta::minutes(5));
        for n in 0..3 * KEYS_MAX {
            let at = Time::UNIX_EPOCH + TimeDelta::milliseconds(i64::try_from(n).unwrap());
            tries.count(&[&n.to_string()], at).unwrap();
        }
        assert!(tries.held.lock().unwrap().len() <= KEYS_MAX);
    }
}

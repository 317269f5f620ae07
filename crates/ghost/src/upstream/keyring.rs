//! The master keys of one provider: which one the next call goes out under, and which rest.
//! Never: a key in a log, an error or a Debug; a key that was refused tried again before its rest is over.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

/// After a key was refused; a mended account works again soon, a dead key costs one call a rest.
const REFUSED_REST: Duration = Duration::from_secs(30);
const REFUSED_REST_MAX: Duration = Duration::from_secs(600);
/// Refusals in a row that may be the caller's fault: a model that the account hasn't, an input that is not allowed.
const DOUBTS_MAX: u32 = 3;
/// Of one provider. More is a mistake in a file.
pub(super) const KEYS_MAX: usize = 100;
const WEIGHT_MAX: u32 = 1000;

/// A key to a provider, and its share of the calls.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MasterKey {
    pub secret: SecretString,
    /// Of all weights together; 1 to 1000.
    #[serde(default = "one")]
    pub weight: u32,
}

fn one() -> u32 {
    1
}

impl From<SecretString> for MasterKey {
    fn from(secret: SecretString) -> Self {
        Self { secret, weight: 1 }
    }
}

pub(super) struct Keyring(Mutex<Ring>);

struct Ring {
    keys: Vec<Key>,
    /// So that what is told about a key that is gone isn't taken for another's.
    next_number: u64,
}

struct Key {
    number: u64,
    /// `None`: this provider wants no key.
    secret: Option<Arc<SecretString>>,
    weight: i64,
    /// How far it is behind its share; the one that is furthest goes next.
    behind: i64,
    rest: Option<Rest>,
    /// In a row.
    refusals: u32,
    /// In a row, and not enough yet to let it rest.
    doubts: u32,
}

#[derive(Clone, Copy)]
struct Rest {
    until: Instant,
    busy: bool,
}

/// The key of one attempt.
pub(super) struct Chosen {
    pub(super) number: u64,
    pub(super) secret: Option<Arc<SecretString>>,
    /// It was refused before: an answer clears its record.
    marked: bool,
}

/// All keys rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AllRest {
    pub(super) wait: Duration,
    /// Some only because the provider was busy: worth waiting for.
    pub(super) busy: bool,
}

/// How the keys of a provider stand. Where it wants none, there is one without a secret.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) ready: usize,
    /// Resting, as the provider refused them.
    pub(crate) refused: usize,
    /// Resting, as the provider took no more calls under them.
    pub(crate) busy: usize,
}

impl Keyring {
    /// No keys: a provider that wants none.
    pub(super) fn new(keys: Vec<MasterKey>) -> Result<Self, &'static str> {
        check(&keys)?;
        let ring = Self(Mutex::new(Ring { keys: Vec::new(), next_number: 0 }));
        ring.set(keys);
        Ok(ring)
    }

    /// Keys that were there already keep their rest; `keys` have been checked.
    pub(super) fn set(&self, keys: Vec<MasterKey>) {
        let mut ring = self.lock();
        let mut old = std::mem::take(&mut ring.keys);
        let wanted = match keys.is_empty() {
            true => vec![(None, 1)],
            false => keys.into_iter().map(|key| (Some(key.secret), i64::from(key.weight))).collect(),
        };
        for (secret, weight) in wanted {
            let same = |key: &Key| {
                key.secret.as_ref().map(|s| s.expose_secret()) == secret.as_ref().map(|s| s.expose_secret())
            };
            let key = match old.iter().position(same) {
                Some(at) => Key { weight, ..old.swap_remove(at) },
                None => {
                    ring.next_number += 1;
                    let number = ring.next_number;
                    Key { number, secret: secret.map(Arc::new), weight, behind: 0, rest: None, refusals: 0, doubts: 0 }
                }
            };
            ring.keys.push(key);
        }
    }

    /// The next key by weight among those that don't rest and that this call hasn't tried.
    pub(super) fn choose(&self, now: Instant, tried: &[u64]) -> Result<Chosen, AllRest> {
        let mut ring = self.lock();
        let mut all = 0;
        let mut best: Option<usize> = None;
        for at in 0..ring.keys.len() {
            let key = &mut ring.keys[at];
            if key.rest.is_some_and(|rest| rest.until > now) || tried.contains(&key.number) {
                continue;
            }
            key.behind += key.weight;
            all += key.weight;
            if best.is_none_or(|best| ring.keys[best].behind < ring.keys[at].behind) {
                best = Some(at);
            }
        }
        let Some(best) = best else { return Err(ring.all_rest(now)) };
        let key = &mut ring.keys[best];
        key.behind -= all;
        Ok(Chosen { number: key.number, secret: key.secret.clone(), marked: key.refusals + key.doubts > 0 })
    }

    /// The provider doesn't take the key: it rests, longer each time. Where it may be the call that isn't taken, only
    /// after some in a row, so that no caller can lay a key to rest for all others with one call.
    pub(super) fn refused(&self, chosen: &Chosen, now: Instant, surely: bool) {
        self.with(chosen, |key| {
            key.doubts += 1;
            if !surely && key.doubts < DOUBTS_MAX {
                return;
            }
            // Calls that were out together tell of one refusal, not of many.
            if key.rest.is_some_and(|rest| rest.until > now && !rest.busy) {
                return;
            }
            let rest = REFUSED_REST.saturating_mul(1 << key.refusals.min(8)).min(REFUSED_REST_MAX);
            key.refusals += 1;
            key.rest = Some(Rest { until: now + rest, busy: false });
        });
    }

    /// The provider takes no more calls under this key for so long.
    pub(super) fn busy(&self, chosen: &Chosen, now: Instant, rest: Duration) {
        self.with(chosen, |key| {
            let until = now + rest;
            if key.rest.is_none_or(|rest| rest.until < until) {
                key.rest = Some(Rest { until, busy: true });
            }
        });
    }

    pub(super) fn accepted(&self, chosen: &Chosen) {
        if chosen.marked {
            self.with(chosen, |key| (key.refusals, key.doubts) = (0, 0));
        }
    }

    /// How many may be used and how many rest.
    pub(super) fn standing(&self, now: Instant) -> Standing {
        let mut standing = Standing::default();
        for key in &self.lock().keys {
            match key.rest.filter(|rest| rest.until > now) {
                None => standing.ready += 1,
                Some(Rest { busy: true, .. }) => standing.busy += 1,
                Some(Rest { busy: false, .. }) => standing.refused += 1,
            }
        }
        standing
    }

    /// The text without any of the keys.
    pub(super) fn hide(&self, mut text: String) -> String {
        for key in &self.lock().keys {
            if let Some(secret) = key.secret.as_ref().map(|secret| secret.expose_secret()) {
                text = text.replace(secret, "[key]");
            }
        }
        text
    }

    fn with(&self, chosen: &Chosen, change: impl FnOnce(&mut Key)) {
        if let Some(key) = self.lock().keys.iter_mut().find(|key| key.number == chosen.number) {
            change(key);
        }
    }

    /// A thread that panicked elsewhere leaves the list as it was.
    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn all_rest(&self, now: Instant) -> AllRest {
        let rests = || self.keys.iter().filter_map(|key| key.rest);
        let first = |busy: bool| rests().filter(|rest| rest.busy == busy).map(|rest| rest.until).min();
        let busy = first(true);
        let until = busy.or_else(|| first(false)).unwrap_or(now);
        AllRest { wait: until.saturating_duration_since(now), busy: busy.is_some() }
    }
}

/// Whether these can be a provider's keys. The text names no key.
pub(super) fn check(keys: &[MasterKey]) -> Result<(), &'static str> {
    if keys.len() > KEYS_MAX {
        return Err("it has more than 100 keys");
    }
    for (at, key) in keys.iter().enumerate() {
        let secret = key.secret.expose_secret();
        if secret.is_empty() || secret.contains(char::is_whitespace) || HeaderValue::from_str(secret).is_err() {
            return Err("one of its keys is empty or holds characters that no key has");
        }
        if !(1..=WEIGHT_MAX).contains(&key.weight) {
            return Err("the weight of a key must be from 1 to 1000");
        }
        if keys[..at].iter().any(|other| other.secret.expose_secret() == secret) {
            return Err("it has the same key twice");
        }
    }
    Ok(())
}

/// What a file of keys holds, possibly none: one a line, a weight after a blank if it has one; `#` begins a comment line.
pub(super) fn parse(text: &str) -> Result<Vec<MasterKey>, &'static str> {
    let mut keys = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (secret, weight) = line.split_once(char::is_whitespace).unwrap_or((line, "1"));
        let weight = weight.trim().parse().map_err(|_| "a line holds more than a key and its weight")?;
        keys.push(MasterKey { secret: secret.to_owned().into(), weight });
    }
    check(&keys)?;
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(text: &str) -> Keyring {
        Keyring::new(parse(text).unwrap()).unwrap()
    }

    fn chosen(ring: &Keyring, now: Instant) -> String {
        ring.choose(now, &[])
            .map_or_else(|rest| format!("{} {}", rest.wait.as_secs(), rest.busy), |chosen| name(&chosen))
    }

    fn name(chosen: &Chosen) -> String {
        chosen.secret.as_ref().map_or("none", |secret| secret.expose_secret()).to_owned()
    }

    #[test]
    fn every_key_gets_its_share_exactly() {
        let (ring, now) = (ring("# ours\n a 5\n\nb\t1\nc"), Instant::now());
        let round: Vec<String> = (0..14).map(|_| chosen(&ring, now)).collect();
        assert_eq!(round.concat(), "aabacaaaabacaa");
        ring.busy(&ring.choose(now, &[]).unwrap(), now, Duration::from_secs(3));
        let pair: Vec<String> = (0..4).map(|_| chosen(&ring, now)).collect();
        assert!(pair.concat() == "bcbc" || pair.concat() == "cbcb", "{pair:?}");
        let keyless = Keyring::new(Vec::new()).unwrap();
        assert_eq!(chosen(&keyless, now), "none");
    }

    #[test]
    fn a_refused_key_rests_longer_each_time_until_it_works() {
        let (ring, mut now) = (ring("a\nb"), Instant::now());
        let refuse = |wanted: &str, now| loop {
            let chosen = ring.choose(now, &[]).unwrap();
            if name(&chosen) == wanted {
                // Two calls under the key at once are refused together.
                ring.refused(&chosen, now, true);
                return ring.refused(&chosen, now, true);
            }
        };
        refuse("a", now);
        assert_eq!([(); 3].map(|()| chosen(&ring, now)), ["b"; 3]);
        refuse("b", now);
        assert_eq!(chosen(&ring, now), "30 false");
        ring.set(parse("b 7\nc").unwrap());
        assert_eq!([(); 2].map(|()| chosen(&ring, now)), ["c"; 2], "a new key works, the old one rests on");
        ring.busy(&ring.choose(now, &[]).unwrap(), now, Duration::from_secs(2));
        assert_eq!(chosen(&ring, now), "2 true");
        ring.set(parse("b").unwrap());
        for rest in [60, 120, 240, 480, 600, 600] {
            now += REFUSED_REST_MAX;
            refuse("b", now);
            assert_eq!(chosen(&ring, now), format!("{rest} false"));
        }
        now += REFUSED_REST_MAX;
        ring.accepted(&ring.choose(now, &[]).unwrap());
        refuse("b", now);
        assert_eq!(chosen(&ring, now), "30 false");
    }

    #[test]
    fn what_may_be_the_callers_fault_lays_a_key_to_rest_only_after_three_in_a_row() {
        let (ring, now) = (ring("a"), Instant::now());
        let doubt = || ring.refused(&ring.choose(now, &[]).unwrap(), now, false);
        doubt();
        doubt();
        ring.accepted(&ring.choose(now, &[]).unwrap());
        doubt();
        doubt();
        let key = ring.choose(now, &[]).unwrap();
        assert_eq!(ring.choose(now, &[key.number]).err(), Some(AllRest { wait: Duration::ZERO, busy: false }));
        doubt();
        assert_eq!(chosen(&ring, now), "30 false");
    }

    #[test]
    fn a_file_of_keys_is_right_or_refused_in_words_without_keys() {
        let keys = parse("sk-1 3\r\n# old: sk-0\n\nsk-2\n").unwrap();
        let read: Vec<_> = keys.iter().map(|key| (key.secret.expose_secret(), key.weight)).collect();
        assert_eq!(read, [("sk-1", 3), ("sk-2", 1)]);
        let many = (0..=KEYS_MAX).map(|at| format!("k{at}\n")).collect::<String>();
        for text in ["sk-1 x", "sk-1 0", "sk-1 1001", "sk-1 1 1", "sk-1\nsk-1", "sk\u{7f}1", &many] {
            let said = parse(text).unwrap_err();
            assert!(!said.contains("sk"), "{said}");
        }
        assert_eq!(parse("# none\n").unwrap().len(), 0);
        let text = ring("sk-secret-1\nsk-secret-2").hide("a sk-secret-2, b sk-secret-1".to_owned());
        assert_eq!(text, "a [key], b [key]");
    }
}

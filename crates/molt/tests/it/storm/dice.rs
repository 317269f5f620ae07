//! Chance that can be had again: the same seed, the same storm.
//! Never: a throw that depends on the machine or the time.

/// The storm of an ordinary run; another one with MOLT_STORM_SEED.
const SEED: u64 = 0x6d6f_6c74;

#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

/// What this run is thrown with.
pub(super) fn seed() -> u64 {
    std::env::var("MOLT_STORM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(SEED)
}

impl Dice {
    /// Throws of their own for each `stream`, whoever comes first.
    pub(super) fn new(seed: u64, stream: u64) -> Self {
        let mut dice = Self(seed ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        dice.throw();
        dice
    }

    pub(super) fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.throw() % bound
    }

    pub(super) fn percent(&mut self, share: u64) -> bool {
        self.below(100) < share
    }

    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.below(of.len() as u64)).expect("a small number")]
    }
}

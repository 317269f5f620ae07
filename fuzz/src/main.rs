//! One program for all targets: MOLT_FUZZ names the one that random input is thrown at.
//! Never: a rule of its own about what is right; what must hold stands beside the parsers, in the crate.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use molt_ghost::fuzzing::{TARGETS, Target};

static TARGET: OnceLock<Target> = OnceLock::new();

fuzz_target!(|data: &[u8]| {
    let target = TARGET.get_or_init(|| {
        let name = std::env::var("MOLT_FUZZ").unwrap_or_default();
        let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
        let found = TARGETS.iter().find(|(known, _)| *known == name);
        found.unwrap_or_else(|| panic!("set MOLT_FUZZ to one of: {}", names.join(" "))).1
    });
    target(data);
});

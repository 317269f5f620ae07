//! Lays the code of a model call together in the release program (docs/decisions/0015).
//! Never: anything that the program's behaviour depends on; without it the same code lies elsewhere.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=calls.ld");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|found| found == value);
    // The toolchain brings a linker for this target that knows such scripts. Whoever chose another one does without.
    let target = ["linux", "gnu", "x86_64"];
    let mut brought = ["CARGO_CFG_TARGET_OS", "CARGO_CFG_TARGET_ENV", "CARGO_CFG_TARGET_ARCH"].into_iter().zip(target);
    let chosen = env::var_os("RUSTC_LINKER").is_some()
        || env::var("CARGO_ENCODED_RUSTFLAGS").is_ok_and(|flags| flags.contains("link"));
    if brought.all(|(name, value)| is(name, value)) && !chosen && is("PROFILE", "release") {
        let folder = env::var("CARGO_MANIFEST_DIR").expect("cargo names the folder");
        println!("cargo:rustc-link-arg-bins=-T");
        println!("cargo:rustc-link-arg-bins={folder}/calls.ld");
    }
}

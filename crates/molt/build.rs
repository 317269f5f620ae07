//! Lays the code of a model call together in the release program.
//! Never: anything that the program's behaviour depends on; without it the same code lies elsewhere.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=calls.ld");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|found| found == value);
    // Where the toolchain brings its own linker, which knows such scripts.
    let target = is("CARGO_CFG_TARGET_OS", "linux")
        && is("CARGO_CFG_TARGET_ENV", "gnu")
        && is("CARGO_CFG_TARGET_ARCH", "x86_64");
    if target && is("PROFILE", "release") {
        let folder = env::var("CARGO_MANIFEST_DIR").expect("cargo names the folder");
        println!("cargo:rustc-link-arg-bins=-T");
        println!("cargo:rustc-link-arg-bins={folder}/calls.ld");
    }
}

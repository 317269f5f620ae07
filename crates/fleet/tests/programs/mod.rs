//! The programs that tests of the real hosts start.
//! Never: another build than the one that is under test.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The cell and the stand-in runtime, built if they aren't.
pub(crate) fn programs() -> [PathBuf; 2] {
    static BUILT: std::sync::Once = std::sync::Once::new();
    let test = std::env::current_exe().unwrap();
    let target = test.parent().and_then(Path::parent).unwrap();
    let programs = [target.join("molt-cell"), target.join("examples/molt-stand-in-runtime")];
    BUILT.call_once(|| {
        if programs.iter().all(|program| program.exists()) {
            return;
        }
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--package", "molt-cell", "--bin", "molt-cell"])
            .args(["--example", "molt-stand-in-runtime"])
            .status();
        assert!(built.unwrap().success(), "the cell can't be built");
    });
    programs
}

//! The rules of the house that a machine can check, on the tree as it lies on the disk.
//! Never: a rule that is not in STYLE.md or ARCHITECTURE.md, or one that has not been seen to fail on a bad example.

mod floors;
mod mentions;
mod source;
mod tables;
mod tree;

use std::path::{Path, PathBuf};

/// Where the project lies.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("crates/molt lies two folders down").to_owned()
}

/// A file of the project, by its path from the root with forward slashes. What isn't text has none.
struct File {
    path: String,
    text: String,
}

/// Folders that are made, not written.
const MADE: [&str; 8] = [".git", "target", "node_modules", "dist", ".expo", ".molt", "screenshots", "coverage"];

/// Every file that people made.
fn files() -> Vec<File> {
    let root = root();
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the project can be read").flatten() {
            let path = entry.path();
            let kind = entry.file_type().expect("the file system knows what it holds");
            // `.git` is a file in a second worktree.
            if MADE.contains(&entry.file_name().to_string_lossy().as_ref()) {
                continue;
            }
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                let path = path.strip_prefix(&root).expect("found below the root").to_string_lossy().into_owned();
                found.push(File { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// One message for all faults, so that one run shows everything there is to mend.
#[track_caller]
fn no_faults(faults: &[String]) {
    assert!(faults.is_empty(), "{} faults:\n  {}", faults.len(), faults.join("\n  "));
}

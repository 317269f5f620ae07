//! Rules about the tree itself: names, sizes, unfinished work, what must not be written down anywhere.
//! Never: the forbidden words in one piece, or this file would be the first to break its own rules.

use super::{File, files, no_faults};

/// What doesn't fit is two things.
const FILE_LINES_MAX: usize = 500;
const SOURCE: [&str; 7] = [".rs", ".ts", ".tsx", ".js", ".mjs", ".css", ".html"];
/// Made from openapi.json; as long as the API is wide.
const GENERATED: [&str; 1] = ["app/src/api/schema.ts"];
const NO_HOME: [&str; 12] = [
    "util", "utils", "common", "helper", "helpers", "misc", "manager", "service", "services", "impl", "core", "shared",
];
/// Marks of unfinished work.
const UNFINISHED: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")];
/// Places that exist on one machine only.
const ELSEWHERE: [&str; 4] =
    [concat!("/work", "/main"), concat!("/work", "/shared"), concat!("/tmp", "/brief"), concat!("../", "shared/")];

/// Everything that is wrong with one file, apart from what only a parser sees.
fn faults(file: &File) -> Vec<String> {
    let path = file.path.as_str();
    let mut found: Vec<String> = Vec::new();
    let mut names = path.split('/').map(|name| name.split('.').next().unwrap_or_default());
    if is_source(path) && names.any(|name| NO_HOME.contains(&name.to_lowercase().as_str())) {
        found.push(format!("{path}: what has no name of its own has no home yet"));
    }
    let lines = file.text.lines().count();
    if is_source(path) && !GENERATED.contains(&path) && lines > FILE_LINES_MAX {
        found.push(format!("{path} has {lines} lines, more than {FILE_LINES_MAX}"));
    }
    if is_lockfile(path) {
        let host = |line: &&str| line.contains("\"resolved\": \"http");
        found.extend(file.text.lines().find(host).map(|_| format!("{path} names a registry's host")));
        return found;
    }
    for (number, line) in file.text.lines().enumerate() {
        let at = number + 1;
        if let Some(mark) = UNFINISHED.iter().find(|mark| is_source(path) && line.contains(**mark)) {
            found.push(format!("{path}:{at} says {mark}"));
        }
        if let Some(place) = ELSEWHERE.iter().find(|place| line.contains(**place)) {
            found.push(format!("{path}:{at} names {place}, which no other machine has"));
        }
        if path == "Cargo.lock" && line.starts_with("source") && !line.contains("rust-lang/crates.io-index") {
            found.push(format!("{path}:{at} takes a crate from elsewhere than crates.io"));
        }
    }
    found
}

fn is_source(path: &str) -> bool {
    SOURCE.iter().any(|end| path.ends_with(end))
}

fn is_lockfile(path: &str) -> bool {
    path.ends_with("package-lock.json") || path.ends_with("npm-shrinkwrap.json")
}

#[test]
fn the_tree_keeps_the_house_rules() {
    let files = files();
    assert!(files.len() > 60, "the tree was found");
    no_faults(&files.iter().flat_map(faults).collect::<Vec<_>>());
}

#[test]
fn each_rule_can_fail() {
    let check = |path: &str, text: &str| faults(&File { path: path.to_owned(), text: text.to_owned() }).len();
    let long = "x\n".repeat(FILE_LINES_MAX + 1);
    assert_eq!(check("crates/x/src/y.rs", "fn f() {}"), 0);
    assert_eq!(check("app/src/api/schema.ts", &long), 0);
    assert_eq!(check("docs/long.md", &long), 0);
    assert_eq!(check("app/package-lock.json", "\"integrity\": \"sha512-x\",\n\"url\": \"https://x\""), 0);
    assert_eq!(check("crates/x/src/y.rs", &long), 1);
    assert_eq!(check("app/src/y.tsx", &long), 1);
    assert_eq!(check("crates/x/src/util.rs", ""), 1);
    assert_eq!(check("app/src/helpers/money.ts", ""), 1);
    assert_eq!(check("crates/x/src/y.rs", &format!("// {} later", UNFINISHED[0])), 1);
    assert_eq!(check("README.md", &format!("see {}/x", ELSEWHERE[1])), 1);
    assert_eq!(check("docs/a.md", &format!("see {}x", ELSEWHERE[3])), 1);
    assert_eq!(check("app/package-lock.json", "\"resolved\": \"https://registry.example/x.tgz\""), 1);
    assert_eq!(check("Cargo.lock", "source = \"git+https://example.com/x\""), 1);
}

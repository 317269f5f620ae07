//! What the documents point at exists.
//! Never: a guess about prose; only inline code and links that name a path of the project count.

use super::{File, files, no_faults};

/// The paths of the project that a Markdown text names: links to files, and inline code that begins with a folder of the
/// project or names a file at its root. Code blocks, patterns, commands and addresses are not paths.
fn mentions(text: &str, roots: &[String]) -> Vec<String> {
    let prose: String = text.split("```").step_by(2).collect::<Vec<_>>().join("\n");
    let links = prose.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    let links =
        links.filter(|target| !target.contains("://") && !target.starts_with(['#', '/']) && !target.contains(':'));
    let code = prose.split('`').skip(1).step_by(2).filter(|code| names_a_path(code, roots));
    links.chain(code).map(|path| path.split('#').next().unwrap_or_default().to_owned()).collect()
}

fn names_a_path(code: &str, roots: &[String]) -> bool {
    let plain = !code.is_empty() && code.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c));
    let first = code.split('/').next().unwrap_or_default();
    let folder = code.contains('/') && roots.iter().any(|root| root == first);
    let file = !code.contains('/') && [".md", ".toml", ".json"].iter().any(|end| code.ends_with(end)) && code.len() > 6;
    plain && (folder || file && code.starts_with(|c: char| c.is_ascii_uppercase()))
}

fn faults(document: &File, known: &[String], roots: &[String]) -> Vec<String> {
    let beside = document.path.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
    let exists = |path: &str| {
        let path = path.trim_end_matches('/');
        let goes_on =
            |file: &String| file.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '-']));
        known.iter().any(goes_on)
    };
    let missing = |path: &String| {
        let up = path.matches("../").count();
        let mut base: Vec<&str> = beside.split_terminator('/').collect();
        base.truncate(base.len().saturating_sub(up));
        let from_here = [base.join("/").as_str(), path.trim_start_matches("../").trim_start_matches("./")].join("/");
        !exists(path) && !exists(from_here.trim_start_matches('/'))
    };
    let found = mentions(&document.text, roots).into_iter().filter(|path| !MADE_LATER.contains(&path.as_str()));
    found.filter(missing).map(|path| format!("{} mentions {path}, which does not exist", document.path)).collect()
}

/// Mentioned rightly, but made by a command.
const MADE_LATER: [&str; 2] = ["app/dist", "e2e/screenshots"];

#[test]
fn documents_mention_what_exists() {
    let files = files();
    let known: Vec<String> = files.iter().map(|file| file.path.clone()).collect();
    let mut roots: Vec<String> = known.iter().filter_map(|path| Some(path.split_once('/')?.0.to_owned())).collect();
    roots.dedup();
    let documents = files.iter().filter(|file| file.path.ends_with(".md") && !file.path.contains("/tests/"));
    let documents: Vec<&File> = documents.collect();
    assert!(documents.iter().any(|document| document.path == "ARCHITECTURE.md"));
    no_faults(&documents.into_iter().flat_map(|document| faults(document, &known, &roots)).collect::<Vec<_>>());
}

#[test]
fn the_rule_can_fail() {
    let known = ["README.md", "docs/one.md", "docs/0001-why.md", "crates/x/src/lib.rs"].map(String::from);
    let roots = ["crates", "docs"].map(String::from);
    let check =
        |path: &str, text: &str| faults(&File { path: path.to_owned(), text: text.to_owned() }, &known, &roots).len();
    let good =
        "[a](docs/one.md) `crates/x` `crates/*` `README.md` [b](https://x/y) `GET /docs/x`\n```\n`docs/no.md`\n```\n";
    assert_eq!(check("README.md", good), 0);
    assert_eq!(check("docs/one.md", "[up](../README.md), [beside](one.md)"), 0);
    assert_eq!(check("README.md", "[a](docs/two.md)"), 1);
    assert_eq!(check("README.md", "see `crates/y/src/lib.rs`"), 1);
    assert_eq!(check("docs/one.md", "[up](../LICENSE)"), 1);
    assert_eq!(check("README.md", "see `GONE.md`"), 1);
}

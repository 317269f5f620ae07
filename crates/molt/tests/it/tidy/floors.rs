//! Imports go down only: the manifests against the table in ARCHITECTURE.md, which is read, not repeated here.
//! Never: an arrow that is allowed here and not in the table.

use std::collections::{BTreeMap, BTreeSet};

use super::{File, files, no_faults};

type Table = BTreeMap<String, BTreeSet<String>>;

/// Who may depend on a crate that is kept to a few places. An empty list: nobody.
const KEPT: [(&str, &[&str]); 3] =
    [("sqlx", &["store"]), ("axum", &["api", "ghost", "cell", "molt"]), ("reqwest", &[])];

/// Reads the rows `| a, b | c, d (why) |` that follow `| crate | may import |`.
fn table(architecture: &str) -> Table {
    let rows = architecture.lines().skip_while(|line| !line.starts_with("| crate | may import |")).skip(2);
    let rows: Vec<(Vec<String>, String)> = rows
        .map_while(|line| line.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | "))
        .map(|(crates, may)| (names(crates), may.to_owned()))
        .collect();
    let all: BTreeSet<String> = rows.iter().flat_map(|(crates, _)| crates.clone()).collect();
    let may = |may: &str| match may.split(" (").next().unwrap_or_default() {
        "all" => all.clone(),
        "–" => BTreeSet::new(),
        list => names(list).into_iter().collect(),
    };
    rows.iter().flat_map(|(crates, list)| crates.iter().map(|name| (name.clone(), may(list)))).collect()
}

fn names(list: &str) -> Vec<String> {
    list.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
}

/// What a manifest takes in, by section, renamed dependencies under their real name.
fn dependencies(manifest: &toml::Table) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    for section in ["dependencies", "build-dependencies", "dev-dependencies"] {
        let targets = manifest.get("target").and_then(toml::Value::as_table);
        let under_targets = targets.into_iter().flat_map(|targets| targets.values()).filter_map(|t| t.get(section));
        for table in manifest.get(section).into_iter().chain(under_targets).filter_map(toml::Value::as_table) {
            for (name, value) in table {
                let real = value.get("package").and_then(toml::Value::as_str).unwrap_or(name);
                found.push((section, real.to_owned()));
            }
        }
    }
    found
}

/// `name` is the folder under crates/. Tests may also take in what lies on another crate's floor or above, but never what
/// is kept to a few places.
fn faults(table: &Table, name: &str, manifest: &str) -> Vec<String> {
    let Some(may) = table.get(name) else {
        return vec![format!("crates/{name} is not in the table of ARCHITECTURE.md")];
    };
    let manifest: toml::Table = manifest.parse().expect("cargo reads the same file");
    let mut faults = Vec::new();
    for (section, dependency) in dependencies(&manifest) {
        if let Some(ours) = dependency.strip_prefix("molt-")
            && section != "dev-dependencies"
            && !may.contains(ours)
        {
            faults.push(format!("crates/{name} may not import {ours}"));
        }
        if let Some((_, who)) = KEPT.iter().find(|(kept, _)| *kept == dependency)
            && !who.contains(&name)
        {
            faults.push(format!("crates/{name} may not import {dependency}: it is kept to [{}]", who.join(", ")));
        }
    }
    faults
}

#[test]
fn imports_go_down_only() {
    let files = files();
    let text = |path: &str| files.iter().find(|file| file.path == path).map(|file| file.text.as_str());
    let table = table(text("ARCHITECTURE.md").expect("the map of the house"));
    let manifest = |file: &File| {
        let name = file.path.strip_prefix("crates/")?.strip_suffix("/Cargo.toml")?.to_owned();
        Some((name, file.text.clone()))
    };
    let manifests: Vec<_> = files.iter().filter_map(manifest).collect();
    assert!(manifests.len() >= 10, "the crates were found");
    let mut found: Vec<String> = manifests.iter().flat_map(|(name, text)| faults(&table, name, text)).collect();
    let gone = table.keys().filter(|name| !manifests.iter().any(|(known, _)| known == *name));
    found.extend(gone.map(|name| format!("ARCHITECTURE.md has a crate {name} that does not exist")));
    no_faults(&found);
}

#[test]
fn the_rule_can_fail() {
    let table = table(
        "| crate | may import |\n|---|---|\n| model | – |\n| store, bot | model |\n| cell | model, bot (never store: so) |\n| molt | all |\n\nmore | text |\n",
    );
    assert_eq!(table.len(), 5);
    assert!(faults(&table, "store", "[dependencies]\nmolt-model.workspace = true\nsqlx = \"1\"").is_empty());
    assert!(faults(&table, "molt", "[dependencies]\nmolt-cell.workspace = true\naxum = \"1\"").is_empty());
    assert!(faults(&table, "cell", "[dev-dependencies]\nmolt-store.workspace = true").is_empty());
    for (name, manifest) in [
        ("model", "[dependencies]\nmolt-store.workspace = true"),
        ("cell", "[dependencies]\nstore = { package = \"molt-store\", path = \"x\" }"),
        ("store", "[build-dependencies]\nmolt-bot.workspace = true"),
        ("store", "[target.'cfg(unix)'.dependencies]\nmolt-bot.workspace = true"),
        ("bot", "[dependencies]\naxum = \"1\""),
        ("cell", "[dev-dependencies]\nsqlx = \"1\""),
        ("molt", "[dependencies]\nreqwest = \"1\""),
        ("stranger", ""),
    ] {
        assert_eq!(faults(&table, name, manifest).len(), 1, "{name}: {manifest}");
    }
}

//! `openapi.json` in the repository says what the handlers say. `UPDATE_OPENAPI=1 cargo test -p molt-api --test openapi`
//! writes it anew.
//! Never: edited by hand.

use std::path::Path;

#[test]
fn openapi_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../openapi.json");
    let wanted = molt_api::openapi_json();
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(&path, &wanted).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == wanted, "openapi.json is stale; run: UPDATE_OPENAPI=1 cargo test -p molt-api --test openapi");
}

#[test]
fn every_operation_says_what_it_is() {
    let api: serde_json::Value = serde_json::from_str(&molt_api::openapi_json()).unwrap();
    let mut count = 0;
    let mut ids = std::collections::HashSet::new();
    for (path, item) in api["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            count += 1;
            let name = format!("{method} {path}");
            assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{name} has no summary");
            assert!(operation["tags"][0].is_string(), "{name} has no tag");
            assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{name}: the id is taken");
            let refusal = &operation["responses"]["default"]["content"]["application/problem+json"]["schema"]["$ref"];
            assert_eq!(refusal, "#/components/schemas/Problem", "{name}");
        }
    }
    assert!(count >= 30, "only {count} operations");
}

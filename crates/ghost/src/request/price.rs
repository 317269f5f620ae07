//! What in a request makes a call cost something else than its tokens at the book's prices.
//! Never: a call let through that the books couldn't hold to the nano-dollar.

use std::borrow::Cow;
use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::fields::{Fields, Name};
use crate::answer::Refusal;
use crate::surface::Surface;

/// Fields that may only say what is usual, and what that is. `null` is usual everywhere.
const USUAL: [(Name, &[&str]); 3] = [
    // "priority" and "flex" have prices of their own.
    (Name::ServiceTier, &["auto", "default", "standard", "standard_only"]),
    (Name::Speed, &["standard"]),
    (Name::InferenceGeo, &["global"]),
];
/// Fields that must not be there: searches, machines and other models that the provider would bring in for a fee, and
/// what it keeps under this installation's key, which is one key for everybody: whoever knew an id could read
/// another's words.
const ABSENT: [Name; 8] = [
    Name::WebSearchOptions,
    Name::McpServers,
    Name::Container,
    Name::Models,
    Name::Plugins,
    Name::Conversation,
    Name::PreviousResponseId,
    Name::Prompt,
];
/// Tools that the caller runs, by whole name and by beginning (those carry a date). All others run at the provider.
const CALLERS_TOOLS: [&str; 6] =
    ["function", "custom", "local_shell", "apply_patch", "computer", "computer_use_preview"];
const CALLERS_TOOLS_DATED: [&str; 4] = ["bash_", "text_editor_", "computer_", "memory_"];

/// Refuses what the price book has no price for.
pub(super) fn check(fields: &Fields<'_>, surface: Surface) -> Result<(), Refusal> {
    for (name, usual) in USUAL {
        let text: Option<Cow<'_, str>> = fields.value(name, "a text")?;
        if text.is_some_and(|text| !usual.contains(&&*text)) {
            return Err(not_priced(name.text(), "has a price of its own"));
        }
    }
    for name in ABSENT {
        if fields.given(name).is_some_and(|raw| raw.get() != "[]") {
            return Err(not_priced(name.text(), "brings in what isn't priced by tokens, or is kept at the provider"));
        }
    }
    if let Some(modalities) = fields.value::<Vec<Cow<'_, str>>>(Name::Modalities, "a list of texts")?
        && modalities.iter().any(|one| one != "text")
    {
        return Err(not_priced("modalities", "other than \"text\" have prices of their own"));
    }
    if let Some(parameters) = fields.value::<Value>(Name::VeniceParameters, "an object")? {
        venice(&parameters)?;
    }
    if let Some(Tools { others: Some(kind) }) = fields.value(Name::Tools, "a list of tools")? {
        return Err(not_priced(&format!("tools: {kind}"), "runs at the provider and has a price of its own"));
    }
    let background =
        surface == Surface::Responses && fields.value::<bool>(Name::Background, "true or false")? == Some(true);
    if background {
        let message = "An answer in the background can't be fetched here; leave \"background\" out, and stream it.";
        return Err(Refusal::invalid("background_not_available", message));
    }
    Ok(())
}

/// Searches of Venice are charged by the search.
fn venice(parameters: &Value) -> Result<(), Refusal> {
    let on = |value: &Value| !matches!(value, Value::Null | Value::Bool(false)) && value.as_str() != Some("off");
    let searches = |name: &str| name.starts_with("enable_") && (name.contains("search") || name.contains("scrap"));
    match parameters.as_object().into_iter().flatten().find(|(name, value)| searches(name) && on(value)) {
        Some((name, _)) => Err(not_priced(&format!("venice_parameters.{name}"), "has a price of its own")),
        None => Ok(()),
    }
}

fn not_priced(what: &str, why: &str) -> Refusal {
    let message =
        format!("\"{what}\" can't be used here: it {why}. Leave it out, or offer functions as tools instead.");
    Refusal::invalid("not_priced", message)
}

/// The tools of a request, as far as it matters who runs them.
struct Tools {
    /// The kind of one that doesn't run at the caller.
    others: Option<String>,
}

#[derive(Deserialize)]
struct Tool<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Option<Cow<'a, str>>,
}

impl<'de> Deserialize<'de> for Tools {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Tools;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of tools")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut tools: A) -> Result<Tools, A::Error> {
                let mut others = None;
                while let Some(tool) = tools.next_element::<Tool<'_>>()? {
                    let kind = tool.kind.as_deref().unwrap_or("custom");
                    let callers = CALLERS_TOOLS.contains(&kind)
                        || CALLERS_TOOLS_DATED.iter().any(|beginning| kind.starts_with(beginning));
                    if !callers && others.is_none() {
                        others = Some(kind.chars().take(40).collect());
                    }
                }
                Ok(Tools { others })
            }
        }
        deserializer.deserialize_seq(Reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(body: &str) -> Result<(), &'static str> {
        check(&Fields::read(body).unwrap(), Surface::Responses).map_err(|refusal| refusal.code)
    }

    #[test]
    fn what_is_not_priced_is_refused() {
        for body in [
            r#"{"service_tier":"auto","speed":null,"modalities":["text"],"background":false}"#,
            r#"{"tools":[{"type":"function"},{"name":"x"},{"type":"bash_20250124"},{"type":"custom"}],"plugins":[]}"#,
            r#"{"venice_parameters":{"enable_web_search":"off","include_venice_system_prompt":false}}"#,
            r#"{"conversation":null,"prompt":null,"mcp_servers":[]}"#,
        ] {
            assert_eq!(checked(body), Ok(()), "{body}");
        }
        for body in [
            r#"{"service_tier":"priority"}"#,
            r#"{"service_tier":"prior\u0069ty"}"#,
            r#"{"speed":"fast"}"#,
            r#"{"modalities":["text","audio"]}"#,
            r#"{"tools":[{"type":"function"},{"type":"web_search"}]}"#,
            r#"{"tools":[{"type":"web_search_20250305","name":"web_search"}]}"#,
            r#"{"web_search_options":{}}"#,
            r#"{"mcp_servers":[{}]}"#,
            r#"{"conversation":"conv_1"}"#,
            r#"{"venice_parameters":{"enable_web_search":"on"}}"#,
            r#"{"models":["a/b"]}"#,
        ] {
            assert_eq!(checked(body), Err("not_priced"), "{body}");
        }
        assert_eq!(checked(r#"{"background":true}"#), Err("background_not_available"));
        for body in [r#"{"tools":{}}"#, r#"{"tools":[3]}"#, r#"{"speed":3}"#, r#"{"tools":[{"type":"a","type":"b"}]}"#]
        {
            assert_eq!(checked(body), Err("invalid_value"), "{body}");
        }
    }
}

//! The fields of a request that matter here, as they stand in the body, found in one pass over it.
//! Never: a field that two readers could read differently; one that is there twice, or spelt in other letters, is refused.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::answer::Refusal;

/// A field at the top of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Model,
    Stream,
    StreamOptions,
    MaxTokens,
    MaxCompletionTokens,
    MaxOutputTokens,
    N,
    Messages,
    Input,
    Tools,
    Background,
    PreviousResponseId,
    Conversation,
    Prompt,
    ServiceTier,
    Speed,
    InferenceGeo,
    Modalities,
    WebSearchOptions,
    McpServers,
    Container,
    Models,
    Plugins,
    VeniceParameters,
}

impl Name {
    const ALL: [Self; 24] = [
        Self::Model,
        Self::Stream,
        Self::StreamOptions,
        Self::MaxTokens,
        Self::MaxCompletionTokens,
        Self::MaxOutputTokens,
        Self::N,
        Self::Messages,
        Self::Input,
        Self::Tools,
        Self::Background,
        Self::PreviousResponseId,
        Self::Conversation,
        Self::Prompt,
        Self::ServiceTier,
        Self::Speed,
        Self::InferenceGeo,
        Self::Modalities,
        Self::WebSearchOptions,
        Self::McpServers,
        Self::Container,
        Self::Models,
        Self::Plugins,
        Self::VeniceParameters,
    ];

    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Stream => "stream",
            Self::StreamOptions => "stream_options",
            Self::MaxTokens => "max_tokens",
            Self::MaxCompletionTokens => "max_completion_tokens",
            Self::MaxOutputTokens => "max_output_tokens",
            Self::N => "n",
            Self::Messages => "messages",
            Self::Input => "input",
            Self::Tools => "tools",
            Self::Background => "background",
            Self::PreviousResponseId => "previous_response_id",
            Self::Conversation => "conversation",
            Self::Prompt => "prompt",
            Self::ServiceTier => "service_tier",
            Self::Speed => "speed",
            Self::InferenceGeo => "inference_geo",
            Self::Modalities => "modalities",
            Self::WebSearchOptions => "web_search_options",
            Self::McpServers => "mcp_servers",
            Self::Container => "container",
            Self::Models => "models",
            Self::Plugins => "plugins",
            Self::VeniceParameters => "venice_parameters",
        }
    }
}

/// What stands where. Borrowed from the body.
#[derive(Debug, Default)]
pub(super) struct Fields<'a>([Option<&'a RawValue>; Name::ALL.len()]);

impl<'a> Fields<'a> {
    pub(super) fn read(body: &'a str) -> Result<Self, Refusal> {
        serde_json::from_str(body)
            .map_err(|error| Refusal::invalid("invalid_json", format!("The body isn't a valid request: {error}.")))
    }

    /// `null` as well.
    pub(super) fn raw(&self, name: Name) -> Option<&'a RawValue> {
        self.0[name as usize]
    }

    /// `None`: absent or `null`.
    pub(super) fn given(&self, name: Name) -> Option<&'a RawValue> {
        self.raw(name).filter(|raw| raw.get() != "null")
    }

    /// The value; `expected` completes "… must be".
    pub(super) fn value<T: Deserialize<'a>>(&self, name: Name, expected: &str) -> Result<Option<T>, Refusal> {
        let Some(raw) = self.given(name) else { return Ok(None) };
        serde_json::from_str(raw.get())
            .map(Some)
            .map_err(|_| Refusal::invalid("invalid_value", format!("\"{}\" must be {expected}.", name.text())))
    }
}

/// A field's name, or one that doesn't matter.
struct Key(Option<Name>);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field's name")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Key, E> {
                let Some(name) = Name::ALL.into_iter().find(|name| folded(text).eq_ignore_ascii_case(name.text()))
                else {
                    return Ok(Key(None));
                };
                if text != name.text() {
                    return Err(E::custom(format_args!("a field must be spelt \"{}\"", name.text())));
                }
                Ok(Key(Some(name)))
            }
        }
        deserializer.deserialize_str(Reader)
    }
}

/// Some readers take letters of other alphabets for ours when they compare without case (the Kelvin sign, the long s).
fn folded(text: &str) -> Cow<'_, str> {
    if text.is_ascii() { Cow::Borrowed(text) } else { Cow::Owned(text.to_lowercase().to_uppercase()) }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Fields::default();
                while let Some(Key(key)) = map.next_key()? {
                    let Some(name) = key else {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    };
                    let twice = fields.0[name as usize].replace(map.next_value()?).is_some();
                    if twice {
                        return Err(A::Error::custom(format_args!("the field \"{}\" is there twice", name.text())));
                    }
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_its_place() {
        for (place, name) in Name::ALL.into_iter().enumerate() {
            assert_eq!(name as usize, place, "{}", name.text());
            let body = format!("{{\"other\": {{}}, \"{}\" : [1] }}", name.text());
            let fields = Fields::read(&body).unwrap();
            assert_eq!(fields.raw(name).unwrap().get(), "[1]");
            assert_eq!(fields.0.iter().flatten().count(), 1);
        }
    }

    #[test]
    fn a_second_reading_is_refused() {
        for body in [
            r#"{"model":"a","model":"b"}"#,
            r#"{"model":"a","mod\u0065l":"b"}"#,
            r#"{"model":"a","Model":"b"}"#,
            r#"{"MAX_TOKENS":1}"#,
            "{\"max_to\u{212a}ens\":1}",
            "{\"\u{17f}tream\":true}",
        ] {
            assert_eq!(Fields::read(body).unwrap_err().code, "invalid_json", "{body}");
        }
        assert!(Fields::read("{\"é\":1,\"x\":2,\"x\":3}").is_ok());
    }
}

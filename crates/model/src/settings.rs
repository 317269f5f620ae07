//! What a person sets about their assistant, and what makes it valid.
//! Never: anything of the runtime's own configuration format; `bot::render` makes that.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::catalog::Catalog;

/// The whole settings of a bot, as `POST /api/bots/:id/config` takes them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub bot_name: String,
    pub personality: Personality,
    /// An IANA name, such as `Europe/Berlin`.
    pub timezone: String,
    /// `provider/model`, one of `GET /api/models`.
    pub default_model: String,
    pub fallback_model: Option<String>,
    pub notifications: Notifications,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Personality {
    #[default]
    Friendly,
    Professional,
    Concise,
    Playful,
}

impl Personality {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Friendly => "friendly",
            Self::Professional => "professional",
            Self::Concise => "concise",
            Self::Playful => "playful",
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Notifications {
    pub email: bool,
    pub push: bool,
    /// `HH:MM` in the bot's time zone; none: no summary.
    pub daily_summary_at: Option<String>,
}

/// Longer names break headers and mails.
pub const BOT_NAME_CHARACTERS_MAX: usize = 40;

/// A field that two settings don't have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// In the words of the app.
    pub field: &'static str,
    pub from: String,
    pub to: String,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} → {}", self.field, self.from, self.to)
    }
}

/// The settings, as the app calls them.
const FIELDS: [&str; 8] =
    ["name", "personality", "time zone", "default model", "fallback model", "mails", "push messages", "daily summary"];

/// What is wrong with settings: the field's path and a sentence that says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct InvalidSettings {
    pub field: &'static str,
    pub problem: String,
}

impl Settings {
    /// The settings of a new bot.
    #[must_use]
    pub fn new(bot_name: String, personality: Personality, timezone: String, catalog: &Catalog) -> Self {
        Self {
            bot_name,
            personality,
            timezone,
            default_model: catalog.default_model.clone(),
            fallback_model: None,
            notifications: Notifications { email: true, push: false, daily_summary_at: None },
        }
    }

    /// Every field in which `next` differs, in words that its owner knows.
    #[must_use]
    pub fn changes(&self, next: &Self) -> Vec<Change> {
        let pairs = FIELDS.into_iter().zip(self.words().into_iter().zip(next.words()));
        let changed = pairs.filter(|(_, (from, to))| from != to);
        changed.map(|(field, (from, to))| Change { field, from, to }).collect()
    }

    /// What each of `FIELDS` says.
    fn words(&self) -> [String; 8] {
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
        let on_or_off = |on: bool| if on { "on" } else { "off" }.to_owned();
        [
            self.bot_name.clone(),
            self.personality.as_str().to_owned(),
            self.timezone.clone(),
            self.default_model.clone(),
            or_none(&self.fallback_model),
            on_or_off(self.notifications.email),
            on_or_off(self.notifications.push),
            or_none(&self.notifications.daily_summary_at),
        ]
    }

    /// Checks every field; the first fault found is returned.
    pub fn validate(&self, catalog: &Catalog) -> Result<(), InvalidSettings> {
        validate_bot_name(&self.bot_name)?;
        validate_timezone(&self.timezone)?;
        validate_model("default_model", &self.default_model, catalog)?;
        if let Some(fallback) = &self.fallback_model {
            validate_model("fallback_model", fallback, catalog)?;
        }
        match &self.notifications.daily_summary_at {
            Some(at) if !is_time_of_day(at) => Err(InvalidSettings {
                field: "notifications.daily_summary_at",
                problem: "write the time as HH:MM, such as \"09:00\", or leave it empty".to_owned(),
            }),
            _ => Ok(()),
        }
    }
}

/// One to forty characters, none of them a control character, and not only spaces.
pub fn validate_bot_name(name: &str) -> Result<(), InvalidSettings> {
    let count = name.chars().count();
    let fits = (1..=BOT_NAME_CHARACTERS_MAX).contains(&count) && !name.trim().is_empty();
    if fits && !name.chars().any(char::is_control) {
        return Ok(());
    }
    let problem = format!("give the assistant a name of 1 to {BOT_NAME_CHARACTERS_MAX} characters");
    Err(InvalidSettings { field: "bot_name", problem })
}

/// An IANA time zone name that this build knows.
pub fn validate_timezone(timezone: &str) -> Result<(), InvalidSettings> {
    if timezone.parse::<chrono_tz::Tz>().is_ok() {
        return Ok(());
    }
    let problem = "choose a time zone by its IANA name, such as \"Europe/Berlin\" or \"UTC\"".to_owned();
    Err(InvalidSettings { field: "timezone", problem })
}

fn validate_model(field: &'static str, id: &str, catalog: &Catalog) -> Result<(), InvalidSettings> {
    if catalog.find(id).is_some_and(|model| !model.embedding) {
        return Ok(());
    }
    Err(InvalidSettings { field, problem: "choose one of the models that GET /api/models lists".to_owned() })
}

fn is_time_of_day(text: &str) -> bool {
    let bytes = text.as_bytes();
    let number =
        |at: usize| Some(u32::from(bytes[at].checked_sub(b'0')?) * 10 + u32::from(bytes[at + 1].checked_sub(b'0')?));
    text.is_ascii()
        && bytes.len() == 5
        && bytes[2] == b':'
        && [0, 1, 3, 4].iter().all(|&at| bytes[at].is_ascii_digit())
        && number(0).is_some_and(|hours| hours < 24)
        && number(3).is_some_and(|minutes| minutes < 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_day() {
        for good in ["00:00", "09:05", "23:59"] {
            assert!(is_time_of_day(good), "{good}");
        }
        for wrong in ["", "9:00", "24:00", "12:60", "1200", "ab:cd", "12:00 ", "١٢:٠٠"] {
            assert!(!is_time_of_day(wrong), "{wrong}");
        }
    }

    #[test]
    fn changes_are_named_field_by_field() {
        let before = Settings {
            bot_name: "Pip".into(),
            personality: Personality::Friendly,
            timezone: "UTC".into(),
            default_model: "a/one".into(),
            fallback_model: None,
            notifications: Notifications { email: true, push: false, daily_summary_at: None },
        };
        assert!(before.changes(&before).is_empty());
        let after = Settings {
            bot_name: "Pop".into(),
            personality: Personality::Concise,
            timezone: "Europe/Berlin".into(),
            default_model: "b/two".into(),
            fallback_model: Some("a/one".into()),
            notifications: Notifications { email: false, push: true, daily_summary_at: Some("09:00".into()) },
        };
        let told: Vec<String> = before.changes(&after).iter().map(Change::to_string).collect();
        assert_eq!(
            told,
            [
                "name: Pip → Pop",
                "personality: friendly → concise",
                "time zone: UTC → Europe/Berlin",
                "default model: a/one → b/two",
                "fallback model: none → a/one",
                "mails: on → off",
                "push messages: off → on",
                "daily summary: none → 09:00",
            ]
        );
    }

    #[test]
    fn names_and_zones() {
        assert!(validate_bot_name("Pip 🦞").is_ok());
        for wrong in ["", "   ", "a\nb", &"x".repeat(41)] {
            assert!(validate_bot_name(wrong).is_err(), "{wrong:?}");
        }
        assert!(validate_timezone("America/Los_Angeles").is_ok());
        assert!(validate_timezone("Mars/Olympus").is_err());
    }
}

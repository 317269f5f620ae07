//! What a person can notice: one row each, read by every live stream.
//! Never: secrets, prompts of others, or anything a stream's reader may not see.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::id::{BotId, ConversationId, RunId};

/// The kinds of events. The word is part of the API (`GET /api/events`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    #[serde(rename = "bot.created")]
    BotCreated,
    /// Status, phase, steps or reason changed: read the bot again.
    #[serde(rename = "bot.changed")]
    BotChanged,
    #[serde(rename = "bot.running")]
    BotRunning,
    #[serde(rename = "bot.applied")]
    BotApplied,
    /// A change of the settings kept it from coming up and was undone: `changes` says which, `revision` is the new one.
    #[serde(rename = "bot.settings_undone")]
    BotSettingsUndone,
    #[serde(rename = "bot.deleted")]
    BotDeleted,
    /// Its use looks unusual, or does no more: `caution` says what follows.
    #[serde(rename = "bot.usage_unusual")]
    BotUsageUnusual,
    /// It wanted to reach a domain that nobody allowed, for the first time.
    #[serde(rename = "bot.egress_refused")]
    BotEgressRefused,
    /// Its owner allowed a domain, took one back, or put a refusal aside.
    #[serde(rename = "bot.egress_changed")]
    BotEgressChanged,
    #[serde(rename = "plan.changed")]
    PlanChanged,
    #[serde(rename = "cap.changed")]
    CapChanged,
    /// A Ghost Key was capped, paused, resumed or revoked.
    #[serde(rename = "key.changed")]
    KeyChanged,
    #[serde(rename = "conversation.changed")]
    ConversationChanged,
    /// A model call was settled outside a chat turn.
    #[serde(rename = "usage")]
    Usage,
    /// A finished frame of a chat (it has a `seq`).
    #[serde(rename = "chat")]
    Chat,
}

impl EventKind {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BotCreated => "bot.created",
            Self::BotChanged => "bot.changed",
            Self::BotRunning => "bot.running",
            Self::BotApplied => "bot.applied",
            Self::BotSettingsUndone => "bot.settings_undone",
            Self::BotDeleted => "bot.deleted",
            Self::BotUsageUnusual => "bot.usage_unusual",
            Self::BotEgressRefused => "bot.egress_refused",
            Self::BotEgressChanged => "bot.egress_changed",
            Self::PlanChanged => "plan.changed",
            Self::CapChanged => "cap.changed",
            Self::KeyChanged => "key.changed",
            Self::ConversationChanged => "conversation.changed",
            Self::Usage => "usage",
            Self::Chat => "chat",
        }
    }
}

/// An event about to be written. The row's id (per user) and `seq` (per bot, chat only) are given by the database.
#[derive(Clone, Debug)]
pub struct Event {
    pub kind: EventKind,
    pub bot: Option<BotId>,
    pub conversation: Option<ConversationId>,
    pub run: Option<RunId>,
    /// For `Chat`: the browser's frame without `seq` and `at`. For the others: what changed, as ids and words.
    pub body: Value,
}

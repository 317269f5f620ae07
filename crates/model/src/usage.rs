//! What a model call used, as the provider counted it.
//! Never: guess silently; an estimate says so and why (`Estimate`).

use serde::{Deserialize, Serialize};

/// Token counts of one call. `input` includes `cache_read`; `output` includes `reasoning`
/// (the OpenAI convention; adapters of other providers convert to it).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenUsage {
    pub input: i64,
    pub output: i64,
    #[serde(default)]
    pub cache_read: i64,
    #[serde(default)]
    pub cache_write: i64,
    #[serde(default)]
    pub reasoning: i64,
}

/// Why a usage row isn't the provider's own figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Estimate {
    /// The caller hung up and the provider's figure did not come in time.
    HungUp,
    /// The provider's stream ended without its figure.
    ProviderCut,
    /// The proxy died during the call and settled it after its restart.
    ProxyRestarted,
    /// The provider answered in full but reported no usage.
    NotReported,
}

impl Estimate {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HungUp => "hung_up",
            Self::ProviderCut => "provider_cut",
            Self::ProxyRestarted => "proxy_restarted",
            Self::NotReported => "not_reported",
        }
    }
}

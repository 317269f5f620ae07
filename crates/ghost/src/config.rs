//! What an operator sets about the proxy. Read and checked by the binary; this is only its shape.
//! Never: an environment variable or a file read here.

use std::path::PathBuf;
use std::time::Duration;

use molt_model::{CatalogInForce, Nanos};
use serde::Deserialize;
use url::Url;

use crate::admission::limits::Limits;
use crate::upstream::MasterKey;

/// Everything that the proxy is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    pub providers: Vec<ProviderConfig>,
    /// Prices change while the proxy runs; each call holds the ones that it began with. Whoever puts a catalogue in force
    /// has its price book in the database before, as every row names its book.
    pub catalog: CatalogInForce,
    /// The journal lives in `<data_dir>/ghost`.
    pub data_dir: PathBuf,
    /// Where people reach this installation; notices link to pages below it.
    pub public_url: Url,
    /// The most that one person may spend in a period, whatever they set themselves.
    pub monthly_cap_nanos: Nanos,
    /// How fast and how much at once.
    pub limits: Limits,
    /// Whether bots that run in circles are noticed. Without it the steps that are in force already still hold.
    pub watch: bool,
    /// Where bots may go besides their models.
    pub egress: crate::egress::Config,
    /// Where spans of calls go, over OTLP/HTTP; none: none are made.
    pub otlp_endpoint: Option<Url>,
    /// The pause after each word of the practice model. People read along at 20 to 30 ms; tests use zero.
    pub practice_pace: Duration,
}

impl Config {
    /// The practice model's pace where nobody chose another.
    pub const PRACTICE_PACE: Duration = Duration::from_millis(24);
}

/// One place where models run. `name` is the first part of every `provider/model`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderConfig {
    pub name: String,
    pub kind: ProviderKind,
    /// Up to and without `/chat/completions`, such as `https://api.openai.com/v1`. Not for the practice model.
    #[serde(default)]
    pub base_url: Option<Url>,
    /// Each gets its share of the calls. None: the provider wants no key.
    #[serde(default)]
    pub api_keys: Vec<MasterKey>,
    /// More of them, one a line with its weight behind it; read again whenever it changes.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProviderKind {
    /// Any address that speaks OpenAI's API: OpenAI, Venice, Ollama, llama.cpp.
    #[serde(rename = "openai")]
    OpenAi,
    /// Anthropic's API: messages, the count of tokens, and chat completions in OpenAI's shape.
    Anthropic,
    /// The built-in practice model: no network, deterministic.
    Practice,
}

//! Where bots may go, as `molt.toml` writes it.
//! Never: judged here; `molt_model::egress` knows what an entry is.

use std::collections::BTreeMap;

use serde::Deserialize;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    pub(super) allow: Vec<String>,
    pub(super) quiet: Vec<String>,
    /// Name, with a port or without, to address and port.
    pub(super) private: BTreeMap<String, String>,
}

//! What an operator decides about the front door.
//! Never: read from the environment here; `molt` builds it once at start.

use std::collections::BTreeMap;

use molt_model::Nanos;
use molt_model::egress::{Entry, Rules};
use url::{Host, Url};

/// Settings of the API, checked by `validate`.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where people reach this installation, such as `https://molt.example`.
    pub public_url: Url,
    /// Other origins (`scheme://host[:port]`) whose pages may call the API and open the chat's WebSocket.
    pub origins: Vec<String>,
    /// Assistants that one person may have at a time.
    pub bots_per_user: u32,
    /// The most that one person may spend in a period; a person can set a lower cap of their own.
    pub monthly_cap: Nanos,
    /// The price of the plan each month, which `GET /api/billing/usage` names as `base_usd`.
    pub plan_price: Nanos,
    /// Where assistants may go besides their models, the same as the proxies are told.
    pub egress: Egress,
}

/// The part of a way out that people don't decide.
#[derive(Clone, Debug, Default)]
pub struct Egress {
    pub rules: Rules,
    /// By skill: where it must be able to go.
    pub skills: BTreeMap<String, Vec<Entry>>,
}

/// The plan's price in the product's specification.
const PLAN_PRICE_DOLLARS: i64 = 50;
/// Enough for one person's several lives, few enough that one account can't fill a machine.
const BOTS_PER_USER: u32 = 3;
const MONTHLY_CAP_DOLLARS: i64 = 100;

impl Config {
    /// The defaults for an installation that is reached at `public_url`.
    #[must_use]
    pub fn new(public_url: Url) -> Self {
        Self {
            public_url,
            origins: Vec::new(),
            bots_per_user: BOTS_PER_USER,
            monthly_cap: Nanos::dollars(MONTHLY_CAP_DOLLARS),
            plan_price: Nanos::dollars(PLAN_PRICE_DOLLARS),
            egress: Egress::default(),
        }
    }

    /// Every fault as a sentence; none: the settings can be used.
    #[must_use]
    pub fn validate(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if !matches!(self.public_url.scheme(), "http" | "https") || self.public_url.host_str().is_none() {
            faults.push("public_url: write the address with http:// or https:// and a host".to_owned());
        }
        for origin in &self.origins {
            if !is_origin(origin) {
                faults.push(format!("origins: \"{origin}\" isn't an origin; write it as https://app.example"));
            }
        }
        if self.monthly_cap < Nanos::ZERO {
            faults.push("monthly_cap: the cap can't be below zero".to_owned());
        }
        if self.bots_per_user == 0 {
            faults.push("bots_per_user: allow at least one assistant".to_owned());
        }
        faults
    }

    /// Whether a page of this origin may use the API: our own, or one that the operator named. On a loopback address
    /// every name of this machine is our own, because people type `localhost` for `127.0.0.1`.
    #[must_use]
    pub fn allows_origin(&self, origin: &str) -> bool {
        if origin == self.public_url.origin().ascii_serialization() || self.origins.iter().any(|named| named == origin)
        {
            return true;
        }
        let Ok(url) = Url::parse(origin) else { return false };
        is_loopback(&self.public_url)
            && is_loopback(&url)
            && url.origin().ascii_serialization() == origin
            && url.scheme() == self.public_url.scheme()
            && url.port_or_known_default() == self.public_url.port_or_known_default()
    }

    /// `path` (with its leading slash) as an absolute address of this installation.
    #[must_use]
    pub fn address(&self, path: &str) -> String {
        format!("{}{path}", self.public_url.as_str().trim_end_matches('/'))
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn is_origin(text: &str) -> bool {
    Url::parse(text)
        .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.origin().ascii_serialization() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_and_named_origins() {
        let mut config = Config::new("http://127.0.0.1:8787".parse().unwrap());
        config.origins.push("https://app.example".to_owned());
        assert!(config.validate().is_empty());
        for (origin, allowed) in [
            ("http://127.0.0.1:8787", true),
            ("https://app.example", true),
            ("http://127.0.0.1:8788", false),
            ("http://localhost:8787", true),
            ("http://[::1]:8787", true),
            ("https://localhost:8787", false),
            ("http://localhost:8787.evil.example", false),
            ("https://app.example.evil.example", false),
            ("null", false),
            ("", false),
        ] {
            assert_eq!(config.allows_origin(origin), allowed, "{origin}");
        }
        config.origins = vec!["https://app.example/".to_owned(), "*".to_owned()];
        config.bots_per_user = 0;
        assert_eq!(config.validate().len(), 3);
        assert_eq!(config.address("/app/plan"), "http://127.0.0.1:8787/app/plan");
    }
}

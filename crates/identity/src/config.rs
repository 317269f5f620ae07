//! What an operator decides about who may come in.
//! Never: a combination that gives strangers the operator's keys by accident.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Who may make an account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SignUp {
    /// Anybody who reaches the page. Only where nobody else does: on this machine.
    Open,
    /// Whoever has an invitation (`molt invite`).
    #[default]
    Invite,
    Closed,
}

impl SignUp {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Invite => "invite",
            Self::Closed => "closed",
        }
    }
}

/// Settings of the built-in identity.
#[derive(Clone, Debug, Default)]
pub struct Config {
    pub signup: SignUp,
    /// Whether people reach this installation by https: the cookie is then sent over https only.
    pub https: bool,
    /// Where people reach this installation, without a trailing slash: magic links lead there.
    pub public_url: String,
}

impl Config {
    /// Every fault as a sentence, for a program that listens on `listen`; none: the settings can be used.
    #[must_use]
    pub fn validate(&self, listen: IpAddr) -> Vec<String> {
        let mut faults = Vec::new();
        if self.signup == SignUp::Open && !listen.is_loopback() {
            faults.push(format!(
                "signup: \"open\" would let anybody who reaches {listen} spend your model keys; \
                 choose \"invite\" or \"closed\", or listen on 127.0.0.1"
            ));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_sign_up_only_on_this_machine() {
        let config = |signup| Config { signup, https: false, public_url: "http://127.0.0.1:8787".to_owned() };
        for (signup, listen, faults) in [
            (SignUp::Open, "127.0.0.1", 0),
            (SignUp::Open, "::1", 0),
            (SignUp::Open, "0.0.0.0", 1),
            (SignUp::Open, "192.168.1.5", 1),
            (SignUp::Invite, "0.0.0.0", 0),
            (SignUp::Closed, "0.0.0.0", 0),
        ] {
            assert_eq!(config(signup).validate(listen.parse().unwrap()).len(), faults, "{signup:?} {listen}");
        }
    }
}

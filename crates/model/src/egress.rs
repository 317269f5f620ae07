//! Where a bot's programs may go: names in their one canonical form, the operator's list, and why a way out is refused.
//! Never: a name in two spellings, or an entry that lets a bot onto the operator's own network by accident.

mod address;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use url::Host;
use utoipa::ToSchema;

pub use address::{is_public, may_be_named};

/// What an entry that names no port stands for.
pub const USUAL_PORTS: [u16; 2] = [80, 443];
/// Of a name, without the dot at its end (RFC 1035).
const NAME_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;
/// Endings that mean a network of somebody's own, or nothing at all, to the world's name servers.
const PRIVATE_ENDINGS: [&str; 13] = [
    "localhost",
    "local",
    "localdomain",
    "internal",
    "intranet",
    "private",
    "corp",
    "home",
    "lan",
    "home.arpa",
    "onion",
    "invalid",
    "test",
];

/// A domain name as name servers, certificates and our tables spell it: lower case, ASCII (IDNA), no dot at the end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Domain(String);

/// Why a text is no entry of a list. The words finish a sentence that begins with the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPlace {
    #[error("isn't a domain name such as example.org")]
    NotADomain,
    #[error("is an address; name the domain")]
    Address,
    #[error("has a port that isn't a number from 1 to 65535")]
    Port,
    #[error("takes in too much: a pattern needs two parts behind its star, such as *.example.org")]
    TooWide,
    #[error("is an address of a private or special network; give it a name under [egress.private]")]
    PrivateAddress,
}

impl Domain {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Only somebody's own network knows such a name: it has one part, or an ending that the world doesn't serve.
    #[must_use]
    pub fn is_private(&self) -> bool {
        let ends =
            |ending: &str| self.0.strip_suffix(ending).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        !self.0.contains('.') || PRIVATE_ENDINGS.iter().any(|ending| ends(ending))
    }
}

impl FromStr for Domain {
    type Err = InvalidPlace;

    fn from_str(text: &str) -> Result<Self, InvalidPlace> {
        match place(text)? {
            Place::Domain(domain) => Ok(domain),
            Place::Address(_) => Err(InvalidPlace::Address),
        }
    }
}

impl TryFrom<String> for Domain {
    type Error = InvalidPlace;

    fn try_from(text: String) -> Result<Self, InvalidPlace> {
        text.parse()
    }
}

impl From<Domain> for String {
    fn from(domain: Domain) -> Self {
        domain.0
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What stands before the port of a way out, in the form that it is compared and written down in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    Domain(Domain),
    Address(IpAddr),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Domain(domain) => domain.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// Reads a host in any spelling: capitals, other alphabets, an address in brackets, octal or as one number.
pub fn place(text: &str) -> Result<Place, InvalidPlace> {
    if text.len() > 4 * NAME_BYTES_MAX {
        return Err(InvalidPlace::NotADomain);
    }
    // A bare IPv6 address, which a URL puts into brackets.
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Place::Address(address));
    }
    match Host::parse(text).map_err(|_| InvalidPlace::NotADomain)? {
        Host::Ipv4(address) => Ok(Place::Address(address.into())),
        Host::Ipv6(address) => Ok(Place::Address(address.into())),
        Host::Domain(name) => {
            let name = name.strip_suffix('.').unwrap_or(&name);
            let good = name.len() <= NAME_BYTES_MAX && name.split('.').all(is_label);
            if good { Ok(Place::Domain(Domain(name.to_owned()))) } else { Err(InvalidPlace::NotADomain) }
        }
    }
}

fn is_label(label: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    (1..=LABEL_BYTES_MAX).contains(&label.len())
        && label.bytes().all(plain)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// One line of a list: `example.org`, `*.example.org` (what lies below it, not itself), or a public address; with a port
/// only that one, without one 80 and 443.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Entry {
    what: What,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Exactly(Domain),
    Below(Domain),
    Address(IpAddr),
}

impl Entry {
    /// This name, at the usual ports.
    #[must_use]
    pub fn exactly(domain: Domain) -> Self {
        Self { what: What::Exactly(domain), port: None }
    }

    #[must_use]
    pub fn names(&self, place: &Place) -> bool {
        match (&self.what, place) {
            (What::Exactly(domain), Place::Domain(asked)) => domain == asked,
            (What::Below(domain), Place::Domain(asked)) => {
                asked.0.strip_suffix(&domain.0).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }
            (What::Address(address), Place::Address(asked)) => address == asked,
            _ => false,
        }
    }

    #[must_use]
    pub fn takes_port(&self, port: u16) -> bool {
        self.port.map_or(USUAL_PORTS.contains(&port), |only| only == port)
    }

    /// It names its port itself.
    #[must_use]
    pub const fn has_port(&self) -> bool {
        self.port.is_some()
    }
}

impl FromStr for Entry {
    type Err = InvalidPlace;

    fn from_str(text: &str) -> Result<Self, InvalidPlace> {
        let (host, port) = split_port(text)?;
        if let Some(below) = host.strip_prefix("*.") {
            let domain: Domain = below.parse()?;
            if !domain.0.contains('.') {
                return Err(InvalidPlace::TooWide);
            }
            return Ok(Self { what: What::Below(domain), port });
        }
        let what = match place(host)? {
            Place::Domain(domain) => What::Exactly(domain),
            Place::Address(address) if is_public(address) => What::Address(address),
            Place::Address(_) => return Err(InvalidPlace::PrivateAddress),
        };
        Ok(Self { what, port })
    }
}

impl TryFrom<String> for Entry {
    type Error = InvalidPlace;

    fn try_from(text: String) -> Result<Self, InvalidPlace> {
        text.parse()
    }
}

impl From<Entry> for String {
    fn from(entry: Entry) -> Self {
        entry.to_string()
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Exactly(domain) => domain.fmt(f)?,
            What::Below(domain) => write!(f, "*.{domain}")?,
            What::Address(IpAddr::V6(address)) if self.port.is_some() => write!(f, "[{address}]")?,
            What::Address(address) => address.fmt(f)?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// `host:port` or `host`; a bare IPv6 address has colons and no port.
fn split_port(text: &str) -> Result<(&str, Option<u16>), InvalidPlace> {
    if text.parse::<IpAddr>().is_ok() {
        return Ok((text, None));
    }
    match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => match port.parse() {
            Ok(port) if port > 0 => Ok((host, Some(port))),
            _ => Err(InvalidPlace::Port),
        },
        _ => Ok((text, None)),
    }
}

/// What the operator decides about ways out, for every bot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Where every bot may go.
    pub allow: Vec<Entry>,
    /// What the runtime tries by itself: refused like any other place, and nobody is asked about it.
    pub quiet: Vec<Entry>,
    /// Services of the operator's own network: the name and port that is asked for, and the one address that is meant. It
    /// lets nobody in by itself: the name must be allowed as well.
    pub private: BTreeMap<(Domain, u16), SocketAddr>,
}

impl Rules {
    /// Takes the settings as they are written; every fault is a sentence.
    pub fn read(allow: &[String], quiet: &[String], private: &BTreeMap<String, String>) -> Result<Self, Vec<String>> {
        let (mut rules, mut faults) = (Self::default(), Vec::new());
        for (name, texts, entries) in [("allow", allow, &mut rules.allow), ("quiet", quiet, &mut rules.quiet)] {
            for text in texts {
                match text.parse() {
                    Ok(entry) => entries.push(entry),
                    Err(error) => faults.push(format!("egress.{name}: \"{text}\" {error}")),
                }
            }
        }
        for (name, address) in private {
            match private_service(name, address) {
                Ok((key, address)) => drop(rules.private.insert(key, address)),
                Err(problem) => faults.push(format!("egress.private: {problem}")),
            }
        }
        if faults.is_empty() { Ok(rules) } else { Err(faults) }
    }

    /// Where the operator says that this is, instead of a name server.
    #[must_use]
    pub fn private_address(&self, place: &Place, port: u16) -> Option<SocketAddr> {
        match place {
            Place::Domain(domain) => self.private.get(&(domain.clone(), port)).copied(),
            Place::Address(_) => None,
        }
    }

    /// The operator gave this name an address.
    #[must_use]
    pub fn is_private_service(&self, domain: &Domain) -> bool {
        self.private.keys().any(|(name, _)| name == domain)
    }

    /// Nobody is asked about a refusal of this place.
    #[must_use]
    pub fn is_quiet(&self, place: &Place, port: u16) -> bool {
        self.quiet.iter().any(|entry| entry.names(place) && entry.takes_port(port))
    }

    /// A bot's owner may allow this name: the world's name servers know it, or the operator says where it is.
    #[must_use]
    pub fn may_be_allowed(&self, domain: &Domain) -> bool {
        !domain.is_private() || self.is_private_service(domain)
    }

    /// Why a bot that has `own` entries besides the operator's may not go there; `None`: it may.
    #[must_use]
    pub fn refusal(&self, own: &[Entry], place: &Place, port: u16) -> Option<Reason> {
        let entries = || self.allow.iter().chain(own).filter(|entry| entry.names(place));
        let named = self.private_address(place, port).is_some();
        if entries().any(|entry| entry.takes_port(port) || (named && !entry.has_port())) {
            return None;
        }
        Some(match place {
            Place::Address(_) => Reason::Address,
            Place::Domain(_) if named || USUAL_PORTS.contains(&port) && entries().next().is_none() => Reason::NotListed,
            Place::Domain(_) => Reason::Port,
        })
    }
}

fn private_service(name: &str, address: &str) -> Result<((Domain, u16), SocketAddr), String> {
    let meant: SocketAddr =
        address.parse().map_err(|_| format!("\"{address}\" isn't an address and a port such as 192.168.1.20:8080"))?;
    if !may_be_named(meant.ip()) || meant.port() == 0 {
        return Err(format!("\"{address}\" can't be reached by anybody; name the service's own address and port"));
    }
    let (host, port) = split_port(name).map_err(|error| format!("\"{name}\" {error}"))?;
    let domain = host.parse().map_err(|error| format!("\"{name}\" {error}"))?;
    Ok(((domain, port.unwrap_or(meant.port())), meant))
}

/// Why a way out was refused. The words are part of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Nobody allowed this name.
    NotListed,
    /// The name may be allowed; this port isn't.
    Port,
    /// An address instead of a name.
    Address,
    /// The name leads into a private or special network.
    PrivateAddress,
    /// On the way, another name was asked for than was allowed.
    OtherName,
    /// On the way, no name was asked for.
    NoName,
}

impl Reason {
    pub const ALL: [Self; 6] =
        [Self::NotListed, Self::Port, Self::Address, Self::PrivateAddress, Self::OtherName, Self::NoName];

    /// The word used in the database and on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotListed => "not_listed",
            Self::Port => "port",
            Self::Address => "address",
            Self::PrivateAddress => "private_address",
            Self::OtherName => "other_name",
            Self::NoName => "no_name",
        }
    }
}

impl FromStr for Reason {
    type Err = crate::bot::UnknownWord;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text).ok_or(crate::bot::UnknownWord)
    }
}

#[cfg(test)]
mod tests;

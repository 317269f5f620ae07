//! What the operator decided: defaults built in, then `molt.toml`, then MOLT_* in the environment, then the command line.
//! Never: a half-configured part, a second reading, or a secret in a file of settings. All faults come in one message.

mod egress;
mod fleet;
mod keys;
mod models;
mod written;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use molt_fleet::FlySettings;
use molt_identity::SignUp;
use molt_model::egress::Rules;
use molt_model::{Catalog, Nanos};
use molt_store::{NoKeys, SealRing};
use secrecy::SecretString;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use url::Url;

pub use fleet::{Cells, Seal};
pub use keys::KeySource;
pub use models::{Offer, Provider, ProviderKind};

use crate::hosts::HostKind;
use crate::prices::list::PriceList;

/// The reference: every setting, its default and a sentence.
const DEFAULTS: &str = include_str!("../../../molt.default.toml");
/// Looked for in the folder where the program starts.
const FILE: &str = "molt.toml";

/// What the command line says, over everything else.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    pub file: Option<PathBuf>,
    pub listen: Option<SocketAddr>,
    pub data_dir: Option<PathBuf>,
    pub host: Option<HostKind>,
    /// This process is a proxy, so the providers' keys are read, and those that must be there must be.
    pub holds_keys: bool,
    /// This process keeps cells, so what their host asks for is read.
    pub keeps_cells: bool,
}

/// Everything wrong with the settings, a line each.
#[derive(Debug, thiserror::Error)]
#[error("the settings can't be used:\n{}", .0.iter().map(|fault| format!("  - {fault}")).collect::<Vec<_>>().join("\n"))]
pub struct Faults(pub Vec<String>);

/// What supervises and what runs a bot.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Runtime {
    /// Empty: OpenClaw, installed by `install`.
    pub command: Vec<String>,
    /// Empty: `molt-cell` beside this program.
    pub cell: PathBuf,
}

/// The settings in force. Checked: whoever holds one can start.
#[derive(Clone, Debug)]
pub struct Config {
    pub listen: SocketAddr,
    pub operator_listen: SocketAddr,
    /// As the operator wrote it; empty: `http://` and the address that is really bound.
    pub public_url: Option<Url>,
    /// Where cells send model calls; empty: the listener's own `/v1`.
    pub proxy_url: Option<Url>,
    pub data_dir: PathBuf,
    pub database_url: Option<SecretString>,
    /// Keys from the environment, newest first.
    pub seal_key: Option<SecretString>,
    /// A file that the operator named; the environment wins.
    pub seal_key_file: Option<PathBuf>,
    pub log: String,
    pub origins: Vec<String>,
    pub signup: SignUp,
    pub bots_per_user: u32,
    pub monthly_cap: Nanos,
    pub plan_price: Nanos,
    /// The providers and their models; prices come from the database's list, or the program's own.
    pub offer: Offer,
    /// Where traces go, over OTLP; none: nowhere.
    pub otlp_endpoint: Option<Url>,
    pub practice_pace: Duration,
    /// How fast and how much at once.
    pub limits: molt_ghost::Limits,
    /// Bots whose use looks unusual are noticed.
    pub watch: bool,
    /// Where bots may go besides their models.
    pub egress: Rules,
    pub runtime: Runtime,
    pub fleet: Cells,
    /// What keeps bots at Fly; none: they are kept on this machine, or not by this process.
    pub fly: Option<FlySettings>,
}

impl Config {
    /// Reads everything once. `environment` answers what a variable holds.
    pub fn read(overrides: &Overrides, environment: &dyn Fn(&str) -> Option<String>) -> Result<Self, Faults> {
        let mut faults = Vec::new();
        if let Some(file) = overrides.file.as_ref().filter(|file| !file.is_file()) {
            faults.push(format!("--config: there is no file {}", file.display()));
        }
        let figment = layers(overrides);
        faults.extend(unknown(&figment)?);
        let mut take = Taker { figment: &figment, faults: &mut faults };

        let listen = take.address("listen");
        let operator: String = take.value("operator_listen");
        let public_url: String = take.value("public_url");
        let proxy_url: String = take.value("proxy_url");
        let data_dir: PathBuf = take.value("data_dir");
        let database_url_env: String = take.value("database_url_env");
        let seal_key_file: PathBuf = take.value("seal_key_file");
        let monthly_cap = take.parsed::<Nanos>("monthly_cap_usd");
        let plan_price = take.parsed::<Nanos>("plan_price_usd");
        let models = models::Settings {
            providers: take.value("providers"),
            default_model: take.value("default_model"),
            embedding_model: take.value("embedding_model"),
            aliases: take.value("aliases"),
        };
        let otlp_endpoint: String = take.value("otlp_endpoint");
        let egress: egress::Settings = take.value("egress");
        let mut config = Self {
            listen,
            operator_listen: listen,
            public_url: None,
            proxy_url: None,
            data_dir: if data_dir.as_os_str().is_empty() { default_data_dir(environment) } else { data_dir },
            database_url: environment(&database_url_env).filter(|url| !url.is_empty()).map(SecretString::from),
            seal_key: environment("MOLT_SEAL_KEY").map(SecretString::from),
            seal_key_file: (!seal_key_file.as_os_str().is_empty()).then_some(seal_key_file),
            log: take.value("log"),
            origins: take.value("origins"),
            signup: take.value("signup"),
            bots_per_user: take.value("bots_per_user"),
            monthly_cap,
            plan_price,
            offer: Offer::default(),
            otlp_endpoint: None,
            practice_pace: Duration::from_millis(take.value("practice_pace_ms")),
            limits: take.value("limits"),
            watch: take.value("watch"),
            egress: Rules::default(),
            runtime: take.value("runtime"),
            fleet: take.value("fleet"),
            fly: None,
        };
        config.set_operator(&operator, &mut faults);
        config.public_url = url("public_url", &public_url, &mut faults);
        config.proxy_url = url("proxy_url", &proxy_url, &mut faults);
        config.check_seal_key(&mut faults);
        config.otlp_endpoint = url("otlp_endpoint", &otlp_endpoint, &mut faults);
        config.set_egress(&egress, &mut faults);
        config.set_host(overrides.keeps_cells, environment, &mut faults);
        match models.resolve(overrides.holds_keys, environment) {
            Ok(offer) => config.offer = offer,
            Err(more) => faults.extend(more),
        }
        if faults.is_empty() {
            faults.extend(config.api(listen).validate());
            faults.extend(config.identity(listen).validate(listen.ip()));
        }
        if faults.is_empty() { Ok(config) } else { Err(Faults(faults)) }
    }

    /// The catalogue at the program's own prices: for what only asks which models there are, without a database.
    pub fn own_catalog(&self) -> Result<Catalog, Faults> {
        self.offer.catalog(&PriceList::built_in(), &self.offer.keyed())
    }

    /// Where people reach an installation that is bound to `bound`.
    #[must_use]
    pub fn public_url(&self, bound: SocketAddr) -> Url {
        self.public_url.clone().unwrap_or_else(|| {
            let shown = match bound.ip() {
                ip if ip.is_unspecified() => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), bound.port()),
                _ => bound,
            };
            format!("http://{shown}").parse().expect("an address and a port make a URL")
        })
    }

    #[must_use]
    pub fn api(&self, bound: SocketAddr) -> molt_api::Config {
        molt_api::Config {
            origins: self.origins.clone(),
            bots_per_user: self.bots_per_user,
            monthly_cap: self.monthly_cap,
            plan_price: self.plan_price,
            egress: molt_api::Egress { rules: self.egress.clone(), skills: molt_skills::domains() },
            ..molt_api::Config::new(self.public_url(bound))
        }
    }

    #[must_use]
    pub fn identity(&self, bound: SocketAddr) -> molt_identity::Config {
        let url = self.public_url(bound);
        molt_identity::Config {
            signup: self.signup,
            https: url.scheme() == "https",
            public_url: url.as_str().trim_end_matches('/').to_owned(),
        }
    }

    fn set_egress(&mut self, egress: &egress::Settings, faults: &mut Vec<String>) {
        match Rules::read(&egress.allow, &egress.quiet, &egress.private) {
            Ok(rules) => self.egress = rules,
            Err(more) => faults.extend(more),
        }
    }

    fn set_host(&mut self, keeps_cells: bool, environment: &dyn Fn(&str) -> Option<String>, faults: &mut Vec<String>) {
        faults.extend(self.fleet.faults());
        if keeps_cells && self.fleet.host == HostKind::Fly {
            self.fly = Some(self.fleet.fly(self.proxy_url.as_ref(), environment, faults));
        }
    }

    fn set_operator(&mut self, operator: &str, faults: &mut Vec<String>) {
        let after = match self.listen.port() {
            0 => 0,
            port => port.checked_add(1).unwrap_or(port - 1),
        };
        self.operator_listen = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), after);
        if !operator.is_empty() {
            match operator.parse() {
                Ok(address) => self.operator_listen = address,
                Err(_) => faults.push(not_an_address("operator_listen", operator)),
            }
        }
    }

    fn check_seal_key(&self, faults: &mut Vec<String>) {
        let fault = match (&self.seal_key, &self.seal_key_file) {
            (Some(keys), _) => SealRing::parse(keys).err().map(|fault| format!("MOLT_SEAL_KEY: {fault}")),
            (None, Some(file)) => SealRing::read(file).err().map(|fault| match fault {
                NoKeys::Unreadable(error) => format!("seal_key_file: {} can't be read: {error}", file.display()),
                NoKeys::Malformed => format!("seal_key_file: {}: {fault}", file.display()),
            }),
            (None, None) => None,
        };
        faults.extend(fault);
    }
}

/// What a variable of this process holds. The one reader of the environment, besides the settings' own layer.
#[must_use]
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn layers(overrides: &Overrides) -> Figment {
    let names = names();
    let mut figment = Figment::from(Toml::string(DEFAULTS));
    let file = overrides.file.as_deref().unwrap_or(Path::new(FILE));
    if file.is_file() {
        figment = figment.merge(Toml::file_exact(file));
    }
    let environment = Env::prefixed("MOLT_").filter(move |key| {
        let top = key.as_str().split("__").next().unwrap_or_default().to_ascii_lowercase();
        names.contains(&top)
    });
    figment = figment.merge(environment.split("__"));
    if let Some(listen) = overrides.listen {
        figment = figment.merge(Serialized::default("listen", listen.to_string()));
    }
    if let Some(data_dir) = &overrides.data_dir {
        figment = figment.merge(Serialized::default("data_dir", data_dir));
    }
    if let Some(host) = overrides.host {
        figment = figment.merge(Serialized::default("fleet.host", host.as_str()));
    }
    figment
}

/// The names of all settings: those of the defaults.
fn names() -> Vec<String> {
    DEFAULTS.parse::<toml::Table>().expect("the defaults are TOML").keys().cloned().collect()
}

/// Settings that don't exist; an error when a layer can't be read at all.
fn unknown(figment: &Figment) -> Result<Vec<String>, Faults> {
    let table: toml::Table =
        figment.extract().map_err(|error| Faults(error.into_iter().map(|error| error.to_string()).collect()))?;
    let names = names();
    let strange = table.keys().filter(|key| !names.contains(key));
    Ok(strange.map(|key| format!("{key}: there is no such setting")).collect())
}

/// Takes one setting after the other and keeps what is wrong with each.
struct Taker<'a> {
    figment: &'a Figment,
    faults: &'a mut Vec<String>,
}

impl Taker<'_> {
    fn value<T: DeserializeOwned + Default>(&mut self, name: &str) -> T {
        self.figment.extract_inner(name).unwrap_or_else(|error| {
            self.faults.extend(error.into_iter().map(|error| format!("{name}: {error}")));
            T::default()
        })
    }

    fn parsed<T: FromStr<Err: std::fmt::Display> + Default>(&mut self, name: &str) -> T {
        let text: String = self.value(name);
        text.parse().unwrap_or_else(|error| {
            self.faults.push(format!("{name}: \"{text}\" is {error}"));
            T::default()
        })
    }

    fn address(&mut self, name: &str) -> SocketAddr {
        let text: String = self.value(name);
        text.parse().unwrap_or_else(|_| {
            self.faults.push(not_an_address(name, &text));
            SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0)
        })
    }
}

/// An address that may be left empty.
fn url(name: &str, text: &str, faults: &mut Vec<String>) -> Option<Url> {
    if text.is_empty() {
        return None;
    }
    let url = text.parse().ok();
    if url.is_none() {
        faults.push(format!("{name}: \"{text}\" isn't an address such as https://molt.example"));
    }
    url
}

fn not_an_address(name: &str, text: &str) -> String {
    format!("{name}: \"{text}\" isn't an address and a port such as 127.0.0.1:8787")
}

fn default_data_dir(environment: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/molt");
    }
    let named = |name| environment(name).filter(|value| value.starts_with('/')).map(PathBuf::from);
    named("XDG_DATA_HOME")
        .or_else(|| named("HOME").map(|home| home.join(".local/share")))
        .map_or_else(|| std::env::temp_dir().join("molt"), |base| base.join("molt"))
}

#[cfg(test)]
#[expect(clippy::result_large_err, reason = "figment's jail asks for its error by value")]
mod tests {
    use super::*;
    use figment::Jail;

    fn read(jail: &[(&str, &str)]) -> Result<Config, Faults> {
        Config::read(&Overrides { holds_keys: true, ..Overrides::default() }, &|name| {
            jail.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_defaults_are_whole_and_need_nothing() {
        Jail::expect_with(|_| {
            let config = read(&[("HOME", "/home/a")]).unwrap();
            assert_eq!(config.listen.to_string(), "127.0.0.1:8787");
            assert_eq!(config.operator_listen.to_string(), "127.0.0.1:8788");
            assert_eq!(config.public_url(config.listen).as_str(), "http://127.0.0.1:8787/");
            let catalog = config.own_catalog().unwrap();
            assert_eq!(catalog.default_model, "practice/practice-1");
            assert_eq!(catalog.embedding_model.as_deref(), Some("practice/practice-embed"));
            assert_eq!(config.offer.providers().count(), 1);
            assert!(config.database_url.is_none());
            Ok(())
        });
    }

    #[test]
    fn a_key_in_the_environment_offers_its_provider() {
        Jail::expect_with(|_| {
            let config = read(&[("OPENAI_API_KEY", "sk-1"), ("DATABASE_URL", "postgres://x")]).unwrap();
            let catalog = config.own_catalog().unwrap();
            assert_eq!(catalog.default_model, "openai/gpt-5.4-mini");
            assert_eq!(catalog.embedding_model.as_deref(), Some("openai/text-embedding-3-small"));
            assert!(config.database_url.is_some());
            assert!(!format!("{config:?}").contains("sk-1"));
            Ok(())
        });
    }

    #[test]
    fn the_file_the_environment_and_the_command_line_win_in_this_order() {
        Jail::expect_with(|jail| {
            jail.create_file("molt.toml", "listen = \"127.0.0.1:1\"\nbots_per_user = 7\nmonthly_cap_usd = \"5\"")?;
            jail.set_env("MOLT_BOTS_PER_USER", "8");
            jail.set_env("MOLT_TEST_DATABASE_URL", "not a setting");
            let overrides = Overrides { listen: Some("127.0.0.1:2".parse().unwrap()), ..Overrides::default() };
            let config = Config::read(&overrides, &|_| None).unwrap();
            assert_eq!(config.listen.port(), 2);
            assert_eq!(config.bots_per_user, 8);
            assert_eq!(config.monthly_cap, Nanos::dollars(5));
            Ok(())
        });
    }

    #[test]
    fn all_faults_come_in_one_message() {
        Jail::expect_with(|jail| {
            jail.create_file(
                "molt.toml",
                "listen = \"here\"\nbots_per_user = \"many\"\nmonthly_cap_usd = \"a lot\"\ncolour = \"red\"\n\
                 default_model = \"practice/unknown\"\n[fleet]\nkeep_ahead_minutes = 90000\nkeep_spare = 101\n[egress]\nallow = [\"*.org\"]\n[egress.private]\n\"nas.lan\" = \"169.254.169.254:80\"\n\
                 [providers.mine]\nkind = \"openai\"\n",
            )?;
            let message = read(&[("MOLT_SEAL_KEY", "short")]).unwrap_err().to_string();
            for part in [
                "listen:",
                "bots_per_user:",
                "monthly_cap_usd:",
                "colour:",
                "default_model:",
                "mine",
                "seal key",
                "fleet.keep_ahead_minutes: 10080 (a week) at most",
                "fleet.keep_spare: 100 at most",
                "egress.allow: \"*.org\" takes in too much",
                "egress.private: \"169.254.169.254:80\"",
            ] {
                assert!(message.contains(part), "{part} is missing in {message}");
            }
            assert!(!message.contains("short"));
            Ok(())
        });
    }

    #[test]
    fn fly_is_asked_for_whole_and_only_where_cells_are_kept() {
        Jail::expect_with(|jail| {
            jail.create_file("molt.toml", "[fleet]\nhost = \"fly\"\n[fleet.fly]\nregions = [\"Paris\"]")?;
            assert!(read(&[]).unwrap().fly.is_none(), "an API needs no token of Fly's");
            let keeps = |environment: &[(&str, &str)]| {
                let overrides = Overrides { keeps_cells: true, ..Overrides::default() };
                Config::read(&overrides, &|name| {
                    environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
                })
            };
            let message = keeps(&[]).unwrap_err().to_string();
            for part in ["proxy_url:", "FLY_API_TOKEN", "fly.org:", "fly.image:", "fly.regions:"] {
                assert!(message.contains(part), "{part} is missing in {message}");
            }
            jail.create_file(
                "molt.toml",
                "proxy_url = \"https://p.example/v1\"\n[fleet]\nhost = \"fly\"\n[fleet.fly]\norg = \"acme\"\n\
                 image = \"registry.fly.io/bot:1\"\nregions = [\"fra\"]",
            )?;
            let config = keeps(&[("FLY_API_TOKEN", "fo1_hunter2")]).unwrap();
            assert_eq!(config.fly.as_ref().unwrap().memory_mib, 2048);
            assert!(
                config.fleet.keep_ahead() > molt_api::CHECKOUT_LIFE,
                "whoever accepts a plan finds the place there"
            );
            assert_eq!(config.fleet.keep_spare, 4);
            assert!(!format!("{config:?}").contains("hunter2"));
            Ok(())
        });
    }

    #[test]
    fn open_sign_up_stays_on_this_machine() {
        Jail::expect_with(|jail| {
            jail.create_file("molt.toml", "listen = \"0.0.0.0:8787\"")?;
            assert!(read(&[]).unwrap_err().to_string().contains("signup"));
            jail.create_file("molt.toml", "listen = \"0.0.0.0:8787\"\nsignup = \"invite\"")?;
            assert_eq!(read(&[]).unwrap().signup, SignUp::Invite);
            Ok(())
        });
    }
}

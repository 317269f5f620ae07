//! What the operator decides about Fly, and the names that follow from it.
//! Never: a name that depends on anything but the installation and the bot; that is what makes every step repeatable.

use std::time::Duration;

use molt_model::BotId;
use secrecy::SecretString;
use uuid::Uuid;

/// How long a cell that vanished may go unnoticed by the listing; a cell that doesn't answer is noticed long before.
pub const WATCH_PERIOD: Duration = Duration::from_secs(60);
/// Fly's names are host names; ours are this, an installation and a bot.
const PREFIX_CHARS_MAX: usize = 20;
/// Of the installation's id. Two installations in one organisation must not take each other's bots for orphans.
const INSTALLATION_DIGITS: usize = 8;

/// `[fleet.fly]` of the settings, and which database this is.
#[derive(Clone, Debug)]
pub struct FlySettings {
    /// `https://api.machines.dev`, or `http://_api.internal:4280` inside Fly's private network.
    pub api_url: String,
    /// For the whole organisation. Only the fleet role holds it.
    pub token: SecretString,
    /// The organisation's slug.
    pub org: String,
    /// The network that the platform itself is in; empty: the organisation's default one.
    pub network: String,
    pub app_prefix: String,
    /// Where new bots are put: the first one with room.
    pub regions: Vec<String>,
    /// The image of a cell.
    pub image: String,
    pub cpu_kind: String,
    pub cpus: u32,
    pub memory_mib: u32,
    pub volume_gib: u32,
    /// How often all machines are listed to find those that are gone.
    pub watch_period: Duration,
    /// The id of the database, which all names carry.
    pub installation: Uuid,
}

impl FlySettings {
    /// Sentences about what is missing or can't be.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut check = |good: bool, fault: &str| {
            if !good {
                faults.push(format!("fleet.fly.{fault}"));
            }
        };
        check(!self.org.is_empty(), "org: name the organisation at Fly (its slug)");
        check(!self.image.is_empty(), "image: name the image of a cell, such as registry.fly.io/molt-bot:1");
        check(!self.regions.is_empty(), "regions: name at least one region, such as [\"fra\", \"ams\"]");
        let region = |text: &String| text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_lowercase());
        check(self.regions.iter().all(region), "regions: a region is three small letters, such as \"fra\"");
        let letters = self.app_prefix.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        let starts = self.app_prefix.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
        let fits = letters && starts && self.app_prefix.len() <= PREFIX_CHARS_MAX;
        check(fits, "app_prefix: a small letter, then up to 19 of a-z, 0-9 and -");
        check((1..=16).contains(&self.cpus), "cpus: from 1 to 16");
        check(self.memory_mib >= 1536, "memory_mib: OpenClaw needs at least 1536");
        check((1..=500).contains(&self.volume_gib), "volume_gib: from 1 to 500");
        faults
    }

    /// The app of a bot. Names are one space for all of Fly, so this one may be somebody else's.
    pub(super) fn app(&self, bot: &BotId) -> String {
        let letters = bot.as_str().rsplit('-').next().unwrap_or_default();
        format!("{}{letters}", self.stem())
    }

    /// The bot of an app of this installation.
    pub(super) fn bot(&self, app: &str) -> Option<BotId> {
        format!("molt-{}", app.strip_prefix(&self.stem())?).parse().ok()
    }

    fn stem(&self) -> String {
        let installation = self.installation.simple().to_string();
        format!("{}-{}-", self.app_prefix, &installation[..INSTALLATION_DIGITS])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn settings(installation: Uuid) -> FlySettings {
        FlySettings {
            api_url: "https://api.machines.dev".into(),
            token: "t".to_owned().into(),
            org: "acme".into(),
            network: String::new(),
            app_prefix: "molt".into(),
            regions: vec!["fra".into()],
            image: "registry.fly.io/molt-bot:1".into(),
            cpu_kind: "shared".into(),
            cpus: 2,
            memory_mib: 2048,
            volume_gib: 3,
            watch_period: WATCH_PERIOD,
            installation,
        }
    }

    #[test]
    fn a_name_tells_its_bot_to_this_installation_only() {
        let (ours, theirs) = (settings(Uuid::from_u128(1 << 100)), settings(Uuid::from_u128(2 << 100)));
        let bot = BotId::random();
        let app = ours.app(&bot);
        assert!(app.len() <= 63 && app.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
        assert_eq!(ours.bot(&app), Some(bot.clone()));
        assert_eq!(theirs.bot(&app), None, "a copy of the settings with another database never sees it");
        for wrong in
            ["", "molt-", "molt-00000010-", "molt-00000010-short", "other", &format!("x{app}"), &format!("{app}0")]
        {
            assert_eq!(ours.bot(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_missing_is_said_all_at_once() {
        assert!(settings(Uuid::nil()).faults().is_empty());
        let bare = FlySettings {
            org: String::new(),
            image: String::new(),
            regions: vec!["Frankfurt".into()],
            app_prefix: "1-".into(),
            memory_mib: 512,
            ..settings(Uuid::nil())
        };
        let faults = bare.faults().join("\n");
        for name in ["org:", "image:", "regions:", "app_prefix:", "memory_mib:"] {
            assert!(faults.contains(name), "{name} in {faults}");
        }
    }
}

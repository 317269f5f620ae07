//! How it is with assistants at Fly: whether Fly answers, and what it can't hold a cell to.
//! Never: a machine started, stopped or asked.

use molt_fleet::{FlyHost, FlySettings, HostError};
use molt_store::Store;

use super::Finding::{self, Bad, Good, Note};
use crate::config::Config;
use crate::data::DataDir;
use crate::hosts::fly_of;

/// What holds for every cell at Fly, whatever the settings.
const LIMITS: [&str; 3] = [
    "Fly's own rules for the way out know ports, not names or addresses, and don't cover what passes its router: a cell is \
     kept in by its own network namespace, not by Fly",
    "a volume at Fly lies on one computer and is not copied: if that computer is lost, a snapshot of up to a day ago is what \
     is left",
    "the host for Fly was tested against a simulation and a description of the Machines API, not against Fly itself; begin \
     with one assistant",
];

pub(super) async fn findings(config: &Config, settings: &FlySettings) -> Vec<Finding> {
    let mut findings = vec![answers(config, settings).await];
    if config.public_url.is_none() {
        findings
            .push(Note("public_url is empty, so links in assistants' notices lead to this machine only".to_owned()));
    }
    findings.extend(LIMITS.iter().map(|limit| Note((*limit).to_owned())));
    findings
}

async fn answers(config: &Config, settings: &FlySettings) -> Finding {
    // Without the database nobody knows which apps are this installation's; whether Fly answers can be said all the same.
    let (settings, known) = match of_this_database(config).await {
        Some(settings) => (settings, true),
        None => (settings.clone(), false),
    };
    let checked = match FlyHost::new(settings) {
        Ok(host) => host.check().await,
        Err(error) => Err(error),
    };
    let org = config.fly.as_ref().map(|fly| fly.org.as_str()).unwrap_or_default();
    match checked {
        Ok(bots) if known => Good(format!(
            "Fly answers for the organisation {org}, which holds the places of {bots} assistants, spare ones among them"
        )),
        Ok(_) => Good(format!("Fly answers for the organisation {org}")),
        Err(HostError::Unusable(sentence)) => Bad(sentence),
        Err(error) => Bad(format!("Fly can't be asked: {error}")),
    }
}

async fn of_this_database(config: &Config) -> Option<FlySettings> {
    let url = config.database_url.as_ref()?;
    let data = DataDir::look(&config.data_dir);
    let store = Store::connect(url, data.seal_key(config).ok()?).await.ok()?;
    let settings = fly_of(config, &store).await.ok().flatten();
    store.close().await;
    settings
}

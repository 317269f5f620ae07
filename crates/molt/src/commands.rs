//! What an operator does from the command line, beside the running installation.
//! Never: a secret printed a second time, or a change that the audit log doesn't show.

use anyhow::{Context, bail};
use chrono::TimeDelta;
use molt_model::bot::operators_reason;
use molt_model::{BotId, Clock, HolderId, KeyId, Nanos, SystemClock, Time};
use molt_store::Store;
use molt_store::ghost::KeyCapSet;
use molt_store::suspend::Resumed;
use molt_store::users::Role;
use secrecy::ExposeSecret;
use serde_json::json;

use crate::config::Config;
use crate::data::DataDir;
use crate::database::Database;
use crate::image::Image;
use crate::install;

/// Who the audit log names when somebody with the machine's command line acts.
pub(crate) const ACTOR: &str = "command line";
const KEYS_LISTED_MAX: i64 = 1_000;
/// A proxy that lives says so every ten seconds; whoever was silent for six times that is surely not at work.
const PROXY_UNSEEN: TimeDelta = TimeDelta::minutes(1);

/// Makes the bots' image unless the engine has it, and prints its name.
pub async fn image(config: &Config) -> anyhow::Result<()> {
    let data = DataDir::look(&config.data_dir);
    let cell = install::cell_binary(&config.runtime.cell, &data.programs())?;
    let image = Image::of(&cell, &config.fleet.docker_socket)?;
    let told = std::sync::Mutex::new(String::new());
    let progress = |_: u8, sentence: &str| {
        let mut told = told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *told != sentence {
            eprintln!("  {sentence}");
            sentence.clone_into(&mut told);
        }
    };
    image.make(&data.packages(), &progress).await?;
    image.forget_others().await?;
    println!("{}", image.name);
    Ok(())
}

/// A Ghost Key for a program of this person's. Printed once, on a line of its own.
pub async fn create_key(config: &Config, email: &str, label: &str, cap: Option<Nanos>) -> anyhow::Result<()> {
    if cap.is_some_and(|cap| cap < Nanos::ZERO) {
        bail!("a cap can't be below zero");
    }
    let (store, now) = open(config).await?;
    let mut tx = store.system().await?;
    let user = tx.user_by_email(email).await?.with_context(|| nobody(email))?;
    let (id, key) = tx.create_ghost_key(user.id(), None, label, cap, now).await?;
    let detail = json!({ "user": user.id(), "label": label, "cap_usd": cap });
    tx.audit(ACTOR, "key.create", &id.to_string(), &detail, now).await?;
    tx.commit().await?;
    eprintln!("This key is shown once. Its id, for `molt keys revoke`: {id}");
    println!("{}", key.expose_secret());
    Ok(())
}

/// The person's keys, a line each: id, what it is for, what it spent of which cap in this period, and how it is.
pub async fn list_keys(config: &Config, email: &str) -> anyhow::Result<()> {
    let (store, now) = open(config).await?;
    let user = store.system().await?.user_by_email(email).await?.with_context(|| nobody(email))?;
    for key in store.tenant(user.id()).await?.ghost_keys(now, KEYS_LISTED_MAX).await? {
        let whose = key.bot_id.as_deref().unwrap_or("program");
        let cap = key.cap().map_or("no cap".to_owned(), |cap| format!("${cap}"));
        let state = match (&key.revoked_at, &key.paused_at) {
            (Some(_), _) => "revoked",
            (None, Some(_)) => "paused",
            (None, None) => "in force",
        };
        println!("{}  {state:<8}  ${} of {cap}  {whose}  {}", key.id, key.spent(), key.label);
    }
    Ok(())
}

/// Where a program's key stops in a month; in force within a second.
pub async fn cap_key(config: &Config, id: KeyId, cap: Option<Nanos>) -> anyhow::Result<()> {
    if cap.is_some_and(|cap| cap < Nanos::ZERO || cap > config.monthly_cap) {
        bail!("choose a cap between 0 and {} dollars; that is monthly_cap_usd", config.monthly_cap);
    }
    let (store, now) = open(config).await?;
    let mut tx = store.system().await?;
    match tx.set_key_cap(id, cap).await? {
        KeyCapSet::Done => {}
        KeyCapSet::NotFound => bail!("there is no such key in force; check the id"),
        KeyCapSet::BotsOwn => bail!("a bot's own key is made anew at each start; its owner caps the bot instead"),
    }
    tx.audit(ACTOR, "key.cap", &id.to_string(), &json!({ "cap_usd": cap }), now).await?;
    tx.commit().await?;
    println!(
        "{}",
        cap.map_or("The key has no cap of its own now.".to_owned(), |cap| format!("The key stops at ${cap}."))
    );
    Ok(())
}

/// The key stops working at once.
pub async fn revoke_key(config: &Config, id: KeyId) -> anyhow::Result<()> {
    let (store, now) = open(config).await?;
    let mut tx = store.system().await?;
    if !tx.revoke_ghost_key(id, now).await? {
        bail!("there is no such key in force; check the id");
    }
    tx.audit(ACTOR, "key.revoke", &id.to_string(), &json!({}), now).await?;
    tx.commit().await?;
    println!("The key is revoked.");
    Ok(())
}

/// Anybody's assistant is stopped until an operator resumes it; its owner reads the reason.
pub async fn suspend_bot(config: &Config, id: &BotId, reason: &str) -> anyhow::Result<()> {
    let reason = operators_reason(reason).map_err(anyhow::Error::msg)?;
    let (store, now) = open(config).await?;
    let mut tx = store.system().await?;
    tx.suspend_bot(id, &reason, now).await?.with_context(|| no_bot(id))?;
    tx.audit(ACTOR, "bot.suspend", id.as_str(), &json!({ "reason": reason }), now).await?;
    tx.commit().await?;
    println!("The assistant is suspended; `molt admin resume {id}` lets it go on.");
    Ok(())
}

/// What an operator decided is lifted; and, as its owner can do in the app, a pause or a slower pace of an assistant ends.
pub async fn resume_bot(config: &Config, id: &BotId) -> anyhow::Result<()> {
    let (store, now) = open(config).await?;
    let mut tx = store.system().await?;
    let Resumed { resumed, left } = tx.resume_for_operator(id, now).await?.with_context(|| no_bot(id))?;
    tx.audit(ACTOR, "bot.resume", id.as_str(), &json!({ "resumed": resumed }), now).await?;
    tx.commit().await?;
    match left {
        Some(left) => println!("{}", left.sentence("The assistant")),
        None if resumed => println!("The assistant goes on."),
        None => println!("Nothing was in the assistant's way."),
    }
    Ok(())
}

fn no_bot(id: &BotId) -> String {
    format!("there is no assistant {id}; check the id")
}

/// The proxies whose leases haven't returned, a line each, longest unseen first: id, since when, last seen, and what each
/// holds of people's caps.
pub async fn list_proxies(config: &Config) -> anyhow::Result<()> {
    let (store, now) = open(config).await?;
    let holders = store.system().await?.holders().await?;
    if holders.is_empty() {
        eprintln!("No proxy holds any money.");
    }
    for holder in holders {
        let started = holder.started_at.format("%Y-%m-%d %H:%M:%S");
        let unseen_s = (now - holder.seen_at).num_seconds().max(0);
        println!("{}  started {started} UTC  seen {unseen_s} s ago  holds ${}", holder.id, holder.outstanding);
    }
    Ok(())
}

/// What this proxy has on lease goes back to its people's caps: its machine or its data folder is gone for good. One that
/// only stopped gives back by itself at its next start. Its process, should it live on after all, spends nothing more once
/// it reaches the database.
pub async fn lose_proxy(config: &Config, id: HolderId) -> anyhow::Result<()> {
    let (store, now) = open(config).await?;
    let mut tx = store.system().await?;
    let holder = tx.holders().await?.into_iter().find(|holder| holder.id == id);
    let holder = holder.context("no such proxy holds any money; `molt admin proxies` lists them")?;
    let unseen = now - holder.seen_at;
    if unseen < PROXY_UNSEEN {
        bail!(
            "this proxy was seen {} s ago, so it may spend what it holds; stop it first, or wait until it wasn't seen for {} s",
            unseen.num_seconds().max(0),
            PROXY_UNSEEN.num_seconds()
        );
    }
    tx.release_holder(id, now).await?;
    let detail = json!({ "outstanding_usd": holder.outstanding, "seen_at": holder.seen_at });
    tx.audit(ACTOR, "proxy.lost", &id.to_string(), &detail, now).await?;
    tx.commit().await?;
    println!("${} went back to the caps of the people that the proxy held it of.", holder.outstanding);
    Ok(())
}

pub async fn set_operator(config: &Config, email: &str, operator: bool) -> anyhow::Result<()> {
    let (store, now) = open(config).await?;
    let mut tx = store.system().await?;
    let role = if operator { Role::Operator } else { Role::User };
    tx.set_role(email, role, ACTOR, now).await?.with_context(|| nobody(email))?;
    tx.commit().await?;
    println!("{email} is {} now.", if operator { "an operator" } else { "an ordinary user" });
    Ok(())
}

/// A code that lets one person sign up. Printed once.
pub async fn invite(config: &Config, email: Option<&str>) -> anyhow::Result<()> {
    let (store, now) = open(config).await?;
    let code = molt_identity::invite(&store, email, now).await?;
    eprintln!("This code lets one person sign up within two weeks. It is shown once.");
    println!("{}", code.expose_secret());
    Ok(())
}

/// Brings the database to the schema of this program.
pub async fn migrate(config: &Config) -> anyhow::Result<()> {
    let data = DataDir::look(&config.data_dir);
    let url = match &config.database_url {
        Some(url) => url.clone(),
        None => Database::reach_as_owner(&data).await?,
    };
    Store::migrate(&url).await.context("the schema can't be brought up to date")?;
    println!("The schema is the newest.");
    Ok(())
}

/// The API's description, as `openapi.json` holds it.
pub fn openapi() -> anyhow::Result<()> {
    println!("{}", molt_api::openapi().to_pretty_json()?);
    Ok(())
}

pub(crate) async fn open(config: &Config) -> anyhow::Result<(Store, Time)> {
    let data = DataDir::look(&config.data_dir);
    let url = Database::reach(config, &data).await?;
    let store = Store::connect(&url, data.seal_key(config)?).await.context("the database doesn't answer")?;
    Ok((store, SystemClock.now()))
}

fn nobody(email: &str) -> String {
    format!("nobody here has the address {email}; they must sign up first")
}

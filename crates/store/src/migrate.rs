//! Brings a database to the schema that this binary needs.
//! Never: backwards, and never a statement that loses data before the code that needed it is gone.

use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection};

use crate::{Result, StoreError};

pub(crate) static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// Runs what is missing, under the migrator's own advisory lock, then lets the connecting role take both of our roles.
pub(crate) async fn run(url: &SecretString) -> Result<()> {
    let options: PgConnectOptions = url.expose_secret().parse().map_err(StoreError::from)?;
    let mut connection = options.application_name("molt-migrate").connect().await?;
    // The migrator's own table goes where the search path leads: for a user named like our schema that would change
    // between the first run and the second.
    sqlx::raw_sql("set search_path to public").execute(&mut connection).await?;
    MIGRATIONS.run(&mut connection).await.map_err(|error| StoreError::Unexpected(error.into()))?;
    sqlx::raw_sql("grant molt_tenant, molt_system to current_user").execute(&mut connection).await?;
    connection.close().await?;
    Ok(())
}

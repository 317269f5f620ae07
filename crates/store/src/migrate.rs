//! Brings a database to the schema that this binary needs.
//! Never: backwards, and never a statement that loses data before the code that needed it is gone.

use std::borrow::Cow;
use std::sync::LazyLock;

use secrecy::{ExposeSecret, SecretString};
use sqlx::migrate::{Migrate, MigrateError, Migrator};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};

use crate::{Result, StoreError};

/// The list of what has run stays in our own schema: `public` belongs to whoever else uses the database.
const LIST: &str = "molt._sqlx_migrations";

pub(crate) static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrations = sqlx::migrate!("./migrations");
    migrations.dangerous_set_table_name(LIST);
    migrations.create_schemas = Cow::Borrowed(&[Cow::Borrowed("molt")]);
    migrations
});

/// Runs what is missing, under the migrator's own advisory lock, then lets the connecting role take both of our roles.
pub(crate) async fn run(url: &SecretString) -> Result<()> {
    let options: PgConnectOptions = url.expose_secret().parse().map_err(StoreError::from)?;
    // A migration may take its time; a warning with its whole text says nothing to anybody.
    let options = options.application_name("molt-migrate").disable_statement_logging();
    let mut connection = options.connect().await?;
    // The lock counts: the run below takes it once more.
    connection.lock().await.map_err(unexpected)?;
    adopt(&mut connection).await?;
    MIGRATIONS.run(&mut connection).await.map_err(unexpected)?;
    connection.unlock().await.map_err(unexpected)?;
    sqlx::raw_sql("grant molt_tenant, molt_system to current_user").execute(&mut connection).await?;
    connection.close().await?;
    Ok(())
}

/// Takes over the list of an installation that kept it in `public`. Another program's list there stays where it is: ours is
/// known by the hash of our first migration.
async fn adopt(connection: &mut PgConnection) -> Result<()> {
    let candidate =
        "select to_regclass('public._sqlx_migrations') is not null and to_regclass('molt._sqlx_migrations') is null";
    if !sqlx::query_scalar::<_, bool>(candidate).fetch_one(&mut *connection).await? {
        return Ok(());
    }
    let first = MIGRATIONS.iter().next().expect("there is a first migration");
    let ours = "select exists (select from public._sqlx_migrations where version = $1 and checksum = $2)";
    let ours = sqlx::query_scalar::<_, bool>(ours).bind(first.version).bind(first.checksum.as_ref());
    if ours.fetch_one(&mut *connection).await? {
        sqlx::raw_sql("alter table public._sqlx_migrations set schema molt").execute(connection).await?;
    }
    Ok(())
}

fn unexpected(error: MigrateError) -> StoreError {
    StoreError::Unexpected(error.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestDatabase, database};

    async fn lists(database: &TestDatabase) -> (i64, i64) {
        let there = |schema: &str| {
            format!("select count(*) from pg_tables where tablename = '_sqlx_migrations' and schemaname = '{schema}'")
        };
        (database.count(&there("molt")).await, database.count(&there("public")).await)
    }

    async fn applied(database: &TestDatabase) -> Option<String> {
        database
            .text(&format!("select string_agg(version || ' ' || installed_on, ',' order by version) from {LIST}"))
            .await
    }

    #[tokio::test]
    async fn the_list_of_migrations_lies_in_our_schema_and_an_older_one_is_taken_over() {
        let database = database().await;
        assert_eq!(lists(&database).await, (1, 0), "from nothing");
        let before = applied(&database).await;
        assert!(before.is_some());
        database.execute(&format!("alter table {LIST} set schema public")).await;
        let (one, two) = tokio::join!(run(&database.owner_url), run(&database.owner_url));
        assert!(one.is_ok() && two.is_ok(), "{one:?} {two:?}");
        assert_eq!(lists(&database).await, (1, 0), "taken over");
        assert_eq!(applied(&database).await, before, "and nothing ran twice");
    }

    #[tokio::test]
    async fn another_programs_list_stays_its_own() {
        let database = database().await;
        database.execute(&format!("create table public._sqlx_migrations as select * from {LIST} where false")).await;
        run(&database.owner_url).await.unwrap();
        let theirs = "insert into public._sqlx_migrations values (1, 'theirs', now(), true, '\\x00', 0)";
        database.execute(&format!("drop schema molt cascade; {theirs}")).await;
        run(&database.owner_url).await.unwrap();
        assert_eq!(database.count("select count(*) from public._sqlx_migrations").await, 1);
        assert!(applied(&database).await.is_some(), "ours was made beside it");
    }

    /// A row for everything that the six words of before could say, and the state and phase that it has now.
    #[tokio::test]
    async fn bots_of_an_earlier_schema_find_their_place_in_the_machine_of_states() {
        let table = [
            ("awaiting_plan", "absent", "awaiting_plan", "reserved awaiting_plan"),
            ("running", "absent", "queued", "reserved queued"),
            ("running", "starting", "reserved", "infrastructure reserved"),
            ("running", "starting", "runtime", "infrastructure runtime"),
            ("running", "starting", "cell", "infrastructure cell"),
            ("running", "starting", "booting", "booting booting"),
            ("running", "starting", "settings", "booting settings"),
            ("running", "starting", "waiting", "degraded restarting_cell"),
            ("running", "starting", "recovering", "degraded restarting_cell"),
            ("running", "running", "running", "running running"),
            ("running", "failed", "failed", "degraded failed"),
            ("running", "failed", "runtime", "degraded no_runtime"),
            ("stopped", "stopping", "stopping", "stopping stopping"),
            ("stopped", "stopped", "stopped", "suspended suspended"),
            ("running", "stopped", "stopped", "stopped stopped"),
            ("awaiting_plan", "stopped", "awaiting_plan", "stopped stopped"),
            ("deleted", "stopping", "removing", "deleting removing_cell"),
            ("deleted", "running", "running", "running running"),
        ];
        let database = database().await;
        database.execute("drop schema molt cascade").await;
        let options: PgConnectOptions = database.owner_url.expose_secret().parse().unwrap();
        let mut connection = options.connect().await.unwrap();
        MIGRATIONS.run_to(6, &mut connection).await.unwrap();
        let user = uuid::Uuid::new_v4();
        let mut rows = format!("insert into molt.users (id, issuer, subject, email) values ('{user}', 'i', 's', 'e');");
        for (number, (intent, observed, phase, _)) in table.iter().enumerate() {
            rows += &format!(
                "insert into molt.bots (id, user_id, bot_name, vertical, settings, intent, intent_reason, observed, phase,
                   revision, applied_revision)
                 values ('bot-{number:02}', '{user}', 'Pip', 'developer', '{{\"n\": {number}}}', '{intent}',
                   case when '{intent}' = 'stopped' then 'An open invoice.' end, '{observed}', '{phase}', 2, {});",
                1 + number % 2
            );
        }
        database.execute(&rows).await;
        run(&database.owner_url).await.unwrap();
        for (number, (intent, observed, phase, expected)) in table.iter().enumerate() {
            let column = async |column: &str| {
                let sql = format!("select {column} from molt.bots where id = 'bot-{number:02}'");
                database.text(&sql).await
            };
            let now = column("observed || ' ' || phase").await.unwrap();
            assert_eq!(now, *expected, "{intent} {observed} {phase}");
            let (word, phase) = now.split_once(' ').unwrap();
            let state = molt_model::Observed::read(word, phase).unwrap();
            assert_eq!((state.word(), state.phase()), (word, phase), "it is a state of the machine");
            let kept = (number % 2 == 1).then(|| format!("{{\"n\": {number}}}"));
            assert_eq!((column("applied_settings").await, column("good_settings").await), (kept.clone(), kept));
        }
        let reason = "select reason from molt.bots where observed = 'suspended'";
        assert_eq!(database.text(reason).await.as_deref(), Some("An open invoice."));
    }
}

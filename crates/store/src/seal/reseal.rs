//! Sealing everything anew under the newest key, beside the running platform.
//! Never: one long transaction, or a value of an old key that is written after that key was retired (the database refuses it).

use molt_model::Time;

use super::place::Column;
use super::{FORMAT, SealKeyId, SealRing};
use crate::{Channel, Result, Store, SystemTx};

/// Rows of one transaction: a few milliseconds.
const BATCH: i64 = 200;
/// What each process's listening connection is called, before the name of the key that the process seals with.
const LISTENS: &str = "molt seals with ";

/// What became of one column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resealed {
    pub column: &'static str,
    /// Values sealed anew.
    pub done: u64,
    /// Values that no key of the ring opens; they are as lost as before, and stay.
    pub lost: u64,
}

/// The name of a listening connection whose process seals with this key.
pub(crate) fn listener_name(key: SealKeyId) -> String {
    format!("{LISTENS}{key}")
}

impl Store {
    /// Tells every process to read its keys again.
    pub async fn announce_seal_keys(&self) -> Result<()> {
        let mut system = self.system().await?;
        system.notify(&Channel::SealKeys).await?;
        system.commit().await
    }

    /// The connected processes that don't seal with this key (yet), in words for an operator.
    pub async fn processes_without_seal_key(&self, key: SealKeyId) -> Result<Vec<String>> {
        let mut system = self.system().await?;
        let sql = "select 'connection ' || pid || coalesce(' from ' || host(client_addr), '') from pg_stat_activity
                   where datname = current_database() and starts_with(application_name, $1) and application_name <> $2
                   order by pid";
        let rows = sqlx::query_scalar(sql).bind(LISTENS).bind(listener_name(key)).fetch_all(&mut *system.tx).await?;
        Ok(rows)
    }

    /// Seals what is under other keys under the newest one, column by column, in batches. May be cut at any moment and begun
    /// again.
    pub async fn reseal(&self) -> Result<Vec<Resealed>> {
        let mut columns = Vec::new();
        for column in Column::ALL {
            columns.push(self.reseal_column(column).await?);
        }
        Ok(columns)
    }

    async fn reseal_column(&self, column: Column) -> Result<Resealed> {
        let mut outcome = Resealed { column: column.name(), done: 0, lost: 0 };
        let mut after = column.before_all().to_owned();
        loop {
            let mut system = self.system().await?;
            let rows = system.sealed_otherwise(column, self.seal(), &after).await?;
            let Some((last, _)) = rows.last() else { return Ok(outcome) };
            after.clone_from(last);
            let anew = seal_anew(column, self.seal(), rows, &mut outcome);
            outcome.done += system.put_sealed(column, anew).await?;
            system.commit().await?;
        }
    }
}

impl SystemTx {
    /// From the commit on the database takes no value that is sealed under these keys, also from a transaction that is open
    /// now: it waits for those that hold one.
    pub async fn retire_seal_keys(&mut self, keys: &[SealKeyId], now: Time) -> Result<()> {
        sqlx::query("select pg_advisory_xact_lock(hashtext('molt.seal_keys'))").execute(&mut *self.tx).await?;
        let ids: Vec<String> = keys.iter().map(ToString::to_string).collect();
        let sql = "insert into molt.retired_seal_keys (id, retired_at) select unnest($1::text[]), $2
                   on conflict (id) do nothing";
        sqlx::query(sql).bind(ids).bind(now).execute(&mut *self.tx).await?;
        Ok(())
    }

    /// Whether an earlier rotation retired this key.
    pub async fn seal_key_is_retired(&mut self, key: SealKeyId) -> Result<bool> {
        let sql = "select exists (select from molt.retired_seal_keys where id = $1)";
        Ok(sqlx::query_scalar(sql).bind(key.to_string()).fetch_one(&mut *self.tx).await?)
    }

    async fn sealed_otherwise(
        &mut self,
        column: Column,
        ring: &SealRing,
        after: &str,
    ) -> Result<Vec<(String, Vec<u8>)>> {
        let newest = [&[FORMAT][..], &ring.newest().0].concat();
        let rows = sqlx::query_as(column.select()).bind(after).bind(newest).bind(BATCH);
        Ok(rows.fetch_all(&mut *self.tx).await?)
    }

    /// A row that changed meanwhile isn't touched: whoever changed it sealed under the newest key.
    async fn put_sealed(&mut self, column: Column, anew: Anew) -> Result<u64> {
        let update = sqlx::query(column.update()).bind(anew.keys).bind(anew.before).bind(anew.sealed);
        Ok(update.execute(&mut *self.tx).await?.rows_affected())
    }
}

/// Rows of one batch, column by column as the statement takes them.
#[derive(Default)]
struct Anew {
    keys: Vec<String>,
    before: Vec<Vec<u8>>,
    sealed: Vec<Vec<u8>>,
}

fn seal_anew(column: Column, ring: &SealRing, rows: Vec<(String, Vec<u8>)>, outcome: &mut Resealed) -> Anew {
    let mut anew = Anew::default();
    for (key, before) in rows {
        let opened = column.place(&key).and_then(|place| Some((ring.open(&place, &before).ok()?, place)));
        let Some((plain, place)) = opened else {
            outcome.lost += 1;
            continue;
        };
        anew.sealed.push(ring.seal(&place, &plain));
        anew.keys.push(key);
        anew.before.push(before);
    }
    anew
}

#[cfg(test)]
mod tests;

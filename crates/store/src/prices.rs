//! Price lists as operators import them, the price books that calls were charged at, and which providers have keys.
//! Never: a change to a list or a book that is there; a version says the same for ever.

use std::collections::BTreeSet;

use chrono::NaiveDate;
use molt_model::Time;
use serde_json::Value;

use crate::{Result, SystemTx};

/// Versions shown at most; the newest come first.
const VERSIONS_MAX: i64 = 100;
/// The advisory lock of imports: any constant that nothing else takes.
const IMPORT_LOCK: i64 = 0x6d6f_6c74_7072_6963;

/// An imported list.
#[derive(Clone, Debug, PartialEq, sqlx::FromRow)]
pub struct StoredList {
    /// Rises with every import; the highest is in force.
    pub number: i64,
    pub version: String,
    pub dated: NaiveDate,
    pub source: String,
    pub list: Value,
    pub imported_at: Time,
}

/// The prices that calls are charged at, by model: `{"provider/model": Price}`.
#[derive(Clone, Debug, PartialEq, sqlx::FromRow)]
pub struct StoredBook {
    pub version: String,
    pub prices: Value,
    /// The list below it, and where that came from; none: nobody said.
    pub list_version: Option<String>,
    pub dated: Option<NaiveDate>,
    pub source: Option<String>,
    pub created_at: Time,
}

impl SystemTx {
    /// The number of the list in force; none: nobody imported one. Cheap, to see whether there is a newer one.
    pub async fn price_list_number(&mut self) -> Result<Option<i64>> {
        Ok(sqlx::query_scalar("select max(number) from molt.price_lists").fetch_one(&mut *self.tx).await?)
    }

    /// The list in force; none: nobody imported one.
    pub async fn price_list(&mut self) -> Result<Option<StoredList>> {
        let sql = "select number, version, dated, source, list, imported_at from molt.price_lists
                   order by number desc limit 1";
        Ok(sqlx::query_as(sql).fetch_optional(&mut *self.tx).await?)
    }

    /// The list of this version.
    pub async fn price_list_of(&mut self, version: &str) -> Result<Option<StoredList>> {
        let sql = "select number, version, dated, source, list, imported_at from molt.price_lists
                   where version = $1 order by number desc limit 1";
        Ok(sqlx::query_as(sql).bind(version).fetch_optional(&mut *self.tx).await?)
    }

    /// Puts a list in force; every process hears of it at the commit. The caller holds `lock_price_lists`.
    pub async fn import_price_list(
        &mut self,
        version: &str,
        dated: NaiveDate,
        source: &str,
        list: &Value,
        now: Time,
    ) -> Result<i64> {
        let sql = "insert into molt.price_lists (version, dated, source, list, imported_at)
                   values ($1, $2, $3, $4, $5) returning number";
        let number = sqlx::query_scalar(sql).bind(version).bind(dated).bind(source).bind(list).bind(now);
        Ok(number.fetch_one(&mut *self.tx).await?)
    }

    /// Two imports at a time would each be laid over the list before both: one waits for the other.
    pub async fn lock_price_lists(&mut self) -> Result<()> {
        sqlx::query("select pg_advisory_xact_lock($1)").bind(IMPORT_LOCK).execute(&mut *self.tx).await?;
        Ok(())
    }

    /// Keeps a price book that usage rows will name. Books never change: a version that is there stays as it is.
    pub async fn keep_price_book(&mut self, version: &str, prices: &Value, now: Time) -> Result<()> {
        sqlx::query(
            "insert into molt.price_books (version, prices, created_at) values ($1, $2, $3) on conflict do nothing",
        )
        .bind(version)
        .bind(prices)
        .bind(now)
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }

    /// As `keep_price_book`, with the book's origin.
    pub async fn keep_book(&mut self, book: &StoredBook) -> Result<()> {
        sqlx::query(
            "insert into molt.price_books (version, prices, list_version, dated, source, created_at)
             values ($1, $2, $3, $4, $5, $6) on conflict do nothing",
        )
        .bind(&book.version)
        .bind(&book.prices)
        .bind(&book.list_version)
        .bind(book.dated)
        .bind(&book.source)
        .bind(book.created_at)
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }

    /// The book of this version, as a usage row names it.
    pub async fn price_book(&mut self, version: &str) -> Result<Option<StoredBook>> {
        let sql = "select version, prices, list_version, dated, source, created_at from molt.price_books
                   where version = $1";
        Ok(sqlx::query_as(sql).bind(version).fetch_optional(&mut *self.tx).await?)
    }

    /// The versions that there are, newest first: books, and when each was first used.
    pub async fn price_books(&mut self) -> Result<Vec<StoredBook>> {
        let sql = "select version, prices, list_version, dated, source, created_at from molt.price_books
                   order by created_at desc, version limit $1";
        Ok(sqlx::query_as(sql).bind(VERSIONS_MAX).fetch_all(&mut *self.tx).await?)
    }

    /// The providers that the proxies hold keys for, as the one said that started or read its keys last.
    pub async fn keyed_providers(&mut self) -> Result<BTreeSet<String>> {
        let names: Vec<String> =
            sqlx::query_scalar("select name from molt.keyed_providers").fetch_all(&mut *self.tx).await?;
        Ok(names.into_iter().collect())
    }

    /// Says which providers this process holds keys for. Says nothing again that was said before.
    pub async fn say_keyed_providers(&mut self, names: &BTreeSet<String>, now: Time) -> Result<()> {
        if self.keyed_providers().await? == *names {
            return Ok(());
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        sqlx::query("delete from molt.keyed_providers where name <> all ($1)")
            .bind(&names)
            .execute(&mut *self.tx)
            .await?;
        sqlx::query(
            "insert into molt.keyed_providers (name, said_at) select unnest($1::text[]), $2 on conflict do nothing",
        )
        .bind(&names)
        .bind(now)
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Channel;
    use crate::testing::database;
    use serde_json::json;

    fn at(text: &str) -> Time {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn lists_and_books_are_only_ever_added() {
        let database = database().await;
        let mut wakeups = database.store.wakeups().subscribe();
        // The listening connection says so when it stands; nothing sent before reaches it.
        while wakeups.recv().await.unwrap() != Channel::All {}
        let (now, dated) = (at("2026-11-22T10:00:00Z"), "2026-11-01".parse().unwrap());
        let mut tx = database.store.system().await.unwrap();
        assert_eq!((tx.price_list_number().await.unwrap(), tx.price_list().await.unwrap()), (None, None));
        tx.lock_price_lists().await.unwrap();
        let first = tx.import_price_list("one", dated, "here", &json!({"a": 1}), now).await.unwrap();
        let second = tx.import_price_list("two", dated, "there", &json!({"a": 2}), now).await.unwrap();
        let again = tx.import_price_list("one", dated, "here", &json!({"a": 1}), now).await.unwrap();
        tx.commit().await.unwrap();
        assert!(first < second && second < again);
        while wakeups.recv().await.unwrap() != Channel::Prices {}

        let mut tx = database.store.system().await.unwrap();
        assert_eq!(tx.price_list_number().await.unwrap(), Some(again));
        let newest = tx.price_list().await.unwrap().unwrap();
        assert_eq!((newest.number, newest.version.as_str(), &newest.list), (again, "one", &json!({"a": 1})));
        assert_eq!(tx.price_list_of("two").await.unwrap().unwrap().number, second);
        assert_eq!(tx.price_list_of("three").await.unwrap(), None);
        let book = StoredBook {
            version: "b".to_owned(),
            prices: json!({"p/m": {"input": 1, "output": 2}}),
            list_version: Some("one".to_owned()),
            dated: Some(dated),
            source: Some("here".to_owned()),
            created_at: now,
        };
        tx.keep_book(&book).await.unwrap();
        tx.keep_book(&StoredBook { prices: json!({}), ..book.clone() }).await.unwrap();
        tx.keep_price_book("b", &json!({"other": 1}), now).await.unwrap();
        tx.keep_price_book("plain", &json!({}), at("2026-11-21T10:00:00Z")).await.unwrap();
        assert_eq!(tx.price_book("b").await.unwrap(), Some(book));
        assert_eq!(tx.price_book("c").await.unwrap(), None);
        let versions: Vec<_> = tx.price_books().await.unwrap().into_iter().map(|book| book.version).collect();
        assert_eq!(versions, ["b", "plain"]);
        tx.commit().await.unwrap();
        let emptied = "truncate molt.price_books";
        for statement in ["update molt.price_books set prices = '{}'", "delete from molt.price_lists", emptied] {
            let refused = "exception when raise_exception then if sqlerrm not like '%append-only' then raise; end if;";
            database.execute(&format!("do $$ begin {statement}; raise exception 'done'; {refused} end $$")).await;
        }
    }

    #[tokio::test]
    async fn the_last_proxy_says_which_providers_have_keys() {
        let database = database().await;
        let now = at("2026-11-22T10:00:00Z");
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        for names in [&["openai", "venice"][..], &["venice"], &["venice"], &[]] {
            let mut tx = database.store.system().await.unwrap();
            tx.say_keyed_providers(&set(names), now).await.unwrap();
            assert_eq!(tx.keyed_providers().await.unwrap(), set(names));
            tx.commit().await.unwrap();
        }
    }
}

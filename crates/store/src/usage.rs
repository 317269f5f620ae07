//! The books: one row per model call, written once by its request id, and sums of rows for people to read.
//! Never: a row without the event that announces it, a row that changes, or a figure that isn't a sum of rows.

mod record;

use std::sync::Arc;

use chrono::NaiveDate;
use molt_model::usage::Estimate;
use molt_model::{BotId, HolderId, KeyId, Nanos, PriceVersion, RequestId, RunId, Time, TokenUsage, UserId};
use uuid::Uuid;

use crate::{Result, SystemTx, TenantTx};

/// The surface of a chat completion: what the chat counts against the calls of a run.
pub const SURFACE_CHAT: &str = "chat";
pub const SURFACE_EMBEDDINGS: &str = "embeddings";

/// The period in force at `$now` for the row `b` of `molt.billing` (all null: no plan yet): the subscription's own, or
/// what follows it while its renewal is still on the way, or else the calendar month in UTC.
macro_rules! period_sql {
    ($now:literal) => {
        concat!(
            "select case when ",
            $now,
            " < b.current_period_end then b.current_period_start
                         when ",
            $now,
            " < b.current_period_end + interval '1 month' then b.current_period_end
                         else date_trunc('month', ",
            $now,
            "::timestamptz, 'UTC') end as period_start,
                    case when ",
            $now,
            " < b.current_period_end then b.current_period_end
                         when ",
            $now,
            " < b.current_period_end + interval '1 month' then b.current_period_end + interval '1 month'
                         else date_trunc('month', ",
            $now,
            "::timestamptz, 'UTC') + interval '1 month' end as period_end"
        )
    };
}
pub(crate) use period_sql;

/// One settled call, as the proxy's journal keeps it and the books take it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettledCall {
    pub id: RequestId,
    /// Whose lease it was paid from.
    pub holder: HolderId,
    /// The period whose budgets it counts in.
    pub period_start: Time,
    pub user: UserId,
    pub book_key: Uuid,
    pub bot: Option<BotId>,
    pub key: KeyId,
    /// The trace id that the caller sent. A label: it counts only when it names a run of the same bot.
    pub run: Option<RunId>,
    pub provider: Arc<str>,
    /// `provider/model`.
    pub model: Arc<str>,
    pub surface: Arc<str>,
    pub usage: TokenUsage,
    /// The worst case that was set aside for it.
    pub reserved_nanos: i64,
    /// What the person is charged.
    pub cost_nanos: i64,
    /// What it cost above all that could be charged: the operator's.
    pub operator_nanos: i64,
    pub price_version: PriceVersion,
    /// Why the figures aren't the provider's own.
    pub estimate: Option<Estimate>,
    pub first_byte_ms: Option<i64>,
    pub duration_ms: i64,
    pub at: Time,
}

/// Sums over a period.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageSummary {
    pub tokens_in: i64,
    pub tokens_out: i64,
    pub cost: Nanos,
    pub calls: i64,
    /// Dearest first.
    pub by_model: Vec<ModelUsage>,
    /// Oldest first; days in UTC, days without calls left out.
    pub by_day: Vec<DayUsage>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelUsage {
    pub model: String,
    pub tokens_in: i64,
    pub tokens_out: i64,
    pub cost: Nanos,
    pub calls: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DayUsage {
    pub day: NaiveDate,
    pub tokens_in: i64,
    pub tokens_out: i64,
    pub cost: Nanos,
    pub calls: i64,
}

type SumRow<T> = (T, i64, i64, i64, i64);

impl TenantTx {
    /// The period that this person's cap and bill count in: `(start, end)`, end excluded.
    pub async fn usage_period(&mut self, now: Time) -> Result<(Time, Time)> {
        let sql = concat!(
            "select p.period_start, p.period_end
             from (select $1::uuid as user_id) u left join molt.billing b on b.user_id = u.user_id
             cross join lateral (",
            period_sql!("$2"),
            ") p"
        );
        Ok(sqlx::query_as(sql).bind(self.user.0).bind(now).fetch_one(&mut *self.tx).await?)
    }

    /// What this person used from `start` (included) to `end` (excluded).
    pub async fn usage_summary(&mut self, start: Time, end: Time) -> Result<UsageSummary> {
        let by_model: Vec<SumRow<String>> = sqlx::query_as(
            "select model, sum(tokens_in)::bigint, sum(tokens_out)::bigint, sum(cost_nanos)::bigint, count(*)
             from molt.usage_logs where user_id = $1 and at >= $2 and at < $3 group by model order by 4 desc, 1",
        )
        .bind(self.user.0)
        .bind(start)
        .bind(end)
        .fetch_all(&mut *self.tx)
        .await?;
        let by_day: Vec<SumRow<NaiveDate>> = sqlx::query_as(
            "select (at at time zone 'UTC')::date, sum(tokens_in)::bigint, sum(tokens_out)::bigint,
                    sum(cost_nanos)::bigint, count(*)
             from molt.usage_logs where user_id = $1 and at >= $2 and at < $3 group by 1 order by 1",
        )
        .bind(self.user.0)
        .bind(start)
        .bind(end)
        .fetch_all(&mut *self.tx)
        .await?;
        let model = |(model, tokens_in, tokens_out, cost, calls): SumRow<String>| ModelUsage {
            model,
            tokens_in,
            tokens_out,
            cost: Nanos(cost),
            calls,
        };
        let day = |(day, tokens_in, tokens_out, cost, calls): SumRow<NaiveDate>| DayUsage {
            day,
            tokens_in,
            tokens_out,
            cost: Nanos(cost),
            calls,
        };
        Ok(UsageSummary {
            tokens_in: by_model.iter().map(|row| row.1).sum(),
            tokens_out: by_model.iter().map(|row| row.2).sum(),
            cost: by_model.iter().map(|row| Nanos(row.3)).sum(),
            calls: by_model.iter().map(|row| row.4).sum(),
            by_model: by_model.into_iter().map(model).collect(),
            by_day: by_day.into_iter().map(day).collect(),
        })
    }
}

impl SystemTx {
    /// Calls of the chat surface that the books know of this run.
    pub async fn usage_count_of_run(&mut self, run: RunId) -> Result<i64> {
        let sql = "select count(*) from molt.usage_logs where run_id = $1 and surface = $2";
        Ok(sqlx::query_scalar(sql).bind(run.0).bind(SURFACE_CHAT).fetch_one(&mut *self.tx).await?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::StoreError;
    use crate::testing::{TestDatabase, database};

    fn at(text: &str) -> Time {
        text.parse().unwrap()
    }

    async fn person(database: &TestDatabase) -> UserId {
        let user = UserId::random();
        let values = format!("('{user}', 'test', '{user}', '{user}@example.com')");
        database.execute(&format!("insert into molt.users (id, issuer, subject, email) values {values}")).await;
        user
    }

    fn call(user: UserId, nanos: i64, when: &str) -> SettledCall {
        SettledCall {
            id: RequestId::random(),
            holder: HolderId::random(),
            period_start: at("2026-11-01T00:00:00Z"),
            user,
            book_key: Uuid::new_v4(),
            bot: None,
            key: KeyId::random(),
            run: Some(RunId::random()),
            provider: "p".into(),
            model: "p/m".into(),
            surface: SURFACE_CHAT.into(),
            usage: TokenUsage { input: 3, output: 2, ..TokenUsage::default() },
            reserved_nanos: nanos,
            cost_nanos: nanos,
            operator_nanos: 0,
            price_version: PriceVersion("v".to_owned()),
            estimate: Some(Estimate::HungUp),
            first_byte_ms: None,
            duration_ms: 1,
            at: at(when),
        }
    }

    #[tokio::test]
    async fn the_period_is_the_subscriptions_or_the_month() {
        let database = database().await;
        let user = person(&database).await;
        let period = async |now: &str| {
            let (start, end) = database.store.tenant(user).await.unwrap().usage_period(at(now)).await.unwrap();
            (start.to_rfc3339(), end.to_rfc3339())
        };
        let day = |date: &str| format!("{date}T00:00:00+00:00");
        assert_eq!(period("2026-11-22T10:00:00Z").await, (day("2026-11-01"), day("2026-12-01")));
        let billing = "insert into molt.billing (user_id, provider, current_period_start, current_period_end)";
        database.execute(&format!("{billing} values ('{user}', 'local', '2026-11-20Z', '2026-12-20Z')")).await;
        assert_eq!(period("2026-12-19T23:00:00Z").await, (day("2026-11-20"), day("2026-12-20")));
        // The renewal is on its way.
        assert_eq!(period("2026-12-20T00:00:00Z").await, (day("2026-12-20"), day("2027-01-20")));
        // There was none for a long time.
        assert_eq!(period("2027-03-05T00:00:00Z").await, (day("2027-03-01"), day("2027-04-01")));
    }

    #[tokio::test]
    async fn a_call_is_booked_once_and_outlives_its_person() {
        let database = database().await;
        let (user, other) = (person(&database).await, person(&database).await);
        let now = at("2026-11-22T10:00:00Z");
        let mut tx = database.store.system().await.unwrap();
        tx.keep_price_book("v", &json!({}), now).await.unwrap();
        tx.keep_price_book("v", &json!({ "other": 1 }), now).await.unwrap();
        let first = call(user, 5, "2026-11-22T10:00:00Z");
        let second = call(user, 7, "2026-11-23T10:00:00Z");
        let gone = call(UserId::random(), 9, "2026-11-22T10:00:00Z");
        assert_eq!(tx.record_new_calls(std::slice::from_ref(&first), now).await.unwrap(), [first.id]);
        assert_eq!(tx.record_calls(std::slice::from_ref(&first), now).await.unwrap(), []);
        let batch = [first.clone(), second.clone(), second.clone(), gone.clone()];
        let mut new = tx.record_calls(&batch, now).await.unwrap();
        let mut expected = vec![second.id, gone.id];
        new.sort();
        expected.sort();
        assert_eq!(new, expected);
        assert_eq!(tx.record_calls(&batch, now).await.unwrap(), []);
        assert_eq!(tx.record_calls(&[], now).await.unwrap(), []);
        tx.commit().await.unwrap();
        let mut tx = database.store.system().await.unwrap();
        let mixed = [call(user, 3, "2026-11-22T10:00:00Z"), second];
        let refused = tx.record_new_calls(&mixed, now).await;
        let known = |constraint: &str| constraint == "usage_logs_pkey";
        assert!(matches!(&refused, Err(StoreError::Constraint { constraint }) if known(constraint)), "{refused:?}");
        drop(tx);
        assert_eq!(database.count("select count(*) from molt.usage_logs").await, 3);
        assert_eq!(database.text("select prices from molt.price_books").await.as_deref(), Some("{}"));
        assert_eq!(database.count("select count(*) from molt.events").await, 2);
        assert_eq!(database.count("select count(*) from molt.usage_logs where user_id is null").await, 1);
        let summary = async |user| {
            let mut tx = database.store.tenant(user).await.unwrap();
            tx.usage_summary(at("2026-11-22T00:00:00Z"), at("2026-11-23T10:00:00Z")).await.unwrap()
        };
        let mine = summary(user).await;
        assert_eq!((mine.cost, mine.calls, mine.by_model.len(), mine.by_day.len()), (Nanos(5), 1, 1, 1));
        assert_eq!(summary(other).await, UsageSummary::default());
        database.execute(&format!("delete from molt.users where id = '{user}'")).await;
        assert_eq!(database.count("select sum(cost_nanos) from molt.usage_logs where user_id is null").await, 21);
    }

    /// More rows than one statement takes are one batch all the same.
    #[tokio::test]
    async fn a_batch_of_many_statements_is_booked_whole_or_not_at_all() {
        let database = database().await;
        let user = person(&database).await;
        let now = at("2026-11-22T10:00:00Z");
        let calls: Vec<_> = (0..601).map(|_| call(user, 2, "2026-11-22T10:00:00Z")).collect();
        let mut tx = database.store.system().await.unwrap();
        tx.keep_price_book("v", &json!({}), now).await.unwrap();
        let last = calls.iter().max_by_key(|call| (call.key, call.id)).unwrap();
        assert_eq!(tx.record_new_calls(std::slice::from_ref(last), now).await.unwrap().len(), 1);
        tx.commit().await.unwrap();
        let mut tx = database.store.system().await.unwrap();
        let refused = tx.record_new_calls(&calls, now).await;
        assert!(
            matches!(&refused, Err(StoreError::Constraint { .. })),
            "the last row of the last statement: {refused:?}"
        );
        drop(tx);
        let spent = "select settled_nanos from molt.budgets where scope = 'user'";
        assert_eq!((database.count("select count(*) from molt.usage_logs").await, database.count(spent).await), (1, 2));
        let mut tx = database.store.system().await.unwrap();
        let new = tx.record_calls(&calls, now).await.unwrap();
        tx.commit().await.unwrap();
        assert!(new.len() == 600 && !new.contains(&last.id));
        assert_eq!(
            (database.count("select count(*) from molt.usage_logs").await, database.count(spent).await),
            (601, 1202)
        );
    }

    #[tokio::test]
    async fn a_row_names_only_people_and_prices_that_are_there() {
        let database = database().await;
        let user = person(&database).await;
        let now = at("2026-11-22T10:00:00Z");
        let mut tx = database.store.system().await.unwrap();
        tx.keep_price_book("v", &json!({}), now).await.unwrap();
        let good = call(user, 5, "2026-11-22T10:00:00Z");
        tx.record_new_calls(std::slice::from_ref(&good), now).await.unwrap();
        tx.commit().await.unwrap();
        let stranger =
            SettledCall { price_version: PriceVersion("w".to_owned()), ..call(user, 7, "2026-11-22T10:00:00Z") };
        let mut tx = database.store.system().await.unwrap();
        let refused = tx.record_new_calls(&[call(user, 3, "2026-11-22T10:00:00Z"), stranger], now).await;
        let named = |error: StoreError| match error {
            StoreError::Constraint { constraint } => constraint,
            other => panic!("{other:?}"),
        };
        assert_eq!(named(refused.unwrap_err()), "usage_logs_price_version_fkey");
        drop(tx);
        for (change, constraint) in [
            ("user_id = gen_random_uuid()", "usage_logs_user_id_fkey"),
            ("price_version = 'w'", "usage_logs_price_version_fkey"),
        ] {
            let mut tx = database.store.system().await.unwrap();
            let changed = sqlx::AssertSqlSafe(format!("update molt.usage_logs set {change}"));
            let refused = sqlx::query(changed).execute(&mut *tx.tx).await;
            assert_eq!(named(refused.unwrap_err().into()), constraint);
        }
        assert_eq!(database.count("select sum(cost_nanos) from molt.usage_logs").await, 5);
    }

    /// Whoever is erased while rows of theirs are being written is in none of them afterwards.
    #[tokio::test]
    async fn an_erasure_waits_for_the_books() {
        let database = database().await;
        let user = person(&database).await;
        let now = at("2026-11-22T10:00:00Z");
        let mut tx = database.store.system().await.unwrap();
        tx.keep_price_book("v", &json!({}), now).await.unwrap();
        tx.record_new_calls(&[call(user, 5, "2026-11-22T10:00:00Z")], now).await.unwrap();
        let sql = format!("delete from molt.users where id = '{user}'");
        let erased = database.execute(&sql);
        let waits = "select count(*) > 0 from pg_stat_activity where datname = current_database()
                       and wait_event_type = 'Lock' and query like 'delete from molt.users%'";
        let booked = async {
            while database.text(waits).await.as_deref() != Some("true") {}
            tx.commit().await.unwrap();
        };
        tokio::join!(erased, booked);
        assert_eq!(database.count("select sum(cost_nanos) from molt.usage_logs where user_id is null").await, 5);
    }

    #[tokio::test]
    async fn a_batch_tells_each_person_once_what_it_sums_to() {
        let database = database().await;
        let (user, other) = (person(&database).await, person(&database).await);
        let now = at("2026-11-22T10:00:00Z");
        let mut tx = database.store.system().await.unwrap();
        tx.keep_price_book("v", &json!({}), now).await.unwrap();
        let mine = |nanos| call(user, nanos, "2026-11-22T10:00:00Z");
        let theirs = SettledCall { operator_nanos: 5, ..call(other, 1, "2026-11-22T10:00:00Z") };
        let batch = [mine(5), SettledCall { model: "p/other".into(), ..mine(7) }, theirs.clone(), mine(0)];
        assert_eq!(tx.record_calls(&batch, now).await.unwrap().len(), 4);
        assert_eq!(tx.record_calls(&batch, now).await.unwrap().len(), 0);
        tx.commit().await.unwrap();
        assert_eq!(database.count("select count(*) from molt.events").await, 2);
        let told = async |user: UserId| -> serde_json::Value {
            let sql = format!("select body from molt.events where user_id = '{user}' and id = 1 and kind = 'usage'");
            serde_json::from_str(&database.text(&sql).await.unwrap()).unwrap()
        };
        let sums = json!({ "type": "usage", "run_id": null, "model": null, "tokens_in": 9, "tokens_out": 6,
                           "cost_usd": "0.000000012", "duration_ms": 3, "calls": 3 });
        assert_eq!(told(user).await, sums);
        let single = json!({ "type": "usage", "run_id": null, "model": "p/m", "tokens_in": 3, "tokens_out": 2,
                             "cost_usd": "0.000000001", "duration_ms": 1 });
        assert_eq!(told(other).await, single);
        let row = "select holder || ' ' || reserved_nanos || ' ' || operator_nanos || ' ' || to_char(period_start at time zone 'UTC', 'YYYY-MM-DD') from molt.usage_logs where id";
        let row = database.text(&format!("{row} = '{}'", theirs.id)).await.unwrap();
        assert_eq!(row, format!("{} 1 5 2026-11-01", theirs.holder));
    }
}

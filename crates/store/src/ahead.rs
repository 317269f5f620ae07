//! Places that a host makes ahead of a plan: which bots are worth one, and how far each stands.
//! Never: a word about the place of a bot that ever ran; the database refuses it.

use molt_model::Time;
use molt_model::bot::Ahead;

use crate::fleet::Lease;
use crate::{Result, SystemTx};

impl SystemTx {
    /// Makes bots due that wait for their first plan, were made after `since` and have no place, as long as fewer than
    /// `at_once` are due or worked on; places that are to be tried again later don't count.
    pub async fn bots_without_place_are_due(&mut self, now: Time, since: Time, at_once: i64) -> Result<u64> {
        let sql = "update molt.bots set due_at = $1 where id in (
                     select id from molt.bots where intent = 'awaiting_plan' and observed = 'reserved' and ahead is null
                       and created_at > $2 and gateway_token is null and due_at is null and leased_until is null
                     order by created_at
                     limit greatest(0, $3
                       - (select count(*) from molt.bots where ahead = 'making' and leased_until is not null)
                       - (select count(*) from molt.bots where intent = 'awaiting_plan' and observed = 'reserved'
                            and ahead is null and created_at > $2 and coalesce(leased_until, due_at) is not null))
                     for update skip locked)";
        Ok(sqlx::query(sql).bind(now).bind(since).bind(at_once).execute(&mut *self.tx).await?.rows_affected())
    }

    /// Notes how far the place stands. `false`: the lease was lost, or the bot is to run or ran; nothing may be done to it.
    pub async fn note_ahead(&mut self, lease: &Lease, ahead: Ahead) -> Result<bool> {
        let sql = "update molt.bots set ahead = $3
                   where id = $1 and leased_until = $2 and observed = 'reserved' and gateway_token is null";
        let query = sqlx::query(sql).bind(lease.bot.as_str()).bind(lease.until).bind(ahead.as_str());
        Ok(query.execute(&mut *self.tx).await?.rows_affected() == 1)
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use molt_model::{BotId, UserId};

    use super::*;
    use crate::testing::{TestDatabase, database};

    async fn waiting(database: &TestDatabase, user: UserId, age: &str) -> BotId {
        let bot = BotId::random();
        let sql = format!(
            "insert into molt.bots (id, user_id, bot_name, vertical, settings, intent, observed, created_at)
             values ('{bot}', '{user}', 'Pip', 'developer', '{{}}', 'awaiting_plan', 'reserved', now() - interval '{age}')"
        );
        database.execute(&sql).await;
        bot
    }

    async fn due(database: &TestDatabase, at_once: i64) -> u64 {
        let now: Time = chrono::Utc::now();
        let mut system = database.store.system().await.unwrap();
        let due = system.bots_without_place_are_due(now, now - TimeDelta::hours(1), at_once).await.unwrap();
        system.commit().await.unwrap();
        due
    }

    #[tokio::test]
    async fn new_bots_that_wait_are_worth_a_place_a_few_at_a_time_and_those_that_ran_never_are() {
        let database = database().await;
        let user = UserId::random();
        let person = format!("insert into molt.users (id, issuer, subject, email) values ('{user}', 'i', 's', 'e')");
        database.execute(&person).await;
        let (first, old) = (waiting(&database, user, "9 minutes").await, waiting(&database, user, "61 minutes").await);
        let (second, ran) = (waiting(&database, user, "1 minute").await, waiting(&database, user, "5 minutes").await);
        let run = format!("update molt.bots set gateway_token = '\\x00' where id = '{ran}'");
        database.execute(&run).await;
        assert_eq!((due(&database, 1).await, due(&database, 9).await, due(&database, 9).await), (1, 1, 0));
        let waits = "select string_agg(id, ' ' order by created_at) from molt.bots where due_at is not null";
        assert_eq!(database.text(waits).await.unwrap(), format!("{first} {second}"), "not {old}, not {ran}");

        // What is being made counts; a place of a bot that ran can't be written down at all.
        database
            .execute(&format!(
                "update molt.bots set ahead = 'making', due_at = null, leased_until = now() where id = '{first}'"
            ))
            .await;
        database.execute(&format!("update molt.bots set due_at = null where id = '{second}'")).await;
        assert_eq!((due(&database, 1).await, due(&database, 2).await), (0, 1));
        let mut system = database.store.system().await.unwrap();
        let sql = "update molt.bots set ahead = 'made' where gateway_token is not null";
        let refused = sqlx::query(sql).execute(&mut *system.tx).await.unwrap_err().to_string();
        assert!(refused.contains("bots_ahead_never_ran"), "{refused}");
    }

    #[tokio::test]
    async fn a_place_is_noted_under_the_lease_until_the_bot_gets_its_token() {
        let database = database().await;
        let user = UserId::random();
        let person = format!("insert into molt.users (id, issuer, subject, email) values ('{user}', 'i', 's', 'e')");
        database.execute(&person).await;
        waiting(&database, user, "1 minute").await;
        due(&database, 9).await;
        let now: Time = chrono::Utc::now();
        let mut system = database.store.system().await.unwrap();
        let lease = system.claim_due_bots(now, now + TimeDelta::minutes(1), 9).await.unwrap().remove(0);
        let lost = Lease { until: lease.until + TimeDelta::seconds(1), ..lease.clone() };
        assert!(system.note_ahead(&lease, Ahead::Made).await.unwrap());
        assert!(!system.note_ahead(&lost, Ahead::Leaving).await.unwrap());
        let noted = sqlx::query_scalar::<_, Option<String>>("select ahead from molt.bots");
        assert_eq!(noted.fetch_one(&mut *system.tx).await.unwrap().as_deref(), Some("made"));
        system.keep_gateway_token(&lease, "fly", b"sealed").await.unwrap();
        let noted = sqlx::query_scalar::<_, Option<String>>("select ahead from molt.bots");
        assert_eq!(noted.fetch_one(&mut *system.tx).await.unwrap(), None, "it is the bot's own");
        assert!(!system.note_ahead(&lease, Ahead::Leaving).await.unwrap(), "never again");
    }
}

//! Places that a host makes ahead of a plan: who wants one, which bots are worth one, and how far each stands.
//! Never: a word about the place of a bot that ever ran; the database refuses it.

use chrono::TimeDelta;
use molt_model::bot::Ahead;
use molt_model::{BotId, Time};

use crate::fleet::Lease;
use crate::{Channel, Result, SystemTx, TenantTx};

/// Signs that come closer together are one: neither a row nor a wake-up for each.
const SAME_SIGN: TimeDelta = TimeDelta::seconds(10);

impl TenantTx {
    /// Notes that the person wants the plan that this bot waits for, or all of theirs that wait for their first one. For how
    /// many that is news; what is worth a place, the fleet decides.
    pub async fn plan_is_wanted(&mut self, bot: Option<&BotId>, now: Time) -> Result<u64> {
        // In the order in which a plan takes them, so that the two never wait for each other.
        let sql = "update molt.bots set wanted_at = $3 where id in (
                     select id from molt.bots where user_id = $1 and ($2::text is null or id = $2)
                       and intent = 'awaiting_plan' and observed = 'reserved' and wanted_at < $4
                     order by id for no key update)";
        let query = sqlx::query(sql).bind(self.user.0).bind(bot.map(BotId::as_str)).bind(now).bind(now - SAME_SIGN);
        let news = query.execute(&mut *self.tx).await?.rows_affected();
        if news > 0 {
            self.notify(&Channel::Fleet).await?;
        }
        Ok(news)
    }
}

impl SystemTx {
    /// Makes bots due that wait for their first plan, were wanted after `since` and have no place, as long as fewer than
    /// `at_once` are due or worked on; places that are to be tried again later don't count.
    pub async fn bots_without_place_are_due(&mut self, now: Time, since: Time, at_once: i64) -> Result<u64> {
        let sql = "update molt.bots set due_at = $1 where id in (
                     select id from molt.bots where intent = 'awaiting_plan' and observed = 'reserved'
                       and (ahead is null or ahead = 'lapsed')
                       and wanted_at > $2 and gateway_token is null and due_at is null and leased_until is null
                     order by wanted_at
                     limit greatest(0, $3
                       - (select count(*) from molt.bots where ahead = 'making' and leased_until is not null)
                       - (select count(*) from molt.bots where intent = 'awaiting_plan' and observed = 'reserved'
                            and (ahead is null or ahead = 'lapsed') and wanted_at > $2
                            and coalesce(leased_until, due_at) is not null))
                     for update skip locked)";
        Ok(sqlx::query(sql).bind(now).bind(since).bind(at_once).execute(&mut *self.tx).await?.rows_affected())
    }

    /// Makes bots due whose place could not be made and that were wanted again since. One is put off by as long as it had
    /// been wanted when it failed; one that is put off by more than it is wanted now, and by more than `pause`, was wanted anew.
    pub async fn bots_wanted_again_are_due(&mut self, now: Time, pause: TimeDelta) -> Result<u64> {
        let sql = "update molt.bots set due_at = $1 where ahead = 'making' and leased_until is null
                     and due_at > greatest($2, $1 + ($1 - wanted_at))";
        Ok(sqlx::query(sql).bind(now).bind(now + pause).execute(&mut *self.tx).await?.rows_affected())
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
    use chrono::SubsecRound;
    use molt_model::UserId;

    use super::*;
    use crate::testing::{TestDatabase, database};

    async fn waiting(database: &TestDatabase, user: UserId, age: &str) -> BotId {
        let bot = BotId::random();
        let sql = format!(
            "insert into molt.bots (id, user_id, bot_name, vertical, settings, intent, observed, wanted_at)
             values ('{bot}', '{user}', 'Pip', 'developer', '{{}}', 'awaiting_plan', 'reserved', now() - interval '{age}')"
        );
        database.execute(&sql).await;
        bot
    }

    async fn person(database: &TestDatabase) -> UserId {
        let user = UserId::random();
        let sql =
            format!("insert into molt.users (id, issuer, subject, email) values ('{user}', 'i', '{user}', '{user}')");
        database.execute(&sql).await;
        user
    }

    async fn wants(database: &TestDatabase, user: UserId, bot: Option<&BotId>, now: Time) -> u64 {
        let mut tx = database.store.tenant(user).await.unwrap();
        let news = tx.plan_is_wanted(bot, now).await.unwrap();
        tx.commit().await.unwrap();
        news
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
        let user = person(&database).await;
        let (first, old) = (waiting(&database, user, "9 minutes").await, waiting(&database, user, "61 minutes").await);
        let (second, ran) = (waiting(&database, user, "1 minute").await, waiting(&database, user, "5 minutes").await);
        let run = format!("update molt.bots set gateway_token = '\\x00' where id = '{ran}'");
        database.execute(&run).await;
        assert_eq!((due(&database, 1).await, due(&database, 9).await, due(&database, 9).await), (1, 1, 0));
        let waits = "select string_agg(id, ' ' order by wanted_at) from molt.bots where due_at is not null";
        assert_eq!(database.text(waits).await.unwrap(), format!("{first} {second}"), "not {old}, not {ran}");

        // What is being made counts; a place of a bot that ran can't be written down at all.
        database
            .execute(&format!(
                "update molt.bots set ahead = 'making', due_at = null, leased_until = now() where id = '{first}'"
            ))
            .await;
        database.execute(&format!("update molt.bots set due_at = null where id = '{second}'")).await;
        assert_eq!((due(&database, 1).await, due(&database, 2).await), (0, 1));
        // What went is made again for whom it is wanted anew.
        let lapsed =
            format!("update molt.bots set ahead = 'lapsed', leased_until = null where id in ('{first}', '{old}')");
        database.execute(&lapsed).await;
        database.execute(&format!("update molt.bots set due_at = now() where id = '{second}'")).await;
        assert_eq!((due(&database, 1).await, due(&database, 2).await, due(&database, 9).await), (0, 1, 0), "not {old}");
        let mut system = database.store.system().await.unwrap();
        let sql = "update molt.bots set ahead = 'made' where gateway_token is not null";
        let refused = sqlx::query(sql).execute(&mut *system.tx).await.unwrap_err().to_string();
        assert!(refused.contains("bots_ahead_never_ran"), "{refused}");
    }

    /// Every kind of bot that a person may have, a day after each was made; only what waits for its first plan is touched.
    #[tokio::test]
    async fn a_sign_is_noted_for_the_bots_that_wait_for_their_first_plan_and_for_no_others() {
        let database = database().await;
        let (ann, bob) = (person(&database).await, person(&database).await);
        let (one, two, theirs) = (
            waiting(&database, ann, "1 day").await,
            waiting(&database, ann, "1 day").await,
            waiting(&database, bob, "1 day").await,
        );
        let mut others = vec![theirs.clone()];
        for change in [
            "observed = 'stopped', gateway_token = '\\x00'",
            "intent = 'running'",
            "intent = 'running', observed = 'running', gateway_token = '\\x00'",
            "intent = 'deleted'",
            "intent = 'stopped', intent_reason = 'Because.', intent_before = 'awaiting_plan'",
        ] {
            let bot = waiting(&database, ann, "1 day").await;
            database.execute(&format!("update molt.bots set {change} where id = '{bot}'")).await;
            others.push(bot);
        }
        let wanted = |since: Time| {
            format!("select string_agg(id, ' ' order by id) from molt.bots where wanted_at >= '{}'", since.to_rfc3339())
        };
        let everything = "select md5(string_agg((to_jsonb(b) - 'wanted_at')::text, ' ' order by id)) from molt.bots b";
        // As precise as the database.
        let (before, now): (_, Time) = (database.text(everything).await, chrono::Utc::now().trunc_subsecs(6));
        let fleet = database.second_store().await;
        let mut wakeups = fleet.wakeups().subscribe();
        while wakeups.recv().await.unwrap() != Channel::All {}

        for bot in &others {
            assert_eq!(wants(&database, ann, Some(bot), now).await, 0, "{bot}");
        }
        assert_eq!(wants(&database, bob, Some(&one), now).await, 0);
        assert_eq!(database.text(&wanted(now - TimeDelta::hours(1))).await, None);
        assert_eq!(wants(&database, ann, Some(&one), now).await, 1);
        assert_eq!(database.text(&wanted(now)).await.as_deref(), Some(one.as_str()));
        // The one that was named is news no more, the other one is.
        assert_eq!(wants(&database, ann, None, now + TimeDelta::seconds(9)).await, 1);
        let mut both = [one.as_str(), two.as_str()];
        both.sort_unstable();
        assert_eq!(database.text(&wanted(now)).await, Some(both.join(" ")));
        assert_eq!(wants(&database, ann, None, now + TimeDelta::seconds(9)).await, 0);
        assert_eq!(wants(&database, ann, None, now + TimeDelta::seconds(60)).await, 2);
        assert_eq!(database.text(everything).await, before, "nothing but the sign is written");

        // The fleet is woken once for each sign that was news.
        let mut system = database.store.system().await.unwrap();
        system.notify(&Channel::Outbox).await.unwrap();
        system.commit().await.unwrap();
        let mut heard = Vec::new();
        while heard.last() != Some(&Channel::Outbox) {
            heard.push(wakeups.recv().await.unwrap());
        }
        assert_eq!(heard, [Channel::Fleet, Channel::Fleet, Channel::Fleet, Channel::Outbox]);
    }

    /// A request states the sign about its own person's bots, and nothing of what follows from it.
    #[tokio::test]
    async fn a_request_may_write_the_sign_and_not_what_the_fleet_makes_of_it() {
        let database = database().await;
        let (ann, bob) = (person(&database).await, person(&database).await);
        waiting(&database, ann, "1 day").await;
        waiting(&database, bob, "1 day").await;
        let acting = async |sql| database.as_tenant(Some(ann), sql).await;
        assert_eq!(acting("update molt.bots set wanted_at = now() where wanted_at < now()").await, Ok(1), "not bob's");
        for sql in [
            "update molt.bots set ahead = 'lapsed'",
            "update molt.bots set gateway_token = null",
            "update molt.bots set leased_until = null",
            "select ahead from molt.bots",
        ] {
            let refused = acting(sql).await.unwrap_err();
            assert!(refused.contains("permission denied"), "{sql}: {refused}");
        }
    }

    #[tokio::test]
    async fn a_place_is_noted_under_the_lease_until_the_bot_gets_its_token() {
        let database = database().await;
        let user = person(&database).await;
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

//! Spare places: ids that were drawn before their bots, under which a host has made a place already. The fleet keeps them, a
//! request that makes a bot takes one.
//! Never: an id that a bot has or had, or one that two bots could get.

use molt_model::{BotId, Time};
use sqlx::Row;

use crate::fleet::bot_id;
use crate::{Result, SystemTx, TenantTx};

/// Two fleets that fill up at the same time do it one after the other: any constant that nothing else takes.
const FILL_LOCK: &str = "molt.spares";

/// A place that waits for a bot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spare {
    /// The id that its bot will have.
    pub id: BotId,
    /// It is there and nothing ever ran in it, as far as anybody knows.
    pub made: bool,
}

impl TenantTx {
    /// The id of a place that is there, for a bot that is made in this transaction. `None`: none is.
    pub(crate) async fn take_spare(&mut self) -> Result<Option<BotId>> {
        let row = sqlx::query("select molt.take_spare() as id").fetch_one(&mut *self.tx).await?;
        row.try_get::<Option<String>, _>("id")?.map(|_| bot_id(&row, "id")).transpose()
    }
}

impl SystemTx {
    /// At the start of a fleet: after a restored backup anything may have become of a place, so each has to be looked at.
    /// Ids that a bot has or had are no spares.
    pub async fn spares_are_unsure(&mut self) -> Result<()> {
        let sql = "delete from molt.spares s where exists (select from molt.bots b where b.id = s.id)
                     or exists (select from molt.tombstones t where t.bot_id = s.id)";
        sqlx::query(sql).execute(&mut *self.tx).await?;
        sqlx::query("update molt.spares set made_at = null").execute(&mut *self.tx).await?;
        Ok(())
    }

    /// All of them in the order of their ids, up to `limit`.
    pub async fn spares(&mut self, limit: i64) -> Result<Vec<Spare>> {
        let sql = "select id, made_at is not null as made from molt.spares order by id limit $1";
        let rows = sqlx::query(sql).bind(limit).fetch_all(&mut *self.tx).await?;
        rows.iter().map(|row| Ok(Spare { id: bot_id(row, "id")?, made: row.try_get("made")? })).collect()
    }

    /// Sees to it that there are `count` of them: out of `drawn` as many as are missing come in, none of them made, and of
    /// those that are too many the ones that aren't made go first.
    pub async fn level_spares(&mut self, count: i64, drawn: &[BotId]) -> Result<()> {
        sqlx::query("select pg_advisory_xact_lock(hashtext($1))").bind(FILL_LOCK).execute(&mut *self.tx).await?;
        let drawn: Vec<&str> = drawn.iter().map(BotId::as_str).collect();
        let sql = "insert into molt.spares (id) select * from unnest($1::text[])
                   limit greatest(0, $2 - (select count(*) from molt.spares))";
        sqlx::query(sql).bind(drawn).bind(count).execute(&mut *self.tx).await?;
        // Whoever takes one just now has it locked.
        let sql = "delete from molt.spares where id in (
                     select id from molt.spares order by made_at desc nulls first, id
                     limit greatest(0, (select count(*) from molt.spares) - $1) for update skip locked)";
        sqlx::query(sql).bind(count).execute(&mut *self.tx).await?;
        Ok(())
    }

    /// The place is there. `false`: nobody waited for that.
    pub async fn spare_is_made(&mut self, id: &BotId, now: Time) -> Result<bool> {
        let sql = "update molt.spares set made_at = $2 where id = $1 and made_at is null";
        Ok(sqlx::query(sql).bind(id.as_str()).bind(now).execute(&mut *self.tx).await?.rows_affected() == 1)
    }

    /// The place is none for a new bot. `false`: it was no spare any more.
    pub async fn drop_spare(&mut self, id: &BotId) -> Result<bool> {
        let sql = "delete from molt.spares where id = $1 and made_at is null";
        Ok(sqlx::query(sql).bind(id.as_str()).execute(&mut *self.tx).await?.rows_affected() == 1)
    }

    /// Those that were known to be there before `since` and aren't among what the host holds have to be made anew. How many.
    pub async fn spares_are_missed(&mut self, held: &[BotId], since: Time) -> Result<u64> {
        let held: Vec<&str> = held.iter().map(BotId::as_str).collect();
        let sql = "update molt.spares set made_at = null where made_at < $2
                     and not exists (select from unnest($1::text[]) held where held = id)";
        Ok(sqlx::query(sql).bind(held).bind(since).execute(&mut *self.tx).await?.rows_affected())
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use molt_model::{Personality, Settings, UserId};

    use super::*;
    use crate::bots::{Made, NewBot, RequestKey};
    use crate::testing::{TestDatabase, database};

    /// A database with a person whose plan is in force, and `made` of two spares.
    async fn stage(made: usize) -> (TestDatabase, UserId, Vec<BotId>) {
        let (database, user) = (database().await, UserId::random());
        database
            .execute(&format!(
                "insert into molt.users (id, issuer, subject, email) values ('{user}', 'i', 's', 'e');
                 insert into molt.billing (user_id, provider, subscription_status) values ('{user}', 'local', 'active')"
            ))
            .await;
        let mut ids = vec![BotId::random(), BotId::random()];
        let mut system = database.store.system().await.unwrap();
        system.level_spares(2, &ids).await.unwrap();
        for (n, id) in ids.iter().take(made).enumerate() {
            assert!(system.spare_is_made(id, chrono::Utc::now() - TimeDelta::minutes(9 - n as i64)).await.unwrap());
            assert!(!system.spare_is_made(id, chrono::Utc::now()).await.unwrap(), "it is already");
        }
        system.commit().await.unwrap();
        ids.truncate(made);
        (database, user, ids)
    }

    fn new_bot() -> NewBot {
        let catalog = molt_model::Catalog::new(
            molt_model::PriceVersion("v".into()),
            Vec::new(),
            "practice/practice-1".into(),
            None,
        );
        let settings = Settings::new("Pip".into(), Personality::Friendly, "UTC".into(), &catalog);
        NewBot { id: BotId::random(), vertical: "developer".parse().unwrap(), settings }
    }

    async fn insert(tx: &mut TenantTx, bot: &NewBot, request: Option<&RequestKey>) -> Made {
        tx.insert_bot(bot, request, 9, chrono::Utc::now()).await.unwrap()
    }

    async fn of_bot(database: &TestDatabase, id: &BotId, what: &str) -> Option<String> {
        database.text(&format!("select {what} from molt.bots where id = '{id}'")).await
    }

    const SPARES: &str = "select count(*) from molt.spares";

    #[tokio::test]
    async fn bots_that_are_made_at_once_get_places_of_their_own_and_the_next_one_its_own_id() {
        let (database, user, ids) = stage(2).await;
        let other = UserId::random();
        database
            .execute(&format!("insert into molt.users (id, issuer, subject, email) values ('{other}', 'i', 'o', 'o')"))
            .await;
        let (mut one, mut two) =
            (database.store.tenant(user).await.unwrap(), database.store.tenant(other).await.unwrap());
        assert_eq!(
            insert(&mut one, &new_bot(), None).await,
            Made::New(ids[0].clone()),
            "the one that is there longest"
        );
        // The first one is still at it, and nobody waits.
        assert_eq!(insert(&mut two, &new_bot(), None).await, Made::New(ids[1].clone()));
        let (mut three, late) = (database.store.tenant(user).await.unwrap(), new_bot());
        one.commit().await.unwrap();
        assert_eq!(insert(&mut three, &late, None).await, Made::New(late.id.clone()));
        three.commit().await.unwrap();
        two.commit().await.unwrap();
        assert_eq!(database.count(SPARES).await, 0);

        let facts = "format('%s %s %s', claim is not null, ahead, due_at is not null)";
        assert_eq!(of_bot(&database, &ids[0], facts).await.as_deref(), Some("t made t"), "it is to run");
        assert_eq!(of_bot(&database, &ids[1], facts).await.as_deref(), Some("t made t"), "it waits for a plan");
        assert_eq!(of_bot(&database, &late.id, facts).await.as_deref(), Some("f  t"));
        assert_eq!(database.count("select count(distinct claim) from molt.bots").await, 2);
        let told =
            "select string_agg(bot_id, ' ' order by at, id) from molt.events where kind = 'bot.created' and user_id";
        assert_eq!(database.text(&format!("{told} = '{other}'")).await.as_deref(), Some(ids[1].as_str()));
    }

    #[tokio::test]
    async fn what_comes_to_nothing_takes_nothing() {
        let (database, user, ids) = stage(1).await;
        let mut broken = database.store.tenant(user).await.unwrap();
        assert_eq!(insert(&mut broken, &new_bot(), None).await, Made::New(ids[0].clone()));
        drop(broken);
        let request = RequestKey { key: "k".into(), hash: vec![1] };
        let mut tx = database.store.tenant(user).await.unwrap();
        assert_eq!(insert(&mut tx, &new_bot(), Some(&request)).await, Made::New(ids[0].clone()), "it was given back");
        tx.commit().await.unwrap();
        database.execute("update molt.spares set made_at = now()").await;
        assert_eq!(database.count(SPARES).await, 1);

        // The same request again, another one with its key, and one too many.
        let mut tx = database.store.tenant(user).await.unwrap();
        assert_eq!(insert(&mut tx, &new_bot(), Some(&request)).await, Made::Before(ids[0].clone()));
        let other = RequestKey { hash: vec![2], ..request };
        assert_eq!(insert(&mut tx, &new_bot(), Some(&other)).await, Made::KeyOfAnother);
        assert_eq!(tx.insert_bot(&new_bot(), None, 1, chrono::Utc::now()).await.unwrap(), Made::TooMany);
        tx.commit().await.unwrap();
        assert_eq!(database.count(SPARES).await, 1);
    }

    #[tokio::test]
    async fn a_place_that_is_not_there_yet_is_nobodys() {
        let (database, user, _) = stage(0).await;
        let (mut tx, bot) = (database.store.tenant(user).await.unwrap(), new_bot());
        assert_eq!(insert(&mut tx, &bot, None).await, Made::New(bot.id.clone()));
        tx.commit().await.unwrap();
        assert_eq!(database.count(SPARES).await, 2);
        assert_eq!(of_bot(&database, &bot.id, "claim").await, None);
    }

    #[tokio::test]
    async fn a_request_sees_no_spares_and_states_no_facts_about_a_place() {
        let (database, user, _) = stage(2).await;
        for sql in [
            "select * from molt.spares",
            "delete from molt.spares",
            "insert into molt.spares (id) values ('molt-x')",
            "update molt.spares set made_at = now()",
            "select claim from molt.bots",
            "update molt.bots set claim = gen_random_uuid()",
        ] {
            let refused = database.as_tenant(Some(user), sql).await.unwrap_err();
            assert!(refused.contains("permission denied"), "{sql}: {refused}");
        }
        // Loops fill up; they make no bots.
        let mut system = database.store.system().await.unwrap();
        let refused = sqlx::query("select molt.take_spare()").execute(&mut *system.tx).await.unwrap_err().to_string();
        assert!(refused.contains("permission denied"), "{refused}");
    }

    #[tokio::test]
    async fn there_are_as_many_as_are_wanted_and_those_that_are_made_go_last() {
        let (database, _, made) = stage(1).await;
        let rows = async || {
            let mut system = database.store.system().await.unwrap();
            system.spares(9).await.unwrap()
        };
        let level = async |count: i64| {
            let mut system = database.store.system().await.unwrap();
            let drawn: Vec<BotId> = (0..count).map(|_| BotId::random()).collect();
            system.level_spares(count, &drawn).await.unwrap();
            system.commit().await.unwrap();
            rows().await
        };
        assert_eq!(rows().await.len(), 2);
        assert_eq!(level(4).await.len(), 4);
        assert_eq!(level(4).await, rows().await, "once");
        assert_eq!(level(1).await, [Spare { id: made[0].clone(), made: true }]);
        assert!(level(0).await.is_empty());

        // Two at once.
        let (one, two) = tokio::join!(level(3), level(3));
        assert_eq!((one.len(), two.len(), rows().await.len()), (3, 3, 3));
    }

    #[tokio::test]
    async fn what_a_host_does_not_hold_is_made_anew_and_what_is_unsure_is_looked_at() {
        let (database, user, ids) = stage(2).await;
        let now = chrono::Utc::now();
        let mut system = database.store.system().await.unwrap();
        let held = std::slice::from_ref(&ids[0]);
        assert_eq!(system.spares_are_missed(&ids, now).await.unwrap(), 0);
        assert_eq!(system.spares_are_missed(held, now - TimeDelta::minutes(30)).await.unwrap(), 0, "a listing lags");
        assert_eq!(system.spares_are_missed(held, now).await.unwrap(), 1);
        let made = |spares: &[Spare]| {
            spares.iter().filter(|spare| spare.made).map(|spare| spare.id.clone()).collect::<Vec<_>>()
        };
        assert_eq!(made(&system.spares(9).await.unwrap()), held);
        assert_eq!(system.bots_with_row(&ids).await.unwrap().len(), 2, "they are somebody's to come");
        assert!(!system.drop_spare(&ids[0]).await.unwrap(), "a bot may have it any moment");
        system.spares_are_unsure().await.unwrap();
        assert!(made(&system.spares(9).await.unwrap()).is_empty());
        assert!(system.drop_spare(&ids[0]).await.unwrap());
        system.commit().await.unwrap();

        // A table that was restored alone names one that a bot has.
        let bot = format!(
            "insert into molt.bots (id, user_id, bot_name, vertical, settings, intent)
             values ('{}', '{user}', 'Pip', 'developer', '{{}}', 'running')",
            ids[1]
        );
        database.execute(&bot).await;
        let mut system = database.store.system().await.unwrap();
        system.spares_are_unsure().await.unwrap();
        assert!(system.spares(9).await.unwrap().is_empty());
    }
}

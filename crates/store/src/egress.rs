//! Where a bot may go by its owner's word, and where it wanted to go and wasn't let.
//! Never: a domain allowed for somebody else's bot, or a list of refusals that a bot can make longer without end.

use chrono::{DateTime, TimeDelta, Utc};
use molt_model::egress::{Domain, Reason};
use molt_model::{BotId, Event, EventKind, Time};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{Result, StoreError, SystemTx, TenantTx};

/// Refusals that are kept of one bot, the newest ones.
const REFUSALS_MAX: i64 = 200;
/// A bot's owner is told of so many domains a day; the others stand in the list all the same.
const TOLD_A_DAY_MAX: i64 = 20;

/// What decides where a bot may go, besides the operator's rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// Allowed by its owner.
    pub domains: Vec<Domain>,
    /// The ids of its skills that are turned on.
    pub skills: Vec<String>,
    /// Of the key that its cell shows for a way out, where no socket says whose it is. `None`: none is in force.
    pub key_hash: Option<Vec<u8>>,
}

/// Ways out that were refused, of one place and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// A domain, or an address.
    pub place: String,
    pub port: u16,
    pub reason: Reason,
    pub count: i64,
    pub first_at: Time,
    pub last_at: Time,
    /// Its owner isn't asked about it, or not any more.
    pub quiet: bool,
}

/// All of it, as a bot's owner sees it.
#[derive(Clone, Debug, Default)]
pub struct Egress {
    pub allowed: Vec<(Domain, Time)>,
    /// Skills that are turned on, and since when they are there.
    pub skills: Vec<(String, Time)>,
    /// The newest first.
    pub refused: Vec<Refused>,
}

/// What became of a domain that somebody wants to allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// Now, or before.
    Since(Time),
    TooMany,
    NotFound,
}

type WaysColumns = (Vec<String>, Vec<String>, Option<Vec<u8>>);
type RefusalColumns = (String, i32, String, i64, DateTime<Utc>, DateTime<Utc>, bool);

impl SystemTx {
    /// `None`: there is no such bot, and nothing is allowed to it.
    pub async fn ways_of(&mut self, bot: &BotId) -> Result<Option<Ways>> {
        let sql = "select array(select domain from molt.egress_allowed a
                             where a.bot_id = b.id and a.user_id = b.user_id order by domain),
                     array(select skill_id from molt.bot_skills s
                             where s.bot_id = b.id and s.user_id = b.user_id and s.enabled order by skill_id),
                     (select k.egress_hash from molt.ghost_keys k
                             where k.bot_id = b.id and k.revoked_at is null and k.egress_hash is not null
                             order by k.created_at desc, k.id limit 1)
                   from molt.bots b where b.id = $1 and b.intent <> 'deleted'";
        let row: Option<WaysColumns> = sqlx::query_as(sql).bind(bot.as_str()).fetch_optional(&mut *self.tx).await?;
        let Some((domains, skills, key_hash)) = row else { return Ok(None) };
        let domains = domains.iter().map(|text| text.parse().map_err(unexpected)).collect::<Result<_>>()?;
        Ok(Some(Ways { domains, skills, key_hash }))
    }

    /// Adds refusals of one bot to its list, and tells its owner of each domain that is new there. How many they were told
    /// of. A batch that is written twice counts twice; the list is for people to look at.
    pub async fn note_refusals(&mut self, bot: &BotId, refused: &[Refused], now: Time) -> Result<usize> {
        // The bot's row is locked, so that two proxies don't both take a domain for new.
        let sql = "select user_id from molt.bots where id = $1 and intent <> 'deleted' for no key update";
        let owner: Option<Uuid> = sqlx::query_scalar(sql).bind(bot.as_str()).fetch_optional(&mut *self.tx).await?;
        let Some(owner) = owner else { return Ok(0) };
        let refused = &self.still_refused(bot, owner, refused).await?;
        let mut news = self.new_places(bot, refused).await?;
        self.add_refusals(bot, owner, refused).await?;
        let sql = "delete from molt.egress_refusals where bot_id = $1 and (domain, port) in
                     (select domain, port from molt.egress_refusals where bot_id = $1
                      order by last_at desc, domain, port offset $2)";
        sqlx::query(sql).bind(bot.as_str()).bind(REFUSALS_MAX).execute(&mut *self.tx).await?;
        let sql = "select count(*) from molt.events where bot_id = $1 and kind = 'bot.egress_refused' and at > $2";
        let query = sqlx::query_scalar(sql).bind(bot.as_str()).bind(now - TimeDelta::days(1));
        let told: i64 = query.fetch_one(&mut *self.tx).await?;
        news.truncate(usize::try_from(TOLD_A_DAY_MAX - told).unwrap_or(0));
        for new in &news {
            let body = json!({ "domain": new.place, "port": new.port, "reason": new.reason });
            self.append_event(molt_model::UserId(owner), &event(bot, EventKind::BotEgressRefused, body), now).await?;
        }
        Ok(news.len())
    }

    /// Without what its owner has allowed while the batch was on its way.
    async fn still_refused(&mut self, bot: &BotId, owner: Uuid, refused: &[Refused]) -> Result<Vec<Refused>> {
        let sql = "select domain from molt.egress_allowed where bot_id = $1 and user_id = $2";
        let allowed: Vec<String> =
            sqlx::query_scalar(sql).bind(bot.as_str()).bind(owner).fetch_all(&mut *self.tx).await?;
        let is_over = |one: &&Refused| one.reason == Reason::NotListed && allowed.contains(&one.place);
        Ok(refused.iter().filter(|one| !is_over(one)).cloned().collect())
    }

    /// The first refusal of each place that isn't in the list yet and that somebody should hear of.
    async fn new_places<'a>(&mut self, bot: &BotId, refused: &'a [Refused]) -> Result<Vec<&'a Refused>> {
        let places: Vec<&str> = refused.iter().map(|refused| refused.place.as_str()).collect();
        let sql = "select distinct domain from molt.egress_refusals where bot_id = $1 and domain = any($2)";
        let known: Vec<String> =
            sqlx::query_scalar(sql).bind(bot.as_str()).bind(places).fetch_all(&mut *self.tx).await?;
        let mut news: Vec<&Refused> = Vec::new();
        for refused in refused {
            if !refused.quiet && !known.contains(&refused.place) && news.iter().all(|new| new.place != refused.place) {
                news.push(refused);
            }
        }
        Ok(news)
    }

    async fn add_refusals(&mut self, bot: &BotId, owner: Uuid, refused: &[Refused]) -> Result<()> {
        let sql = "insert into molt.egress_refusals (bot_id, user_id, domain, port, reason, count, first_at, last_at,
                     dismissed_at)
                   select $1, $2, domain, port, reason, count, first_at, last_at, case when quiet then last_at end
                   from unnest($3::text[], $4::int[], $5::text[], $6::bigint[], $7::timestamptz[], $8::timestamptz[],
                     $9::bool[]) as r (domain, port, reason, count, first_at, last_at, quiet)
                   on conflict (bot_id, domain, port) do update set reason = excluded.reason,
                     count = molt.egress_refusals.count + excluded.count,
                     last_at = greatest(molt.egress_refusals.last_at, excluded.last_at)";
        sqlx::query(sql)
            .bind(bot.as_str())
            .bind(owner)
            .bind(refused.iter().map(|one| one.place.as_str()).collect::<Vec<_>>())
            .bind(refused.iter().map(|one| i32::from(one.port)).collect::<Vec<_>>())
            .bind(refused.iter().map(|one| one.reason.as_str()).collect::<Vec<_>>())
            .bind(refused.iter().map(|one| one.count).collect::<Vec<_>>())
            .bind(refused.iter().map(|one| one.first_at).collect::<Vec<_>>())
            .bind(refused.iter().map(|one| one.last_at).collect::<Vec<_>>())
            .bind(refused.iter().map(|one| one.quiet).collect::<Vec<_>>())
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }
}

impl TenantTx {
    /// Where a bot of this person's may go and wanted to go.
    pub async fn egress(&mut self, bot: &BotId) -> Result<Egress> {
        let sql = "select domain, since from molt.egress_allowed where bot_id = $1 and user_id = $2 order by domain";
        let allowed: Vec<(String, Time)> =
            sqlx::query_as(sql).bind(bot.as_str()).bind(self.user.0).fetch_all(&mut *self.tx).await?;
        let sql = "select skill_id, installed_at from molt.bot_skills
                   where bot_id = $1 and user_id = $2 and enabled order by skill_id";
        let skills = sqlx::query_as(sql).bind(bot.as_str()).bind(self.user.0).fetch_all(&mut *self.tx).await?;
        let sql = "select domain, port, reason, count, first_at, last_at, dismissed_at is not null
                   from molt.egress_refusals where bot_id = $1 and user_id = $2
                   order by last_at desc, domain, port limit $3";
        let query = sqlx::query_as(sql).bind(bot.as_str()).bind(self.user.0).bind(REFUSALS_MAX);
        let refused: Vec<RefusalColumns> = query.fetch_all(&mut *self.tx).await?;
        let domain = |(text, since): (String, Time)| Ok((text.parse().map_err(unexpected)?, since));
        Ok(Egress {
            allowed: allowed.into_iter().map(domain).collect::<Result<_>>()?,
            skills,
            refused: refused.into_iter().map(refused_of).collect::<Result<_>>()?,
        })
    }

    /// Lets a bot of this person's reach a domain, unless `count_max` are allowed already. Safe to repeat. What was refused of
    /// it is forgotten.
    pub async fn allow_domain(&mut self, bot: &BotId, domain: &Domain, count_max: i64, now: Time) -> Result<Allowed> {
        // The bot's row is locked, so that two requests can't pass the limit together.
        let sql = "select from molt.bots where id = $1 and user_id = $2 and intent <> 'deleted' for no key update";
        let query = sqlx::query(sql).bind(bot.as_str()).bind(self.user.0);
        if query.fetch_optional(&mut *self.tx).await?.is_none() {
            return Ok(Allowed::NotFound);
        }
        let sql = "select since from molt.egress_allowed where bot_id = $1 and domain = $2";
        let query = sqlx::query_scalar(sql).bind(bot.as_str()).bind(domain.as_str());
        if let Some(since) = query.fetch_optional(&mut *self.tx).await? {
            return Ok(Allowed::Since(since));
        }
        let sql = "insert into molt.egress_allowed (bot_id, user_id, domain, since)
                   select $1, $2, $3, $4 where (select count(*) from molt.egress_allowed where bot_id = $1) < $5";
        let query = sqlx::query(sql).bind(bot.as_str()).bind(self.user.0).bind(domain.as_str()).bind(now);
        if query.bind(count_max).execute(&mut *self.tx).await?.rows_affected() == 0 {
            return Ok(Allowed::TooMany);
        }
        let sql = "delete from molt.egress_refusals where bot_id = $1 and user_id = $2 and domain = $3";
        sqlx::query(sql).bind(bot.as_str()).bind(self.user.0).bind(domain.as_str()).execute(&mut *self.tx).await?;
        self.egress_changed(bot, json!({ "domain": domain, "allowed": true }), now).await?;
        Ok(Allowed::Since(now))
    }

    /// Takes a domain back that was allowed. `false`: it wasn't.
    pub async fn take_back_domain(&mut self, bot: &BotId, domain: &Domain, now: Time) -> Result<bool> {
        let sql = "delete from molt.egress_allowed where bot_id = $1 and user_id = $2 and domain = $3";
        let query = sqlx::query(sql).bind(bot.as_str()).bind(self.user.0).bind(domain.as_str());
        if query.execute(&mut *self.tx).await?.rows_affected() == 0 {
            return Ok(false);
        }
        self.egress_changed(bot, json!({ "domain": domain, "allowed": false }), now).await?;
        Ok(true)
    }

    /// Puts the refusals of a domain aside: their bot's owner isn't asked about it again. `false`: there are none. Twice is
    /// once.
    pub async fn dismiss_refusals(&mut self, bot: &BotId, domain: &str, now: Time) -> Result<bool> {
        let sql = "update molt.egress_refusals set dismissed_at = coalesce(dismissed_at, $4)
                   where bot_id = $1 and user_id = $2 and domain = $3";
        let query = sqlx::query(sql).bind(bot.as_str()).bind(self.user.0).bind(domain).bind(now);
        if query.execute(&mut *self.tx).await?.rows_affected() == 0 {
            return Ok(false);
        }
        self.egress_changed(bot, json!({ "domain": domain, "dismissed": true }), now).await?;
        Ok(true)
    }

    async fn egress_changed(&mut self, bot: &BotId, body: Value, now: Time) -> Result<()> {
        self.append_event(&event(bot, EventKind::BotEgressChanged, body), now).await?;
        Ok(())
    }
}

fn event(bot: &BotId, kind: EventKind, body: Value) -> Event {
    Event { kind, bot: Some(bot.clone()), conversation: None, run: None, body }
}

fn refused_of((place, port, reason, count, first_at, last_at, quiet): RefusalColumns) -> Result<Refused> {
    let (port, reason) = (u16::try_from(port).map_err(unexpected)?, reason.parse().map_err(unexpected)?);
    Ok(Refused { place, port, reason, count, first_at, last_at, quiet })
}

fn unexpected(error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Unexpected(error.into())
}

//! What an operator sees of the fleet: how many bots are in which state, and which ones are stuck, and why.
//! Never: a query whose answer grows without a limit, or a change.

use molt_model::{BotId, Observed, Time, UserId};
use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::fleet::{bot_id, observed};
use crate::{Result, SystemTx};

/// What is over its time by less than this may end at any moment.
const GRACE_SECONDS: i64 = 30;
/// Changes of state without a rest: a start takes five, a bot that climbs the whole ladder of repair about twenty.
const MOVES_MAX: i64 = 40;
/// A bot that is due is claimed within milliseconds; a mass restart has a queue.
const UNATTENDED_SECONDS: i64 = 300;
/// Of each kind; the counts are of all.
const NAMED_MAX: i64 = 100;

/// All that is known at one moment.
#[derive(Clone, Debug, Default)]
pub struct Overview {
    pub counts: Vec<(Observed, i64)>,
    /// The one that is stuck for longest first, up to a limit for each kind.
    pub stuck: Vec<Stuck>,
}

impl Overview {
    /// How long ago the one that is stuck for longest should have got on; zero if none is.
    #[must_use]
    pub fn oldest_overdue(&self, now: Time) -> chrono::TimeDelta {
        self.stuck.iter().map(|stuck| now - stuck.due).max().unwrap_or_default()
    }
}

/// A bot that doesn't get on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    pub bot: BotId,
    pub user: UserId,
    pub observed: Observed,
    pub since: Time,
    pub why: StuckWhy,
    /// When it should have got on.
    pub due: Time,
    /// What the fleet noted last about it.
    pub last_error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StuckWhy {
    /// Its state has lasted longer than it may.
    Overdue,
    /// It changes from state to state and never rests.
    Loops,
    /// Somebody took it and never gave it back, and nobody took it after that.
    Leased,
    /// It waits to be looked at, and nobody looks.
    Unattended,
}

impl StuckWhy {
    pub const ALL: [Self; 4] = [Self::Overdue, Self::Loops, Self::Leased, Self::Unattended];

    /// The word in the API and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Overdue => "overdue",
            Self::Loops => "loops",
            Self::Leased => "leased",
            Self::Unattended => "unattended",
        }
    }
}

impl Stuck {
    /// For an operator.
    #[must_use]
    pub fn sentence(&self, now: Time) -> String {
        let (bot, phase) = (&self.bot, self.observed.phase());
        let late = words(now - self.due);
        let what = match self.why {
            StuckWhy::Overdue => format!("{bot} is in {phase}, {late} longer than that may take"),
            StuckWhy::Loops => {
                format!("{bot} goes from state to state and does not come to rest; now it is in {phase}")
            }
            StuckWhy::Leased => {
                format!("{bot} was taken by a fleet that did not give it back, {late} ago; does `molt fleet` run?")
            }
            StuckWhy::Unattended => format!("{bot} has been waiting in {phase} for {late}; does `molt fleet` run?"),
        };
        match &self.last_error {
            Some(error) => format!("{what} ({error})"),
            None => what,
        }
    }
}

fn words(time: chrono::TimeDelta) -> String {
    match time.num_seconds() {
        seconds @ ..120 => format!("{} s", seconds.max(0)),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

impl SystemTx {
    pub async fn fleet_overview(&mut self, now: Time) -> Result<Overview> {
        let sql = "select observed, phase, count(*) as count from molt.bots group by observed, phase";
        let mut counts = Vec::new();
        for row in sqlx::query(sql).fetch_all(&mut *self.tx).await? {
            counts.push((observed(&row)?, row.try_get("count")?));
        }
        counts.sort_by_key(|(observed, _)| Observed::ALL.iter().position(|state| state == observed));
        let mut stuck = Vec::new();
        for why in StuckWhy::ALL {
            stuck.extend(self.stuck_bots(why, now).await?);
        }
        // One that is stuck in two ways is named by the first.
        let mut named = std::collections::BTreeSet::new();
        stuck.retain(|stuck: &Stuck| named.insert(stuck.bot.clone()));
        stuck.sort_by_key(|stuck| stuck.due);
        Ok(Overview { counts, stuck })
    }

    async fn stuck_bots(&mut self, why: StuckWhy, now: Time) -> Result<Vec<Stuck>> {
        let grace = now - chrono::TimeDelta::seconds(GRACE_SECONDS);
        let late = now - chrono::TimeDelta::seconds(UNATTENDED_SECONDS);
        let query = match why {
            StuckWhy::Overdue => sqlx::query(
                "select id, user_id, observed, phase, phase_since, last_error, phase_deadline_at as due from molt.bots
                 where phase_deadline_at < $1 order by phase_deadline_at limit $2",
            )
            .bind(grace),
            StuckWhy::Loops => sqlx::query(
                "select id, user_id, observed, phase, phase_since, last_error, phase_since as due from molt.bots
                 where moves > 40 and moves > $1 order by moves desc limit $2",
            )
            .bind(MOVES_MAX),
            StuckWhy::Leased => sqlx::query(
                "select id, user_id, observed, phase, phase_since, last_error, leased_until as due from molt.bots
                 where leased_until is not null and coalesce(leased_until, due_at) < $1
                 order by coalesce(leased_until, due_at) limit $2",
            )
            .bind(grace),
            StuckWhy::Unattended => sqlx::query(
                "select id, user_id, observed, phase, phase_since, last_error, due_at as due from molt.bots
                 where leased_until is null and coalesce(leased_until, due_at) < $1
                 order by coalesce(leased_until, due_at) limit $2",
            )
            .bind(late),
        };
        let rows = query.bind(NAMED_MAX).fetch_all(&mut *self.tx).await?;
        rows.iter().map(|row| stuck(row, why)).collect()
    }
}

fn stuck(row: &PgRow, why: StuckWhy) -> Result<Stuck> {
    Ok(Stuck {
        bot: bot_id(row, "id")?,
        user: UserId(row.try_get("user_id")?),
        observed: observed(row)?,
        since: row.try_get("phase_since")?,
        why,
        due: row.try_get("due")?,
        last_error: row.try_get("last_error")?,
    })
}

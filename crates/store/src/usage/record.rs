//! Books batches of settled calls: rows, budgets and announcements in one transaction, each call once by its request id.
//! Never: a row whose budget doesn't count it, or a second one for the same call.

use std::collections::{BTreeMap, HashMap, HashSet};

use molt_model::usage::Estimate;
use molt_model::{BotId, ConversationId, Event, EventKind, Nanos, RequestId, RunId, Time, UserId};
use serde_json::{Value, json};
use sqlx::Row;
use uuid::Uuid;

use super::{SURFACE_CHAT, SettledCall};
use crate::budget::{self, Costs, Scope, ScopeKind};
use crate::{Result, SystemTx, event};

/// Rows of one statement: the database is at it for about a millisecond, so that whoever shares its core waits no longer.
const ROWS_AT_ONCE: usize = 250;

/// A run that a call's trace id names.
struct Run {
    conversation: Option<ConversationId>,
    ended: bool,
}

type Runs = HashMap<Uuid, Run>;

/// The text of an insert of calls, column by column, and what comes after it. The columns stand in the list, not in `from`: there
/// Postgres copies each of them into a store of its own first, a quarter of what a row costs.
macro_rules! insert_calls {
    ($rest:literal) => {
        concat!(
            "insert into molt.usage_logs (id, user_id, book_key, bot_id, key_id, run_id, provider, model, surface,
               tokens_in, tokens_out, tokens_cache_read, tokens_cache_write, tokens_reasoning, reserved_nanos, cost_nanos,
               operator_nanos, price_version, estimate, first_byte_ms, duration_ms, at, holder, period_start)
             select unnest($1::uuid[]), unnest($2::uuid[]), unnest($3::uuid[]), unnest($4::text[]),
               unnest($5::uuid[]), unnest($6::uuid[]), unnest($7::text[]), unnest($8::text[]), unnest($9::text[]),
               unnest($10::bigint[]), unnest($11::bigint[]), unnest($12::bigint[]), unnest($13::bigint[]),
               unnest($14::bigint[]), unnest($15::bigint[]), unnest($16::bigint[]), unnest($17::bigint[]),
               unnest($18::text[]), unnest($19::text[]), unnest($20::bigint[]), unnest($21::bigint[]),
               unnest($22::timestamptz[]), unnest($23::uuid[]), unnest($24::timestamptz[])",
            $rest
        )
    };
}

/// Fails where one is there already.
const INSERT_NEW: &str = insert_calls!("");
const INSERT: &str = insert_calls!(" on conflict (id) do nothing returning id");

impl SystemTx {
    /// Writes calls into the books, counts them in their budgets and announces them; a request id that is there already
    /// changes nothing. Returns the ids of the new rows. Safe to repeat.
    ///
    /// A call whose trace id is a run of the same bot that hasn't ended becomes a frame of its chat. All others are announced
    /// by one `usage` event for each person, which holds their sums: nothing may follow the frame that ends a run.
    pub async fn record_calls(&mut self, calls: &[SettledCall], now: Time) -> Result<Vec<RequestId>> {
        self.record(calls, now, false).await
    }

    /// The same for calls that are new in all likelihood, in less of the database's time. If one of them is there already it
    /// fails as `Constraint { usage_logs_pkey }`, nothing of this transaction stays, and `record_calls` does it.
    pub async fn record_new_calls(&mut self, calls: &[SettledCall], now: Time) -> Result<Vec<RequestId>> {
        self.record(calls, now, true).await
    }

    async fn record(&mut self, calls: &[SettledCall], now: Time, all_new: bool) -> Result<Vec<RequestId>> {
        let mut calls: Vec<&SettledCall> = calls.iter().collect();
        // Those that are paid from the same purses stand together.
        calls.sort_by_key(|call| (call.user, call.key, call.id));
        calls.dedup_by_key(|call| call.id);
        // Locks in the order in which every writer takes them: the bots (which writers of chat frames take), the people, the
        // budgets.
        let runs = self.lock_runs(&calls).await?;
        let people = self.lock_people(&calls).await?;
        let touched = calls
            .chunk_by(|a, b| paid_alike(a, b))
            .flat_map(|alike| scopes(alike[0]).into_iter().map(|scope| (scope.key(), alike[0].user)))
            .collect();
        budget::lock_for_booking(&mut self.tx, &touched).await?;
        let mut new = Vec::with_capacity(calls.len());
        for some in calls.chunks(ROWS_AT_ONCE) {
            new.extend(self.insert(some, &runs, &people, all_new).await?);
        }
        if new.len() < calls.len() {
            let new: HashSet<RequestId> = new.iter().copied().collect();
            calls.retain(|call| new.contains(&call.id));
        }
        let mut costs = Costs::new();
        for alike in calls.chunk_by(|a, b| paid_alike(a, b)) {
            let cost: i64 = alike.iter().map(|call| call.cost_nanos).sum();
            for scope in scopes(alike[0]).into_iter().filter(|_| cost != 0) {
                *costs.entry((scope.key(), alike[0].holder)).or_default() += cost;
            }
        }
        budget::settle(&mut self.tx, &costs).await?;
        self.count_hours(&calls, &runs).await?;
        calls.retain(|call| people.contains(&call.user));
        self.announce(&calls, &runs, now).await?;
        Ok(new)
    }

    /// The runs that these calls name, with their bots locked, so that none of them ends meanwhile.
    async fn lock_runs(&mut self, calls: &[&SettledCall]) -> Result<Runs> {
        let named = calls.iter().filter_map(|call| Some((call.run?.0, call.bot.as_ref()?.as_str())));
        let (runs, bots): (Vec<Uuid>, Vec<&str>) = named.unzip();
        if runs.is_empty() {
            return Ok(Runs::new());
        }
        let locked = sqlx::query(
            "select 1 from molt.bots where id in
               (select r.bot_id from molt.runs r join unnest($1::uuid[], $2::text[]) as n (id, bot_id) using (id, bot_id))
             order by id for no key update",
        )
        .bind(&runs)
        .bind(&bots)
        .execute(&mut *self.tx)
        .await?;
        if locked.rows_affected() == 0 {
            return Ok(Runs::new());
        }
        let rows: Vec<(Uuid, String, bool)> = sqlx::query_as(
            "select distinct id, r.conversation, r.state in ('finished', 'failed', 'aborted')
             from molt.runs r join unnest($1::uuid[], $2::text[]) as n (id, bot_id) using (id, bot_id)",
        )
        .bind(runs)
        .bind(bots)
        .fetch_all(&mut *self.tx)
        .await?;
        let run = |(id, conversation, ended): (Uuid, String, bool)| {
            (id, Run { conversation: conversation.parse().ok(), ended })
        };
        Ok(rows.into_iter().map(run).collect())
    }

    /// Who of them is still there. The rows of the others stay under their `book_key`.
    async fn lock_people(&mut self, calls: &[&SettledCall]) -> Result<HashSet<UserId>> {
        let mut users: Vec<Uuid> = calls.iter().map(|call| call.user.0).collect();
        users.dedup();
        let sql = "select id from molt.users where id = any($1) order by id for no key update";
        let there: Vec<Uuid> = sqlx::query_scalar(sql).bind(users).fetch_all(&mut *self.tx).await?;
        Ok(there.into_iter().map(UserId).collect())
    }

    async fn insert(
        &mut self,
        calls: &[&SettledCall],
        runs: &Runs,
        people: &HashSet<UserId>,
        all_new: bool,
    ) -> Result<Vec<RequestId>> {
        let run = |call: &SettledCall| call.run.map(|run| run.0).filter(|run| runs.contains_key(run));
        let numbers = |value: fn(&SettledCall) -> i64| calls.iter().map(|call| value(call)).collect::<Vec<i64>>();
        let texts =
            |value: for<'a> fn(&'a SettledCall) -> &'a str| calls.iter().map(|call| value(call)).collect::<Vec<&str>>();
        let ids = |value: fn(&SettledCall) -> Uuid| calls.iter().map(|call| value(call)).collect::<Vec<Uuid>>();
        let times = |value: fn(&SettledCall) -> Time| calls.iter().map(|call| value(call)).collect::<Vec<Time>>();
        let user = |call: &&SettledCall| people.contains(&call.user).then_some(call.user.0);
        // Looking for each id first, and marking each row twice, is work that new calls don't need.
        let sql = if all_new { INSERT_NEW } else { INSERT };
        let rows = sqlx::query(sql)
            .bind(ids(|call| call.id.0))
            .bind(calls.iter().map(user).collect::<Vec<Option<Uuid>>>())
            .bind(ids(|call| call.book_key))
            .bind(calls.iter().map(|call| call.bot.as_ref().map(BotId::as_str)).collect::<Vec<Option<&str>>>())
            .bind(ids(|call| call.key.0))
            .bind(calls.iter().map(|call| run(call)).collect::<Vec<Option<Uuid>>>())
            .bind(texts(|call| &call.provider))
            .bind(texts(|call| &call.model))
            .bind(texts(|call| &call.surface))
            .bind(numbers(|call| call.usage.input))
            .bind(numbers(|call| call.usage.output))
            .bind(numbers(|call| call.usage.cache_read))
            .bind(numbers(|call| call.usage.cache_write))
            .bind(numbers(|call| call.usage.reasoning))
            .bind(numbers(|call| call.reserved_nanos))
            .bind(numbers(|call| call.cost_nanos))
            .bind(numbers(|call| call.operator_nanos))
            .bind(texts(|call| &call.price_version.0))
            .bind(calls.iter().map(|call| call.estimate.map(Estimate::as_str)).collect::<Vec<Option<&str>>>())
            .bind(calls.iter().map(|call| call.first_byte_ms).collect::<Vec<Option<i64>>>())
            .bind(numbers(|call| call.duration_ms))
            .bind(times(|call| call.at))
            .bind(ids(|call| call.holder.0))
            .bind(times(|call| call.period_start))
            .fetch_all(&mut *self.tx)
            .await?;
        if all_new {
            return Ok(calls.iter().map(|call| call.id).collect());
        }
        rows.iter().map(|row| Ok(RequestId(row.try_get(0)?))).collect()
    }

    /// Adds new rows to the sums that `watch` looks at. After all other locks: whoever else writes there holds none of them.
    async fn count_hours(&mut self, calls: &[&SettledCall], runs: &Runs) -> Result<()> {
        let of_bots: Vec<(&str, &SettledCall)> =
            calls.iter().filter_map(|call| Some((call.bot.as_ref()?.as_str(), *call))).collect();
        if of_bots.is_empty() {
            return Ok(());
        }
        let unasked = |call: &SettledCall| call.run.is_none_or(|run| !runs.contains_key(&run.0));
        let sql = "insert into molt.bot_hours as h (bot_id, hour, calls, unasked, cost_nanos)
                   select bot_id, date_trunc('hour', at, 'UTC') as hour, count(*), count(*) filter (where unasked),
                     sum(cost_nanos)::bigint
                   from unnest($1::text[], $2::timestamptz[], $3::boolean[], $4::bigint[]) as c (bot_id, at, unasked, cost_nanos)
                   group by 1, 2 order by 1, 2
                   on conflict (bot_id, hour) do update set calls = h.calls + excluded.calls,
                     unasked = h.unasked + excluded.unasked, cost_nanos = h.cost_nanos + excluded.cost_nanos, unseen = true";
        sqlx::query(sql)
            .bind(of_bots.iter().map(|(bot, _)| *bot).collect::<Vec<&str>>())
            .bind(of_bots.iter().map(|(_, call)| call.at).collect::<Vec<Time>>())
            .bind(of_bots.iter().map(|(_, call)| unasked(call)).collect::<Vec<bool>>())
            .bind(of_bots.iter().map(|(_, call)| call.cost_nanos).collect::<Vec<i64>>())
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }

    /// The calls are sorted by person.
    async fn announce(&mut self, calls: &[&SettledCall], runs: &Runs, now: Time) -> Result<()> {
        let mut sums: BTreeMap<UserId, Vec<&SettledCall>> = BTreeMap::new();
        for call in calls {
            let run = call.run.and_then(|run| Some((run, runs.get(&run.0)?)));
            let Some((id, run)) = run.filter(|(_, run)| !run.ended && *call.surface == *SURFACE_CHAT) else {
                sums.entry(call.user).or_default().push(call);
                continue;
            };
            let event = Event {
                kind: EventKind::Chat,
                bot: call.bot.clone(),
                conversation: run.conversation.clone(),
                run: Some(id),
                body: frame(&[call], Some(id)),
            };
            event::append(&mut self.tx, call.user, &event, None, now).await?;
        }
        self.announce_sums(&sums, runs, now).await
    }

    /// One event for each person, all in one statement.
    async fn announce_sums(
        &mut self,
        sums: &BTreeMap<UserId, Vec<&SettledCall>>,
        runs: &Runs,
        now: Time,
    ) -> Result<()> {
        if sums.is_empty() {
            return Ok(());
        }
        let known = |call: &SettledCall| call.run.filter(|run| runs.contains_key(&run.0));
        let run: Vec<Option<RunId>> = sums.values().map(|calls| same(calls, known).flatten()).collect();
        let bodies: Vec<Value> = sums.values().zip(&run).map(|(calls, run)| frame(calls, *run)).collect();
        let conversation = |run: &Option<RunId>| Some(runs.get(&(*run)?.0)?.conversation.as_ref()?.as_str());
        let bot = |calls: &Vec<&SettledCall>| same(calls, |call| call.bot.clone()).flatten();
        sqlx::query(
            "with w as (select * from unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::jsonb[])
                        as w (user_id, bot_id, conversation, run_id, body)),
             next as (update molt.users u set event_id = u.event_id + 1 from w where u.id = w.user_id
                      returning u.id as user_id, u.event_id),
             written as (insert into molt.events (user_id, id, kind, bot_id, conversation, run_id, body, at)
                         select user_id, next.event_id, $6, w.bot_id, w.conversation, w.run_id, w.body, $7
                         from w join next using (user_id) returning user_id)
             select count(pg_notify('molt', 'events ' || user_id::text)) from written",
        )
        .bind(sums.keys().map(|user| user.0).collect::<Vec<Uuid>>())
        .bind(sums.values().map(|calls| bot(calls).map(String::from)).collect::<Vec<Option<String>>>())
        .bind(run.iter().map(conversation).collect::<Vec<Option<&str>>>())
        .bind(run.iter().map(|run| run.map(|run| run.0)).collect::<Vec<Option<Uuid>>>())
        .bind(bodies)
        .bind(EventKind::Usage.as_str())
        .bind(now)
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }
}

/// Whether two calls count in the same budgets, and against the same holder's leases.
fn paid_alike(a: &SettledCall, b: &SettledCall) -> bool {
    (a.user, a.key, a.period_start, a.holder) == (b.user, b.key, b.period_start, b.holder) && a.bot == b.bot
}

/// The budgets that a call counts in.
fn scopes(call: &SettledCall) -> Vec<Scope> {
    let scope = |kind, id| Scope { kind, id, period_start: call.period_start };
    let mut scopes = vec![scope(ScopeKind::Key, call.key.to_string()), scope(ScopeKind::User, call.user.to_string())];
    scopes.extend(call.bot.as_ref().map(|bot| scope(ScopeKind::Bot, bot.to_string())));
    scopes
}

/// What calls have in common; `None`: they differ.
fn same<T: PartialEq>(calls: &[&SettledCall], of: impl Fn(&SettledCall) -> T) -> Option<T> {
    let first = of(calls.first()?);
    calls.iter().all(|call| of(call) == first).then_some(first)
}

/// What is told of calls: the frame of a chat for one of them, or their sums.
fn frame(calls: &[&SettledCall], run: Option<RunId>) -> Value {
    let sum = |value: fn(&SettledCall) -> i64| calls.iter().map(|call| value(call)).sum::<i64>();
    let mut frame = json!({
        "type": "usage",
        "run_id": run,
        "model": same(calls, |call| call.model.clone()).as_deref(),
        "tokens_in": sum(|call| call.usage.input),
        "tokens_out": sum(|call| call.usage.output),
        "cost_usd": Nanos(sum(|call| call.cost_nanos)),
        "duration_ms": sum(|call| call.duration_ms),
    });
    if calls.len() > 1 {
        frame["calls"] = calls.len().into();
    }
    frame
}

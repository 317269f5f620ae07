//! What is left of a cap, and who may spend it: budgets, and leases of them to proxy processes.
//! Never: a grant beyond a cap, or an operation that counts twice because its answer was lost.
//!
//! Every writer takes its locks in one order: the holder, the people by id, the budgets by scope; a lease is only touched
//! under the lock of its budget. So `leased_nanos` of a budget is always the sum of its leases.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use chrono::SubsecRound;
use molt_model::{HolderId, Nanos, Time, UserId};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{Result, StoreError, SystemTx};

/// What a cap is set on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ScopeKind {
    User,
    Bot,
    Key,
}

impl ScopeKind {
    /// As the tables call it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Bot => "bot",
            Self::Key => "key",
        }
    }
}

/// One cap in one period.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scope {
    pub kind: ScopeKind,
    /// The person's, the bot's or the key's id as text.
    pub id: String,
    pub period_start: Time,
}

impl Scope {
    pub(crate) fn key(&self) -> ScopeKey {
        (self.kind.as_str(), self.id.clone(), self.period_start.trunc_subsecs(6))
    }
}

/// In the order in which budgets are locked. Times in the database have microseconds.
pub(crate) type ScopeKey = (&'static str, String, Time);

/// What a holder asks of one scope.
#[derive(Clone, Debug)]
pub struct LeaseWish {
    pub scope: Scope,
    pub user: UserId,
    /// The cap as the asker knows it.
    pub cap: Nanos,
    /// Less than this is no use: then nothing is granted.
    pub need: Nanos,
    /// As much of this as the cap allows. Below zero: so much is given back.
    pub want: Nanos,
}

/// The answer to a wish.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leased {
    /// Now more to spend; below zero: given back.
    pub granted: Nanos,
    /// Left of the cap after this, neither spent nor leased to anybody.
    pub free: Nanos,
    /// On lease to other holders.
    pub others: Nanos,
}

/// A proxy process whose leases haven't returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub id: HolderId,
    pub started_at: Time,
    /// It says so every few seconds while it lives and reaches the database.
    pub seen_at: Time,
    /// What it holds of people's caps.
    pub outstanding: Nanos,
}

/// A budget and what one holder has of it, read under the budget's lock.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    settled: i64,
    leased: i64,
    outstanding: i64,
    /// The newest operation and its answer.
    last: Option<(Uuid, Leased)>,
}

/// The decision, and the account after it.
fn decide(account: Account, op: Uuid, wish: &LeaseWish) -> (Account, Leased) {
    if let Some((_, answer)) = account.last.filter(|(last, _)| *last == op) {
        return (account, answer);
    }
    let free = wish.cap.0.saturating_sub(account.settled).saturating_sub(account.leased).max(0);
    let granted = if wish.want.0 < 0 && wish.need.0 <= 0 {
        wish.want.0.max(-account.outstanding)
    } else if free >= wish.need.0 {
        wish.want.0.max(wish.need.0).clamp(0, free)
    } else {
        0
    };
    let leased = account.leased + granted;
    let outstanding = account.outstanding + granted;
    let answer = Leased {
        granted: Nanos(granted),
        free: Nanos(wish.cap.0.saturating_sub(account.settled).saturating_sub(leased).max(0)),
        others: Nanos(leased - outstanding),
    };
    (Account { leased, outstanding, last: Some((op, answer)), ..account }, answer)
}

impl SystemTx {
    /// Grants and takes back, one wish per scope; the answers in the order of the wishes. Safe to repeat: an operation that
    /// is a scope's newest of this holder gives the same answer again and changes nothing, so a holder has one operation
    /// at a time on a scope and asks until it is answered. The scopes of somebody who is gone get nothing.
    ///
    /// `Constraint { holders_released }`: this holder was declared lost and may spend nothing any more.
    pub async fn lease(&mut self, holder: HolderId, op: Uuid, wishes: &[LeaseWish]) -> Result<Vec<Leased>> {
        lock_holder(&mut self.tx, holder).await?;
        lock_people(&mut self.tx, wishes.iter().map(|wish| wish.user).collect()).await?;
        let scopes = wishes.iter().map(|wish| (wish.scope.key(), wish.user)).collect();
        let mut accounts = lock_budgets(&mut self.tx, &scopes).await?;
        read_leases(&mut self.tx, holder, &mut accounts).await?;
        let mut answers = Vec::with_capacity(wishes.len());
        for wish in wishes {
            let Some(account) = accounts.get_mut(&wish.scope.key()) else {
                answers.push(Leased::default());
                continue;
            };
            let (after, answer) = decide(*account, op, wish);
            *account = after;
            answers.push(answer);
        }
        write_leases(&mut self.tx, holder, &accounts).await?;
        Ok(answers)
    }

    /// Says that a holder lives. `false`: it was released and must not spend.
    pub async fn holder_seen(&mut self, holder: HolderId, now: Time) -> Result<bool> {
        let sql = "insert into molt.holders (id, started_at, seen_at) values ($1, $2, $2)
                   on conflict (id) do update set seen_at = excluded.seen_at returning released_at is null";
        Ok(sqlx::query_scalar(sql).bind(holder.0).bind(now).fetch_one(&mut *self.tx).await?)
    }

    /// Gives back all that a holder has and lets it lease nothing more: its calls are in the books, or an operator declares
    /// it lost. Returns whether it held on until now. Safe to repeat.
    pub async fn release_holder(&mut self, holder: HolderId, now: Time) -> Result<bool> {
        let sql = "update molt.holders set released_at = $2 where id = $1 and released_at is null";
        let released = sqlx::query(sql).bind(holder.0).bind(now).execute(&mut *self.tx).await?.rows_affected() == 1;
        sqlx::query(
            "select 1 from molt.budgets b join molt.leases l using (scope, scope_id, period_start)
             where l.holder = $1 order by b.scope collate \"C\", b.scope_id collate \"C\", b.period_start
             for no key update of b",
        )
        .bind(holder.0)
        .execute(&mut *self.tx)
        .await?;
        sqlx::query(
            "with gone as (delete from molt.leases where holder = $1 returning scope, scope_id, period_start, outstanding_nanos)
             update molt.budgets b set leased_nanos = b.leased_nanos - gone.outstanding_nanos
             from gone where (b.scope, b.scope_id, b.period_start) = (gone.scope, gone.scope_id, gone.period_start)",
        )
        .bind(holder.0)
        .execute(&mut *self.tx)
        .await?;
        Ok(released)
    }

    /// The processes whose leases haven't returned, longest unseen first.
    pub async fn holders(&mut self) -> Result<Vec<Holder>> {
        let rows: Vec<(Uuid, Time, Time, i64)> = sqlx::query_as(
            "select h.id, h.started_at, h.seen_at,
                    coalesce((select sum(l.outstanding_nanos) from molt.leases l where l.holder = h.id and l.scope = 'user'), 0)::bigint
             from molt.holders h where h.released_at is null order by h.seen_at, h.id",
        )
        .fetch_all(&mut *self.tx)
        .await?;
        let holder = |(id, started_at, seen_at, outstanding)| Holder {
            id: HolderId(id),
            started_at,
            seen_at,
            outstanding: Nanos(outstanding),
        };
        Ok(rows.into_iter().map(holder).collect())
    }
}

/// So that it can't be released in the middle of a grant.
async fn lock_holder(connection: &mut PgConnection, holder: HolderId) -> Result<()> {
    sqlx::query("insert into molt.holders (id) values ($1) on conflict do nothing")
        .bind(holder.0)
        .execute(&mut *connection)
        .await?;
    let sql = "select released_at is null from molt.holders where id = $1 for share";
    if sqlx::query_scalar(sql).bind(holder.0).fetch_one(connection).await? {
        Ok(())
    } else {
        Err(StoreError::Constraint { constraint: "holders_released".to_owned() })
    }
}

/// So that nobody can be erased in the middle, which would take their budgets in another order.
async fn lock_people(connection: &mut PgConnection, users: Vec<UserId>) -> Result<()> {
    let users: Vec<Uuid> = users.into_iter().map(|user| user.0).collect();
    let sql = "select 1 from molt.users where id = any($1) order by id for key share";
    sqlx::query(sql).bind(users).execute(connection).await?;
    Ok(())
}

/// Columns of scopes, for `unnest`.
type Columns = (Vec<&'static str>, Vec<String>, Vec<Time>);

fn columns<'a>(keys: impl Iterator<Item = &'a ScopeKey>) -> Columns {
    let mut columns = Columns::default();
    for (kind, id, period_start) in keys {
        columns.0.push(kind);
        columns.1.push(id.clone());
        columns.2.push(*period_start);
    }
    columns
}

/// Makes the budgets that aren't there yet, and locks all of them in order. The ones of people who are gone are left out.
///
/// A new budget starts from the rows that are in the books. No row can slip in beside it: whoever writes rows of a scope
/// has its budget locked first, and so made.
async fn lock_budgets(
    connection: &mut PgConnection,
    scopes: &BTreeMap<ScopeKey, UserId>,
) -> Result<BTreeMap<ScopeKey, Account>> {
    let (kinds, ids, starts) = columns(scopes.keys());
    let users: Vec<Uuid> = scopes.values().map(|user| user.0).collect();
    sqlx::query(
        "insert into molt.budgets (scope, scope_id, period_start, user_id, settled_nanos)
         select w.scope, w.scope_id, w.period_start, w.user_id,
                (select coalesce(sum(l.cost_nanos), 0) from molt.usage_logs l
                 where l.user_id = w.user_id
                   and (l.period_start = w.period_start or (l.period_start is null and l.at >= w.period_start))
                   and case w.scope when 'user' then true when 'bot' then l.bot_id = w.scope_id
                                    else l.key_id::text = w.scope_id end)
         from unnest($1::text[], $2::text[], $3::timestamptz[], $4::uuid[]) as w (scope, scope_id, period_start, user_id)
         join molt.users u on u.id = w.user_id
         where not exists (select from molt.budgets b
                           where (b.scope, b.scope_id, b.period_start) = (w.scope, w.scope_id, w.period_start))
         order by w.scope collate \"C\", w.scope_id collate \"C\", w.period_start
         on conflict do nothing",
    )
    .bind(&kinds)
    .bind(&ids)
    .bind(&starts)
    .bind(users)
    .execute(&mut *connection)
    .await?;
    let rows: Vec<(String, String, Time, i64, i64)> = sqlx::query_as(
        "select b.scope, b.scope_id, b.period_start, b.settled_nanos, b.leased_nanos
         from unnest($1::text[], $2::text[], $3::timestamptz[]) as w (scope, scope_id, period_start)
         join molt.budgets b using (scope, scope_id, period_start)
         order by b.scope collate \"C\", b.scope_id collate \"C\", b.period_start for no key update of b",
    )
    .bind(kinds)
    .bind(ids)
    .bind(starts)
    .fetch_all(connection)
    .await?;
    let known = |scope: &str| scopes.keys().map(|key| key.0).find(|kind| *kind == scope);
    let account = |(scope, id, start, settled, leased): (String, String, Time, i64, i64)| {
        Some(((known(&scope)?, id, start), Account { settled, leased, ..Account::default() }))
    };
    Ok(rows.into_iter().filter_map(account).collect())
}

#[derive(sqlx::FromRow)]
struct LeaseRow {
    scope: String,
    scope_id: String,
    period_start: Time,
    outstanding_nanos: i64,
    op: Uuid,
    granted_nanos: i64,
    free_nanos: i64,
    others_nanos: i64,
}

async fn read_leases(
    connection: &mut PgConnection,
    holder: HolderId,
    accounts: &mut BTreeMap<ScopeKey, Account>,
) -> Result<()> {
    let (kinds, ids, starts) = columns(accounts.keys());
    let rows: Vec<LeaseRow> = sqlx::query_as(
        "select scope, scope_id, period_start, outstanding_nanos, op, granted_nanos, free_nanos, others_nanos
         from molt.leases join unnest($2::text[], $3::text[], $4::timestamptz[]) as w (scope, scope_id, period_start)
         using (scope, scope_id, period_start) where holder = $1",
    )
    .bind(holder.0)
    .bind(kinds)
    .bind(ids)
    .bind(starts)
    .fetch_all(connection)
    .await?;
    for row in rows {
        let found = accounts
            .iter_mut()
            .find(|((kind, id, start), _)| (*kind, id, start) == (&row.scope, &row.scope_id, &row.period_start));
        if let Some((_, account)) = found {
            let (granted, free, others) = (row.granted_nanos, row.free_nanos, row.others_nanos);
            let answer = Leased { granted: Nanos(granted), free: Nanos(free), others: Nanos(others) };
            (account.outstanding, account.last) = (row.outstanding_nanos, Some((row.op, answer)));
        }
    }
    Ok(())
}

async fn write_leases(
    connection: &mut PgConnection,
    holder: HolderId,
    accounts: &BTreeMap<ScopeKey, Account>,
) -> Result<()> {
    let (kinds, ids, starts) = columns(accounts.keys());
    let column = |value: fn(&Account) -> i64| accounts.values().map(value).collect::<Vec<i64>>();
    let answer = |account: &Account| account.last.map_or(Leased::default(), |(_, answer)| answer);
    let answers = |value: fn(Leased) -> Nanos| accounts.values().map(|a| value(answer(a)).0).collect::<Vec<i64>>();
    let ops: Vec<Uuid> = accounts.values().map(|account| account.last.map_or(Uuid::nil(), |(op, _)| op)).collect();
    sqlx::query(
        "with w as (select * from unnest($2::text[], $3::text[], $4::timestamptz[], $5::bigint[], $6::uuid[], $7::bigint[],
                                         $8::bigint[], $9::bigint[], $10::bigint[])
                    as w (scope, scope_id, period_start, outstanding, op, granted, free, others, leased)),
         budgets as (update molt.budgets b set leased_nanos = w.leased from w
                     where (b.scope, b.scope_id, b.period_start) = (w.scope, w.scope_id, w.period_start)
                       and b.leased_nanos <> w.leased)
         insert into molt.leases (holder, scope, scope_id, period_start, outstanding_nanos, op, granted_nanos, free_nanos,
                                  others_nanos)
         select $1, scope, scope_id, period_start, outstanding, op, granted, free, others from w
         on conflict (holder, scope, scope_id, period_start) do update
         set outstanding_nanos = excluded.outstanding_nanos, op = excluded.op, granted_nanos = excluded.granted_nanos,
             free_nanos = excluded.free_nanos, others_nanos = excluded.others_nanos",
    )
    .bind(holder.0)
    .bind(kinds)
    .bind(ids)
    .bind(starts)
    .bind(column(|account| account.outstanding))
    .bind(ops)
    .bind(answers(|answer| answer.granted))
    .bind(answers(|answer| answer.free))
    .bind(answers(|answer| answer.others))
    .bind(column(|account| account.leased))
    .execute(connection)
    .await?;
    Ok(())
}

/// What newly booked rows cost, by scope and by who held the money.
pub(crate) type Costs = BTreeMap<(ScopeKey, HolderId), i64>;

/// Locks the budgets that rows about to be written count in. Their people are locked already.
pub(crate) async fn lock_for_booking(connection: &mut PgConnection, scopes: &BTreeMap<ScopeKey, UserId>) -> Result<()> {
    lock_budgets(connection, scopes).await?;
    Ok(())
}

/// Counts newly booked rows: spent now, and no longer on lease to whoever spent it. What a holder spent without a lease
/// is spent all the same.
pub(crate) async fn settle(connection: &mut PgConnection, costs: &Costs) -> Result<()> {
    let (kinds, ids, starts) = columns(costs.keys().map(|(scope, _)| scope));
    let holders: Vec<Uuid> = costs.keys().map(|(_, holder)| holder.0).collect();
    let amounts: Vec<i64> = costs.values().copied().collect();
    sqlx::query(
        "with w as (select * from unnest($1::text[], $2::text[], $3::timestamptz[], $4::uuid[], $5::bigint[])
                    as w (scope, scope_id, period_start, holder, cost)),
         take as (select l.holder, scope, scope_id, period_start, least(w.cost, l.outstanding_nanos) as amount
                  from w join molt.leases l using (scope, scope_id, period_start, holder)),
         leases as (update molt.leases l set outstanding_nanos = l.outstanding_nanos - take.amount from take
                    where (l.holder, l.scope, l.scope_id, l.period_start) =
                          (take.holder, take.scope, take.scope_id, take.period_start)),
         sums as (select scope, scope_id, period_start, sum(w.cost) as cost, sum(coalesce(take.amount, 0)) as amount
                  from w left join take using (scope, scope_id, period_start, holder) group by 1, 2, 3)
         update molt.budgets b set settled_nanos = b.settled_nanos + sums.cost, leased_nanos = b.leased_nanos - sums.amount
         from sums where (b.scope, b.scope_id, b.period_start) = (sums.scope, sums.scope_id, sums.period_start)",
    )
    .bind(kinds)
    .bind(ids)
    .bind(starts)
    .bind(holders)
    .bind(amounts)
    .execute(connection)
    .await?;
    Ok(())
}

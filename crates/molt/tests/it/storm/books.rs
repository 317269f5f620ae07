//! What the callers saw, what the provider counted and what the books say, held against each other call by call.
//! Never: a tolerance. Figures are equal, or a bound holds, or the whole story of the call is told.

mod can_fail;

use std::collections::HashMap;
use std::fmt::Debug;
use std::time::{Duration, Instant};

use molt_store::testing::TestDatabase;
use uuid::Uuid;

use super::callers::{End, Made};
use super::plan::{Count, Model, Plan};
use super::provider::{Attempt, Ledger};

/// For so long a proxy may go on listening to a provider after the caller hung up (5 s), and a little.
const LISTENS_ON: Duration = Duration::from_secs(7);
const STORIES_SHOWN: usize = 12;
/// A user without a cap of their own has the operator's.
pub(super) const MONTHLY_CAP_NANOS: i64 = 100_000_000_000;

/// A row of the books.
#[derive(Clone, Debug)]
struct Row {
    model: String,
    tokens: Count,
    reserved: i64,
    cost: i64,
    operator: i64,
    estimate: Option<String>,
}

/// What it came to, for whoever reads the test's output.
#[derive(Debug, Default)]
pub(super) struct Figures {
    calls: usize,
    whole: usize,
    hung_up: usize,
    notices: usize,
    refused: usize,
    broken: usize,
    rows: usize,
    exact: usize,
    estimates: HashMap<String, usize>,
    by_operator: usize,
    /// Noted as leaving, then killed before the provider saw them.
    never_arrived: usize,
    cost_nanos: i64,
}

pub(super) struct Books<'a> {
    pub(super) database: &'a TestDatabase,
    pub(super) made: &'a [Made],
    pub(super) ledger: &'a Ledger,
    /// By the place of the proxy.
    pub(super) kills: &'a [Vec<Instant>],
}

impl Books<'_> {
    /// Every fault, each with its story.
    pub(super) async fn check(&self) -> Figures {
        let rows = rows(self.database).await;
        let mut faults = Vec::new();
        let mut figures = Figures { calls: self.made.len(), rows: rows.len(), ..Figures::default() };
        let by_marker: HashMap<u64, &Made> = self.made.iter().map(|made| (made.wish.marker, made)).collect();
        for (id, row) in &rows {
            figures.note(row);
            if !self.ledger.contains_key(id) {
                figures.never_arrived += 1;
                if row.estimate.as_deref() != Some("proxy_restarted") || self.kills.iter().all(Vec::is_empty) {
                    faults.push(story("a row for a call that the provider never saw", &(id, row)));
                }
            }
        }
        for (id, attempts) in self.ledger {
            let last = attempts.last().expect("an entry has an attempt");
            let Some(made) = by_marker.get(&last.wish.marker) else { continue };
            if let Err(why) = self.judge(made, last, rows.get(id)) {
                faults.push(story(&why, &(id, made, attempts, rows.get(id))));
            }
        }
        let mut arrived: HashMap<u64, usize> = HashMap::new();
        for attempts in self.ledger.values() {
            *arrived.entry(attempts[0].wish.marker).or_default() += 1;
        }
        for made in self.made {
            figures.saw(made);
            let known = made.id.and_then(|id| self.ledger.get(&id));
            if let Err(why) = seen(made, known, arrived.get(&made.wish.marker).copied().unwrap_or(0)) {
                faults.push(story(&why, &(made, known, made.id.and_then(|id| rows.get(&id)))));
            }
        }
        faults.extend(self.sums().await);
        println!("{} calls, {} rows; {figures:?}", figures.calls, figures.rows);
        assert!(
            faults.is_empty(),
            "{} faults, among them:\n{}",
            faults.len(),
            faults.iter().take(STORIES_SHOWN).cloned().collect::<Vec<_>>().join("\n")
        );
        figures
    }

    /// One call that reached the provider.
    fn judge(&self, made: &Made, last: &Attempt, row: Option<&Row>) -> Result<(), String> {
        let may_be_cut = !made.whole
            && self.kills[made.slot].iter().any(|kill| *kill >= made.began && *kill <= made.ended + LISTENS_ON);
        let Some(row) = row else {
            return if last.refused { Ok(()) } else { Err("lost: the provider gave an answer, and no row".to_owned()) };
        };
        if row.model != made.model.id {
            return Err("the row names another model".to_owned());
        }
        match row.estimate.as_deref() {
            Some("proxy_restarted") if may_be_cut => bounded(row, made),
            Some("proxy_restarted") => Err("cut by no kill, yet booked so".to_owned()),
            _ if last.refused => Err("charged for an answer that nobody got".to_owned()),
            estimate if estimate != made.wish.plan.estimate() => {
                Err(format!("booked as {estimate:?} instead of {:?}", made.wish.plan.estimate()))
            }
            None => exact(row, last.count, made.model, made.wish.plan == Plan::Excess),
            Some(_) => bounded(row, made),
        }
    }

    /// Caps, budgets and leases, by sums of rows.
    async fn sums(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let spent = |column: &str| {
            format!("(select {column} as id, sum(cost_nanos) as spent from molt.usage_logs group by 1) s")
        };
        let passed = [
            ("key", format!("{} join molt.ghost_keys c on c.id = s.id where spent > c.cap_nanos", spent("key_id"))),
            ("bot", format!("{} join molt.bots c on c.id = s.id where spent > c.cap_nanos", spent("bot_id"))),
            (
                "person",
                format!(
                    "{} join molt.users c on c.id = s.id where spent > least(coalesce(c.cap_nanos, {MONTHLY_CAP_NANOS}), {MONTHLY_CAP_NANOS})",
                    spent("user_id")
                ),
            ),
        ];
        for (what, from) in passed {
            let sql = format!(
                "select string_agg(s.id || ': ' || spent || ' of ' || coalesce(c.cap_nanos, 0), ', ') from {from}"
            );
            faults.extend(self.database.text(&sql).await.map(|found| format!("caps passed by a {what}: {found}")));
        }
        let of = |scope: &str, column: &str| {
            format!(
                "select '{scope}' as scope, {column}::text as scope_id, period_start, sum(cost_nanos) as spent
                     from molt.usage_logs where {column} is not null group by 2, 3"
            )
        };
        let sums = [of("key", "key_id"), of("bot", "bot_id"), of("user", "user_id")].join(" union all ");
        let sql = format!(
            "select string_agg(scope || ' ' || scope_id || ': ' || coalesce(spent, 0) || ' in rows, ' || coalesce(settled_nanos, 0) || ' settled', ', ')
             from ({sums}) s full join molt.budgets b using (scope, scope_id, period_start)
             where coalesce(spent, 0) <> coalesce(settled_nanos, 0)"
        );
        faults.extend(self.database.text(&sql).await.map(|found| format!("budgets aren't the sums: {found}")));
        for (what, sql) in [
            ("leases of dead holders", "select count(*) from molt.leases"),
            ("money on lease to nobody", "select coalesce(sum(leased_nanos), 0) from molt.budgets"),
            ("holders that weren't released", "select count(*) from molt.holders where released_at is null"),
        ] {
            let found = self.database.count(sql).await;
            if found != 0 {
                faults.push(format!("{what}: {found}"));
            }
        }
        faults
    }
}

fn story(why: &str, of: &impl Debug) -> String {
    format!("- {why}\n  {of:?}")
}

/// The provider's own figures, to the token and the nano-dollar.
fn exact(row: &Row, count: Count, model: &Model, excess: bool) -> Result<(), String> {
    if row.tokens != count {
        return Err(format!("other tokens than the provider counted: {count:?}"));
    }
    let charge = count.charge(model);
    if row.cost + row.operator != charge {
        return Err(format!("it costs {charge}"));
    }
    if row.operator != 0 && !excess {
        return Err("the operator pays for what was set aside".to_owned());
    }
    Ok(())
}

/// An estimate: at least what the caller got, at most what was set aside.
fn bounded(row: &Row, made: &Made) -> Result<(), String> {
    let charge = row.tokens.charge(made.model).min(row.reserved);
    if row.cost != charge || row.operator != 0 {
        return Err(format!("an estimate of these tokens costs {charge}, and the operator nothing"));
    }
    let relayed = i64::try_from(made.pieces).expect("a few words");
    if row.tokens.output < relayed {
        return Err("an estimate below what was given on".to_owned());
    }
    let said = i64::try_from(made.wish.words).expect("a few words");
    if made.streams && row.tokens.output > said {
        return Err("an estimate above what the provider said".to_owned());
    }
    Ok(())
}

/// What the caller saw, whatever the books say. `known`: what arrived under the id that the caller was told; `arrived`:
/// under how many ids the call did.
fn seen(made: &Made, known: Option<&Vec<Attempt>>, arrived: usize) -> Result<(), String> {
    if arrived > 1 {
        return Err("one call reached the provider as two".to_owned());
    }
    if made.id.is_some() && known.is_none_or(|attempts| attempts.iter().any(|of| of.wish.marker != made.wish.marker)) {
        return Err("the answer names a request that isn't this call's".to_owned());
    }
    if made.unmetered && arrived > 0 {
        return Err("said to cost nothing, yet it left".to_owned());
    }
    let fine = made.end == End::Ended && made.status == Some(200);
    if fine && made.id.is_none() && !made.unmetered {
        return Err("an answer without an id".to_owned());
    }
    if made.whole && made.wish.plan != Plan::LengthShort {
        let words = if made.model.id.ends_with("embed") { 0 } else { made.wish.words };
        if made.pieces != words {
            return Err(format!("the whole answer has {words} words"));
        }
    }
    let must_be_whole = matches!(made.wish.plan, Plan::Good | Plan::Slow | Plan::Stall | Plan::Garbage | Plan::NoUsage);
    if fine && !made.unmetered && must_be_whole && !made.whole {
        return Err("an answer in good order arrived without its end".to_owned());
    }
    Ok(())
}

async fn rows(database: &TestDatabase) -> HashMap<Uuid, Row> {
    let sql =
        "select string_agg(concat_ws(' ', id, model, tokens_in, tokens_out, tokens_cache_read, tokens_cache_write,
                 tokens_reasoning, reserved_nanos, cost_nanos, operator_nanos, coalesce(estimate, '-')), E'\\n')
               from molt.usage_logs";
    let text = database.text(sql).await.unwrap_or_default();
    let row = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse().expect("a number");
        let tokens = Count {
            input: number(2),
            output: number(3),
            cache_read: number(4),
            cache_write: number(5),
            reasoning: number(6),
        };
        let row = Row {
            model: words[1].to_owned(),
            tokens,
            reserved: number(7),
            cost: number(8),
            operator: number(9),
            estimate: Some(words[10].to_owned()).filter(|why| why != "-"),
        };
        (words[0].parse().expect("an id"), row)
    };
    text.lines().map(row).collect()
}

impl Figures {
    fn note(&mut self, row: &Row) {
        self.cost_nanos += row.cost;
        self.by_operator += usize::from(row.operator > 0);
        match &row.estimate {
            None => self.exact += 1,
            Some(why) => *self.estimates.entry(why.clone()).or_default() += 1,
        }
    }

    fn saw(&mut self, made: &Made) {
        match made.end {
            End::HungUp => self.hung_up += 1,
            End::Broke => self.broken += 1,
            End::Ended if made.unmetered => self.notices += 1,
            End::Ended if made.whole => self.whole += 1,
            End::Ended => self.refused += usize::from(made.status != Some(200)),
        }
    }

    /// The storm was one: each kind of weather happened.
    pub(super) fn was_a_storm(&self, kills: bool) {
        for (what, count) in [
            ("whole answers", self.whole),
            ("callers who hung up", self.hung_up),
            ("notices of caps", self.notices),
            ("refusals", self.refused),
            ("exact rows", self.exact),
            ("rows that the operator pays for", self.by_operator),
        ] {
            assert!(count > 0, "no {what}: {self:?}");
        }
        let reasons = ["hung_up", "provider_cut", "not_reported"].into_iter().chain(kills.then_some("proxy_restarted"));
        for why in reasons {
            assert!(self.estimates.contains_key(why), "nothing was {why}: {self:?}");
        }
    }
}

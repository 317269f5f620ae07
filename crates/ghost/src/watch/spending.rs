//! Judges what a bot used in an hour by what it uses otherwise. Pure.
//! Never: an alarm about cents, or a stop while somebody is talking with the bot.

use chrono::TimeDelta;
use molt_model::{Caution, Nanos, Time};
use molt_store::watch::{Hour, Sign, Use, dollars};

/// What is booked later than this is no news any more.
const NEWS: TimeDelta = TimeDelta::hours(2);
/// Somebody who wrote to the bot within this time is there, sees what it does, and can stop it.
const THERE: TimeDelta = TimeDelta::minutes(15);
/// Times what it uses in a usual hour.
const STEPS: [(i64, Caution); 3] = [(20, Caution::Paused), (10, Caution::Slowed), (5, Caution::Warned)];
/// A bot with fewer hours of work behind it is a new one, and taken for a busy one.
const HOURS_KNOWN_MIN: usize = 24;
const NEW_BOTS_HOUR: Hourly = Hourly { cost: 1_000_000_000, calls: 60 };
/// However little it uses otherwise: five times this is worth a word, twenty times this a pause.
const LEAST_HOUR: Hourly = Hourly { cost: 400_000_000, calls: 30 };
/// However many calls: so much is at stake, or nothing is said.
const STAKE_MIN: i64 = 500_000_000;
/// An hour with so many calls of its own accord; a heartbeat makes a few.
const BUSY_CALLS: i64 = 20;
/// Hours in a row, alone.
const ALONE_STEPS: [(usize, Caution); 3] = [(24, Caution::Paused), (12, Caution::Slowed), (6, Caution::Warned)];
/// Who did so for a whole day before, and may go on, does it on purpose.
const HABIT_HOURS: usize = 24;

#[derive(Clone, Copy)]
struct Hourly {
    cost: i64,
    calls: i64,
}

/// What stands out in the newest hours that nobody looked at.
pub(super) fn judge(used: &Use, now: Time) -> Option<Sign> {
    let news = used.hours.iter().enumerate().filter(|(_, hour)| {
        hour.unseen && hour.hour > now - NEWS - TimeDelta::hours(1) && used.resumed_at.is_none_or(|at| hour.hour >= at)
    });
    let signs = news.flat_map(|(at, hour)| [too_much(&used.hours[..at], hour), alone(used, at)]);
    let sign = signs.flatten().max_by_key(|sign| sign.caution)?;
    let is_there = used.asked_at.is_some_and(|asked| asked > now - THERE);
    Some(if is_there { Sign { caution: sign.caution.min(Caution::Warned), ..sign } } else { sign })
}

/// `before`: the hours that came before.
fn too_much(before: &[Hour], hour: &Hour) -> Option<Sign> {
    if hour.cost_nanos < STAKE_MIN {
        return None;
    }
    let least = if before.len() < HOURS_KNOWN_MIN { NEW_BOTS_HOUR } else { LEAST_HOUR };
    let usual = Hourly {
        cost: usual(before.iter().map(|hour| hour.cost_nanos)).max(least.cost),
        calls: usual(before.iter().map(|hour| hour.calls)).max(least.calls),
    };
    let step = |value: i64, usual: i64| {
        STEPS.into_iter().find(|(times, _)| value >= usual.saturating_mul(*times)).map(|(_, caution)| caution)
    };
    let (by_cost, by_calls) = (step(hour.cost_nanos, usual.cost), step(hour.calls, usual.calls));
    let when =
        format!("between {} and {} UTC", hour.hour.format("%H:%M"), (hour.hour + TimeDelta::hours(1)).format("%H:%M"));
    let (caution, reason) = if by_cost >= by_calls {
        let (cost, usual) = (dollars(Nanos(hour.cost_nanos)), dollars(Nanos(usual.cost)));
        (by_cost?, format!("It used {cost} {when}. Up to {usual} an hour would be usual."))
    } else {
        let (calls, usual) = (hour.calls, usual.calls);
        (by_calls?, format!("It asked its model {calls} times {when}. Up to {usual} times an hour would be usual."))
    };
    Some(Sign { caution, reason, since: hour.hour })
}

/// What hours hardly ever go beyond: the median, and three standard deviations as the median's own deviation tells them.
/// One wild hour moves neither.
fn usual(values: impl Iterator<Item = i64>) -> i64 {
    let mut values: Vec<i64> = values.collect();
    let middle = median(&mut values);
    let mut apart: Vec<i64> = values.iter().map(|value| (value - middle).abs()).collect();
    middle.saturating_add(median(&mut apart).saturating_mul(9) / 2)
}

fn median(values: &mut [i64]) -> i64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

/// Busy for hours, and nobody wrote to it.
fn alone(used: &Use, at: usize) -> Option<Sign> {
    let mut streak: Vec<&Hour> = Vec::new();
    for hour in used.hours[..=at].iter().rev() {
        let follows = streak.last().is_none_or(|later| hour.hour + TimeDelta::hours(1) == later.hour);
        let unasked = used.asked_at.is_none_or(|asked| hour.hour > asked);
        let counts = used.resumed_at.is_none_or(|resumed| hour.hour >= resumed);
        if !(follows && unasked && counts && hour.unasked >= BUSY_CALLS) {
            break;
        }
        streak.push(hour);
    }
    let first = streak.last()?.hour;
    let habit = used.hours.iter().filter(|hour| hour.hour < first && hour.unasked >= BUSY_CALLS).count();
    if habit >= HABIT_HOURS || streak.iter().map(|hour| hour.cost_nanos).sum::<i64>() < STAKE_MIN {
        return None;
    }
    let (_, caution) = ALONE_STEPS.into_iter().find(|(hours, _)| streak.len() >= *hours)?;
    let reason = format!("It has been busy for {} hours without a message from you.", streak.len());
    Some(Sign { caution, reason, since: first })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CENT: i64 = 10_000_000;

    fn at(hour: i64) -> Time {
        Time::UNIX_EPOCH + TimeDelta::hours(hour)
    }

    fn hour(number: i64, calls: i64, unasked: i64, cents: i64) -> Hour {
        Hour { hour: at(number), calls, unasked, cost_nanos: cents * CENT, unseen: false }
    }

    /// The last of these hours is the one that nobody looked at, and it is now.
    fn judged(mut hours: Vec<Hour>, asked_at: Option<Time>, resumed_at: Option<Time>) -> Option<Caution> {
        let last = hours.last_mut().unwrap();
        last.unseen = true;
        let now = last.hour + TimeDelta::minutes(40);
        judge(&Use { hours, asked_at, resumed_at }, now).map(|sign| sign.caution)
    }

    #[test]
    fn an_hour_is_judged_by_the_hours_before_it() {
        let weeks = |cents: i64| -> Vec<Hour> { (0..100).map(|at| hour(at * 3, 10, 0, cents + at % 5)).collect() };
        for (what, usual_cents, cents, expected) in [
            ("cents are no alarm, however many times the usual", 1, 49, None),
            ("far above its own, but little", 1, 199, None),
            ("two dollars where a cent is usual", 1, 200, Some(Caution::Warned)),
            ("four", 1, 400, Some(Caution::Slowed)),
            ("eight", 1, 800, Some(Caution::Paused)),
            ("what is a lot for others is usual here", 500, 2_500, None),
            ("five times the usual and its spread", 500, 2_600, Some(Caution::Warned)),
        ] {
            let mut hours = weeks(usual_cents);
            hours.push(hour(400, 10, 0, cents));
            assert_eq!(judged(hours.clone(), None, None), expected, "{what}");
            let there = judged(hours.clone(), Some(at(400) + TimeDelta::minutes(30)), None);
            assert_eq!(there, expected.map(|_| Caution::Warned), "somebody is there: {what}");
            assert_eq!(judged(hours.clone(), None, Some(at(400) + TimeDelta::minutes(1))), None, "forgiven: {what}");
            assert_eq!(judged(hours, None, Some(at(400))), expected, "forgiven before: {what}");
        }
        // One wild hour of the past doesn't make the next one usual, nor does it hide behind itself.
        let mut hours = weeks(1);
        hours.extend([hour(390, 10, 0, 5_000), hour(400, 10, 0, 800)]);
        assert_eq!(judged(hours, None, None), Some(Caution::Paused));
        let mut hours = weeks(100);
        hours.push(hour(400, 700, 0, 100));
        assert_eq!(judged(hours, None, None), Some(Caution::Paused), "by calls");
        let mut hours = weeks(1);
        hours.push(hour(400, 700, 0, 49));
        assert_eq!(judged(hours, None, None), None, "many calls, for nothing");
    }

    #[test]
    fn a_new_bot_may_use_more_before_a_word_is_said() {
        for (cents, expected) in
            [(499, None), (500, Some(Caution::Warned)), (1_000, Some(Caution::Slowed)), (2_000, Some(Caution::Paused))]
        {
            assert_eq!(judged(vec![hour(0, 50, 0, cents)], None, None), expected, "{cents}");
        }
        let old = Use { hours: vec![Hour { unseen: true, ..hour(0, 50, 0, 9_000) }], ..Use::default() };
        assert_eq!(judge(&old, at(4)), None, "booked too late to matter");
        let sign = judge(&old, at(1)).unwrap();
        assert_eq!(sign.reason, "It used $90.00 between 00:00 and 01:00 UTC. Up to $1.00 an hour would be usual.");
    }

    #[test]
    fn hours_of_work_that_nobody_asked_for_are_noticed_unless_they_are_a_habit() {
        let busy = |from: i64, to: i64| -> Vec<Hour> { (from..to).map(|at| hour(at, 25, 25, 10)).collect() };
        for (hours, expected) in
            [(5, None), (6, Some(Caution::Warned)), (12, Some(Caution::Slowed)), (24, Some(Caution::Paused))]
        {
            assert_eq!(judged(busy(0, hours), None, None), expected, "{hours}");
        }
        assert_eq!(judged(busy(0, 12), Some(at(8)), None), None, "somebody wrote four hours ago");
        assert_eq!(judged(busy(0, 12), None, Some(at(5))), Some(Caution::Warned), "seven since it was forgiven");
        let heartbeats: Vec<Hour> = (0..300).map(|at| hour(at, 4, 4, 10)).collect();
        assert_eq!(judged(heartbeats, None, None), None, "heartbeats");
        let nightly: Vec<Hour> = (0..14).map(|day| hour(day * 24 + 3, 40, 40, 10)).collect();
        assert_eq!(judged(nightly, None, None), None, "a nightly summary");
        let mut habit = busy(0, 24);
        habit.extend(busy(30, 60));
        assert_eq!(judged(habit, None, None), None, "it did so for a day before, and nobody minded");
        let cheap: Vec<Hour> = (0..24).map(|at| hour(at, 25, 25, 1)).collect();
        assert_eq!(judged(cheap, None, None), None, "cents");
    }
}

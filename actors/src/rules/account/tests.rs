//! Windows, slots and budgets of one party together.

use identity::limits::{Budget as BudgetLimit, Correction, Observed};
use storage::admission::Limit;

use super::*;

fn at(millis: u64) -> Now {
    let noon: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
    let wall = noon.checked_add(Duration::from_millis(millis)).unwrap();
    Now { moment: Moment::from_millis(millis), wall }
}

fn need(tokens: u64) -> Need {
    Need { tokens, tokens_max: tokens }
}

fn limits(rpm: Option<u64>, tpm: Option<u64>, concurrency: Option<u64>) -> Limits {
    Limits { rpm, tpm, concurrency, ..Limits::default() }
}

fn budget(tokens: u64, period: LimitPeriod) -> Limits {
    Limits { budget: Some(BudgetLimit::new(tokens, period)), ..Limits::default() }
}

/// What the ledger says when it is asked.
fn learn(account: &mut Account, used: u64, now: Now) {
    let unknown = account.unknown(None, now).unwrap();
    let counted = unknown.counted.map_or(unknown.settled, |counted| counted.used);
    let Unknown { key, period, start, read_at, memory, .. } = unknown;
    account.set_usage(Usage { key, period, start, used, counted, read_at, memory }, now);
    assert_eq!(account.unknown(None, now), None);
}

#[test]
fn each_limit_says_no_in_its_own_name() {
    let mut account = Account::new(limits(Some(3), Some(100), Some(2)));
    let first = account.take(need(40), at(0));
    assert_eq!(account.check(need(61), at(0)).unwrap_err().what, Limit::Tokens);
    assert_eq!(account.check(need(101), at(0)).unwrap_err().wait, Wait::Forever);
    let second = account.take(need(60), at(0));
    let refused = account.check(need(0), at(0)).unwrap_err();
    assert_eq!((refused.what, refused.wait), (Limit::Concurrency, Wait::Unknown));
    account.settle(first, 40, at(0));
    account.settle(second, 0, at(0));
    let third = account.take(need(60), at(0));
    let refused = account.check(need(0), at(500)).unwrap_err();
    assert_eq!((refused.what, refused.limit), (Limit::Requests, 3));
    assert_eq!(refused.wait, Wait::For(Duration::from_secs(60)));
    account.settle(third, 60, at(0));
    let mut shut = Account::new(limits(None, None, Some(0)));
    assert_eq!(shut.check(need(0), at(0)).unwrap_err().wait, Wait::Forever);
}

#[test]
fn what_is_observed_says_so_and_refuses_nothing() {
    let mut account = Account::new(Limits {
        observed: Observed { rpm: true, tpm: true, concurrency: true, budget: true },
        budget: Some(BudgetLimit::new(5, LimitPeriod::Day)),
        ..limits(Some(1), Some(5), Some(1))
    });
    learn(&mut account, 0, at(0));
    assert_eq!(account.check(need(5), at(0)), Ok(vec![]));
    let first = account.take(need(5), at(0));
    let all = [Limit::Requests, Limit::Tokens, Limit::Budget(LimitPeriod::Day), Limit::Concurrency];
    assert_eq!(account.check(need(5), at(0)), Ok(all.to_vec()));
    let second = account.take(need(5), at(0));
    assert!(account.has_more(&second, 1_000, at(0)));
    let gauges = account.gauges(at(0));
    for gauge in [gauges.requests, gauges.tokens, gauges.budget] {
        assert_eq!(gauge.unwrap().remaining, 0);
    }
    account.settle(first, 1, at(0));
    account.settle(second, 1, at(0));
    assert_eq!(account.check(need(3), at(0)), Ok(vec![Limit::Requests]));
}

#[test]
fn a_budget_says_no_until_its_period_is_over() {
    let mut account = Account::new(budget(100, LimitPeriod::Day));
    learn(&mut account, 40, at(0));
    let held = account.take(need(50), at(0));
    let refused = account.check(need(11), at(0)).unwrap_err();
    assert_eq!((refused.what, refused.limit), (Limit::Budget(LimitPeriod::Day), 100));
    assert_eq!(refused.wait, Wait::For(Duration::from_secs(12 * 3_600)));
    assert_eq!(account.check(need(101), at(0)).unwrap_err().wait, Wait::Forever);
    account.settle(held, 20, at(0));
    let gauge = account.gauges(at(0)).budget.unwrap();
    assert_eq!((gauge.limit, gauge.remaining), (100, 40));
    assert_eq!(gauge.reset, Some(Duration::from_secs(12 * 3_600)));
}

#[test]
fn a_new_day_is_read_from_the_ledger_and_the_old_one_told() {
    let mut account = Account::new(budget(100, LimitPeriod::Day));
    learn(&mut account, 40, at(0));
    let old = account.take(need(60), at(0));
    let tomorrow = at(86_400_000);
    let unknown = account.unknown(None, tomorrow).unwrap();
    let counted = unknown.counted.unwrap();
    assert_eq!((counted.used, counted.start), (40, Some("2026-11-23T00:00:00Z".parse().unwrap())));
    assert_eq!(unknown.start, Some("2026-11-24T00:00:00Z".parse().unwrap()));
    // Word of yesterday comes too late.
    let usage = Usage {
        key: None,
        period: LimitPeriod::Day,
        start: counted.start,
        used: 7,
        counted: 0,
        read_at: None,
        memory: 0,
    };
    account.set_usage(usage, tomorrow);
    assert!(account.unknown(None, tomorrow).is_some());
    learn(&mut account, 3, tomorrow);
    assert_eq!(account.gauges(tomorrow).budget.unwrap().remaining, 97);
    account.settle(old, 60, tomorrow);
    assert_eq!(account.gauges(tomorrow).budget.unwrap().remaining, 97);
    // A clock that is set back does not bring yesterday back.
    assert_eq!(account.unknown(None, at(0)), None);
}

#[test]
fn another_period_has_to_be_told_its_usage_and_keeps_what_is_under_way() {
    let mut account = Account::new(budget(100, LimitPeriod::Day));
    learn(&mut account, 0, at(0));
    let held = account.take(need(60), at(0));
    account.set_limits(budget(1_000, LimitPeriod::Month));
    learn(&mut account, 500, at(0));
    assert_eq!(account.gauges(at(0)).budget.unwrap().remaining, 440);
    account.settle(held, 60, at(0));
    assert_eq!(account.gauges(at(0)).budget.unwrap().remaining, 440);
}

#[test]
fn what_is_counted_while_the_ledger_is_read_is_not_lost() {
    let mut account = Account::new(budget(100, LimitPeriod::Day));
    learn(&mut account, 10, at(0));
    let (one, two) = (account.take(need(20), at(0)), account.take(need(20), at(0)));
    account.settle(one, 20, at(0));
    let mut corrected = BudgetLimit::new(100, LimitPeriod::Day);
    corrected.correction = Correction { read_at: Some(at(5).wall), ..Correction::default() };
    account.set_limits(Limits { budget: Some(corrected), ..Limits::default() });
    let unknown = account.unknown(None, at(5)).unwrap();
    assert_eq!(unknown.counted.unwrap().used, 30);
    account.settle(two, 20, at(5));
    let Unknown { key, period, start, read_at, .. } = unknown;
    let usage = Usage { key, period, start, used: 25, counted: 30, read_at, memory: 0 };
    account.set_usage(usage, at(5));
    assert_eq!(account.gauges(at(5)).budget.unwrap().remaining, 55);
    // A second word for the same question changes nothing.
    account.set_usage(Usage { used: 99, ..usage }, at(5));
    assert_eq!(account.gauges(at(5)).budget.unwrap().remaining, 55);
}

#[test]
fn who_began_before_there_was_a_budget_holds_nothing_of_it() {
    let mut account = Account::new(Limits::default());
    let held = account.take(need(60), at(0));
    account.set_limits(budget(100, LimitPeriod::Day));
    learn(&mut account, 0, at(0));
    assert_eq!(account.gauges(at(0)).budget.unwrap().remaining, 100);
    account.settle(held, 60, at(1));
    assert_eq!(account.gauges(at(1)).budget.unwrap().remaining, 100);
}

#[test]
fn a_request_that_never_was_gives_everything_back() {
    let both = Limits { rpm: Some(1), tpm: Some(10), ..budget(10, LimitPeriod::Total) };
    let mut account = Account::new(both);
    learn(&mut account, 0, at(0));
    let held = account.take(need(10), at(0));
    assert!(account.check(need(0), at(0)).is_err());
    account.cancel(held, at(0));
    assert_eq!(account.check(need(10), at(0)), Ok(vec![]));
    assert_eq!(account.standing(at(0)).under_way, 0);
}

#[test]
fn more_is_given_where_there_is_more() {
    let mut account = Account::new(budget(100, LimitPeriod::Day));
    learn(&mut account, 0, at(0));
    let held = account.take(need(60), at(0));
    assert!(account.has_more(&held, 40, at(0)) && !account.has_more(&held, 41, at(0)));
    account.top_up(&held, 40, at(0));
    assert_eq!(account.gauges(at(0)).budget.unwrap().remaining, 0);
    account.settle(held, 70, at(0));
    let free = Account::new(Limits::default()).take(need(1), at(0));
    assert!(account.has_more(&free, u64::MAX, at(0)));
    account.top_up(&free, 5, at(0));
    assert_eq!(account.gauges(at(0)).budget.unwrap().remaining, 30);
}

#[test]
fn without_limits_everything_is_let_in_and_still_counted() {
    let mut account = Account::new(Limits::default());
    let held: Vec<_> = (0..100).map(|_| account.take(need(1_000), at(0))).collect();
    assert!(account.check(need(u64::MAX), at(0)).is_ok());
    assert_eq!(account.gauges(at(0)), Gauges::default());
    account.set_limits(limits(None, None, Some(100)));
    assert!(account.check(need(0), at(0)).is_err());
    held.into_iter().for_each(|held| account.settle(held, 5, at(0)));
    assert!(account.check(need(0), at(0)).is_ok() && account.is_idle(at(0).moment));
}

#[test]
fn what_was_taken_of_a_limit_that_is_gone_is_not_given_back_to_another() {
    let all = Limits { rpm: Some(9), tpm: Some(100), ..budget(100, LimitPeriod::Day) };
    let mut account = Account::new(all);
    learn(&mut account, 0, at(0));
    let (old, other) = (account.take(need(50), at(0)), account.take(need(50), at(0)));
    account.set_limits(Limits::default());
    account.set_limits(all);
    learn(&mut account, 0, at(0));
    let new = account.take(need(50), at(0));
    assert!(account.has_more(&old, 1_000, at(0)));
    account.top_up(&old, 1_000, at(0));
    account.settle(old, 0, at(0));
    account.cancel(other, at(0));
    let gauges = account.gauges(at(0));
    assert_eq!((gauges.tokens.unwrap().remaining, gauges.budget.unwrap().remaining), (50, 50));
    assert_eq!(gauges.requests.unwrap().remaining, 8);
    account.settle(new, 10, at(0));
    let gauges = account.gauges(at(0));
    assert_eq!((gauges.tokens.unwrap().remaining, gauges.budget.unwrap().remaining), (90, 90));
}

#[test]
fn an_account_is_idle_when_nothing_of_it_counts_any_more() {
    let mut account = Account::new(limits(Some(2), Some(10), None));
    assert!(account.is_idle(at(0).moment));
    let held = account.take(need(5), at(0));
    assert!(!account.is_idle(at(100_000).moment));
    account.settle(held, 5, at(100_000));
    assert!(account.is_idle(at(100_000).moment));
}

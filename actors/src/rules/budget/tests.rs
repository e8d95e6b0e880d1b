//! The tally of a budget against what it promises.

use proptest::prelude::*;

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn noon() -> Timestamp {
    at("2026-11-23T12:00:00Z")
}

#[test]
fn what_is_set_aside_cannot_be_had_twice() {
    let mut budget = Budget::new(100, LimitPeriod::Day, 30, noon());
    let first = budget.reserve(50, noon()).unwrap();
    assert_eq!(budget.remaining(noon()), 20);
    let refused = budget.reserve(21, noon()).unwrap_err();
    assert_eq!(refused.at, Some(at("2026-11-24T00:00:00Z")));
    budget.settle(first, 5, noon());
    assert_eq!((budget.settled(noon()), budget.remaining(noon())), (35, 65));
    assert_eq!(budget.reserve(101, noon()), Err(Refused { at: None }));
}

#[test]
fn more_than_was_set_aside_counts_all_the_same() {
    let mut budget = Budget::new(100, LimitPeriod::Total, 0, noon());
    let reserved = budget.reserve(10, noon()).unwrap();
    budget.settle(reserved, 250, noon());
    assert_eq!((budget.settled(noon()), budget.remaining(noon())), (250, 0));
    assert_eq!(budget.reserve(1, noon()), Err(Refused { at: None }));
    assert_eq!(budget.reset_at(noon()), None);
}

#[test]
fn a_request_belongs_to_the_period_in_which_it_began() {
    let (before, after) = (at("2026-11-30T23:59:59Z"), at("2026-12-01T00:00:01Z"));
    for period in [LimitPeriod::Day, LimitPeriod::Month] {
        let mut budget = Budget::new(100, period, 40, before);
        let old = budget.reserve(60, before).unwrap();
        assert_eq!(budget.remaining(after), 100, "{period:?}");
        let new = budget.reserve(70, after).unwrap();
        // The old one may go on as long as it likes: its day is over.
        assert!(budget.has_more(&old, 1_000, after));
        budget.top_up(&old, 1_000, after);
        budget.settle(old, 60, after);
        assert_eq!((budget.settled(after), budget.remaining(after)), (0, 30));
        budget.settle(new, 10, after);
        assert_eq!(budget.remaining(after), 90);
    }
}

#[test]
fn what_was_counted_of_a_day_is_told_after_its_end() {
    let (before, after) = (at("2026-11-30T23:59:59Z"), at("2026-12-01T00:00:01Z"));
    let mut budget = Budget::new(100, LimitPeriod::Day, 40, before);
    let (one, two) = (budget.reserve(20, before).unwrap(), budget.reserve(20, before).unwrap());
    budget.settle(one, 20, before);
    // Somebody looks, and the other one ends, after midnight.
    assert_eq!((budget.remaining(after), budget.counted()), (100, 60));
    budget.settle(two, 5, after);
    assert_eq!((budget.settled(after), budget.counted()), (0, 65));
    budget.set_period(LimitPeriod::Day, 3, after);
    assert_eq!(budget.counted(), 3);
}

#[test]
fn a_clock_that_was_ahead_for_years_opens_nothing_again() {
    let ahead = at("2036-11-23T12:00:00Z");
    let mut budget = Budget::new(100, LimitPeriod::Month, 40, noon());
    let (one, two) = (budget.reserve(30, noon()).unwrap(), budget.reserve(20, noon()).unwrap());
    budget.settle(one, 30, noon());
    // The new month is read from the ledger, and begins.
    assert!(!budget.is_told(ahead));
    budget.set_period(LimitPeriod::Month, 0, ahead);
    let then = budget.reserve(25, ahead).unwrap();
    budget.settle(two, 20, ahead);
    // What was counted is there again, with what was used meanwhile, and what is under way.
    assert!(budget.is_told(noon()));
    assert_eq!((budget.settled(noon()), budget.remaining(noon())), (90, 0));
    budget.settle(then, 4, noon());
    assert_eq!((budget.counted(), budget.remaining(noon())), (94, 6));
    // Further back nothing is known: it has to be said.
    let before = at("2026-09-01T00:00:00Z");
    assert!(!budget.is_told(before) && budget.is_stale());
    budget.set_period(LimitPeriod::Month, 99, before);
    assert_eq!((budget.is_told(before), budget.remaining(before)), (true, 1));
}

#[test]
fn periods_end_at_midnight_and_with_the_month() {
    for (period, now, end) in [
        (LimitPeriod::Day, "2026-12-31T12:00:00Z", "2027-01-01T00:00:00Z"),
        (LimitPeriod::Month, "2028-02-29T00:00:00Z", "2028-03-01T00:00:00Z"),
        (LimitPeriod::Month, "2026-12-31T23:59:59.999Z", "2027-01-01T00:00:00Z"),
    ] {
        let mut budget = Budget::new(1, period, 0, at(now));
        assert_eq!(budget.reset_at(at(now)), Some(at(end)), "{now}");
        let _ = budget.reserve(1, at(now)).unwrap();
        assert_eq!((budget.remaining(at(now)), budget.remaining(at(end))), (0, 1));
    }
}

#[test]
fn another_limit_or_period_counts_at_once() {
    let mut budget = Budget::new(100, LimitPeriod::Day, 80, noon());
    let reserved = budget.reserve(20, noon()).unwrap();
    budget.set_limit(150);
    assert_eq!((budget.limit(), budget.remaining(noon())), (150, 50));
    budget.set_limit(50);
    assert_eq!(budget.remaining(noon()), 0);
    budget.set_limit(1_000);
    budget.set_period(LimitPeriod::Month, 900, noon());
    assert_eq!(budget.remaining(noon()), 80);
    budget.settle(reserved, 20, noon());
    assert_eq!((budget.settled(noon()), budget.remaining(noon())), (920, 80));
}

#[test]
fn what_is_only_observed_may_pass_the_limit() {
    let mut budget = Budget::new(10, LimitPeriod::Day, 0, noon());
    let reserved = budget.reserve_anyway(25, noon());
    assert_eq!((budget.remaining(noon()), budget.counted()), (0, 0));
    budget.settle(reserved, 30, noon());
    assert_eq!((budget.remaining(noon()), budget.counted()), (0, 30));
}

#[test]
fn a_top_up_is_all_or_nothing() {
    let mut budget = Budget::new(100, LimitPeriod::Day, 0, noon());
    let reserved = budget.reserve(60, noon()).unwrap();
    assert!(!budget.has_more(&reserved, 41, noon()) && budget.has_more(&reserved, 40, noon()));
    budget.top_up(&reserved, 40, noon());
    assert_eq!(budget.remaining(noon()), 0);
    budget.settle(reserved, 100, noon());
    assert_eq!(budget.settled(noon()), 100);
    // A reservation of another budget is none of this one.
    assert!(budget.has_more(&Reserved(77), 1, noon()));
    budget.top_up(&Reserved(77), 1, noon());
    budget.settle(Reserved(77), 5, noon());
    assert_eq!(budget.settled(noon()), 100);
}

#[derive(Clone, Debug)]
enum Move {
    Reserve(u64),
    TopUp(usize, u64),
    Settle(usize, u64),
    Pass(i64),
    Limit(u64),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        4 => (0..60_u64).prop_map(Move::Reserve),
        2 => (0..8_usize, 0..30_u64).prop_map(|(which, more)| Move::TopUp(which, more)),
        4 => (0..8_usize, 0..100_u64).prop_map(|(which, part)| Move::Settle(which, part)),
        2 => (-7_200..40_000_i64).prop_map(Move::Pass),
        1 => (0..300_u64).prop_map(Move::Limit),
    ];
    prop::collection::vec(one, 1..150)
}

proptest! {
    /// The clock goes back now and then. The judge keeps every request with its period: at any moment, what is settled and set
    /// aside of the current period never passes the limit, while nobody uses more than that.
    #[test]
    fn a_budget_is_never_passed(moves in moves()) {
        let mut budget = Budget::new(200, LimitPeriod::Day, 0, noon());
        let (mut limit, mut now, mut latest) = (200_u64, noon(), noon());
        // Once it has gone back, what was used meanwhile may count twice, and never not at all.
        let mut was_ahead = false;
        // Each: began, set aside, used (once it is over).
        let mut all: Vec<(Timestamp, u64, Option<u64>)> = Vec::new();
        let mut open: Vec<(Reserved, usize)> = Vec::new();
        for step in moves {
            let day = |t: Timestamp| t.as_second().div_euclid(86_400);
            let spent = |all: &[(Timestamp, u64, Option<u64>)], latest: Timestamp| -> u64 {
                // What began while the clock was ahead counts, too.
                let today = all.iter().filter(|(began, ..)| day(*began) >= day(latest));
                today.map(|(_, aside, used)| used.unwrap_or(*aside)).sum()
            };
            match step {
                Move::Reserve(tokens) => match budget.reserve(tokens, now) {
                    Ok(reserved) => {
                        open.push((reserved, all.len()));
                        all.push((latest, tokens, None));
                        prop_assert!(tokens == 0 || spent(&all, latest) <= limit);
                    }
                    Err(_) => prop_assert!(was_ahead || spent(&all, latest) + tokens > limit),
                },
                Move::TopUp(which, more) if !open.is_empty() => {
                    let (reserved, number) = &open[which % open.len()];
                    let is_todays = day(all[*number].0) >= day(latest);
                    if budget.has_more(reserved, more, now) {
                        budget.top_up(reserved, more, now);
                        all[*number].1 += more;
                        let kept = !is_todays || more == 0 || spent(&all, latest) <= limit;
                        prop_assert!(kept);
                    } else {
                        let is_over = spent(&all, latest) + more > limit;
                        prop_assert!(is_todays && (was_ahead || is_over));
                    }
                }
                Move::Settle(which, part) if !open.is_empty() => {
                    let (reserved, number) = open.swap_remove(which % open.len());
                    let used = all[number].1 * part / 100;
                    all[number].2 = Some(used);
                    budget.settle(reserved, used, now);
                }
                Move::TopUp(..) | Move::Settle(..) => {}
                Move::Pass(seconds) => {
                    now = now.checked_add(SignedDuration::from_secs(seconds)).unwrap();
                    was_ahead |= follow(latest, now) < latest;
                    latest = follow(latest, now);
                    if !budget.is_told(now) {
                        let over = all.iter().filter(|(began, ..)| day(*began) >= day(latest));
                        let settled = over.filter_map(|(.., used)| *used).sum();
                        budget.set_period(LimitPeriod::Day, settled, now);
                    }
                }
                Move::Limit(next) => {
                    limit = next;
                    budget.set_limit(limit);
                }
            }
            let (remaining, left) = (budget.remaining(now), limit.saturating_sub(spent(&all, latest)));
            prop_assert!(remaining == left || was_ahead && remaining < left);
        }
    }
}

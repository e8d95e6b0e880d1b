//! The ends of periods, and clocks that go wrong.

use jiff::{ToSpan, tz::Offset};

use super::*;

/// Ten years.
const YEARS: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Days end at midnight, months with their last day, all time never.
pub async fn a_period_ends_in_utc(stage: &impl Stage) {
    for period in [LimitPeriod::Day, LimitPeriod::Month, LimitPeriod::Total] {
        let play = Play::new(stage, budget(10, period), NONE);
        let date = Offset::UTC.to_datetime(stage.now()).date();
        let (first, span) = match period {
            LimitPeriod::Month => (date.first_of_month(), 1.month()),
            LimitPeriod::Day | LimitPeriod::Total => (date, 1.day()),
        };
        let moment = |date: jiff::civil::Date| {
            Offset::UTC.to_timestamp(date.to_datetime(jiff::civil::Time::midnight())).unwrap()
        };
        let unknown = play.unknown(1).await;
        let is_endless = period == LimitPeriod::Total;
        assert_eq!(unknown[0].start, (!is_endless).then(|| moment(first)));
        play.learn(1, 10).await;
        match play.try_admit(1, 1).await.unwrap_err().by.wait {
            Wait::Forever => assert!(is_endless),
            Wait::For(wait) => {
                let end = stage.now().checked_add(wait).unwrap();
                let off = end.duration_since(moment(first.checked_add(span).unwrap()));
                assert!(off.abs().as_secs() <= 2, "{period:?}: {off:?}");
            }
            Wait::Unknown => panic!("{period:?}"),
        }
    }
}

/// What belongs to the day before is told, and is no longer counted.
pub async fn a_new_period_is_read_anew(stage: &impl Stage) {
    let play = Play::new(stage, budget(100, LimitPeriod::Day), NONE);
    play.learn(1, 10).await;
    let (old, over) = (play.admit(1, 30).await, play.admit(1, 20).await);
    play.settle(over, 15).await;
    stage.advance(Duration::from_secs(86_400));
    let unknown = play.unknown(1).await.remove(0);
    let counted = unknown.counted.unwrap();
    assert_eq!((counted.period, counted.used), (LimitPeriod::Day, 25));
    assert!(counted.start < unknown.start);
    // Word of the day before says nothing of this one.
    let late = Usage { start: counted.start, ..usage(&unknown, 99) };
    play.one(Operation::SetUsage(late)).await;
    play.learn(1, 3).await;
    play.settle(old, 30).await;
    assert_eq!(play.left(1).await, (Some(97), None));
}

/// A clock that was ahead is not waited for, and what was taken by it counts for a minute from now.
pub async fn a_clock_that_was_ahead_freezes_no_window(stage: &impl Stage) {
    let play = Play::new(stage, rpm(3), NONE);
    play.admit(1, 0).await;
    stage.advance(YEARS);
    for _ in 0..3 {
        play.admit(1, 0).await;
    }
    stage.go_back(YEARS);
    let Wait::For(wait) = play.try_admit(1, 0).await.unwrap_err().by.wait else {
        panic!("for ever")
    };
    assert!(wait <= Duration::from_millis(60_500), "{wait:?}");
    stage.advance(Duration::from_secs(55));
    assert!(play.try_admit(1, 0).await.is_err());
    stage.advance(Duration::from_secs(6));
    for _ in 0..3 {
        play.admit(1, 0).await;
    }
    assert!(play.try_admit(1, 0).await.is_err());
}

/// Nor does a request that began while it was ahead hold its slot until then.
pub async fn a_clock_that_was_ahead_keeps_no_slot(stage: &impl Stage) {
    let play = Play::new(stage, at_once(1), NONE);
    stage.advance(YEARS);
    let member = play.admit(1, 0).await;
    stage.go_back(YEARS);
    assert!(play.try_admit(1, 0).await.is_err());
    play.settle(member, 0).await;
    play.admit(1, 0).await;
}

/// What was counted of a month is still counted when it comes back, with what was used meanwhile.
pub async fn a_clock_that_was_ahead_opens_no_budget_again(stage: &impl Stage) {
    let play = Play::new(stage, budget(100, LimitPeriod::Month), NONE);
    play.learn(1, 40).await;
    let over = play.admit(1, 30).await;
    play.settle(over, 30).await;
    stage.advance(YEARS);
    play.learn(1, 0).await;
    let then = play.admit(1, 25).await;
    stage.go_back(YEARS);
    assert_eq!(play.try_admit(1, 6).await.unwrap_err().by.what, Limit::Budget(LimitPeriod::Month));
    play.settle(then, 4).await;
    assert_eq!(play.left(1).await, (Some(100 - 74), None));
}

/// Where the clock has been elsewhere twice, how much is used has to be said.
pub async fn a_period_that_comes_back_and_is_not_known_is_read(stage: &impl Stage) {
    let play = Play::new(stage, budget(100, LimitPeriod::Month), NONE);
    play.learn(1, 90).await;
    for _ in 0..2 {
        stage.advance(YEARS);
        play.learn(1, 0).await;
    }
    let stays = play.admit(1, 5).await;
    stage.go_back(2 * YEARS);
    let unknown = play.unknown(1).await.remove(0);
    assert_eq!((unknown.counted, play.left(1).await), (None, (None, None)));
    assert!(!play.top_up(stays, 1).await, "nobody knows");
    // What is settled while the ledger is read is not in it yet.
    play.settle(stays, 3).await;
    play.one(Operation::SetUsage(usage(&unknown, 90))).await;
    assert_eq!(play.left(1).await, (Some(7), None));
}

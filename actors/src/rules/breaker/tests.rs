//! The breaker against what it promises.

use proptest::prelude::*;

use super::*;

type Breaker = super::Breaker<u8>;

fn at(millis: u64) -> Moment {
    Moment::from_millis(millis)
}

fn call(breaker: &mut Breaker, ended: Ended, now: u64) -> Result<(), Refused> {
    call_of(breaker, 1, ended, now)
}

fn call_of(breaker: &mut Breaker, owner: u8, ended: Ended, now: u64) -> Result<(), Refused> {
    breaker.ask(owner, at(now)).map(|pass| breaker.ended(pass, ended, at(now), 0.0))
}

fn opened() -> Breaker {
    let mut breaker = Breaker::new(Settings::default());
    (0..3).for_each(|_| call(&mut breaker, Ended::Unconnected, 0).unwrap());
    assert_eq!(breaker.view(), View::Open { until: at(1_000) });
    breaker
}

#[test]
fn a_share_of_faults_opens_it_once_there_are_enough_calls() {
    let mut breaker = Breaker::new(Settings::default());
    for number in 0..19 {
        call(&mut breaker, Ended::Failed, number).unwrap();
    }
    assert_eq!(breaker.view(), View::Closed);
    call(&mut breaker, Ended::Failed, 19).unwrap();
    assert_eq!(breaker.view(), View::Open { until: at(1_019) });
    assert_eq!(breaker.ask(1, at(1_018)), Err(Refused::Until(at(1_019))));
}

#[test]
fn half_of_the_calls_may_not_fail_and_fewer_may() {
    for (failing, view_is_closed) in [(9, true), (10, false)] {
        let mut breaker = Breaker::new(Settings::default());
        for number in 0..20 {
            let ended = if number >= 20 - failing { Ended::Failed } else { Ended::Well };
            call(&mut breaker, ended, 0).unwrap();
        }
        assert_eq!(breaker.view() == View::Closed, view_is_closed, "{failing} of 20");
    }
}

#[test]
fn what_is_long_past_does_not_count() {
    let mut breaker = Breaker::new(Settings::default());
    (0..15).for_each(|_| call(&mut breaker, Ended::Failed, 0).unwrap());
    (0..15).for_each(|_| call(&mut breaker, Ended::Failed, 30_000).unwrap());
    assert_eq!(breaker.view(), View::Closed);
    // Nor does it help that time runs backwards.
    (0..5).for_each(|_| call(&mut breaker, Ended::Failed, 29_000).unwrap());
    assert!(matches!(breaker.view(), View::Open { .. }));
}

#[test]
fn connections_that_fail_in_a_row_open_it_and_one_that_is_made_begins_anew() {
    for between in [Ended::Well, Ended::Failed] {
        let mut breaker = Breaker::new(Settings::default());
        for ended in [Ended::Unconnected, Ended::Unconnected, between, Ended::Unconnected] {
            call(&mut breaker, ended, 0).unwrap();
        }
        assert_eq!(breaker.view(), View::Closed);
    }
    opened();
}

#[test]
fn trials_are_bounded_and_so_many_have_to_succeed() {
    let mut breaker = opened();
    let passes = [1, 1, 2].map(|owner| breaker.ask(owner, at(1_000)).unwrap());
    assert_eq!(breaker.ask(1, at(1_000)), Err(Refused::Trials));
    assert_eq!(breaker.view(), View::HalfOpen);
    for pass in passes {
        breaker.ended(pass, Ended::Well, at(1_100), 0.0);
    }
    assert_eq!(breaker.view(), View::Closed);
}

#[test]
fn a_trial_that_fails_opens_it_for_twice_as_long_and_success_forgets_that() {
    let mut breaker = opened();
    let mut now = 1_000;
    for pause in [2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000] {
        call(&mut breaker, Ended::Failed, now).unwrap();
        assert_eq!(breaker.view(), View::Open { until: at(now + pause) });
        now += pause;
    }
    (0..3).for_each(|_| call(&mut breaker, Ended::Well, now).unwrap());
    (0..3).for_each(|_| call(&mut breaker, Ended::Unconnected, now).unwrap());
    assert_eq!(breaker.view(), View::Open { until: at(now + 1_000) });
}

#[test]
fn a_trial_that_nobody_can_judge_is_made_again() {
    let mut breaker = opened();
    for _ in 0..10 {
        call(&mut breaker, Ended::Unknown, 1_000).unwrap();
    }
    assert_eq!(breaker.view(), View::HalfOpen);
    let mut closed = Breaker::new(Settings::default());
    (0..50).for_each(|_| call(&mut closed, Ended::Unknown, 0).unwrap());
    assert_eq!(closed.view(), View::Closed);
}

#[test]
fn a_trial_whose_reply_has_begun_counts_once() {
    let mut breaker = opened();
    let passes = [1, 1, 2].map(|owner| breaker.ask(owner, at(1_000)).unwrap());
    for _ in 0..3 {
        breaker.begun(&passes[0]);
    }
    breaker.begun(&passes[1]);
    assert_eq!(breaker.view(), View::HalfOpen);
    breaker.begun(&passes[2]);
    assert_eq!(breaker.view(), View::Closed);
    // Closed, it is the end that counts.
    breaker.begun(&passes[0]);
    for pass in passes {
        breaker.ended(pass, Ended::Failed, at(2_000), 0.0);
    }
    assert_eq!(breaker.view(), View::Closed);
}

#[test]
fn a_trial_that_has_begun_and_broke_opens_it_again() {
    let mut breaker = opened();
    let passes: Vec<_> = (0..2).map(|_| breaker.ask(1, at(1_000)).unwrap()).collect();
    breaker.begun(&passes[0]);
    for pass in passes.into_iter().take(1) {
        breaker.ended(pass, Ended::Failed, at(1_500), 0.0);
    }
    assert_eq!(breaker.view(), View::Open { until: at(3_500) });
}

#[test]
fn a_call_of_another_era_says_nothing() {
    let mut breaker = Breaker::new(Settings::default());
    let late = [breaker.ask(1, at(0)).unwrap(), breaker.ask(1, at(0)).unwrap()];
    (0..3).for_each(|_| call(&mut breaker, Ended::Unconnected, 0).unwrap());
    for pass in late {
        breaker.ended(pass, Ended::Well, at(10), 0.0);
    }
    assert_eq!(breaker.view(), View::Open { until: at(1_000) });
}

#[test]
fn chance_stretches_a_pause_by_up_to_a_quarter() {
    for (chance, until) in [(0.0, 1_000), (0.5, 1_125), (1.0, 1_250), (7.0, 1_250)] {
        let mut breaker = Breaker::new(Settings { unconnected_max: 1, ..Settings::default() });
        let pass = breaker.ask(1, at(0)).unwrap();
        breaker.ended(pass, Ended::Unconnected, at(0), chance);
        assert_eq!(breaker.view(), View::Open { until: at(until) });
    }
}

#[test]
fn suspected_faults_of_one_owner_do_not_open_it_and_those_of_two_do() {
    let mut breaker = Breaker::new(Settings::default());
    for number in 0..10_000 {
        call_of(&mut breaker, 1, Ended::Suspected, number).unwrap();
    }
    for number in 10_000..10_009 {
        call_of(&mut breaker, 2, Ended::Suspected, number).unwrap();
        // What is served well counts for the server, whosever it is.
        assert_eq!(breaker.view(), View::Closed);
    }
    call_of(&mut breaker, 2, Ended::Suspected, 10_010).unwrap();
    assert!(matches!(breaker.view(), View::Open { .. }), "twenty: ten of each");
}

#[test]
fn a_few_faults_of_its_own_do_not_give_another_the_power_to_open_it() {
    let mut breaker = Breaker::new(Settings::default());
    for number in 0..100 {
        (0..50).for_each(|_| call_of(&mut breaker, 1, Ended::Suspected, number).unwrap());
        let ended = if number % 10 == 0 { Ended::Suspected } else { Ended::Well };
        call_of(&mut breaker, 2, ended, number).unwrap();
        assert_eq!(breaker.view(), View::Closed);
    }
}

#[test]
fn where_one_owner_alone_meets_faults_a_probe_that_fails_opens_it() {
    let mut breaker = Breaker::new(Settings::default());
    for (number, doubts) in [(0, false), (1, false), (2, true), (3, false), (1_001, false)] {
        call(&mut breaker, Ended::Suspected, number).unwrap();
        assert_eq!(breaker.take_doubt(), doubts, "at {number}");
    }
    call(&mut breaker, Ended::Suspected, 1_002).unwrap();
    assert!(breaker.take_doubt(), "once a second");
    breaker.probe_failed(at(1_100), 0.0);
    assert_eq!(breaker.view(), View::Open { until: at(2_100) });
    // A probe that comes late changes nothing.
    breaker.probe_failed(at(1_200), 0.0);
    assert_eq!(breaker.view(), View::Open { until: at(2_100) });
}

#[test]
fn a_probe_that_fails_opens_nothing_without_faults_of_calls() {
    let mut breaker = Breaker::new(Settings::default());
    breaker.probe_failed(at(0), 0.0);
    (0..2).for_each(|_| call(&mut breaker, Ended::Suspected, 0).unwrap());
    breaker.probe_failed(at(0), 0.0);
    (0..9).for_each(|_| call(&mut breaker, Ended::Well, 0).unwrap());
    (0..5).for_each(|_| call(&mut breaker, Ended::Suspected, 0).unwrap());
    breaker.probe_failed(at(0), 0.0);
    assert_eq!(breaker.view(), View::Closed);
    // Nor does it where the faults are long past.
    (0..9).for_each(|_| call(&mut breaker, Ended::Suspected, 0).unwrap());
    call(&mut breaker, Ended::Well, 60_000).unwrap();
    breaker.probe_failed(at(60_000), 0.0);
    assert_eq!(breaker.view(), View::Closed);
}

#[test]
fn half_open_one_owner_opens_it_no_more_and_takes_not_all_trials() {
    let mut breaker = opened();
    for number in 0..50 {
        call_of(&mut breaker, 1, Ended::Suspected, 1_000 + number).unwrap();
    }
    assert_eq!(breaker.view(), View::HalfOpen);
    // It hangs in all the trials that it gets.
    let hanging = [1, 1].map(|owner| breaker.ask(owner, at(1_100)).unwrap());
    assert_eq!(breaker.ask(1, at(1_100)), Err(Refused::OwnTrials));
    for number in 0..3 {
        call_of(&mut breaker, 2, Ended::Well, 1_200 + number).unwrap();
    }
    assert_eq!(breaker.view(), View::Closed);
    for pass in hanging {
        breaker.ended(pass, Ended::Failed, at(1_300), 0.0);
    }
    assert_eq!(breaker.view(), View::Closed);
}

#[test]
fn half_open_two_owners_or_a_probe_open_it_again() {
    let mut breaker = opened();
    call_of(&mut breaker, 1, Ended::Suspected, 1_000).unwrap();
    call_of(&mut breaker, 2, Ended::Suspected, 1_000).unwrap();
    assert_eq!(breaker.view(), View::Open { until: at(3_000) });
    call_of(&mut breaker, 1, Ended::Suspected, 3_000).unwrap();
    assert!(breaker.take_doubt());
    breaker.probe_failed(at(3_000), 0.0);
    assert_eq!(breaker.view(), View::Open { until: at(7_000) });
}

#[test]
fn a_trial_that_hangs_does_not_keep_its_place_for_ever() {
    let mut breaker = opened();
    let hanging = [1, 2, 3].map(|owner| breaker.ask(owner, at(1_000)).unwrap());
    assert_eq!(breaker.ask(4, at(10_999)), Err(Refused::Trials));
    let late = breaker.ask(4, at(11_000)).unwrap();
    for pass in hanging.iter().chain([&late]).take(3) {
        breaker.begun(pass);
    }
    assert_eq!(breaker.view(), View::Closed);
}

proptest! {
    /// Whatever happens: open, nothing passes before its time, and half open no more than the
    /// probes; and it always comes back once calls succeed again.
    #[test]
    fn it_keeps_shut_and_comes_back(
        steps in prop::collection::vec((0..3_000_u64, 0..5_u8, any::<bool>()), 1..200),
    ) {
        let mut breaker = Breaker::new(Settings::default());
        let (mut now, mut held) = (0, Vec::new());
        for (gap, how, hold) in steps {
            now += gap;
            let before = breaker.view();
            match breaker.ask(1, at(now)) {
                Ok(pass) => {
                    if let View::Open { until } = before {
                        prop_assert!(at(now) >= until);
                    }
                    held.push(pass);
                }
                Err(Refused::Until(until)) => {
                    prop_assert_eq!(before, View::Open { until });
                    prop_assert!(at(now) < until);
                }
                Err(Refused::Trials | Refused::OwnTrials) => {
                    prop_assert_eq!(breaker.view(), View::HalfOpen);
                },
            }
            if !hold && let Some(pass) = held.pop() {
                let all = [
                    Ended::Well,
                    Ended::Failed,
                    Ended::Unconnected,
                    Ended::Unknown,
                    Ended::Suspected,
                ];
                breaker.ended(pass, all[usize::from(how)], at(now), 0.3);
            }
        }
        for pass in held {
            breaker.ended(pass, Ended::Well, at(now), 0.3);
        }
        for _ in 0..10 {
            now += 80_000;
            let _ = call(&mut breaker, Ended::Well, now);
        }
        prop_assert_eq!(breaker.view(), View::Closed);
    }

    /// One owner does whatever it likes while all others are served well: it opens nothing. Nor does it
    /// keep the others out where the breaker was open: half open, they get trials, and close it.
    #[test]
    fn one_owner_cannot_shut_out_the_others(
        steps in prop::collection::vec((0..400_u64, 0..8_u8, 0..3_u8), 1..400),
        was_open in any::<bool>(),
    ) {
        let mut breaker = if was_open { opened() } else { Breaker::new(Settings::default()) };
        let (mut now, mut held) = (1_000, Vec::new());
        for (gap, what, other) in steps {
            now += gap;
            if what < 7 {
                // The attacker: its calls fail, hang, are left, or are served.
                let ended = [Ended::Suspected, Ended::Suspected, Ended::Unknown, Ended::Well];
                match (breaker.ask(1, at(now)), ended.get(usize::from(what))) {
                    (Ok(pass), Some(ended)) => breaker.ended(pass, *ended, at(now), 0.5),
                    (Ok(pass), None) if what == 4 => held.push(pass),
                    (Ok(pass), None) => {
                        breaker.begun(&pass);
                        breaker.ended(pass, Ended::Suspected, at(now), 0.5);
                    }
                    (Err(_), _) => {}
                }
            } else {
                prop_assert!(call_of(&mut breaker, 2 + other, Ended::Well, now).is_ok());
            }
            let is_open = matches!(breaker.view(), View::Open { .. });
            prop_assert!(!is_open);
        }
        for pass in held {
            breaker.ended(pass, Ended::Suspected, at(now), 0.5);
        }
        for _ in 0..3 {
            call_of(&mut breaker, 2, Ended::Well, now).unwrap();
        }
        prop_assert_eq!(breaker.view(), View::Closed);
    }

    /// Of the suspected faults that open it, at least half are of others than the one with the most.
    #[test]
    fn what_opens_it_is_backed_by_others(
        calls in prop::collection::vec((1..5_u8, 0..4_u8), 1..300),
    ) {
        let mut breaker = Breaker::new(Settings::default());
        let (mut faults, mut wells) = ([0_u64; 5], 0_u64);
        for (owner, what) in calls {
            let is_fault = what > 0;
            let ended = if is_fault { Ended::Suspected } else { Ended::Well };
            call_of(&mut breaker, owner, ended, 0).unwrap();
            faults[usize::from(owner)] += u64::from(is_fault);
            wells += u64::from(!is_fault);
            let (all, most) = (faults.iter().sum::<u64>(), faults.into_iter().max().unwrap());
            let backed = all.min(2 * (all - most));
            let opens = is_fault && backed + wells >= 20 && backed >= wells;
            prop_assert_eq!(matches!(breaker.view(), View::Open { .. }), opens);
            if opens {
                break;
            }
        }
    }
}

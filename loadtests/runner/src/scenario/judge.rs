//! Whether what was found is what was expected.

use super::{
    config::{Fault, Metric, Scenario, Users},
    faults::Span,
    outcomes::{Outcome, at_once, counted, percentile},
};
use crate::table::Verdict;

/// A request that is asked so soon after a fault began, in milliseconds, may still have been let in before.
const FAULT_SETTLES_MS: u64 = 1_000;
/// The share of the processors' time that others may take, in percent: above it, times say more about them.
const STOLEN_MAX: f64 = 1.0;
/// The bucket of own time within which 99 of 100 requests must be.
const OWN_TIME: &str = "le=\"0.005\"";

/// Judges what users were told.
pub(super) fn users(
    verdict: &mut Verdict,
    scenario: &Scenario,
    outcomes: &[Outcome],
    spans: &[Span],
) {
    for users in &scenario.users {
        let theirs: Vec<&Outcome> = outcomes.iter().filter(|it| it.user == users.name).collect();
        let served = theirs.iter().filter(|it| it.is_served()).count();
        let name = &users.name;
        let outside = theirs.iter().copied().filter(|it| !is_allowed(it, users, scenario, spans));
        let outside: Vec<&Outcome> = outside.collect();
        verdict.expect(
            outside.is_empty(),
            &format!("{name}: told something else than expected"),
            if outside.is_empty() { "0".to_owned() } else { counted(outside) },
        );
        let percent = 100.0 * served as f64 / theirs.len().max(1) as f64;
        // Where nobody is to be served, nobody may be.
        let may_be_served = users.allowed.iter().any(|how| how == "200" || how == "left");
        verdict.expect(
            percent >= users.served_percent_min && (served >= users.served_min || !may_be_served),
            &format!("{name}: served"),
            format!("{served} of {} ({percent:.1} %)", theirs.len()),
        );
        if users.at_once_min > 0 {
            let most = at_once(theirs.iter().copied());
            verdict.expect(
                most >= users.at_once_min,
                &format!("{name}: so many at the same moment"),
                most.to_string(),
            );
        }
    }
    for (number, (fault, span)) in scenario.faults.iter().zip(spans).enumerate() {
        // What comes after the next one is that one's.
        let end = spans.get(number + 1).map_or(u64::MAX, |next| next.begun);
        let until_then: Vec<&Outcome> = outcomes.iter().filter(|it| it.ended < end).collect();
        of_fault(verdict, scenario, fault, *span, &until_then);
    }
}

fn of_fault(
    verdict: &mut Verdict,
    scenario: &Scenario,
    fault: &Fault,
    span: Span,
    outcomes: &[&Outcome],
) {
    let name = format!("{:?} at {} s", fault.what, fault.at);
    let meanwhile = outcomes
        .iter()
        .copied()
        .filter(|it| it.begun >= span.begun + FAULT_SETTLES_MS && it.ended < span.ended);
    let meanwhile: Vec<&Outcome> = meanwhile.collect();
    if fault.nothing_is_served {
        let served = meanwhile.iter().filter(|it| it.is_served()).count();
        verdict.expect(
            served == 0 && !meanwhile.is_empty(),
            &format!("{name}: nothing is served meanwhile"),
            format!("{served} of {}: {}", meanwhile.len(), counted(meanwhile.iter().copied())),
        );
    }
    // Until then something was still told that only the fault explains.
    let is_usual = |it: &Outcome| {
        let users = scenario.users.iter().find(|users| users.name == it.user);
        users.is_some_and(|users| users.allowed.contains(&it.how))
    };
    let later = outcomes.iter().copied().filter(|it| it.begun >= span.ended);
    let last = later.clone().filter(|it| !is_usual(it)).map(|it| it.begun).max();
    let again = later.filter(|it| is_usual(it) && last.is_none_or(|last| it.begun > last));
    let took = again.map(|it| it.ended).min().map(|at| (at - span.ended) as f64 / 1_000.0);
    verdict.expect(
        took.is_some_and(|took| took <= fault.recovers_within_s),
        &format!("{name}: all is as before within {} s", fault.recovers_within_s),
        took.map_or("never".to_owned(), |took| format!("{took:.2} s")),
    );
}

fn is_allowed(it: &Outcome, users: &Users, scenario: &Scenario, spans: &[Span]) -> bool {
    users.allowed.contains(&it.how)
        || scenario.faults.iter().zip(spans).any(|(fault, span)| {
            let recovered = span.ended + (fault.recovers_within_s * 1_000.0) as u64;
            it.begun <= recovered && it.ended >= span.begun && fault.allowed.contains(&it.how)
        })
}

/// Judges memory and metrics. `stolen` is the share of the machine's time that others took, in percent;
/// none where own time is not to be judged.
pub(super) fn gateway(
    verdict: &mut Verdict,
    scenario: &Scenario,
    peak_kib: u64,
    metrics: &str,
    stolen: Option<f64>,
) {
    if let Some(most) = scenario.expect.memory_max_mib {
        let peak = peak_kib as f64 / 1024.0;
        verdict.expect(
            peak <= most as f64,
            &format!("the gateway's memory: at most {most} MiB"),
            format!("{peak:.1} MiB"),
        );
    }
    if scenario.expect.own_time {
        let found = format!("{:.3} %", within(metrics));
        let what = "99 % of requests cost under 5 ms of own time";
        match stolen {
            Some(stolen) if stolen <= STOLEN_MAX => {
                verdict.expect(within(metrics) >= 99.0, what, found);
            }
            Some(stolen) => {
                let why =
                    format!("{found}, with {stolen:.1} % of the machine's time taken by others");
                verdict.add(None, what, why);
            }
            None => verdict.remark(what, &format!("{found}, beside locust: not judged")),
        }
    }
    for Metric { what, name, min, max } in &scenario.expect.metrics {
        let value = sum(metrics, name);
        let is_ok = min.is_none_or(|min| value >= min) && max.is_none_or(|max| value <= max);
        verdict.expect(is_ok, what, format!("{value}"));
    }
}

/// The share of requests whose own time is within the bucket, in percent.
fn within(metrics: &str) -> f64 {
    let bucket = metrics.lines().find(|line| {
        line.starts_with("gateway_overhead_seconds_bucket{") && line.contains(OWN_TIME)
    });
    let below = bucket.and_then(|line| line.rsplit_once(' ')?.1.parse().ok()).unwrap_or(0.0);
    100.0 * below / sum(metrics, "gateway_overhead_seconds_count").max(1.0)
}

/// The sum of all lines of that name, with whatever other labels they have. The name may hold labels, as
/// Prometheus shows them; then there is one.
pub(crate) fn sum(metrics: &str, name: &str) -> f64 {
    let values = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let is_it = rest.starts_with(' ') || rest.starts_with('{');
        is_it.then(|| rest.rsplit_once(' ')?.1.parse::<f64>().ok()).flatten()
    });
    // Of nothing it would be minus zero.
    values.sum::<f64>() + 0.0
}

/// A line for each kind of users: how many requests, how long they took.
pub(super) fn times(scenario: &Scenario, outcomes: &[Outcome]) -> Vec<String> {
    let of = |users: &Users| {
        let theirs = || outcomes.iter().filter(|it| it.user == users.name);
        let ms = |share| percentile(theirs(), share).map_or("–".to_owned(), |ms| ms.to_string());
        format!(
            "  {:<12} {:>5} users, {:>7} requests, p50 {} ms, p99 {} ms: {}",
            users.name,
            users.count,
            theirs().count(),
            ms(0.5),
            ms(0.99),
            counted(theirs())
        )
    };
    scenario.users.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "gateway_fail_closed_total{reason=\"a\"} 3\ngateway_fail_closed_total{reason=\"b\"} 4\n\
        gateway_overhead_seconds_bucket{le=\"0.005\"} 99\ngateway_overhead_seconds_count 100\n";

    #[test]
    fn metrics_are_summed_over_their_labels() {
        assert!((sum(METRICS, "gateway_fail_closed_total") - 7.0).abs() < 1e-9);
        assert!((sum(METRICS, "gateway_fail_closed_total{reason=\"b\"}") - 4.0).abs() < 1e-9);
        assert!(sum(METRICS, "gateway_fail").abs() < 1e-9);
        assert!((within(METRICS) - 99.0).abs() < 1e-9);
    }

    fn scenario() -> Scenario {
        toml::from_str(
            "about = ''\nseconds = 1\n[keys.a]\n[[users]]\nname = 'x'\ncount = 1\nkeys = 'a'\nprompt = ''\n\
             allowed = ['200']\nserved_percent_min = 50\n[[faults]]\nwhat = 'redis-stopped'\nat = 0\nseconds = 5\n\
             allowed = ['503 limits_unavailable']\nnothing_is_served = true\n",
        )
        .unwrap()
    }

    /// What is WRONG where requests went so: when each began and ended, and how.
    fn wrong(all: &[(u64, u64, &str)]) -> Vec<String> {
        let of = |(begun, ended, how): &(u64, u64, &str)| Outcome {
            begun: *begun,
            ended: *ended,
            user: "x".to_owned(),
            how: (*how).to_owned(),
        };
        let outcomes: Vec<Outcome> = all.iter().map(of).collect();
        let mut verdict = Verdict::default();
        users(&mut verdict, &scenario(), &outcomes, &[Span { begun: 10_000, ended: 15_000 }]);
        let wrong = verdict.lines.into_iter().filter(|line| line.is_ok == Some(false));
        wrong.map(|line| line.what).collect()
    }

    const REFUSED: &str = "503 limits_unavailable";

    #[test]
    fn a_fault_explains_refusals_while_it_lasts_and_until_it_has_recovered() {
        let before = (9_000, 9_001, "200");
        let meanwhile = (12_000, 12_001, REFUSED);
        let after = (16_000, 16_001, "200");
        assert!(wrong(&[before, meanwhile, after]).is_empty());
        assert_eq!(wrong(&[before, meanwhile, after, (18_000, 18_001, REFUSED)]).len(), 2);
        assert_eq!(wrong(&[(9_000, 9_001, REFUSED), before, meanwhile, after]).len(), 1);
    }

    #[test]
    fn what_cannot_be_checked_may_not_be_served() {
        let all = [(9_000, 9_001, "200"), (12_000, 12_001, "200"), (16_000, 16_001, "200")];
        assert_eq!(wrong(&all).len(), 1);
        assert_eq!(
            wrong(&[(9_000, 9_001, "200"), (12_000, 12_001, REFUSED)]).len(),
            1,
            "never again"
        );
    }
}

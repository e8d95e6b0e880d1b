//! Whether what was found is what was expected.

use std::collections::BTreeMap;

use super::{
    attackers::BOMBS,
    config::{Kind, Scenario},
    honest::{self, Asked, Wish, percentile},
    metrics::by_label,
    report::Report,
    stage::{OfModel, STOPPED},
};
use crate::{sampling::Look, scenario::judge::sum, table::Verdict};

/// The share of the processors' time that others may take, in percent: above it, times say more about them.
const STOLEN_MAX: f64 = 1.0;
/// Statuses that may be told before a key is proven.
const UNPROVEN: [&str; 4] = ["401", "408", "429 too_many_attempts", "503"];
/// How often the gateway asks model servers of its own accord, at most, a second.
const OWN_ASKS_PER_SECOND: f64 = 1.0;

/// What is measured, of which requests, and how.
type Measure = (&'static str, Wish, fn(&Asked) -> f64);

pub(super) fn memory_is_back(scenario: &Scenario, began: Look, now: Look) -> bool {
    now.held.rss_kib <= began.held.rss_kib + scenario.expect.memory_more_max_mib * 1024
}

pub(super) fn descriptors_are_back(scenario: &Scenario, began: Look, now: Look) -> bool {
    now.held.descriptors <= began.held.descriptors + scenario.expect.descriptors_more_max
}

// === impl Report ===

impl Report {
    /// Says what is as it should be and what is not.
    pub(super) fn judge(&self, verdict: &mut Verdict) {
        self.honest(verdict);
        let (gateway, asking) = self.cpu_seconds;
        verdict.remark(
            "CPU during the attack",
            &format!("{gateway:.1} s of the gateway, {asking:.1} s of all who ask"),
        );
        self.comes_back(verdict);
        self.requests(verdict);
        self.tokens(verdict);
        self.bounds(verdict);
        self.stop(verdict);
    }

    /// What is judged where times and rates say something.
    fn measured(&self, verdict: &mut Verdict, is_ok: bool, what: &str, found: &str) {
        if self.is_lenient {
            verdict.remark(what, &format!("{found}: not judged"));
        } else {
            verdict.expect(is_ok, what, found.to_owned());
        }
    }

    /// Those of the honest tenant's requests of one wish before the attack, and during it.
    fn quiet_and_hostile(&self, wish: Wish) -> (Vec<&Asked>, Vec<&Asked>) {
        let of = self.asked.iter().filter(|it| it.wish == wish);
        of.partition(|it| it.at < self.attack.0)
    }

    /// The 99th percentiles of one measure, before the attack and during it.
    pub(super) fn p99(&self, wish: Wish, of: fn(&Asked) -> f64) -> Option<(f64, f64)> {
        let (quiet, hostile) = self.quiet_and_hostile(wish);
        let p99 = |asked: Vec<&Asked>| percentile(asked.into_iter().map(of).collect(), 0.99);
        p99(quiet).zip(p99(hostile))
    }

    fn honest(&self, verdict: &mut Verdict) {
        let steady = [Wish::Whole, Wish::Stream];
        for (what, wishes) in [("asks", steady.as_slice()), ("uses a new key", &[Wish::NewKey])] {
            let asked = self.asked.iter().filter(|it| wishes.contains(&it.wish));
            let (mut count, mut failures) = (0, BTreeMap::new());
            for asked in asked {
                count += 1;
                if let Some(why) = &asked.failure {
                    *failures.entry(why.as_str()).or_insert(0) += 1;
                }
            }
            let shown = failures.iter().map(|(why, count)| format!(", {count} × {why}"));
            let failed: i32 = failures.values().sum();
            verdict.expect(
                failed == 0 && count > 0,
                &format!("the honest tenant {what}: refused or failed"),
                format!("{failed} of {count}{}", shown.collect::<String>()),
            );
        }
        let measures: [Measure; 3] = [
            ("a whole reply", Wish::Whole, |it| it.total_ms),
            ("the first byte of a stream", Wish::Stream, |it| it.first_ms),
            ("a stream to its end", Wish::Stream, |it| it.total_ms),
        ];
        let factor_max = self.scenario.expect.p99_factor_max;
        for (what, wish, of) in measures {
            let Some((quiet, hostile)) = self.p99(wish, of) else { continue };
            let factor = hostile / quiet.max(0.001);
            let what = format!("its p99 of {what}: at most {factor_max} × quiet");
            let found = format!("{hostile:.0} ms, quiet {quiet:.0} ms: {factor:.2} ×");
            if factor > factor_max && self.stolen > STOLEN_MAX && !self.is_lenient {
                let why = format!("{found}; {:.1} % of the machine's time was taken", self.stolen);
                verdict.add(None, &what, why);
            } else {
                self.measured(verdict, factor <= factor_max, &what, &found);
            }
        }
    }

    fn comes_back(&self, verdict: &mut Verdict) {
        let (scenario, began, ended) = (&self.scenario, self.began, self.ended);
        let mib = |kib: u64| format!("{:.1}", kib as f64 / 1024.0);
        let more = scenario.expect.memory_more_max_mib;
        verdict.expect(
            memory_is_back(scenario, began, ended),
            &format!("memory: at most {more} MiB more than before"),
            format!("{} MiB, before {}", mib(ended.held.rss_kib), mib(began.held.rss_kib)),
        );
        verdict.expect(
            descriptors_are_back(scenario, began, ended),
            &format!("descriptors: at most {} more", scenario.expect.descriptors_more_max),
            format!("{}, before {}", ended.held.descriptors, began.held.descriptors),
        );
        for (what, name) in [
            ("streams that are still open", "gateway_streams_open"),
            ("slots that are still taken", "gateway_upstream_slots_taken"),
            ("requests that still wait in a queue", "gateway_queue_depth"),
            ("actors that were started again", "gateway_actor_restarts_total"),
        ] {
            let value = sum(&self.metrics, name);
            verdict.expect(value < 0.5, what, format!("{value}"));
        }
        let most = scenario.expect.memory_max_mib;
        self.measured(
            verdict,
            self.peak_kib <= most * 1024,
            &format!("the most memory it ever had: at most {most} MiB"),
            &format!("{} MiB", mib(self.peak_kib)),
        );
    }

    /// What was answered is counted, and no more is counted than was asked.
    fn requests(&self, verdict: &mut Verdict) {
        let counted = by_label(&self.metrics, "gateway_requests_total", "tenant", None);
        let (mut nobody, mut nobody_sent) = (0, 0);
        for (kind, counts) in &self.attackers {
            if !kind.has_key() {
                nobody += counts.answered;
                nobody_sent += counts.sent;
                continue;
            }
            // Who is refused before the key is proven is counted among those without one.
            let unproven = counts.told_with(UNPROVEN).min(counts.answered);
            let proven = counts.answered - unproven;
            nobody += unproven;
            nobody_sent += unproven;
            let of = counted.get(kind.name()).copied().unwrap_or(0);
            verdict.expect(
                (proven..=counts.sent).contains(&of),
                &format!("{}: requests that are counted", kind.name()),
                format!("{of} of {proven} answered, {} sent", counts.sent),
            );
        }
        let of = counted.get("-").copied().unwrap_or(0);
        let served = self.asked.iter().filter(|it| it.failure.is_none()).count() as u64;
        let answered = served + self.attackers.iter().map(|(_, it)| it.answered).sum::<u64>();
        let all: u64 = counted.values().sum();
        let queue = format!("tenant=\"{}\"", Kind::LeavesQueue.name());
        let refused = by_label(&self.metrics, "gateway_requests_total", "status", Some(&queue));
        let refused = refused.get("429").copied().unwrap_or(0);
        verdict.expect(
            refused == 0,
            "leaves-queue: refused since those that were left count, too",
            refused.to_string(),
        );
        verdict.remark(
            "without a key that was proven: requests that are counted",
            &format!("{of}, of about {nobody} answered and {nobody_sent} sent"),
        );
        verdict.expect(
            all >= answered,
            "all requests: counted, of those that were answered",
            format!("{all} of {answered}"),
        );
        let names = &self.scenario.expect.counted_only;
        let counted_only: u64 = names.iter().map(|name| sum(&self.metrics, name) as u64).sum();
        let audit = self.stopped.audit.iter().filter(|(tenant, _)| *tenant != STOPPED);
        let written: u64 = audit.map(|(_, count)| count).sum();
        verdict.expect(
            written + counted_only == all,
            "requests that the audit's events stand for, or it counted only",
            format!("{written} + {counted_only}, of {all} that are counted"),
        );
        let differs = |(tenant, count): &(&String, &u64)| {
            *tenant != "-" && self.stopped.audit.get(*tenant).copied().unwrap_or(0) != **count
        };
        let differing = counted.iter().filter(differs).map(|(tenant, count)| {
            let written = self.stopped.audit.get(tenant).copied().unwrap_or(0);
            format!("{tenant} {written} of {count}")
        });
        let differing = differing.collect::<Vec<_>>().join(", ");
        verdict.expect(
            differing.is_empty(),
            "tenants of whom the audit says something else than the metrics",
            if differing.is_empty() { "none".to_owned() } else { differing },
        );
    }

    /// What the model servers have made is charged.
    fn tokens(&self, verdict: &mut Verdict) {
        let charged = |direction: &str| {
            let with = format!("direction=\"{direction}\"");
            by_label(&self.metrics, "gateway_tokens_total", "tenant", Some(&with))
        };
        let (prompt, completion) = (charged("prompt"), charged("completion"));
        let of = |sums: &BTreeMap<String, u64>, name: &str| sums.get(name).copied().unwrap_or(0);
        let none = OfModel::default();
        let made = |model: &str| self.stopped.models.get(model).unwrap_or(&none);
        let honest = made(honest::NAME);
        verdict.expect(
            of(&completion, honest::NAME) == honest.pieces
                && of(&prompt, honest::NAME) == honest.prompt_tokens,
            "honest: tokens that are charged, as they were made",
            format!(
                "{} + {}, of {} + {}",
                of(&prompt, honest::NAME),
                of(&completion, honest::NAME),
                honest.prompt_tokens,
                honest.pieces
            ),
        );
        for attackers in &self.scenario.attackers {
            let kind = attackers.kind;
            let OfModel { answers, prompt_tokens, pieces, left_pieces } = match kind {
                Kind::TemplateBombs => both(made(kind.name()), made("bombs-llama")),
                _ => *made(kind.name()),
            };
            if answers == 0 {
                continue;
            }
            let unseen = answers * attackers.unseen_tokens_max;
            let (asked, said) = (of(&prompt, kind.name()), of(&completion, kind.name()));
            verdict.expect(
                asked >= prompt_tokens && said + unseen >= pieces,
                &format!("{}: tokens that are charged, of those made", kind.name()),
                format!("{asked} + {said}, of {prompt_tokens} + {pieces} ({left_pieces} left)"),
            );
        }
        let totals = |sums: &BTreeMap<String, u64>| sums.values().sum::<u64>();
        let ledger = self.stopped.ledger.values().filter(|sum| sum.of != STOPPED);
        let ledger = ledger.fold((0, 0), |(p, c), sum| (p + sum.prompt, c + sum.completion));
        verdict.expect(
            ledger == (totals(&prompt), totals(&completion)),
            "tokens in the ledger, as in the metrics",
            format!(
                "{} + {}, of {} + {}",
                ledger.0,
                ledger.1,
                totals(&prompt),
                totals(&completion)
            ),
        );
        let budget = self.scenario.expect.bomb_budget * BOMBS as u64;
        let bombs = both(made(Kind::TemplateBombs.name()), made("bombs-llama"));
        verdict.expect(
            bombs.prompt_tokens + bombs.pieces <= budget,
            &format!("template-bombs: made for a budget of {budget} tokens"),
            format!("{} + {}", bombs.prompt_tokens, bombs.pieces),
        );
    }

    /// What grows with what attackers do has bounds.
    fn bounds(&self, verdict: &mut Verdict) {
        let seconds = (self.attack.1 - self.attack.0).max(1.0);
        let expect = &self.scenario.expect;
        let log = self.log_bytes as f64 / seconds;
        self.measured(
            verdict,
            log <= expect.log_bytes_per_second_max as f64,
            &format!("log: at most {} bytes a second", expect.log_bytes_per_second_max),
            &format!("{log:.0}"),
        );
        let honest = self.asked.iter().filter(|it| it.at >= self.attack.0).count() as u64;
        let rows = self.rows.saturating_sub(honest) as f64 / seconds;
        self.measured(
            verdict,
            rows <= expect.audit_rows_per_second_max,
            &format!(
                "audit: at most {} rows a second of attackers",
                expect.audit_rows_per_second_max
            ),
            &format!("{rows:.0}"),
        );
        let asked: u64 = ["/api/ps", "/api/version"]
            .iter()
            .filter_map(|path| self.stopped.paths.get(*path))
            .sum();
        let asks = asked as f64 / seconds;
        let asks_max = expect.status_asks_per_second_max + OWN_ASKS_PER_SECOND;
        verdict.expect(
            asks <= asks_max,
            &format!("status: model servers are asked at most {asks_max} times a second"),
            format!("{asks:.1}"),
        );
    }

    /// It stops although somebody would keep it.
    fn stop(&self, verdict: &mut Verdict) {
        let stopped = &self.stopped;
        verdict.expect(
            stopped.by_itself,
            "it ended by itself, once, with 0",
            stopped.by_itself.to_string(),
        );
        let most = self.scenario.expect.ends_within_s;
        verdict.expect(
            stopped.took <= most,
            &format!("it ended within {most} s of SIGTERM"),
            format!("{:.1} s", stopped.took),
        );
        let recorded = stopped.ledger.get(STOPPED).map_or(0, |sum| sum.requests);
        verdict.expect(
            recorded == stopped.streams,
            "streams that were cut at the end and are in the ledger",
            format!("{recorded} of {}", stopped.streams),
        );
        verdict.expect(
            stopped.open == 0,
            "streams that model servers still have",
            stopped.open.to_string(),
        );
    }
}

fn both(one: &OfModel, other: &OfModel) -> OfModel {
    OfModel {
        answers: one.answers + other.answers,
        prompt_tokens: one.prompt_tokens + other.prompt_tokens,
        pieces: one.pieces + other.pieces,
        left_pieces: one.left_pieces + other.left_pieces,
    }
}

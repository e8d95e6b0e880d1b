//! What was found, for people and for programs.

use std::{collections::BTreeMap, fmt::Write, fs, io::Write as _, path::Path};

use jiff::Timestamp;
use rig::out::say;
use serde::Serialize;
use storage::ledger::LedgerSum;

use super::{
    config::{Kind, Scenario},
    honest::{Asked, Wish, percentile},
    stage::OfModel,
    tally::Counts,
};
use crate::{
    chart::{self, Panel},
    sampling::{Look, Sample},
    table::Verdict,
};

/// All that was found.
pub(super) struct Report {
    pub(super) command: String,
    pub(super) commit: String,
    pub(super) is_lenient: bool,
    pub(super) scenario: Scenario,
    /// When the attack began and ended, in seconds since the first sample.
    pub(super) attack: (f64, f64),
    /// At rest, before the attack and after it.
    pub(super) began: Look,
    pub(super) ended: Look,
    pub(super) peak_kib: u64,
    /// What the gateway needed of the processors during the attack, and what those needed who asked.
    pub(super) cpu_seconds: (f64, f64),
    /// The share of the machine's time that others took, in percent.
    pub(super) stolen: f64,
    /// Bytes of the log and rows of the audit that the attack made.
    pub(super) log_bytes: u64,
    pub(super) rows: u64,
    pub(super) asked: Vec<Asked>,
    pub(super) attackers: Vec<(Kind, Counts)>,
    pub(super) metrics: String,
    pub(super) stopped: Stopped,
    pub(super) samples: Vec<Sample>,
}

/// How it ended, and what was known then.
#[derive(Default, Serialize)]
pub(super) struct Stopped {
    /// It was not killed, and said that all went well.
    pub(super) by_itself: bool,
    /// Seconds since it was told.
    pub(super) took: f64,
    /// Streams that were open when it was told.
    pub(super) streams: u64,
    /// By tenant.
    pub(super) ledger: BTreeMap<String, LedgerSum>,
    /// Requests that the audit's events stand for, by tenant; `-`: nobody was proven.
    pub(super) audit: BTreeMap<String, u64>,
    /// Streams that the model servers still had.
    pub(super) open: u64,
    /// What the model servers made, by model, and were asked, by path.
    pub(super) models: BTreeMap<String, OfModel>,
    pub(super) paths: BTreeMap<String, u64>,
}

// === impl Report ===

impl Report {
    /// Writes `DATE-hostile.json`, `.md` and `.svg`.
    pub(super) fn write(&self, directory: &Path, verdict: &Verdict) -> Result<(), String> {
        let date = Timestamp::now().strftime("%Y-%m-%d").to_string();
        let put = |ending: &str, text: String| {
            let path = directory.join(format!("{date}-hostile.{ending}"));
            say(&format!("  {}", path.display()));
            fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
        };
        fs::create_dir_all(directory).map_err(|error| error.to_string())?;
        put("svg", self.picture()?)?;
        put("json", self.json(verdict)?)?;
        put("md", self.text(verdict, &date))
    }

    /// Adds a line to the table of several scenarios.
    pub(super) fn summarize(&self, path: Option<&Path>, verdict: &Verdict) -> Result<(), String> {
        let Some(path) = path else { return Ok(()) };
        let attacked: u64 = self.attackers.iter().map(|(_, counts)| counts.sent).sum();
        let requests = attacked + self.asked.len() as u64;
        let served = self.asked.iter().filter(|it| it.failure.is_none()).count();
        let memory = self.peak_kib as f64 / 1024.0;
        let wrong = verdict.lines.iter().filter(|line| line.is_ok == Some(false)).count();
        let judgement = if wrong == 0 { "ok".to_owned() } else { format!("WRONG ({wrong})") };
        let file = fs::File::options().create(true).append(true).open(path);
        file.and_then(|mut file| {
            let name = "hostile";
            writeln!(file, "{name:<16} {requests:>9} {served:>9} {memory:>11.1}   {judgement}")
        })
        .map_err(|error| format!("{}: {error}", path.display()))
    }

    fn picture(&self) -> Result<String, String> {
        let points = |value: fn(&Look) -> f64| {
            self.samples.iter().map(|it| (it.at, value(&it.look))).collect::<Vec<_>>()
        };
        let memory: fn(&Look) -> f64 = |look| look.held.rss_kib as f64 / 1024.0;
        let quiet = self.p99(Wish::Whole, |it| it.total_ms).map_or(0.0, |(quiet, _)| quiet);
        let panels = [
            Panel {
                title: "whole replies of the honest tenant, slowest of each second, ms",
                points: self.slowest(),
                began: quiet,
            },
            Panel {
                title: "resident memory, MiB",
                points: points(memory),
                began: memory(&self.began),
            },
            Panel {
                title: "open descriptors",
                points: points(|look| look.held.descriptors as f64),
                began: self.began.held.descriptors as f64,
            },
        ];
        chart::draw(&panels, self.attack, "shaded: the attack; orange: quiet, or before it")
    }

    /// The slowest whole reply that was due in each second.
    fn slowest(&self) -> Vec<(f64, f64)> {
        let mut seconds: BTreeMap<u64, f64> = BTreeMap::new();
        for asked in self.asked.iter().filter(|it| it.wish == Wish::Whole) {
            let slowest = seconds.entry(asked.at as u64).or_default();
            *slowest = slowest.max(asked.total_ms);
        }
        seconds.into_iter().map(|(second, ms)| (second as f64, ms)).collect()
    }

    fn json(&self, verdict: &Verdict) -> Result<String, String> {
        let attackers: BTreeMap<_, _> =
            self.attackers.iter().map(|(kind, counts)| (kind.name(), counts)).collect();
        let value = serde_json::json!({
            "command": self.command,
            "commit": self.commit,
            "attack": self.attack,
            "began": self.began,
            "ended": self.ended,
            "peak_kib": self.peak_kib,
            "cpu_seconds": self.cpu_seconds,
            "stolen_percent": self.stolen,
            "log_bytes": self.log_bytes,
            "audit_rows": self.rows,
            "honest": self.quantiles(),
            "attackers": attackers,
            "stopped": self.stopped,
            "verdict": verdict.lines,
            "samples": self.samples,
        });
        serde_json::to_string_pretty(&value).map(|text| text + "\n").map_err(|e| e.to_string())
    }

    /// How long the honest tenant's requests took, before the attack and during it.
    fn quantiles(&self) -> BTreeMap<String, BTreeMap<&'static str, f64>> {
        let mut all = BTreeMap::new();
        for (name, wish) in
            [("whole", Wish::Whole), ("stream", Wish::Stream), ("new-key", Wish::NewKey)]
        {
            for (when, is_quiet) in [("quiet", true), ("attack", false)] {
                let of = self
                    .asked
                    .iter()
                    .filter(|it| it.wish == wish && (it.at < self.attack.0) == is_quiet);
                let times: Vec<f64> = of.map(|it| it.total_ms).collect();
                let quantile = |share| percentile(times.clone(), share).unwrap_or(0.0);
                all.insert(
                    format!("{name}, {when}"),
                    BTreeMap::from([
                        ("requests", times.len() as f64),
                        ("p50_ms", quantile(0.5)),
                        ("p99_ms", quantile(0.99)),
                        ("max_ms", quantile(1.0)),
                    ]),
                );
            }
        }
        all
    }

    fn text(&self, verdict: &Verdict, date: &str) -> String {
        let mut text = String::new();
        // Writing into a text does not fail.
        let _ = write!(
            text,
            "# Hostile, {date}\n\n`{}`, commit {}. {:.0} s of attack by {} kinds at once; others took {:.1} % of \
             the machine's time.\n\n![the honest tenant, memory and descriptors over time]({date}-hostile.svg)\n\n\
             | the honest tenant | requests | p50, ms | p99, ms | slowest, ms |\n|---|---:|---:|---:|---:|\n",
            self.command,
            self.commit,
            self.attack.1 - self.attack.0,
            self.attackers.len(),
            self.stolen,
        );
        for (what, of) in self.quantiles() {
            let of = |name| of.get(name).copied().unwrap_or(0.0);
            let (count, p50, p99, max) = (of("requests"), of("p50_ms"), of("p99_ms"), of("max_ms"));
            let _ = writeln!(text, "| {what} | {count:.0} | {p50:.0} | {p99:.0} | {max:.0} |");
        }
        text.push_str("\n| attackers | sent | were told |\n|---|---:|---|\n");
        for (kind, counts) in &self.attackers {
            let _ = writeln!(text, "| {} | {} | {} |", kind.name(), counts.sent, counts.shown());
        }
        text.push_str("\n| | what | found |\n|---|---|---|\n");
        for line in &verdict.lines {
            let mark = match line.is_ok {
                Some(true) => "ok",
                Some(false) => "WRONG",
                None => "not judged",
            };
            let _ = writeln!(text, "| {mark} | {} | {} |", line.what, line.found);
        }
        text
    }
}

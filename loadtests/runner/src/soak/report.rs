//! What was found, for people and for programs.

use std::{fmt::Write, fs, path::Path};

use jiff::Timestamp;
use serde::Serialize;

use super::users::Tally;
use rig::out::say;

use crate::{
    chart::{self, Panel},
    sampling::{Look, Sample},
    table::Verdict,
};

/// What memory may be more at the end than where it began, in KiB and as a share. The allocator keeps
/// what the load once needed at the same time, SQLite's readers fill their page caches (2 MiB each, of
/// which there are eight), and pieces of both lie scattered: so much comes with a load and stays, however
/// long it goes on. What a request leaks is more: 100 bytes of each, at 500 a second, are 86 MiB in half
/// an hour.
const MARGIN_KIB: u64 = 24 * 1024;
const MARGIN_SHARE: f64 = 0.1;

/// All that a soak found.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) command: String,
    pub(crate) commit: String,
    /// Requests a second: as fast as they are answered, half of it, and what came of it.
    pub(crate) full: f64,
    pub(crate) asked: f64,
    pub(crate) reached: f64,
    /// When the load began and ended, in seconds since the first sample.
    pub(crate) load: (f64, f64),
    /// Before the first request, after the warm-up, after the load; the latter two at rest.
    pub(crate) started: Look,
    pub(crate) began: Look,
    pub(crate) ended: Look,
    pub(crate) tally: Tally,
    pub(crate) samples: Vec<Sample>,
}

// === impl Report ===

impl Report {
    /// Says what has come back and what has not.
    pub(crate) fn judge(&self, verdict: &mut Verdict) {
        let (began, ended) = (&self.began, &self.ended);
        let tally = &self.tally;
        let failure = tally.failure.as_ref().map_or_else(String::new, |it| format!(" ({it})"));
        verdict.expect(
            tally.failures == 0,
            "requests that were not answered as they should be",
            format!("{}{failure}", tally.failures),
        );
        let is_mixed = [tally.whole, tally.streams, tally.cancelled, tally.refused_keys];
        verdict.expect(
            is_mixed.iter().all(|count| *count > 0),
            "whole replies, streams, streams left, wrong keys refused",
            is_mixed.map(|count| count.to_string()).join(", "),
        );
        let from_to = |began: usize, ended: usize| format!("{ended}, began with {began}");
        verdict.expect(
            ended.held.descriptors <= began.held.descriptors,
            "descriptors that are open: no more than where it began",
            from_to(began.held.descriptors, ended.held.descriptors),
        );
        let first = self.started.actors;
        let most = self.samples.iter().map(|sample| sample.look.actors).max().unwrap_or(0);
        verdict.expect(
            most > first && ended.actors <= first,
            "actors that run: more under load, and no more than at first now",
            format!("{}, {most} at most", from_to(first, ended.actors)),
        );
        let allowed = margin(began.held.rss_kib);
        verdict.expect(
            ended.held.rss_kib <= began.held.rss_kib + allowed,
            &format!("memory: at most {} MiB more than where it began", mib(allowed)),
            format!("{} MiB, began with {}", mib(ended.held.rss_kib), mib(began.held.rss_kib)),
        );
        if let Some((early, late)) = self.early_and_late() {
            let allowed = margin(early);
            verdict.expect(
                late <= early + allowed,
                &format!("memory under load: at most {} MiB more late than early", mib(allowed)),
                format!("{} MiB, early {}", mib(late), mib(early)),
            );
        }
    }

    /// The median memory in the second tenth of the load and in the last, in KiB.
    fn early_and_late(&self) -> Option<(u64, u64)> {
        let (begin, end) = self.load;
        let during = |from: f64, to: f64| {
            let (from, to) = (begin + from * (end - begin), begin + to * (end - begin));
            let within = self.samples.iter().filter(|it| (from..=to).contains(&it.at));
            let mut memory: Vec<u64> = within.map(|it| it.look.held.rss_kib).collect();
            memory.sort_unstable();
            memory.get(memory.len() / 2).copied()
        };
        during(0.1, 0.2).zip(during(0.9, 1.0))
    }

    /// Writes `DATE-soak.json`, `.md` and `.svg`.
    pub(crate) fn write(&self, directory: &Path, verdict: &Verdict) -> Result<(), String> {
        let date = Timestamp::now().strftime("%Y-%m-%d").to_string();
        let put = |ending: &str, text: String| {
            let path = directory.join(format!("{date}-soak.{ending}"));
            say(&format!("  {}", path.display()));
            fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
        };
        fs::create_dir_all(directory).map_err(|error| error.to_string())?;
        put("svg", self.picture()?)?;
        put("json", self.json(verdict)?)?;
        put("md", self.text(verdict, &date))
    }

    /// Memory, descriptors and actors over time.
    fn picture(&self) -> Result<String, String> {
        let began = &self.began;
        let points = |value: fn(&Look) -> f64| {
            self.samples.iter().map(|it| (it.at, value(&it.look))).collect::<Vec<_>>()
        };
        let memory: fn(&Look) -> f64 = |look| look.held.rss_kib as f64 / 1024.0;
        let panels = [
            Panel { title: "resident memory, MiB", points: points(memory), began: memory(began) },
            Panel {
                title: "open descriptors",
                points: points(|look| look.held.descriptors as f64),
                began: began.held.descriptors as f64,
            },
            Panel {
                title: "actors",
                points: points(|look| look.actors as f64),
                began: self.started.actors as f64,
            },
        ];
        chart::draw(&panels, self.load, "shaded: the load; orange: where it began")
    }

    /// A sample a line, so that two runs can be compared.
    fn json(&self, verdict: &Verdict) -> Result<String, String> {
        let fault = |error: serde_json::Error| error.to_string();
        let head = Self { samples: Vec::new(), ..self.clone() };
        let mut value = serde_json::to_value(&head).map_err(fault)?;
        value["verdict"] = serde_json::to_value(&verdict.lines).map_err(fault)?;
        let head = serde_json::to_string_pretty(&value).map_err(fault)?;
        let lines: Result<Vec<_>, _> = self.samples.iter().map(serde_json::to_string).collect();
        let lines = lines.map_err(fault)?.join(",\n    ");
        let filled = format!("\"samples\": [\n    {lines}\n  ]");
        Ok(head.replacen("\"samples\": []", &filled, 1) + "\n")
    }

    fn text(&self, verdict: &Verdict, date: &str) -> String {
        let mut text = String::new();
        let minutes = (self.load.1 - self.load.0) / 60.0;
        let Tally { whole, streams, cancelled, refused_keys, failures, .. } = &self.tally;
        // Writing into a text does not fail.
        let _ = write!(
            text,
            "# Soak, {date}\n\n`{}`, commit {}.\n\n\
             Asked as fast as it answered, the gateway answered {:.0} requests a second on this machine; it was then \
             asked {:.0} a second, for {minutes:.1} minutes, and answered {:.0} a second. In all: {whole} whole \
             replies, {streams} streams, {cancelled} streams that were left, {refused_keys} wrong keys refused, \
             {failures} failures.\n\n\
             ![memory, descriptors and actors over time]({date}-soak.svg)\n\n\
             | | memory, MiB | descriptors | threads | actors |\n|---|---:|---:|---:|---:|\n",
            self.command, self.commit, self.full, self.asked, self.reached,
        );
        let looks = [
            ("before the first request", &self.started),
            ("at rest after the warm-up", &self.began),
            ("at rest after the load", &self.ended),
        ];
        for (what, Look { held, actors }) in looks {
            let (memory, descriptors) = (mib(held.rss_kib), held.descriptors);
            let _ = writeln!(
                text,
                "| {what} | {memory} | {descriptors} | {} | {actors} |",
                held.threads
            );
        }
        text.push_str("\n| | what | found |\n|---|---|---|\n");
        for line in &verdict.lines {
            let mark = if line.is_ok == Some(true) { "ok" } else { "WRONG" };
            let _ = writeln!(text, "| {mark} | {} | {} |", line.what, line.found);
        }
        text
    }
}

fn margin(kib: u64) -> u64 {
    MARGIN_KIB.max((kib as f64 * MARGIN_SHARE) as u64)
}

fn mib(kib: u64) -> String {
    format!("{:.1}", kib as f64 / 1024.0)
}

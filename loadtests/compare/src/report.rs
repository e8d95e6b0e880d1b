//! What was found, as people and as programs read it.

use std::path::Path;

use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};
use rig::out::note;
use serde::Serialize;

use crate::{
    chart,
    machine::{self, Machine},
    measure::Cell,
    quiet::Quiet,
    scenario::Scenario,
    servers::{Kind, Server},
    started::Started,
    targets,
    timing::{Percentiles, median, multiple},
};

/// One scenario on one server: the median of its rounds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) scenario: String,
    pub(crate) server: String,
    pub(crate) is_nginx: bool,
    /// A build of the gateway.
    pub(crate) is_ours: bool,
    pub(crate) requests: u64,
    pub(crate) rounds: usize,
    pub(crate) per_second: f64,
    /// The same in each round.
    pub(crate) per_second_rounds: Vec<f64>,
    pub(crate) cpu_us: f64,
    /// The time on a processor in each round.
    pub(crate) cpu_us_rounds: Vec<f64>,
    /// All of it as multiples of nginx's, of the same scenario.
    pub(crate) to_nginx: Option<Multiples>,
    pub(crate) first_us: Percentiles,
    pub(crate) total_us: Percentiles,
    pub(crate) peak_mib: f64,
    /// What the model server and the load took themselves.
    pub(crate) upstream_us: f64,
    pub(crate) load_us: f64,
    /// Calls of scripts in Redis a request.
    pub(crate) redis_scripts: Option<f64>,
    /// All commands of Redis a request, those that scripts call included.
    pub(crate) redis_calls: Option<f64>,
}

/// What was found of a server, as multiples of another one's.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Multiples {
    pub(crate) per_second: f64,
    pub(crate) cpu: f64,
    pub(crate) first: Percentiles,
    pub(crate) total: Percentiles,
    pub(crate) peak: f64,
}

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) date: String,
    pub(crate) command: String,
    pub(crate) commit: String,
    pub(crate) machine: Machine,
    /// A quick run, whose numbers are not for quoting.
    pub(crate) is_quick: bool,
    pub(crate) seconds: f64,
    /// The share of the processors' time that a host gave to others meanwhile.
    pub(crate) stolen_percent: f64,
    /// How many threads wanted a processor before the run, over a minute.
    pub(crate) load_before: f64,
    pub(crate) rows: Vec<Row>,
    pub(crate) quiet: Vec<Quiet>,
    pub(crate) started: Vec<Started>,
    pub(crate) remarks: Vec<String>,
}

// === impl Row ===

impl Row {
    /// The medians of some rounds.
    pub(crate) fn of(scenario: &Scenario, server: &Server, cells: &[Cell]) -> Self {
        let of = |field: fn(&Cell) -> f64| median(cells.iter().map(field));
        let times = |field: fn(&Cell) -> Percentiles| {
            Percentiles::median(&cells.iter().map(field).collect::<Vec<_>>())
        };
        let redis = |field: fn((f64, f64)) -> f64| {
            let found: Vec<f64> = cells.iter().filter_map(|cell| cell.redis).map(field).collect();
            (!found.is_empty()).then(|| median(found))
        };
        let is_cluster = server.name.ends_with("cluster");
        Self {
            scenario: scenario.id.clone(),
            server: server.name.clone(),
            is_nginx: server.kind == Kind::Nginx,
            is_ours: server.kind == Kind::Gateway,
            requests: cells.iter().map(|cell| cell.requests).sum(),
            rounds: cells.len(),
            per_second: of(|cell| cell.per_second),
            per_second_rounds: cells.iter().map(|cell| cell.per_second).collect(),
            cpu_us: of(|cell| cell.cpu_us),
            cpu_us_rounds: cells.iter().map(|cell| cell.cpu_us).collect(),
            to_nginx: None,
            first_us: times(|cell| cell.first),
            total_us: times(|cell| cell.total),
            peak_mib: cells.iter().map(|cell| cell.peak_kib).max().unwrap_or(0) as f64 / 1024.0,
            upstream_us: of(|cell| cell.upstream_us),
            load_us: of(|cell| cell.load_us),
            redis_scripts: redis(|(scripts, _)| scripts).filter(|_| is_cluster),
            redis_calls: redis(|(_, all)| all).filter(|_| is_cluster),
        }
    }

    /// Its time on a processor as a multiple of another one's.
    pub(crate) fn cpu_to(&self, other: &Self) -> f64 {
        ratio(&self.cpu_us_rounds, &other.cpu_us_rounds)
    }

    /// Its requests a second as a multiple of another one's.
    pub(crate) fn rate_to(&self, other: &Self) -> f64 {
        ratio(&self.per_second_rounds, &other.per_second_rounds)
    }

    /// All of it as multiples of another one's.
    fn to(&self, other: &Self) -> Multiples {
        Multiples {
            per_second: self.rate_to(other),
            cpu: self.cpu_to(other),
            first: self.first_us.to(other.first_us),
            total: self.total_us.to(other.total_us),
            peak: multiple(self.peak_mib, other.peak_mib),
        }
    }
}

// === impl Report ===

impl Report {
    /// One with nothing in it yet.
    pub(crate) fn new(command: &str, commit: &str, is_quick: bool) -> Self {
        Self {
            date: jiff::Timestamp::now().strftime("%Y-%m-%d").to_string(),
            command: command.to_owned(),
            commit: commit.to_owned(),
            machine: Machine::this(),
            is_quick,
            seconds: 0.0,
            stolen_percent: 0.0,
            load_before: machine::load(),
            rows: Vec::new(),
            quiet: Vec::new(),
            started: Vec::new(),
            remarks: Vec::new(),
        }
    }

    /// Adds the rows of one scenario.
    pub(crate) fn add(&mut self, mut rows: Vec<Row>) {
        let nginx = rows.iter().find(|row| row.is_nginx).cloned();
        for row in &mut rows {
            row.to_nginx = nginx.as_ref().map(|nginx| row.to(nginx));
        }
        self.rows.extend(rows);
    }

    /// All of it as Markdown.
    pub(crate) fn text(&self) -> String {
        let Self { date, command, commit, machine, stolen_percent, load_before, .. } = self;
        let mut text = format!(
            "# Compared on {date}\n\n    {command}\n\n- commit {commit}\n- {machine}\n\
             - {:.0} s; a host took {stolen_percent:.1} % of the processors' time meanwhile; before, \
             {load_before:.1} threads wanted a processor\n",
            self.seconds
        );
        if self.load_before > 0.5 * self.machine.cores as f64 {
            text.push_str("- the machine had other work: read ratios, and those with care\n");
        }
        if self.is_quick {
            text.push_str("- a quick run: it shows that everything works, not how fast\n");
        }
        for remark in &self.remarks {
            text.push_str(&format!("- {remark}\n"));
        }
        text.push_str(
            "\nTimes of first byte and of the whole reply are p50 / p99 / p99.9 in ms. CPU is the ",
        );
        text.push_str("server's own, in µs a request.\n");
        let tables = [
            self.requests(),
            self.multiples(),
            self.held(),
            self.starts(),
            targets::table(self),
            self.costs(),
        ];
        for (title, table) in tables.into_iter().flatten() {
            text.push_str(&format!("\n## {title}\n\n{table}\n"));
        }
        text
    }

    /// Writes the text, the numbers and the picture.
    pub(crate) fn write(&self, directory: &Path) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("{}: {error}", directory.display());
        std::fs::create_dir_all(directory).map_err(failed)?;
        let file = |end: &str| directory.join(format!("{}-compare.{end}", self.date));
        std::fs::write(file("md"), self.text()).map_err(failed)?;
        let json = serde_json::to_string_pretty(self).map_err(|error| error.to_string())?;
        std::fs::write(file("json"), json + "\n").map_err(failed)?;
        if !self.rows.is_empty() {
            std::fs::write(file("svg"), chart::draw(&self.rows)?).map_err(failed)?;
        }
        note(&format!("written: {}, .json and .svg", file("md").display()));
        Ok(())
    }

    fn requests(&self) -> Option<(&'static str, Table)> {
        let header = [
            "scenario",
            "server",
            "requests/s",
            "CPU µs",
            "× nginx",
            "first byte",
            "whole reply",
            "peak MiB",
        ];
        let mut before = "";
        let rows = self.rows.iter().map(|row| {
            let name = if row.scenario == before { "" } else { &row.scenario };
            before = &row.scenario;
            vec![
                name.to_owned(),
                row.server.clone(),
                format!("{:.0}", row.per_second),
                format!("{:.1}", row.cpu_us),
                row.to_nginx.map_or_else(String::new, |to| format!("{:.2}", to.cpu)),
                times(row.first_us),
                times(row.total_us),
                format!("{:.0}", row.peak_mib),
            ]
        });
        table_of("Requests", &header, rows.collect())
    }

    fn multiples(&self) -> Option<(&'static str, Table)> {
        let header =
            ["scenario", "server", "requests/s", "CPU", "first byte", "whole reply", "peak"];
        let three = |of: Percentiles| format!("{:.2} / {:.2} / {:.2}", of.p50, of.p99, of.p999);
        let rows = self.rows.iter().filter(|row| !row.is_nginx).filter_map(|row| {
            let Multiples { per_second, cpu, first, total, peak } = row.to_nginx?;
            Some(vec![
                row.scenario.clone(),
                row.server.clone(),
                format!("{per_second:.2}"),
                format!("{cpu:.2}"),
                three(first),
                three(total),
                format!("{peak:.1}"),
            ])
        });
        table_of("The same, as multiples of nginx's", &header, rows.collect())
    }

    fn held(&self) -> Option<(&'static str, Table)> {
        let header =
            ["streams", "server", "KiB each", "× nginx", "MiB before", "MiB in all", "opened in s"];
        let nginx = self.quiet.iter().find(|quiet| quiet.is_nginx).map(|quiet| quiet.each_kib);
        let rows = self.quiet.iter().map(|quiet| {
            let how = if quiet.translated { ", translated" } else { "" };
            vec![
                quiet.streams.to_string(),
                format!("{}{how}", quiet.server),
                format!("{:.1}", quiet.each_kib),
                nginx.map_or_else(String::new, |each| format!("{:.2}", quiet.each_kib / each)),
                format!("{:.0}", quiet.before_mib),
                format!("{:.0}", quiet.held_mib),
                format!("{:.1}", quiet.opened_s),
            ]
        });
        table_of("Open, quiet streams", &header, rows.collect())
    }

    fn starts(&self) -> Option<(&'static str, Table)> {
        let header = ["server", "ready, new database, ms", "ready, ms", "program, MiB"];
        let rows = self.started.iter().map(|started| {
            vec![
                started.server.clone(),
                format!("{:.0}", started.first_ms),
                format!("{:.0}", started.again_ms),
                format!("{:.1}", started.binary_mib),
            ]
        });
        table_of("Start", &header, rows.collect())
    }

    /// What the measuring itself took, beside nginx, and Redis's share in the cluster.
    fn costs(&self) -> Option<(&'static str, Table)> {
        let header = [
            "scenario",
            "server",
            "model server, µs",
            "load, µs",
            "Redis scripts",
            "with what they call",
        ];
        let shown = self.rows.iter().filter(|row| row.is_nginx || row.redis_calls.is_some());
        let number = |value: Option<f64>| value.map_or_else(String::new, |n| format!("{n:.3}"));
        let rows = shown.map(|row| {
            vec![
                row.scenario.clone(),
                row.server.clone(),
                format!("{:.1}", row.upstream_us),
                format!("{:.1}", row.load_us),
                number(row.redis_scripts),
                number(row.redis_calls),
            ]
        });
        table_of("What the rest took, a request", &header, rows.collect())
    }
}

/// The median of the ratios in each round, of which each saw the machine in one state.
fn ratio(rounds: &[f64], others: &[f64]) -> f64 {
    median(rounds.iter().zip(others).map(|(ours, other)| multiple(*ours, *other)))
}

/// A table of Markdown, its numbers to the right; none without rows.
pub(crate) fn table_of<'a>(
    title: &'a str,
    header: &[&str],
    rows: Vec<Vec<String>>,
) -> Option<(&'a str, Table)> {
    if rows.is_empty() {
        return None;
    }
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header(header.iter().copied());
    table.add_rows(rows);
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    Some((title, table))
}

/// Percentiles in milliseconds.
fn times(of: Percentiles) -> String {
    let ms = |us: f64| {
        let ms = us / 1_000.0;
        if ms < 10.0 { format!("{ms:.2}") } else { format!("{ms:.0}") }
    };
    format!("{} / {} / {}", ms(of.p50), ms(of.p99), ms(of.p999))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_milliseconds() {
        let of = Percentiles { p50: 93.4, p99: 1_234.0, p999: 45_600.0 };
        assert_eq!(times(of), "0.09 / 1.23 / 46");
    }

    #[test]
    fn a_table_without_rows_is_none() {
        assert!(table_of("x", &["a"], Vec::new()).is_none());
        let (_, shown) = table_of("x", &["a", "b"], vec![vec!["1".into(), "2".into()]]).unwrap();
        assert!(shown.to_string().contains("| 1 | 2 |"));
    }
}

//! What the design promises, beside what was measured.

use comfy_table::Table;

use crate::{
    report::{Report, table_of},
    servers::gateway::unlimited,
};

/// One promise.
struct Target {
    what: &'static str,
    bound: Bound,
    found: f64,
    unit: &'static str,
}

/// What is promised.
#[derive(Clone, Copy)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

/// Each promise of which something was measured, for each build of the gateway.
pub(crate) fn table(report: &Report) -> Option<(&'static str, Table)> {
    let mut rows = Vec::new();
    for build in builds(report) {
        for target in requests(report, build).into_iter().chain(others(report, build)) {
            let Target { what, bound, found, unit } = target;
            let (wanted, is_held) = match bound {
                Bound::AtMost(most) => (format!("≤ {most}{unit}"), found <= most),
                Bound::AtLeast(least) => (format!("≥ {least}{unit}"), found >= least),
            };
            rows.push(vec![
                what.to_owned(),
                build.to_owned(),
                wanted,
                format!("{found:.2}{unit}"),
                if is_held { "yes" } else { "no" }.to_owned(),
            ]);
        }
    }
    table_of("Numbers to hold", &["what", "server", "to reach", "found", "held"], rows)
}

/// The builds of the gateway that were measured, in order.
fn builds(report: &Report) -> Vec<&str> {
    let mut builds: Vec<&str> = Vec::new();
    let rows = report.rows.iter().filter(|row| row.is_ours && row.redis_calls.is_none());
    let rows = rows.map(|row| row.server.as_str());
    let quiet = report.quiet.iter().filter(|quiet| !quiet.is_nginx).map(|it| it.server.as_str());
    let started = report.started.iter().map(|started| started.server.as_str());
    for name in rows.chain(quiet).chain(started) {
        if !builds.contains(&name) {
            builds.push(name);
        }
    }
    builds
}

/// What is promised of requests.
fn requests(report: &Report, build: &str) -> Vec<Target> {
    let row = |scenario: &str, server: &str| {
        report.rows.iter().find(|row| row.scenario == scenario && row.server == server)
    };
    let mut targets = Vec::new();
    let mut add = |what, most, unit, found: Option<f64>| {
        let bound = Bound::AtMost(most);
        targets.extend(found.map(|found| Target { what, bound, found, unit }));
    };
    let to_nginx =
        |scenario: &str| row(scenario, build).and_then(|row| row.to_nginx).map(|to| to.cpu);
    add("CPU, whole, 32 connections", 1.5, " × nginx", to_nginx("whole/32/native"));
    add("CPU, whole, translated", 1.5, " × nginx", to_nginx("whole/32/translated"));
    add("CPU, burst, translated", 1.5, " × nginx", to_nginx("burst/32/translated"));
    add("CPU, paced, translated", 1.1, " × nginx", to_nginx("paced/200/translated"));
    let first = row("whole/1/native", build).zip(row("whole/1/native", "nginx"));
    let first = first.map(|(ours, nginx)| (ours.first_us, nginx.first_us));
    add("first byte added, p50", 60.0, " µs", first.map(|(ours, nginx)| ours.p50 - nginx.p50));
    add("first byte added, p99", 1_000.0, " µs", first.map(|(ours, nginx)| ours.p99 - nginx.p99));
    let many = report.rows.iter().find(|row| {
        row.scenario.starts_with("keys/") && row.scenario != "keys/1" && row.server == build
    });
    let keys = many.zip(row("keys/1", build)).map(|(many, one)| many.cpu_to(one));
    add("CPU, all keys", 1.2, " × one key", keys);
    let cluster = format!("{build}, cluster");
    for (what, scenario) in [
        ("CPU, cluster, whole", "cluster/whole/32/native"),
        ("CPU, cluster, burst", "cluster/burst/32/translated"),
    ] {
        let pair = row(scenario, &cluster).zip(row(scenario, build));
        add(what, 2.0, " × SQLite", pair.map(|(shared, alone)| shared.cpu_to(alone)));
    }
    let calls = row("cluster/whole/32/native", &cluster).and_then(|row| row.redis_scripts);
    add("Redis scripts a request", 0.5, "", calls);
    for (what, scenario) in [
        ("requests/s, limits, whole", "limits/whole/32/native"),
        ("requests/s, limits, burst", "limits/burst/32/translated"),
    ] {
        let pair = row(scenario, build).zip(row(scenario, &unlimited(build)));
        targets.extend(pair.map(|(with, without)| Target {
            what,
            bound: Bound::AtLeast(0.85),
            found: with.rate_to(without),
            unit: " × without",
        }));
    }
    targets
}

/// What is promised of open streams and of a start.
fn others(report: &Report, build: &str) -> Vec<Target> {
    let mut targets = Vec::new();
    let mut add = |what, most, unit, found: f64| {
        targets.push(Target { what, bound: Bound::AtMost(most), found, unit });
    };
    let nginx = report.quiet.iter().find(|quiet| quiet.is_nginx).map(|quiet| quiet.each_kib);
    for quiet in report.quiet.iter().filter(|quiet| quiet.server == build) {
        let (each, all) = if quiet.translated {
            ("memory of a quiet stream, translated", "memory of all of them, translated")
        } else {
            ("memory of a quiet stream", "memory of all of them")
        };
        if let Some(nginx) = nginx {
            add(each, 1.5, " × nginx", quiet.each_kib / nginx);
        }
        add(all, 260.0, " MiB", quiet.held_mib);
    }
    for started in report.started.iter().filter(|started| started.server == build) {
        add("start to ready", 100.0, " ms", started.again_ms);
        add("start to ready, new database", 100.0, " ms", started.first_ms);
        add("program", 40.0, " MiB", started.binary_mib);
    }
    targets
}

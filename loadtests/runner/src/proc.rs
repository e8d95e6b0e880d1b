//! What Linux says of a process.

use std::fs;

/// USER_HZ, which is 100 everywhere that matters.
const TICKS_PER_SECOND: f64 = 100.0;

/// What a process holds at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Held {
    /// Resident memory, in KiB.
    pub(crate) rss_kib: u64,
    /// Open descriptors.
    pub(crate) descriptors: usize,
    /// Threads.
    pub(crate) threads: usize,
}

/// What a process holds now.
pub(crate) fn held(pid: u32) -> Result<Held, String> {
    let missing = |what: &str| format!("process {pid} does not tell its {what}");
    let status = fs::read_to_string(format!("/proc/{pid}/status"))
        .map_err(|error| format!("process {pid}: {error}"))?;
    let descriptors =
        fs::read_dir(format!("/proc/{pid}/fd")).map_err(|_| missing("descriptors"))?.count();
    Ok(Held {
        rss_kib: number(&status, "VmRSS:").ok_or_else(|| missing("memory"))?,
        descriptors,
        threads: number(&status, "Threads:").and_then(|n| n.try_into().ok()).unwrap_or(0),
    })
}

/// The most memory that a process ever had, in KiB.
pub(crate) fn peak_kib(pid: u32) -> Result<u64, String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    number(&status, "VmHWM:").ok_or_else(|| format!("process {pid} does not tell its peak"))
}

/// How long a process has been on a processor, in seconds.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64, String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let ticks = ticks(&stat).ok_or_else(|| format!("process {pid} does not tell its time"))?;
    Ok(ticks as f64 / TICKS_PER_SECOND)
}

/// utime and stime of `stat`, behind the name, which may hold spaces and brackets.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

/// How much of the time of all processors others took (a virtual machine's host).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stolen {
    stolen: u64,
    all: u64,
}

// === impl Stolen ===

impl Stolen {
    /// The count so far.
    pub(crate) fn now() -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let line = stat.lines().next().unwrap_or_default();
        let ticks: Vec<u64> =
            line.split_ascii_whitespace().skip(1).take(8).filter_map(|n| n.parse().ok()).collect();
        Self { stolen: ticks.get(7).copied().unwrap_or(0), all: ticks.iter().sum() }
    }

    /// The share since `before`, in percent.
    pub(crate) fn since(self, before: Self) -> f64 {
        let all = self.all.saturating_sub(before.all).max(1);
        100.0 * self.stolen.saturating_sub(before.stolen) as f64 / all as f64
    }
}

/// The number on a line of `status`.
fn number(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_status_are_read() {
        let status = "Name:\tx\nVmRSS:\t  1024 kB\nThreads:\t7\n";
        assert_eq!((number(status, "VmRSS:"), number(status, "Threads:")), (Some(1024), Some(7)));
        assert_eq!(number(status, "VmHWM:"), None);
    }

    #[test]
    fn time_is_read_behind_the_name() {
        let stat = "42 (a) b) c) S 7 42 42 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 3 0 99 1 2";
        assert_eq!(ticks(stat), Some(300));
    }

    #[test]
    fn a_descriptor_more_is_seen() {
        let pid = std::process::id();
        let before = held(pid).unwrap().descriptors;
        let files: Vec<_> = (0..50).map(|_| fs::File::open("/proc/self/stat").unwrap()).collect();
        // Other tests open and close some at the same time.
        assert!(held(pid).unwrap().descriptors >= before + 25);
        drop(files);
    }
}

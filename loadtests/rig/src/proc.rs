//! What Linux says of processes, in `/proc`.

use std::fs;

/// USER_HZ, in which `/proc/PID/stat` counts: 100 everywhere that matters.
pub const TICKS_PER_SECOND: u64 = 100;

/// How much of the time of all processors others took (a virtual machine's host), between two looks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stolen {
    stolen: u64,
    all: u64,
}

// === impl Stolen ===

impl Stolen {
    /// The count so far.
    #[must_use]
    pub fn now() -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let line = stat.lines().next().unwrap_or_default();
        let ticks: Vec<u64> =
            line.split_ascii_whitespace().skip(1).take(8).filter_map(|n| n.parse().ok()).collect();
        Self { stolen: ticks.get(7).copied().unwrap_or(0), all: ticks.iter().sum() }
    }

    /// The share since `before`, in percent.
    #[must_use]
    pub fn since(self, before: Self) -> f64 {
        let all = self.all.saturating_sub(before.all).max(1);
        100.0 * self.stolen.saturating_sub(before.stolen) as f64 / all as f64
    }
}

/// The fields of a process's `stat` behind its name, which may hold spaces and brackets; the state is the
/// first.
#[must_use]
pub fn fields(stat: &str) -> Option<impl Iterator<Item = &str>> {
    Some(stat.rsplit_once(')')?.1.split_ascii_whitespace())
}

/// utime and stime of a process's `stat`, in ticks.
#[must_use]
pub fn ticks(stat: &str) -> Option<u64> {
    let mut fields = fields(stat)?.skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

/// The number on a line of a process's `status`; of memory, in KiB.
#[must_use]
pub fn number(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_proc_are_read() {
        let stat = "42 (a) b) c) S 7 42 42 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 3 0 99 1 2";
        assert_eq!(ticks(stat), Some(300));
        assert_eq!(fields(stat).and_then(|mut fields| fields.nth(1)), Some("7"));
        let status = "Name:\tx\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\nThreads:\t7\n";
        let found = ["VmHWM:", "VmRSS:", "Threads:"].map(|name| number(status, name));
        assert_eq!(found, [Some(2048), Some(1024), Some(7)]);
        assert_eq!(number(status, "VmSwap:"), None);
    }
}

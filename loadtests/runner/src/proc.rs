//! What Linux says of a process.

use std::fs;

use rig::proc::{TICKS_PER_SECOND, number, ticks};

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
    Ok(ticks as f64 / TICKS_PER_SECOND as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

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

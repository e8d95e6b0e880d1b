//! The machine on which something was measured.

use std::fs;

use serde::Serialize;

/// What a reader has to know of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_gib: u64,
    pub(crate) kernel: String,
}

// === impl Machine ===

impl Machine {
    /// This one.
    pub(crate) fn this() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let kib = field(&text("/proc/meminfo"), "MemTotal:")
            .and_then(|value| value.split(' ').next()?.parse::<u64>().ok());
        let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
        Self {
            processor: field(&text("/proc/cpuinfo"), "model name\t:")
                .unwrap_or_else(|| "an unnamed processor".to_owned()),
            cores,
            memory_gib: kib.unwrap_or(0).div_ceil(1024 * 1024),
            kernel: format!("Linux {}", text("/proc/sys/kernel/osrelease").trim()),
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { processor, cores, memory_gib, kernel } = self;
        write!(f, "{processor}, {cores} cores, {memory_gib} GiB, {kernel}")
    }
}

/// How many threads wanted a processor in the last minute. A machine that is to measure has none.
pub(crate) fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}

fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().to_owned())
}

//! What Linux says of processes: their time on a processor, and their memory.

use std::{collections::HashMap, fs, path::Path};

use rig::proc::{TICKS_PER_SECOND, fields, number, ticks};

/// How long a tick of `/proc/PID/stat` is, in nanoseconds.
const TICK_NS: u64 = 1_000_000_000 / TICKS_PER_SECOND;

/// Processes that are measured together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group(Vec<u32>);

/// What a group had used at a moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Used {
    /// Of each thread that lives, in nanoseconds.
    threads: HashMap<(u32, u32), u64>,
    /// Of each process with all the threads it ever had, in ticks.
    processes: HashMap<u32, u64>,
}

/// The memory of a group.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// What is resident, in KiB.
    pub(crate) now_kib: u64,
    /// The most that was, since the last call of [`Group::forget_peak`], in KiB.
    pub(crate) peak_kib: u64,
}

// === impl Group ===

impl Group {
    /// A process alone.
    pub(crate) fn one(pid: u32) -> Self {
        Self(vec![pid])
    }

    /// A process and all that descend from it.
    pub(crate) fn family(pid: u32) -> Self {
        let mut found = vec![pid];
        let parents = parents();
        let mut next = 0;
        while let Some(&parent) = found.get(next) {
            found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(child, _)| *child));
            next += 1;
        }
        Self(found)
    }

    /// What descends from a process, without it: the workers of nginx, whose master does nothing.
    pub(crate) fn children(pid: u32) -> Self {
        let mut family = Self::family(pid);
        family.0.remove(0);
        family
    }

    /// How many processes there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// What they have used so far.
    pub(crate) fn used(&self) -> Used {
        let mut used = Used::default();
        for &pid in &self.0 {
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
            for task in tasks {
                let Ok(tid) = task.file_name().to_string_lossy().parse() else { continue };
                if let Some(ns) = text(&task.path().join("schedstat")).and_then(|t| schedstat(&t)) {
                    used.threads.insert((pid, tid), ns);
                }
            }
            if let Some(stat) = text(Path::new(&format!("/proc/{pid}/stat"))) {
                used.processes.insert(pid, ticks(&stat).unwrap_or(0));
            }
        }
        used
    }

    /// Their memory.
    pub(crate) fn memory(&self) -> Memory {
        let mut memory = Memory::default();
        for pid in &self.0 {
            let status = text(Path::new(&format!("/proc/{pid}/status"))).unwrap_or_default();
            memory.now_kib += number(&status, "VmRSS:").unwrap_or(0);
            memory.peak_kib += number(&status, "VmHWM:").unwrap_or(0);
        }
        memory
    }

    /// Begins to look for the peak anew. Where that is not allowed, the peak is since the start.
    pub(crate) fn forget_peak(&self) {
        for pid in &self.0 {
            let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
        }
    }
}

// === impl Used ===

impl Used {
    /// What was used since `before`, in nanoseconds: exact by thread. Where a thread has ended since,
    /// and took its count with it, the ticks of its process say more, and count.
    pub(crate) fn since(&self, before: &Self) -> u64 {
        let by_threads: u64 = self
            .threads
            .iter()
            .map(|(thread, ns)| ns.saturating_sub(before.threads.get(thread).copied().unwrap_or(0)))
            .sum();
        let is_all_there = before.threads.keys().all(|thread| self.threads.contains_key(thread));
        if is_all_there {
            return by_threads;
        }
        let by_processes: u64 = self
            .processes
            .iter()
            .map(|(pid, all)| all.saturating_sub(before.processes.get(pid).copied().unwrap_or(0)))
            .sum();
        by_threads.max(by_processes * TICK_NS)
    }
}

fn text(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// Every process with its parent.
fn parents() -> Vec<(u32, u32)> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_string_lossy().parse().ok()?;
            let stat = text(&entry.path().join("stat"))?;
            Some((pid, fields(&stat)?.nth(1)?.parse().ok()?))
        })
        .collect()
}

/// The first number of `schedstat`: nanoseconds on a processor.
fn schedstat(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_on_a_processor_is_read() {
        assert_eq!(schedstat("123456789 55 7\n"), Some(123_456_789));
    }

    #[test]
    fn time_is_counted_by_thread() {
        let used = |threads: &[(u32, u64)], ticks: u64| Used {
            threads: threads.iter().map(|(tid, ns)| ((1, *tid), *ns)).collect(),
            processes: [(1, ticks)].into(),
        };
        let before = used(&[(1, 1_000), (2, 500)], 10);
        assert_eq!(used(&[(1, 1_500), (2, 600), (3, 7)], 99).since(&before), 607);
        // Thread 2 has ended: what it did in the meantime is in the ticks alone.
        assert_eq!(used(&[(1, 1_500)], 12).since(&before), 2 * TICK_NS);
        assert_eq!(used(&[(1, 90_000_000)], 12).since(&before), 89_999_000);
    }

    #[test]
    fn this_process_is_there() {
        let group = Group::family(std::process::id());
        assert!(group.len() >= 1 && group.memory().peak_kib > 0);
        assert!(group.used().since(&Used::default()) > 0);
    }
}

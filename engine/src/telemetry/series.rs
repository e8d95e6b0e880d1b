//! What is counted of every request.
//!
//! Each thread counts for itself, and what all of them counted is gathered for whoever reads the metrics, and
//! every few seconds: in a place that two threads write to, each waits for it to come from the other's cache.

use parking_lot::{Mutex, MutexGuard};
use std::{collections::HashSet, time::Duration};

use foldhash::HashMap;
use metrics::{counter, histogram};
use protocol::{telemetry as names, usage::Usage};
use thread_local::ThreadLocal;

use crate::config;

/// The label of what has no name: nobody was proven, or no model is known.
pub(crate) const NOBODY: &str = "-";
/// The label of all names beyond the first so many.
const OTHER: &str = "other";

/// A request whose reply has ended, as the metrics see it.
pub(crate) struct Ended<'a> {
    /// The tenant's name; `-` where nobody was proven.
    pub(crate) tenant: &'a str,
    /// The model's name; `-` where none is known.
    pub(crate) model: &'a str,
    /// The HTTP status that the client saw.
    pub(crate) status: u16,
    /// Tokens.
    pub(crate) usage: Usage,
    /// From the head's arrival to the first byte of the reply.
    pub(crate) first_byte: Option<Duration>,
    /// From the head's arrival to the end.
    pub(crate) total: Duration,
}

/// What is counted of every request.
pub(crate) struct Series {
    tenants: Named,
    models: Named,
    counted: ThreadLocal<Mutex<Counted>>,
    /// Held while it is gathered, so that whoever gathers next is not told of half of it.
    gathering: Mutex<()>,
}

/// What a thread has counted since it was gathered. No line of a processor's cache holds those of two.
#[derive(Default)]
#[repr(align(128))]
struct Counted {
    /// In seconds, as all durations here.
    overhead: Vec<f64>,
    first_byte: Vec<f64>,
    /// By the names of tenant and model.
    of: HashMap<String, HashMap<String, Of>>,
}

/// What is counted of one tenant and model.
#[derive(Default)]
struct Of {
    /// The label of the tenant.
    tenant: String,
    /// The label of the model.
    model: String,
    durations: Vec<f64>,
    /// By status, of which few are met.
    requests: Vec<(u16, u64)>,
    /// Tokens.
    prompt: u64,
    completion: u64,
}

/// The names of one kind that metrics may have as labels: the first so many; the rest are [`OTHER`].
struct Named {
    most: usize,
    names: Mutex<HashSet<String>>,
}

// === impl Series ===

impl Series {
    /// Nothing was counted yet.
    pub(crate) fn new(settings: &config::Metrics) -> Self {
        let named = |most| Named { most, names: Mutex::default() };
        Self {
            tenants: named(settings.tenants_max),
            models: named(settings.models_max),
            counted: ThreadLocal::new(),
            gathering: Mutex::default(),
        }
    }

    /// What the gateway itself took until the head of an answer.
    pub(crate) fn overhead(&self, own: Duration) {
        self.counted().overhead.push(own.as_secs_f64());
    }

    /// Counts a request.
    pub(crate) fn ended(&self, ended: &Ended<'_>) {
        let mut counted = self.counted();
        counted.first_byte.extend(ended.first_byte.map(|took| took.as_secs_f64()));
        let known = counted.of.get_mut(ended.tenant).and_then(|models| models.get_mut(ended.model));
        if let Some(of) = known {
            return of.count(ended);
        }
        let (tenant, model) = (self.tenants.label(ended.tenant), self.models.label(ended.model));
        let mut of = Of { tenant, model, ..Of::default() };
        of.count(ended);
        let models = counted.of.entry(ended.tenant.to_owned()).or_default();
        models.insert(ended.model.to_owned(), of);
    }

    /// Adds what was counted since the last time to the metrics of the process.
    pub(crate) fn gather(&self) {
        let _gathering = locked(&self.gathering);
        let (overhead, first_byte) =
            (histogram!(names::OVERHEAD_SECONDS), histogram!(names::FIRST_BYTE_SECONDS));
        for counted in &self.counted {
            // Its thread goes on while what it had counted is added.
            let counted = std::mem::take(&mut *locked(counted));
            counted.overhead.into_iter().for_each(|took| overhead.record(took));
            counted.first_byte.into_iter().for_each(|took| first_byte.record(took));
            counted.of.into_values().flat_map(HashMap::into_values).for_each(Of::add);
        }
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        locked(self.counted.get_or_default())
    }
}

/// A count that was left half done is a count all the same.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

// === impl Of ===

impl Of {
    fn count(&mut self, ended: &Ended<'_>) {
        self.durations.push(ended.total.as_secs_f64());
        match self.requests.iter_mut().find(|(status, _)| *status == ended.status) {
            Some((_, count)) => *count += 1,
            None => self.requests.push((ended.status, 1)),
        }
        self.prompt += ended.usage.prompt;
        self.completion += ended.usage.completion;
    }

    /// Adds it to the metrics of the process.
    fn add(self) {
        let Self { tenant, model, durations, requests, prompt, completion } = self;
        let duration = histogram!(
            names::REQUEST_DURATION_SECONDS,
            "tenant" => tenant.clone(), "model" => model.clone()
        );
        durations.into_iter().for_each(|took| duration.record(took));
        for (status, count) in requests {
            counter!(
                names::REQUESTS_TOTAL,
                "tenant" => tenant.clone(), "model" => model.clone(), "status" => status.to_string()
            )
            .increment(count);
        }
        for (direction, tokens) in [("prompt", prompt), ("completion", completion)] {
            if tokens > 0 {
                counter!(
                    names::TOKENS_TOTAL,
                    "tenant" => tenant.clone(), "model" => model.clone(), "direction" => direction
                )
                .increment(tokens);
            }
        }
    }
}

// === impl Named ===

impl Named {
    /// The name itself, or [`OTHER`]. Nobody's name (`-`) is always itself.
    fn label(&self, name: &str) -> String {
        let mut names = locked(&self.names);
        if name == NOBODY || names.contains(name) {
            return name.to_owned();
        }
        if names.len() >= self.most {
            return OTHER.to_owned();
        }
        names.insert(name.to_owned());
        name.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, thread};

    use metrics_util::debugging::{DebugValue, DebuggingRecorder};

    use super::*;

    fn series(most: usize) -> Series {
        Series::new(&config::Metrics { tenants_max: most, models_max: most })
    }

    fn ended<'a>(tenant: &'a str, model: &'a str, status: u16) -> Ended<'a> {
        Ended {
            tenant,
            model,
            status,
            usage: Usage { prompt: 2, completion: 3, estimated: false },
            first_byte: Some(Duration::from_millis(1)),
            total: Duration::from_millis(5),
        }
    }

    /// What the metrics say, by name and the values of labels; of a histogram how many values it was told.
    fn told(gather: impl FnOnce()) -> BTreeMap<String, u64> {
        let recorder = DebuggingRecorder::new();
        let snapshotter = recorder.snapshotter();
        metrics::with_local_recorder(&recorder, gather);
        let told = snapshotter.snapshot().into_vec().into_iter();
        told.map(|(key, _, _, value)| {
            let labels = key.key().labels().map(metrics::Label::value);
            let name = [key.key().name()].into_iter().chain(labels).collect::<Vec<_>>().join(" ");
            match value {
                DebugValue::Counter(count) => (name, count),
                DebugValue::Histogram(values) => (name, values.len() as u64),
                DebugValue::Gauge(_) => unreachable!("{name}"),
            }
        })
        .collect()
    }

    #[test]
    fn what_each_thread_counted_is_told_once() {
        let series = series(9);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..250 {
                        series.overhead(Duration::from_micros(50));
                        series.ended(&ended("acme", "llama", 200));
                    }
                    series.ended(&Ended { first_byte: None, ..ended("acme", "llama", 429) });
                });
            }
        });
        let wanted = [
            ("gateway_first_byte_seconds", 1_000),
            ("gateway_overhead_seconds", 1_000),
            ("gateway_request_duration_seconds acme llama", 1_004),
            ("gateway_requests_total acme llama 200", 1_000),
            ("gateway_requests_total acme llama 429", 4),
            ("gateway_tokens_total acme llama completion", 3_012),
            ("gateway_tokens_total acme llama prompt", 2_008),
        ];
        let wanted = wanted.map(|(name, count)| (name.to_owned(), count));
        assert_eq!(told(|| series.gather()), BTreeMap::from(wanted));
        assert!(told(|| series.gather()).values().all(|count| *count == 0));
    }

    #[test]
    fn the_first_names_are_labels_and_nobody_is_always_one() {
        let series = series(1);
        for tenant in ["first", "second", NOBODY, "third"] {
            series.ended(&ended(tenant, "llama", 200));
        }
        series.gather();
        // A name stays what it was, however often it is gathered.
        for (tenant, model) in
            [("second", "llama"), ("first", "other"), ("first", "phi"), (NOBODY, "llama")]
        {
            series.ended(&ended(tenant, model, 200));
        }
        let told = told(|| series.gather());
        let requests = |labels: &str| told.get(&format!("gateway_requests_total {labels} 200"));
        assert_eq!((requests("first other"), requests("other llama")), (Some(&2), Some(&1)));
        assert_eq!((requests("- llama"), requests("first phi")), (Some(&1), None));
    }
}

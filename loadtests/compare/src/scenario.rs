//! What is asked of the servers: how, how often, over how many connections.

use crate::replies::{Dialect, MODEL};

/// Connections that ask at once where many do.
const MANY: usize = 32;
/// Streams at once where they come at a pace.
const PACED: usize = 200;

/// Which servers a scenario needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    /// nginx and the gateway on SQLite, with one key.
    Plain,
    /// The same with 10,000 keys of 1,000 tenants.
    Keys,
    /// nginx, and the gateway with and without limits.
    Limits,
    /// nginx, the gateway on SQLite, and the gateway on Postgres and Redis.
    Cluster,
    /// nginx, the gateway on SQLite, and other gateways.
    Peers,
}

/// The shape of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Not streamed.
    Whole,
    /// A hundred chunks as fast as they can, each written alone.
    Burst,
    /// A hundred chunks in one write.
    Gathered,
    /// A hundred chunks, 10 ms apart.
    Paced,
    /// One chunk, and then nothing.
    Held,
}

/// One scenario.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    /// Its name, by which it can be chosen.
    pub(crate) id: String,
    pub(crate) group: Group,
    pub(crate) shape: Shape,
    /// How the gateway is asked.
    pub(crate) dialect: Dialect,
    pub(crate) connections: usize,
    /// Whether all keys take turns.
    pub(crate) all_keys: bool,
}

/// How much is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    /// Rounds in which the servers take turns.
    pub(crate) rounds: usize,
    /// The same where the gateway is compared with itself, of which the difference is smaller.
    pub(crate) rounds_with_itself: usize,
    /// What the requests of a scenario are divided by.
    pub(crate) divisor: u64,
    /// Tenants, with ten keys each.
    pub(crate) tenants: usize,
    /// Streams that are held open.
    pub(crate) held: usize,
    /// How often a start is timed.
    pub(crate) starts: usize,
}

// === impl Group ===

impl Group {
    /// All of them, in the order in which they are run.
    pub(crate) const ALL: [Self; 5] =
        [Self::Plain, Self::Keys, Self::Limits, Self::Cluster, Self::Peers];

    /// In how many rounds its servers take turns.
    pub(crate) fn rounds(self, size: Size) -> usize {
        match self {
            Self::Plain | Self::Peers => size.rounds,
            Self::Keys | Self::Limits | Self::Cluster => size.rounds_with_itself,
        }
    }
}

// === impl Size ===

impl Size {
    /// Some ten minutes.
    pub(crate) const FULL: Self = Self {
        rounds: 3,
        rounds_with_itself: 7,
        divisor: 1,
        tenants: 1_000,
        held: 8_000,
        starts: 5,
    };
    /// Under a minute, to see that everything works; its numbers are not for quoting.
    pub(crate) const QUICK: Self = Self {
        rounds: 1,
        rounds_with_itself: 1,
        divisor: 10,
        tenants: 100,
        held: 1_000,
        starts: 1,
    };
}

// === impl Shape ===

impl Shape {
    /// The pieces of a reply.
    pub(crate) const fn chunks(self) -> usize {
        match self {
            Self::Whole => 10,
            Self::Held => 2,
            Self::Burst | Self::Gathered | Self::Paced => 100,
        }
    }

    /// The pieces that the first reply must have.
    pub(crate) const fn pieces_min(self) -> usize {
        if matches!(self, Self::Whole) { 1 } else { self.chunks() }
    }

    /// The body of a request for such a reply.
    pub(crate) fn body(self) -> String {
        let marks = match self {
            Self::Whole | Self::Burst => "",
            Self::Gathered => "[[gather 200]]",
            Self::Paced => "[[pace 10]]",
            Self::Held => "[[hold]]",
        };
        let chunks = self.chunks();
        serde_json::json!({
            "model": MODEL,
            "messages": [
                { "role": "system", "content": "You are brief." },
                { "role": "user", "content": format!("Tell me something. [[chunks {chunks}]]{marks}") },
            ],
            "stream": self != Self::Whole,
        })
        .to_string()
    }
}

// === impl Scenario ===

impl Scenario {
    /// Every scenario, in the order in which they are run.
    pub(crate) fn all(size: Size) -> Vec<Self> {
        use Dialect::{Native, OpenAi};
        use Shape::{Burst, Gathered, Paced, Whole};
        let mut all = Vec::new();
        let mut add = |id: &str, group, shape, dialect, connections| {
            let id = id.to_owned();
            all.push(Self { id, group, shape, dialect, connections, all_keys: false });
        };
        for (shape, name) in [(Whole, "whole"), (Burst, "burst")] {
            for connections in [1, MANY] {
                let id = format!("{name}/{connections}");
                add(&format!("{id}/native"), Group::Plain, shape, Native, connections);
                add(&format!("{id}/translated"), Group::Plain, shape, OpenAi, connections);
            }
        }
        add("gathered/32/translated", Group::Plain, Gathered, OpenAi, MANY);
        add("paced/200/native", Group::Plain, Paced, Native, PACED);
        add("paced/200/translated", Group::Plain, Paced, OpenAi, PACED);
        add("keys/1", Group::Keys, Whole, Native, MANY);
        add(&format!("keys/{}", size.tenants * 10), Group::Keys, Whole, Native, MANY);
        add("limits/whole/32/native", Group::Limits, Whole, Native, MANY);
        add("limits/burst/32/translated", Group::Limits, Burst, OpenAi, MANY);
        add("cluster/whole/32/native", Group::Cluster, Whole, Native, MANY);
        add("cluster/burst/32/translated", Group::Cluster, Burst, OpenAi, MANY);
        for (shape, name) in [(Whole, "whole"), (Burst, "burst")] {
            for connections in [1, MANY] {
                let id = format!("peers/{name}/{connections}");
                add(&id, Group::Peers, shape, OpenAi, connections);
            }
        }
        for scenario in &mut all {
            scenario.all_keys = scenario.group == Group::Keys && scenario.id != "keys/1";
        }
        all
    }

    /// How many requests count, and how many come before them.
    pub(crate) fn requests(&self, size: Size) -> (u64, u64) {
        let connections = self.connections as u64;
        let requests = match (self.shape, self.connections) {
            (Shape::Whole, 1) => 3_000,
            (Shape::Whole, _) => 15_000,
            (Shape::Burst | Shape::Gathered, 1) => 1_000,
            (Shape::Burst | Shape::Gathered, _) => 2_000,
            (Shape::Paced | Shape::Held, _) => 3 * connections * size.divisor.min(3),
        };
        let requests = (requests / size.divisor).max(connections);
        let warmup = (requests / 5).max(connections);
        let keys = if self.all_keys { size.tenants as u64 * 10 } else { 0 };
        (requests.max(keys), warmup.max(keys))
    }
}

/// Whether something of that name was asked for: `wanted` is a list of beginnings of names, or of
/// parts of them; an empty one wants everything.
pub(crate) fn is_wanted(wanted: &[String], id: &str) -> bool {
    wanted.is_empty() || wanted.iter().any(|part| id.contains(part.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenarios_have_names_of_their_own() {
        let mut ids: Vec<String> = Scenario::all(Size::FULL).into_iter().map(|s| s.id).collect();
        let count = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), count);
    }

    #[test]
    fn scenarios_are_chosen_by_parts_of_their_names() {
        assert!(is_wanted(&[], "burst/32/native"));
        assert!(is_wanted(&["paced".to_owned(), "burst".to_owned()], "burst/32/native"));
        assert!(!is_wanted(&["paced".to_owned()], "burst/32/native"));
    }

    #[test]
    fn every_key_is_used_before_it_counts() {
        for size in [Size::FULL, Size::QUICK] {
            let all = Scenario::all(size);
            let keys = all.iter().find(|scenario| scenario.all_keys).unwrap();
            assert!(keys.requests(size).1 >= size.tenants as u64 * 10);
        }
    }

    #[test]
    fn every_stream_is_asked_for_at_least_once() {
        for scenario in Scenario::all(Size::QUICK) {
            assert!(scenario.requests(Size::QUICK).0 >= scenario.connections as u64);
        }
    }
}

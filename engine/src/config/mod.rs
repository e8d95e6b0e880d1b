//! Every setting, and how it is read: file, then environment over it, checked as a whole.
//!
//! | file | what is in it |
//! |---|---|
//! | [`table`] | every setting, once: name, kind, default, what it is for |
//! | [`mod@env`] | the environment, as an argument |
//! | `values` | what was written, and the mistakes in it |
//! | `check` | from what was written to what the program trusts |

use std::{collections::HashMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use actors::rules::lane;
use identity::hashing::Hashing;
use protocol::{route::UpstreamKind, secret::Secret};
use zeroize::Zeroizing;

mod check;
pub mod env;
pub mod table;
#[cfg(test)]
mod tests;
mod values;

pub use values::Mistakes;

/// What the program trusts. Fields are documented in [`table`].
pub struct Config {
    /// Development or production.
    pub environment: Environment,
    /// Copies of the gateway that share the database.
    pub replicas: u32,
    /// Where files are kept.
    pub data_dir: PathBuf,
    /// The data listener.
    pub server: Server,
    /// The admin listener.
    pub admin: Admin,
    /// The database.
    pub database: Database,
    /// What replicas share.
    pub redis: Redis,
    /// Keys.
    pub keys: Keys,
    /// Upstreams.
    pub upstream: Upstream,
    /// The catalog.
    pub catalog: Catalog,
    /// Images that are fetched.
    pub images: Images,
    /// Limits.
    pub limits: Limits,
    /// The audit.
    pub audit: Audit,
    /// The prompt log.
    pub prompts: Prompts,
    /// Metrics.
    pub metrics: Metrics,
    /// The log.
    pub log: Log,
}

/// Where the gateway runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Environment {
    /// On somebody's machine.
    Development,
    /// Where it matters: unsafe settings are refused.
    Production,
}

/// `[server]`
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each is documented in the table of settings")]
pub struct Server {
    pub listen: SocketAddr,
    pub tls: Option<Tls>,
    pub threads: usize,
    pub connections_max: usize,
    pub connections_per_address_max: usize,
    pub header_bytes_max: usize,
    pub uri_bytes_max: usize,
    pub body_bytes_max: usize,
    pub bodies_bytes_max: usize,
    pub bodies_bytes_per_tenant_max: usize,
    pub replies_bytes_max: usize,
    pub replies_bytes_per_tenant_max: usize,
    pub header_timeout: Duration,
    pub idle_timeout: Duration,
    pub write_timeout: Duration,
    pub body_gap_timeout: Duration,
    pub body_timeout: Duration,
    pub body_rate_min: usize,
    pub drain_timeout: Duration,
}

/// `server.tls_certificate` and `server.tls_key`
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each is documented in the table of settings")]
pub struct Tls {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// `[admin]`
#[expect(missing_docs, reason = "each is documented in the table of settings")]
pub struct Admin {
    pub listen: SocketAddr,
    pub token: Option<Secret>,
    pub hosts: Vec<String>,
}

/// `[database]`
#[expect(missing_docs, reason = "each is documented in the table of settings")]
pub struct Database {
    pub url: Secret,
    pub connections_max: u32,
    pub acquire_timeout: Duration,
    pub lookup_timeout: Duration,
    pub batch_timeout: Duration,
    pub migrate: bool,
}

/// `[redis]`
#[expect(missing_docs, reason = "each is documented in the table of settings")]
pub struct Redis {
    pub url: Option<Secret>,
    pub deadline: Duration,
}

/// `[keys]`
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each is documented in the table of settings")]
pub struct Keys {
    pub argon2_memory_kib: u32,
    pub argon2_iterations: u32,
    pub argon2_lanes: u32,
    pub cache_ttl: Duration,
    pub cache_entries_max: usize,
    pub verifications_max: usize,
    pub verification_timeout: Duration,
    pub failures_per_minute: u32,
}

/// What proves us to upstreams, by their names. Its `Debug` leaves all of it out.
#[derive(Clone, Default)]
pub struct Credentials(Arc<HashMap<String, Secret>>);

impl Credentials {
    /// What proves us to that one, where anything does.
    #[must_use]
    pub fn of(&self, upstream: &str) -> Option<&Secret> {
        self.0.get(upstream)
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(…)")
    }
}

/// `[upstream]`
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each is documented in the table of settings")]
pub struct Upstream {
    pub upstreams: Vec<Configured>,
    /// What proves us to upstreams, by their names.
    pub keys: Credentials,
    pub connect_timeout: Duration,
    pub first_byte_timeout: Duration,
    pub cold_first_byte_timeout: Duration,
    pub gap_timeout: Duration,
    pub total_timeout: Duration,
    pub warm_for: Duration,
    pub idle_connections_max: usize,
    pub idle_timeout: Duration,
    pub reply_bytes_max: usize,
    pub lane: lane::Settings,
    pub queue_comments_every: Option<Duration>,
    /// How often a stream is told that its reply has not begun; none: never.
    pub loading_comments_every: Option<Duration>,
    pub retries_percent: u32,
    pub retries_per_second: u32,
}

/// A model server of `upstream.upstreams`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "as the database has them: storage::upstreams::Upstream")]
pub struct Configured {
    pub name: String,
    pub kind: UpstreamKind,
    pub url: String,
    pub keep_alive: bool,
}

/// `[catalog]`
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each is documented in the table of settings")]
pub struct Catalog {
    pub poll_interval: Duration,
    pub stale_after: Duration,
    pub allow_cloud_models: bool,
}

/// `[images]`
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each is documented in the table of settings")]
pub struct Images {
    pub fetch: bool,
    pub bytes_max: usize,
    pub count_max: usize,
    pub timeout: Duration,
    pub allowed_hosts: Vec<String>,
    pub allow_private: bool,
}

/// `[limits]`
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each is documented in the table of settings")]
pub struct Limits {
    pub completion_tokens_default: u64,
    pub image_tokens_default: u64,
    pub idle_after: Duration,
}

/// `[audit]`
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each is documented in the table of settings")]
pub struct Audit {
    pub places_max: usize,
    pub batch_events_max: usize,
    pub batch_wait: Duration,
    pub retention: Option<Duration>,
    pub unauthenticated_per_second: u32,
    pub unmetered_per_second: u32,
}

/// `[prompts]`
#[expect(missing_docs, reason = "each is documented in the table of settings")]
pub struct Prompts {
    pub retention: Duration,
    pub encryption_key: Option<Zeroizing<[u8; 32]>>,
    pub body_bytes_max: usize,
    pub waiting_bytes_max: usize,
}

/// `[metrics]`
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each is documented in the table of settings")]
pub struct Metrics {
    pub tenants_max: usize,
    pub models_max: usize,
}

/// `[log]`
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each is documented in the table of settings")]
pub struct Log {
    pub level: &'static str,
    pub json: bool,
}

// === impl Server ===

impl Server {
    /// How long a connection, or a stream of HTTP/2, may take nothing of what waits for it. It is more than
    /// `write_timeout`: after that the answer itself ends, and says why.
    #[must_use]
    pub fn give_up_timeout(&self) -> Duration {
        self.write_timeout + Duration::from_millis(500)
    }
}

// === impl Keys ===

impl Keys {
    /// What a hash costs.
    #[must_use]
    pub fn hashing(&self) -> Hashing {
        Hashing {
            memory_kib: self.argon2_memory_kib,
            iterations: self.argon2_iterations,
            lanes: self.argon2_lanes,
        }
    }
}

// === impl Database ===

impl Database {
    /// What storage wants to know.
    #[must_use]
    pub fn storage(&self) -> storage::Config {
        storage::Config {
            url: Secret::new(self.url.expose().to_owned()),
            connections_max: self.connections_max,
            acquire_timeout: self.acquire_timeout,
            deadlines: storage::Deadlines {
                lookup: self.lookup_timeout,
                batch: self.batch_timeout,
            },
        }
    }
}

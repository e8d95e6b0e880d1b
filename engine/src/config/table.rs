//! Every setting, once: its name, what it may be, its default, and what it is for.
//!
//! The reference in docs/CONFIGURATION.md is made from this table, and a test fails when it is stale.

use std::fmt::Write as _;

/// What a setting may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `address:port`.
    Address,
    /// A path.
    Path,
    /// A whole number between two others.
    Number(u64, u64),
    /// A number of bytes, such as `64MiB`, between two others.
    Bytes(u64, u64),
    /// A duration, such as `1m30s`, between two others, in milliseconds.
    Duration(u64, u64),
    /// A duration, or `forever`.
    DurationOrForever,
    /// `true` or `false`.
    Switch,
    /// One of these words.
    Word(&'static [&'static str]),
    /// `name=url,name=url`.
    Upstreams,
    /// Names of hosts.
    Hosts,
    /// A text that is never printed; may be in a file instead.
    Secret,
}

/// One setting.
pub struct Setting {
    /// Its section in the file.
    pub section: &'static str,
    /// Its name in the section.
    pub field: &'static str,
    /// What it may be.
    pub kind: Kind,
    /// Its default, as it would be written; empty where it has none, or one that is described.
    pub default: &'static str,
    /// What it is for.
    pub about: &'static str,
}

const DAY: u64 = 24 * 3_600_000;
const HOUR: u64 = 3_600_000;
const GIB: u64 = 1 << 30;

macro_rules! table {
    ($($section:ident.$field:ident, $kind:expr, $default:literal, $about:literal;)+) => {
        /// Every setting, in the order of the reference.
        pub const SETTINGS: &[Setting] = &[$(Setting {
            section: stringify!($section),
            field: stringify!($field),
            kind: $kind,
            default: $default,
            about: $about,
        }),+];
    };
}

table! {
    gateway.environment, Kind::Word(&["development", "production"]), "development",
        "In production unsafe settings stop the start. Also `NEURONETZ_ENV`.";
    gateway.replicas, Kind::Number(1, 10_000), "1",
        "How many copies of the gateway share the database. More than one needs Postgres.";
    gateway.data_dir, Kind::Path, "",
        "Where the SQLite database is kept. Default: `$XDG_DATA_HOME/neuronetz`, or `~/.local/share/neuronetz`.";
    server.listen, Kind::Address, "127.0.0.1:8080",
        "Where clients connect. Also `NEURONETZ_LISTEN`.";
    server.tls_certificate, Kind::Path, "",
        "PEM file with the certificate chain; with `tls_key`, the listener speaks TLS. Looked at every two seconds.";
    server.tls_key, Kind::Path, "", "PEM file with the private key.";
    server.threads, Kind::Number(0, 1_024), "0",
        "Threads that serve connections, each with its share of them; 0: one for each processor.";
    server.connections_max, Kind::Number(1, 1_000_000), "16384",
        "Connections at once; more wait to be accepted. Fewer where the process may not open so many files, with two for each of them: the log says so.";
    server.connections_per_address_max, Kind::Number(1, 1_000_000), "",
        "Connections at once of one client: an IPv4 address, or a /64 of IPv6; more are closed at once. Behind a proxy all connections are its own. Default: a quarter of `connections_max`, at least 256.";
    server.header_bytes_max, Kind::Bytes(1_024, 1 << 20), "64KiB",
        "Header fields of a request together; more is refused with 431.";
    server.uri_bytes_max, Kind::Bytes(64, 1 << 16), "8KiB",
        "Path and query of a request; more is refused with 414.";
    server.body_bytes_max, Kind::Bytes(1, 4 * GIB), "64MiB",
        "The body of a request, as it comes and unpacked; more is refused with 413.";
    server.bodies_bytes_max, Kind::Bytes(1, 1 << 42), "512MiB",
        "All bodies that are held at once; more is refused with 503 `overloaded`.";
    server.bodies_bytes_per_tenant_max, Kind::Bytes(1, 1 << 42), "128MiB",
        "Room for the bodies of one tenant's requests together. Bodies up to 16 KiB do not count.";
    server.replies_bytes_max, Kind::Bytes(1, 1 << 42), "512MiB",
        "Room for whole replies that are held until their clients have read them; one that finds none is refused.";
    server.replies_bytes_per_tenant_max, Kind::Bytes(1, 1 << 42), "128MiB",
        "Room for the whole replies of one tenant together. Replies up to 16 KiB do not count.";
    server.header_timeout, Kind::Duration(10, HOUR), "10s",
        "How long each may take: a TLS handshake, the first request of a connection, the head of a request; and how long an HTTP/1.1 connection may be idle.";
    server.idle_timeout, Kind::Duration(10, DAY), "2m",
        "How long an HTTP/2 connection may have no request, whatever else it sends.";
    server.write_timeout, Kind::Duration(10, HOUR), "30s",
        "How long a client may take none of the bytes that wait for it; then its stream ends, and its connection is closed.";
    server.body_gap_timeout, Kind::Duration(10, HOUR), "15s",
        "How long the next part of a body may take.";
    server.body_timeout, Kind::Duration(10, DAY), "5m", "How long a whole body may take.";
    server.body_rate_min, Kind::Bytes(0, 1 << 30), "4KiB",
        "The least number of bytes per second of a body, once `body_gap_timeout` has gone by; 0: none.";
    server.drain_timeout, Kind::Duration(0, DAY), "30s",
        "How long streams may go on after the gateway was told to stop.";
    admin.listen, Kind::Address, "127.0.0.1:9090",
        "Where operators connect: metrics and health. Also `NEURONETZ_ADMIN_LISTEN`.";
    admin.token, Kind::Secret, "",
        "What operators present as `Authorization: Bearer …`. Needed in production where the listener is not on loopback.";
    admin.hosts, Kind::Hosts, "",
        "Names with a dot in them by which the admin listener may be asked (`Host`). Addresses, `localhost` and names without a dot always may: none of them can be made to point here by a stranger's name server.";
    database.url, Kind::Secret, "",
        "`sqlite:PATH` or `postgres://…`. Also `DATABASE_URL`. Default: `neuronetz.db` in the data directory.";
    database.connections_max, Kind::Number(1, 1_000), "8",
        "Connections at once (SQLite: readers; there is one writer).";
    database.acquire_timeout, Kind::Duration(10, HOUR), "2s",
        "How long a connection may be waited for.";
    database.lookup_timeout, Kind::Duration(10, HOUR), "5s",
        "How long a look-up or a small change may take, with the wait for a connection. Where it is not enough, the connection is closed and another one opened.";
    database.batch_timeout, Kind::Duration(10, HOUR), "30s",
        "The same for what is long: a batch of audit events or prompts, a report, retention. On Postgres the server ends a statement after this, too.";
    database.migrate, Kind::Switch, "true",
        "Bring the schema up to date at start. Otherwise `neuronetz migrate` does.";
    redis.url, Kind::Secret, "",
        "`redis://…`, `rediss://…`, `redis-cluster://…` or `redis-sentinel://…` (Valkey, too): where replicas share their limits. Also `REDIS_URL`. Default: this process holds them alone.";
    redis.deadline, Kind::Duration(1, 60_000), "250ms",
        "How long Redis may take to decide; after that the answer is 503 `limits_unavailable`.";
    keys.argon2_memory_kib, Kind::Number(8, 4 << 20), "19456",
        "Memory of one hash, in KiB.";
    keys.argon2_iterations, Kind::Number(1, 1_000), "2", "Passes over that memory.";
    keys.argon2_lanes, Kind::Number(1, 64), "1", "Lanes of that memory.";
    keys.cache_ttl, Kind::Duration(0, HOUR), "60s",
        "How long a proven key is trusted before its record is read again. Changes are heard at once besides.";
    keys.cache_entries_max, Kind::Number(1, 10_000_000), "100000", "Proven keys that are remembered.";
    keys.verifications_max, Kind::Number(1, 1_024), "",
        "Hashes at once. Default: the number of processors, at least 2.";
    keys.verification_timeout, Kind::Duration(10, HOUR), "5s",
        "How long a caller waits for its turn to be verified.";
    keys.failures_per_minute, Kind::Number(0, 1_000_000), "600",
        "Wrong keys of one client address (IPv6: of one /64), loopback and private ones included. The first two seconds' worth is answered at once, the answer to what comes faster is held for up to a minute, and beyond that keys that are not cached are refused with 429 `too_many_failures`. Behind a proxy all clients have its address. 0: no limit.";
    upstream.keys, Kind::Secret, "",
        "What proves the gateway to upstreams that ask for it: `name=key`, several with commas or on lines of their own.";
    upstream.upstreams, Kind::Upstreams, "ollama=http://127.0.0.1:11434",
        "Model servers besides those in the database. Also `NEURONETZ_UPSTREAMS`.";
    upstream.connect_timeout, Kind::Duration(1, HOUR), "3s", "How long a connection may take.";
    upstream.first_byte_timeout, Kind::Duration(10, DAY), "60s",
        "How long the first byte of a stream may take where the model answered lately.";
    upstream.cold_first_byte_timeout, Kind::Duration(10, DAY), "10m",
        "How long it may take where the model may have to be loaded, or the reply is whole.";
    upstream.gap_timeout, Kind::Duration(10, DAY), "2m", "How long the next part of a reply may take.";
    upstream.total_timeout, Kind::Duration(10, 7 * DAY), "1h", "How long a whole reply may take.";
    upstream.warm_for, Kind::Duration(0, DAY), "4m",
        "How long a model counts as loaded after it answered.";
    upstream.idle_connections_max, Kind::Number(0, 100_000), "256",
        "Connections that each of `server.threads` keeps to each upstream.";
    upstream.idle_timeout, Kind::Duration(10, DAY), "60s", "How long such a connection is kept.";
    upstream.reply_bytes_max, Kind::Bytes(1_024, 4 * GIB), "64MiB",
        "The largest reply that is not a stream.";
    upstream.slots, Kind::Number(1, 1_000_000), "",
        "Requests at once on an upstream that has no number of its own; more wait. Default: as many as come.";
    upstream.queue_wait, Kind::Duration(0, HOUR), "30s",
        "How long a request waits for a slot; after that 503 `queue_timeout`.";
    upstream.queue_per_tenant_max, Kind::Number(0, 1_000_000), "1024",
        "Requests of one tenant that wait for one upstream; more is refused with 503 `queue_full`.";
    upstream.queue_max, Kind::Number(0, 1_000_000), "8192", "Requests of all tenants that do.";
    upstream.queue_comments_every, Kind::Duration(0, HOUR), "0s",
        "How often a waiting stream of OpenAI's dialect is told its place, as a comment; 0s: never.";
    upstream.loading_comments_every, Kind::Duration(0, HOUR), "0s",
        "How often a stream of events whose reply has not begun, since the model is still being loaded, is sent a comment, so that nothing between cuts it; 0s: never.";
    upstream.breaker_window, Kind::Duration(100, HOUR), "30s",
        "Over what time an upstream's faults are counted.";
    upstream.breaker_calls_min, Kind::Number(1, 1_000_000), "20",
        "Below so many calls in that time the share of faults says nothing.";
    upstream.breaker_faults_percent, Kind::Number(1, 100), "50",
        "The share of faults at which an upstream is left alone for a while.";
    upstream.breaker_pause, Kind::Duration(10, HOUR), "1s", "The first such while; each one doubles it.";
    upstream.breaker_pause_max, Kind::Duration(10, DAY), "60s", "The longest.";
    upstream.retries_percent, Kind::Number(0, 100), "20",
        "Calls that may be made again on another upstream, of all calls of the last ten seconds.";
    upstream.retries_per_second, Kind::Number(0, 100_000), "10", "Besides, so many a second.";
    catalog.poll_interval, Kind::Duration(100, DAY), "30s",
        "How often each upstream is asked for its models, give or take a tenth.";
    catalog.stale_after, Kind::Duration(100, 7 * DAY), "5m",
        "How long an upstream's list of models counts; after that its models are refused.";
    catalog.allow_cloud_models, Kind::Switch, "false",
        "Let through models whose name sends the request to Ollama's cloud.";
    images.fetch, Kind::Switch, "false",
        "Fetch the images that a request names by their address; else such a request is refused.";
    images.bytes_max, Kind::Bytes(1, GIB), "10MiB", "The largest image that is fetched.";
    images.count_max, Kind::Number(1, 64), "8", "Images of one request that are fetched.";
    images.timeout, Kind::Duration(10, HOUR), "10s", "How long one image may take, all in all.";
    images.allowed_hosts, Kind::Hosts, "",
        "The hosts that images are fetched from. Default: every one whose address is public.";
    images.allow_private, Kind::Switch, "false",
        "Fetch from addresses that are not public, too: loopback, private networks. For tests; refused in production.";
    limits.completion_tokens_default, Kind::Number(1, 1_000_000), "1024",
        "Tokens that a reply is expected to have where the client names no most; under a budget it gets no more.";
    limits.image_tokens_default, Kind::Number(1, 1_000_000), "1536",
        "Tokens that an image or a sound in a prompt is taken for; vision encoders make 256 to 1600 of one.";
    limits.idle_after, Kind::Duration(1_000, DAY), "10m",
        "How long the limits of a tenant that asks for nothing are kept in memory.";
    audit.places_max, Kind::Number(1, 10_000_000), "65536",
        "Requests under way and events that wait to be stored; beyond, 503 `audit_saturated`. One tenant holds at most twice as many as are free.";
    audit.batch_events_max, Kind::Number(1, 10_000), "4000",
        "Events stored together; no more than half of `audit.places_max`.";
    audit.batch_wait, Kind::Duration(1, 60_000), "200ms",
        "How long the first event of a batch waits for others.";
    audit.retention, Kind::DurationOrForever, "90d", "How long events are kept, or `forever`.";
    audit.unauthenticated_per_second, Kind::Number(0, 10_000), "10",
        "Refusals of requests without a valid key that are written down; all are counted.";
    audit.unmetered_per_second, Kind::Number(0, 10_000), "10",
        "Requests of one key that used no tokens (refusals, lists of models) and are events of their own, and five times as many at once; those beyond are counted in one event of their kind every 5 s.";
    prompts.retention, Kind::Duration(1_000, 366 * DAY), "24h",
        "How long the requests of keys that log their prompts are kept.";
    prompts.encryption_key, Kind::Secret, "",
        "32 random bytes as 64 hexadecimal digits: what is kept of prompts is encrypted with it (XChaCha20-Poly1305).";
    prompts.body_bytes_max, Kind::Bytes(1, 64 << 20), "256KiB",
        "The longest request that is kept; of a longer one the beginning is, with the length of the whole.";
    prompts.waiting_bytes_max, Kind::Bytes(1, 1 << 40), "64MiB",
        "All requests that wait to be kept, of one tenant at most a quarter; more are counted and not kept.";
    metrics.tenants_max, Kind::Number(0, 100_000), "100",
        "Tenants that metrics name; the rest are `other`.";
    metrics.models_max, Kind::Number(0, 100_000), "100", "Models that metrics name; the rest are `other`.";
    log.level, Kind::Word(&["error", "warn", "info", "debug", "trace"]), "info", "What is logged.";
    log.format, Kind::Word(&["text", "json"]), "text", "How it is logged.";
}

/// Names that stand for a setting besides the one that follows from its section and field.
pub const ALSO: &[(&str, &str)] = &[
    ("DATABASE_URL", "database.url"),
    ("REDIS_URL", "redis.url"),
    ("NEURONETZ_LISTEN", "server.listen"),
    ("NEURONETZ_UPSTREAMS", "upstream.upstreams"),
    ("NEURONETZ_ENV", "gateway.environment"),
];

/// Variables that are no settings.
pub const OTHERS: &[&str] = &["NEURONETZ_CONFIG"];

// === impl Setting ===

impl Setting {
    /// `section.field`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}.{}", self.section, self.field)
    }

    /// The environment variable that follows from section and field.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("NEURONETZ_{}_{}", self.section, self.field).to_uppercase()
    }

    /// Whether its value must never be printed.
    #[must_use]
    pub fn is_secret(&self) -> bool {
        self.kind == Kind::Secret
    }
}

// === impl Kind ===

impl Kind {
    /// What is allowed, for people.
    #[must_use]
    pub fn allowed(self) -> String {
        match self {
            Self::Address => "address:port".to_owned(),
            Self::Path => "a path".to_owned(),
            Self::Number(min, max) => format!("a whole number from {min} to {max}"),
            Self::Bytes(min, max) => format!("bytes, as 64MiB, from {min} to {max}"),
            Self::Duration(min, max) => {
                format!("a duration, as 1m30s, from {} to {}", span(min), span(max))
            }
            Self::DurationOrForever => "a duration, as 90d, or forever".to_owned(),
            Self::Switch => "true or false".to_owned(),
            Self::Word(words) => words.join(" or "),
            Self::Upstreams => {
                "name=http://host:port or name=openai+http://host:port/v1, several with commas; \
                 name=no-keep-alive+http://host:port and name=openai+no-keep-alive+http://host:port/v1 \
                 for a connection of its own for each call"
                    .to_owned()
            }
            Self::Hosts => {
                "names of hosts, several with commas; `*.name` for all below one".to_owned()
            }
            Self::Secret => "a text; never printed".to_owned(),
        }
    }
}

fn span(millis: u64) -> String {
    humantime::format_duration(std::time::Duration::from_millis(millis)).to_string()
}

/// The reference, as Markdown.
#[must_use]
pub fn reference() -> String {
    let mut out = String::from(HEAD);
    let mut section = "";
    for setting in SETTINGS {
        if setting.section != section {
            section = setting.section;
            let _ = write!(
                out,
                "\n## [{section}]\n\n| setting | default | allowed | what for |\n|---|---|---|---|\n"
            );
        }
        let default = if setting.default.is_empty() {
            "–".to_owned()
        } else {
            format!("`{}`", setting.default)
        };
        let _ = writeln!(
            out,
            "| `{}`<br>`{}`{} | {default} | {} | {} |",
            setting.field,
            setting.variable(),
            if setting.is_secret() { ", `…_FILE`" } else { "" },
            setting.kind.allowed(),
            setting.about,
        );
    }
    out
}

const HEAD: &str = "# Configuration

<!-- Made by `neuronetz check-config --reference`; a test fails when it is stale. -->

One TOML file, named by `--config` or `NEURONETZ_CONFIG`, and environment variables over it. Every
setting `field` of `[section]` is also the variable `NEURONETZ_SECTION_FIELD`; `DATABASE_URL`,
`REDIS_URL`, `NEURONETZ_LISTEN`, `NEURONETZ_UPSTREAMS` and `NEURONETZ_ENV` are short names. A secret may be in a
file instead: `url_file = \"…\"` or `DATABASE_URL_FILE=…`; value and file together are refused.

A setting that is wrong or unknown stops the start, with its name, its value (never a secret's) and
what is allowed. `neuronetz check-config` says so without starting anything.

With `NEURONETZ_ENV=production` the start is refused with: more than one replica and SQLite, or no
Redis; an admin
listener that is not on loopback and has no token; a token that is short or a well-known one; a
database password that is a well-known one; hashing below OWASP's minimum; images fetched from
addresses that are not public; logging at `debug` or `trace`.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_in_the_docs_is_fresh() {
        let kept = include_str!("../../../docs/CONFIGURATION.md");
        assert!(
            kept == reference(),
            "docs/CONFIGURATION.md is stale: neuronetz check-config --reference > docs/CONFIGURATION.md"
        );
    }

    #[test]
    fn every_name_is_there_once() {
        let mut names: Vec<_> = SETTINGS.iter().map(Setting::name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), SETTINGS.len());
        assert!(ALSO.iter().all(|(_, name)| names.iter().any(|other| other == name)));
    }
}

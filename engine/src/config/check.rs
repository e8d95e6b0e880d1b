//! From what was written to what the program trusts. Pure: files are read by an argument.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use actors::rules::{breaker, fair_queue, lane};
use protocol::secret::Secret;
use zeroize::Zeroizing;

use super::{
    Admin, Audit, Catalog, Config, Database, Environment, Images, Keys, Limits, Log, Metrics,
    Mistakes, Prompts, Redis, Server, Tls, Upstream, env, values::Values,
};

/// The shortest token that production takes for a secret.
const TOKEN_LENGTH_MIN: usize = 32;

/// The part of all connections that one address may have, where nothing else is configured, and what it may
/// have at least.
const ADDRESS_SHARE: usize = 4;
const ADDRESS_LEAST: usize = 256;

/// Passwords and tokens that everybody tries first.
const WELL_KNOWN: [&str; 10] = [
    "admin",
    "changeme",
    "default",
    "gateway",
    "neuronetz",
    "password",
    "postgres",
    "root",
    "secret",
    "test",
];

/// OWASP's configurations of equal strength: memory in KiB, and the least passes with it.
const OWASP: [(u32, u32); 5] = [(47_104, 1), (19_456, 2), (12_288, 3), (9_216, 4), (7_168, 5)];

impl Config {
    /// Reads and checks everything; `read` reads files.
    ///
    /// # Errors
    /// All [`Mistakes`] at once.
    pub fn load(
        file: Option<&Path>,
        env: &env::Environment,
        read: impl Fn(&Path) -> io::Result<String>,
    ) -> Result<Self, Mistakes> {
        let mut values = Values::gather(file, env, &read);
        let data_dir = values.path("gateway.data_dir").unwrap_or_else(|| data_dir(env));
        let config = Self {
            environment: match values.word("gateway.environment") {
                "production" => Environment::Production,
                _ => Environment::Development,
            },
            replicas: values.number("gateway.replicas"),
            server: server(&mut values),
            admin: Admin {
                listen: values.address("admin.listen"),
                token: values.secret("admin.token"),
                hosts: values.hosts("admin.hosts"),
            },
            database: database(&mut values, &data_dir),
            redis: Redis {
                url: values.secret("redis.url"),
                deadline: values.duration("redis.deadline"),
            },
            keys: keys(&mut values),
            upstream: upstream(&mut values),
            catalog: Catalog {
                poll_interval: values.duration("catalog.poll_interval"),
                stale_after: values.duration("catalog.stale_after"),
                allow_cloud_models: values.switch("catalog.allow_cloud_models"),
            },
            images: Images {
                fetch: values.switch("images.fetch"),
                bytes_max: values.number("images.bytes_max"),
                count_max: values.number("images.count_max"),
                timeout: values.duration("images.timeout"),
                allowed_hosts: values.hosts("images.allowed_hosts"),
                allow_private: values.switch("images.allow_private"),
            },
            limits: Limits {
                completion_tokens_default: values.number("limits.completion_tokens_default"),
                image_tokens_default: values.number("limits.image_tokens_default"),
                idle_after: values.duration("limits.idle_after"),
            },
            audit: audit(&mut values),
            prompts: prompts(&mut values),
            metrics: Metrics {
                tenants_max: values.number("metrics.tenants_max"),
                models_max: values.number("metrics.models_max"),
            },
            log: Log { level: values.word("log.level"), json: values.word("log.format") == "json" },
            data_dir,
        };
        let mut mistakes = values.mistakes;
        if mistakes.is_empty() {
            check(&config, &mut mistakes);
        }
        if mistakes.is_empty() { Ok(config) } else { Err(Mistakes(mistakes)) }
    }
}

fn server(values: &mut Values) -> Server {
    let certificate = values.path("server.tls_certificate");
    let key = values.path("server.tls_key");
    if certificate.is_some() != key.is_some() {
        let both = "`server.tls_certificate` and `server.tls_key` go together: give both or none";
        values.mistakes.push(both.to_owned());
    }
    let connections_max = values.number("server.connections_max");
    let per_address = values.number_if_given("server.connections_per_address_max");
    Server {
        listen: values.address("server.listen"),
        tls: certificate.zip(key).map(|(certificate, key)| Tls { certificate, key }),
        threads: values.number("server.threads"),
        connections_max,
        connections_per_address_max: per_address
            .unwrap_or_else(|| (connections_max / ADDRESS_SHARE).max(ADDRESS_LEAST)),
        header_bytes_max: values.number("server.header_bytes_max"),
        uri_bytes_max: values.number("server.uri_bytes_max"),
        body_bytes_max: values.number("server.body_bytes_max"),
        bodies_bytes_max: values.number("server.bodies_bytes_max"),
        bodies_bytes_per_tenant_max: values.number("server.bodies_bytes_per_tenant_max"),
        replies_bytes_max: values.number("server.replies_bytes_max"),
        replies_bytes_per_tenant_max: values.number("server.replies_bytes_per_tenant_max"),
        header_timeout: values.duration("server.header_timeout"),
        idle_timeout: values.duration("server.idle_timeout"),
        write_timeout: values.duration("server.write_timeout"),
        body_gap_timeout: values.duration("server.body_gap_timeout"),
        body_timeout: values.duration("server.body_timeout"),
        body_rate_min: values.number("server.body_rate_min"),
        drain_timeout: values.duration("server.drain_timeout"),
    }
}

fn database(values: &mut Values, data_dir: &Path) -> Database {
    let default = || Secret::new(format!("sqlite:{}", data_dir.join("neuronetz.db").display()));
    let url = values.secret("database.url").unwrap_or_else(default);
    let known = ["sqlite:", "postgres://", "postgresql://"];
    if !known.iter().any(|scheme| url.expose().starts_with(scheme)) {
        let wrong = "`database.url` is (not shown); allowed: sqlite:PATH or postgres://…";
        values.mistakes.push(wrong.to_owned());
    }
    Database {
        url,
        connections_max: values.number("database.connections_max"),
        acquire_timeout: values.duration("database.acquire_timeout"),
        lookup_timeout: values.duration("database.lookup_timeout"),
        batch_timeout: values.duration("database.batch_timeout"),
        migrate: values.switch("database.migrate"),
    }
}

fn keys(values: &mut Values) -> Keys {
    let processors = std::thread::available_parallelism().map_or(2, |count| count.get().max(2));
    Keys {
        argon2_memory_kib: values.number("keys.argon2_memory_kib"),
        argon2_iterations: values.number("keys.argon2_iterations"),
        argon2_lanes: values.number("keys.argon2_lanes"),
        cache_ttl: values.duration("keys.cache_ttl"),
        cache_entries_max: values.number("keys.cache_entries_max"),
        verifications_max: values.number_if_given("keys.verifications_max").unwrap_or(processors),
        verification_timeout: values.duration("keys.verification_timeout"),
        failures_per_minute: values.number("keys.failures_per_minute"),
    }
}

fn upstream(values: &mut Values) -> Upstream {
    Upstream {
        upstreams: values.upstreams("upstream.upstreams"),
        keys: super::Credentials(values.keys("upstream.keys").into()),
        connect_timeout: values.duration("upstream.connect_timeout"),
        first_byte_timeout: values.duration("upstream.first_byte_timeout"),
        cold_first_byte_timeout: values.duration("upstream.cold_first_byte_timeout"),
        gap_timeout: values.duration("upstream.gap_timeout"),
        total_timeout: values.duration("upstream.total_timeout"),
        warm_for: values.duration("upstream.warm_for"),
        idle_connections_max: values.number("upstream.idle_connections_max"),
        idle_timeout: values.duration("upstream.idle_timeout"),
        reply_bytes_max: values.number("upstream.reply_bytes_max"),
        lane: lane(values),
        queue_comments_every: some(values.duration("upstream.queue_comments_every")),
        loading_comments_every: some(values.duration("upstream.loading_comments_every")),
        retries_percent: values.number("upstream.retries_percent"),
        retries_per_second: values.number("upstream.retries_per_second"),
    }
}

/// A time of 0s is never.
fn some(every: Duration) -> Option<Duration> {
    Some(every).filter(|every| !every.is_zero())
}

fn lane(values: &mut Values) -> lane::Settings {
    lane::Settings {
        slots: values.number_if_given("upstream.slots"),
        queue: fair_queue::Settings {
            per_tenant_max: values.number("upstream.queue_per_tenant_max"),
            all_max: values.number("upstream.queue_max"),
        },
        wait_max: values.duration("upstream.queue_wait"),
        breaker: breaker::Settings {
            span: values.duration("upstream.breaker_window"),
            calls_min: values.number("upstream.breaker_calls_min"),
            faults_percent: values.number("upstream.breaker_faults_percent"),
            pause_min: values.duration("upstream.breaker_pause"),
            pause_max: values.duration("upstream.breaker_pause_max"),
            ..breaker::Settings::default()
        },
    }
}

fn prompts(values: &mut Values) -> Prompts {
    let encryption_key = values.secret("prompts.encryption_key").and_then(|text| {
        // 32 bytes as 64 digits are what a hash is, too.
        if let Ok(bytes) = blake3::Hash::from_hex(text.expose()) {
            return Some(Zeroizing::new(*bytes.as_bytes()));
        }
        let wrong = "`prompts.encryption_key` is (not shown); allowed: 64 hexadecimal digits";
        values.mistakes.push(wrong.to_owned());
        None
    });
    Prompts {
        retention: values.duration("prompts.retention"),
        encryption_key,
        body_bytes_max: values.number("prompts.body_bytes_max"),
        waiting_bytes_max: values.number("prompts.waiting_bytes_max"),
    }
}

fn audit(values: &mut Values) -> Audit {
    Audit {
        places_max: values.number("audit.places_max"),
        batch_events_max: values.number("audit.batch_events_max"),
        batch_wait: values.duration("audit.batch_wait"),
        retention: values.duration_or_forever("audit.retention"),
        unauthenticated_per_second: values.number("audit.unauthenticated_per_second"),
        unmetered_per_second: values.number("audit.unmetered_per_second"),
    }
}

/// What is wrong between settings, and what production does not take.
fn check(config: &Config, mistakes: &mut Vec<String>) {
    let mut refuse = |wrong: bool, why: &str| {
        if wrong {
            mistakes.push(why.to_owned());
        }
    };
    let Config { server, keys, catalog, database, admin, log, .. } = config;
    refuse(
        server.bodies_bytes_max < server.body_bytes_max,
        "`server.bodies_bytes_max` is below `server.body_bytes_max`: no body of that size could come in",
    );
    refuse(
        config.prompts.waiting_bytes_max < config.prompts.body_bytes_max,
        "`prompts.waiting_bytes_max` is below `prompts.body_bytes_max`: no request of that size could wait",
    );
    refuse(
        catalog.stale_after <= catalog.poll_interval,
        "`catalog.stale_after` must be longer than `catalog.poll_interval`",
    );
    refuse(
        config.upstream.lane.breaker.pause_max < config.upstream.lane.breaker.pause_min,
        "`upstream.breaker_pause_max` is below `upstream.breaker_pause`",
    );
    refuse(
        keys.argon2_memory_kib < 8 * keys.argon2_lanes,
        "`keys.argon2_memory_kib` must be at least 8 for each of `keys.argon2_lanes`",
    );
    if config.environment != Environment::Production {
        return;
    }
    let sqlite = database.url.expose().starts_with("sqlite:");
    refuse(
        sqlite && config.replicas > 1,
        "production: SQLite serves one replica; give `database.url` a postgres:// URL or set `gateway.replicas` to 1",
    );
    refuse(
        config.redis.url.is_none() && config.replicas > 1,
        "production: each of several replicas would hold limits of its own; give `redis.url`, or set `gateway.replicas` to 1",
    );
    refuse(
        config.redis.url.as_ref().is_some_and(|url| has_well_known_password(url.expose())),
        "production: the password in `redis.url` is a well-known one",
    );
    refuse(
        !admin.listen.ip().is_loopback() && admin.token.is_none(),
        "production: `admin.listen` is not on loopback; set `admin.token`",
    );
    refuse(
        admin.token.as_ref().is_some_and(is_weak),
        "production: `admin.token` is short or well known; give it at least 32 random characters",
    );
    refuse(
        has_well_known_password(database.url.expose()),
        "production: the password in `database.url` is a well-known one",
    );
    let strong = OWASP.iter().any(|(memory, passes)| {
        keys.argon2_memory_kib >= *memory && keys.argon2_iterations >= *passes
    });
    refuse(
        !strong,
        "production: `keys.argon2_…` is below OWASP's minimum; 19456 KiB and 2 passes are the default",
    );
    refuse(
        config.images.allow_private,
        "production: `images.allow_private` lets clients reach into the gateway's own network",
    );
    refuse(
        matches!(log.level, "debug" | "trace"),
        "production: `log.level` must be error, warn or info",
    );
}

fn is_weak(token: &Secret) -> bool {
    token.expose().len() < TOKEN_LENGTH_MIN
        || WELL_KNOWN.iter().any(|known| token.expose().eq_ignore_ascii_case(known))
}

fn has_well_known_password(url: &str) -> bool {
    let authority = url.split_once("://").map_or("", |(_, rest)| rest);
    let user = authority.split(['/', '?']).next().and_then(|part| part.rsplit_once('@'));
    let password = user.and_then(|(user, _)| user.split_once(':')).map(|(_, password)| password);
    password
        .is_some_and(|password| WELL_KNOWN.iter().any(|known| password.eq_ignore_ascii_case(known)))
}

fn data_dir(env: &env::Environment) -> PathBuf {
    let home = || Some(PathBuf::from(env.get("HOME")?).join(".local/share"));
    let base = env.get("XDG_DATA_HOME").map(PathBuf::from).or_else(home);
    base.unwrap_or_else(|| PathBuf::from("/var/lib")).join("neuronetz")
}

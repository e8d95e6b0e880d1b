//! What is refused, and how it is told.

use std::{io, path::Path};

use protocol::route::UpstreamKind;

use super::{Config, Configured, Environment, Mistakes, env};

fn load(file: &str, variables: &[(&str, &str)]) -> Result<Config, Mistakes> {
    let pairs = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let env = env::Environment::of(pairs);
    Config::load(Some(Path::new("n.toml")), &env, |path| match path.to_str() {
        Some("n.toml") => Ok(file.to_owned()),
        Some("secret") => Ok("postgres://u:from-a-file@h/d\n".to_owned()),
        _ => Err(io::ErrorKind::NotFound.into()),
    })
}

fn mistakes(file: &str, variables: &[(&str, &str)]) -> Vec<String> {
    load(file, variables).err().map(|mistakes| mistakes.0).unwrap_or_default()
}

fn one(file: &str, variables: &[(&str, &str)]) -> String {
    let mistakes = mistakes(file, variables);
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    mistakes.into_iter().next().unwrap_or_default()
}

#[test]
fn nothing_at_all_is_a_configuration() {
    let Ok(config) = load("", &[("HOME", "/home/a")]) else { panic!("refused") };
    assert_eq!(config.environment, Environment::Development);
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.server.body_bytes_max, 64 << 20);
    assert_eq!(config.database.url.expose(), "sqlite:/home/a/.local/share/neuronetz/neuronetz.db");
    assert_eq!(
        config.upstream.upstreams,
        [Configured {
            name: "ollama".into(),
            kind: UpstreamKind::Ollama,
            url: "http://127.0.0.1:11434".into(),
            keep_alive: true
        }]
    );
}

#[test]
fn an_upstream_can_have_a_connection_for_each_call() {
    let upstreams =
        "a=no-keep-alive+http://a,b=openai+no-keep-alive+https://b/v1,c=openai+http://c";
    let Ok(config) = load("", &[("NEURONETZ_UPSTREAMS", upstreams)]) else { panic!("refused") };
    let read: Vec<_> = config
        .upstream
        .upstreams
        .iter()
        .map(|one| (one.url.as_str(), one.kind, one.keep_alive))
        .collect();
    assert_eq!(
        read,
        [
            ("http://a", UpstreamKind::Ollama, false),
            ("https://b/v1", UpstreamKind::OpenAi, false),
            ("http://c", UpstreamKind::OpenAi, true),
        ]
    );
    let wrong = "a=no-keep-alive+no-keep-alive+http://a";
    assert!(one("", &[("NEURONETZ_UPSTREAMS", wrong)]).contains("no-keep-alive+http://host:port"));
}

#[test]
fn the_environment_wins_over_the_file() {
    let file = "[server]\nlisten = \"127.0.0.1:1\"\nbody_bytes_max = 1024\n[upstream.upstreams]\na = \"http://a\"\nb = \"https://b:1\"";
    let Ok(config) = load(file, &[("NEURONETZ_SERVER_LISTEN", "127.0.0.1:2")]) else {
        panic!("refused")
    };
    assert_eq!(config.server.listen.port(), 2);
    assert_eq!(config.server.body_bytes_max, 1024);
    assert_eq!(config.upstream.upstreams.len(), 2);
}

#[test]
fn an_unknown_setting_is_refused_with_the_one_that_was_meant() {
    assert_eq!(
        one("[server]\nlisen = \"a\"", &[]),
        "`server.lisen` in n.toml is no setting; did you mean `server.listen`?"
    );
    assert!(
        one("", &[("NEURONETZ_SERVER_LISEN", "a")])
            .ends_with("did you mean `NEURONETZ_SERVER_LISTEN`?")
    );
    assert!(one("listen = 1", &[]).contains("settings stand in sections"));
}

#[test]
fn a_wrong_value_is_told_with_its_name_its_source_and_what_is_allowed() {
    assert_eq!(
        one("", &[("NEURONETZ_LISTEN", "8080")]),
        "`server.listen` is \"8080\", from NEURONETZ_LISTEN; allowed: address:port"
    );
    assert_eq!(
        one("[server]\nheader_timeout = \"soon\"", &[]),
        "`server.header_timeout` is \"soon\", from n.toml; allowed: a duration, as 1m30s, from 10ms to 1h"
    );
    for (name, value) in [
        ("NEURONETZ_SERVER_BODY_BYTES_MAX", "0"),
        ("NEURONETZ_SERVER_BODY_BYTES_MAX", "5GiB"),
        ("NEURONETZ_SERVER_CONNECTIONS_MAX", "-1"),
        ("NEURONETZ_DATABASE_MIGRATE", "yes"),
        ("NEURONETZ_LOG_LEVEL", "loud"),
        ("NEURONETZ_UPSTREAMS", "http://a"),
        ("NEURONETZ_UPSTREAMS", "a=ftp://a"),
        ("NEURONETZ_UPSTREAMS", "a=http://a,a=http://b"),
        ("NEURONETZ_UPSTREAMS", "a=http://u:p@a"),
    ] {
        assert!(one("", &[(name, value)]).contains("; allowed: "), "{name}={value}");
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let told = mistakes("[log]\nlevel = \"loud\"\nx = 1", &[("NEURONETZ_LISTEN", "x")]);
    assert_eq!(told.len(), 3, "{told:?}");
}

#[test]
fn a_secret_is_never_told() {
    let told = [
        mistakes("[database]\nurl = \"mysql://u:hunter2@h/d\"", &[]),
        mistakes("[database]\nurl = \"mysql://u:hunter2@h/d\nx", &[]),
        mistakes("", &[("DATABASE_URL", "mysql://u:hunter2@h/d")]),
        mistakes(
            "",
            &[("DATABASE_URL", "postgres://u:hunter2@h/d"), ("DATABASE_URL_FILE", "secret")],
        ),
        mistakes("[database]\nurl = 7", &[]),
    ];
    for told in told {
        assert!(!told.is_empty() && !told.concat().contains("hunter2"), "{told:?}");
    }
}

#[test]
fn a_secret_may_be_in_a_file() {
    let in_env = load("", &[("DATABASE_URL_FILE", "secret")]);
    let in_file = load("[database]\nurl_file = \"secret\"", &[]);
    for config in [in_env, in_file] {
        assert!(
            config
                .is_ok_and(|config| config.database.url.expose() == "postgres://u:from-a-file@h/d")
        );
    }
    assert!(one("", &[("DATABASE_URL_FILE", "missing")]).contains("cannot read missing"));
    assert!(
        one("", &[("DATABASE_URL_FILE", "secret"), ("DATABASE_URL", "sqlite:a")])
            .contains("not both")
    );
    assert!(one("[database]\nurl = \"sqlite:a\"\nurl_file = \"secret\"", &[]).contains("not both"));
    assert!(one("[server]\nlisten_file = \"secret\"", &[]).contains("is no setting"));
}

#[test]
fn production_refuses_what_is_unsafe() {
    let production = |more: &[(&str, &str)]| {
        let mut variables = vec![("NEURONETZ_ENV", "production"), ("HOME", "/h")];
        variables.extend(more);
        mistakes("", &variables)
    };
    assert!(production(&[]).is_empty());
    let token = "0123456789012345678901234567890123456789";
    assert!(
        production(&[("NEURONETZ_ADMIN_LISTEN", "0.0.0.0:9090"), ("NEURONETZ_ADMIN_TOKEN", token)])
            .is_empty()
    );
    for (more, about) in [
        (&[("NEURONETZ_GATEWAY_REPLICAS", "2"), ("REDIS_URL", "redis://r")][..], "SQLite"),
        (
            &[("NEURONETZ_GATEWAY_REPLICAS", "2"), ("DATABASE_URL", "postgres://u:p@db/gateway")],
            "redis.url",
        ),
        (&[("REDIS_URL", "redis://u:changeme@r")], "redis.url"),
        (&[("NEURONETZ_ADMIN_LISTEN", "0.0.0.0:9090")], "admin.token"),
        (&[("NEURONETZ_ADMIN_TOKEN", "changeme")], "admin.token"),
        (&[("DATABASE_URL", "postgres://postgres:postgres@db/gateway")], "database.url"),
        (&[("NEURONETZ_KEYS_ARGON2_MEMORY_KIB", "4096")], "OWASP"),
        (&[("NEURONETZ_KEYS_ARGON2_ITERATIONS", "1")], "OWASP"),
        (&[("NEURONETZ_LOG_LEVEL", "debug")], "log.level"),
        (&[("NEURONETZ_IMAGES_ALLOW_PRIVATE", "true")], "images.allow_private"),
    ] {
        let told = production(more);
        assert!(told.len() == 1 && told[0].contains(about), "{more:?}: {told:?}");
    }
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    assert!(one("[server]\nbodies_bytes_max = \"1MiB\"", &[]).contains("bodies_bytes_max"));
    assert!(one("[catalog]\nstale_after = \"10s\"", &[]).contains("stale_after"));
    assert!(one("[keys]\nargon2_memory_kib = 8\nargon2_lanes = 2", &[]).contains("argon2_lanes"));
    assert!(one("[server]\ntls_key = \"k\"", &[]).contains("go together"));
    assert!(one("[upstream]\nbreaker_pause = \"2m\"", &[]).contains("breaker_pause_max"));
    assert!(one("[prompts]\nencryption_key = \"abc\"", &[]).contains("64 hexadecimal digits"));
}

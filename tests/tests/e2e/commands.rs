//! The command line, as a script would use it.

use std::{
    net::SocketAddr,
    process::{Command, Output, Stdio},
};

use futures_util::future::join_all;
use scripted_ollama::{Script, Scripted};
use serde_json::{Value, json};
use tests::{Open, Process, TestGateway, get, patience::eventually, post};

use crate::{chat, whole_chat};

/// The commands on one database.
struct Shell {
    directory: tempfile::TempDir,
    upstream: String,
}

impl Shell {
    fn new(upstream: &str) -> Self {
        Self { directory: tempfile::tempdir().unwrap(), upstream: upstream.to_owned() }
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(tests::binary("neuronetz"));
        let arguments = arguments.split_whitespace();
        command.args(arguments).env_clear().envs(self.env()).stdin(Stdio::null());
        command
    }

    /// The settings of the commands, and of a server beside them.
    fn env(&self) -> [(&'static str, String); 4] {
        let database = format!("sqlite:{}/gateway.db", self.directory.path().display());
        [
            ("DATABASE_URL", database),
            ("NEURONETZ_UPSTREAMS", format!("ollama={}", self.upstream)),
            ("NEURONETZ_KEYS_ARGON2_MEMORY_KIB", "64".to_owned()),
            ("NEURONETZ_KEYS_ARGON2_ITERATIONS", "1".to_owned()),
        ]
    }

    fn run(&self, arguments: &str) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn text(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, arguments: &str) -> Value {
        let text = self.text(&format!("{arguments} --json"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments}: {error}: {text}"))
    }

    fn code(&self, arguments: &str) -> (i32, String) {
        let output = self.run(arguments);
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }
}

#[test]
fn a_tenant_and_its_keys_from_beginning_to_end() {
    let shell = Shell::new("http://127.0.0.1:9");
    assert!(shell.text("tenant list").contains("no tenants yet"));
    let tenant = shell.json("tenant create acme --models llama3.2,qwen3:8b");
    assert_eq!(tenant["models"], json!(["llama3.2:latest", "qwen3:8b"]));
    assert_eq!(shell.json("tenant set acme --allow-all-models")["allow_all_models"], json!(true));
    assert_eq!(shell.json("tenant suspend acme")["suspended"], json!(true));
    assert_eq!(shell.json("tenant resume acme")["suspended"], json!(false));

    let limits = |view: &Value| view["limits"].clone();
    let set = shell.json("tenant set acme --rpm 60 --concurrency 4");
    assert_eq!(
        limits(&set),
        json!({ "rpm": 60, "tpm": null, "concurrency": 4, "budget_tokens": null, "budget_period": null, "observed": [] })
    );
    let policy = &set["policy"];
    assert_eq!((&policy["keep_alive_max"], &policy["may_unload"]), (&json!(1800), &json!(false)));
    assert_eq!((&policy["options"], &policy["trusted_show"]), (&json!("safe"), &json!(false)));
    let set = shell.json(
        "tenant set acme --keep-alive-max 2h --may-unload true --num-ctx-max 8192 --options all --trusted-show true",
    );
    let policy = &set["policy"];
    assert_eq!((&policy["keep_alive_max"], &policy["may_unload"]), (&json!(7200), &json!(true)));
    assert_eq!((&policy["num_ctx_max"], &policy["options"]), (&json!(8192), &json!("all")));
    assert_eq!(policy["trusted_show"], json!(true));
    let told = "keep_alive 2h, num_ctx 8192, all options, unloads, shows all";
    assert!(shell.text("tenant list").contains(told));
    let set = shell.json("tenant set acme --keep-alive-max none --num-ctx-max none");
    assert_eq!(
        (&set["policy"]["keep_alive_max"], &set["policy"]["num_ctx_max"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(set["policy"]["options"], json!("all"));
    let made = shell.json("tenant create other --num-ctx-max 0 --keep-alive-max 10m");
    assert_eq!(
        (&made["policy"]["num_ctx_max"], &made["policy"]["keep_alive_max"]),
        (&json!(0), &json!(600))
    );
    shell.text("tenant delete other");
    let shown = shell.json("limits set --tenant acme --rpm none --tpm 9000");
    assert_eq!(
        (&shown["rpm"], &shown["tpm"], &shown["concurrency"]),
        (&Value::Null, &json!(9000), &json!(4))
    );
    assert!(shell.text("limits show --tenant acme").contains("9000 tokens/min, 4 at once"));
    let made =
        shell.json("key create --tenant acme --name ci --rpm 7 --budget-tokens 500 --budget-period day --models llama3.2 --expires 30d");
    let (id, key) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap());
    assert!(identity::api_key::PresentedKey::parse(key).is_ok());
    assert!(made["expires_at"].is_string());
    let shown = shell.text(&format!("key show {id} --json"));
    assert!(!shown.contains(&key[16..]), "the key is shown a second time: {shown}");
    assert!(!shell.text("key list").contains(&key[16..]));
    let prefix = &key[..15];
    assert_eq!(shell.json(&format!("key show {prefix}"))["id"], json!(id));
    let set = shell.json(&format!("key set {id} --name cd --inherit-models --expires never"));
    assert_eq!(
        (&set["name"], &set["models"], &set["expires_at"]),
        (&json!("cd"), &Value::Null, &Value::Null)
    );

    assert_eq!(
        limits(&set),
        json!({ "rpm": 7, "tpm": null, "concurrency": null, "budget_tokens": 500, "budget_period": "day", "observed": [] })
    );
    let budget = shell.json(&format!("budget show --key {id}"));
    assert_eq!(
        (&budget["tokens"], &budget["used"], &budget["period"]),
        (&json!(500), &json!(0), &json!("day"))
    );
    let budget = shell.json(&format!("budget set --key {id} --tokens 900"));
    assert_eq!((&budget["remaining"], &budget["period"]), (&json!(900), &json!("month")));
    assert!(budget["resets_at"].is_string());
    assert!(shell.text("budget set --tenant acme --tokens none").contains("never"));
    let rotated = shell.json(&format!("key rotate {id} --grace 1h"));
    assert_ne!(rotated["id"], json!(id));
    assert_eq!(rotated["name"], json!("cd"));
    let old = shell.json(&format!("key show {id}"));
    assert_eq!((&old["status"], &old["rotated_to"]), (&json!("active"), &rotated["id"]));
    assert!(old["expires_at"].is_string());
    let revoked = shell.json(&format!("key revoke {id} --reason leaked"));
    assert_eq!(revoked["status"], json!("revoked"));
    assert_eq!(shell.json("key list --tenant acme").as_array().unwrap().len(), 2);
    assert_eq!(shell.json("tenant delete acme"), json!({ "deleted": "acme" }));
    assert_eq!(shell.json("key list"), json!([]));
}

#[test]
fn operators_who_change_different_settings_at_once_lose_nothing() {
    let shell = Shell::new("http://127.0.0.1:9");
    shell.text("tenant create acme --allow-all-models");
    let made = shell.json("key create --tenant acme");
    let id = made["id"].as_str().unwrap();
    for number in 1..=4_u64 {
        let commands = [
            format!("tenant set acme --rpm {number}"),
            format!("limits set --tenant acme --tpm {number}"),
            format!("budget set --tenant acme --tokens {number}"),
            format!("tenant set acme --weight {number}"),
            format!("tenant set acme --num-ctx-max {number}"),
            format!("key set {id} --rpm {number}"),
            format!("limits set --key {id} --concurrency {number}"),
        ];
        let started = commands.map(|command| {
            let mut command = shell.command(&command);
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
        });
        for started in started {
            let output = started.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        let tenant = shell.json("tenant show acme");
        let (limits, policy) = (&tenant["limits"], &tenant["policy"]);
        assert_eq!((&limits["rpm"], &limits["tpm"]), (&json!(number), &json!(number)), "{tenant}");
        assert_eq!(limits["budget_tokens"], json!(number), "{tenant}");
        assert_eq!(
            (&policy["weight"], &policy["num_ctx_max"]),
            (&json!(number), &json!(number)),
            "{tenant}"
        );
        let limits = &shell.json(&format!("key show {id}"))["limits"];
        assert_eq!((&limits["rpm"], &limits["concurrency"]), (&json!(number), &json!(number)));
    }
}

#[test]
fn exit_codes_mean_something() {
    let shell = Shell::new("http://127.0.0.1:9");
    shell.text("tenant create acme");
    for (arguments, expected, says) in [
        ("tenant create acme", 4, "already exists"),
        ("tenant create a/b", 2, "no name of a tenant"),
        ("tenant show nobody", 3, "there is no tenant nobody"),
        ("tenant set acme", 2, "say what to set"),
        ("limits set --tenant acme", 2, "say what to set"),
        ("limits show", 2, "--tenant"),
        ("tenant create x --rpm many", 2, "give a number, or none"),
        ("tenant create x --keep-alive-max 0s", 2, "give 30m, or none"),
        ("tenant create x --may-unload perhaps", 2, "perhaps"),
        ("key show nz_nothing", 3, "there is no key"),
        ("key create --tenant nobody", 3, "there is no tenant"),
        ("key create --tenant acme --expires soon", 2, "give a moment"),
        ("key create --tenant acme --models a\u{1}b", 2, "no name of a model"),
        ("upstream remove nothing", 3, "there is no such upstream"),
        ("upstream add x ftp://y", 2, "http://host"),
        ("upstream check", 1, "do not answer"),
        ("model list", 1, "no upstream answers"),
        ("nonsense", 2, "nonsense"),
        ("healthcheck", 1, "does not answer"),
        ("--config /nonexistent check-config", 5, "/nonexistent"),
    ] {
        let (code, said) = shell.code(arguments);
        assert_eq!(code, expected, "{arguments}: {said}");
        assert!(said.contains(says), "{arguments}: {said}");
    }
    // A whole key by mistake is not repeated.
    let key = identity::api_key::mint(|buffer| buffer.fill(9)).key;
    let (code, said) = shell.code(&format!("key show {}", key.expose()));
    assert!(code == 3 && !said.contains(&key.expose()[16..]), "{said}");
    let broken =
        shell.command("tenant list").env("DATABASE_URL", "postgres://127.0.0.1:9/x").output();
    assert_eq!(broken.unwrap().status.code(), Some(6));
}

#[test]
fn completions_a_manual_and_the_reference_are_printed() {
    let shell = Shell::new("http://127.0.0.1:9");
    for kind in ["bash", "zsh", "fish"] {
        assert!(shell.text(&format!("completions {kind}")).contains("neuronetz"));
    }
    let manual = shell.text("man");
    assert!(manual.starts_with(".") && manual.contains("NEURONETZ KEY ROTATE"), "{manual}");
    assert!(shell.text("check-config --reference").contains("NEURONETZ_SERVER_LISTEN"));
    assert!(shell.text("check-config").contains("right"));
    assert!(shell.text("migrate").contains("Applied"));
    assert!(shell.text("migrate").contains("up to date"));
}

// The commands block the thread of the test, and what they ask runs in this process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_upstreams_audit_and_usage_are_read() {
    let gateway = TestGateway::start().await;
    let shell = Shell::new(&format!("http://{}", gateway.ollama.address()));
    shell.text("tenant create acme --models llama3.2");
    assert_eq!(shell.json("model list").as_array().unwrap().len(), 4);
    assert_eq!(shell.json("model list --tenant acme")[0]["name"], json!("llama3.2:latest"));
    assert_eq!(shell.json("upstream list")[0]["from"], json!("configuration"));
    assert_eq!(shell.json("upstream check")[0]["models"], json!(4));
    let added = shell.json(&format!("upstream add second http://{}", gateway.ollama.address()));
    assert_eq!(added["from"], json!("database"));
    assert_eq!(shell.json("model list")[0]["upstreams"], json!(["ollama", "second"]));
    assert_eq!(shell.json("upstream remove second"), json!({ "removed": "second" }));
    let url = format!("http://{}", gateway.ollama.address());
    let added = shell.json(&format!("upstream add vllm {url} --kind openai --slots 3"));
    assert_eq!((&added["kind"], &added["slots"]), (&json!("openai"), &json!(3)));
    assert_eq!(added["keep_alive"], json!(true));
    let set = shell.json("upstream set vllm --no-keep-alive");
    assert_eq!((&set["keep_alive"], &set["slots"]), (&json!(false), &json!(3)));
    let set = shell.json("upstream set vllm --keep-alive --slots default");
    assert_eq!((&set["keep_alive"], &set["slots"]), (&json!(true), &json!(null)));
    assert_eq!(shell.code("upstream set vllm").0, 2);
    assert_eq!(shell.code("upstream set vllm --keep-alive --no-keep-alive").0, 2);
    let added = shell.json(&format!("upstream add guest {url} --no-keep-alive"));
    assert_eq!(added["keep_alive"], json!(false));
    assert!(shell.text("upstream check guest").contains("up"));
    shell.text("upstream remove guest");
    let list = shell.json("upstream list");
    let kind = |one: &Value| (one["name"].clone(), one["kind"].clone());
    let kinds: Vec<_> = list.as_array().unwrap().iter().map(kind).collect();
    assert!(kinds.contains(&(json!("vllm"), json!("openai"))), "{kinds:?}");
    assert!(kinds.contains(&(json!("ollama"), json!("ollama"))), "{kinds:?}");
    assert!(shell.text("upstream check vllm").contains("up"));
    assert_eq!(shell.code(&format!("upstream add other {url} --kind azure")).0, 2);
    assert_eq!(shell.json("audit query"), json!([]));
    assert!(shell.text("usage").contains("Nothing has been used"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_keys_of_upstreams_can_be_in_a_file() {
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let script = Script { api_key: Some("key-of-vllm".to_owned()), ..Script::default() };
    let server = Scripted::start(script, loopback).await.unwrap();
    let shell = Shell::new("http://127.0.0.1:9");
    shell.text(&format!("upstream add vllm http://{} --kind openai", server.address()));
    let file = shell.directory.path().join("keys");
    let check = |keys: &str| {
        std::fs::write(&file, keys).unwrap();
        let mut command = shell.command("upstream check vllm --json");
        command.env("NEURONETZ_UPSTREAM_KEYS_FILE", &file).output().unwrap()
    };
    let right = check("other=x\nvllm=key-of-vllm\n");
    assert!(right.status.success(), "{}", String::from_utf8_lossy(&right.stderr));
    assert!(!check("vllm=another\n").status.success());
    assert!(!check("other=key-of-vllm\n").status.success());
    // What is no pair stops everything, and is not shown.
    let wrong = check("key-of-vllm\n");
    let said = String::from_utf8_lossy(&wrong.stderr);
    assert_eq!(wrong.status.code(), Some(5), "{said}");
    assert!(said.contains("upstream.keys") && !said.contains("key-of-vllm"), "{said}");
}

async fn ollama() -> Scripted {
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    Scripted::start(Script::default(), loopback).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_hears_commands_and_ends_in_order() {
    let ollama = ollama().await;
    let shell = Shell::new(&format!("http://{}", ollama.address()));
    let mut server = Process::start(shell.env()).await;
    shell.text("tenant create acme --allow-all-models");
    let made = shell.json("key create --tenant acme");
    let key = made["key"].as_str().unwrap();
    for _ in 0..3 {
        let reply = post(server.address, "/api/chat", Some(key), &whole_chat("one two")).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    let events = eventually("the audit", || async {
        let events = shell.json("audit query --tenant acme");
        (events.as_array()?.len() == 3).then_some(events)
    })
    .await;
    assert_eq!(
        (&events[0]["prompt_tokens"], &events[0]["completion_tokens"]),
        (&json!(2), &json!(7))
    );
    assert_eq!(events[0]["key"], made["prefix"]);
    // Of a key alone, of one that asked for nothing, and of a tenant that it does not belong to.
    shell.text("tenant create other");
    let idle = shell.json("key create --tenant acme");
    let [asked, idle] = [&made, &idle].map(|key| key["prefix"].as_str().unwrap());
    for (filter, count) in [
        (format!("--key {asked}"), 3),
        (format!("--key {idle}"), 0),
        (format!("--key {asked} --tenant other"), 0),
    ] {
        let found = shell.json(&format!("audit query {filter}"));
        assert_eq!(found.as_array().map(Vec::len), Some(count), "{filter}");
    }
    assert_eq!(shell.text("audit tail --no-follow --lines 2").lines().count(), 2);
    let usage = shell.json("usage --tenant acme --by model");
    assert_eq!((&usage[0]["of"], &usage[0]["prompt"]), (&json!("llama3.2:latest"), &json!(6)));
    shell.text(&format!("key revoke {}", made["id"].as_str().unwrap()));
    eventually("the revocation", || async {
        (get(server.address, "/v1/models", Some(key)).await.status == 401).then_some(())
    })
    .await;
    server.terminate();
    server.ends_in_order().await;
    assert!(!server.text().contains(&key[16..]), "{}", server.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_fifty_streams_loses_no_row() {
    let ollama = ollama().await;
    let shell = Shell::new(&format!("http://{}", ollama.address()));
    shell.text("tenant create acme --allow-all-models");
    let key = shell.json("key create --tenant acme")["key"].as_str().unwrap().to_owned();
    let mut server = Process::start(shell.env()).await;
    let body = chat("[[chunks 30]] [[pace 50]]");
    let mut streams =
        join_all((0..50).map(|_| Open::post(server.address, "/api/chat", &key, &body))).await;
    for stream in &mut streams {
        stream.until("This").await;
    }
    server.terminate();
    let ends = join_all(streams.into_iter().map(Open::end)).await;
    assert!(ends.iter().all(|end| end.contains("\"done\":true")), "{ends:?}");
    server.ends_in_order().await;
    let events = shell.json("audit query --tenant acme --limit 1000");
    let events = events.as_array().unwrap();
    let whole = |event: &Value| event["outcome"] == "completed" && event["completion_tokens"] == 30;
    assert_eq!(events.len(), 50);
    assert!(events.iter().all(whole), "{events:?}");
}

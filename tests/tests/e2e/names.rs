//! Models of servers that speak OpenAI's dialect, under the names that these give them, and models that
//! both kinds of server have.

use std::net::SocketAddr;

use jiff::Timestamp;
use scripted_ollama::{Model, Script, Scripted};
use serde_json::{Value, json};
use storage::upstreams::{Upstream, UpstreamKind};
use tests::{Setup, TestGateway, get, patience::eventually, post};

use crate::{chat, whole_chat, with};

const CHAT: &str = "/v1/chat/completions";
const IDS: [&str; 6] = [
    "gpt-4o",
    "Qwen/Qwen3-8B",
    "/models/llama.gguf",
    "accounts/X/models/Y",
    "ft:gpt-4o:org::id",
    "own:cloud",
];

/// A server that calls its models so.
fn script(ids: &[&str]) -> Script {
    let model = |(number, id): (usize, &&str)| {
        let name = format!("model-{number}");
        Model { id: (*id).to_owned(), ..Model::named(&name) }
    };
    Script { models: ids.iter().enumerate().map(model).collect(), ..Script::default() }
}

fn ask_for(model: &str) -> Value {
    with(whole_chat("hi"), "model", json!(model))
}

async fn listed(gateway: &TestGateway, key: &str) -> Vec<String> {
    let list = get(gateway.address, "/v1/models", Some(key)).await.json();
    let ids = list["data"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap());
    let mut ids: Vec<_> = ids.map(str::to_owned).collect();
    ids.sort();
    ids
}

async fn tagged(gateway: &TestGateway, key: &str) -> Vec<String> {
    let list = get(gateway.address, "/api/tags", Some(key)).await.json();
    let names = list["models"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap());
    let mut names: Vec<_> = names.map(str::to_owned).collect();
    names.sort();
    names
}

/// The models that servers were asked for.
fn asked(server: &Scripted) -> Vec<String> {
    let read = |body: &[u8]| {
        serde_json::from_slice::<Value>(body).ok()?["model"].as_str().map(str::to_owned)
    };
    server.requests().iter().filter_map(|seen| read(&seen.body)).collect()
}

/// Adds an upstream of OpenAI's dialect, and waits until it has answered.
async fn add(gateway: &TestGateway, name: &str, script: Script) -> Scripted {
    add_kind(gateway, (name, UpstreamKind::OpenAi), script).await
}

/// Adds an upstream of that kind, and waits until it has answered.
async fn add_kind(
    gateway: &TestGateway,
    (name, kind): (&str, UpstreamKind),
    script: Script,
) -> Scripted {
    let server = Scripted::start(script, SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let upstream = Upstream {
        name: name.to_owned(),
        url: format!("http://{}", server.address()),
        kind,
        slots: None,
        keep_alive: true,
        created_at: Timestamp::now(),
    };
    gateway.storage.upstreams.add(upstream).await.unwrap();
    eventually("the upstream", || async {
        let ready = get(gateway.admin, "/readyz", None).await.json();
        let is_up = |one: &Value| one["name"] == name && one["status"] == "up";
        ready["upstreams"].as_array()?.iter().any(is_up).then_some(())
    })
    .await;
    server
}

#[tokio::test]
async fn models_are_listed_and_asked_for_as_their_server_calls_them() {
    let setup = Setup { openai: true, script: script(&IDS), ..Setup::default() };
    let gateway = TestGateway::with(setup).await;
    let mut ids = IDS.to_vec();
    ids.sort_unstable();
    assert_eq!(listed(&gateway, &gateway.key).await, ids);
    assert_eq!(tagged(&gateway, &gateway.key).await, ids);
    for id in IDS {
        for path in [CHAT, "/api/chat"] {
            let reply = post(gateway.address, path, Some(&gateway.key), &ask_for(id)).await;
            assert_eq!(reply.status, 200, "{id}: {}", reply.text());
            assert_eq!(reply.json()["model"], id);
            assert_eq!(asked(&gateway.ollama).last().map(String::as_str), Some(id));
        }
        let path = format!("/v1/models/{}", id.replace('/', "%2F"));
        let one = get(gateway.address, &path, Some(&gateway.key)).await;
        assert_eq!((one.status.as_u16(), &one.json()["id"]), (200, &json!(id)), "{id}");
    }
    // Where it is a name of Ollama's, its other spellings mean it, too.
    for (spelled, id) in [("GPT-4o:latest", "gpt-4o"), ("qwen/qwen3-8b", "Qwen/Qwen3-8B")] {
        let reply = post(gateway.address, CHAT, Some(&gateway.key), &ask_for(spelled)).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(asked(&gateway.ollama).last().map(String::as_str), Some(id));
    }
    // An id has one spelling.
    for other in ["/MODELS/llama.gguf", "accounts/x/models/y", "/models/llama.gguf:latest"] {
        let reply = post(gateway.address, CHAT, Some(&gateway.key), &ask_for(other)).await;
        assert_eq!((reply.status.as_u16(), reply.code()), (404, "model_not_found".to_owned()));
    }
}

/// A setup whose Ollama has models of these names.
fn ollama(names: &[&str]) -> Setup {
    let models = names.iter().copied().map(Model::named).collect();
    Setup { script: Script { models, ..Script::default() }, ..Setup::default() }
}

#[tokio::test]
async fn every_list_spells_a_model_as_its_server_does_and_any_spelling_finds_it() {
    let spelled = "hf.co/Org/Field-GGUF:Q4_K_M";
    let gateway = TestGateway::with(ollama(&[spelled, "Plain", "secret"])).await;
    let (_, key) = gateway.key(Some(&["HF.co/org/field-gguf:q4_k_m", "plain"])).await;
    let names = ["Plain:latest", spelled];
    assert_eq!(listed(&gateway, &key).await, names);
    assert_eq!(tagged(&gateway, &key).await, names);
    for id in [spelled, &spelled.to_lowercase(), &spelled.replace('/', "%2F").replace(':', "%3A")] {
        let one = get(gateway.address, &format!("/v1/models/{id}"), Some(&key)).await;
        assert_eq!((one.status.as_u16(), &one.json()["id"]), (200, &json!(spelled)), "{id}");
        assert_eq!(one.json()["owned_by"], "Org");
    }
    for id in [spelled, &spelled.to_lowercase(), &spelled.to_uppercase()] {
        for path in [CHAT, "/api/chat"] {
            let reply = post(gateway.address, path, Some(&key), &ask_for(id)).await;
            // A reply says the name that was asked with.
            assert_eq!((reply.status.as_u16(), &reply.json()["model"]), (200, &json!(id)));
        }
    }
    let loaded = get(gateway.address, "/api/ps", Some(&key)).await.json();
    assert_eq!(loaded["models"][0]["name"], spelled, "{loaded}");
    for id in ["secret", "SECRET:latest"] {
        let one = get(gateway.address, &format!("/v1/models/{id}"), Some(&key)).await;
        assert_eq!(one.status, 403, "{id}");
    }
}

#[tokio::test]
async fn a_model_that_two_servers_spell_in_two_ways_is_one_in_every_list() {
    let gateway = TestGateway::with(ollama(&["Org/M:Q4", "x"])).await;
    // In the order of the upstreams' names the first Ollama's spelling counts, whoever serves it.
    for (name, kind, spelled) in [
        ("zz", UpstreamKind::Ollama, "Org/M:Q4"),
        ("aa", UpstreamKind::OpenAi, "Org/M:Q4"),
        ("bb", UpstreamKind::Ollama, "ORG/m:q4"),
    ] {
        let own = match kind {
            UpstreamKind::Ollama => ollama(&["ORG/m:q4"]).script,
            UpstreamKind::OpenAi => script(&["org/M:q4"]),
        };
        let _server = add_kind(&gateway, (name, kind), own).await;
        let lists = eventually("the list", || async {
            let lists =
                [listed(&gateway, &gateway.key).await, tagged(&gateway, &gateway.key).await];
            lists.iter().all(|list| *list == [spelled, "x:latest"]).then_some(lists)
        });
        assert_eq!(lists.await[0].len(), 2, "{name}");
        gateway.storage.upstreams.remove(name).await.unwrap();
    }
    let _first =
        add_kind(&gateway, ("bb", UpstreamKind::Ollama), ollama(&["ORG/m:q4"]).script).await;
    let load = json!({ "model": "org/m:q4" });
    for _ in 0..4 {
        let reply = post(gateway.address, "/api/generate", Some(&gateway.key), &load).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    let loaded = get(gateway.address, "/api/ps", Some(&gateway.key)).await.json();
    let loaded = loaded["models"].as_array().unwrap();
    assert!(!loaded.is_empty());
    for entry in loaded {
        assert_eq!((&entry["name"], &entry["model"]), (&json!("ORG/m:q4"), &json!("ORG/m:q4")));
    }
}

#[tokio::test]
async fn a_list_of_allowed_models_holds_for_ids_to_the_letter() {
    let ids = ["accounts/X/models/Y", "accounts/x/models/y", "Secret", "own"];
    let setup = Setup { openai: true, script: script(&ids), ..Setup::default() };
    let gateway = TestGateway::with(setup).await;
    let rule =
        ["accounts/X/models/Y", "own"].map(|id| protocol::name::ModelName::read(id).unwrap());
    let rule = identity::models::ModelRule::Only(rule.into());
    let (_, key) = gateway.key_until(Some(rule), None).await;
    assert_eq!(listed(&gateway, &key).await, ["accounts/X/models/Y", "own"]);
    for (id, status) in [
        ("accounts/X/models/Y", 200),
        (" accounts/X/models/Y ", 200),
        ("OWN", 200),
        ("accounts/x/models/y", 403),
        ("ACCOUNTS/X/models/Y", 403),
        ("accounts/X/models/Y:latest", 403),
        ("accounts/X/models/../models/Y", 403),
        ("secret", 403),
        ("Secret", 403),
        ("no-such", 403),
        ("/no/such/one/there", 403),
    ] {
        let reply = post(gateway.address, CHAT, Some(&key), &ask_for(id)).await;
        assert_eq!(reply.status, status, "{id}: {}", reply.text());
    }
    let asked = asked(&gateway.ollama);
    assert!(asked.iter().all(|id| id == "accounts/X/models/Y" || id == "own"), "{asked:?}");
}

#[tokio::test]
async fn of_ids_that_differ_in_case_only_none_can_be_asked_for() {
    let ids = ["Twin", "twin", "own"];
    let setup = Setup { openai: true, script: script(&ids), ..Setup::default() };
    let gateway = TestGateway::with(setup).await;
    assert_eq!(listed(&gateway, &gateway.key).await, ["own"]);
    for id in ["Twin", "twin"] {
        let reply = post(gateway.address, CHAT, Some(&gateway.key), &ask_for(id)).await;
        assert_eq!(reply.status, 404, "{}", reply.text());
    }
}

#[tokio::test]
async fn the_name_of_a_cloud_model_is_one_only_to_ollama() {
    let models = ["own:cloud", "llama3.2"].map(Model::named).to_vec();
    let script_of_ollama = Script { models, ..Script::default() };
    let setup = Setup { script: script_of_ollama, ..Setup::default() };
    let gateway = TestGateway::with(setup).await;
    let reply = post(gateway.address, CHAT, Some(&gateway.key), &ask_for("own:cloud")).await;
    assert_eq!((reply.status.as_u16(), reply.code()), (403, "cloud_model_blocked".to_owned()));
    let second = add(&gateway, "second", script(&["own:cloud"])).await;
    for _ in 0..4 {
        let reply = post(gateway.address, CHAT, Some(&gateway.key), &ask_for("own:cloud")).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    assert_eq!(asked(&second).len(), 4);
    assert!(asked(&gateway.ollama).is_empty());
    let reply = post(gateway.address, CHAT, Some(&gateway.key), &ask_for("other:cloud")).await;
    assert_eq!((reply.status.as_u16(), reply.code()), (403, "cloud_model_blocked".to_owned()));
}

#[tokio::test]
async fn what_one_kind_of_server_cannot_take_goes_to_the_other() {
    let gateway = TestGateway::start().await;
    let second = add(&gateway, "second", script(&["llama3.2"])).await;
    let paths = |server: &Scripted| -> Vec<String> {
        let seen = server.requests().into_iter().filter(|seen| seen.method == "POST");
        seen.map(|seen| seen.path).collect()
    };
    let tools = json!([{ "type": "function", "function": { "name": "weather" } }]);
    let forced = with(with(whole_chat("hi"), "tools", tools), "tool_choice", json!("required"));
    for _ in 0..6 {
        let reply = post(gateway.address, CHAT, Some(&gateway.key), &forced).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    assert_eq!((paths(&gateway.ollama).len(), paths(&second).len()), (0, 6));
    let raw = json!({ "model": "llama3.2", "prompt": "hi", "raw": true, "stream": false });
    let load = json!({ "model": "llama3.2" });
    for _ in 0..6 {
        for (path, body) in
            [("/api/generate", &raw), ("/api/generate", &load), ("/api/show", &load)]
        {
            let reply = post(gateway.address, path, Some(&gateway.key), body).await;
            assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        }
    }
    assert_eq!((paths(&gateway.ollama).len(), paths(&second).len()), (18, 6));
    // What none can take is refused with the reason, and a model of both is told of as Ollama does.
    let none = with(whole_chat("hi"), "n", json!(2));
    let reply = post(gateway.address, CHAT, Some(&gateway.key), &none).await;
    assert_eq!((reply.status.as_u16(), reply.code()), (400, "unsupported_parameter".to_owned()));
    assert!(listed(&gateway, &gateway.key).await.contains(&"llama3.2:latest".to_owned()));
    let tags = get(gateway.address, "/api/tags", Some(&gateway.key)).await.json();
    let of_both = |one: &&Value| one["name"] == "llama3.2:latest";
    let entry = tags["models"].as_array().unwrap().iter().find(of_both).unwrap();
    assert!(entry["size"].as_u64().is_some_and(|size| size > 0), "{entry}");
    // Once the one that can take it is gone, there is nobody else.
    second.stop().await;
    let reply = post(gateway.address, CHAT, Some(&gateway.key), &forced).await;
    assert_eq!(reply.status, 503, "{}", reply.text());
    let plain = post(gateway.address, CHAT, Some(&gateway.key), &chat("hi")).await;
    assert_eq!(plain.status, 200, "{}", plain.text());
}

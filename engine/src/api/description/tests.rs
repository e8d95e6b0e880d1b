use std::collections::BTreeSet;

use protocol::translate::fields;

use super::*;

/// What is read of a body and is no part of the API of that route.
fn is_no_part(route: Route, name: &str) -> bool {
    // vLLM would fetch what they name; they are read to be refused.
    let embeds_messages = route == Route::OpenAiEmbeddings && name == "messages";
    name == "_debug_render_only" || embeds_messages
}

fn properties(route: Route) -> BTreeSet<String> {
    let requests: Value = serde_json::from_str(REQUESTS).unwrap();
    let name = shape(route).unwrap().request.unwrap();
    requests[name]["properties"].as_object().unwrap().keys().cloned().collect()
}

#[test]
fn the_document_in_the_docs_is_fresh() {
    let kept: Value = serde_json::from_str(include_str!("../../../../docs/api/data.json")).unwrap();
    let hint = "docs/api/data.json is stale: neuronetz openapi data > docs/api/data.json";
    assert!(kept == document(), "{hint}");
}

#[test]
fn every_field_that_is_described_is_read() {
    for route in Route::ALL {
        let Some(Shape { request: Some(_), .. }) = shape(*route) else { continue };
        let read: BTreeSet<_> = fields::of(*route).iter().copied().collect();
        for name in properties(*route) {
            assert!(read.contains(name.as_str()), "{route}: {name}");
        }
    }
}

#[test]
fn every_field_that_is_read_is_described() {
    let has_body = |route: &&Route| shape(**route).is_some_and(|shape| shape.request.is_some());
    for route in Route::ALL.iter().filter(has_body) {
        let same = |other: &&Route| fields::of(**other) == fields::of(*route);
        let described: BTreeSet<_> = Route::ALL
            .iter()
            .filter(has_body)
            .filter(same)
            .flat_map(|route| properties(*route))
            .collect();
        let read = fields::of(*route).iter().filter(|name| !is_no_part(*route, name));
        for name in read {
            assert!(described.contains(*name), "{route}: {name}");
        }
    }
}

#[test]
fn every_reference_leads_somewhere() {
    fn walk(value: &Value, document: &Value) {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(to)) = fields.get("$ref") {
                    let to = to.strip_prefix('#').unwrap();
                    assert!(document.pointer(to).is_some(), "{to}");
                }
                fields.values().for_each(|value| walk(value, document));
            }
            Value::Array(list) => list.iter().for_each(|value| walk(value, document)),
            _ => {}
        }
    }
    let document = document();
    walk(&document, &document);
}

#[test]
fn every_path_is_found_by_the_router_and_every_route_is_described() {
    let document = document();
    let mut described = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        let found = router::find(&path.replace("{id}", "x").replace("{digest}", "x")).unwrap();
        let methods: Vec<_> = operations.as_object().unwrap().keys().collect();
        assert_eq!(methods, [&found.method.as_str().to_ascii_lowercase()], "{path}");
        described.insert(found.endpoint.route());
    }
    let all: BTreeSet<_> = Route::ALL.iter().copied().collect();
    assert_eq!(described, all);
}

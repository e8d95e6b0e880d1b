//! The OpenAPI documents of both listeners, which operators can ask for: `docs/api`.

use axum::Json;
use protocol::error::Code;
use serde_json::{Value, json};
use utoipa::OpenApi;

use super::{fault::Told, guarded, open};
use crate::api;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Neuronetz, admin API",
        description = "For those who run the gateway. Where `admin.token` is configured everything but \
            health needs it; where it is not, nothing can be changed.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    components(schemas(Told))
)]
struct Head;

/// What the document begins with.
pub(super) fn head() -> utoipa::openapi::OpenApi {
    Head::openapi()
}

/// The document of the admin listener.
pub(crate) fn document() -> Value {
    let open = open().into_openapi();
    let open_paths: Vec<_> = open.paths.paths.keys().cloned().collect();
    let whole = guarded().into_openapi().merge_from(open);
    let mut document = serde_json::to_value(&whole).unwrap_or_default();
    document["info"]["version"] = env!("CARGO_PKG_VERSION").into();
    document["servers"] = json!([{ "url": "/" }]);
    document["security"] = json!([{ "token": [] }]);
    document["components"]["securitySchemes"] = json!({
        "token": { "type": "http", "scheme": "bearer", "description": "`admin.token`" },
    });
    // The states of two actors may look alike.
    let any = document["components"]["schemas"]["ActorState"]["oneOf"].take();
    document["components"]["schemas"]["ActorState"] = json!({ "anyOf": any });
    let Some(paths) = document["paths"].as_object_mut() else { return document };
    for (path, operations) in paths {
        let Some(operations) = operations.as_object_mut() else { continue };
        for (method, operation) in operations {
            if open_paths.contains(path) {
                operation["security"] = json!([]);
            } else {
                refusals(method, &mut operation["responses"]);
            }
        }
    }
    document
}

/// Adds how a request may be refused before it is looked at, and the shape of every refusal.
fn refusals(method: &str, responses: &mut Value) {
    let mut codes = vec![Code::OperatorUnproven, Code::HostNotAllowed, Code::DatabaseUnavailable];
    if method != "get" {
        codes.push(Code::ChangesForbidden);
    }
    for code in codes {
        responses[code.status().to_string()] = json!({ "description": code.message() });
    }
    let Some(responses) = responses.as_object_mut() else { return };
    responses.sort_keys();
    let content = json!({
        "application/json": { "schema": { "$ref": "#/components/schemas/Told" } },
    });
    for (status, response) in responses {
        if !status.starts_with('2') {
            response["content"] = content.clone();
        }
    }
}

/// This document.
#[utoipa::path(get, path = "/admin/v1/openapi.json", responses((status = 200, body = Value)))]
pub(super) async fn of_admin() -> Json<Value> {
    Json(document())
}

/// The document of the data listener.
#[utoipa::path(get, path = "/admin/v1/openapi-data.json", responses((status = 200, body = Value)))]
pub(super) async fn of_data() -> Json<Value> {
    Json(api::description::document())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_in_the_docs_is_fresh() {
        let kept: Value =
            serde_json::from_str(include_str!("../../../docs/api/admin.json")).unwrap();
        let hint = "docs/api/admin.json is stale: neuronetz openapi admin > docs/api/admin.json";
        assert!(kept == document(), "{hint}");
    }
}

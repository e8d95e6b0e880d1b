"""What the generated requests are told of this gateway: which models there are, and whose limits to change."""

import os

import schemathesis

EMBEDS = {"/v1/embeddings", "/api/embed", "/api/embeddings"}


@schemathesis.hook
def map_body(context, body):
    """Every other request names a model that is there: one that is not ends before the rest is read."""
    if not isinstance(body, dict) or not isinstance(body.get("model"), str) or len(body["model"]) % 2:
        return body
    does = "nomic-embed-text" if context.operation.path in EMBEDS else os.environ["MODEL"]
    return {**body, "model": does}


@schemathesis.hook
def map_path_parameters(context, parameters):
    """Half of the paths lead to something."""
    there = {"scope": "tenants", "kind": "tenant", "id": os.environ["OPENAPI_TENANT"], "action": "reset"}
    if context.operation.path.startswith("/v1/models/"):
        there = {"id": os.environ["MODEL"]}
    if not parameters or sum(map(len, map(str, parameters.values()))) % 2:
        return parameters
    return {name: there.get(name, value) for name, value in parameters.items()}

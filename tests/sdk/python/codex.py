"""Codex as the gateway sees it: the requests of its command line to `/v1/responses`, packed with zstd.

Each server of MCP is one tool of type `namespace`. What a reply's items were is replayed as they were, without ids, as
nothing is stored. Source: https://github.com/openai/codex, `codex-rs/codex-api/src/common.rs` and `codex-rs/tools`.
"""

import json
import re

import httpx
import zstandard

HEADERS = {"content-type": "application/json", "content-encoding": "zstd", "accept": "text/event-stream",
           "originator": "codex_cli_rs", "user-agent": "codex_cli_rs/0.148.0 (Linux; x86_64)",
           "session-id": "019a0000-0000-7000-8000-000000000001", "thread-id": "019a0000-0000-7000-8000-000000000001"}
GRAMMAR = {"type": "grammar", "syntax": "lark", "definition": 'start: "*** Begin Patch" /.+/ "*** End Patch"'}


def function(name: str, *properties: str) -> dict:
    return {"type": "function", "name": name, "description": f"The tool {name}.", "strict": False, "parameters": {
        "type": "object", "properties": {name: {"type": "string"} for name in properties},
        "required": list(properties), "additionalProperties": False}}


def server(name: str, *tools: dict) -> dict:
    return {"type": "namespace", "name": name, "description": f"Tools of {name}.", "tools": list(tools)}


TOOLS = [
    function("shell", "command"), function("update_plan", "explanation"),
    {"type": "custom", "name": "apply_patch", "description": "Edits files.", "format": GRAMMAR},
    {"type": "web_search", "external_web_access": False},
    server("mcp__docs__", function("lookup", "q"), function("fetch", "id")),
    server("mcp__wiki__", function("lookup", "title")),
]


class Session:
    """A conversation. `run(namespace, name, input)` gives the output of a tool; a turn asks at most `rounds` times."""

    def __init__(self, url: str, key: str, model: str, run, rounds: int = 9, **more):
        self.client = httpx.Client(
            base_url=url, headers={**HEADERS, "authorization": f"Bearer {key}"}, timeout=60, trust_env=False)
        self.run, self.rounds, self.calls, self.usage = run, rounds, [], None
        self.input = [
            message("developer", "<permissions instructions>Ask before you write.</permissions instructions>"),
            message("user", "<environment_context><cwd>/work</cwd></environment_context>")]
        self.asked = {
            "model": model, "instructions": "You are Codex.", "tools": TOOLS, "tool_choice": "auto",
            "parallel_tool_calls": True, "reasoning": {"effort": "medium", "summary": "auto"}, "store": False,
            "stream": True, "include": ["reasoning.encrypted_content"], "text": {"verbosity": "low"},
            "prompt_cache_key": HEADERS["thread-id"], "client_metadata": {"x-codex-installation-id": "i"}, **more}

    def turn(self, prompt: str) -> str:
        """Says the prompt, runs what is called, and returns the answer."""
        self.input.append(message("user", prompt))
        for _ in range(self.rounds):
            items = self.ask()
            self.input += [replayed(item) for item in items]
            calls = [item for item in items if item["type"] in ("function_call", "custom_tool_call")]
            for call in calls:
                self.calls.append((call.get("namespace"), call["name"]))
                custom = call["type"] == "custom_tool_call"
                asked = call["input"] if custom else json.loads(call["arguments"])
                output = self.run(call.get("namespace"), call["name"], asked)
                self.input.append({"type": call["type"] + "_output", "call_id": call["call_id"], "output": output})
            if not calls:
                texts = [part["text"] for item in items if item["type"] == "message" for part in item["content"]]
                return "".join(texts)
        return ""

    def ask(self) -> list[dict]:
        body = zstandard.ZstdCompressor().compress(json.dumps({**self.asked, "input": self.input}).encode())
        reply = self.client.post("/v1/responses", content=body)
        assert reply.status_code == 200, reply.text
        assert reply.headers["content-type"].startswith("text/event-stream"), reply.headers
        events = [json.loads(data) for data in re.findall(r"^data: (\{.*\})\r?$", reply.text, re.M)]
        self.usage = events[-1]["response"]["usage"]
        return items_of(events)


def items_of(events: list[dict]) -> list[dict]:
    """The items of a stream, which must come in order: each is begun, told and ended before the next."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[0]["type"] == "response.created", events[0]
    assert events[-1]["type"] in ("response.completed", "response.incomplete"), events[-1]
    items, opened, told = [], None, ""
    for event in events:
        kind = event["type"]
        if kind == "response.output_item.added":
            assert opened is None and event["output_index"] == len(items), event
            opened, told = event["item"], ""
        elif kind.endswith(".delta"):
            assert opened and event["output_index"] == len(items), event
            told += event["delta"]
        elif kind == "response.output_item.done":
            item = event["item"]
            assert opened and (item["type"], item["id"]) == (opened["type"], opened["id"]), event
            assert told == told_by(item), (told, item)
            items.append(item)
            opened = None
    assert opened is None, opened
    assert events[-1]["response"]["output"] == items, events[-1]
    return items


def told_by(item: dict) -> str:
    """What the pieces of an item are, put together."""
    if item["type"] in ("function_call", "custom_tool_call"):
        return item.get("arguments", item.get("input"))
    return "".join(part["text"] for part in item.get("summary", []) + (item.get("content") or []))


def replayed(item: dict) -> dict:
    return {name: value for name, value in item.items() if name not in ("id", "status")}


def message(role: str, text: str) -> dict:
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}

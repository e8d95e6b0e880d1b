"""What reached the model server, which is the scripted Ollama at UPSTREAM_URL, and rules that hold for all of it."""

import json
import os
import urllib.request

KIND = os.environ.get("GATEWAY_KIND", "openai")
CHATS = ("/api/chat", "/v1/chat/completions")


def last() -> dict:
    """The body of the last chat that reached the model server."""
    with urllib.request.urlopen(os.environ["UPSTREAM_URL"] + "/scripted/requests", timeout=30) as reply:
        told = json.load(reply)
    return [seen["body"] for seen in told if seen["path"] in CHATS][-1]


def text_of(content) -> str:
    if isinstance(content, list):
        return "\n".join(part.get("text", "") for part in content)
    return content or ""


def texts(body: dict) -> str:
    return "\n".join(text_of(message.get("content")) for message in body["messages"])


def thoughts(body: dict) -> str:
    name = "thinking" if KIND == "ollama" else "reasoning_content"
    return "\n".join(message.get(name) or "" for message in body["messages"] if message["role"] == "assistant")


def images(body: dict) -> int:
    if KIND == "ollama":
        return sum(len(message.get("images") or []) for message in body["messages"])
    parts = [(message["role"], part) for message in body["messages"]
             if isinstance(message.get("content"), list) for part in message["content"]]
    shown = [role for role, part in parts if part["type"] == "image_url"]
    # OpenAI's chat API takes images from users alone.
    assert set(shown) <= {"user"}, shown
    return len(shown)


def tools(body: dict) -> set[str]:
    return {tool["function"]["name"] for tool in body.get("tools", [])}


def in_order(wanted: list[str], text: str) -> None:
    """Fails unless all that is wanted stands in the text, one after another."""
    at = 0
    for word in wanted:
        found = text.find(word, at)
        assert found >= 0, f"{word!r} is missing, or comes too early, in: {text}"
        at = found + len(word)


def keeps_the_rules(body: dict) -> None:
    """What strict servers want: results right after their calls, one for each, and no turn with nothing in it."""
    waiting, waits_for = [], 0
    for at, message in enumerate(body["messages"]):
        calls = message.get("tool_calls") or []
        if message["role"] == "tool":
            assert waits_for > 0, f"messages[{at}] is a result that no call before it waits for"
            waits_for -= 1
            if KIND == "openai":
                assert message["tool_call_id"] in waiting, f"messages[{at}] is the result of another call"
                waiting.remove(message["tool_call_id"])
            continue
        assert waits_for == 0, f"messages[{at}] ({message['role']}) stands before {waits_for} results"
        waiting, waits_for = [call.get("id") for call in calls], len(calls)
        if message["role"] == "assistant":
            said = message.get("content") or message.get("thinking") or message.get("reasoning_content")
            assert said or calls, f"messages[{at}] is a turn with nothing in it"
    assert waits_for == 0, f"{waits_for} calls have no results"

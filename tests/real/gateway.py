"""A gateway in front of a real model server: keys, what was written down, and what the server itself says."""

import json
import os
import re
import subprocess
import time
import urllib.error
import urllib.request
import uuid

URL = os.environ["GATEWAY_URL"]
SERVER = os.environ["UPSTREAM_URL"]
MODEL = os.environ["MODEL"]


def neuronetz(*arguments: str):
    done = subprocess.run([os.environ["NEURONETZ"], *arguments, "--json"], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


class Tenant:
    """A tenant of its own with one key, and these limits."""

    def __init__(self, *limits: str):
        self.name = f"t{uuid.uuid4().hex}"
        neuronetz("tenant", "create", self.name, "--allow-all-models", *limits)
        self.key = neuronetz("key", "create", "--tenant", self.name, "--name", "k")["key"]

    def events(self, count: int) -> list[dict]:
        """What is written down of so many requests; the writer has a moment for it."""
        def look():
            events = self.written()
            assert len(events) == count, events
            return events
        return eventually(look)

    def written(self) -> list[dict]:
        return neuronetz("audit", "query", "--tenant", self.name, "--limit", "1000")

    def has_used(self, prompt: int, completion: int) -> None:
        """Fails unless the ledger says so; it has a moment for it as well."""
        def look():
            assert self.used() == (prompt, completion), (self.used(), prompt, completion)
        eventually(look)

    def used(self) -> tuple[int, int]:
        """Tokens of prompts and of completions in the ledger."""
        rows = [row for row in neuronetz("usage", "--by", "tenant") if row["of"] == self.name]
        return sum(row["prompt"] for row in rows), sum(row["completion"] for row in rows)


def eventually(look, seconds: float = 20):
    """What `look` returns as soon as it fails no longer."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return look()
        except AssertionError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.02)


def server(path: str, body: dict | None = None):
    """An answer of the model server itself; of a refusal its error."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(SERVER + path, data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            text = reply.read().decode()
    except urllib.error.HTTPError as refused:
        return json.load(refused)["error"]
    return json.loads(text) if text[0] in "{[" else text


def predicted() -> int:
    """Tokens that the server has made since it started, by its own count."""
    return int(float(re.search(r"^llamacpp:tokens_predicted_total (\S+)", server("/metrics"), re.M)[1]))


def slot() -> dict:
    return server("/slots")[0]


def is_idle() -> dict:
    """The only slot, as soon as nothing is done there any more."""
    def look():
        now = slot()
        assert not now["is_processing"], now
        return now
    return eventually(look)

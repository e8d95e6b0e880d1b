"""The users of the scenarios, for those who prefer locust: a class for each kind of users.

They do what `loadtests/scenarios/NAME/scenario.toml` says, as goose's users do. `LOCUST=1 loadtests/run NAME`
sets everything up. Against a gateway of your own, with a file of keys for each name of keys, a key a line:

    mkdir keys && echo nz_… >keys/free && echo nz_… >keys/limited
    LOADTEST_KEYS=keys locust -f loadtests/locustfile.py --host http://127.0.0.1:8080 \
        --headless -u 100 -r 100 -t 60s LimitedLimited LimitedStreaming

| from the environment | what |
|---|---|
| `LOADTEST_KEYS` | the directory with the keys |
| `LOADTEST_SCENARIO` | a `scenario.toml`: its classes alone. Without it there are those of all scenarios, to be chosen by their names or with `--class-picker` |
| `LOADTEST_OUTCOMES` | a file into which it is written what became of each request |
| `LOADTEST_USERS_NAME` | another number of the users of that name |
"""

import itertools
import json
import os
import time
import tomllib
from pathlib import Path

import gevent
from locust import HttpUser, between, task

PATH = "/v1/chat/completions"
MODEL = "llama3.2"
# What is kept of a reply: the end of a stream says whether it is whole.
KEPT = 8 * 1024
# How long a user rests for whom no key is left, in seconds.
NO_KEY = 1

OUTCOMES = os.environ.get("LOADTEST_OUTCOMES")
outcomes = open(OUTCOMES, "a", buffering=1) if OUTCOMES else None


def code_of(text):
    try:
        return json.loads(text)["error"]["code"]
    except (KeyError, TypeError, ValueError):
        return None


def how_it_ended(reply, is_stream, body):
    """`200` where it is whole, a status with its code, `cut`: as goose's users say it."""
    if reply.status_code == 200:
        if not is_stream or body.endswith(b"data: [DONE]\n\n"):
            return "200"
        events = [line for line in body.split(b"\n") if line.startswith(b"data: ")]
        code = code_of(events[-1][len(b"data: ") :]) if events else None
        return f"200 then {code}" if code else "cut"
    # The SDKs read how long to wait.
    if reply.status_code == 429 and "retry-after-ms" not in reply.headers:
        return "429 without a wait"
    return f"{reply.status_code} {code_of(body) or 'without a code'}"


class Asking(HttpUser):
    """One who asks; what exactly is said by the classes made of it."""

    abstract = True

    @task
    def ask(self):
        does = self.does
        if every := does.get("together_every_s"):
            gevent.sleep(every - time.time() % every)
        key = next(self.turns(), None)
        if key is None:
            gevent.sleep(NO_KEY)
            return
        body = {
            "model": MODEL,
            "stream": does.get("stream", False),
            "messages": [{"role": "user", "content": does["prompt"]}],
        }
        begun = time.time()
        with self.client.post(
            PATH,
            json=body,
            headers={"Authorization": f"Bearer {key}"},
            name=does["name"],
            stream=True,
            catch_response=True,
        ) as reply:
            how = self.read(reply)
            if how in does["allowed"]:
                reply.success()
            else:
                reply.failure(how)
        if outcomes:
            line = (int(begun * 1000), int(time.time() * 1000), does["name"], how)
            outcomes.write("\t".join(map(str, line)) + "\n")

    @classmethod
    def turns(cls):
        """The keys, once or taking turns; of all users of the class together."""
        if "iterator" not in cls.__dict__:
            text = (Path(os.environ["LOADTEST_KEYS"]) / cls.does["keys"]).read_text()
            keys = text.splitlines()
            cls.iterator = iter(keys) if cls.does.get("once") else itertools.cycle(keys)
        return cls.iterator

    def read(self, reply):
        """Reads the reply as this user does; how it ended."""
        if reply.status_code == 0:
            return "no connection"
        does = self.does
        leaves, rate = does.get("leave_after_s"), does.get("bytes_per_second")
        kept, read, begun = b"", 0, time.time()
        try:
            for part in reply.iter_content(chunk_size=1024 if rate else None):
                read += len(part)
                kept = (kept + part)[-KEPT:]
                if rate:
                    gevent.sleep(max(0, begun + read / rate - time.time()))
                if leaves and time.time() - begun >= leaves:
                    reply.close()
                    return "left"
        except Exception:  # whatever requests and urllib3 say of a connection that broke
            return "cut"
        return how_it_ended(reply, does.get("stream", False), kept)


def camel(text):
    return "".join(word.capitalize() for word in text.split("-"))


def classes(file):
    """The classes of a scenario: `LimitedStreaming` are the users `streaming` of the scenario `limited`."""
    for does in tomllib.loads(file.read_text())["users"]:
        low, high = does.get("wait_ms", [50, 150])
        count = int(os.environ.get(f"LOADTEST_USERS_{does['name']}", does["count"]))
        name = camel(file.parent.name) + camel(does["name"])
        of = {"does": does, "weight": count, "wait_time": between(low / 1000, high / 1000)}
        yield name, type(name, (Asking,), {**of, "__module__": __name__})


if "LOADTEST_SCENARIO" in os.environ:
    files = [Path(os.environ["LOADTEST_SCENARIO"])]
else:
    files = sorted((Path(__file__).parent / "scenarios").glob("*/scenario.toml"))
for file in files:
    globals().update(classes(file))

"""The load of `make loadtest`, for those who prefer locust.

    GATEWAY_KEY=nz_… GATEWAY_KEY_LIMITED=nz_… \
        locust -f loadtests/locustfile.py --host http://127.0.0.1:8080 --headless -u 100 -r 100 -t 60s
"""

import os

from locust import HttpUser, between, task

PATH = "/v1/chat/completions"
MODEL = "llama3.2"
# A stream of twenty chunks, 5 ms apart: what a chat looks like, and short enough for many.
STREAM = "[[chunks 20]] [[pace 5]] tell me more"


def body(words, **more):
    return {"model": MODEL, "messages": [{"role": "user", "content": words}], **more}


class Limited(HttpUser):
    """One short question after another with a key that is limited."""

    wait_time = between(0.05, 0.15)

    @task
    def ask(self):
        key = {"Authorization": f"Bearer {os.environ['GATEWAY_KEY_LIMITED']}"}
        with self.client.post(
            PATH, json=body("hi"), headers=key, name="limited", catch_response=True
        ) as reply:
            # To be refused is what is expected of it: with the code and the wait that the SDKs read.
            refused = (
                reply.status_code == 429
                and "retry-after-ms" in reply.headers
                and reply.json()["error"]["code"] == "rate_limit_requests"
            )
            if reply.status_code == 200 or refused:
                reply.success()
            else:
                reply.failure(f"neither let in nor refused as it should be: {reply.status_code}")


class Streaming(HttpUser):
    """Streams, read to their ends."""

    wait_time = between(0.05, 0.15)

    @task
    def ask(self):
        key = {"Authorization": f"Bearer {os.environ['GATEWAY_KEY']}"}
        with self.client.post(
            PATH,
            json=body(STREAM, stream=True),
            headers=key,
            name="stream",
            stream=True,
            catch_response=True,
        ) as reply:
            last = b""
            for line in reply.iter_lines():
                last = line or last
            if last == b"data: [DONE]":
                reply.success()
            else:
                reply.failure("the stream is not whole")

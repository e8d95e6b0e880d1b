"""openai-python against the gateway."""

import os
import threading
import time
import unittest
import unittest.mock

import openai

URL = os.environ["GATEWAY_URL"] + "/v1"
MODEL = os.environ["MODEL"]
MESSAGES = [{"role": "user", "content": "Why is the sky blue?"}]
SAID = "This is the scripted Ollama: Why is the sky blue?"


def client(key: str = os.environ["GATEWAY_KEY"]) -> openai.OpenAI:
    return openai.OpenAI(base_url=URL, api_key=key, max_retries=0, timeout=30)


class Chat(unittest.TestCase):
    def test_whole(self):
        raw = client().chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES)
        self.assertTrue(raw.headers["x-request-id"].startswith("req_"))
        reply = raw.parse()
        self.assertEqual(reply.choices[0].message.content, SAID)
        self.assertEqual(reply.choices[0].finish_reason, "stop")
        self.assertEqual((reply.usage.prompt_tokens, reply.usage.completion_tokens), (5, 10))
        # A server of OpenAI's dialect names it in its own way, and that passes.
        self.assertEqual(reply.model.removesuffix(":latest"), MODEL)

    def test_streamed(self):
        options = {"include_usage": True}
        chunks = list(client().chat.completions.create(
            model=MODEL, messages=MESSAGES, stream=True, stream_options=options))
        said = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        self.assertEqual(said, SAID)
        self.assertEqual(chunks[-1].usage.total_tokens, 15)
        self.assertEqual([c.choices[0].finish_reason for c in chunks if c.choices][-1], "stop")

    def test_streamed_through_the_helper(self):
        with client().chat.completions.stream(model=MODEL, messages=MESSAGES) as stream:
            final = stream.get_final_completion()
        self.assertEqual(final.choices[0].message.role, "assistant")
        self.assertEqual(final.choices[0].message.content, SAID)

    def test_tools(self):
        tool = {"type": "function", "function": {"name": "weather", "parameters": {
            "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}
        asked = [{"role": "user", "content": "what does weather say"}]
        reply = client().chat.completions.create(model=MODEL, messages=asked, tools=[tool])
        message = reply.choices[0].message
        self.assertEqual(message.tool_calls[0].function.arguments, '{"city":"scripted"}')
        asked += [message, {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "rain"}]
        self.assertTrue(client().chat.completions.create(model=MODEL, messages=asked).choices)
        streamed = list(client().chat.completions.create(
            model=MODEL, messages=asked[:1], tools=[tool], stream=True))
        calls = [call for c in streamed for call in c.choices[0].delta.tool_calls or []]
        self.assertEqual([(call.index, call.function.name) for call in calls], [(0, "weather")])

    def test_a_broken_stream_raises(self):
        broken = [{"role": "user", "content": "[[reset 3]]"}]
        with self.assertRaises(openai.APIError) as caught:
            list(client().chat.completions.create(model=MODEL, messages=broken, stream=True))
        self.assertNotIn("UPSTREAM-WORDS", str(caught.exception))

    def test_an_early_break_is_no_harm(self):
        slow = [{"role": "user", "content": "[[chunks 1000]] [[pace 20]]"}]
        stream = client().chat.completions.create(model=MODEL, messages=slow, stream=True)
        next(iter(stream))
        stream.close()


class Models(unittest.TestCase):
    def test_list_and_retrieve(self):
        names = [model.id for model in client().models.list()]
        self.assertIn("llama3.2:latest", names)
        self.assertEqual(client().models.retrieve("qwen3:8b").id, "qwen3:8b")
        narrow = [model.id for model in client(os.environ["GATEWAY_KEY_NARROW"]).models.list()]
        self.assertEqual(narrow, [MODEL + ":latest"])


class Refusals(unittest.TestCase):
    def test_a_wrong_key(self):
        for key in ("wrong", "nz_000000000000_" + "0" * 42):
            with self.assertRaises(openai.AuthenticationError) as caught:
                client(key).models.list()
            self.assertEqual(caught.exception.code, "invalid_api_key")
            self.assertTrue(caught.exception.request_id.startswith("req_"))

    def test_a_model_of_others(self):
        with self.assertRaises(openai.PermissionDeniedError) as caught:
            client(os.environ["GATEWAY_KEY_NARROW"]).chat.completions.create(
                model="secret-model", messages=MESSAGES)
        self.assertEqual((caught.exception.code, caught.exception.param), ("model_not_allowed", "model"))

    def test_a_model_that_is_not_there(self):
        with self.assertRaises(openai.NotFoundError) as caught:
            client().chat.completions.create(model="no-such", messages=MESSAGES)
        self.assertEqual(caught.exception.code, "model_not_found")

    def test_a_bad_request(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            client().chat.completions.create(model=MODEL, messages=[])
        self.assertTrue(caught.exception.message)

    def test_a_failing_upstream(self):
        failing = [{"role": "user", "content": "[[status 500]]"}]
        with self.assertRaises(openai.InternalServerError) as caught:
            client().chat.completions.create(model=MODEL, messages=failing)
        self.assertEqual(caught.exception.code, "upstream_failed")


class Limits(unittest.TestCase):
    KEY = os.environ["GATEWAY_KEY_SINGLE"]

    def test_without_retries_it_is_a_rate_limit_error(self):
        slow = [{"role": "user", "content": "[[chunks 200]] [[pace 20]]"}]
        with client(self.KEY).chat.completions.create(model=MODEL, messages=slow, stream=True) as stream:
            next(iter(stream))
            with self.assertRaises(openai.RateLimitError) as caught:
                client(self.KEY).chat.completions.create(model=MODEL, messages=MESSAGES)
            self.assertEqual(caught.exception.code, "concurrency")
            self.assertEqual(caught.exception.response.headers["retry-after-ms"], "1000")

    def test_with_retries_it_backs_off_and_succeeds(self):
        patient = openai.OpenAI(base_url=URL, api_key=self.KEY, max_retries=8, timeout=30)
        slow = [{"role": "user", "content": "[[chunks 60]] [[pace 20]]"}]
        stream = client(self.KEY).chat.completions.create(model=MODEL, messages=slow, stream=True)
        chunks = iter(stream)
        next(chunks)
        rest = threading.Thread(target=lambda: list(chunks))
        rest.start()
        raw = patient.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES)
        rest.join()
        self.assertEqual(raw.parse().choices[0].message.content, SAID)
        self.assertGreaterEqual(raw.retries_taken, 1)


class RequestsPerMinute(unittest.TestCase):
    KEY = os.environ["GATEWAY_KEY_SLOW"]

    def test_it_waits_as_long_as_it_is_told(self):
        ask = lambda retries: client(self.KEY).with_options(max_retries=retries).chat.completions.create(
            model=MODEL, messages=MESSAGES)
        # What was let in counts for up to half a second more than a minute, which is longer than the
        # SDK would wait: until that is past it is told not to.
        for _ in range(200):
            try:
                ask(0)
            except openai.RateLimitError as refused:
                if refused.response.headers.get("x-should-retry") != "false":
                    break
            time.sleep(0.02)
        # A minute is long: what is slept is written down instead, and the limit still says no.
        slept = []
        with unittest.mock.patch("time.sleep", slept.append):
            with self.assertRaises(openai.RateLimitError) as caught:
                ask(1)
        self.assertEqual(caught.exception.code, "rate_limit_requests")
        headers = caught.exception.response.headers
        told = float(headers["retry-after-ms"]) / 1000
        self.assertEqual(len(slept), 1)
        self.assertLessEqual(told, slept[0])
        self.assertLess(slept[0] - told, 5)
        self.assertTrue(0 < told <= 60, told)
        self.assertGreaterEqual(float(headers["retry-after"]), told)
        self.assertEqual(headers["x-ratelimit-limit-requests"], "1")
        self.assertEqual(headers["x-ratelimit-remaining-requests"], "0")
        self.assertRegex(headers["x-ratelimit-reset-requests"], r"^(\d+m)?(\d+(\.\d+)?s|\d+ms)$")


class Asynchronous(unittest.IsolatedAsyncioTestCase):
    async def test_streamed(self):
        async with openai.AsyncOpenAI(base_url=URL, api_key=os.environ["GATEWAY_KEY"]) as asked:
            said = ""
            async for chunk in await asked.chat.completions.create(
                    model=MODEL, messages=MESSAGES, stream=True):
                said += chunk.choices[0].delta.content or ""
        self.assertEqual(said, SAID)


if __name__ == "__main__":
    unittest.main()

"""The gateway in front of llama.cpp with a small model: what does not depend on the model's words."""

import json
import time
import unittest

import anthropic
import ollama
import openai

import claude_code
import codex
import gateway
from dialects import ALL, Chat, Messages, Native, PROMPT, Responses
from gateway import MODEL, SERVER, URL, Tenant, is_idle, predicted, server

SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "enum": ["Ulm", "Bonn"]}, "wet": {"type": "boolean"}},
          "required": ["city", "wet"], "additionalProperties": False}
CONTEXT = 2048
LONG = "river " * 3000


class Counted(unittest.TestCase):
    def test_tokens_are_the_servers_own_in_every_dialect(self):
        asked = {"model": MODEL, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 12}
        prompt = server("/v1/chat/completions", asked)["usage"]["prompt_tokens"]
        for dialect in ALL:
            tenant, before = Tenant(), predicted()
            client = dialect(tenant.key)
            for ask in (client.whole, client.streamed):
                said = ask(PROMPT, 12)
                self.assertEqual((said.end, said.tokens), ("length", (prompt, 12)), dialect)
            self.assertEqual(predicted() - before, 24, dialect)
            for event in tenant.events(2):
                self.assertEqual((event["prompt_tokens"], event["completion_tokens"], event["estimated"]),
                                 (prompt, 12, False))
            tenant.has_used(2 * prompt, 24)

    def test_a_schema_holds_and_ends_the_reply(self):
        for dialect in ALL:
            tenant, before = Tenant(), predicted()
            client, made = dialect(tenant.key), 0
            for ask in (client.whole, client.streamed):
                said = ask("Where does it rain?", 200, SCHEMA)
                self.assertEqual(said.end, "stop", dialect)
                found = json.loads(said.text)
                self.assertEqual(set(found), {"city", "wet"})
                self.assertIn(found["city"], ("Ulm", "Bonn"))
                self.assertIsInstance(found["wet"], bool)
                made += said.tokens[1]
            self.assertEqual(predicted() - before, made, dialect)
            self.assertEqual(sum(event["completion_tokens"] for event in tenant.events(2)), made)

    def test_openais_old_completions(self):
        client = Chat(Tenant().key).client
        said = client.completions.create(model=MODEL, prompt="The river", max_tokens=5)
        self.assertEqual((said.choices[0].finish_reason, said.usage.completion_tokens), ("length", 5))


class Limited(unittest.TestCase):
    def test_a_budget_is_used_up_by_what_the_server_counted(self):
        budget, spent = 300, []
        tenant = Tenant("--budget-tokens", str(budget), "--budget-period", "total")
        with self.assertRaises(openai.RateLimitError) as caught:
            for _ in range(100):
                spent.append(Chat(tenant.key).whole(PROMPT, 16).tokens)
        self.assertEqual(caught.exception.code, "budget_exhausted")
        prompt, completion = (sum(tokens) for tokens in zip(*spent))
        self.assertTrue(0 < prompt + completion <= budget, spent)
        tenant.has_used(prompt, completion)

    def test_a_window_of_tokens(self):
        tenant = Tenant("--tpm", "200")
        with self.assertRaises(openai.RateLimitError) as caught:
            for _ in range(100):
                Chat(tenant.key).whole(PROMPT, 16)
        self.assertEqual(caught.exception.code, "rate_limit_tokens")
        used = sum(event["prompt_tokens"] + event["completion_tokens"] for event in tenant.written())
        self.assertTrue(0 < used <= 200, used)

    def test_the_other_name_of_a_limit_is_refused_or_held(self):
        """llama.cpp puts its `n_predict` before `max_tokens`."""
        with self.assertRaises(openai.BadRequestError) as caught:
            self.two_limits(Tenant())
        self.assertEqual(caught.exception.param, "n_predict")
        before, trusted = predicted(), Tenant("--options", "all")
        reply = self.two_limits(trusted)
        made = reply.usage.completion_tokens
        self.assertTrue(0 < made <= 80, made)
        self.assertEqual(predicted() - before, made)
        trusted.has_used(reply.usage.prompt_tokens, made)
        # The larger of both is what a budget must have.
        with self.assertRaises(openai.RateLimitError) as caught:
            self.two_limits(Tenant("--options", "all", "--budget-tokens", "80", "--budget-period", "total"))
        self.assertEqual(caught.exception.code, "budget_exhausted")

    def two_limits(self, tenant: Tenant):
        return Chat(tenant.key).client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": PROMPT}], max_tokens=5, extra_body={"n_predict": 80})


class Refused(unittest.TestCase):
    def test_a_prompt_beyond_the_context(self):
        asked = {"model": MODEL, "messages": [{"role": "user", "content": LONG}], "max_tokens": 5}
        tokens = server("/v1/chat/completions", asked)["n_prompt_tokens"]
        tenant = Tenant()
        for dialect in (Chat, Responses):
            for ask in (dialect(tenant.key).whole, dialect(tenant.key).streamed):
                with self.assertRaises(openai.BadRequestError) as caught:
                    ask(LONG, 5)
                self.assertEqual(caught.exception.code, "context_length_exceeded")
        for ask in (Messages(tenant.key).whole, Messages(tenant.key).streamed):
            with self.assertRaises(anthropic.BadRequestError) as caught:
                ask(LONG, 5)
            self.assertIn(f"prompt is too long: {tokens} tokens > {CONTEXT} maximum", caught.exception.message)
        for ask in (Native(tenant.key).whole, Native(tenant.key).streamed):
            with self.assertRaises(ollama.ResponseError) as caught:
                ask(LONG, 5)
            self.assertEqual(caught.exception.status_code, 400)
            self.assertIn("context", caught.exception.error)
        self.assertEqual(tenant.used(), (0, 0))

    def test_embeddings_that_the_model_cannot_make(self):
        self.assertEqual(server("/v1/embeddings", {"input": "a"})["code"], 501)
        with self.assertRaises(openai.BadRequestError) as caught:
            Chat(Tenant().key).client.embeddings.create(model=MODEL, input="a")
        self.assertEqual(caught.exception.code, "capability_missing")


class Cancelled(unittest.TestCase):
    """Of streams alone: of a whole reply llama.cpp does not notice that its client has left."""

    MOST = 1500

    def test_the_server_stops_when_the_client_leaves_a_stream(self):
        for dialect in ALL:
            tenant, before = Tenant(), predicted()
            stream = dialect(tenant.key).begin(self.MOST)
            self.assertTrue(gateway.slot()["is_processing"], dialect)
            stream.close()
            is_idle()
            self.assertLess(predicted() - before, self.MOST // 4, dialect)
            (event,) = tenant.events(1)
            self.assertEqual(event["outcome"], "client_left", dialect)
            self.assertTrue(0 < event["completion_tokens"] < self.MOST // 4, (dialect, event))


class Sessions(unittest.TestCase):
    def test_claude_code_compacts_when_the_context_is_full(self):
        tenant = Tenant()
        told = claude_code.Session(URL, tenant.key, MODEL, lambda name, asked: "done", max_tokens=24, rounds=3)
        for number in range(12):
            told.turn(f"Number {number}: " + "the river goes on and on " * 40)
        self.assertGreaterEqual(told.compacted, 1)
        self.assertRegex(told.refused, rf"prompt is too long: \d+ tokens > {CONTEXT} maximum")
        self.assertTrue(told.messages[0]["content"][0]["text"].startswith(claude_code.CONTINUED))

    def test_codex(self):
        told = codex.Session(URL, Tenant().key, MODEL, lambda *asked: "done", max_output_tokens=24, rounds=3)
        for number in range(5):
            told.turn(f"Number {number}: what is in the folder?")
            self.assertLessEqual(told.usage["output_tokens"], 24)


class Speed(unittest.TestCase):
    def test_how_fast_it_is(self):
        """Tells, and claims nothing."""
        def rate(url: str, key: str) -> str:
            client = openai.OpenAI(base_url=url + "/v1", api_key=key, max_retries=0, timeout=120)
            begun = time.monotonic()
            reply = client.chat.completions.create(model=MODEL, max_tokens=64, stream=True, messages=[
                {"role": "user", "content": PROMPT}], stream_options={"include_usage": True})
            made = list(reply)[-1].usage.completion_tokens
            return f"{made} tokens, {made / (time.monotonic() - begun):.1f} a second"
        key = Tenant().key
        rate(SERVER, key)
        print(f"\n  directly: {rate(SERVER, key)}; through the gateway: {rate(URL, key)}")


if __name__ == "__main__":
    unittest.main()

"""LiteLLM as a client of the gateway, in OpenAI's dialect and in Ollama's."""

import json
import os
import unittest

# LiteLLM would fetch its list of prices from GitHub.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm

litellm.telemetry = False

URL, KEY, MODEL = (os.environ[name] for name in ("GATEWAY_URL", "GATEWAY_KEY", "MODEL"))
WAYS = [{"model": "openai/" + MODEL, "api_base": URL + "/v1", "api_key": KEY},
        {"model": "ollama_chat/" + MODEL, "api_base": URL, "api_key": KEY}]
MESSAGES = [{"role": "user", "content": "Why is the sky blue?"}]
SAID = "This is the scripted Ollama: Why is the sky blue?"
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}


def complete(way: dict, messages: list = MESSAGES, **more):
    return litellm.completion(**way, messages=messages, timeout=30, num_retries=0, max_retries=0, **more)


class LiteLlm(unittest.TestCase):
    def test_whole(self):
        for way in WAYS:
            with self.subTest(way["model"]):
                reply = complete(way)
                self.assertEqual(reply.choices[0].message.content, SAID)
                self.assertEqual(reply.usage.completion_tokens, 10)

    def test_streamed(self):
        for way in WAYS:
            with self.subTest(way["model"]):
                chunks = list(complete(way, stream=True))
                said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
                self.assertEqual(said, SAID)

    def test_a_tool_call(self):
        for way in WAYS:
            with self.subTest(way["model"]):
                asked = [{"role": "user", "content": "what does weather say"}]
                (call,) = complete(way, asked, tools=[TOOL]).choices[0].message.tool_calls
                self.assertEqual((call.function.name, json.loads(call.function.arguments)),
                                 ("weather", {"city": "scripted"}))

    def test_embeddings(self):
        # In Ollama's dialect LiteLLM sends no key with this.
        way = WAYS[0] | {"model": "openai/nomic-embed-text"}
        reply = litellm.embedding(**way, input=["one", "two"], timeout=30, max_retries=0)
        self.assertEqual([len(item["embedding"]) for item in reply.data], [768, 768])

    def test_a_wrong_key(self):
        for way in WAYS:
            with self.subTest(way["model"]), self.assertRaises(litellm.AuthenticationError):
                complete(way | {"api_key": "wrong"})


if __name__ == "__main__":
    unittest.main()

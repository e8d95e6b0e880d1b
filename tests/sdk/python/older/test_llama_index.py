"""LlamaIndex against the gateway, in OpenAI's dialect and in Ollama's."""

import os
import unittest

import ollama
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.ollama import Ollama
from llama_index.llms.openai_like import OpenAILike

URL, KEY, MODEL = (os.environ[name] for name in ("GATEWAY_URL", "GATEWAY_KEY", "MODEL"))
MESSAGES = [ChatMessage(role="user", content="Why is the sky blue?")]
SAID = "This is the scripted Ollama: Why is the sky blue?"


def weather(city: str) -> str:
    """Tells the weather."""
    return "rain in " + city


def models() -> list:
    headers = {"Authorization": "Bearer " + KEY}
    return [
        OpenAILike(model=MODEL, api_base=URL + "/v1", api_key=KEY, is_chat_model=True,
                   is_function_calling_model=True, max_retries=0, timeout=30),
        # It knows no key: a client that sends one is given to it.
        Ollama(model=MODEL, client=ollama.Client(host=URL, headers=headers), context_window=4096),
    ]


class LlamaIndex(unittest.TestCase):
    def test_whole(self):
        for model in models():
            with self.subTest(model.class_name()):
                self.assertEqual(model.chat(MESSAGES).message.content, SAID)

    def test_streamed(self):
        for model in models():
            with self.subTest(model.class_name()):
                parts = list(model.stream_chat(MESSAGES))
                self.assertEqual("".join(part.delta or "" for part in parts), SAID)
                self.assertEqual(parts[-1].message.content, SAID)

    def test_a_tool_call(self):
        tool = FunctionTool.from_defaults(weather)
        for model in models():
            with self.subTest(model.class_name()):
                reply = model.chat_with_tools([tool], user_msg="what does weather say")
                (call,) = model.get_tool_calls_from_response(reply)
                self.assertEqual((call.tool_name, call.tool_kwargs), ("weather", {"city": "scripted"}))


if __name__ == "__main__":
    unittest.main()

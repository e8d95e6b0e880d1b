"""langchain-ollama against the gateway."""

import os
import unittest

import langchain_ollama

ASKED = {"base_url": os.environ["GATEWAY_URL"],
         "client_kwargs": {"headers": {"Authorization": "Bearer " + os.environ["GATEWAY_KEY"]}}}
QUESTION = "Why is the sky blue?"
SAID = "This is the scripted Ollama: Why is the sky blue?"


def weather(city: str) -> str:
    """Tells the weather."""
    return "rain in " + city


class LangChain(unittest.TestCase):
    chat = langchain_ollama.ChatOllama(model=os.environ["MODEL"], **ASKED)

    def test_whole(self):
        reply = self.chat.invoke(QUESTION)
        self.assertEqual(reply.content, SAID)
        self.assertEqual(reply.usage_metadata["total_tokens"], 15)

    def test_streamed(self):
        chunks = list(self.chat.stream(QUESTION))
        self.assertEqual("".join(chunk.content for chunk in chunks), SAID)
        self.assertGreater(len(chunks), 2)

    def test_a_tool_call(self):
        reply = self.chat.bind_tools([weather]).invoke("what does weather say")
        self.assertEqual([(call["name"], call["args"]) for call in reply.tool_calls],
                         [("weather", {"city": "scripted"})])

    def test_thinking_stands_apart(self):
        chat = langchain_ollama.ChatOllama(model="qwen3:8b", reasoning=True, **ASKED)
        reply = chat.invoke(QUESTION)
        self.assertEqual(reply.content, SAID)
        self.assertTrue(reply.additional_kwargs["reasoning_content"])

    def test_embeddings(self):
        embedder = langchain_ollama.OllamaEmbeddings(model="nomic-embed-text", **ASKED)
        self.assertEqual([len(v) for v in embedder.embed_documents(["one", "two"])], [768, 768])


if __name__ == "__main__":
    unittest.main()

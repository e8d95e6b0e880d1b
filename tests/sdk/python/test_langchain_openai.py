"""langchain-openai against the gateway."""

import os
import unittest

import langchain_openai

ASKED = {"base_url": os.environ["GATEWAY_URL"] + "/v1", "api_key": os.environ["GATEWAY_KEY"],
         "max_retries": 0, "timeout": 30}
QUESTION = "Why is the sky blue?"
SAID = "This is the scripted Ollama: Why is the sky blue?"


def weather(city: str) -> str:
    """Tells the weather."""
    return "rain in " + city


class LangChain(unittest.TestCase):
    chat = langchain_openai.ChatOpenAI(model=os.environ["MODEL"], stream_usage=True, **ASKED)

    def test_whole(self):
        reply = self.chat.invoke(QUESTION)
        self.assertEqual(reply.content, SAID)
        self.assertEqual(reply.usage_metadata["total_tokens"], 15)

    def test_streamed(self):
        chunks = list(self.chat.stream(QUESTION))
        self.assertEqual("".join(chunk.content for chunk in chunks), SAID)
        self.assertEqual(sum(c.usage_metadata["output_tokens"] for c in chunks if c.usage_metadata), 10)

    def test_a_tool_call(self):
        reply = self.chat.bind_tools([weather]).invoke("what does weather say")
        self.assertEqual([(call["name"], call["args"]) for call in reply.tool_calls],
                         [("weather", {"city": "scripted"})])

    def test_embeddings(self):
        # Of a model that is not OpenAI's, LangChain must not send tokens of OpenAI's.
        embedder = langchain_openai.OpenAIEmbeddings(
            model="nomic-embed-text", check_embedding_ctx_length=False, **ASKED)
        self.assertEqual([len(v) for v in embedder.embed_documents(["one", "two"])], [768, 768])
        self.assertEqual(len(embedder.embed_query("one")), 768)


if __name__ == "__main__":
    unittest.main()

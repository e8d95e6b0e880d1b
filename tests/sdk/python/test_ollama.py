"""ollama-python against the gateway."""

import os
import unittest

import ollama

MODEL = os.environ["MODEL"]
MESSAGES = [{"role": "user", "content": "Why is the sky blue?"}]
SAID = "This is the scripted Ollama: Why is the sky blue?"


def client(key: str = os.environ["GATEWAY_KEY"]) -> ollama.Client:
    return ollama.Client(host=os.environ["GATEWAY_URL"], headers={"Authorization": f"Bearer {key}"})


class Ollama(unittest.TestCase):
    def test_chat_whole(self):
        reply = client().chat(model=MODEL, messages=MESSAGES)
        self.assertEqual(reply.message.content, SAID)
        self.assertEqual((reply.prompt_eval_count, reply.eval_count), (5, 10))

    def test_chat_streamed(self):
        parts = list(client().chat(model=MODEL, messages=MESSAGES, stream=True))
        self.assertEqual("".join(part.message.content for part in parts), SAID)
        self.assertTrue(parts[-1].done)

    def test_generate(self):
        self.assertEqual(client().generate(model=MODEL, prompt="hi").response,
                         "This is the scripted Ollama: hi")
        parts = list(client().generate(model=MODEL, prompt="hi", stream=True))
        self.assertEqual(parts[-1].eval_count, 6)

    def test_embed(self):
        reply = client().embed(model="nomic-embed-text", input=["one", "two words"])
        self.assertEqual([len(vector) for vector in reply.embeddings], [768, 768])
        legacy = client().embeddings(model="nomic-embed-text", prompt="one")
        self.assertEqual(len(legacy.embedding), 768)

    def test_list(self):
        self.assertIn("llama3.2:latest", [model.model for model in client().list().models])

    @unittest.skipIf(os.environ["GATEWAY_KIND"] == "openai", "OpenAI's dialect has nothing like show and ps")
    def test_show_and_ps(self):
        self.assertIn("tools", client().show(MODEL).capabilities)
        client().chat(model=MODEL, messages=MESSAGES)
        self.assertIn("llama3.2:latest", [model.model for model in client().ps().models])

    def test_refusals(self):
        for key, call, status in (
            ("wrong", lambda c: c.chat(model=MODEL, messages=MESSAGES), 401),
            (os.environ["GATEWAY_KEY_NARROW"], lambda c: c.chat(model="secret-model", messages=MESSAGES), 403),
            (os.environ["GATEWAY_KEY"], lambda c: c.pull(MODEL), 403),
            (os.environ["GATEWAY_KEY"], lambda c: c.delete(MODEL), 403),
            (os.environ["GATEWAY_KEY"], lambda c: c.chat(model="no-such", messages=MESSAGES), 404),
        ):
            with self.assertRaises(ollama.ResponseError) as caught:
                call(client(key))
            self.assertEqual(caught.exception.status_code, status)
            self.assertTrue(caught.exception.error)

    def test_a_broken_stream_raises(self):
        broken = [{"role": "user", "content": "[[error-line 3]]"}]
        with self.assertRaises(ollama.ResponseError) as caught:
            list(client().chat(model=MODEL, messages=broken, stream=True))
        self.assertNotIn("UPSTREAM-WORDS", str(caught.exception))


if __name__ == "__main__":
    unittest.main()

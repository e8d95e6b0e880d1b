"""openai-python against what else the gateway speaks of OpenAI: embeddings, completions, responses."""

import json
import os
import unittest

import openai
import pydantic

URL = os.environ["GATEWAY_URL"] + "/v1"
MODEL = os.environ["MODEL"]
EMBEDDER = "nomic-embed-text"
MESSAGES = [{"role": "user", "content": "Why is the sky blue?"}]
SAID = "This is the scripted Ollama: Why is the sky blue?"
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def client(key: str = os.environ["GATEWAY_KEY"], timeout: float = 30) -> openai.OpenAI:
    return openai.OpenAI(base_url=URL, api_key=key, max_retries=0, timeout=timeout)


class Embeddings(unittest.TestCase):
    def test_base64_the_default_and_floats_are_the_same_numbers(self):
        packed = client().embeddings.create(model=EMBEDDER, input="one")
        plain = client().embeddings.create(model=EMBEDDER, input="one", encoding_format="float")
        self.assertEqual((len(packed.data[0].embedding), len(plain.data[0].embedding)), (768, 768))
        for a, b in zip(packed.data[0].embedding, plain.data[0].embedding):
            self.assertAlmostEqual(a, b, places=6)

    def test_a_list_comes_back_in_order_and_is_counted(self):
        reply = client().embeddings.create(model=EMBEDDER, input=["one", "two words"])
        self.assertEqual([item.index for item in reply.data], [0, 1])
        self.assertEqual((reply.usage.prompt_tokens, reply.usage.total_tokens), (3, 3))
        alone = client().embeddings.create(model=EMBEDDER, input="two words")
        self.assertEqual(reply.data[1].embedding, alone.data[0].embedding)

    def test_dimensions(self):
        reply = client().embeddings.create(model=EMBEDDER, input="one", dimensions=64)
        self.assertEqual(len(reply.data[0].embedding), 64)

    def test_refusals(self):
        for key, model, error, code in (
            ("wrong", EMBEDDER, openai.AuthenticationError, "invalid_api_key"),
            (os.environ["GATEWAY_KEY_NARROW"], EMBEDDER, openai.PermissionDeniedError,
             "model_not_allowed"),
            (os.environ["GATEWAY_KEY"], "no-such", openai.NotFoundError, "model_not_found"),
        ):
            with self.assertRaises(error) as caught:
                client(key).embeddings.create(model=model, input="one")
            self.assertEqual(caught.exception.code, code)


class Completions(unittest.TestCase):
    def test_whole(self):
        reply = client().completions.create(model=MODEL, prompt="hi")
        self.assertEqual(reply.object, "text_completion")
        self.assertEqual(reply.choices[0].text, "This is the scripted Ollama: hi")
        self.assertEqual((reply.usage.prompt_tokens, reply.usage.completion_tokens), (1, 6))

    def test_streamed(self):
        chunks = list(client().completions.create(
            model=MODEL, prompt="hi", stream=True, stream_options={"include_usage": True}))
        said = "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)
        self.assertEqual(said, "This is the scripted Ollama: hi")
        self.assertEqual([c.choices[0].finish_reason for c in chunks if c.choices][-1], "stop")
        self.assertEqual(chunks[-1].usage.total_tokens, 7)

    def test_a_limit_ends_it(self):
        reply = client().completions.create(model=MODEL, prompt="hi", max_tokens=2)
        self.assertEqual((reply.choices[0].text, reply.choices[0].finish_reason), ("This is", "length"))


class Responses(unittest.TestCase):
    TOOL = {"type": "function", "name": "weather", "parameters": WEATHER, "strict": False}

    def test_whole(self):
        reply = client().responses.create(model=MODEL, input="Why is the sky blue?")
        self.assertEqual((reply.object, reply.status), ("response", "completed"))
        self.assertEqual(reply.output_text, SAID)
        self.assertEqual((reply.usage.input_tokens, reply.usage.output_tokens), (5, 10))

    def test_instructions_are_part_of_the_prompt(self):
        reply = client().responses.create(
            model=MODEL, instructions="Be very brief.", input=[{"role": "user", "content": "hi"}])
        self.assertEqual(reply.output_text, "This is the scripted Ollama: hi")
        self.assertEqual(reply.usage.input_tokens, 4)

    def test_streamed_events_come_in_order(self):
        events = list(client().responses.create(model=MODEL, input="Why is the sky blue?", stream=True))
        kinds = [event.type for event in events]
        self.assertEqual(kinds[0], "response.created")
        milestones = ["response.created", "response.output_item.added", "response.content_part.added",
                      "response.output_text.delta", "response.output_text.done",
                      "response.content_part.done", "response.output_item.done", "response.completed"]
        self.assertEqual([kind for kind in dict.fromkeys(kinds) if kind in milestones], milestones)
        self.assertEqual(kinds[-1], "response.completed")
        self.assertEqual([event.sequence_number for event in events], list(range(len(events))))
        said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        self.assertEqual((said, events[-1].response.output_text), (SAID, SAID))
        self.assertEqual(events[-1].response.usage.output_tokens, 10)

    def test_streamed_through_the_helper(self):
        with client().responses.stream(model=MODEL, input="Why is the sky blue?") as stream:
            self.assertEqual(stream.get_final_response().output_text, SAID)

    def test_a_function_is_called_and_its_output_taken(self):
        asked = [{"role": "user", "content": "what does weather say"}]
        reply = client().responses.create(model=MODEL, input=asked, tools=[self.TOOL])
        (call,) = [item for item in reply.output if item.type == "function_call"]
        self.assertEqual((call.name, json.loads(call.arguments)), ("weather", {"city": "scripted"}))
        asked += [call, {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}]
        after = client().responses.create(model=MODEL, input=asked, tools=[self.TOOL])
        self.assertTrue(after.output_text.startswith("This is the scripted Ollama:"))

    def test_a_function_call_is_streamed(self):
        events = list(client().responses.create(
            model=MODEL, input="what does weather say", tools=[self.TOOL], stream=True))
        (done,) = [e for e in events if e.type == "response.function_call_arguments.done"]
        self.assertEqual(json.loads(done.arguments), {"city": "scripted"})
        pieces = "".join(e.delta for e in events if e.type == "response.function_call_arguments.delta")
        self.assertEqual(pieces, done.arguments)
        (call,) = [i for i in events[-1].response.output if i.type == "function_call"]
        self.assertEqual(call.name, "weather")

    def test_an_unknown_model(self):
        with self.assertRaises(openai.NotFoundError) as caught:
            client().responses.create(model="no-such", input="hi")
        self.assertEqual(caught.exception.code, "model_not_found")


class Structured(unittest.TestCase):
    class Place(pydantic.BaseModel):
        city: str
        days: int

    def test_an_answer_is_parsed_into_its_model(self):
        reply = client().chat.completions.parse(
            model=MODEL, messages=MESSAGES, response_format=self.Place)
        self.assertEqual(reply.choices[0].message.parsed, self.Place(city="scripted", days=0))

    def test_streamed_it_is_parsed_too(self):
        with client().chat.completions.stream(
                model=MODEL, messages=MESSAGES, response_format=self.Place) as stream:
            final = stream.get_final_completion()
        self.assertEqual(final.choices[0].message.parsed, self.Place(city="scripted", days=0))


class Tools(unittest.TestCase):
    TOOL = {"type": "function", "function": {"name": "weather", "parameters": WEATHER}}

    def asked(self):
        return [{"role": "user", "content": "what does weather say"}]

    def answer(self, asked, message):
        (call,) = message.tool_calls
        self.assertEqual(json.loads(call.function.arguments), {"city": "scripted"})
        asked += [message, {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
        return asked

    def test_a_round_trip_whole(self):
        asked = self.asked()
        first = client().chat.completions.create(model=MODEL, messages=asked, tools=[self.TOOL])
        self.assertEqual(first.choices[0].finish_reason, "tool_calls")
        asked = self.answer(asked, first.choices[0].message)
        second = client().chat.completions.create(model=MODEL, messages=asked, tools=[self.TOOL])
        self.assertEqual(second.choices[0].message.content, "This is the scripted Ollama: rain")

    def test_a_round_trip_streamed(self):
        asked = self.asked()
        with client().chat.completions.stream(model=MODEL, messages=asked, tools=[self.TOOL]) as stream:
            first = stream.get_final_completion()
        self.assertEqual(first.choices[0].finish_reason, "tool_calls")
        asked = self.answer(asked, first.choices[0].message)
        chunks = list(client().chat.completions.create(
            model=MODEL, messages=asked, tools=[self.TOOL], stream=True))
        said = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        self.assertEqual(said, "This is the scripted Ollama: rain")


    def test_a_forced_call_is_made_or_refused(self):
        asked = self.asked()
        forced = {"type": "function", "function": {"name": "weather"}}

        def ask(**more):
            return client().chat.completions.create(
                model=MODEL, messages=asked, tools=[self.TOOL], **more)
        for choice in ("required", forced):
            if os.environ["GATEWAY_KIND"] == "ollama":
                with self.assertRaises(openai.BadRequestError) as caught:
                    ask(tool_choice=choice)
                refused = caught.exception
                self.assertEqual((refused.code, refused.param), ("unsupported_parameter", "tool_choice"))
                continue
            asked = self.answer(self.asked(), ask(tool_choice=choice).choices[0].message)
            self.assertEqual(ask().choices[0].message.content, "This is the scripted Ollama: rain")
            asked = self.asked()


class Reasoning(unittest.TestCase):
    THINKS = "qwen3:8b"

    def said(self, **more):
        chunks = client().chat.completions.create(
            model=self.THINKS, messages=MESSAGES, stream=True, **more)
        deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
        text = "".join(delta.content or "" for delta in deltas)
        thought = ["".join(getattr(delta, name, None) or "" for delta in deltas)
                   for name in ("reasoning", "reasoning_content")]
        return text, thought

    def test_what_is_thought_is_streamed(self):
        text, thought = self.said()
        self.assertEqual(text, SAID)
        # One under its own name, the other where the server gives it.
        self.assertTrue(any(thought), thought)
        if os.environ["GATEWAY_KIND"] == "ollama":
            self.assertEqual(thought[0], thought[1])

    def test_it_can_be_switched_off(self):
        text, thought = self.said(reasoning_effort="none")
        self.assertEqual((text, any(thought)), (SAID, False))


class Failures(unittest.TestCase):
    def test_a_bad_request(self):
        with self.assertRaises(openai.BadRequestError):
            client().chat.completions.create(model=MODEL, messages="not a list")

    def test_an_unknown_model_cannot_be_retrieved(self):
        with self.assertRaises(openai.NotFoundError) as caught:
            client().models.retrieve("no-such")
        self.assertEqual(caught.exception.code, "model_not_found")

    def test_an_unavailable_upstream(self):
        unavailable = [{"role": "user", "content": "[[status 503]]"}]
        with self.assertRaises(openai.InternalServerError) as caught:
            client().chat.completions.create(model=MODEL, messages=unavailable)
        refused = caught.exception
        self.assertEqual((refused.status_code, refused.code), (503, "upstream_unavailable"))
        self.assertNotIn("UPSTREAM-WORDS", str(caught.exception))

    def test_a_gateway_without_a_model_server(self):
        away = openai.OpenAI(base_url=os.environ["GATEWAY_URL_DEAD"] + "/v1", max_retries=1, timeout=30,
                             api_key=os.environ["GATEWAY_KEY"])
        with self.assertRaises(openai.InternalServerError) as caught:
            away.chat.completions.create(model=MODEL, messages=MESSAGES)
        refused = caught.exception
        self.assertEqual((refused.status_code, refused.code), (503, "catalog_unavailable"))
        self.assertEqual(refused.response.headers["retry-after-ms"], "1000")
        self.assertEqual(refused.response.request.headers["x-stainless-retry-count"], "1")

    def test_silence_is_a_timeout(self):
        silent = [{"role": "user", "content": "[[hang-head]]"}]
        with self.assertRaises(openai.APITimeoutError):
            client(timeout=0.5).chat.completions.create(model=MODEL, messages=silent)

    def test_a_stream_that_hangs_keeps_the_only_place_until_it_is_closed(self):
        key = os.environ["GATEWAY_KEY_SINGLE"]
        hanging = [{"role": "user", "content": "[[hang 2]]"}]
        with client(key).chat.completions.create(model=MODEL, messages=hanging, stream=True) as stream:
            next(iter(stream))
            with self.assertRaises(openai.RateLimitError):
                client(key).chat.completions.create(model=MODEL, messages=MESSAGES)
        # The gateway sees the end a moment later than the client: here the client may try again.
        patient = client(key).with_options(max_retries=8)
        reply = patient.chat.completions.create(model=MODEL, messages=MESSAGES)
        self.assertEqual(reply.choices[0].message.content, SAID)

    def test_after_an_aborted_stream_the_same_client_goes_on(self):
        endless = [{"role": "user", "content": "[[chunks 100000]] [[pace 20]]"}]
        asked = client()
        stream = asked.chat.completions.create(model=MODEL, messages=endless, stream=True)
        next(iter(stream))
        stream.close()
        reply = asked.chat.completions.create(model=MODEL, messages=MESSAGES)
        self.assertEqual(reply.choices[0].message.content, SAID)


if __name__ == "__main__":
    unittest.main()

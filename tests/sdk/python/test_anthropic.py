"""anthropic-sdk-python against the gateway."""

import json
import os
import unittest

import anthropic
import pydantic
import upstream

MODEL = os.environ["MODEL"]
MESSAGES = [{"role": "user", "content": "Why is the sky blue?"}]
SAID = "This is the scripted Ollama: Why is the sky blue?"
# A picture of one pixel.
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
TOOL = {"name": "weather", "description": "Tells the weather", "input_schema": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}


def client(key: str = os.environ["GATEWAY_KEY"], timeout: float = 30) -> anthropic.Anthropic:
    return anthropic.Anthropic(
        base_url=os.environ["GATEWAY_URL"], api_key=key, max_retries=0, timeout=timeout)


def ask(asked: anthropic.Anthropic | None = None, **more):
    return (asked or client()).messages.create(**{
        "model": MODEL, "max_tokens": 1000, "messages": MESSAGES, **more})


class Messages(unittest.TestCase):
    def test_whole(self):
        reply = ask()
        self.assertEqual((reply.type, reply.role, reply.model), ("message", "assistant", MODEL))
        self.assertEqual([(block.type, block.text) for block in reply.content], [("text", SAID)])
        self.assertEqual(reply.stop_reason, "end_turn")
        self.assertEqual((reply.usage.input_tokens, reply.usage.output_tokens), (5, 10))

    def test_a_limit_ends_it(self):
        reply = ask(max_tokens=2)
        self.assertEqual((reply.content[0].text, reply.stop_reason), ("This is", "max_tokens"))

    def test_the_system_prompt_is_part_of_the_prompt(self):
        for system in ("Be very brief.", [{"type": "text", "text": "Be very brief."}]):
            reply = ask(system=system)
            self.assertEqual((reply.content[0].text, reply.usage.input_tokens), (SAID, 8))

    def test_an_image_is_taken(self):
        source = {"type": "base64", "media_type": "image/png", "data": PNG}
        content = [{"type": "image", "source": source}, {"type": "text", "text": "what is it"}]
        reply = ask(messages=[{"role": "user", "content": content}])
        self.assertEqual(reply.content[0].text, "This is the scripted Ollama: what is it")

    def test_an_image_that_is_none_is_a_bad_request(self):
        source = {"type": "base64", "media_type": "image/png", "data": "not base64!"}
        with self.assertRaises(anthropic.BadRequestError):
            ask(messages=[{"role": "user", "content": [{"type": "image", "source": source}]}])

    def test_tokens_are_counted(self):
        counted = client().messages.count_tokens(model=MODEL, messages=MESSAGES)
        self.assertGreater(counted.input_tokens, 0)


class Structured(unittest.TestCase):
    class Place(pydantic.BaseModel):
        city: str
        days: int

    def reached(self):
        """The schema that the model server was given."""
        body = upstream.last()
        if upstream.KIND == "ollama":
            return body["format"]
        return body["response_format"]["json_schema"]["schema"]

    def test_an_answer_is_parsed_into_its_model(self):
        reply = client().messages.parse(
            model=MODEL, max_tokens=1000, messages=MESSAGES, output_format=self.Place)
        self.assertEqual(reply.parsed_output, self.Place(city="scripted", days=0))
        self.assertEqual(set(self.reached()["properties"]), {"city", "days"})

    def test_streamed_it_is_parsed_too(self):
        with client().messages.stream(
                model=MODEL, max_tokens=1000, messages=MESSAGES, output_format=self.Place) as stream:
            final = stream.get_final_message()
        self.assertEqual(final.parsed_output, self.Place(city="scripted", days=0))
        self.assertEqual(set(self.reached()["properties"]), {"city", "days"})

    def test_a_schema_and_an_effort_beside_each_other(self):
        schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
                  "additionalProperties": False}
        reply = ask(model="qwen3:8b", output_config={
            "effort": "high", "format": {"type": "json_schema", "schema": schema}})
        self.assertEqual(json.loads(reply.content[-1].text), {"city": "scripted"})
        self.assertEqual(self.reached()["required"], ["city"])
        body = upstream.last()
        effort = body["think"] if upstream.KIND == "ollama" else body["reasoning_effort"]
        self.assertEqual(effort, "high")


class Requests(unittest.TestCase):
    def test_a_reply_has_the_id_by_which_the_operator_finds_it(self):
        raw = client().messages.with_raw_response.create(
            model=MODEL, max_tokens=1000, messages=MESSAGES)
        self.assertTrue(raw.headers["request-id"].startswith("req_"))
        self.assertEqual(raw.headers["request-id"], raw.headers["x-request-id"])
        self.assertEqual(raw.parse()._request_id, raw.headers["request-id"])

    def test_so_has_an_error_in_its_head_and_in_its_body(self):
        with self.assertRaises(anthropic.NotFoundError) as caught:
            ask(model="no-such")
        refused = caught.exception
        self.assertTrue(refused.request_id.startswith("req_"))
        self.assertEqual(refused.body["request_id"], refused.request_id)

    def test_a_gateway_without_a_model_server(self):
        away = anthropic.Anthropic(base_url=os.environ["GATEWAY_URL_DEAD"], max_retries=0, timeout=30,
                                   api_key=os.environ["GATEWAY_KEY"])
        with self.assertRaises(anthropic.InternalServerError) as caught:
            ask(away)
        self.assertEqual(caught.exception.status_code, 503)
        self.assertEqual(caught.exception.body["error"]["type"], "overloaded_error")


class Streams(unittest.TestCase):
    def test_through_the_helper(self):
        with client().messages.stream(model=MODEL, max_tokens=1000, messages=MESSAGES) as stream:
            said = "".join(stream.text_stream)
            final = stream.get_final_message()
        self.assertEqual((said, final.content[0].text), (SAID, SAID))
        self.assertEqual((final.stop_reason, final.usage.output_tokens), ("end_turn", 10))

    def test_events_come_in_order(self):
        kinds = [event.type for event in ask(stream=True)]
        once = [kind for at, kind in enumerate(kinds) if at == 0 or kinds[at - 1] != kind]
        self.assertEqual([kind for kind in once if kind != "ping"], [
            "message_start", "content_block_start", "content_block_delta", "content_block_stop",
            "message_delta", "message_stop"])

    def test_a_broken_stream_raises(self):
        broken = [{"role": "user", "content": "[[error-line 3]]"}]
        events = iter(ask(messages=broken, stream=True))
        next(event for event in events if event.type == "content_block_delta")
        with self.assertRaises(anthropic.APIError) as caught:
            list(events)
        self.assertNotIn("UPSTREAM-WORDS", str(caught.exception))

    def test_after_an_aborted_stream_the_same_client_goes_on(self):
        asked = client()
        endless = [{"role": "user", "content": "[[chunks 100000]] [[pace 20]]"}]
        stream = ask(asked, messages=endless, stream=True)
        next(iter(stream))
        stream.close()
        self.assertEqual(ask(asked).content[0].text, SAID)


class Tools(unittest.TestCase):
    ASKED = [{"role": "user", "content": "what does weather say"}]

    def test_a_round_trip(self):
        first = ask(messages=self.ASKED, tools=[TOOL])
        self.assertEqual(first.stop_reason, "tool_use")
        (use,) = [block for block in first.content if block.type == "tool_use"]
        self.assertEqual((use.name, use.input), ("weather", {"city": "scripted"}))
        result = {"type": "tool_result", "tool_use_id": use.id, "content": "rain"}
        asked = self.ASKED + [{"role": "assistant", "content": first.content},
                              {"role": "user", "content": [result]}]
        second = ask(messages=asked, tools=[TOOL])
        self.assertEqual(second.content[0].text, "This is the scripted Ollama: rain")

    def test_a_streamed_call(self):
        with client().messages.stream(
                model=MODEL, max_tokens=1000, messages=self.ASKED, tools=[TOOL]) as stream:
            final = stream.get_final_message()
        (use,) = [block for block in final.content if block.type == "tool_use"]
        self.assertEqual((use.name, use.input, final.stop_reason),
                         ("weather", {"city": "scripted"}, "tool_use"))


class Failures(unittest.TestCase):
    def test_refusals(self):
        for key, model, error, kind in (
            ("wrong", MODEL, anthropic.AuthenticationError, "authentication_error"),
            (os.environ["GATEWAY_KEY_NARROW"], "secret-model", anthropic.PermissionDeniedError,
             "permission_error"),
            (os.environ["GATEWAY_KEY"], "no-such", anthropic.NotFoundError, "not_found_error"),
        ):
            with self.assertRaises(error) as caught:
                ask(client(key), model=model)
            self.assertEqual(caught.exception.body["type"], "error")
            self.assertEqual(caught.exception.body["error"]["type"], kind)

    def test_a_bad_request(self):
        with self.assertRaises(anthropic.BadRequestError) as caught:
            ask(messages=[])
        self.assertEqual(caught.exception.body["error"]["type"], "invalid_request_error")

    def test_a_failing_upstream(self):
        with self.assertRaises(anthropic.InternalServerError) as caught:
            ask(messages=[{"role": "user", "content": "[[status 503]]"}])
        self.assertNotIn("UPSTREAM-WORDS", str(caught.exception))

    def test_the_only_place_is_taken(self):
        asked = client(os.environ["GATEWAY_KEY_SINGLE"])
        hanging = [{"role": "user", "content": "[[hang 2]]"}]
        # message_start alone could come before the answer does; a delta cannot.
        with ask(asked, messages=hanging, stream=True) as stream:
            next(event for event in stream if event.type == "content_block_delta")
            with self.assertRaises(anthropic.RateLimitError):
                ask(asked)
        self.assertEqual(ask(asked.with_options(max_retries=8)).content[0].text, SAID)

    def test_silence_is_a_timeout(self):
        with self.assertRaises(anthropic.APITimeoutError):
            ask(client(timeout=0.5), messages=[{"role": "user", "content": "[[hang-head]]"}])


if __name__ == "__main__":
    unittest.main()

"""The four dialects, each through the client that people use, with one face."""

import anthropic
import ollama
import openai

from gateway import MODEL, URL

PROMPT = "Tell me a long story about a river."
NATIVE = {"stop": "stop", "length": "length"}


class Said:
    """A reply: its words, how it ended (`stop` or `length`), and its tokens."""

    def __init__(self, text: str, end: str, prompt: int, completion: int):
        self.text, self.end, self.tokens = text, end, (prompt, completion)


class Chat:
    def __init__(self, key: str):
        self.client = openai.OpenAI(base_url=URL + "/v1", api_key=key, max_retries=0, timeout=120)

    def ask(self, prompt: str, most: int, schema: dict | None = None, stream: bool = False):
        more = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        if schema:
            more["response_format"] = {"type": "json_schema", "json_schema": {"name": "s", "strict": True, "schema": schema}}
        return self.client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": prompt}], max_tokens=most, **more)

    def whole(self, *asked) -> Said:
        reply = self.ask(*asked)
        choice, usage = reply.choices[0], reply.usage
        return Said(choice.message.content, choice.finish_reason, usage.prompt_tokens, usage.completion_tokens)

    def streamed(self, *asked) -> Said:
        chunks = list(self.ask(*asked, stream=True))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        (end,) = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
        return Said(text, end, chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens)

    def begin(self, most: int):
        """A stream of which one piece has come; to be closed."""
        stream = self.ask(PROMPT, most, stream=True)
        next(chunk for chunk in stream if chunk.choices and chunk.choices[0].delta.content)
        return stream


class Responses(Chat):
    def ask(self, prompt, most, schema=None, stream=False):
        more = {"text": {"format": {"type": "json_schema", "name": "s", "strict": True, "schema": schema}}} if schema else {}
        return self.client.responses.create(
            model=MODEL, input=prompt, max_output_tokens=most, stream=stream, **more)

    def whole(self, *asked):
        return self.said(self.ask(*asked))

    def streamed(self, *asked):
        events = list(self.ask(*asked, stream=True))
        said = self.said(events[-1].response)
        text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        assert said.text == text, (said.text, text)
        return said

    def said(self, reply):
        ends = {("completed", None): "stop", ("incomplete", "max_output_tokens"): "length"}
        end = ends[reply.status, reply.incomplete_details and reply.incomplete_details.reason]
        return Said(reply.output_text, end, reply.usage.input_tokens, reply.usage.output_tokens)

    def begin(self, most):
        stream = self.ask(PROMPT, most, stream=True)
        next(event for event in stream if event.type == "response.output_text.delta")
        return stream


class Messages:
    def __init__(self, key: str):
        self.client = anthropic.Anthropic(base_url=URL, api_key=key, max_retries=0, timeout=120)

    def ask(self, prompt, most, schema=None, stream=False):
        more = {"output_config": {"format": {"type": "json_schema", "schema": schema}}} if schema else {}
        return self.client.messages.create(
            model=MODEL, max_tokens=most, stream=stream,
            messages=[{"role": "user", "content": prompt}], **more)

    def whole(self, *asked):
        return self.said(self.ask(*asked))

    def streamed(self, *asked):
        prompt, most, schema = (*asked, None)[:3]
        more = {"output_config": {"format": {"type": "json_schema", "schema": schema}}} if schema else {}
        with self.client.messages.stream(model=MODEL, max_tokens=most,
                                         messages=[{"role": "user", "content": prompt}], **more) as stream:
            return self.said(stream.get_final_message())

    def said(self, reply):
        text = "".join(block.text for block in reply.content)
        end = {"end_turn": "stop", "max_tokens": "length"}[reply.stop_reason]
        return Said(text, end, reply.usage.input_tokens, reply.usage.output_tokens)

    def begin(self, most):
        stream = self.ask(PROMPT, most, stream=True)
        next(event for event in stream if event.type == "content_block_delta")
        return stream


class Native:
    def __init__(self, key: str):
        self.client = ollama.Client(host=URL, headers={"authorization": f"Bearer {key}"}, timeout=120)

    def ask(self, prompt, most, schema=None, stream=False):
        return self.client.chat(
            model=MODEL, messages=[{"role": "user", "content": prompt}], stream=stream, format=schema,
            options={"num_predict": most})

    def whole(self, *asked):
        reply = self.ask(*asked)
        return Said(reply.message.content, NATIVE[reply.done_reason], reply.prompt_eval_count, reply.eval_count)

    def streamed(self, *asked):
        lines = list(self.ask(*asked, stream=True))
        text, last = "".join(line.message.content or "" for line in lines), lines[-1]
        return Said(text, NATIVE[last.done_reason], last.prompt_eval_count, last.eval_count)

    def begin(self, most):
        stream = self.ask(PROMPT, most, stream=True)
        next(iter(stream))
        return stream


ALL = (Chat, Responses, Messages, Native)

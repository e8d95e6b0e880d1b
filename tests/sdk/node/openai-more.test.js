// openai-node against what else the gateway speaks of OpenAI, and its errors.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const { GATEWAY_URL, GATEWAY_URL_DEAD, GATEWAY_KIND, GATEWAY_KEY, GATEWAY_KEY_NARROW, GATEWAY_KEY_SINGLE, MODEL } =
  process.env;
const client = (apiKey = GATEWAY_KEY, options = {}) =>
  new OpenAI({ baseURL: `${GATEWAY_URL}/v1`, apiKey, maxRetries: 0, timeout: 30_000, ...options });
const messages = [{ role: "user", content: "Why is the sky blue?" }];
const said = "This is the scripted Ollama: Why is the sky blue?";
const embedder = "nomic-embed-text";
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const collect = async (stream) => {
  const all = [];
  for await (const one of stream) all.push(one);
  return all;
};

test("embeddings as base64, the default, and as floats are the same numbers", async () => {
  const packed = await client().embeddings.create({ model: embedder, input: "one" });
  const plain = await client().embeddings.create({ model: embedder, input: "one", encoding_format: "float" });
  const [a, b] = [packed.data[0].embedding, plain.data[0].embedding];
  assert.deepEqual([a.length, b.length], [768, 768]);
  a.forEach((x, at) => assert.ok(Math.abs(x - b[at]) < 1e-6, `number ${at}: ${x}, ${b[at]}`));
});

test("a list of embeddings, in order, of so many dimensions", async () => {
  const reply = await client().embeddings.create({ model: embedder, input: ["one", "two words"], dimensions: 64 });
  assert.deepEqual(reply.data.map((item) => [item.index, item.embedding.length]), [[0, 64], [1, 64]]);
  assert.equal(reply.usage.prompt_tokens, 3);
});

test("a completion, whole and streamed", async () => {
  const whole = await client().completions.create({ model: MODEL, prompt: "hi" });
  assert.equal(whole.choices[0].text, "This is the scripted Ollama: hi");
  const chunks = await collect(await client().completions.create({ model: MODEL, prompt: "hi", stream: true }));
  assert.equal(chunks.map((chunk) => chunk.choices[0]?.text ?? "").join(""), whole.choices[0].text);
});

test("a response", async () => {
  const reply = await client().responses.create({ model: MODEL, input: "Why is the sky blue?" });
  assert.deepEqual([reply.status, reply.output_text], ["completed", said]);
  assert.deepEqual([reply.usage.input_tokens, reply.usage.output_tokens], [5, 10]);
});

test("a streamed response", async () => {
  const events = await collect(await client().responses.create({ model: MODEL, input: "Why is the sky blue?", stream: true }));
  assert.equal(events[0].type, "response.created");
  assert.equal(events.at(-1).type, "response.completed");
  assert.deepEqual(events.map((event) => event.sequence_number), events.map((_, at) => at));
  const deltas = events.filter((event) => event.type === "response.output_text.delta");
  assert.equal(deltas.map((event) => event.delta).join(""), said);
});

test("a streamed response through the helper", async () => {
  const final = await client().responses.stream({ model: MODEL, input: "Why is the sky blue?" }).finalResponse();
  assert.equal(final.output_text, said);
});

test("a response calls a function and takes its output", async () => {
  const tools = [{ type: "function", name: "weather", parameters, strict: false }];
  const input = [{ role: "user", content: "what does weather say" }];
  const first = await client().responses.create({ model: MODEL, input, tools });
  const call = first.output.find((item) => item.type === "function_call");
  assert.deepEqual([call.name, JSON.parse(call.arguments)], ["weather", { city: "scripted" }]);
  input.push(call, { type: "function_call_output", call_id: call.call_id, output: "rain" });
  const second = await client().responses.create({ model: MODEL, input, tools });
  assert.match(second.output_text, /^This is the scripted Ollama:/);
});

test("an answer is parsed into what zod describes", async () => {
  const response_format = zodResponseFormat(z.object({ city: z.string(), days: z.number() }), "place");
  const reply = await client().chat.completions.parse({ model: MODEL, messages, response_format });
  assert.deepEqual(reply.choices[0].message.parsed, { city: "scripted", days: 0 });
});

for (const way of ["whole", "streamed"]) {
  test(`a round trip with a tool, ${way}`, async () => {
    const tools = [{ type: "function", function: { name: "weather", parameters } }];
    const asked = [{ role: "user", content: "what does weather say" }];
    const ask = async () => {
      const body = { model: MODEL, messages: asked, tools };
      if (way === "streamed") return client().chat.completions.stream(body).finalMessage();
      return (await client().chat.completions.create(body)).choices[0].message;
    };
    const first = await ask();
    const [call] = first.tool_calls;
    assert.deepEqual([call.function.name, JSON.parse(call.function.arguments)], ["weather", { city: "scripted" }]);
    asked.push(first, { role: "tool", tool_call_id: call.id, content: "rain" });
    assert.equal((await ask()).content, "This is the scripted Ollama: rain");
  });
}

const chat = (asked, content, more = {}) =>
  asked.chat.completions.create({ model: MODEL, messages: [{ role: "user", content }], ...more });

test("every refusal has its class", async () => {
  const cases = [
    [() => client().chat.completions.create({ model: MODEL, messages: [] }), OpenAI.BadRequestError],
    [() => chat(client("wrong"), "hi"), OpenAI.AuthenticationError],
    [() => chat(client(GATEWAY_KEY_NARROW), "hi", { model: "secret-model" }), OpenAI.PermissionDeniedError],
    [() => chat(client(), "hi", { model: "no-such" }), OpenAI.NotFoundError],
    [() => client().models.retrieve("no-such"), OpenAI.NotFoundError],
    [() => chat(client(), "[[status 503]]"), OpenAI.InternalServerError],
  ];
  for (const [asked, expected] of cases) {
    await assert.rejects(asked, (error) => {
      assert.ok(error instanceof expected, `${error} is no ${expected.name}`);
      assert.doesNotMatch(String(error), /UPSTREAM-WORDS/);
      return true;
    });
  }
});

test("a gateway without a model server", async () => {
  const asked = client(GATEWAY_KEY, { baseURL: `${GATEWAY_URL_DEAD}/v1` });
  await assert.rejects(chat(asked, "hi"), (error) => {
    assert.deepEqual([error.status, error.code], [503, "catalog_unavailable"]);
    assert.ok(error instanceof OpenAI.InternalServerError);
    return true;
  });
  await assert.rejects(chat(client(), "[[status 503]]"), (error) => {
    assert.deepEqual([error.status, error.code], [503, "upstream_unavailable"]);
    return true;
  });
});

test("a forced call is made or refused", async () => {
  const tools = [{ type: "function", function: { name: "weather", parameters } }];
  const forced = { type: "function", function: { name: "weather" } };
  for (const tool_choice of ["required", forced]) {
    const asked = chat(client(), "what does weather say", { tools, tool_choice });
    if (GATEWAY_KIND === "ollama") {
      await assert.rejects(asked, { status: 400, code: "unsupported_parameter", param: "tool_choice" });
    } else {
      assert.equal((await asked).choices[0].message.tool_calls[0].function.name, "weather");
    }
  }
});

test("what is thought is streamed", async () => {
  const chunks = await collect(await chat(client(), "hi", { model: "qwen3:8b", stream: true }));
  const thought = chunks.map(({ choices: [choice] }) => choice?.delta.reasoning ?? choice?.delta.reasoning_content ?? "");
  assert.notEqual(thought.join(""), "");
  const text = chunks.map(({ choices: [choice] }) => choice?.delta.content ?? "").join("");
  assert.equal(text, "This is the scripted Ollama: hi");
});

test("silence is a timeout", async () => {
  const asked = client(GATEWAY_KEY, { timeout: 500 });
  await assert.rejects(chat(asked, "[[hang-head]]"), OpenAI.APIConnectionTimeoutError);
});

test("a stream that hangs keeps the only place until it is aborted", async () => {
  const stream = await chat(client(GATEWAY_KEY_SINGLE), "[[hang 2]]", { stream: true });
  for await (const _ of stream) {
    await assert.rejects(chat(client(GATEWAY_KEY_SINGLE), "hi"), OpenAI.RateLimitError);
    stream.controller.abort();
    // What came before may wait to be read.
    break;
  }
  // The gateway sees the end a moment later than the client: here the client may try again.
  const reply = await chat(client(GATEWAY_KEY_SINGLE, { maxRetries: 8 }), "hi");
  assert.equal(reply.choices[0].message.content, "This is the scripted Ollama: hi");
});

test("after an aborted stream the same client goes on", async () => {
  const asked = client();
  for await (const _ of await chat(asked, "[[chunks 100000]] [[pace 20]]", { stream: true })) break;
  assert.equal((await chat(asked, "hi")).choices[0].message.content, "This is the scripted Ollama: hi");
});

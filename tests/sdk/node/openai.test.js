// openai-node against the gateway.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";

const { GATEWAY_URL, GATEWAY_KEY, GATEWAY_KEY_NARROW, MODEL } = process.env;
const client = (apiKey = GATEWAY_KEY) =>
  new OpenAI({ baseURL: `${GATEWAY_URL}/v1`, apiKey, maxRetries: 0, timeout: 30_000 });
const messages = [{ role: "user", content: "Why is the sky blue?" }];
const said = "This is the scripted Ollama: Why is the sky blue?";

test("a whole chat", async () => {
  const reply = await client().chat.completions.create({ model: MODEL, messages });
  assert.equal(reply.choices[0].message.content, said);
  assert.deepEqual(
    [reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens],
    [5, 10, 15],
  );
  assert.match(reply._request_id, /^req_/);
});

test("a streamed chat", async () => {
  const stream = await client().chat.completions.create({
    model: MODEL, messages, stream: true, stream_options: { include_usage: true },
  });
  let text = "", usage;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta?.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, said);
  assert.equal(usage.total_tokens, 15);
});

test("a streamed chat through the helper", async () => {
  const stream = client().chat.completions.stream({ model: MODEL, messages });
  assert.equal(await stream.finalContent(), said);
});

test("models", async () => {
  const names = [];
  for await (const model of client().models.list()) names.push(model.id);
  assert.ok(names.includes("qwen3:8b"), names.join());
  assert.equal((await client().models.retrieve("qwen3:8b")).id, "qwen3:8b");
});

test("a wrong key", async () => {
  await assert.rejects(client("wrong").models.list(), OpenAI.AuthenticationError);
});

test("a model of others", async () => {
  const asked = client(GATEWAY_KEY_NARROW).chat.completions.create({ model: "secret-model", messages });
  await assert.rejects(asked, (error) => {
    assert.ok(error instanceof OpenAI.PermissionDeniedError);
    assert.equal(error.code, "model_not_allowed");
    return true;
  });
});

test("a broken stream raises", async () => {
  const broken = [{ role: "user", content: "[[cut 3]]" }];
  const stream = await client().chat.completions.create({ model: MODEL, messages: broken, stream: true });
  await assert.rejects(async () => { for await (const _ of stream); }, (error) => {
    assert.doesNotMatch(String(error), /UPSTREAM-WORDS/);
    return true;
  });
});

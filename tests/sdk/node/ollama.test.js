// ollama-js against the gateway.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Ollama } from "ollama";

const { GATEWAY_URL, GATEWAY_KEY, GATEWAY_KEY_NARROW, MODEL } = process.env;
const client = (key = GATEWAY_KEY) =>
  new Ollama({ host: GATEWAY_URL, headers: { Authorization: `Bearer ${key}` } });
const messages = [{ role: "user", content: "Why is the sky blue?" }];
const said = "This is the scripted Ollama: Why is the sky blue?";

test("a whole chat", async () => {
  const reply = await client().chat({ model: MODEL, messages });
  assert.equal(reply.message.content, said);
  assert.equal(reply.eval_count, 10);
});

test("a streamed chat", async () => {
  let text = "";
  for await (const part of await client().chat({ model: MODEL, messages, stream: true })) {
    text += part.message.content;
  }
  assert.equal(text, said);
});

test("generate, whole and streamed", async () => {
  const whole = await client().generate({ model: MODEL, prompt: "hi" });
  assert.equal(whole.response, "This is the scripted Ollama: hi");
  let text = "";
  for await (const part of await client().generate({ model: MODEL, prompt: "hi", stream: true })) {
    text += part.response;
  }
  assert.equal(text, whole.response);
});

test("embed and list", async () => {
  const reply = await client().embed({ model: "nomic-embed-text", input: ["one", "two"] });
  assert.equal(reply.embeddings.length, 2);
  const names = (await client().list()).models.map((model) => model.name);
  assert.ok(names.includes("llama3.2:latest"), names.join());
});

test("refusals", async () => {
  const refused = async (call, status) => {
    await assert.rejects(call, (error) => {
      assert.equal(error.status_code, status, String(error));
      return true;
    });
  };
  await refused(client("wrong").list(), 401);
  await refused(client(GATEWAY_KEY_NARROW).chat({ model: "secret-model", messages }), 403);
  await refused(client().pull({ model: MODEL }), 403);
});

test("a broken stream raises", async () => {
  const broken = [{ role: "user", content: "[[eof 3]]" }];
  const stream = await client().chat({ model: MODEL, messages: broken, stream: true });
  await assert.rejects(async () => { for await (const _ of stream); });
});

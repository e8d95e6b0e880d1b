// Vercel's AI SDK against the gateway.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const { GATEWAY_URL, GATEWAY_KEY, MODEL } = process.env;
const provider = (apiKey = GATEWAY_KEY) => createOpenAICompatible({
  name: "neuronetz", baseURL: `${GATEWAY_URL}/v1`, apiKey, includeUsage: true, supportsStructuredOutputs: true,
});
const asked = { model: provider()(MODEL), maxRetries: 0 };
const said = "This is the scripted Ollama: Why is the sky blue?";
const weather = tool({
  description: "Tells the weather",
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => `rain in ${city}`,
});

test("generateText", async () => {
  const { text, usage, finishReason } = await generateText({ ...asked, prompt: "Why is the sky blue?" });
  assert.deepEqual([text, usage.inputTokens, usage.outputTokens, finishReason], [said, 5, 10, "stop"]);
});

test("streamText", async () => {
  const result = streamText({ ...asked, prompt: "Why is the sky blue?" });
  let text = "";
  for await (const part of result.textStream) text += part;
  assert.equal(text, said);
  assert.equal((await result.usage).outputTokens, 10);
});

test("a tool is called, run and its result told", async () => {
  const more = { tools: { weather }, prompt: "what does weather say", stopWhen: stepCountIs(2) };
  const { steps, text } = await generateText({ ...asked, ...more });
  assert.deepEqual(steps[0].toolCalls.map((call) => [call.toolName, call.input]), [["weather", { city: "scripted" }]]);
  assert.equal(text, "This is the scripted Ollama: rain in scripted");
  const streamed = streamText({ ...asked, ...more });
  assert.equal((await streamed.steps).length, 2);
  assert.equal(await streamed.text, text);
});

test("generateObject", async () => {
  const { object } = await generateObject({ ...asked, schema: z.object({ city: z.string() }), prompt: "where" });
  assert.deepEqual(object, { city: "scripted" });
});

test("embedMany", async () => {
  const model = provider().textEmbeddingModel("nomic-embed-text");
  const { embeddings } = await embedMany({ model, values: ["one", "two"], maxRetries: 0 });
  assert.deepEqual(embeddings.map((vector) => vector.length), [768, 768]);
});

test("a wrong key", async () => {
  const refused = generateText({ model: provider("wrong")(MODEL), maxRetries: 0, prompt: "hi" });
  await assert.rejects(refused, { name: "AI_APICallError", statusCode: 401 });
});

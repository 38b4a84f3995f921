// The official Node client against the daemon at INFERD_URL. One line for each test; exit 1 if any fails.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

const require = createRequire(pathToFileURL(path.join(process.env.INFERD_NODE, "x.js")));
const OpenAI = require("openai").default ?? require("openai");

const model = "test-model";
const client = (more = {}) =>
  new OpenAI({ baseURL: process.env.INFERD_URL + "/v1", apiKey: process.env.INFERD_KEY, maxRetries: 0,
               timeout: 120000, ...more });
const openai = client();
const messages = [{ role: "user", content: "Name the capital of France." }];

async function refused(kind, promise, code, param) {
  const error = await promise.then(() => null, (e) => e);
  assert.ok(error instanceof kind, `${kind.name} expected, got ${error}`);
  if (code) assert.equal(error.code, code);
  if (param) assert.equal(error.param, param);
}

async function readChat(stream) {
  const text = {}, finish = {};
  let usage = null;
  for await (const chunk of stream) {
    usage = chunk.usage ?? usage;
    for (const c of chunk.choices) {
      text[c.index] = (text[c.index] ?? "") + (c.delta.content ?? "");
      if (c.finish_reason) finish[c.index] = c.finish_reason;
    }
  }
  return { text, finish, usage };
}

const tests = {
  async "models are listed and found"() {
    const ids = [];
    for await (const m of openai.models.list()) ids.push(m.id);
    assert.deepEqual(ids, [model]);
    assert.equal((await openai.models.retrieve(model)).object, "model");
    await refused(OpenAI.NotFoundError, openai.models.retrieve("other"), "model_not_found");
  },

  async "a completion"() {
    const r = await openai.completions.create({ model, prompt: "Water boils at", max_tokens: 8,
                                                temperature: 0 });
    assert.equal(r.object, "text_completion");
    assert.equal(r.choices[0].finish_reason, "length");
    assert.equal(r.usage.completion_tokens, 8);
  },

  async "a chat completion"() {
    const r = await openai.chat.completions.create({ model, messages, temperature: 0,
                                                     max_completion_tokens: 24 });
    assert.match(r.choices[0].message.content, /\S/);
    assert.equal(r.choices[0].message.role, "assistant");
  },

  async "a chat stream equals the whole answer"() {
    const ask = { model, messages, max_tokens: 40, temperature: 0.9, seed: 11, n: 3 };
    const whole = await openai.chat.completions.create(ask);
    const got = await readChat(await openai.chat.completions.create(
      { ...ask, stream: true, stream_options: { include_usage: true } }));
    for (const c of whole.choices) {
      assert.equal(got.text[c.index], c.message.content);
      assert.equal(got.finish[c.index], c.finish_reason);
    }
    assert.deepEqual({ ...got.usage, prompt_tokens_details: 0 },
                     { ...whole.usage, prompt_tokens_details: 0 });
  },

  async "the client's own stream helper ends with the final message"() {
    const runner = openai.chat.completions.stream({ model, messages, temperature: 0, max_tokens: 24 });
    let text = "";
    runner.on("content", (delta) => { text += delta; });
    const final = await runner.finalChatCompletion();
    assert.equal(final.choices[0].message.content, text);
    assert.match(text, /\S/);
  },

  async "a completion stream equals the whole answer"() {
    const ask = { model, prompt: ["Once upon a time", "In 2050"], max_tokens: 24, temperature: 0.8,
                  seed: 7 };
    const whole = await openai.completions.create(ask);
    const text = {};
    for await (const chunk of await openai.completions.create({ ...ask, stream: true }))
      for (const c of chunk.choices) text[c.index] = (text[c.index] ?? "") + c.text;
    for (const c of whole.choices) assert.equal(text[c.index], c.text);
  },

  async "seed repeats"() {
    const ask = { model, prompt: "My favourite colour is", max_tokens: 16, temperature: 1, seed: 5 };
    const [a, b] = await Promise.all([openai.completions.create(ask), openai.completions.create(ask)]);
    assert.equal(a.choices[0].text, b.choices[0].text);
  },

  async "stop strings cut before themselves"() {
    const ask = { model, prompt: "Count: 1, 2, 3, 4,", max_tokens: 30, temperature: 0,
                  ignore_eos: true };
    const full = (await openai.completions.create(ask)).choices[0].text;
    const stop = full.slice(4, 8);
    const cut = (await openai.completions.create({ ...ask, stop: [stop] })).choices[0];
    assert.equal(cut.text, full.slice(0, full.indexOf(stop)));
    assert.equal(cut.finish_reason, "stop");
  },

  async "logprobs of both endpoints"() {
    const a = await openai.completions.create({ model, prompt: "The sky is", max_tokens: 4,
                                                temperature: 0, logprobs: 2 });
    assert.equal(a.choices[0].logprobs.tokens.join(""), a.choices[0].text);
    const b = await openai.chat.completions.create({ model, messages, max_tokens: 4, temperature: 0,
                                                     logprobs: true, top_logprobs: 2 });
    assert.equal(b.choices[0].logprobs.content.map((t) => t.token).join(""),
                 b.choices[0].message.content);
    assert.equal(b.choices[0].logprobs.content[0].top_logprobs.length, 2);
  },

  async "errors have their classes"() {
    const create = (more) => openai.chat.completions.create({ model, messages, ...more });
    await refused(OpenAI.BadRequestError, create({ temperature: 3 }), "invalid_value", "temperature");
    await refused(OpenAI.BadRequestError, create({ messages: [] }), "empty_prompt", "messages");
    await refused(OpenAI.BadRequestError, create({ max_tokens: 1e9 }), "context_length_exceeded");
    await refused(OpenAI.NotFoundError, create({ model: "gpt-4" }), "model_not_found", "model");
    await refused(OpenAI.AuthenticationError,
                  client({ apiKey: "wrong" }).chat.completions.create({ model, messages }));
  },

  async "an aborted stream frees its slot"() {
    const stream = await openai.completions.create({ model, prompt: "A long story", max_tokens: 1500,
                                                     stream: true, ignore_eos: true });
    let n = 0;
    for await (const chunk of stream) if (chunk && ++n === 3) break;
    for (let i = 0; ; i++) {
      const text = await (await fetch(process.env.INFERD_URL + "/metrics")).text();
      const running = Number(/^inferd_requests_running\S* (\S+)$/m.exec(text)[1]);
      if (running === 0) break;
      assert.ok(i < 100, `${running} still running`);
      await new Promise((r) => setTimeout(r, 50));
    }
  },
};

let failed = 0;
for (const [name, test] of Object.entries(tests)) {
  try {
    await test();
    console.log(`pass  ${name}`);
  } catch (e) {
    failed++;
    console.log(`FAIL  ${name}: ${e.stack}`);
  }
}
process.exit(failed ? 1 : 0);

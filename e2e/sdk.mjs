// OpenAI's and Anthropic's own SDKs, unchanged but for address and key, against Ghost Key: every surface, streamed and
// not, tools, and errors as each SDK's own classes.
// Never: a request that an SDK didn't write, except to the product's own pages.
//
//   node sdk.mjs [--molt <program>] [--data-dir <folder>]

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs, promisify } from "node:util";

import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";

import { Installation } from "./installation.mjs";

const MODEL = "practice/practice-1";
const EMBEDDINGS = "practice/practice-embed";
const QUESTION = "What is 6 * 7?";
const READ_IT = "What does the file notes.md say?";
const NOTES = "The spare key is under the blue pot.";
const SCHEMA = { type: "object", properties: { path: { type: "string", description: "The file's path" } }, required: ["path"] };
const READ = { name: "read", description: "Read the contents of a file." };

const here = import.meta.dirname;
const { values: options } = parseArgs({
  options: {
    molt: { type: "string", default: join(here, "../target/debug/molt") },
    "data-dir": { type: "string", default: join(tmpdir(), "molt-sdk", "data") },
  },
});

// A provider that hangs up in the middle of every answer, and one that refuses.
const provider = createServer((request, response) => {
  const begun = {
    "/v1/chat/completions": 'data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"Once"},"finish_reason":null}]}\n\n',
    "/v1/responses": 'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"Once"}\n\n',
    "/v1/messages": 'event: message_start\ndata: {"type":"message_start","message":{"content":[],"usage":{"input_tokens":3,"output_tokens":1}}}\n\n',
  }[request.url];
  if (begun === undefined) return response.writeHead(400, { "content-type": "application/json" }).end('{"error":{"message":"No."}}');
  response.writeHead(200, { "content-type": "text/event-stream" });
  response.write(begun);
  request.resume().on("end", () => setImmediate(() => response.destroy()));
}).listen(0, "127.0.0.1");
await new Promise((listening) => provider.once("listening", listening));

const dataDir = resolve(options["data-dir"]);
const settings = `${dataDir}.toml`;
const model = (kind) => `
[providers.broken-${kind}]
kind = "${kind}"
base_url = "http://127.0.0.1:${provider.address().port}/v1"
[[providers.broken-${kind}.models]]
name = "m"
title = "Broken"
input_usd = "1"
output_usd = "1"
context_window = 8192
output_max = 1024
strengths = "None."
`;

const installation = await begin();
const key = await ghostKey();
const baseURL = `${installation.url}/v1`;
const openai = new OpenAI({ apiKey: key, baseURL, maxRetries: 0 });
const anthropic = new Anthropic({ apiKey: key, baseURL: installation.url, maxRetries: 0 });
const figures = { calls: 0 };

try {
  await chat();
  await chatTools();
  await responses();
  await responsesTools();
  await embeddings();
  await messages();
  await messagesTools();
  await tokensAreCounted();
  await modelsAreListed();
  await errorsOfOpenAi();
  await errorsOfAnthropic();
  await brokenStreams();
  await everyCallIsInTheBooks();
  console.log(`The SDKs of OpenAI and Anthropic work unchanged: ${figures.calls} calls, all in the books.`);
} catch (error) {
  console.error(error);
  process.exitCode = 1;
} finally {
  provider.close();
  await installation.stop().catch((error) => {
    installation.abandon();
    console.error(error);
    process.exitCode = 1;
  });
  rmSync(settings, { force: true });
}

async function begin() {
  const environment = {
    MOLT_PRACTICE_PACE_MS: "1",
    MOLT_OPERATOR_LISTEN: "127.0.0.1:0",
    // No bot is started here, so none needs a runtime.
    MOLT_RUNTIME__COMMAND: '["true"]',
  };
  mkdirSync(join(dataDir, ".."), { recursive: true });
  writeFileSync(settings, ["openai", "anthropic"].map(model).join(""));
  return Installation.start({ molt: resolve(options.molt), dataDir, settings, environment });
}

async function ask(path, body, token) {
  const headers = { "content-type": "application/json", ...(token && { authorization: `Bearer ${token}` }) };
  const answer = await fetch(new URL(path, installation.url), { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body) });
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
  return answer.status === 204 ? null : answer.json();
}

async function ghostKey() {
  const person = { email: "sdk@example.com", password: "a long enough one", name: "Sam" };
  const { token } = await ask("/api/auth/signup", person);
  const { url } = await ask("/api/billing/checkout", {}, token);
  await ask(url, {}, token);
  installation.token = token;
  const wish = ["keys", "create", "--user", person.email, "--data-dir", dataDir, "--config", settings, "--listen", `127.0.0.1:${installation.port}`];
  const { stdout } = await promisify(execFile)(resolve(options.molt), wish, { env: { ...process.env, ...installation.environment } });
  return stdout.trim();
}

// A call that a row in the books follows.
function booked(call) {
  figures.calls += 1;
  return call;
}

async function chat() {
  const body = { model: MODEL, messages: [{ role: "user", content: QUESTION }] };
  const whole = await booked(openai.chat.completions.create(body));
  assert.match(whole.choices[0].message.content, /42/);
  assert.equal(whole.choices[0].finish_reason, "stop");
  assert.ok(whole.usage.prompt_tokens > 0 && whole.usage.total_tokens > whole.usage.prompt_tokens);

  let text = "";
  for await (const piece of await booked(openai.chat.completions.create({ ...body, stream: true }))) {
    assert.ok(piece.choices.length === 1 && !piece.usage, "who doesn't ask for the usage doesn't see it");
    text += piece.choices[0].delta.content ?? "";
  }
  assert.equal(text, whole.choices[0].message.content);

  const stream = booked(openai.chat.completions.stream({ ...body, stream_options: { include_usage: true } }));
  const final = await stream.finalChatCompletion();
  assert.equal(final.choices[0].message.content, text);
  assert.equal(final.usage.completion_tokens, whole.usage.completion_tokens);

  const { finish_reason } = (await booked(openai.chat.completions.create({ ...body, max_completion_tokens: 2 }))).choices[0];
  assert.equal(finish_reason, "length");
}

async function chatTools() {
  const tools = [{ type: "function", function: { ...READ, parameters: SCHEMA } }];
  const messages = [{ role: "user", content: READ_IT }];
  const { message } = (await booked(openai.chat.completions.create({ model: MODEL, messages, tools }))).choices[0];
  const [call] = message.tool_calls;
  assert.deepEqual([call.function.name, JSON.parse(call.function.arguments).path], ["read", "notes.md"]);

  const streamed = await booked(openai.chat.completions.stream({ model: MODEL, messages, tools })).finalChatCompletion();
  assert.equal(streamed.choices[0].message.tool_calls[0].function.arguments, call.function.arguments);

  messages.push(message, { role: "tool", tool_call_id: call.id, content: NOTES });
  const answer = await booked(openai.chat.completions.create({ model: MODEL, messages, tools }));
  assert.match(answer.choices[0].message.content, /blue pot/);
}

async function responses() {
  const body = { model: MODEL, instructions: "Your name is Ada.", input: QUESTION };
  const whole = await booked(openai.responses.create(body));
  assert.match(whole.output_text, /42/);
  assert.deepEqual([whole.status, whole.output[0].type], ["completed", "message"]);
  assert.ok(whole.usage.input_tokens > 0 && whole.usage.output_tokens > 0);

  const kinds = [];
  let text = "";
  for await (const event of await booked(openai.responses.create({ ...body, stream: true }))) {
    assert.equal(event.sequence_number, kinds.length);
    kinds.push(event.type);
    if (event.type === "response.output_text.delta") text += event.delta;
  }
  assert.equal(text, whole.output_text);
  assert.deepEqual([kinds[0], kinds.at(-1)], ["response.created", "response.completed"]);

  const final = await booked(openai.responses.stream({ ...body, reasoning: { effort: "high" } })).finalResponse();
  assert.deepEqual(final.output.map((item) => item.type), ["reasoning", "message"]);
  assert.equal(final.output_text, whole.output_text);

  const cut = await booked(openai.responses.create({ ...body, max_output_tokens: 2 }));
  assert.deepEqual([cut.status, cut.incomplete_details.reason], ["incomplete", "max_output_tokens"]);
}

async function responsesTools() {
  const tools = [{ type: "function", ...READ, parameters: SCHEMA, strict: false }];
  const input = [{ role: "user", content: READ_IT }];
  const whole = await booked(openai.responses.create({ model: MODEL, input, tools, store: false }));
  const call = whole.output.find((item) => item.type === "function_call");
  assert.deepEqual([call.name, JSON.parse(call.arguments).path], ["read", "notes.md"]);

  const streamed = await booked(openai.responses.stream({ model: MODEL, input, tools })).finalResponse();
  assert.equal(streamed.output.at(-1).arguments, call.arguments);

  input.push(...whole.output, { type: "function_call_output", call_id: call.call_id, output: NOTES });
  const answer = await booked(openai.responses.create({ model: MODEL, input, tools }));
  assert.match(answer.output_text, /blue pot/);
}

async function embeddings() {
  const input = ["I like trains", "the password is on the fridge"];
  const { data, usage } = await booked(openai.embeddings.create({ model: EMBEDDINGS, input }));
  assert.deepEqual(data.map(({ embedding }) => embedding.length), [256, 256]);
  const floats = await booked(openai.embeddings.create({ model: EMBEDDINGS, input, encoding_format: "float" }));
  assert.ok(Math.abs(floats.data[0].embedding[3] - data[0].embedding[3]) < 1e-6);
  assert.ok(usage.prompt_tokens > 0);
}

async function messages() {
  const body = { model: MODEL, max_tokens: 400, system: "Your name is Ada.", messages: [{ role: "user", content: QUESTION }] };
  const whole = await booked(anthropic.messages.create(body));
  assert.match(whole.content[0].text, /42/);
  assert.deepEqual([whole.role, whole.stop_reason], ["assistant", "end_turn"]);
  assert.ok(whole.usage.input_tokens > 0 && whole.usage.output_tokens > 0);

  const kinds = [];
  for await (const event of await booked(anthropic.messages.create({ ...body, stream: true }))) kinds.push(event.type);
  assert.deepEqual([kinds[0], ...kinds.slice(-2)], ["message_start", "message_delta", "message_stop"]);

  const stream = booked(anthropic.messages.stream({ ...body, thinking: { type: "enabled", budget_tokens: 200 } }));
  const final = await stream.finalMessage();
  assert.deepEqual(final.content.map((block) => block.type), ["thinking", "text"]);
  assert.equal(final.content[1].text, whole.content[0].text);

  const cut = await booked(anthropic.messages.create({ ...body, max_tokens: 2 }));
  assert.equal(cut.stop_reason, "max_tokens");
}

async function messagesTools() {
  const tools = [{ ...READ, input_schema: SCHEMA }];
  const messages = [{ role: "user", content: READ_IT }];
  const body = { model: MODEL, max_tokens: 400, messages, tools };
  const whole = await booked(anthropic.messages.create(body));
  const call = whole.content.find((block) => block.type === "tool_use");
  assert.deepEqual([whole.stop_reason, call.name, call.input], ["tool_use", "read", { path: "notes.md" }]);

  const streamed = await booked(anthropic.messages.stream(body)).finalMessage();
  assert.deepEqual(streamed.content.at(-1).input, call.input);

  const result = { type: "tool_result", tool_use_id: call.id, content: NOTES };
  messages.push({ role: "assistant", content: whole.content }, { role: "user", content: [result] });
  const answer = await booked(anthropic.messages.create(body));
  assert.match(answer.content[0].text, /blue pot/);
}

async function tokensAreCounted() {
  const body = { model: MODEL, messages: [{ role: "user", content: QUESTION }] };
  const { input_tokens } = await anthropic.messages.countTokens(body);
  assert.ok(input_tokens > 10 && input_tokens < 100, String(input_tokens));
}

async function modelsAreListed() {
  const names = [];
  for await (const { id } of openai.models.list()) names.push(id);
  assert.ok(names.includes(MODEL) && names.includes(EMBEDDINGS), names.join());
}

// The very class, the status, and what to do in the words of the message.
async function fails(call, kind, status, words) {
  await assert.rejects(call, (error) => {
    assert.ok(error instanceof kind, `${kind.name}: ${error}`);
    assert.equal(error.status, status);
    assert.match(error.message, words);
    return true;
  });
}

async function errorsOfOpenAi() {
  const messages = [{ role: "user", content: QUESTION }];
  const stranger = new OpenAI({ apiKey: "mgk_unknown", baseURL, maxRetries: 0 });
  await fails(stranger.chat.completions.create({ model: MODEL, messages }), OpenAI.AuthenticationError, 401, /Ghost Key/);
  await fails(stranger.models.list(), OpenAI.AuthenticationError, 401, /Ghost Key/);
  await fails(openai.chat.completions.create({ model: "no/such", messages }), OpenAI.NotFoundError, 404, /no\/such/);
  await fails(openai.chat.completions.create({ model: EMBEDDINGS, messages }), OpenAI.BadRequestError, 400, /embeddings/);
  await fails(openai.chat.completions.create({ model: MODEL, messages, n: 1000 }), OpenAI.BadRequestError, 400, /"n"/);
  await fails(openai.chat.completions.create({ model: MODEL, messages: 3 }), OpenAI.BadRequestError, 400, /messages/);
  await fails(openai.responses.create({ model: MODEL, input: QUESTION, background: true }), OpenAI.BadRequestError, 400, /background/);
  await fails(openai.responses.create({ model: MODEL, input: QUESTION, tools: [{ type: "web_search" }] }), OpenAI.BadRequestError, 400, /web_search/);
  await fails(openai.embeddings.create({ model: MODEL, input: "a" }), OpenAI.BadRequestError, 400, /embeddings/);
}

async function errorsOfAnthropic() {
  const body = { model: MODEL, max_tokens: 10, messages: [{ role: "user", content: QUESTION }] };
  const stranger = new Anthropic({ apiKey: "mgk_unknown", baseURL: installation.url, maxRetries: 0 });
  await fails(stranger.messages.create(body), Anthropic.AuthenticationError, 401, /authentication_error.*Ghost Key/);
  await fails(anthropic.messages.create({ ...body, model: "no/such" }), Anthropic.NotFoundError, 404, /not_found_error.*no\/such/);
  await fails(anthropic.messages.create({ ...body, max_tokens: undefined }), Anthropic.BadRequestError, 400, /invalid_request_error.*max_tokens/);
  await fails(anthropic.messages.create({ ...body, messages: "hi" }), Anthropic.BadRequestError, 400, /messages/);
  await fails(anthropic.messages.countTokens({ ...body, model: "no/such" }), Anthropic.NotFoundError, 404, /no\/such/);
}

// Half an answer is an error to each SDK, never an answer.
async function brokenStreams() {
  const drain = async (call) => {
    let pieces = 0;
    try {
      for await (const _ of await booked(call)) pieces += 1;
    } finally {
      assert.equal(pieces, 1, "what there was came through");
    }
  };
  const messages = [{ role: "user", content: QUESTION }];
  const chat = { model: "broken-openai/m", messages, stream: true };
  await assert.rejects(drain(openai.chat.completions.create(chat)), OpenAI.APIError);
  await assert.rejects(drain(openai.responses.create({ model: "broken-openai/m", input: QUESTION, stream: true })), OpenAI.APIError);
  const message = { model: "broken-anthropic/m", max_tokens: 10, messages, stream: true };
  await assert.rejects(drain(anthropic.messages.create(message)), Anthropic.APIError);
  await fails(openai.embeddings.create({ model: "broken-openai/m", input: "a" }), OpenAI.BadRequestError, 400, /./);
}

async function everyCallIsInTheBooks() {
  const deadline = Date.now() + 10_000;
  let usage;
  do {
    usage = await ask("/api/billing/usage", undefined, installation.token);
  } while (calls(usage) < figures.calls && Date.now() < deadline);
  assert.equal(calls(usage), figures.calls);
}

function calls(usage) {
  return usage.by_model.reduce((sum, { calls }) => sum + calls, 0);
}

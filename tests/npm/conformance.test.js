// OpenAI's JavaScript client against `colm serve --pair demo`: every field, errors, clients that leave.
// tests/python/test_npm_client.py starts the server, and tells what must come in the file that COLM_TOLD names.

import assert from "node:assert/strict";
import fs from "node:fs";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import OpenAI from "openai";
import { makeParseableResponseFormat } from "openai/lib/parser";
import { ChatCompletionStream } from "openai/lib/ChatCompletionStream";

const told = JSON.parse(fs.readFileSync(process.env.COLM_TOLD, "utf8"));
const client = clientWith({});
const GREEDY = { temperature: 0 };
const BOTH = [false, true];

function clientWith(options) {
  return new OpenAI({ baseURL: `${told.address}/v1`, apiKey: told.key, maxRetries: 0, timeout: 60_000, ...options });
}

const how = (stream) => (stream ? "streamed" : "whole");

function near(found, expected, tolerance, what) {
  assert.equal(typeof found, "number", what);
  assert.ok(Math.abs(found - expected) <= tolerance, `${what}: ${found}, not ${expected}`);
}

async function all(stream) {
  const items = [];
  for await (const item of stream) items.push(item);
  return items;
}

/** What came of a chat completion, streamed or not, choice by choice. */
async function chat(stream, fields) {
  const asked = { model: "demo", messages: told.messages, ...fields };
  const empty = () => ({ text: "", reason: null, logprobs: [], calls: [], tokens: [], stats: null });
  const choices = Array.from({ length: fields.n ?? 1 }, empty);
  if (!stream) {
    const answer = await client.chat.completions.create(asked);
    assert.equal(answer.object, "chat.completion");
    for (const choice of answer.choices) {
      const calls = (choice.message.tool_calls ?? []).map((call) => ({ id: call.id, ...call.function }));
      const logprobs = choice.logprobs?.content ?? [];
      const text = choice.message.content ?? "";
      choices[choice.index] = { text, reason: choice.finish_reason, logprobs, calls, ...choice.colm };
    }
    return { choices, usage: answer.usage };
  }
  let usage = null;
  for await (const chunk of await client.chat.completions.create({ ...asked, stream: true })) {
    assert.equal(chunk.object, "chat.completion.chunk");
    usage = chunk.usage ?? usage;
    for (const { index, delta, finish_reason, logprobs, colm } of chunk.choices) {
      const made = choices[index];
      made.text += delta.content ?? "";
      made.reason = finish_reason ?? made.reason;
      made.logprobs.push(...(logprobs?.content ?? []));
      made.tokens.push(...(colm?.tokens ?? []));
      made.stats = colm?.stats ?? made.stats;
      for (const call of delta.tool_calls ?? []) {
        if (call.id !== undefined) made.calls.push({ id: call.id, name: call.function.name, arguments: "" });
        made.calls[call.index].arguments += call.function.arguments ?? "";
      }
    }
  }
  return { choices, usage };
}

async function metric(name, pair) {
  const answer = await fetch(`${told.address}/metrics`, { headers: { Authorization: `Bearer ${told.key}` } });
  const lines = (await answer.text()).split("\n").filter((line) => line.startsWith(`${name}{`));
  const found = lines.filter((line) => line.includes(`pair="${pair}"`));
  return found.reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0);
}

async function waitFor(writing, waiting = 0) {
  const end = Date.now() + 10_000;
  for (;;) {
    const found = [await metric("colm_texts_writing", "endless"), await metric("colm_texts_waiting", "endless")];
    if (found[0] === writing && found[1] === waiting) return;
    assert.ok(Date.now() < end, `${found} texts are being written and wait, not ${[writing, waiting]}`);
    await sleep(10);
  }
}

const LONG = { model: "endless", messages: told.messages, max_tokens: 15_000 };
const long = (options) => client.chat.completions.create({ ...LONG, stream: true }, options);

describe("fields of chat completions", () => {
  for (const { name, body, expected } of told.chat) {
    for (const stream of BOTH) {
      test(`${name}, ${how(stream)}`, async () => {
        const [choice] = (await chat(stream, body)).choices;
        assert.equal(choice.text, expected.text);
        assert.equal(choice.reason, expected.reason);
        assert.deepEqual(
          choice.tokens.map(({ id, text, source }) => ({ id, text, source })),
          expected.tokens.map(({ id, text, source }) => ({ id, text, source })),
        );
        for (const [i, { defer_prob }] of expected.tokens.entries()) {
          if (defer_prob === null) assert.equal(choice.tokens[i].defer_prob, null);
          else near(choice.tokens[i].defer_prob, defer_prob, 1e-3, `defer_prob of token ${i}`);
        }
        assert.equal(choice.stats.generated_tokens, expected.n);
        if (body.seed !== undefined) assert.equal(choice.stats.seed, body.seed);
        assert.equal(choice.logprobs.length, body.logprobs ? expected.tokens.length : 0);
        for (const [i, entry] of choice.logprobs.entries()) {
          near(entry.logprob, expected.tokens[i].logprob, 1e-3, `logprob of token ${i}`);
          assert.equal(Buffer.from(entry.bytes).toString(), entry.token);
          assert.deepEqual(entry.top_logprobs.map((top) => top.token), expected.top[i]);
        }
      });
    }
  }
});

describe("chat completions", () => {
  for (const stream of BOTH) {
    test(`n, ${how(stream)}`, async () => {
      const fields = { temperature: 1.2, max_tokens: 8 };
      const { choices } = await chat(stream, { ...fields, n: 3, seed: 4 });
      for (const [i, choice] of choices.entries()) {
        const alone = await chat(false, { ...fields, seed: 4 + i });
        assert.equal(choice.text, alone.choices[0].text);
      }
    });
  }

  for (const wanted of [true, false, undefined]) {
    test(`include_usage: ${wanted}`, async () => {
      const more = wanted === undefined ? {} : { stream_options: { include_usage: wanted } };
      const asked = { model: "demo", messages: told.messages, max_tokens: 3, stream: true, ...more };
      const chunks = await all(await client.chat.completions.create(asked));
      const counted = chunks.filter((chunk) => chunk.usage);
      assert.equal(counted.length, wanted ? 1 : 0);
      if (wanted) {
        assert.equal(chunks.at(-1), counted[0]);
        assert.deepEqual(counted[0].choices, []);
        assert.equal(counted[0].usage.completion_tokens, 3);
      }
      assert.equal(chunks[0].choices[0].delta.role, "assistant");
      assert.equal(new Set(chunks.map((chunk) => chunk.id)).size, 1);
    });
  }

  test("usage counts the prompt and what was read before", async () => {
    const { usage } = await chat(false, { ...GREEDY, max_tokens: 3 });
    assert.equal(usage.completion_tokens, 3);
    assert.equal(usage.total_tokens, usage.prompt_tokens + 3);
    assert.ok(usage.prompt_tokens_details.cached_tokens > usage.prompt_tokens / 2);
  });

  test("parts of content, a developer and a result of a function", async () => {
    const messages = [
      { role: "developer", content: "Be brief." },
      { role: "user", content: [{ type: "text", text: "one " }, { type: "text", text: "two" }] },
      { role: "assistant", tool_calls: [{ id: "c", type: "function", function: { name: "f", arguments: "{}" } }] },
      { role: "tool", tool_call_id: "c", content: "3" },
    ];
    const whole = [messages[0], { role: "user", content: "one two" }, ...messages.slice(2)];
    const fields = { model: "tiny", ...GREEDY, max_tokens: 4 };
    const parts = await chat(false, { ...fields, messages });
    const plain = await chat(false, { ...fields, messages: whole });
    assert.equal(parts.choices[0].text, plain.choices[0].text);
    assert.equal(parts.usage.prompt_tokens, plain.usage.prompt_tokens);
  });

  test("stream(): the client's own assembly of a stream", async () => {
    const pieces = [];
    const options = { stream_options: { include_usage: true } };
    const stream = client.chat.completions.stream({ model: "demo", messages: told.messages, ...GREEDY, ...options });
    stream.on("content", (piece) => pieces.push(piece));
    assert.equal(await stream.finalContent(), told.greedy.text);
    assert.equal(pieces.join(""), told.greedy.text);
    const final = await stream.finalChatCompletion();
    assert.equal(final.choices[0].finish_reason, told.greedy.reason);
    assert.equal((await stream.totalUsage()).completion_tokens, told.greedy.n);
  });

  test("toReadableStream() and back", async () => {
    const asked = { model: "demo", messages: told.messages, ...GREEDY, stream: true };
    const readable = (await client.chat.completions.create(asked)).toReadableStream();
    const stream = ChatCompletionStream.fromReadableStream(readable);
    assert.equal(await stream.finalContent(), told.greedy.text);
  });

  test("tee() gives the same to both", async () => {
    const asked = { model: "demo", messages: told.messages, ...GREEDY, max_tokens: 6, stream: true };
    const [left, right] = (await client.chat.completions.create(asked)).tee();
    assert.deepEqual(await all(left), await all(right));
  });

  test("parse() reads what follows a schema", async () => {
    const json_schema = { name: "answer", strict: true, schema: told.schema };
    const response_format = makeParseableResponseFormat({ type: "json_schema", json_schema }, JSON.parse);
    const asked = { model: "demo", messages: told.messages, ...GREEDY, response_format };
    const { message } = (await client.chat.completions.parse(asked)).choices[0];
    assert.deepEqual(message.parsed, JSON.parse(told.asSchema.text));
    assert.deepEqual(Object.keys(message.parsed), ["eggs", "sure"]);
  });
});

describe("functions", () => {
  const tools = [told.add];
  const named = { type: "function", function: { name: "add" } };

  for (const stream of BOTH) {
    for (const tool_choice of [named, "required"]) {
      test(`tool_choice ${JSON.stringify(tool_choice)}, ${how(stream)}`, async () => {
        const fields = { model: "tiny", ...GREEDY, max_tokens: 300, tools, tool_choice, parallel_tool_calls: false };
        const [choice] = (await chat(stream, fields)).choices;
        assert.equal(choice.reason, "tool_calls");
        assert.equal(choice.calls.length, 1);
        assert.match(choice.calls[0].id, /^call_/);
        const given = JSON.parse(choice.calls[0].arguments);
        assert.deepEqual(Object.keys(given), ["a", "op"]);
        assert.ok([1, 2, 3].includes(given.a) && ["+", "-"].includes(given.op));
      });
    }

    test(`tool_choice none, ${how(stream)}`, async () => {
      const fields = { model: "tiny", ...GREEDY, max_tokens: 30, tools, tool_choice: "none" };
      const [choice] = (await chat(stream, fields)).choices;
      assert.deepEqual(choice.calls, []);
      assert.doesNotMatch(choice.text, /<tool_call>/);
    });

    test(`runTools() calls the function and sends its result, ${how(stream)}`, async () => {
      const asked = [];
      const add = (given) => String(asked.push(given) && "3");
      const run = { ...told.add.function, function: add, parse: JSON.parse };
      const runner = client.chat.completions.runTools({
        model: "tiny", messages: [{ role: "user", content: "Add." }], ...GREEDY, max_tokens: 300, stream,
        tools: [{ type: "function", function: run }], tool_choice: named, parallel_tool_calls: false,
      });
      await runner.done();
      assert.equal(asked.length, 1);
      assert.ok([1, 2, 3].includes(asked[0].a));
      const result = runner.messages.at(-1);
      assert.deepEqual([result.role, result.content], ["tool", "3"]);
      const more = { model: "tiny", messages: runner.messages, ...GREEDY, max_tokens: 4, tools, tool_choice: "none" };
      assert.equal((await chat(stream, more)).choices.length, 1);
    });
  }
});

describe("completions", () => {
  const fields = { model: "tiny", ...GREEDY, max_tokens: 6 };
  const kinds = { "a text": told.texts[0], ids: told.ids[0], texts: told.texts, "lists of ids": told.ids };

  for (const [kind, prompt] of Object.entries(kinds)) {
    for (const stream of BOTH) {
      test(`prompt as ${kind}, ${how(stream)}`, async () => {
        const expected = told.written.slice(0, kind.includes("s of") || kind === "texts" ? 3 : 1);
        const answer = await client.completions.create({ ...fields, prompt, stream });
        const texts = expected.map(() => "");
        for (const piece of stream ? await all(answer) : [answer])
          for (const choice of piece.choices) texts[choice.index] += choice.text;
        assert.deepEqual(texts, expected.map(({ text }) => text));
      });
    }
  }

  for (const stream of BOTH) {
    test(`echo, ${how(stream)}`, async () => {
      const answer = await client.completions.create({ ...fields, prompt: told.texts[0], echo: true, stream });
      const pieces = stream ? await all(answer) : [answer];
      const text = pieces.map((piece) => piece.choices[0].text).join("");
      assert.equal(text, told.texts[0] + told.written[0].text);
    });

    test(`logprobs, ${how(stream)}`, async () => {
      const answer = await client.completions.create({ ...fields, prompt: told.texts[0], logprobs: 2, stream });
      const found = { tokens: [], token_logprobs: [], top_logprobs: [], text_offset: [] };
      for (const piece of stream ? await all(answer) : [answer])
        for (const name of Object.keys(found)) found[name].push(...(piece.choices[0].logprobs?.[name] ?? []));
      for (const [i, token] of told.withLogprobs.tokens.entries()) {
        near(found.token_logprobs[i], token.logprob, 1e-3, `token ${i}`);
        assert.equal(found.text_offset[i], found.tokens.slice(0, i).join("").length);
        assert.ok(told.withLogprobs.top[i].every((text) => text in found.top_logprobs[i]));
      }
    });

    test(`include_usage, ${how(stream)}`, async () => {
      const more = stream ? { stream_options: { include_usage: true } } : {};
      const answer = await client.completions.create({ ...fields, prompt: told.ids, stream, ...more });
      const { usage } = stream ? (await all(answer)).at(-1) : answer;
      assert.equal(usage.prompt_tokens, told.ids.flat().length);
      assert.equal(usage.completion_tokens, told.written.reduce((sum, { n }) => sum + n, 0));
    });
  }

  for (const [model, { ids, logprobs }] of Object.entries(told.likely)) {
    test(`how likely a text is for ${model}`, async () => {
      const asked = { model, prompt: ids, echo: true, logprobs: 1, max_tokens: 0 };
      const found = (await client.completions.create(asked)).choices[0].logprobs;
      assert.equal(found.token_logprobs.length, ids.length);
      assert.equal(found.token_logprobs[0], null);
      const last = found.token_logprobs.slice(-logprobs.length);
      for (const [i, logprob] of logprobs.entries()) near(last[i], logprob, 5e-3, `token ${i}`);
    });
  }

  test("n and best_of", async () => {
    const asked = { ...fields, prompt: told.texts[0], temperature: 1.2, seed: 3, n: 2, best_of: 2 };
    const texts = (await client.completions.create(asked)).choices.map((choice) => choice.text);
    const second = await client.completions.create({ ...fields, prompt: told.texts[0], temperature: 1.2, seed: 4 });
    assert.equal(texts[1], second.choices[0].text);
  });

  test("six at a time are as alone", async () => {
    const ask = (prompt) => client.completions.create({ ...fields, prompt });
    const answers = await Promise.all([...told.texts, ...told.texts].map(ask));
    const expected = [...told.written, ...told.written].map(({ text }) => text);
    assert.deepEqual(answers.map((answer) => answer.choices[0].text), expected);
  });
});

describe("responses", () => {
  const input = told.messages[0].content;
  const schema = { format: { type: "json_schema", name: "answer", strict: true, schema: told.schema } };
  const cases = [
    ["text", { input, ...GREEDY }, told.greedy],
    ["messages", { input: told.messages, ...GREEDY }, told.greedy],
    ["a schema", { input, ...GREEDY, text: schema }, told.asSchema],
  ];
  for (const [name, fields, expected] of cases) {
    test(`input: ${name}, whole`, async () => {
      const answer = await client.responses.create({ model: "demo", ...fields });
      assert.equal(answer.output_text, expected.text);
      assert.equal(answer.status, expected.reason === "length" ? "incomplete" : "completed");
      assert.equal(answer.usage.output_tokens, expected.n);
      assert.deepEqual(answer.colm.tokens.map((t) => t.source), expected.tokens.map((t) => t.source));
    });

    test(`input: ${name}, streamed`, async () => {
      const events = await all(await client.responses.create({ model: "demo", ...fields, stream: true }));
      assert.deepEqual(events.map((event) => event.sequence_number), events.map((_, i) => i));
      assert.equal(events[0].type, "response.created");
      const deltas = events.filter((event) => event.type === "response.output_text.delta");
      assert.equal(deltas.map((event) => event.delta).join(""), expected.text);
      assert.equal(events.at(-1).response.usage.output_tokens, expected.n);
    });
  }

  test("stream(): the client's own assembly", async () => {
    const final = await client.responses.stream({ model: "demo", input, ...GREEDY }).finalResponse();
    assert.equal(final.output_text, told.greedy.text);
  });

  test("an answer of the helper is input of the next request", async () => {
    const first = await client.responses.stream({ model: "demo", input, ...GREEDY }).finalResponse();
    const items = [...told.messages, ...first.output, { role: "user", content: "Why?" }];
    const next = await client.responses.create({ model: "demo", input: items, ...GREEDY, max_output_tokens: 2 });
    assert.ok(next.usage.input_tokens > first.usage.input_tokens + first.usage.output_tokens);
  });

  test("max_output_tokens", async () => {
    const answer = await client.responses.create({ model: "demo", input, ...GREEDY, max_output_tokens: 4 });
    assert.equal(answer.status, "incomplete");
    assert.equal(answer.incomplete_details.reason, "max_output_tokens");
    assert.equal(answer.usage.output_tokens, 4);
  });

  for (const way of ["whole", "streamed", "with stream()"]) {
    test(`a call and its result, ${way}`, async () => {
      const tools = [{ type: "function", ...told.add.function }];
      const fields = { model: "tiny", tools, max_output_tokens: 200, ...GREEDY };
      const tool_choice = { type: "function", name: "add" };
      const asked = { ...fields, input: "Add.", tool_choice };
      let answer;
      if (way === "whole") answer = await client.responses.create(asked);
      else if (way === "streamed") {
        const events = await all(await client.responses.create({ ...asked, stream: true }));
        answer = events.at(-1).response;
      } else answer = await client.responses.stream(asked).finalResponse(); // which adds parsed_arguments
      const [call] = answer.output;
      assert.deepEqual([call.type, call.name], ["function_call", "add"]);
      assert.ok([1, 2, 3].includes(JSON.parse(call.arguments).a));
      const result = { type: "function_call_output", call_id: call.call_id, output: "3" };
      const items = [{ role: "user", content: "Add." }, call, result];
      const more = { input: items, instructions: "Be brief.", tool_choice: "none" };
      const next = await client.responses.create({ ...fields, ...more });
      assert.ok(next.usage.input_tokens > answer.usage.input_tokens);
    });
  }
});

describe("models and answers", () => {
  test("models are ways of writing", async () => {
    const names = (await all(client.models.list())).map((model) => model.id);
    for (const name of ["demo", "demo@20%", "demo:base", "demo:assistant", "demo:mixture", "tiny", "tiny:base"])
      assert.ok(names.includes(name), name);
    assert.ok(!names.includes("tiny@20%")); // its head knows no rates
  });

  for (const name of ["demo", "demo@33%", "demo:mixture"]) {
    test(`models.retrieve(${name})`, async () => assert.equal((await client.models.retrieve(name)).id, name));
  }

  test("withResponse() and asResponse()", async () => {
    const asked = { model: "demo", messages: told.messages, ...GREEDY, max_tokens: 2 };
    const { data, response } = await client.chat.completions.create(asked).withResponse();
    assert.equal(data.usage.completion_tokens, 2);
    assert.match(response.headers.get("content-type"), /^application\/json/);
    const raw = await client.chat.completions.create({ ...asked, stream: true }).asResponse();
    assert.match(raw.headers.get("content-type"), /^text\/event-stream/);
    assert.match(await raw.text(), /data: \[DONE\]\n\n$/);
  });
});

describe("errors", () => {
  const create = {
    chat: (body) => client.chat.completions.create({ model: "demo", messages: told.messages, max_tokens: 4, ...body }),
    completions: (body) => client.completions.create({ model: "demo", prompt: "a", ...body }),
    responses: (body) => client.responses.create({ model: "demo", input: "a", ...body }),
  };
  const kinds = { 400: OpenAI.BadRequestError, 404: OpenAI.NotFoundError };
  for (const { route, body, status, param } of told.errors) {
    test(`${route} ${JSON.stringify(body).slice(0, 80)}`, async () => {
      await assert.rejects(create[route](body), (error) => {
        assert.ok(error instanceof kinds[status], String(error));
        assert.equal(error.status, status);
        assert.equal(error.type, "invalid_request_error");
        assert.ok(error.error.message);
        if (param !== null) assert.equal(error.param, param);
        return true;
      });
    });
  }

  test("a stream that is refused", async () => {
    const refused = client.chat.completions.create({ model: "nobody", messages: told.messages, stream: true });
    await assert.rejects(refused, OpenAI.NotFoundError);
  });

  test("a wrong key", async () => {
    await assert.rejects(all(clientWith({ apiKey: "wrong" }).models.list()), (error) => {
      assert.ok(error instanceof OpenAI.AuthenticationError);
      assert.equal(error.code, "invalid_api_key");
      return true;
    });
  });

  test("no key", async () => {
    const without = clientWith({ defaultHeaders: { Authorization: null } });
    await assert.rejects(all(without.models.list()), OpenAI.AuthenticationError);
  });

  const others = {
    embeddings: () => client.embeddings.create({ model: "demo", input: "a" }),
    moderations: () => client.moderations.create({ input: "a" }),
    images: () => client.images.generate({ prompt: "a" }),
    files: () => all(client.files.list()),
    "stored responses": () => client.responses.retrieve("resp_1"),
    "a model": () => client.models.retrieve("nobody"),
  };
  for (const [name, ask] of Object.entries(others)) {
    test(`there are no ${name}`, async () => {
      await assert.rejects(ask(), (error) => {
        assert.ok([404, 405].includes(error.status), String(error));
        assert.ok(error.error.message);
        return true;
      });
    });
  }
});

describe("clients that leave, and a full queue", () => {
  test("the pair loads", async () => {
    const answer = await client.completions.create({ model: "endless", prompt: "a", max_tokens: 2 });
    assert.equal(answer.usage.completion_tokens, 2);
  });

  for (const [name, leave] of [["break", null], ["controller.abort()", (stream) => stream.controller.abort()]]) {
    test(`${name} frees the slot`, async () => {
      await waitFor(0);
      const stream = await long();
      let n = 0;
      for await (const _ of stream) {
        if (++n !== 3) continue; // after abort() the client still hands out what it has received
        await waitFor(1);
        if (leave === null) break;
        leave(stream);
      }
      await waitFor(0);
    });
  }

  for (const stream of BOTH) {
    test(`a signal, ${how(stream)}`, async () => {
      await waitFor(0);
      const controller = new AbortController();
      const asked = client.chat.completions.create({ ...LONG, stream }, { signal: controller.signal });
      const ended = (async () => (stream ? all(await asked) : asked))();
      const rejected = stream ? ended : assert.rejects(ended, OpenAI.APIUserAbortError);
      await waitFor(1);
      controller.abort();
      await rejected;
      await waitFor(0);
    });
  }

  test("a client that waits no longer", async () => {
    await waitFor(0);
    const impatient = clientWith({ timeout: 500 });
    await assert.rejects(impatient.chat.completions.create(LONG), OpenAI.APIConnectionTimeoutError);
    await waitFor(0);
  });

  test("the helper's abort()", async () => {
    await waitFor(0);
    const stream = client.chat.completions.stream(LONG);
    stream.once("content", () => stream.abort());
    await assert.rejects(stream.done(), OpenAI.APIUserAbortError);
    await waitFor(0);
  });

  test("a full queue refuses, and a client that tries again gets its turn", async () => {
    await waitFor(0);
    const streams = await Promise.all(Array.from({ length: 6 }, () => long()));
    await waitFor(4, 2);
    await assert.rejects(long(), (error) => {
      assert.ok(error instanceof OpenAI.InternalServerError);
      assert.deepEqual([error.status, error.code], [503, "queue_full"]);
      assert.ok(Number(error.headers.get("retry-after")) >= 1);
      return true;
    });
    const again = clientWith({ maxRetries: 5 }).completions.create({ model: "endless", prompt: "a", max_tokens: 2 });
    await sleep(500); // longer than --keep-alive: comments come, which clients skip
    for (const stream of streams) stream.controller.abort();
    assert.equal((await again).usage.completion_tokens, 2);
    await waitFor(0);
  });
});

describe("the end", () => {
  test("a text that the end of the server cuts off ends with an error", async () => {
    await waitFor(0);
    const stream = await long();
    let n = 0;
    await assert.rejects(
      async () => {
        for await (const _ of stream) if (++n === 3) process.kill(told.pid, "SIGTERM");
      },
      (error) => {
        assert.ok(error instanceof OpenAI.APIError, String(error));
        assert.match(error.message, /shutting down/);
        return true;
      },
    );
    assert.ok(n >= 3);
  });
});

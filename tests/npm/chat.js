// Chat completions: every field, whole and streamed, and functions.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { makeParseableResponseFormat } from "openai/lib/parser";
import { ChatCompletionStream } from "openai/lib/ChatCompletionStream";
import { all, BOTH, chat, client, GREEDY, how, near, told } from "./client.js";

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

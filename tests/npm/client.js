// The client, what must come, and what the cases have in common.

import assert from "node:assert/strict";
import fs from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import OpenAI from "openai";

export const told = JSON.parse(fs.readFileSync(process.env.COLM_TOLD, "utf8"));
export const client = clientWith({});
export const GREEDY = { temperature: 0 };
export const BOTH = [false, true];

export function clientWith(options) {
  return new OpenAI({ baseURL: `${told.address}/v1`, apiKey: told.key, maxRetries: 0, timeout: 60_000, ...options });
}

export const how = (stream) => (stream ? "streamed" : "whole");

export function near(found, expected, tolerance, what) {
  assert.equal(typeof found, "number", what);
  assert.ok(Math.abs(found - expected) <= tolerance, `${what}: ${found}, not ${expected}`);
}

export async function all(stream) {
  const items = [];
  for await (const item of stream) items.push(item);
  return items;
}

/** What came of a chat completion, streamed or not, choice by choice. */
export async function chat(stream, fields) {
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

export async function metric(name, pair) {
  const answer = await fetch(`${told.address}/metrics`, { headers: { Authorization: `Bearer ${told.key}` } });
  const lines = (await answer.text()).split("\n").filter((line) => line.startsWith(`${name}{`));
  const found = lines.filter((line) => line.includes(`pair="${pair}"`));
  return found.reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0);
}

export async function waitFor(writing, waiting = 0) {
  const end = Date.now() + 10_000;
  for (;;) {
    const found = [await metric("colm_texts_writing", "endless"), await metric("colm_texts_waiting", "endless")];
    if (found[0] === writing && found[1] === waiting) return;
    assert.ok(Date.now() < end, `${found} texts are being written and wait, not ${[writing, waiting]}`);
    await sleep(10);
  }
}

export const LONG = { model: "endless", messages: told.messages, max_tokens: 15_000 };
export const long = (options) => client.chat.completions.create({ ...LONG, stream: true }, options);

// Completions, and how likely texts are.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { all, BOTH, client, GREEDY, how, near, told } from "./client.js";

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

// Responses.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { all, client, GREEDY, told } from "./client.js";

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

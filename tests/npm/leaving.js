// Clients that leave, a full queue, and the end of the server.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import OpenAI from "openai";
import { all, BOTH, client, clientWith, how, LONG, long, told, waitFor } from "./client.js";

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

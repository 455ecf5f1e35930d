// Models, the forms of an answer, and errors.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import OpenAI from "openai";
import { all, client, clientWith, GREEDY, told } from "./client.js";

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

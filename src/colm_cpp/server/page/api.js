// What the page asks of its server, and the errors that it shows.

const KEY = "colm.key";

/** What a request failed with, in words for people. */
export class ServerError extends Error {
  constructor(message, { status = 0, retryAfter = null } = {}) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

export function useKey(key) {
  sessionStorage.setItem(KEY, key);
}

const UNREACHABLE = "The server cannot be reached. Start colm serve again, or check the connection.";

/** The answer to a request, once its status is known to be good. A `signal` that aborts raises AbortError. */
async function send(path, body, signal) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  let answer;
  try {
    const method = body === undefined ? "GET" : "POST";
    answer = await fetch(path, {
      method,
      headers,
      signal,
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ServerError(UNREACHABLE);
  }
  if (answer.ok) return answer;
  const retryAfter = answer.headers.get("Retry-After");
  let message = `The server answered with status ${answer.status}.`;
  try {
    message = (await answer.json()).error.message;
  } catch {
    // It is not this server's own error, so its status has to do.
  }
  throw new ServerError(message, { status: answer.status, retryAfter });
}

export async function ask(path, body, signal) {
  const answer = await send(path, body, signal);
  try {
    return await answer.json();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ServerError("The server's answer cannot be read.");
  }
}

/** Yields `{progress}` for each comment of the stream and `{chunk}` for each event. */
export async function* stream(path, body, signal) {
  const answer = await send(path, { ...body, stream: true }, signal);
  const reader = answer.body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await read(reader, signal);
      if (done) throw new ServerError("The connection ended before the answer did. What was written is kept.");
      rest += decoder.decode(value, { stream: true });
      const events = rest.split("\n\n");
      rest = events.pop();
      for (const event of events) {
        if (event.startsWith(":")) {
          yield { progress: event.slice(1).trim() };
          continue;
        }
        const data = event.startsWith("data: ") ? event.slice(6) : "";
        if (data === "[DONE]") return;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new ServerError(chunk.error.message);
        yield { chunk };
      }
    }
  } finally {
    reader.cancel().catch(() => undefined); // of a connection that is gone already
  }
}

async function read(reader, signal) {
  try {
    return await reader.read();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ServerError("The connection to the server broke. What was written is kept.");
  }
}

/** The pairs of the server: `{name, models, hasRates}`; the base is the first of the models. */
export async function pairs() {
  const listed = (await ask("v1/models")).data;
  const known = new Map(listed.map(({ colm }) => [colm.pair, colm.models]));
  return [...known].map(([name, models]) => ({
    name,
    models,
    hasRates: listed.some((model) => model.id.startsWith(`${name}@`)),
  }));
}

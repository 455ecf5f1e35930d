// Answers as traces, the form that `colm generate --trace` writes and `colm patterns` reads.

import { messagesOf, textOf } from "./chats.js";
import { modelsOf } from "./models.js";

const line = (value) => `${JSON.stringify(value)}\n`;

// The logit of a probability that was rounded to 1 is unknown.
const logit = (p) => (p === null || p <= 0 || p >= 1 ? null : Math.log(p / (1 - p)));

function trace(chat, at, answer) {
  const messages = messagesOf(chat, at, answer.system);
  const header = {
    format: "colm-trace",
    version: 1,
    prompt: chat.turns[at - 1].text,
    messages,
    model: answer.model,
    prompt_tokens: answer.stats?.prompt_tokens ?? null,
    seed: answer.stats?.seed ?? null,
  };
  const tokens = answer.tokens.map((token) => ({
    id: token.id,
    text: token.text,
    expert: modelsOf(answer).indexOf(token.by),
    source: token.by,
    defer_prob: token.p,
    defer_logit: logit(token.p),
    logprob: token.lp,
    // The server names likely tokens by their text. The id of the one that was written is known.
    top_logprobs: likely(token),
  }));
  const ended = answer.stats && answer.finish === "stop" && answer.stats.generated_tokens > tokens.length;
  const reason = ended ? "eos" : answer.finish === "stop" || answer.finish === "length" ? answer.finish : "cancelled";
  const end = { stats: answer.stats ?? { generated_tokens: tokens.length }, finish_reason: reason, end_token: null };
  return [header, ...tokens, end].map(line).join("");
}

function likely(token) {
  let written = false;
  return (token.top ?? []).map(([text, logprob]) => {
    const own = !written && logprob === token.lp && text === token.name;
    written ||= own;
    return { id: own ? token.id : null, text, logprob };
  });
}

/** One answer, or all that have tokens, each a trace behind the other. */
export function traces(chat, only = null) {
  const written = [];
  chat.turns.forEach((turn, at) => {
    for (const answer of turn.answers ?? []) {
      if ((only === null || only === answer) && textOf(answer)) written.push(trace(chat, at, answer));
    }
  });
  return written.join("");
}

/** Gives the browser a file to save. */
export function save(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/x-ndjson" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

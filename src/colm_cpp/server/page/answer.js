// Writing an answer: what is asked of the server, what it says of each token, and the figures.

import { ask, stream } from "./api.js";
import { textOf } from "./chats.js";
import { alone, modelsOf } from "./models.js";

const ALTERNATIVES = 5;
const IMPOSSIBLE = -9999; // the server's sign for minus infinity

/**
 * An answer before its first token. `way`: {pair, models, mode: pair or the name of a model, rate: null or percent}.
 */
export function newAnswer(way, system) {
  const suffix = way.mode === "pair" ? (way.rate === null ? "" : `@${way.rate}%`) : `:${way.mode}`;
  return {
    pair: way.pair,
    models: way.models,
    model: way.pair + suffix,
    label: labelOf(way),
    system,
    tokens: [],
    finish: null,
    stats: null,
  };
}

function labelOf({ mode, rate }) {
  if (mode === "pair") return rate === null ? "Pair, as the head decides" : `Pair, ${rate}% deferred`;
  return alone(mode);
}

const number = (value) => (value === null || value <= IMPOSSIBLE ? null : Number(value.toPrecision(5)));

/** Writes an answer; `changed` is called after each piece. Errors become the answer's own. */
export async function write(answer, messages, options, signal, changed) {
  answer.live = { progress: "", begun: 0 };
  const body = { model: answer.model, messages, logprobs: true, top_logprobs: ALTERNATIVES, ...options };
  try {
    for await (const { progress, chunk } of stream("v1/chat/completions", body, signal)) {
      if (chunk) add(answer, chunk);
      else answer.live.progress = progress;
      changed();
    }
  } catch (error) {
    answer.finish = signal.aborted ? "stopped" : "failed";
    if (!signal.aborted) {
      const wait = error.retryAfter ? ` (try again in ${error.retryAfter} s)` : "";
      answer.error = error.message + wait;
      answer.status = error.status;
    }
  }
  if (answer.live.begun) answer.seconds = (performance.now() - answer.live.begun) / 1000;
  delete answer.live;
  changed();
}

function add(answer, chunk) {
  const choice = chunk.choices[0];
  if (!choice) return;
  const likely = choice.logprobs?.content ?? [];
  if (choice.colm.tokens.length && !answer.live.begun) answer.live.begun = performance.now();
  choice.colm.tokens.forEach((token, i) => {
    const top = likely[i]?.top_logprobs.map((entry) => [entry.token, number(entry.logprob)]) ?? [];
    const p = token.defer_prob === null ? null : Number(token.defer_prob.toPrecision(7));
    const lp = likely[i] ? number(likely[i].logprob) : null;
    answer.tokens.push({ id: token.id, text: token.text, name: likely[i]?.token, by: token.source, p, lp, top });
  });
  if (choice.finish_reason) {
    answer.finish = choice.finish_reason;
    answer.stats = choice.colm.stats;
  }
}

const COUNTED = { tokens: "", speed: "tokens/s", deferred: "deferred", calls: "calls per deferred token" };

/** The figures so far: `[title, value]`. The server counts the calls, and tells them at the end. */
export function figures(answer) {
  const { tokens, stats, live } = answer;
  const n = tokens.length;
  const deferred = tokens.filter((token) => token.by !== "base").length;
  const seconds = live?.begun ? (performance.now() - live.begun) / 1000 : answer.seconds;
  // Tokens that came with the first piece were written before it.
  const speed = stats ? stats.tokens_per_s : seconds > 0.05 && n > 1 ? n / seconds : null;
  const share = stats ? stats.deferral_rate : n ? deferred / n : null;
  const asked = stats ? Math.round(stats.deferral_rate * stats.generated_tokens) : 0;
  const values = {
    tokens: n === 1 ? "1 token" : `${n} tokens`,
    speed: speed === null ? "–" : speed.toFixed(speed < 10 ? 1 : 0),
    deferred: share === null ? "–" : `${(100 * share).toFixed(1)}%`,
    calls: asked ? (stats.assistant_calls / asked).toFixed(2) : "–",
  };
  const each = modelsOf(answer).length > 2 ? Object.entries(stats?.experts ?? {}) : [];
  return [
    ...Object.entries(values).map(([name, value]) => [COUNTED[name], value]),
    ...each.map(([name, work]) => [`by ${name}`, String(work.tokens)]),
  ];
}

/** What another model finds likely where token `i` stands: `[text, logprob]`, likeliest first. */
export async function otherSays(answer, other, messages, i) {
  const { tokens, colm } = await ask("tokenize", { model: answer.pair, messages });
  const written = answer.tokens.slice(0, i);
  const asked = { model: `${answer.pair}:${other}`, max_tokens: 1, temperature: 0 };
  let likely;
  if (colm.one_vocabulary) {
    const prompt = [...tokens, ...written.map((token) => token.id)];
    const said = await ask("v1/completions", { ...asked, prompt, logprobs: ALTERNATIVES });
    likely = Object.entries(said.choices[0].logprobs.top_logprobs[0] ?? {});
  } else {
    // An id is one of its writer's vocabulary. All models read the text.
    const said = await ask("v1/chat/completions", {
      ...asked,
      messages: [...messages, { role: "assistant", content: textOf({ tokens: written }) }],
      continue_final_message: true,
      logprobs: true,
      top_logprobs: ALTERNATIVES,
    });
    const [first] = said.choices[0].logprobs?.content ?? [];
    likely = (first?.top_logprobs ?? []).map(({ token, logprob }) => [token, logprob]);
  }
  return likely
    .map(([text, logprob]) => [text, number(logprob)])
    .sort((a, b) => (b[1] ?? -Infinity) - (a[1] ?? -Infinity));
}

/** The models that did not write a token. */
export const othersOf = (answer, token) => modelsOf(answer).filter((name) => name !== token.by);

/** Why an answer ended, where that is worth a word. */
export function ending(answer) {
  if (answer.finish === "length") return "The answer was cut off: it has the maximum number of tokens, or the context is full.";
  if (answer.finish === "stopped") return "Stopped.";
  if (answer.finish === null && !answer.live) return "The page was closed while this was written.";
  return answer.finish !== "failed" && !answer.live && !textOf(answer) ? "The answer is empty." : "";
}

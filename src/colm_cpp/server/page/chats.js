// The chats, kept in the browser's storage: one entry for each, so that two tabs do not overwrite each other's.
//
// chat: {id, title, changed, turns}; turn: {text} of the user, or {answers, chosen} of the models;
// answer: {pair, model, label, system, tokens, finish, stats, error, seconds};
// token: {id, text, by, p, lp, top, other}.

const PREFIX = "colm.chat.";
const SETTINGS = "colm.settings";

export const newChat = () => ({
  id: crypto.getRandomValues(new Uint32Array(3)).join("-"),
  title: "New chat",
  changed: 0,
  turns: [],
});

export const textOf = (answer) => answer.tokens.map((token) => token.text).join("");

/** The messages that the turn `until` answers. What could not be answered is left out with its question. */
export function messagesOf(chat, until, system) {
  const messages = system ? [{ role: "system", content: system }] : [];
  for (let i = 0; i < until; i += 2) {
    const content = chat.turns[i].text;
    if (i + 1 === until) messages.push({ role: "user", content });
    else {
      const turn = chat.turns[i + 1];
      const answer = textOf(turn.answers[turn.chosen]);
      if (answer) messages.push({ role: "user", content }, { role: "assistant", content: answer });
    }
  }
  return messages;
}

function keys() {
  try {
    return Object.keys(localStorage).filter((key) => key.startsWith(PREFIX));
  } catch {
    return []; // storage is forbidden, which `keep` says
  }
}

const isChat = (value) =>
  Array.isArray(value?.turns) &&
  value.turns.every((turn, i) =>
    i % 2 ? Array.isArray(turn.answers) && turn.answers[turn.chosen] : typeof turn.text === "string",
  );

function parsed(key) {
  try {
    const chat = JSON.parse(localStorage.getItem(key));
    return isChat(chat) ? chat : null;
  } catch {
    return null; // cut off or of somebody else: it is not shown
  }
}

/** All chats that can be read, the one changed last first. */
export const all = () =>
  keys()
    .map(parsed)
    .filter((chat) => chat !== null)
    .sort((a, b) => b.changed - a.changed);

export const find = (id) => parsed(PREFIX + id);

const live = (key, value) => (key === "live" ? undefined : value);
const without =
  (...names) =>
  (key, value) =>
    key === "live" || names.includes(key) ? undefined : value;

/** Keeps a chat. Where storage is full, the alternatives of its tokens go first. Returns what could not be kept. */
export function keep(chat) {
  chat.changed = Date.now();
  for (const replacer of [live, without("top", "other")]) {
    try {
      localStorage.setItem(PREFIX + chat.id, JSON.stringify(chat, replacer));
      return replacer === live
        ? ""
        : "The browser's storage is full. The alternatives of this chat's tokens are not kept; delete old chats.";
    } catch {
      // Full, or forbidden: what is smaller may fit.
    }
  }
  return "This chat cannot be kept: the browser's storage is full or not allowed. Delete old ones, or export it.";
}

export const remove = (id) => localStorage.removeItem(PREFIX + id);

export const removeAll = () => keys().forEach((key) => localStorage.removeItem(key));

export const isOurs = (key) => key === null || key.startsWith(PREFIX);

export function settings() {
  try {
    return JSON.parse(localStorage.getItem(SETTINGS)) ?? {};
  } catch {
    return {};
  }
}

/** Keeps choices of the user; without storage they last as long as the page. */
export function keepSettings(chosen) {
  try {
    localStorage.setItem(SETTINGS, JSON.stringify({ ...settings(), ...chosen }));
  } catch {
    // `keep` says it where it matters.
  }
}

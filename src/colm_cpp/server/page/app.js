// The page: what the buttons and keys do, and which chat is shown.

import { newAnswer, write } from "./answer.js";
import { pairs, useKey } from "./api.js";
import * as chats from "./chats.js";
import { Details } from "./details.js";
import { Talk } from "./talk.js";
import { button, element, visible } from "./text.js";
import { save, traces } from "./trace.js";
import { Writer } from "./writer.js";

const byId = (id) => document.getElementById(id);
const EVERY = 1000; // milliseconds between two times that a growing answer is kept

let chat = chats.newChat();
let writing = null; // {chat, controller} while answers are written
let left = -Infinity; // when the page was about to be left; it may be shown again all the same
const isLeaving = () => performance.now() - left < 2000;

const writer = new Writer(byId("legend"));
// Of Compare: each model alone, and the pair; the chat goes on with the last one.
const everyWay = () => [...writer.models, "pair"];
const talk = new Talk(byId("talk"), {
  edit: (at, text) => {
    chat.turns.splice(at);
    send(text);
  },
  regenerate: (at) => again(at, [writer.way()]),
  compare: (at) =>
    again(
      at,
      everyWay().map((mode) => writer.way(mode)),
    ),
  choose: (at, n) => {
    chat.turns[at].chosen = n;
    keep(chat);
    show();
  },
  trace: (answer) => save(fileName("answer"), traces(chat, answer)),
  example: (text) => {
    byId("message").value = text;
    byId("message").focus();
  },
});
const messagesFor = (answer) => {
  const at = chat.turns.findIndex((turn) => turn.answers?.includes(answer));
  return chats.messagesOf(chat, at, answer.system);
};
const details = new Details(byId("details"), byId("talk"), messagesFor, () => keep(chat));

const fileName = (what) => `colm-${what}-${new Date().toISOString().slice(0, 19).replaceAll(":", "")}.jsonl`;

function problem(text) {
  byId("problem").textContent = visible(text);
}

/** Tells screen readers. */
function say(text) {
  byId("status").textContent = visible(text);
}

function keep(changed) {
  const failed = chats.keep(changed);
  if (failed) problem(failed);
}

function show() {
  talk.show(chat, writing !== null);
  byId("title").textContent = visible(chat.title);
  document.title = `${visible(chat.title)} – colm`;
  byId("send").hidden = writing !== null;
  byId("stop").hidden = writing === null;
  byId("compare").disabled = writing !== null;
  byId("export").disabled = !chat.turns.length;
  showList();
}

function showList() {
  const items = chats.all().map((one) => {
    const open = button(visible(one.title), () => openChat(one.id), {
      class: "chat",
      "aria-current": one.id === chat.id ? "true" : null,
    });
    return element(
      "li",
      {},
      open,
      twice("✕", `Delete ${visible(one.title)}`, () => removeChat(one.id)),
    );
  });
  byId("chats").replaceChildren(...items);
}

/** A button that asks once more. */
function twice(label, name, act) {
  const made = button(
    label,
    () => {
      if (made.dataset.sure) return act();
      made.dataset.sure = "1";
      made.textContent = "Delete?";
      setTimeout(() => {
        delete made.dataset.sure;
        made.textContent = label;
      }, 4000);
    },
    { "aria-label": null, title: name, class: "quiet delete" },
  );
  made.append(element("span", { class: "hidden" }, ` ${name}`));
  return made;
}

function openChat(id) {
  details.close();
  // An answer that is being written belongs to the chat in memory, not to the one in storage.
  chat = writing?.chat.id === id ? writing.chat : (chats.find(id) ?? chats.newChat());
  show();
  talk.toEnd();
  openSide(false);
  byId("message").focus();
}

function removeChat(id) {
  if (writing?.chat.id === id) writing.controller.abort();
  chats.remove(id);
  if (chat.id === id) openChat("");
  else showList();
}

function send(text, modes = [writer.mode]) {
  if (writing || !text.trim() || !ready()) return;
  if (!chat.turns.length) chat.title = text.trim().split("\n")[0].slice(0, 60);
  chat.turns.push({ text });
  answer(modes.map((mode) => writer.way(mode)));
}

function again(at, ways) {
  if (writing || !ready()) return;
  chat.turns.splice(at);
  answer(ways);
}

function ready() {
  if (writer.pair !== null) return true;
  connect(); // its error, if it fails again, says what is wrong
  return false;
}

async function answer(ways) {
  details.close();
  problem("");
  const own = { chat, controller: new AbortController() };
  writing = own;
  const { signal } = own.controller;
  const answers = ways.map((way) => newAnswer(way, writer.system));
  const messages = chats.messagesOf(chat, chat.turns.length, writer.system);
  for (const one of answers) one.live = { progress: "", begun: 0 };
  chat.turns.push({ answers, chosen: answers.length - 1 });
  show();
  talk.toEnd();
  say("The answer is being written.");
  let kept = performance.now();
  const options = writer.options();
  keep(own.chat);
  await Promise.all(
    answers.map((one) =>
      write(one, messages, options, signal, () => {
        talk.update(one);
        if (performance.now() - kept > EVERY && !isLeaving()) {
          kept = performance.now();
          keep(own.chat);
        }
      }),
    ),
  );
  writing = null;
  if (!isLeaving() && chats.find(own.chat.id)) keep(own.chat); // unless it was deleted meanwhile
  for (const one of answers) talk.viewOf(one)?.draw();
  show();
  if (answers.some((one) => one.status === 401)) askForKey();
  say(answers.map((one) => `${one.label}: ${one.error ?? chats.textOf(one)}`).join("\n"));
}

function askForKey() {
  byId("key").hidden = false;
  byId("key-value").focus();
}

async function connect() {
  try {
    writer.offer(await pairs());
    talk.models = writer.models;
    if (!chat.turns.length) show();
    problem("");
    byId("key").hidden = true;
  } catch (error) {
    if (error.status === 401) return askForKey();
    byId("problem").replaceChildren(visible(error.message), " ", button("Try again", connect));
  }
}

function openSide(open) {
  document.body.classList.toggle("side-open", open);
  byId("open-side").setAttribute("aria-expanded", String(open));
  if (open) byId("close-side").focus();
}

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = byId("message").value;
  if (writing || !text.trim() || !ready()) return;
  byId("message").value = "";
  send(text, event.submitter?.id === "compare" ? everyWay() : undefined);
});
byId("message").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  byId("composer").requestSubmit();
});
byId("stop").addEventListener("click", () => {
  writing?.controller.abort();
  byId("message").focus();
});
byId("key").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(byId("key-value").value.trim());
  byId("key-value").value = "";
  byId("key").hidden = true;
  connect();
});
byId("new-chat").addEventListener("click", () => openChat(""));
byId("open-side").addEventListener("click", () => openSide(true));
byId("close-side").addEventListener("click", () => {
  openSide(false);
  byId("open-side").focus();
});
byId("export").addEventListener("click", () => save(fileName("chat"), traces(chat)));
byId("delete-all").replaceWith(
  twice("Delete all chats", "All chats of this browser", () => {
    writing?.controller.abort();
    chats.removeAll();
    openChat("");
  }),
);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    if (details.close()) return;
    if (document.body.classList.contains("side-open")) byId("close-side").click();
    else writing?.controller.abort();
  } else if (event.key === "/" && !event.target.closest("input, textarea, select")) {
    event.preventDefault();
    byId("message").focus();
  }
});

const theme = byId("theme");
theme.value = document.documentElement.dataset.theme ?? "system";
theme.addEventListener("change", () => {
  if (theme.value === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme.value;
  try {
    localStorage.setItem("colm.theme", theme.value);
  } catch {
    // Without storage it lasts as long as the page.
  }
});
const tint = byId("tint");
const showTint = () => (document.body.dataset.tint = tint.value);
tint.value = chats.settings().tint ?? "writer";
if (!tint.value) tint.value = "writer";
tint.addEventListener("change", () => {
  showTint();
  chats.keepSettings({ tint: tint.value });
});
showTint();

addEventListener("storage", (event) => chats.isOurs(event.key) && showList());
// Before it leaves the page, a browser ends the connections, which is no error to keep.
for (const name of ["beforeunload", "pagehide"]) {
  addEventListener(name, () => {
    if (writing && !isLeaving()) chats.keep(writing.chat);
    left = performance.now();
  });
}

chat = chats.all()[0] ?? chat;
show();
talk.toEnd();
connect();

// The conversation on the screen: messages of the user, and answers, one or several beside each other.

import { textOf } from "./chats.js";
import { AnswerView } from "./view.js";
import { appendVisible, button, copy, element } from "./text.js";

const whatToDo = (models) => [
  models.length < 3
    ? "Two models write each answer together. A head decides before each token who writes it: the base or the assistant."
    : `${models.length} models write each answer together. A head decides before each token who writes it.`,
  models.length < 3
    ? "Underlined tokens are the assistant's. Point at a token, or tap it, to see why."
    : "Underlined tokens are those of experts; their signs stand above. Point at a token, or tap it, to see why.",
];
const EXAMPLE = "Tom brings 5 crates of 143 eggs to the farm and sells 266 eggs. How many eggs are left?";

export class Talk {
  /** `actions`: edit(at, text), regenerate(at), compare(at), choose(at, n), trace(answer), example(text). */
  constructor(place, actions) {
    this.place = place;
    this.actions = actions;
    this.models = []; // of the chosen pair
    this.views = new WeakMap();
  }

  /** Shows a chat. Answers that are shown already keep their views. */
  show(chat, writing) {
    const near = this.#atEnd();
    const turns = chat.turns.map((turn, at) =>
      turn.answers ? this.#answers(turn, at, writing) : this.#message(turn, at, writing),
    );
    this.place.replaceChildren(...(turns.length ? turns : [this.#welcome()]));
    if (near) this.toEnd();
  }

  viewOf(answer) {
    return this.views.get(answer);
  }

  #atEnd() {
    const { scrollTop, clientHeight, scrollHeight } = this.place;
    return scrollHeight - scrollTop - clientHeight < 80;
  }

  toEnd() {
    this.place.scrollTop = this.place.scrollHeight;
  }

  /** Draws an answer that has grown, and follows it if its end was in sight. */
  update(answer) {
    const view = this.views.get(answer);
    if (!view) return;
    const near = this.#atEnd();
    view.update();
    if (near) requestAnimationFrame(() => this.toEnd());
  }

  #welcome() {
    const example = button(EXAMPLE, () => this.actions.example(EXAMPLE), { class: "example" });
    return element("div", { class: "welcome" }, ...whatToDo(this.models).map((text) => element("p", {}, text)), example);
  }

  #message(turn, at, writing) {
    const text = element("div", { class: "text", dir: "auto" });
    appendVisible(text, turn.text);
    const node = element(
      "article",
      { class: "turn user", "aria-label": "Your message" },
      element("h3", {}, "You"),
      text,
    );
    const edit = button("Edit", () => this.#edit(node, turn, at), { disabled: writing });
    node.append(
      element(
        "div",
        { class: "tools" },
        edit,
        button("Copy", (event) => copied(event, turn.text)),
      ),
    );
    return node;
  }

  #edit(node, turn, at) {
    const area = element("textarea", { rows: "3", dir: "auto", "aria-label": "Edit the message" });
    area.value = turn.text;
    const stop = () => {
      node.replaceWith(this.#message(turn, at, false));
      this.place.children[at].querySelector("button").focus();
    };
    const save = () => area.value.trim() && this.actions.edit(at, area.value);
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") stop();
      else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) save();
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    const tools = element("div", { class: "tools" }, button("Save and send", save), button("Cancel", stop));
    node.replaceChildren(element("h3", {}, "You"), area, tools);
    area.focus();
  }

  #answers(turn, at, writing) {
    const many = turn.answers.length > 1;
    const views = turn.answers.map((answer, n) => {
      if (!this.views.has(answer)) this.views.set(answer, new AnswerView(answer, []));
      const view = this.views.get(answer);
      view.tools.replaceChildren(...this.#tools(view, turn, at, n, writing));
      view.node.classList.toggle("chosen", many && turn.chosen === n);
      return view.node;
    });
    return element(
      "article",
      { class: `turn answers${many ? " compare" : ""}`, "aria-label": many ? "Answers side by side" : "Answer" },
      ...views,
    );
  }

  #tools(view, turn, at, n, writing) {
    const { answer } = view;
    const written = button(view.raw ? "As Markdown" : "As written", (event) => {
      event.target.textContent = view.toggleRaw() ? "As Markdown" : "As written";
    });
    const tools = [
      button("Copy", (event) => copied(event, textOf(answer))),
      written,
      button("Export trace", () => this.actions.trace(answer)),
    ];
    if (turn.answers.length > 1) {
      const chosen = turn.chosen === n;
      tools.push(
        button(chosen ? "The chat goes on with this" : "Go on with this", () => this.actions.choose(at, n), {
          "aria-pressed": String(chosen),
          disabled: writing,
        }),
      );
    }
    if (turn.answers.length === 1 || n === turn.answers.length - 1) {
      tools.push(button("Write again", () => this.actions.regenerate(at), { disabled: writing }));
    }
    if (turn.answers.length === 1) tools.push(button("Compare", () => this.actions.compare(at), { disabled: writing }));
    return tools;
  }
}

async function copied(event, text) {
  const { target } = event;
  const label = target.textContent;
  try {
    await copy(text);
    target.textContent = "Copied";
  } catch {
    target.textContent = "The browser does not allow it";
  }
  setTimeout(() => (target.textContent = label), 1500);
}

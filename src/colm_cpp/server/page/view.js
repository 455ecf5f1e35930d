// An answer on the screen: its tokens, in Markdown or as they were written, and its figures.

import { ending, figures } from "./answer.js";
import { textOf } from "./chats.js";
import { blocks, contentOf, render } from "./markdown.js";
import { classOf, modelsOf, signs } from "./models.js";
import { appendVisible, element, visible } from "./text.js";

const SHADES = 10;

export class AnswerView {
  /** `tools`: buttons below the answer. */
  constructor(answer, tools) {
    this.answer = answer;
    this.raw = false;
    this.models = modelsOf(answer);
    this.signs = signs(this.models);
    this.current = 0; // the token that the Tab key reaches
    this.body = element("div", {
      class: "text",
      dir: "auto",
      role: "group",
      "aria-label": "Answer; arrow keys move between tokens",
    });
    this.progress = element("div", { class: "progress soft" });
    this.figures = element("dl", { class: "figures" });
    this.ending = element("p", { class: "soft ending" });
    this.problem = element("p", { class: "problem", role: "alert" });
    this.tools = element("div", { class: "tools" }, ...tools);
    const head = element("h3", {}, answer.label);
    this.node = element(
      "section",
      { class: "answer" },
      head,
      this.body,
      this.progress,
      this.problem,
      this.ending,
      this.figures,
      this.tools,
    );
    this.body.view = this;
    this.node.view = this;
    this.#forget();
    this.draw();
  }

  #forget() {
    this.starts = [];
    this.length = 0;
    this.drawn = []; // {source, node} of each block
    this.body.replaceChildren();
  }

  /** Draws with the next frame. */
  update() {
    if (this.waiting) return;
    this.waiting = true;
    const draw = () => this.waiting && this.draw();
    if (document.hidden) setTimeout(draw, 200);
    else requestAnimationFrame(draw);
  }

  draw() {
    this.waiting = false;
    const { tokens, live } = this.answer;
    for (let i = this.starts.length; i < tokens.length; i++) {
      this.starts.push(this.length);
      this.length += tokens[i].text.length;
    }
    const focused =
      this.body.contains(document.activeElement) &&
      this.body.querySelector("[tabindex='0']") === document.activeElement;
    if (this.raw) this.#drawRaw();
    else this.#drawBlocks();
    this.reach(this.current, focused);
    this.#drawFigures();
    this.node.classList.toggle("writing", Boolean(live));
    this.node.setAttribute("aria-busy", String(Boolean(live)));
    this.problem.textContent = visible(this.answer.error ?? "");
    this.ending.textContent = ending(this.answer);
  }

  #drawRaw() {
    for (let i = this.body.childNodes.length; i < this.answer.tokens.length; i++) {
      this.body.append(this.#token(i, this.answer.tokens[i].text, true));
    }
  }

  #drawBlocks() {
    const found = blocks(contentOf(textOf(this.answer)));
    let same = 0;
    // Blocks before the last cannot change any more, and keep what is selected or focused in them.
    while (
      same < found.length &&
      this.drawn[same]?.source === sourceOf(found[same]) &&
      this.drawn[same].kind === found[same].kind
    )
      same += 1;
    for (const { node } of this.drawn.splice(same)) node.remove();
    for (const block of found.slice(same)) {
      const node = render(block, (content) => this.#run(content));
      this.body.append(node);
      this.drawn.push({ source: sourceOf(block), kind: block.kind, node });
    }
  }

  #run(content) {
    const fragment = document.createDocumentFragment();
    const { at, text } = content;
    for (let i = 0, j; i < at.length; i = j) {
      const n = this.#tokenAt(at[i]);
      const end = this.starts[n] + this.answer.tokens[n].text.length;
      for (j = i + 1; j < at.length && at[j] < end && at[j] === at[j - 1] + 1;) j += 1;
      fragment.append(this.#token(n, text.slice(i, j), false));
    }
    return fragment;
  }

  /** The token of a place: the last that begins at or before it. */
  #tokenAt(place) {
    let low = 0;
    let high = this.starts.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.starts[middle] <= place) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  #token(i, text, newlines) {
    const token = this.answer.tokens[i];
    const sign = this.signs[token.by];
    const first = sign && this.answer.tokens[i - 1]?.by !== token.by;
    const shade = token.p === null ? 0 : Math.round(SHADES * token.p);
    const node = element(token.by === "base" ? "span" : "mark", {
      class: `t ${classOf(this.models, token.by)} p${shade}${text ? "" : " z"}${first ? " first" : ""}`,
    });
    node.dataset.i = i;
    if (first) node.dataset.sign = sign;
    appendVisible(node, text, { newlines });
    return node;
  }

  #drawFigures() {
    const { live, tokens } = this.answer;
    const parts = figures(this.answer).map(([title, value]) =>
      element("div", {}, element("dd", {}, value), element("dt", {}, title)),
    );
    this.figures.replaceChildren(...parts);
    const waits = live && !tokens.length;
    if (!waits) return void this.progress.replaceChildren();
    const progress = live.progress ?? "";
    const [, done, of] = /^prefill (\d+)\/(\d+)/.exec(progress) ?? [];
    const bar = done ? [element("progress", { value: done, max: of, "aria-label": "prefill" })] : [];
    this.progress.replaceChildren(visible(progress) || "waiting for the first token", ...bar);
  }

  /** Makes a token the one that Tab reaches; gives it the focus if asked. */
  reach(i, focus = false) {
    const node = this.body.querySelector(`.t[data-i="${i}"]`) ?? this.body.querySelector(".t");
    if (!node) return;
    this.current = Number(node.dataset.i);
    for (const other of this.body.querySelectorAll(".t[tabindex]")) {
      if (other !== node) for (const name of ["tabindex", "role", "aria-haspopup"]) other.removeAttribute(name);
    }
    node.tabIndex = 0;
    node.setAttribute("role", "button");
    node.setAttribute("aria-haspopup", "dialog");
    if (focus) node.focus();
  }

  /** The first node of each token that is shown, in order. */
  shown() {
    let last = -1;
    return [...this.body.querySelectorAll(".t")].filter((node) => {
      const first = Number(node.dataset.i) > last;
      if (first) last = Number(node.dataset.i);
      return first;
    });
  }

  /** Shows all that was written, sign by sign, or Markdown again. */
  toggleRaw() {
    this.raw = !this.raw;
    this.body.classList.toggle("raw", this.raw);
    this.#forget();
    this.draw();
    return this.raw;
  }
}

const sourceOf = (block) => block.content.text;

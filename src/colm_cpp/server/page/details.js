// What is known of a token, beside it: who wrote it, how likely deferral was, what else was likely, and on request what
// the other models would have said. Pointing shows it, a click or Enter keeps it open, Escape closes it.

import { otherSays, othersOf } from "./answer.js";
import { classOf, inWords, modelsOf } from "./models.js";
import { button, element, onOneLine, probability } from "./text.js";

const STEPS = {
  ArrowRight: (all, at) => all[at + 1],
  ArrowLeft: (all, at) => all[at - 1],
  Home: (all) => all[0],
  End: (all) => all.at(-1),
};
const NARROW = matchMedia("(max-width: 40rem)");
const DELAY = 250; // milliseconds in which the pointer may reach the panel

export class Details {
  /** `messagesFor(answer)`: the messages that it answers; `changed(answer)`: something about it was learnt. */
  constructor(panel, talk, messagesFor, changed) {
    this.panel = panel;
    this.talk = talk;
    this.messagesFor = messagesFor;
    this.changed = changed;
    this.at = null; // the token's node
    this.pinned = false;
    talk.addEventListener("pointerover", (event) => event.pointerType === "mouse" && this.#point(event.target));
    panel.addEventListener("pointerover", () => clearTimeout(this.leaving));
    panel.addEventListener("pointerout", (event) => event.pointerType === "mouse" && this.#leave());
    talk.addEventListener("click", (event) => this.#click(event.target));
    talk.addEventListener("focusin", (event) => this.#focus(event.target));
    talk.addEventListener("focusout", (event) => !panel.contains(event.relatedTarget) && !this.pinned && this.close());
    talk.addEventListener("keydown", (event) => this.#key(event));
    document.addEventListener("click", (event) => {
      // The path is as it was when the click began; the button that was clicked may be gone by now.
      if (this.pinned && !event.composedPath().includes(panel) && !tokenOf(event.target)) this.close();
    });
    document.addEventListener("scroll", () => this.at && this.#place(), { capture: true, passive: true });
  }

  get open() {
    return !this.panel.hidden;
  }

  #point(target) {
    if (this.pinned) return;
    const node = tokenOf(target);
    clearTimeout(this.leaving);
    if (node) this.show(node);
    else this.#leave();
  }

  #leave() {
    if (this.pinned || !this.open || this.at?.matches(":focus-visible")) return;
    clearTimeout(this.leaving);
    this.leaving = setTimeout(() => this.pinned || this.close(), DELAY);
  }

  #click(target) {
    const node = tokenOf(target);
    if (!node || target.closest("a")) return;
    if (!getSelection().isCollapsed) return; // a selection was made
    const view = viewOf(node);
    view.reach(Number(node.dataset.i));
    this.show(node);
    this.pinned = true;
    this.#reveal();
  }

  #focus(target) {
    const node = tokenOf(target);
    if (node && !this.closing && node.matches(":focus-visible") && this.at !== node) this.show(node);
  }

  #key(event) {
    const node = tokenOf(event.target);
    if (!node || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "Enter" || event.key === " ") {
      this.show(node);
      this.pinned = true;
      this.panel.querySelector("button")?.focus();
    } else if (event.key in STEPS) {
      const view = viewOf(node);
      const all = view.shown();
      const next = STEPS[event.key](
        all,
        all.findIndex((other) => other.dataset.i === node.dataset.i),
      );
      if (!next) return;
      this.pinned = false;
      this.show(next); // before the focus, which reads the description
      view.reach(Number(next.dataset.i), true);
    } else return;
    event.preventDefault();
  }

  /** Closes it. Returns whether it was open. */
  close() {
    const { at, open } = this;
    const inside = this.panel.contains(document.activeElement);
    this.panel.hidden = true;
    this.pinned = false;
    this.at = null;
    at?.classList.remove("at");
    at?.removeAttribute("aria-describedby");
    if (inside) {
      this.closing = true; // the focus does not open it again
      at?.focus();
      this.closing = false;
    }
    return open;
  }

  show(node) {
    if (this.at === node && this.open) return;
    this.at?.classList.remove("at");
    this.at?.removeAttribute("aria-describedby");
    this.at = node;
    node.classList.add("at");
    node.setAttribute("aria-describedby", this.panel.id);
    this.#fill();
    this.panel.hidden = false;
    this.#place();
  }

  #fill() {
    const { answer } = viewOf(this.at);
    const i = Number(this.at.dataset.i);
    const token = answer.tokens[i];
    const facts = element(
      "p",
      {},
      element("span", { class: `who ${classOf(modelsOf(answer), token.by)}` }, `Written by ${inWords(token.by)}`),
      element("br"),
      `Defer probability: ${token.p === null ? "the head was not asked" : probability(token.p)}`,
      element("br"),
      element("span", { class: "soft" }, `Token ${i + 1} of ${answer.tokens.length}, id ${token.id}`),
    );
    const close = element(
      "button",
      { type: "button", class: "quiet close", "aria-label": "Close", onclick: () => this.close() },
      "✕",
    );
    this.panel.replaceChildren(
      element("h4", {}, element("code", {}, quoted(token.text || token.name || ""))),
      facts,
      table(`Likely for ${inWords(token.by)}`, token.top ?? [], token),
      ...othersOf(answer, token).map((other) => this.#other(answer, i, token, other)),
      close,
    );
  }

  #other(answer, i, token, other) {
    const name = inWords(other);
    const place = element("div", { class: "other", "aria-live": "polite" });
    const shown = (said) =>
      said.length
        ? table(`Likely for ${name}`, said)
        : element("p", { class: "soft" }, `Here ${name} would have ended the text.`);
    const known = token.others?.[other];
    if (known) {
      place.append(shown(known));
      return place;
    }
    const asking = button(`What would ${name} have said?`, async () => {
      place.replaceChildren(element("p", { class: "soft" }, `Asking ${name} …`));
      try {
        const said = await otherSays(answer, other, this.messagesFor(answer), i);
        token.others = { ...token.others, [other]: said };
        place.replaceChildren(shown(said));
        this.changed(answer);
      } catch (error) {
        place.replaceChildren(element("p", { class: "problem", role: "alert" }, error.message), asking);
      }
      if (!this.open) return;
      this.panel.querySelector(".close").focus();
      this.#place();
      this.#reveal();
    });
    if (!answer.live) place.append(asking);
    return place;
  }

  /** Below the token, or above it where there is more room. On narrow screens the style sheet has it at an edge. */
  #place() {
    if (!this.at?.isConnected) return void this.close();
    const rects = [...this.at.getClientRects()];
    const own = rects.at(-1);
    if (!own) return;
    const { offsetWidth: width, offsetHeight: height, style } = this.panel;
    const below = innerHeight - own.bottom;
    const top = below >= height + 8 || below >= own.top ? own.bottom + 4 : own.top - height - 4;
    style.left = `${Math.max(8, Math.min(own.left, innerWidth - width - 8))}px`;
    const covered = own.bottom - (innerHeight - height - 8);
    this.panel.classList.toggle("on-top", covered > 0 && height + 8 - rects[0].top < covered);
    style.top = `${Math.max(8, Math.min(top, innerHeight - height - 8))}px`;
  }

  /** On narrow screens, moves the token out from under the panel. */
  #reveal() {
    if (!NARROW.matches || !this.at) return;
    const panel = this.panel.getBoundingClientRect();
    const own = [...this.at.getClientRects()].at(-1);
    if (this.panel.classList.contains("on-top")) this.talk.scrollTop -= Math.max(0, panel.bottom + 8 - own.top);
    else this.talk.scrollTop += Math.max(0, own.bottom + 8 - panel.top);
  }
}

const quoted = (text) => `“${onOneLine(text)}”`;
const tokenOf = (target) => (target instanceof Element ? target.closest(".t") : null);
const viewOf = (node) => node.closest(".answer").view;

function table(title, likely, token = null) {
  if (!likely.length) return element("p", { class: "soft" }, "Alternatives were not kept.");
  const rows = likely.map(([text, logprob]) => {
    const p = logprob === null ? 0 : Math.min(1, Math.exp(logprob));
    const bar = element("span", { class: "bar" });
    bar.style.width = `${Math.round(100 * p)}%`;
    const own = token !== null && text === token.name && logprob === token.lp;
    const name = element("th", { scope: "row" }, element("code", {}, quoted(text)), own ? " (written)" : "");
    return element(
      "tr",
      {},
      name,
      element("td", { class: "n" }, probability(p)),
      element("td", { class: "track" }, bar),
    );
  });
  return element("table", {}, element("caption", {}, title), element("tbody", {}, ...rows));
}

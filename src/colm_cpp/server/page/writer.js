// Who writes the next answer: a pair, its mode and its deferral rate; and the options of the request.

import { keepSettings, settings } from "./chats.js";
import { alone, inWords, legend } from "./models.js";
import { element, visible } from "./text.js";

const byId = (id) => document.getElementById(id);
const NUMBERS = { temperature: "temperature", "max-tokens": "max_tokens", seed: "seed" };

export class Writer {
  /** `place`: of the legend. */
  constructor(place) {
    this.legend = place;
    this.pairs = [];
    this.form = byId("writer");
    this.rate = byId("rate");
    this.own = byId("own");
    const kept = settings();
    this.#choices(["base", "assistant"], kept.mode);
    if (Number.isFinite(kept.rate)) this.rate.value = kept.rate;
    this.own.checked = kept.own ?? true;
    this.keptPair = kept.pair;
    for (const id of ["system", ...Object.keys(NUMBERS)]) {
      byId(id).value = kept[id] ?? "";
      byId(id).addEventListener("change", () => keepSettings({ [id]: byId(id).value }));
    }
    this.rate.addEventListener("input", () => {
      this.own.checked = false;
      this.#choose("pair");
      this.#show();
    });
    this.own.addEventListener("change", () => this.#choose("pair"));
    this.form.addEventListener("change", (event) => {
      if (event.target.id === "pair") this.#choices(this.models);
      this.#show();
    });
    this.#show();
  }

  #choose(mode) {
    this.form.querySelector(`[name=mode][value="${mode}"]`).checked = true;
  }

  /** Each model alone, and the pair; chosen is what was before, if it is there. */
  #choices(models, before = this.mode) {
    const modes = [["base", alone("base")], ["pair", "Pair"], ...models.slice(1).map((name) => [name, alone(name)])];
    const chosen = modes.some(([mode]) => mode === before) ? before : "pair";
    const choice = ([value, label]) => {
      const radio = element("input", { type: "radio", name: "mode", value });
      radio.checked = value === chosen;
      return element("label", {}, radio, ` ${label}`);
    };
    this.form.querySelector(".choices").replaceChildren(...modes.map(choice));
    this.legend.replaceChildren(...legend(models));
  }

  /** The names of the chosen pair's models, the base first. */
  get models() {
    return this.pair?.models ?? ["base", "assistant"];
  }

  /** The server's pairs. */
  offer(pairs) {
    this.pairs = pairs;
    const select = byId("pair");
    const chosen = select.value || this.keptPair;
    select.replaceChildren(...pairs.map(({ name }) => element("option", { value: name }, visible(name))));
    if (pairs.some(({ name }) => name === chosen)) select.value = chosen;
    byId("pair-field").hidden = pairs.length < 2;
    this.#choices(this.models, settings().mode);
    this.#show();
  }

  get pair() {
    return this.pairs.find(({ name }) => name === byId("pair").value) ?? null;
  }

  get mode() {
    return this.form.querySelector("[name=mode]:checked")?.value;
  }

  /** What the next answer is written by. `mode` in place of the chosen one. */
  way(mode = this.mode) {
    const rate = mode !== "pair" || this.own.checked || !this.pair.hasRates ? null : Number(this.rate.value);
    return { pair: this.pair.name, models: this.models, mode, rate };
  }

  /** Fields of a request that the user has set. */
  options() {
    const set = {};
    for (const [id, field] of Object.entries(NUMBERS)) {
      if (byId(id).value !== "" && byId(id).validity.valid) set[field] = Number(byId(id).value);
    }
    return set;
  }

  get system() {
    return byId("system").value.trim();
  }

  #show() {
    const possible = this.pair === null || this.pair.hasRates;
    this.rate.disabled = !possible;
    this.own.disabled = !possible;
    if (!possible) this.own.checked = true;
    const shown = this.own.checked
      ? possible
        ? "the head's own"
        : "no rates are known for this head"
      : `${this.rate.value}%`;
    byId("rate-shown").textContent = shown;
    this.rate.setAttribute(
      "aria-valuetext",
      this.own.checked ? shown : `${this.rate.value}% of the tokens by ${this.models.length < 3 ? inWords(this.models[1]) : "the experts"}`,
    );
    this.form.classList.toggle("alone", this.mode !== "pair");
    keepSettings({
      mode: this.mode,
      rate: Number(this.rate.value),
      own: this.own.checked,
      pair: this.pair?.name ?? this.keptPair,
    });
  }
}

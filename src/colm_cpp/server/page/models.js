// The models of a pair: what they are called on the page, and how their tokens are told apart.

import { element, visible } from "./text.js";

const TWO = ["base", "assistant"];

/** The names of the models that wrote an answer, the base first. Answers of older pages had two models. */
export const modelsOf = (answer) => answer?.models ?? TWO;

/** A model in a sentence: "the base", "the assistant", or the name of an expert. */
export const inWords = (name) => (TWO.includes(name) ? `the ${name}` : visible(name));

/** The same as the title of what it writes alone. */
export const alone = (name) => `${TWO.includes(name) ? name[0].toUpperCase() + name.slice(1) : visible(name)} alone`;

/** A sign of one or two letters for each expert, where there are several: a colour says nothing to many. */
export function signs(models) {
  if (models.length < 3) return {};
  const taken = new Set();
  const sign = (name, at) => {
    const found = [name[0], name.slice(0, 2), String(at + 1)].find((text) => !taken.has(text));
    taken.add(found);
    return found;
  };
  return Object.fromEntries(models.slice(1).map((name, at) => [name, sign(name, at)]));
}

/** The classes of what a model wrote: its name, and the number that gives it a colour and a line. */
export function classOf(models, name) {
  const at = models.indexOf(name);
  return at > 0 ? `by-${name} e${at}` : `by-${name}`;
}

/** What the colours and lines of a pair's models mean. */
export function legend(models) {
  const known = signs(models);
  return models.flatMap((name, at) => {
    const made = element(at ? "mark" : "span", { class: `${classOf(models, name)} ${known[name] ? "first" : ""}` });
    if (known[name]) made.dataset.sign = known[name];
    made.append(`by ${inWords(name)}`);
    return [made, " "];
  });
}

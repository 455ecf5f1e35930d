// Text that somebody else wrote, made safe to show: characters that hide, reorder or drive what is around them are
// escaped as `colm patterns` escapes them (report/visible.py). Nothing here or elsewhere takes text for HTML.

const HIDDEN = new RegExp(
  "[\\0-\\x08\\x0b-\\x1f\\x7f-\\x9f\\xad\\u034f\\u061c\\u115f\\u1160\\u17b4\\u17b5\\u180e\\u200b\\u200e\\u200f" +
    "\\u2028-\\u202e\\u2060-\\u206f\\u3164\\ufeff\\uffa0\\ufff9-\\ufffb\\ud800-\\udfff\\ufdd0-\\ufdef\\ufffe\\uffff" +
    "\\u{1bca0}-\\u{1bca3}\\u{1d173}-\\u{1d17a}\\u{e0000}-\\u{e00ff}\\u{e01f0}-\\u{e0fff}]",
  "gu",
);

const escaped = (character) => {
  const code = character.codePointAt(0);
  const digits = (n) => code.toString(16).padStart(n, "0");
  return code < 0x100 ? `\\x${digits(2)}` : code < 0x10000 ? `\\u${digits(4)}` : `\\U${digits(8)}`;
};

/** The text with hidden characters escaped; newlines and tabs stay. */
export const visible = (text) => text.replace(HIDDEN, escaped);

/** The same on one line, with signs for newline and tab. */
export const onOneLine = (text) => visible(text).replaceAll("\n", "↵").replaceAll("\t", "⇥");

/** Appends text to a node, with escaped characters in boxes and, if asked, signs at newlines. */
export function appendVisible(node, text, { newlines = false } = {}) {
  let begin = 0;
  const plain = (end) => {
    const piece = text.slice(begin, end);
    if (!newlines) return void (piece && node.append(piece));
    piece.split("\n").forEach((line, i) => {
      if (i) node.append(element("i", { class: "l" }, "\n"));
      if (line) node.append(line);
    });
  };
  for (const match of text.matchAll(HIDDEN)) {
    plain(match.index);
    node.append(element("i", { class: "x" }, escaped(match[0])));
    begin = match.index + match[0].length;
  }
  plain(text.length);
}

/** A new element. `on…` attributes are listeners; texts among the children are text. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

export const button = (label, onclick, attributes = {}) =>
  element("button", { type: "button", class: "quiet", onclick, ...attributes }, label);

/** Three digits, which never make a small chance none, or a large one certainty. */
export function probability(p) {
  if (p > 0 && p < 0.001) return "<0.001";
  return p > 0.999 && p < 1 ? ">0.999" : p.toFixed(3);
}

/** Puts a text into the clipboard. Pages without TLS on other machines have the old way only. */
export async function copy(text) {
  if (navigator.clipboard) return void (await navigator.clipboard.writeText(text));
  const area = element("textarea", { class: "hidden" });
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

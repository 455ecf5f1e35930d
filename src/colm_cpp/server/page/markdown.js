// Markdown as models write it, made into nodes. Each visible character keeps its place in the source, so that `run` can
// give the nodes of the tokens it came from. There is no HTML in it: what looks like HTML is text.

import { button, copy, element } from "./text.js";

/** Characters with their places in the source. */
class Content {
  constructor(text, at) {
    this.text = text;
    this.at = at;
  }

  slice(begin, end = this.text.length) {
    return new Content(this.text.slice(begin, end), this.at.slice(begin, end));
  }

  trimmed() {
    const begin = this.text.length - this.text.trimStart().length;
    return this.slice(begin, begin + this.text.trim().length);
  }

  /** Its lines, each with its newline. */
  lines() {
    const lines = [];
    let begin = 0;
    for (const line of this.text.match(/[^\n]*\n|[^\n]+/g) ?? []) {
      lines.push(this.slice(begin, begin + line.length));
      begin += line.length;
    }
    return lines;
  }

  static join(lines) {
    return new Content(
      lines.map((line) => line.text).join(""),
      lines.flatMap((line) => line.at),
    );
  }
}

export const contentOf = (text) =>
  new Content(
    text,
    Array.from({ length: text.length }, (_, i) => i),
  );

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`\n]*)\n?$/;
const HEADING = /^ {0,3}(#{1,6})[ \t]+/;
const RULE = /^ {0,3}([-*_])([ \t]*\1){2,}[ \t]*\n?$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+•]|\d{1,9}[.)])([ \t]+|(?=\n|$))/;
const ROW = /^\s*\|?.*\|.*\n?$/;
const DIVIDER = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*\n?$/;
const DEEPEST = 6;

const blank = (line) => !line.text.trim();

/** The blocks of a text: `{kind, content, ...}` in order. */
export function blocks(content) {
  const lines = content.lines();
  const found = [];
  let i = 0;
  const take = (while_) => {
    const taken = [];
    while (i < lines.length && while_(lines[i])) taken.push(lines[i++]);
    return taken;
  };
  while (i < lines.length) {
    const first = lines[i];
    const begin = i;
    let match;
    let block;
    if (blank(first)) {
      i += 1;
      continue;
    }
    if ((match = FENCE.exec(first.text))) {
      const [, fence, language] = match;
      i += 1;
      const closes = (line) => line.text.trim().startsWith(fence) && !line.text.trim().replaceAll(fence[0], "");
      const body = take((line) => !closes(line));
      i += 1;
      block = { kind: "code", language: language.trim(), body: Content.join(body) };
    } else if ((match = HEADING.exec(first.text))) {
      i += 1;
      const body = first.slice(match[0].length).trimmed();
      block = { kind: "heading", level: match[1].length, body };
    } else if (RULE.test(first.text)) {
      i += 1;
      block = { kind: "rule" };
    } else if (QUOTE.test(first.text)) {
      const taken = take((line) => QUOTE.test(line.text));
      block = { kind: "quote", body: Content.join(taken.map((line) => line.slice(QUOTE.exec(line.text)[0].length))) };
    } else if (ITEM.test(first.text)) {
      block = list(lines, i);
      i = block.next;
    } else if (
      ROW.test(first.text) &&
      i + 1 < lines.length &&
      DIVIDER.test(lines[i + 1].text) &&
      first.text.includes("|")
    ) {
      const rows = take((line) => !blank(line) && ROW.test(line.text) && line.text.includes("|"));
      block = { kind: "table", rows: rows.filter((_, n) => n !== 1) };
    } else {
      const starts = (line) =>
        FENCE.test(line.text) || HEADING.test(line.text) || QUOTE.test(line.text) || RULE.test(line.text);
      const taken = [lines[i++], ...take((line) => !blank(line) && !starts(line) && !ITEM.test(line.text))];
      block = { kind: "paragraph", body: Content.join(taken).trimmed() };
    }
    block.content = Content.join(lines.slice(begin, i));
    found.push(block);
  }
  return found;
}

function list(lines, i) {
  const ordered = /\d/.test(ITEM.exec(lines[i].text)[2]);
  const items = [];
  const start = parseInt(ITEM.exec(lines[i].text)[2], 10);
  while (i < lines.length) {
    const match = ITEM.exec(lines[i].text);
    if (!match || /\d/.test(match[2]) !== ordered || RULE.test(lines[i].text)) break;
    const indent = match[1].length + 2;
    const own = [lines[i].slice(match[0].length)];
    i += 1;
    while (i < lines.length) {
      const inside = /^ */.exec(lines[i].text)[0].length >= indent;
      const after = lines[i + 1];
      if (blank(lines[i]) && !(after && /^ */.exec(after.text)[0].length >= indent && !blank(after))) break;
      if (
        !inside &&
        !blank(lines[i]) &&
        (ITEM.test(lines[i].text) || FENCE.test(lines[i].text) || HEADING.test(lines[i].text))
      )
        break;
      own.push(
        inside ? lines[i].slice(Math.min(indent + (ordered ? 1 : 0), /^ */.exec(lines[i].text)[0].length)) : lines[i],
      );
      i += 1;
    }
    items.push(Content.join(own));
    // An empty line between two items leaves them in one list.
    if (i + 1 < lines.length && blank(lines[i]) && ITEM.test(lines[i + 1].text)) i += 1;
  }
  return { kind: "list", ordered, start, items, next: i };
}

/** The node of a block. `run(content)` gives the nodes of characters. */
export function render(block, run, depth = 0) {
  const inline = (content, name, attributes) => {
    const node = element(name, attributes);
    appendInline(node, content, run);
    return node;
  };
  const nested = (content, name) => {
    const inner = depth < DEEPEST ? blocks(content) : [{ kind: "paragraph", body: content.trimmed() }];
    const node = element(name);
    if (inner.length && inner[0].kind === "paragraph" && name === "li") {
      appendInline(node, inner.shift().body, run);
    }
    node.append(...inner.map((one) => render(one, run, depth + 1)));
    return node;
  };
  switch (block.kind) {
    case "code": {
      const code = element("code");
      code.append(run(block.body));
      const text = block.body.text;
      const head = element(
        "div",
        { class: "code-head" },
        element("span", {}, block.language),
        button("Copy code", () => copy(text)),
      );
      return element("div", { class: "code" }, head, element("pre", { tabindex: "0" }, code));
    }
    case "heading":
      // The page has h1 and h2 of its own.
      return inline(block.body, `h${Math.min(6, block.level + 2)}`);
    case "rule":
      return element("hr");
    case "quote":
      return nested(block.body, "blockquote");
    case "list": {
      const node = element(block.ordered ? "ol" : "ul");
      if (block.ordered && block.start !== 1) node.setAttribute("start", block.start);
      node.append(...block.items.map((item) => nested(item, "li")));
      return node;
    }
    case "table": {
      const [head, ...rows] = block.rows.map(cells);
      const row = (texts, name) => element("tr", {}, ...texts.map((text) => inline(text, name)));
      const table = element(
        "table",
        {},
        element("thead", {}, row(head, "th")),
        element("tbody", {}, ...rows.map((r) => row(r, "td"))),
      );
      return element("div", { class: "wide", tabindex: "0", role: "group", "aria-label": "table" }, table);
    }
    default:
      return inline(block.body, "p");
  }
}

function cells(line) {
  const found = [];
  let begin = 0;
  const end = line.text.trimEnd().length;
  for (let i = 0; i <= end; i++) {
    if (i < end && line.text[i] === "\\") i += 1;
    else if (i === end || line.text[i] === "|") {
      found.push(line.slice(begin, i).trimmed());
      begin = i + 1;
    }
  }
  if (found.length > 1 && !found[0].text) found.shift();
  if (found.length > 1 && !found.at(-1).text) found.pop();
  return found;
}

const MARKS = [
  ["**", "strong"],
  ["__", "strong"],
  ["~~", "s"],
  ["*", "em"],
  ["_", "em"],
];
const SPECIAL = /[\\`*_~[!h]/g;
const LINK = /^!?\[([^[\]\n]{0,500})\]\((https?:\/\/[^\s()<>]{1,1000}|mailto:[^\s()<>]{1,200})\)/;
const BARE = /^https?:\/\/[^\s<>"'`]{1,1000}[^\s<>"'`.,;:!?)\]}]/;

function appendInline(parent, content, run, depth = 0) {
  const { text } = content;
  const hopeless = new Set(); // marks that nothing behind closes: looking again would take squares of time
  let begin = 0;
  let i = 0;
  const flush = (end) => {
    if (end > begin) parent.append(run(content.slice(begin, end)));
  };
  const emit = (node, inner, next) => {
    flush(i);
    if (inner instanceof Content && node.localName !== "code" && depth < DEEPEST)
      appendInline(node, inner, run, depth + 1);
    else node.append(run(inner));
    parent.append(node);
    begin = i = next;
  };
  for (;;) {
    SPECIAL.lastIndex = i;
    const match = SPECIAL.exec(text);
    if (!match) break;
    i = match.index;
    const character = match[0];
    if (character === "\\" && /[!-/:-@[-`{-~]/.test(text[i + 1] ?? "")) {
      flush(i);
      begin = i + 1;
      i += 2;
      continue;
    }
    if (character === "`") {
      const ticks = /^`+/.exec(text.slice(i, i + 20))[0];
      const end = hopeless.has(ticks) ? -1 : text.indexOf(ticks, i + ticks.length);
      if (end > i) {
        emit(element("code"), content.slice(i + ticks.length, end), end + ticks.length);
        continue;
      }
      hopeless.add(ticks);
      i += ticks.length;
      continue;
    }
    if (character === "[" || character === "!" || character === "h") {
      const link = character === "h" ? null : LINK.exec(text.slice(i, i + 1600));
      const bare = character === "h" && !/\w/.test(text[i - 1] ?? "") ? BARE.exec(text.slice(i, i + 1010)) : null;
      if (link) {
        const from = i + link[0].indexOf("[") + 1;
        emit(anchor(link[2]), content.slice(from, from + link[1].length), i + link[0].length);
      } else if (bare) {
        flush(i);
        const node = anchor(bare[0]);
        node.append(run(content.slice(i, i + bare[0].length)));
        parent.append(node);
        begin = i = i + bare[0].length;
      } else i += 1;
      continue;
    }
    const [mark, name] = MARKS.find(([sign]) => text.startsWith(sign, i)) ?? [];
    const end = mark && !hopeless.has(mark) ? closing(text, mark, i) : -1;
    if (end > 0) {
      emit(element(name), content.slice(i + mark.length, end), end + mark.length);
      continue;
    }
    if (mark && end === -1) hopeless.add(mark);
    i += mark?.length ?? 1;
  }
  flush(text.length);
}

/** Where a mark closes; -1 where nothing closes it, -2 where it opens nothing. */
function closing(text, mark, at) {
  const inside = at + mark.length;
  if (!/\S/.test(text[inside] ?? "")) return -2;
  const word = mark[0] === "_";
  if (word && /\w/.test(text[at - 1] ?? "")) return -2;
  for (let end = text.indexOf(mark, inside + 1); end > 0; end = text.indexOf(mark, end + 1)) {
    if (mark.length === 1 && (text[end + 1] === mark || text[end - 1] === mark)) continue;
    if (/\S/.test(text[end - 1]) && !(word && /\w/.test(text[end + mark.length] ?? ""))) return end;
  }
  return -1;
}

/** A link is followed only by whoever clicks it; its address stands beside it on hover. */
const anchor = (href) => element("a", { href, title: href, target: "_blank", rel: "noopener noreferrer nofollow" });

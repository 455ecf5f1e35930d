"""What is deferred, as one page that needs nothing but itself: no network, no font, one small script (:mod:`.script`).

Whatever a model wrote is escaped (:mod:`.visible`), and the page's own policy forbids loading anything, and running
anything but that script.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from ..results import Token, TopLogprob
from .parts import LABELS, Part, classify
from .patterns import Example, Patterns, expert_names, interval, percent
from .script import SCRIPT, SCRIPT_HASH
from .style import LOOKS, STYLE
from .traces import TracedText
from .visible import on_one_line, split_hidden, visible

__all__ = ["DEFAULT_MAX_TEXTS", "render_page"]

DEFAULT_MAX_TEXTS = 50

_POLICY = f"default-src 'none'; style-src 'unsafe-inline'; script-src '{SCRIPT_HASH}'"
_SHADES = 10
_NONE = "-"  # where there is no number


def render_page(
    texts: Sequence[TracedText], patterns: Patterns, *, max_texts: int = DEFAULT_MAX_TEXTS, sources: Sequence[str] = ()
) -> str:
    """The page.

    Args:
        texts: the texts; the first ``max_texts`` are shown.
        patterns: the statistics of all of them.
        max_texts: texts shown at most.
        sources: names of what was read, for the heading.
    """
    shown = texts[: max(0, max_texts)]
    experts = expert_names(texts)
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Deferred tokens</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n",
        _header(patterns, sources),
        _parts_card(patterns),
        f'<div class="pair">\n{_runs_card(patterns)}{_tenths_card(patterns)}</div>\n',
        _tokens_card(patterns),
        _legend(len(shown), len(texts), experts),
        *(_text_card(number, text, experts) for number, text in enumerate(shown, start=1)),
        f"</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n",
    ]
    return "".join(parts)


def _say(text: str) -> str:
    return escape(visible(text))


def _header(patterns: Patterns, sources: Sequence[str]) -> str:
    facts = {
        "texts": f"{patterns.texts:,}",
        "tokens": f"{patterns.tokens:,}",
        "deferred": f"{patterns.deferred:,}",
        "deferral rate": percent(patterns.rate),
        "mean defer probability": percent(patterns.mean_defer_prob),
        "mean run length": _NONE if patterns.runs.mean is None else f"{patterns.runs.mean:.2f}",
        **{f"written by {_say(name)}": f"{n:,}" for name, n in patterns.experts.items()},
    }
    read = f'<p class="soft">Read from {_say(", ".join(sources))}</p>\n' if sources else ""
    boxes = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts.items())
    return (
        "<header>\n<h1>Deferred tokens</h1>\n"
        f"<p>The tokens that the head deferred to {'the experts' if patterns.experts else 'the assistant'}.</p>\n"
        f"{read}</header>\n"
        f'<dl class="facts">{boxes}</dl>\n'
    )


def _table(columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]]) -> str:
    """A table; a column is a heading and a class, a cell is HTML. The first cell of a row heads it.

    On narrow screens the style sheet makes each row a block whose numbers carry their headings. That takes the meaning
    of the elements away from assistive technology, so it is said by roles too.
    """
    head = "".join(f'<th role="columnheader" scope="col"{_class(kind)}>{name}</th>' for name, kind in columns)
    body = ""
    for row in rows:
        cells = [
            f'<td role="cell"{_class(kind)}{_label(name)}>{cell}</td>'
            for cell, (name, kind) in zip(row[1:], columns[1:], strict=True)
        ]
        body += f'<tr role="row"><th role="rowheader" scope="row">{row[0]}</th>{"".join(cells)}</tr>\n'
    return (
        f'<div class="wide"><table role="table">\n<thead role="rowgroup"><tr role="row">{head}</tr></thead>\n'
        f'<tbody role="rowgroup">\n{body}</tbody>\n</table></div>\n'
    )


def _label(name: str) -> str:
    return f' data-label="{name}"' if name else ""


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def _bar(share: float | None) -> str:
    """A bar; the number stands beside it."""
    return f'<span class="bar" style="width:{100 * (share or 0.0):.1f}%"></span>' if share else ""


def _card(title: str, body: str, note: str = "") -> str:
    below = f'<p class="soft">{note}</p>\n' if note else ""
    return f'<section class="card">\n<h2>{title}</h2>\n{body}{below}</section>\n'


def _parts_card(patterns: Patterns) -> str:
    columns = [
        ("kind", ""), ("tokens", "n"), ("deferred", "n"), ("rate", "n"), ("95% interval", "n"), ("", "track"),
        ("lift", "n"), ("share of deferrals", "n"), ("mean defer probability", "n"),
        *((_say(name), "n") for name in patterns.experts),
    ]  # fmt: skip
    rows = [
        [
            LABELS[count.part], f"{count.tokens:,}", f"{count.deferred:,}", percent(count.rate), interval(count),
            _bar(count.rate), _NONE if count.lift is None else f"{count.lift:.2f}", percent(count.share),
            percent(count.mean_defer_prob), *(f"{n:,}" for n in count.experts.values()),
        ]
        for count in patterns.parts
        if count.tokens
    ]  # fmt: skip
    note = "Lift is the rate divided by the overall rate. Above 1, this kind is deferred more often than average."
    return _card("By kind of token", _table(columns, rows), note)


def _runs_card(patterns: Patterns) -> str:
    runs = patterns.runs
    rows = [
        [name, f"{n:,}", percent(n / runs.runs if runs.runs else None), _bar(n / runs.runs if runs.runs else None)]
        for name, n in runs.lengths.items()
    ]
    note = (
        f"A run is a sequence of consecutive deferred tokens. There are {runs.runs:,} runs; the longest has "
        f"{runs.longest:,} tokens."
    )
    columns = [("run length", ""), ("runs", "n"), ("share", "n"), ("", "track")]
    return _card("Run lengths", _table(columns, rows), note)


def _tenths_card(patterns: Patterns) -> str:
    rates = [tenth.rate for tenth in patterns.tenths]
    top = max((rate for rate in rates if rate is not None), default=0.0) or 1.0
    columns = []
    for i, rate in enumerate(rates, start=1):
        shown = _NONE if rate is None else f"{rate:.0%}"
        share = (rate or 0.0) / top
        columns.append(f'<li style="--share:{share:.3f}"><span>{shown}</span><b></b><span>{i}</span></li>')
    chart = f'<ol class="chart">{"".join(columns)}</ol>\n'
    return _card(
        "Where in the text", chart, "The deferral rate in each tenth of the text, from the beginning to the end."
    )


def _tokens_card(patterns: Patterns) -> str:
    columns = [
        ("token", ""), ("tokens", "n"), ("deferred", "n"), ("rate", "n"), ("95% interval", "n"), ("", "slim"),
        ("in context", "whole"),
    ]  # fmt: skip
    rows = [
        [
            f"<code>{_quoted(token.text)}</code>", f"{token.tokens:,}", f"{token.deferred:,}", percent(token.rate),
            interval(token), _bar(token.rate), "".join(map(_example, token.examples)),
        ]
        for token in patterns.most_deferred
    ]  # fmt: skip
    if not rows:
        body = f"<p>No token that occurs at least {patterns.min_count} times was deferred.</p>\n"
        return _card("Most deferred tokens", body)
    note = f"Sorted by rate. Only tokens that occur at least {patterns.min_count} times are listed."
    return _card("Most deferred tokens", _table(columns, rows), note)


def _quoted(text: str) -> str:
    return f"“{escape(on_one_line(text))}”"


def _example(example: Example) -> str:
    before, token, after = (escape(on_one_line(text)) for text in (example.before, example.token, example.after))
    where = escape(visible(f"{example.title}, token {example.position + 1}"))
    return f'<span class="ex"><code>{before}<mark>{token}</mark>{after}</code> <small>{where}</small></span>'


def _legend(shown: int, of: int, experts: Sequence[str]) -> str:
    scale = "".join(f'<span class="p{i}"></span>' for i in range(_SHADES + 1))
    count = (
        ""
        if shown == of
        else f" The page shows the first {shown:,} of {of:,} texts; the numbers above cover all texts."
    )
    return (
        '<h2>The texts</h2>\n<p class="soft">Point at a token, or tap it, to see its defer probability. On the '
        "keyboard, Tab moves between texts, the arrow keys move between tokens, and Escape closes the label."
        f"{count}</p>\n"
        f'<div class="legend"><span class="scale">defer probability 0 {scale} 1</span>'
        f"{_writers(experts)}"
        '<span><i class="l"></i> newline</span></div>\n'
    )


def _writers(experts: Sequence[str]) -> str:
    """How the tokens of each expert look: a number where its run begins, and a line of its colour."""
    if not experts:
        return "<span><mark>underlined</mark>: written by the assistant</span>"
    marks = (
        f'<span><mark class="{_look(i)}" data-by="{i}">{_say(name)}</mark></span>' for i, name in enumerate(experts, 1)
    )
    return "".join(marks)


def _text_card(number: int, text: TracedText, experts: Sequence[str]) -> str:
    tokens, deferred = len(text.tokens), text.n_deferred
    rate = f" ({deferred / tokens:.1%})" if tokens else ""
    prompt = ""
    if text.prompt is not None:
        prompt = (
            f'<details><summary>prompt</summary><div class="text" dir="auto">{_marked(text.prompt)}</div></details>'
        )
    kinds = classify(text)
    before = [None, *text.tokens]
    shown = "".join(
        _token(i, token, kind, _mark_of(token, last, experts))
        for i, (token, kind, last) in enumerate(zip(text.tokens, kinds, before, strict=False))
    )
    return (
        f'<article class="card" id="text-{number}">\n<div class="head"><h3>{number}. {_say(text.title)}</h3>'
        f'<span class="soft">{deferred:,} of {tokens:,} tokens deferred{rate}</span></div>\n'
        f'{prompt}<div class="text generated" dir="auto" role="group" aria-label="tokens of text {number}">'
        f"{shown}</div>\n</article>\n"
    )


def _marked(text: str) -> str:
    """Text with marks at newlines and escaped characters."""
    stretches = []
    for stretch, hidden in split_hidden(text):
        if hidden:
            stretches.append(f'<i class="x">{escape(stretch)}</i>')
        else:
            stretches.append(escape(stretch).replace("\n", '<i class="l">\n</i>'))
    return "".join(stretches)


def _mark_of(token: Token, before: Token | None, experts: Sequence[str]) -> tuple[str, str]:
    """Class of one of several experts, and the attribute that shows its number where its run begins."""
    if not experts or not token.deferred:
        return "", ""
    number = 1 + experts.index(token.source)
    begins = before is None or before.source != token.source
    return _look(number), f' data-by="{number}"' if begins else ""


def _look(number: int) -> str:
    return f"w{1 + (number - 1) % LOOKS}"


def _token(i: int, token: Token, kind: Part, mark: tuple[str, str]) -> str:
    classes = [mark[0]] if mark[0] else []
    if token.defer_prob is not None and (shade := round(_SHADES * token.defer_prob)):
        classes.append(f"p{shade}")
    if not token.text:
        classes.append("e" if kind == "end" else "z")
    tag = "mark" if token.deferred else "span"
    # The style sheet shows the label beside the token, so that everybody gets the same words.
    label = escape(_about(i, token, kind)).replace("\n", "&#10;")
    shown = _marked(token.text)
    attributes = f"{_class(' '.join(classes))}{mark[1]}"
    return f'<{tag}{attributes} role="button" tabindex="0" aria-label="{label}">{shown}</{tag}>'


def _probability(p: float) -> str:
    """Three digits, which never make a small chance none, or a large one certainty."""
    if 0.0 < p < 0.001:
        return "<0.001"
    return ">0.999" if 0.999 < p < 1.0 else f"{p:.3f}"


def _about(i: int, token: Token, kind: Part) -> str:
    p = "not recorded" if token.defer_prob is None else _probability(token.defer_prob)
    written = f"“{on_one_line(token.text)}”" if token.text else LABELS[kind]
    lines = [
        f"{written}: defer probability {p}, written by {_writer(token.source)}",
        f"token {i + 1}, id {token.id}: {LABELS[kind]}",
    ]
    other = [likely for likely in token.top_logprobs if likely.id != token.id]
    if other:
        lines.append("other likely tokens: " + ", ".join(map(_likely, other)))
    return "\n".join(lines)


def _writer(source: str) -> str:
    return f"the {source}" if source in ("base", "assistant") else visible(source)


def _likely(likely: TopLogprob) -> str:
    p = min(1.0, math.exp(likely.logprob))  # rounding may leave a log-probability a little above 0
    return f"“{on_one_line(likely.text)}”" + (f" {p:.1%}" if likely.logprob > -math.inf else "")

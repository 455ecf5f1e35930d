"""The style sheet of the page: the layout, below the colours and the look of tokens that all pages share."""

from __future__ import annotations

from ..files.style_sheet import TOKENS

__all__ = ["LOOKS", "STYLE"]

# Lines below the tokens of each expert, on a light page and on a dark one. A number says the same as the colour.
_LINES = (
    ("solid", "#0b5d70", "#7fdcf0"),
    ("double", "#8a2be2", "#d0a8ff"),
    ("dotted", "#9a5b00", "#f0b860"),
    ("dashed", "#1d6b2f", "#86d99a"),
    ("wavy", "#2447c9", "#9db4ff"),
    ("solid", "#b3261e", "#ffb4ab"),
    ("double", "#00695c", "#80cbc4"),
    ("dotted", "#ad1a6b", "#ff9fd0"),
    ("dashed", "#5d4037", "#c8b0a5"),
)
LOOKS = len(_LINES)
_MARKS = "".join(
    f"mark.w{number} {{ text-decoration: underline 2px {line} light-dark({light}, {dark}); }}\n"
    for number, (line, light, dark) in enumerate(_LINES, start=1)
)

STYLE = (
    TOKENS
    + """
main { max-width: 72rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; letter-spacing: -.01em; }
h2 { font-size: 1.15rem; margin: 0 0 .7rem; }
h3 { font-size: 1rem; margin: 0; overflow-wrap: anywhere; }
p { margin: .3rem 0; overflow-wrap: anywhere; }
.facts { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.3rem 0; padding: 0; }
.facts div {
  flex: 1 1 8rem; background: var(--card); border: 1px solid var(--line);
  border-radius: .6rem; padding: .7rem 1rem;
}
.facts dt { color: var(--soft); font-size: .85rem; }
.facts dd { margin: 0; font-size: 1.5rem; font-weight: 650; font-variant-numeric: tabular-nums; }
.card { padding: 1.1rem 1.25rem; margin: 0 0 1rem; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(19rem, 100%), 1fr)); gap: 1rem; }
thead th, thead .n { white-space: normal; vertical-align: bottom; }
.track { min-width: 7rem; width: 26%; }
.slim { width: 8rem; min-width: 5rem; }
.text { font: .92rem/1.75 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.ex { display: block; color: var(--soft); }
.ex code { font-size: .86rem; }
.ex mark { color: var(--ink); }
.ex small { font-size: .75rem; overflow-wrap: anywhere; }
.chart { display: flex; align-items: flex-end; gap: .4rem; margin: 0 0 .6rem; padding: 0; list-style: none; }
.chart li { flex: 1; min-width: 0; text-align: center; font-size: .75rem; font-variant-numeric: tabular-nums; }
.chart b {
  display: block; height: calc(var(--share) * 100px); min-height: 1px;
  background: var(--bar); border-radius: .2rem .2rem 0 0;
}
.scale { white-space: nowrap; }
.scale span { display: inline-block; width: min(1.5rem, 3.5vw); height: 1.1rem; vertical-align: -.2rem; }
.head { display: flex; flex-wrap: wrap; gap: .2rem 1rem; justify-content: space-between; margin: 0 0 .6rem; }
details { margin: 0 0 .7rem; font-size: .92rem; }
summary { cursor: pointer; color: var(--soft); }
.generated { position: relative; }
[role="button"] { cursor: help; }
[role="button"]:hover { outline: 1px solid var(--soft); outline-offset: 1px; }
[role="button"]:focus { outline: 2px solid var(--ink); outline-offset: 1px; }
[role="button"]:hover::after, [role="button"]:focus::after {
  content: attr(aria-label); display: block; position: absolute; z-index: 1;
  left: var(--left, 0); right: var(--right, auto); box-sizing: border-box; width: max-content;
  max-width: var(--room, 100%); margin-top: .25rem; padding: .4rem .6rem;
  background: var(--card); color: var(--ink); border: 1px solid var(--soft); border-radius: .4rem;
  box-shadow: 0 .2rem .8rem rgb(0 0 0 / .3);
  font: .85rem/1.4 system-ui, sans-serif; text-align: left; direction: ltr;
  white-space: pre-wrap; overflow-wrap: anywhere;
}
[role="button"]:hover::after { z-index: 2; pointer-events: none; }
[role="button"]:focus::after { pointer-events: auto; }
.generated:has([role="button"]:hover) [role="button"]:focus:not(:hover)::after { display: none; }
.closed [role="button"]::after { display: none !important; }
.e::before { content: "\\27E8 end\\27E9"; font-size: .85em; color: var(--soft); }
mark.e::before, [class^="p"].e::before { color: inherit; }
"""
    + _MARKS
    + """mark[data-by]::before { content: attr(data-by); font-size: .7em; vertical-align: super; line-height: 1; }
mark[data-by].e::before { content: attr(data-by) "\\27E8 end\\27E9"; }
@media (max-width: 58rem) {
  main { padding: 1.25rem .75rem 3rem; }
  .card { padding: .9rem .8rem; }
  table, tbody, td { display: block; }
  thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  tbody tr {
    display: grid; grid-template-columns: repeat(auto-fill, minmax(6.2rem, 1fr));
    gap: .25rem .8rem; padding: .6rem 0; border-bottom: 1px solid var(--line);
  }
  tbody tr:last-child { border-bottom: 0; }
  tbody th, tbody td, tbody .n { padding: 0; border: 0; text-align: left; white-space: normal; }
  tbody th { font-weight: 650; }
  tbody th, .track, .slim, .whole { grid-column: 1 / -1; width: auto; }
  tbody th, .track, .slim { order: -1; }
  .bar { margin: 0 0 .2rem; }
  td[data-label]::before {
    content: attr(data-label); display: block;
    color: var(--soft); font-size: .78rem; line-height: 1.2;
  }
  .chart { display: block; }
  .chart li { display: grid; grid-template-columns: 1.4rem 3.4rem 1fr; gap: .5rem; align-items: center; }
  .chart li { font-size: .85rem; }
  .chart li > :last-child { order: -1; }
  .chart b { height: .62rem; width: calc(var(--share) * 100%); min-width: 1px; border-radius: .2rem; }
}
@media print {
  :root {
    color-scheme: light;
    --page: #ffffff; --card: #ffffff; --ink: #000000; --soft: #444444; --line: #bbbbbb;
  }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  body { font-size: 11pt; }
  main { max-width: none; padding: 0; }
  .card { border-radius: 0; }
  tr, .chart, .facts div, .head { break-inside: avoid; }
  .head, h2 { break-after: avoid; }
  [role="button"]::after { display: none !important; }
}
"""
)

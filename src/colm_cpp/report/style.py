"""The style sheet of the page.

Every text stands out from its background with a contrast of at least 4.5 (WCAG AA) in both modes, on the strongest
shade too. Newlines and ends of texts are shown by the style sheet alone, so that text copied from the page is the
text that was generated.
"""

from __future__ import annotations

__all__ = ["STYLE"]

_SHADES = "\n".join(f".p{i} {{ background: rgb(var(--shade) / {0.06 * i:.2f}); }}" for i in range(1, 11))

STYLE = (
    """
:root {
  color-scheme: light dark;
  --page: #fbfaf8; --card: #ffffff; --ink: #1c1e22; --soft: #5a5f69; --line: #dedbd5; --bar: #0e7c93;
  --shade: 14 165 198; --under: #0b5d70;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14161a; --card: #1b1e24; --ink: #e9e7e2; --soft: #a5abb6; --line: #343943; --bar: #38b2cc;
    --shade: 12 120 146; --under: #7fdcf0;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; letter-spacing: -.01em; }
h2 { font-size: 1.15rem; margin: 0 0 .7rem; }
h3 { font-size: 1rem; margin: 0; overflow-wrap: anywhere; }
p { margin: .3rem 0; }
.soft { color: var(--soft); }
.facts { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.3rem 0; padding: 0; }
.facts div {
  flex: 1 1 8rem; background: var(--card); border: 1px solid var(--line);
  border-radius: .6rem; padding: .7rem 1rem;
}
.facts dt { color: var(--soft); font-size: .85rem; }
.facts dd { margin: 0; font-size: 1.5rem; font-weight: 650; font-variant-numeric: tabular-nums; }
.card {
  background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: 1.1rem 1.25rem; margin: 0 0 1rem; min-width: 0;
}
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(19rem, 100%), 1fr)); gap: 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .32rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; white-space: nowrap; }
tbody th { color: var(--ink); font-weight: 500; }
tbody tr:last-child > * { border-bottom: 0; }
.n { text-align: right; white-space: nowrap; }
thead th, thead .n { white-space: normal; vertical-align: bottom; }
.track { min-width: 7rem; width: 26%; }
.slim { width: 8rem; min-width: 5rem; }
.bar {
  display: block; height: .62rem; margin-top: .42rem;
  border-radius: .2rem; background: var(--bar); min-width: 1px;
}
code, .text { font: .92rem/1.75 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
code { white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.4; }
.ex { display: block; font-size: .86rem; color: var(--soft); }
.ex mark { color: var(--ink); }
.chart { display: flex; align-items: flex-end; gap: .4rem; margin: 0 0 .6rem; padding: 0; list-style: none; }
.chart li { flex: 1; text-align: center; font-size: .75rem; font-variant-numeric: tabular-nums; }
.chart b { display: block; background: var(--bar); border-radius: .2rem .2rem 0 0; min-height: 1px; }
@media (max-width: 30rem) { .chart { gap: .15rem; } .chart li { font-size: .58rem; min-width: 0; } }
.legend {
  display: flex; flex-wrap: wrap; gap: .4rem 1.4rem;
  align-items: center; margin: .2rem 0 1.1rem; font-size: .92rem;
}
.scale span { display: inline-block; width: 1.5rem; height: 1.1rem; vertical-align: -.2rem; }
.head { display: flex; flex-wrap: wrap; gap: .2rem 1rem; justify-content: space-between; margin: 0 0 .6rem; }
details { margin: 0 0 .7rem; font-size: .92rem; }
summary { cursor: pointer; color: var(--soft); }
.text { white-space: pre-wrap; overflow-wrap: anywhere; tab-size: 4; }
.text span, .text mark { border-radius: .15rem; }
mark {
  background: none; color: inherit; font-weight: 600;
  text-decoration: underline 2px var(--under); text-underline-offset: .22em;
}
mark.p0 { background: none; }
i { font-style: normal; }
.l::before { content: "\\21B5"; color: var(--soft); }
.x { border: 1px solid var(--line); border-radius: .2rem; font-size: .85em; }
mark .l::before, [class^="p"] .l::before { color: inherit; }
.e::before { content: "\\27E8 end\\27E9"; font-size: .85em; color: var(--soft); }
mark.e::before, [class^="p"].e::before { color: inherit; }
.z::before { content: "\\00B7"; }
"""
    + _SHADES
    + """
@media print {
  :root {
    color-scheme: light;
    --page: #ffffff; --card: #ffffff; --ink: #000000; --soft: #444444; --line: #bbbbbb; --bar: #0e7c93;
    --shade: 14 165 198; --under: #0b5d70;
  }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  body { font-size: 11pt; }
  main { max-width: none; padding: 0; }
  .card { border-radius: 0; }
  tr, .chart, .facts div, .head { break-inside: avoid; }
  .head, h2 { break-after: avoid; }
}
"""
)

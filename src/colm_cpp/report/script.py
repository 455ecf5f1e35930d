"""The one script of the page: keys, and tapping where a browser does not focus what was tapped.

Without it everything can still be read: the style sheet alone shows what is known of the token that is pointed at or
has the focus. The script puts that beside the token rather than at the margin, makes each text one stop of the Tab key,
in which the arrow keys move, and lets Escape close.
"""

from __future__ import annotations

import base64
import hashlib

__all__ = ["SCRIPT", "SCRIPT_HASH"]

SCRIPT = """
"use strict";
const TOKEN = ".generated > [role=button]";
const STEPS = {
  ArrowRight: (at) => at.nextElementSibling,
  ArrowLeft: (at) => at.previousElementSibling,
  Home: (at) => at.parentElement.firstElementChild,
  End: (at) => at.parentElement.lastElementChild,
};
const tokenOf = (node) => (node instanceof Element ? node.closest(TOKEN) : null);
const close = (closed) => document.body.classList.toggle("closed", closed);
const place = (at) => {
  const text = at.parentElement.getBoundingClientRect();
  const own = [...at.getClientRects()].at(-1) ?? text;
  const left = own.left - text.left;
  const right = Math.max(0, text.right - own.right);
  const onLeft = left < text.width / 2;
  at.style.setProperty("--left", onLeft ? `${left}px` : "auto");
  at.style.setProperty("--right", onLeft ? "auto" : `${right}px`);
  at.style.setProperty("--room", `${text.width - (onLeft ? left : right)}px`);
};

for (const text of document.querySelectorAll(".generated")) {
  for (const token of text.querySelectorAll(":scope > [role=button]:not(:first-child)")) token.tabIndex = -1;
}
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") return void close(true);
  const at = tokenOf(event.target);
  if (!at || event.altKey || event.ctrlKey || event.metaKey) return;
  if (event.key === "Enter" || event.key === " ") close(!document.body.classList.contains("closed"));
  else if (event.key in STEPS) STEPS[event.key](at)?.focus();
  else return;
  event.preventDefault();
});
document.addEventListener("focusin", (event) => {
  const at = tokenOf(event.target);
  if (!at) return;
  close(false);
  place(at);
  for (const token of at.parentElement.querySelectorAll(":scope > [tabindex='0']")) token.tabIndex = -1;
  at.tabIndex = 0;
});
document.addEventListener("pointerover", (event) => {
  close(false);
  const at = tokenOf(event.target);
  if (at) place(at);
});
document.addEventListener("click", (event) => {
  const at = tokenOf(event.target);
  if (at) at.focus();
  else tokenOf(document.activeElement)?.blur();
});
"""

SCRIPT_HASH = "sha256-" + base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
"""What the page's policy allows to run: this script and nothing else."""

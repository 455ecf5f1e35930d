"""One token's way through a pair."""

from __future__ import annotations

from .drawing import Picture


def loop() -> Picture:
    """The loop: text, base, head, and one of two writers."""
    picture = Picture(
        810,
        290,
        "How a pair writes one token",
        "The base reads the text so far and gives its hidden state to the head. The head gives the defer probability "
        "p. If p is at most the threshold, the base's token is written; if it is larger, the assistant's. "
        "Either way the token is appended to the text, and the loop begins again.",
    )
    for x, name, line, classes in (
        (20, "the text so far", "… 143 * 5 =", "paper ink-line"),
        (222, "base", "reads the last token", "base-box base-line"),
        (424, "head", "p = 0.92", "paper ink-line"),
    ):
        picture.box(x, 110, 150, 70, classes)
        picture.text(x + 75, 140, name, "ink strong", "middle")
        picture.text(x + 75, 162, line, "ink small", "middle")
    picture.path("M170 145H220", arrow=True)
    picture.path("M372 145H422", arrow=True)
    picture.text(397, 102, "hidden state", "soft small", "middle")
    for y, name, line, classes in (
        (44, "p ≤ threshold", "the base's token", "base-box base-line"),
        (176, "p > threshold", "the assistant's token", "assistant-box assistant-line"),
    ):
        picture.box(622, y, 166, 70, classes)
        picture.text(705, y + 30, name, "ink strong", "middle")
        picture.text(705, y + 52, line, "ink small", "middle")
    picture.path("M574 132H598V79H620", arrow=True)
    picture.path("M574 158H598V211H620", arrow=True)
    picture.path("M705 44V18H95V108", arrow=True)
    picture.path("M705 246V272H95V182", arrow=True)
    picture.text(400, 36, "the token is appended", "soft small", "middle")
    picture.text(400, 264, "the token is appended; the assistant has read the text up to here", "soft small", "middle")
    return picture

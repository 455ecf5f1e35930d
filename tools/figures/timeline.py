"""What look-ahead does to the time of a text."""

from __future__ import annotations

from .drawing import Picture

STEP = 42.0  # a step of the base
CALL = 84.0  # a call of the assistant for one token
MORE = 8.0  # each further token of a call
LEFT = 120.0
ROW = 34.0


class Track:
    """The two rows of one way of writing the same seven tokens."""

    def __init__(self, picture: Picture, top: float, title: str) -> None:
        self.picture, self.top, self.at = picture, top, LEFT
        picture.text(20, top - 12, title, "ink strong")
        picture.text(LEFT - 12, top + 21, "base", "ink", "end")
        picture.text(LEFT - 12, top + ROW + 27, "assistant", "ink", "end")

    def base(self, text: str, classes: str = "base-box base-line") -> Track:
        self.picture.box(self.at, self.top, STEP - 3, ROW - 3, classes)
        self.picture.text(self.at + (STEP - 3) / 2, self.top + 20, text, "ink small", "middle")
        self.at += STEP
        return self

    def draft(self, text: str) -> Track:
        return self.base(text, "paper base-line dashed")

    def call(self, *texts: str) -> Track:
        width = CALL + MORE * (len(texts) - 1)
        y = self.top + ROW + 6
        self.picture.box(self.at, y, width - 3, ROW - 3, "assistant-box assistant-line")
        self.picture.text(self.at + (width - 3) / 2, y + 20, "  ".join(texts), "ink small", "middle")
        self.at += width
        return self

    def end(self) -> None:
        self.picture.path(f"M{self.at + 4:.1f} {self.top - 4:.1f}V{self.top + 2 * ROW + 6:.1f}", "ink-line")
        self.picture.text(self.at + 10, self.top + ROW + 8, "7 tokens", "soft small")


def timeline() -> Picture:
    """Seven tokens, of which three are deferred: without look-ahead, with right drafts, with a wrong one."""
    picture = Picture(
        790,
        414,
        "Seven tokens without look-ahead and with it",
        "Time goes to the right. Without look-ahead the base stops at each of the three deferred tokens, 3, 5 and 6, "
        "and the assistant is called three times. With look-ahead the base drafts these tokens and goes on, and one "
        "call verifies all three. If the draft of token 5 is wrong, the assistant's token replaces it, and token 6 is "
        "written again.",
    )
    track = Track(picture, 48, "Without look-ahead: three calls")
    track.base("1").base("2").base("3").call("3").base("4").base("5").call("5").base("6").call("6").base("7").end()
    track = Track(picture, 172, "With look-ahead, all drafts accepted: one call")
    track.base("1").base("2").draft("3?").base("4").draft("5?").draft("6?").call("3 ✓", "5 ✓", "6 ✓").base("7").end()
    track = Track(picture, 296, "With look-ahead, the draft of token 5 rejected: two calls")
    track.base("1").base("2").draft("3?").base("4").draft("5?").draft("6?")
    track.call("3 ✓", "5 ✗", "6").base("6").call("6").base("7").end()
    picture.text(
        20,
        400,
        "The head defers the tokens 3, 5 and 6. Dashed: a draft of the base. What follows a wrong draft is dropped.",
        "soft small",
    )
    return picture

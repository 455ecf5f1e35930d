"""Reading what a model writes where it may call functions: content and calls, piece by piece."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from .answers import new_id
from .tools import Form

__all__ = ["Call", "Splitter"]


@dataclass
class Call:
    """A call that the model made.

    Attributes:
        id: made up here, so that a result can name it.
        name: the function.
        arguments: JSON, as the model wrote it.
    """

    name: str
    arguments: str = ""
    id: str = field(default_factory=lambda: new_id("call_"))

    def to_dict(self) -> dict[str, Any]:
        """As chat completions have it."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


class Splitter:
    """Splits a text into content and calls, piece by piece.

    Attributes:
        content: the content so far.
        calls: the calls so far.
    """

    def __init__(self, form: Form | None) -> None:
        self._form = form
        self._left = ""  # not yet read
        self._call: _CallReader | None = None
        self.content = ""
        self.calls: list[Call] = []

    def feed(self, text: str) -> list[dict[str, Any]]:
        """The deltas that a further piece of the text brings, in the form of chat completions."""
        if self._form is None:
            return self._say(text)
        self._left += text
        deltas: list[dict[str, Any]] = []
        while self._step(self._form, deltas):
            pass
        return deltas

    def end(self) -> list[dict[str, Any]]:
        """What was held back because it might have begun a call."""
        left, self._left = self._left, ""
        return self._say(left) if self._call is None and not self.calls else []

    def _say(self, text: str) -> list[dict[str, Any]]:
        self.content += text
        return [{"content": text}] if text else []

    def _step(self, form: Form, deltas: list[dict[str, Any]]) -> bool:
        """Reads what can be told apart; whether there may be more of it."""
        if self._call is not None:
            self._left = self._read_call(self._call, deltas)
            return self._call is None and bool(self._left)
        if (
            not self.content
            and not self.calls
            and any(begin.startswith(self._left[: len(begin)]) for begin in form.bare)
        ):
            if not self._left.startswith(form.bare):
                return False  # it may become one
            self._call = _CallReader(form.keys)
            return True
        at = self._left.find(form.trigger)
        only_first = not form.opening.strip()
        if at >= 0 and (not only_first or not (self.content or self._left[:at].strip())):
            if not self.calls:
                deltas += self._say(self._left[:at].rstrip() if self.content == "" else self._left[:at])
            begin = self._left.find("{", at)
            if begin < 0:
                self._left = self._left[at:]
                return False
            self._left = self._left[begin:]
            self._call = _CallReader(form.keys)
            return True
        if self.calls:  # what stands between and behind calls is no content
            return False
        held = 0
        if not only_first or not self.content:
            held = next(n for n in range(len(form.trigger) - 1, -1, -1) if self._left.endswith(form.trigger[:n]))
        said, self._left = self._left[: len(self._left) - held], self._left[len(self._left) - held :]
        deltas += self._say(said)
        return False

    def _read_call(self, reader: _CallReader, deltas: list[dict[str, Any]]) -> str:
        name, arguments, rest = reader.feed(self._left)
        if name is not None:
            self.calls.append(Call(name))
            call = self.calls[-1]
            function = {"name": call.name, "arguments": ""}
            deltas.append(
                {
                    "tool_calls": [
                        {"index": len(self.calls) - 1, "id": call.id, "type": "function", "function": function}
                    ]
                }
            )
        if arguments:
            self.calls[-1].arguments += arguments
            deltas.append({"tool_calls": [{"index": len(self.calls) - 1, "function": {"arguments": arguments}}]})
        if rest is None:
            return ""
        self._call = None
        return rest


class _CallReader:
    """Reads the JSON object of one call, whose name comes before its arguments."""

    def __init__(self, keys: tuple[str, str]) -> None:
        self._keys = keys
        self._text = ""
        self._at = 0  # read so far, once the arguments have begun
        self._named = False
        self._depth = 0
        self._in_string = self._escaped = False
        self._arguments = False  # whether they have begun
        self._closed = False  # whether they have ended

    def feed(self, text: str) -> tuple[str | None, str, str | None]:
        """The name, once; further text of the arguments; and what stands behind the object, once it has ended."""
        self._text += text
        name = None
        if not self._named:
            name = self._find_name()
            self._named = name is not None
        if self._named and not self._arguments:
            self._find_arguments()
        taken = self._take() if self._arguments and not self._closed else ""
        if self._closed and (end := self._text.find("}", self._at)) >= 0:
            return name, taken, self._text[end + 1 :]
        return name, taken, None

    def _after(self, key: str, begin: int) -> int | None:
        """Where the value of a key begins."""
        at = self._text.find(json.dumps(key), begin)
        colon = -1 if at < 0 else self._text.find(":", at + len(json.dumps(key)))
        if colon < 0:
            return None
        value = colon + 1
        while value < len(self._text) and self._text[value] in " \t\r\n":
            value += 1
        return value if value < len(self._text) else None

    def _find_name(self) -> str | None:
        begin = self._after(self._keys[0], 0)
        if begin is None:
            return None
        try:
            name, self._at = json.JSONDecoder().raw_decode(self._text, begin)
        except ValueError:
            return None
        return str(name)

    def _find_arguments(self) -> None:
        begin = self._after(self._keys[1], self._at)
        if begin is not None:
            self._at, self._arguments = begin, True

    def _take(self) -> str:
        begin = self._at
        while self._at < len(self._text) and not self._closed:
            char = self._text[self._at]
            if self._in_string:
                if self._escaped:
                    self._escaped = False
                elif char == "\\":
                    self._escaped = True
                elif char == '"':
                    self._in_string = False
            elif char == '"':
                self._in_string = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
            self._at += 1
            if self._depth == 0 and not self._in_string and char in "}]":
                self._closed = True
        return self._text[begin : self._at]

"""What results look like at a prompt and in a notebook."""

from __future__ import annotations

import dataclasses
import html.parser
import pickle
from typing import Any

import pytest

import colm_cpp as colm

HOSTILE = [
    '<script>alert("x")</script>',
    "</span><b>",
    "&amp;",
    "'\"><img src=x onerror=y>",
    "\u202eabc",
    "\n  two",
    "",
]


class Spans(html.parser.HTMLParser):
    """The texts of the spans with a title, and every element and attribute met."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.spans: list[tuple[str, str, str]] = []
        self._open: list[dict[str, Any]] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self._open.append(dict(attrs))
        if "title" in dict(attrs):
            self.spans.append((str(dict(attrs)["title"]), str(dict(attrs)["style"]), ""))

    def handle_endtag(self, tag: str) -> None:
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open and "title" in self._open[-1]:
            title, style, text = self.spans.pop()
            self.spans.append((title, style, text + data))


def completion(texts: list[str]) -> colm.Completion:
    made = [colm.Token(i, text, i % 2, 0.5, 0.3, -1.0) for i, text in enumerate(texts)]
    stats = colm.Stats(3, len(texts), 0.5, 4, 2, False, 0, 0, 7, 7, 0.1, 0.5, 12.34, 99)
    return colm.Completion("".join(texts), colm.results.Tokens(made), "eos", stats)


def test_of_a_text_that_was_written(pair: colm.Pair) -> None:
    out = pair.generate("The sun", max_tokens=100, seed=1, threshold=0.7, logprobs=5)
    for value in (out, out.tokens, out.stats, out.tokens[0], pair):
        assert len(repr(value)) < 350, repr(value)
    n = out.stats.generated_tokens
    assert f"{n} token" in repr(out)
    assert f"{out.stats.deferral_rate:.0%}" in repr(out)
    assert out.finish_reason in repr(out)
    assert "1" in repr(out.stats)
    assert repr(out.tokens).startswith(f"<{len(out.tokens)} tokens")
    batch = pair.generate_batch(["a"], max_tokens=40, temperature=0)
    assert len(repr(batch[0].tokens)) < 350


def test_long_texts_are_cut_and_short_ones_are_whole() -> None:
    assert repr("a b") in repr(completion(["a", " b"]))
    long = completion(["word "] * 500)
    assert len(repr(long)) < 200
    assert str(long) == long.text == "word " * 500
    assert "1 token," in repr(completion(["a"]).stats)


def test_tokens_are_a_tuple() -> None:
    out = completion(["a", "b"])
    assert isinstance(out.tokens, tuple)
    assert out.tokens == tuple(out.tokens)
    assert pickle.loads(pickle.dumps(out)) == out
    fields = dataclasses.asdict(out)
    assert [token["text"] for token in fields["tokens"]] == ["a", "b"]
    repr(fields)


def test_of_heads() -> None:
    linear = colm.Head.linear([0.1] * 2000, features=("entropy",), name="mine", default_threshold=0.3)
    for part in ("mine", "linear", "2000 -> 1", "entropy", "0.3"):
        assert part in repr(linear)
    assert len(repr(linear)) < 200
    deep = colm.Head.mlp([[[0.5] * 64] * 8, [[0.5] * 8]], [[0.0] * 8, [0.0]])
    assert "64 -> 8 -> 1" in repr(deep)
    calibrated = linear.replace(rates=(0.1, 0.2, 0.5), thresholds=(0.9, 0.8, 0.4))
    assert "3 rates" in repr(calibrated)


def test_a_notebook_shows_who_wrote_each_token() -> None:
    out = completion(["one", " two", " three"])
    shown = Spans(out._repr_html_())
    assert [text for _, _, text in shown.spans] == ["one", " two", " three"]
    assert [title.split(",")[0] for title, _, _ in shown.spans] == ["base", "assistant", "base"]
    styles = [style for _, style, _ in shown.spans]
    assert styles[0] == styles[2] != styles[1]
    assert all(f"{out.tokens[0].defer_prob:.2f}" in title for title, _, _ in shown.spans)
    assert "50% deferred" in out._repr_html_()
    assert Spans(out.tokens._repr_html_()).spans == shown.spans  # type: ignore[attr-defined]


def test_a_notebook_takes_no_orders_from_the_text() -> None:
    shown = Spans(completion(HOSTILE)._repr_html_())
    assert shown.elements == {"div", "span"}
    assert shown.attributes == {"style", "title"}
    assert [text for _, _, text in shown.spans] == [text for text in HOSTILE if text]
    assert all("isolate" in style for _, style, _ in shown.spans)


@pytest.mark.parametrize("name", ["threshold", "defer_rate", "target_rate"])
def test_a_percentage_is_asked_about(pair: colm.Pair, name: str) -> None:
    for value, meant in ((20, "0.2"), (2.5, "0.025"), (100, "1?")):
        with pytest.raises(colm.OptionError, match=rf"{name} is {value}.*{meant}"):
            pair.generate("a", **{name: value})
    for value in (-1, 101, 1e9, float("inf")):
        with pytest.raises(colm.OptionError, match=f"{name} is") as error:
            pair.generate("a", **{name: value})
        assert "?" not in str(error.value)

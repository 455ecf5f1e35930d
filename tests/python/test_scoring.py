"""What both models think of each token, against the oracle; and which tokens of a document are scored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import oracle as o
import pytest
import scorer_worlds
import tiny_models as tm
from conftest import ASSISTANT, BASE, TINY_LOAD, TinyModels
from scorer_worlds import D, Scorers

from colm_cpp import _core
from colm_cpp.corpus.documents import BadRow
from colm_cpp.corpus.texts import Text, grouped
from colm_cpp.errors import ContextFull, GenerationError, OptionError, PairClosed, TokenizeError
from colm_cpp.learn.scoring import Scorer

scorers = scorer_worlds.scorers


TOP_K = 5
# Of log-probabilities, and of hidden states, whose float16 has steps of a thousandth of the value. gemma3's GELU is a
# table of float16 values, in which rounding may take the next entry.
TOLERANCE, GEMMA_TOLERANCE = 1e-3, 1e-2

# name -> options of the base, of the assistant, and of loading
PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "tails and padding of their own": (BASE, ASSISTANT, {}),
    "small batches": (BASE, {**ASSISTANT, "n_embd": 64}, {"n_batch": 5}),
    "padding inside": (
        {"vocab": tm.Vocab(n_padding=4, tail=(D,), tail_after_padding=True), "seed": 7},
        {"vocab": tm.Vocab(n_padding=4, tail=(D, "<|x|>"), tail_after_padding=True), "arch": "qwen2"},
        {"n_batch": 16},
    ),
    "recurrent base": ({"arch": "mamba", "extra_tail": (D,)}, {"arch": "llama"}, {}),
    "recurrent assistant": ({"arch": "qwen2"}, {"arch": "mamba", "n_padding": 2}, {"n_batch": 7}),
    "hybrids": ({"arch": "jamba", "seed": 3}, {"arch": "jamba", "seed": 4}, {"n_batch": 9}),
    "sliding window": (
        {"arch": "gemma3", "n_embd": 64},
        {"arch": "gemma3", "seed": 4, "n_padding": 3},
        {"n_ubatch": 3},
    ),
}


def text_of(tokens: Sequence[int], scored: Sequence[bool] | None = None, line: int = 1) -> Text:
    """A text with all of its tokens scored but the first, or with the marks given."""
    marks = [i > 0 for i in range(len(tokens))] if scored is None else scored
    return Text("corpus.jsonl", line, tuple(tokens), tuple(marks))


def some_texts(scorer: Scorer) -> list[Text]:
    """A plain text, a prompt with its completion, a long one, two turns, a last token alone, and two tokens."""
    ids = [
        scorer.tokenize(text, True, True)
        for text in (
            "The answer is that there are two rivers in the city.",
            "<|im_start|>user\nWhat is the name of the river?<|im_end|>\n<|im_start|>assistant\nthe answer<|im_end|>",
            "The quick brown fox jumps over the lazy dog, " * 2,
            "caf\u00e9 na\u00efve \u65e5\u672c\u8a9e \U0001f600",
            "def function(self, value):\n    return value",
        )
    ]
    turns = [i % 11 in (3, 4, 5, 9) for i in range(len(ids[3]))]
    return [
        text_of(ids[0]),
        text_of(ids[1], [i >= len(ids[1]) - 6 for i in range(len(ids[1]))], 2),
        text_of(ids[2], line=3),
        text_of(ids[3], turns, 4),
        text_of(ids[4], [i == len(ids[4]) - 1 for i in range(len(ids[4]))], 5),
        text_of(ids[4][:2], line=6),
    ]


def expected_columns(base: Path, assistant: Path, texts: Sequence[Text], allowed: Sequence[int]) -> dict[str, Any]:
    """The columns, each token's text read from its beginning by llama.cpp itself."""
    rows: dict[str, list[Any]] = {}

    def add(**values: Any) -> None:
        for name, value in values.items():
            rows.setdefault(name, []).append(value)

    with o.OracleModel(base, exact=True) as small, o.OracleModel(assistant, exact=True) as large:
        for text in texts:
            for i in (i for i, scored in enumerate(text.scored) if scored):
                token = allowed.index(text.tokens[i])
                logits, hidden = small.logits_and_hidden(text.tokens[:i])
                p = o.log_softmax(logits[list(allowed)])
                q = o.log_softmax(large.logits_and_hidden(text.tokens[:i])[0][list(allowed)])
                add(
                    token=text.tokens[i],
                    base_logprob=p[token],
                    base_top=allowed[int(p.argmax())],
                    base_top_logprob=p.max(),
                    base_log_odds=o.log_odds(p),
                    base_entropy=o.entropy(p),
                    base_top_k_logprobs=np.sort(p)[::-1][:TOP_K],
                    base_hidden=hidden,
                    assistant_logprob=q[token],
                    assistant_top=allowed[int(q.argmax())],
                    assistant_top_logprob=q.max(),
                    assistant_entropy=o.entropy(q),
                    assistant_logprob_of_base_top=q[p.argmax()],
                )
    return {name: np.array(values) for name, values in rows.items()}


# -- the columns ----------------------------------------------------------------------------------------------


SLOW_PAIRS = {"recurrent base", "recurrent assistant", "small batches"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW_PAIRS else ()) for name in PAIRS]
)
def test_columns(name: str, scorers: Scorers, tiny_model: TinyModels) -> None:
    base, assistant, load = PAIRS[name]
    scorer = scorers(base, assistant, **load)
    blocked = [i for i, token in enumerate(tm.Vocab(n_padding=4).tokens) if token.type == tm.UNUSED]
    blocked = blocked if name == "padding inside" else []
    allowed = [i for i in range(scorer.n_shared) if i not in blocked]
    texts = some_texts(scorer)
    n = scorer.n_texts
    groups = [scorer.score(texts[i : i + n], top_k=TOP_K) for i in range(0, len(texts), n)]
    together = {column: np.concatenate([columns[column] for columns, _ in groups]) for column in groups[0][0]}
    expected = expected_columns(tiny_model(**base), tiny_model(**assistant), texts, allowed)
    assert n == min(16, load.get("n_batch", 256))
    assert all(seconds > 0 for _, seconds in groups)

    tolerance = GEMMA_TOLERANCE if "gemma3" in (base.get("arch"), assistant.get("arch")) else TOLERANCE
    assert set(together) == set(expected)
    for column, values in expected.items():
        assert together[column].shape == values.shape, column
        if values.dtype.kind == "i":
            np.testing.assert_array_equal(together[column], values, column)
        else:
            np.testing.assert_allclose(
                together[column].astype(np.float64), values, atol=tolerance, rtol=tolerance, err_msg=column
            )
    assert together["base_hidden"].dtype == np.float16
    assert set(together["base_top"]) | set(together["assistant_top"]) <= set(allowed)

    # Alone as in company, in whatever place and after whatever was read before.
    alone = [scorer.score([text], top_k=TOP_K)[0] for text in reversed(texts)][::-1]
    for column in expected:
        joined = np.concatenate([columns[column] for columns in alone])
        np.testing.assert_allclose(
            joined.astype(np.float64), together[column], atol=tolerance, rtol=tolerance, err_msg=column
        )


def test_ids_of_the_tails_are_out_of_the_distribution(scorers: Scorers, tiny_model: TinyModels) -> None:
    # Rows of ids that are not shared are made so likely that they would take nearly all probability.
    vocab = tm.Vocab(n_padding=4, tail=(D,), tail_after_padding=True)
    likely: dict[str | int, float] = dict.fromkeys(range(vocab.id_of("[PAD387]"), vocab.id_of("[PAD387]") + 4), 30.0)
    plain = {"vocab": vocab, "seed": 5}
    base, assistant = {**plain, "extra_tail": ("<|x|>",)}, {**plain, "seed": 6}
    texts = some_texts(scorers(base, assistant))
    columns = scorers(base, assistant).score(texts, top_k=TOP_K)[0]
    loud_base = {**base, "row_scale": {**likely, "<|x|>": 30.0}}
    loud_assistant = {**assistant, "row_scale": likely}
    loud = scorers(loud_base, loud_assistant).score(texts, top_k=TOP_K)[0]
    for column in columns:
        np.testing.assert_allclose(loud[column], columns[column], atol=1e-5, err_msg=column)
    with o.OracleModel(tiny_model(**loud_base), exact=True) as model:
        logits = model.logits_and_hidden(texts[0].tokens[:3])[0]
    assert logits.argmax() >= vocab.id_of("[PAD387]")


def test_texts_that_are_refused(scorers: Scorers) -> None:
    scorer = scorers()
    good = text_of([1, 2, 3])
    assert scorer.n_shared == len(tm.Vocab())
    for token in (-1, scorer.n_shared, scorer.n_shared + 50):
        with pytest.raises(TokenizeError, match=f"token 1 of text 1 is id {token}"):
            scorer.score([good, text_of([1, token])], top_k=1)
    inside = scorers(*PAIRS["padding inside"][:2], **PAIRS["padding inside"][2])
    with pytest.raises(TokenizeError, match="is id 388"):
        inside.score([text_of([1, 388])], top_k=1)
    with pytest.raises(OptionError, match="scored from its first token"):
        scorer.score([text_of([1, 2], [True, True])], top_k=1)
    with pytest.raises(ContextFull, match="17 texts"):
        scorer.score([good] * 17, top_k=1)
    with pytest.raises(ContextFull, match="257 tokens"):
        scorer.score([text_of([1] * 200), text_of([1] * 57)], top_k=1)
    # What was refused leaves no trace.
    columns = scorer.score([text_of([1] * 200), text_of([1] * 56)], top_k=1)[0]
    assert len(columns["token"]) == 254


def test_a_lone_surrogate_is_no_text(scorers: Scorers) -> None:
    with pytest.raises(TokenizeError, match=r"lone surrogate \('\\ud800'\)"):
        scorers().tokenize("a\ud800", True, True)


def test_closed(tiny_model: TinyModels) -> None:
    with Scorer(tiny_model(**BASE), tiny_model(**ASSISTANT), **TINY_LOAD) as scorer:
        scorer.score([text_of([1, 2])], top_k=1)
    with pytest.raises(PairClosed, match="closed"):
        scorer.score([text_of([1, 2])], top_k=1)
    with pytest.raises(PairClosed):
        scorer.tokenize("a", True, True)


def test_lengths(tiny_model: TinyModels) -> None:
    options = {name: value for name, value in TINY_LOAD.items() if name != "n_ctx"}
    trained = {"n_ctx_train": 4096}
    with Scorer(tiny_model(**BASE, **trained), tiny_model(**ASSISTANT, **trained), **options) as scorer:
        assert scorer.n_ctx == 1024
    contexts = {"base_options": {"n_ctx": 64}, "assistant_options": {"n_ctx": 128}}
    with Scorer(tiny_model(**BASE), tiny_model(**ASSISTANT), **options, **contexts) as scorer:  # type: ignore[arg-type]
        assert (scorer.base["n_ctx"], scorer.assistant["n_ctx"], scorer.n_ctx) == (64, 128, 64)
        with pytest.raises(ContextFull, match="65 tokens"):
            scorer.score([text_of([1] * 65)], top_k=1)


class WrongCore:
    """The extension's pair with one value replaced in what it computed."""

    def __init__(self, core: _core.ScoringPair, model: int, name: str, row: int, value: float) -> None:
        self.core, self.model, self.name, self.row, self.value = core, model, name, row, value

    def score(self, texts: Any, top_k: int, own: Any) -> Any:
        scores = self.core.score(texts, top_k, own)
        np.atleast_2d(scores[self.model][self.name].T).T[self.row, -1] = self.value
        return scores


@pytest.mark.parametrize(
    ("model", "name", "value", "said"),
    [
        (0, "logprob", -math.inf, "the base's log-probability is -inf"),
        (1, "logprob", math.nan, "the assistant's log-probability is nan"),
        (0, "hidden", math.nan, "the base's hidden state is nan"),
        (0, "hidden", -65504.0, "the base's hidden state is 65504.0"),  # more has no float16
    ],
)
def test_values_that_cannot_be_kept(
    model: int, name: str, value: float, said: str, scorers: Scorers, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = scorers()
    texts = [text_of([1, 2, 3], line=4), text_of([1, 2, 3, 4], line=8)]
    monkeypatch.setattr(scorer, "_core", WrongCore(scorer.open_core(), model, name, 2, value))
    with pytest.raises(GenerationError, match=rf"^{said} .*token 2\b.*corpus\.jsonl:8$"):
        scorer.score(texts, top_k=1)
    monkeypatch.setattr(scorer, "_core", WrongCore(scorer._core.core, 0, "hidden", 2, 65000.0))  # type: ignore[union-attr]
    assert scorer.score(texts, top_k=1)[0]["base_hidden"][2, -1] == np.float16(65000.0)


# -- groups ---------------------------------------------------------------------------------------------------


def test_groups() -> None:
    def sizes(items: list[int], **limits: int) -> list[list[int]]:
        """The lengths of the texts in each group; a negative length is a bad row."""
        made: list[Text | BadRow] = [
            BadRow("f", -n, "bad") if n < 0 else Text("f", 0, (1,) * n, (True,) * n) for n in items
        ]
        groups = list(grouped(iter(made), **limits))
        return [[len(text.tokens) for text in texts] + [-row.line for row in bad] for texts, bad in groups]

    limits = {"n_tokens": 10, "n_texts": 3}
    assert sizes([], **limits) == []
    assert sizes([10, 1, 9, 1], **limits) == [[10], [1, 9], [1]]
    assert sizes([1, 1, 1, 1], **limits) == [[1, 1, 1], [1]]
    assert sizes([11, 1], **limits) == [[11], [1]]
    # Whoever goes on behind a group has passed all of its rows and none of the next.
    assert sizes([-1, 4, -2, 4, -3, 4, -4], **limits) == [[4, 4, -1, -2, -3], [4, -4]]
    assert sizes([-1, -2], **limits) == [[-1, -2]]
    for items in ([3, 4, 5, -1, 6, 7, -2, 1, 1, 1, 1, -3], [9, 2, 2, 2, 2, 2, -1, 10]):
        groups = sizes(items, **limits)
        n_first = len(groups[0])
        assert sizes(items[n_first:], **limits) == groups[1:]

"""top_n_sigma against the definition in NumPy, alone and with what stands beside it in the chain."""

from __future__ import annotations

import itertools
from typing import Any

import commands
import numpy as np
import numpy.typing as npt
import oracle as o
import pytest
from conftest import TinyPairs, ids, token_ids
from engine_calls import ENDLESS_ASSISTANT, ENDLESS_BASE, GREEDY, PROMPT, WILD

import colm_cpp as colm

# So hot that every token which is left is as likely as any other: one too many or too few shows.
HOT: dict[str, Any] = {**WILD, "temperature": 100.0}


def all_logprobs(pair: colm.Pair, text: list[int]) -> tuple[npt.NDArray[np.int64], o.F64]:
    """The ids that may follow `text`, and the base's log-probabilities: its logits but for a constant."""
    (token,) = pair.generate(text, **GREEDY, threshold=1.0, max_tokens=1, logprobs=pair.n_shared).tokens
    return np.array([top.id for top in token.top_logprobs]), np.array([top.logprob for top in token.top_logprobs])


def kept_by_definition(logits: o.F64, options: dict[str, Any]) -> npt.NDArray[np.intp]:
    """Which are left: top-n-sigma first, then the k largest, then the locally typical ones."""
    kept = np.flatnonzero(logits >= logits.max() - options["top_n_sigma"] * logits.std())
    kept = kept[np.argsort(-logits[kept], kind="stable")]
    if options.get("top_k", 0) > 0:
        kept = kept[: options["top_k"]]
    if options.get("typical_p", 1.0) < 1.0:
        log_p = o.log_softmax(logits[kept])
        order = np.argsort(np.abs(-log_p + np.exp(log_p) @ log_p), kind="stable")
        sums = np.cumsum(np.exp(log_p[order]))
        kept = kept[order[: 1 + int(np.searchsorted(sums, options["typical_p"], side="right"))]]
    return kept


@pytest.mark.parametrize(
    "beside",
    [{}, {"top_k": 3}, {"typical_p": 0.5}, {"top_k": 40, "typical_p": 0.2}],
    ids=str,
)
def test_it_keeps_what_its_definition_says(tiny_pair: TinyPairs, beside: dict[str, Any]) -> None:
    pair = tiny_pair(ENDLESS_BASE, ENDLESS_ASSISTANT)
    counts = set()
    for sigma, seed in itertools.product((0.5, 1.0, 2.0), range(2)):
        options = {**HOT, **beside, "top_n_sigma": sigma, "seed": seed}
        text = list(pair.tokenize(PROMPT))
        for token in token_ids(pair.generate(text, threshold=1.0, max_tokens=6, **options)):
            may_follow, logits = all_logprobs(pair, text)
            kept = kept_by_definition(logits, options)
            counts.add(len(kept))
            scores = logits[kept] / options["temperature"]
            assert token == o.gumbel_max(may_follow[kept].tolist(), scores.tolist(), seed, len(text))
            text.append(token)
    assert len(counts) > 1


@pytest.mark.parametrize(
    "beside",
    [
        {},
        {"grammar": 'root ::= [a-z ]+ "."'},
        {"logit_bias": {90: 20.0}},
        {"presence_penalty": 1.5},
        {"strategy": "contrastive"},
    ],
    ids=str,
)
def test_next_to_none_is_greedy(pair: colm.Pair, beside: dict[str, Any]) -> None:
    """The likeliest of the tokens that grammar, bias and penalties leave is never dropped."""
    options: dict[str, Any] = {"head": "random", "max_tokens": 20, "seed": 3, **beside}
    greedy = ids(pair.generate(PROMPT, **options, temperature=0.0))
    assert ids(pair.generate(PROMPT, **options, **HOT)) != greedy
    assert ids(pair.generate(PROMPT, **options, **HOT, top_n_sigma=1e-30)) == greedy
    assert ids(pair.generate(PROMPT, **options, temperature=0.0, top_n_sigma=1.0)) == greedy


def test_off(pair: colm.Pair) -> None:
    """0 drops nothing, and neither do more deviations than any token is away."""
    options: dict[str, Any] = {**HOT, "head": "random", "max_tokens": 20, "seed": 3}
    plain = ids(pair.generate(PROMPT, **options))
    assert ids(pair.generate(PROMPT, **options, top_n_sigma=0)) == plain
    assert ids(pair.generate(PROMPT, **options, top_n_sigma=3e38)) == plain
    assert ids(pair.generate(PROMPT, **options, top_n_sigma=1.0)) != plain


def test_several_texts_and_drafts(pair: colm.Pair) -> None:
    options: dict[str, Any] = {**HOT, "head": "random", "max_tokens": 20, "top_n_sigma": 1.0, "seed": 5}
    alone = ids(pair.generate(PROMPT, **options))
    assert ids(pair.generate(PROMPT, **options, lookahead=4)) == alone
    for written in pair.generate_batch([PROMPT] * 2, each=[{"seed": 5}] * 2, **options):
        assert isinstance(written, colm.Completion)
        assert ids(written) == alone


def test_the_flag() -> None:
    """It does what the keyword does; the server's field is in `server_cases.py`."""
    given: dict[str, Any] = {**HOT, "seed": 1, "max_tokens": 12}
    flags = [part for name, value in given.items() for part in ("--" + name.replace("_", "-"), value)]
    command = ["generate", PROMPT, "--pair", "demo", "--quiet", *flags]
    with colm.load("demo") as demo:
        wanted, plain = demo.generate(PROMPT, **given, top_n_sigma=0.5).text, demo.generate(PROMPT, **given).text
    assert commands.succeed(*command, "--top-n-sigma", "0.5").stdout.rstrip("\n") == wanted.rstrip("\n") != plain
    assert "--top-n-sigma is -1" in commands.fail(*command, "--top-n-sigma", "-1")

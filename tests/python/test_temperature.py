"""A temperature so small that logits divided by it overflow is greedy, whatever else is chosen."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import tiny_models as tm
from conftest import BASE, TINY_LOAD, TinyPairs, token_ids

import colm_cpp as colm

UNFILTERED: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
FILTERS: list[dict[str, Any]] = [{}, UNFILTERED, {"typical_p": 0.999, "top_k": 0}]
PROMPTS = ["The sun", "12 + 7 ="]


@pytest.mark.parametrize("temperature", [1e-45, 1e-39, 1e-30])
def test_it_is_greedy(tiny_pair: TinyPairs, temperature: float) -> None:
    pair = tiny_pair()
    for filters, threshold in itertools.product(FILTERS, (0.0, 0.7)):
        options: dict[str, Any] = {"threshold": threshold, "max_tokens": 6, "seed": 3, **filters}
        greedy = [token_ids(pair.generate(prompt, **{**options, "temperature": 0.0})) for prompt in PROMPTS]
        options["temperature"] = temperature
        assert [token_ids(pair.generate(prompt, **options)) for prompt in PROMPTS] == greedy, filters
        assert [token_ids(pair.generate(prompt, **options, lookahead=5)) for prompt in PROMPTS] == greedy, filters
        assert [token_ids(out) for out in pair.generate_batch(PROMPTS, **options)] == greedy, filters


@pytest.mark.parametrize("temperature", [1e-45, 1e-39, 1e-30])
@pytest.mark.parametrize("extra", [{"logit_bias": {5: 3.0, 90: 20.0}}, {"presence_penalty": 1.5}, {"grammar": "many"}])
def test_with_what_changes_logits(tiny_pair: TinyPairs, temperature: float, extra: dict[str, Any]) -> None:
    if "grammar" in extra:
        extra = {"grammar": 'root ::= [a-z ]+ "."'}
    pair = tiny_pair()
    for filters in (UNFILTERED, {}):
        options: dict[str, Any] = {"threshold": 0.6, "max_tokens": 12, "seed": 3, **filters, **extra}
        greedy = token_ids(pair.generate("The sun", temperature=0.0, **options))
        assert token_ids(pair.generate("The sun", temperature=temperature, **options)) == greedy


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[colm.Pair]:
    """Models that find each of the first 40 tokens as likely as another 100 ids later, and those the likeliest."""
    import gguf

    folder = tmp_path_factory.mktemp("twins")
    files = []
    for seed in (1, 2):
        path = tm.make_model(folder / f"{seed}.gguf", **{**BASE, "seed": seed})
        reader = gguf.GGUFReader(path, "r+")
        output = next(tensor for tensor in reader.tensors if tensor.name == "output.weight").data
        output[:40] *= 4.0
        output[100:140] = output[:40]
        reader.data.flush()
        files.append(path)
    with colm.load(*files, "confidence", **TINY_LOAD) as pair:
        yield pair


@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("temperature", [1e-45, 1e-39, 1e-30])
def test_ties_go_to_the_first_id(twins: colm.Pair, temperature: float, filters: dict[str, Any]) -> None:
    for threshold in (0.0, 1.0):
        options: dict[str, Any] = {"threshold": threshold, "max_tokens": 8, "logprobs": 2}
        greedy = twins.generate("The sun", temperature=0.0, **options)
        tied = [t.top_logprobs[0].logprob == t.top_logprobs[1].logprob for t in greedy.tokens]
        assert sum(tied) >= 4
        for seed in (1, 2):
            options.update(seed=seed, **filters)
            assert token_ids(twins.generate("The sun", temperature=temperature, **options)) == token_ids(greedy)
            (out,) = twins.generate_batch(["The sun"], temperature=temperature, **options)
            assert token_ids(out) == token_ids(greedy)


def test_ties_are_drawn_at_usual_temperatures(twins: colm.Pair) -> None:
    drawn = {
        token_ids(twins.generate("The sun", temperature=1e-3, max_tokens=1, seed=seed, **UNFILTERED))[0]
        for seed in range(20)
    }
    greedy = token_ids(twins.generate("The sun", temperature=0.0, max_tokens=1))[0]
    assert drawn == {greedy, greedy + 100}


@pytest.mark.parametrize("filters", [{}, UNFILTERED])
def test_a_penalty_that_overflows(tiny_pair: TinyPairs, filters: dict[str, Any]) -> None:
    """The logit of what was written becomes infinite, so that nothing else is written any more."""
    options: dict[str, Any] = {"max_tokens": 12, "seed": 3, "temperature": 1.0, "frequency_penalty": -3.4e38}
    written = token_ids(tiny_pair().generate("The sun", **filters, **options))
    assert len(written) == 12
    assert len(set(written)) == 1


def test_a_usual_temperature_draws_as_often_as_it_should(tiny_pair: TinyPairs) -> None:
    """The shares of what is drawn are those of softmax(logits / temperature)."""
    pair = tiny_pair()
    (token,) = pair.generate("The sun", temperature=0.0, max_tokens=1, logprobs=300, threshold=1.0).tokens
    temperature, n = 0.5, 400
    weights = {top.id: math.exp(top.logprob / temperature) for top in token.top_logprobs}
    total = sum(weights.values())
    options: dict[str, Any] = {"temperature": temperature, "max_tokens": 1, "threshold": 1.0, **UNFILTERED}
    drawn = [token_ids(pair.generate("The sun", seed=seed, **options))[0] for seed in range(n)]
    likeliest = max(weights, key=lambda t: weights[t])
    share = weights[likeliest] / total
    assert drawn.count(likeliest) / n == pytest.approx(share, abs=4 * (share * (1 - share) / n) ** 0.5)

"""A base and 1 to 3 experts against the oracle: token for token and source for source.

Prompts of their own, every strategy, 1 to 4 texts at once, with and without look-ahead. Each group of texts is drawn
from its number alone; a text that rounding could decide is drawn again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import engine_calls
import expert_oracle as eo
import numpy as np
import oracle as o
import pytest
import random_cases
import tiny_models as tm
from conftest import TINY_LOAD, TinyModels
from random_cases import TOLERANCE

import colm_cpp as colm

N_GROUPS = 120
NAMES = ("math", "code", "law")
BASE: dict[str, Any] = {"arch": "llama", "seed": 31, "extra_tail": (tm.DEFER,), "n_padding": 3}
EXPERTS: tuple[dict[str, Any], ...] = (
    {"arch": "qwen2", "seed": 32, "n_padding": 7},
    {"arch": "llama", "seed": 33, "n_embd": 64},
    {"arch": "llama", "seed": 34},
)


@dataclass(frozen=True)
class Case:
    """A text: its prompts by model, its head for either side, and options that both call alike."""

    prompts: tuple[tuple[int, ...], ...]
    own: frozenset[int]
    head: Any
    oracle_head: eo.Head
    threshold: float
    lookahead: Any
    options: dict[str, Any]


class Worlds:
    """The pairs with 1, 2 and 3 experts, and the models as the oracle has them."""

    def __init__(self, models: TinyModels) -> None:
        files = [models(**BASE), *(models(**options) for options in EXPERTS)]
        self.models = [o.OracleModel(file, n_ctx=128, exact=True, embeddings=i == 0) for i, file in enumerate(files)]
        self.n_shared = len(tm.Vocab().tokens)
        self.n_embd = self.models[0].n_embd
        self.pairs = [
            colm.load(files[0], experts=dict(zip(NAMES[:k], files[1 : k + 1], strict=True)), n_parallel=4, **TINY_LOAD)
            for k in (1, 2, 3)
        ]
        self.groups: dict[int, list[tuple[Case, list[eo.Step]]]] = {}

    def close(self) -> None:
        for model in self.models:
            model.close()
        for pair in self.pairs:
            pair.close()


@pytest.fixture(scope="module")
def worlds(tiny_model: TinyModels) -> Iterator[Worlds]:
    made = Worlds(tiny_model)
    yield made
    made.close()


def draw_head(rng: np.random.Generator, n_experts: int, n_embd: int) -> tuple[Any, eo.Head]:
    """A head for the engine and for the oracle."""
    names = NAMES[:n_experts]
    if rng.random() < 0.35:
        return random_cases.directed(rng, names, ["confidence", "entropy", "random"])
    features = tuple(str(f) for f in rng.permutation(colm.heads.FEATURES)[: int(rng.integers(0, 4))])
    top_k = 3 if "top_k_logprobs" in features else 0
    n_in = n_embd + sum(top_k if f == "top_k_logprobs" else 1 for f in features)
    weights, biases = [], []
    widths = [int(rng.integers(1, 12))] if rng.random() < 0.4 else []
    for n_out in (*widths, n_experts):
        weights.append(rng.normal(0, 2.0 / math.sqrt(n_in), (n_out, n_in)).astype(np.float32))
        biases.append(rng.normal(0, 0.5, n_out).astype(np.float32))
        n_in = n_out
    weights[0][:, n_embd:] *= 0.2
    # The file may name the experts in another order than the pair.
    order = rng.permutation(n_experts)
    shuffled = [*weights[:-1], weights[-1][order]], [*biases[:-1], biases[-1][order]]
    head = colm.Head.mlp(
        *shuffled, activation="gelu", features=features, top_k=top_k, expert_names=tuple(names[i] for i in order)
    )
    return head, ("scores", weights, biases, "gelu", features, top_k)


def draw(rng: np.random.Generator, worlds: Worlds, n_experts: int) -> Case:
    def tokens(least: int, most: int) -> tuple[int, ...]:
        return tuple(int(t) for t in rng.integers(0, worlds.n_shared, int(rng.integers(least, most))))

    prompt = tokens(1, 20)
    own = frozenset(k for k in range(1, n_experts + 1) if rng.random() < 0.4)
    prompts = [prompt, *(tokens(1, 30) if k in own else prompt for k in range(1, n_experts + 1))]
    head, oracle_head = draw_head(rng, n_experts, worlds.n_embd)
    strategies = ["defer", "defer", "compose", "contrastive", "add", *["proxy"] * (2 * (n_experts > 1))]
    options: dict[str, Any] = {
        "strategy": str(rng.choice(strategies)),
        **random_cases.options(rng, [1, 1, 3], (6, 14)),
    }
    if rng.random() < 0.2:
        options["leave_threshold"] = round(float(rng.uniform(0.2, 0.9)), 3)
    if options["strategy"] == "proxy":
        tuned, untuned = (int(k) for k in rng.permutation(n_experts)[:2])
        options["proxy"] = (1 + tuned, 1 + untuned, round(float(rng.uniform(0.2, 1.5)), 2))
    place = rng.random()
    threshold = 0.0 if place < 0.08 else 1.0 if place < 0.12 else round(float(rng.uniform(0.2, 0.85)), 4)
    lookahead = [0, 0, 2, 8, "auto"][int(rng.integers(5))]
    return Case(tuple(prompts), own, head, oracle_head, threshold, lookahead, options)


def decide(case: Case, worlds: Worlds) -> list[eo.Step]:
    return eo.write(
        worlds.models[: len(case.prompts)],
        case.prompts,
        head=case.oracle_head,
        threshold=case.threshold,
        n_shared=worlds.n_shared,
        **case.options,
    )


def group(index: int, worlds: Worlds) -> list[tuple[Case, list[eo.Step]]]:
    """1 to 4 texts with what the oracle makes of them."""
    if index not in worlds.groups:
        rng = np.random.default_rng([17, index])
        worlds.groups[index] = random_cases.certain(
            index, lambda: draw(rng, worlds, 1 + index % 3), lambda case: decide(case, worlds), lambda steps: steps
        )
    return worlds.groups[index]


def prompt_of(case: Case) -> Any:
    if not case.own:
        return list(case.prompts[0])
    return {"base": list(case.prompts[0]), **{NAMES[k - 1]: list(case.prompts[k]) for k in case.own}}


def named(options: dict[str, Any]) -> dict[str, Any]:
    """As the engine takes them: experts by their names."""
    options = dict(options)
    if "proxy" in options:
        tuned, untuned, weight = options.pop("proxy")
        names = {"proxy_tuned": NAMES[tuned - 1], "proxy_untuned": NAMES[untuned - 1]}
        return {**options, **names, "proxy_weight": weight}
    return options


def run(pair: colm.Pair, cases: Sequence[Case]) -> list[colm.Completion]:
    each = [{**named(c.options), "head": c.head, "threshold": c.threshold, "lookahead": c.lookahead} for c in cases]
    return random_cases.write(pair, [prompt_of(case) for case in cases], each)


def check(completion: colm.Completion, steps: list[eo.Step], n_experts: int) -> None:
    written = engine_calls.written(completion)
    names = ("base", *NAMES[:n_experts])
    assert [(t.id, t.source) for t in written] == [(s.token, names[s.expert]) for s in steps]
    assert [t.expert for t in written] == [s.expert for s in steps]
    for token, step in zip(written, steps, strict=True):
        assert token.logprob == pytest.approx(step.logprob, abs=TOLERANCE)
        assert token.threshold == pytest.approx(step.threshold, abs=1e-9)
        assert (token.defer_logit is None) == (step.defer_logit is None)
        if step.defer_logit is not None:
            assert token.defer_logit == pytest.approx(step.defer_logit, abs=TOLERANCE)
    for expert, name in enumerate(names):
        assert completion.stats.experts[name].tokens == sum(step.expert == expert for step in steps)


@pytest.mark.parametrize(
    "index", [pytest.param(i, marks=() if i % 13 == 0 else pytest.mark.slow) for i in range(N_GROUPS)]
)
def test_engine_agrees_with_oracle(worlds: Worlds, index: int) -> None:
    cases = group(index, worlds)
    n_experts = 1 + index % 3
    completions = run(worlds.pairs[n_experts - 1], [case for case, _ in cases])
    for (_, steps), completion in zip(cases, completions, strict=True):
        check(completion, steps, n_experts)


@pytest.mark.slow
def test_cases_cover_what_they_should(worlds: Worlds) -> None:
    """300 texts; every expert writes, by every strategy, behind prompts of its own and behind the base's."""
    drawn = [(case, steps) for index in range(N_GROUPS) for case, steps in group(index, worlds)]
    assert len(drawn) == 300
    assert min(Counter(len(case.prompts) - 1 for case, _ in drawn).values()) >= 90
    wrote: Counter[Any] = Counter()
    for case, steps in drawn:
        for step in steps:
            wrote["expert", step.expert] += 1
            if step.expert:
                wrote["own" if step.expert in case.own else "the base's"] += 1
                wrote[case.options["strategy"]] += 1
                wrote["drafts" if case.lookahead else "plain"] += 1
        wrote["several"] += len({step.expert for step in steps} - {0}) > 1
    for what in ("own", "the base's", "defer", "compose", "contrastive", "add", "proxy", "drafts", "plain"):
        assert wrote[what] > 150, wrote
    assert all(wrote["expert", k] > 80 for k in range(4)), wrote
    assert wrote["several"] > 40, wrote

"""The engine against the oracle: the same tokens from the same models, with nothing of the engine's machinery.

Each case is drawn from its number alone. A case whose outcome rounding could decide is drawn again, and how often
that happens is bounded (`test_cases_cover_what_they_should`).
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import oracle as o
import pytest
import tiny_models as tm
from conftest import TINY_LOAD, RealModels, TinyModels

import colm_cpp as colm

N_CASES = 240  # the second half of them is slow
# Of z and of log-probabilities. gemma3's GELU is a table of float16 values: the smallest difference in its input may
# take the next entry, so that reading token by token and all at once differ by up to 2e-3 in the logits.
TOLERANCE, GEMMA_TOLERANCE = 1e-3, 3e-3
# Rounding decides an outcome that changes when the oracle's own logits and hidden states move by this much (without
# gemma3, engine and oracle differ by less than 1e-4), and a greedy choice or a deferral with a smaller margin.
NOISE, GEMMA_NOISE = 2e-4, 2e-3
N_NOISY_RUNS = 4
MARGIN = 1e-3

STOP = tm.Vocab(specials=("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|stop|>"))
SPM = tm.Vocab.spm()
D = tm.DEFER

LEARNED = ("linear", "mlp")

# name -> options of the base, of the assistant, and of load()
PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "llama+llama": ({"arch": "llama", "extra_tail": (D,)}, {"arch": "llama", "n_embd": 64}, {}),
    "llama+qwen2, padding": (
        {"arch": "llama", "extra_tail": (D,), "n_padding": 5},
        {"arch": "qwen2", "n_padding": 29},
        {"n_batch": 5},
    ),
    "qwen2+gemma3, both know the head's token": (
        {"arch": "qwen2", "extra_tail": (D,), "row_scale": {D: 3.0}},
        {"arch": "gemma3", "extra_tail": (D,), "n_padding": 3, "row_scale": {D: 3.0}},
        {},
    ),
    "gemma3+llama, tails of their own": (
        {"arch": "gemma3", "extra_tail": (D,)},
        {"arch": "llama", "n_padding": 9},
        {"n_batch": 7},
    ),
    "mamba+llama": ({"arch": "mamba", "extra_tail": (D,)}, {"arch": "llama"}, {}),
    "llama+mamba": ({"arch": "llama", "n_embd": 64, "extra_tail": (D,)}, {"arch": "mamba", "n_padding": 2}, {}),
    "jamba+qwen2": ({"arch": "jamba", "extra_tail": (D,)}, {"arch": "qwen2"}, {"n_batch": 6}),
    "qwen2+jamba": ({"arch": "qwen2", "extra_tail": (D,)}, {"arch": "jamba"}, {}),
    "mamba+jamba": ({"arch": "mamba", "extra_tail": (D,)}, {"arch": "jamba"}, {"n_batch": 3}),
    "spm gemma3+gemma3": (
        {"arch": "gemma3", "vocab": SPM, "extra_tail": (D,)},
        {"arch": "gemma3", "vocab": SPM, "n_padding": 7},
        {},
    ),
    "spm llama+gemma3, tied": (
        {"arch": "llama", "vocab": SPM, "tied": True, "extra_tail": (D,)},
        {"arch": "gemma3", "vocab": SPM, "tied": True},
        {"n_ubatch": 3},
    ),
    "llama+qwen2, token that the assistant's fine-tuning added": (
        {"arch": "llama", "extra_tail": (D,), "n_padding": 2, "seed": 5},
        {"arch": "qwen2", "extra_tail": (D, "<|tool|>"), "seed": 6},
        {},
    ),
    "llama+qwen2, padding before the head's token": (
        {"arch": "llama", "vocab": tm.Vocab(n_padding=4, tail=(D,), tail_after_padding=True), "seed": 7},
        {"arch": "qwen2", "n_padding": 5, "seed": 8},
        {"n_batch": 1},
    ),
    "qwen2+llama, the base alone ends texts": (
        {"arch": "qwen2", "vocab": STOP, "eos": "<|stop|>", "extra_tail": (D,), "row_scale": {"<|stop|>": 2.0}},
        {"arch": "llama", "vocab": STOP, "row_scale": {"<|stop|>": 2.0}},
        {},
    ),
    "qwen2+llama, the assistant alone ends texts": (
        {"arch": "qwen2", "vocab": STOP, "extra_tail": (D,), "row_scale": {"<|stop|>": 2.0}, "seed": 9},
        {"arch": "llama", "vocab": STOP, "eos": "<|stop|>", "row_scale": {"<|stop|>": 2.0}, "seed": 10},
        {},
    ),
}

TEXTS = (
    "The answer is that there are two rivers in the city.",
    "The answer is that the patient was given",
    "The quick brown fox jumps over the lazy dog",
    "def function(self, value):\n    return value",
    "caf\u00e9 na\u00efve \u65e5\u672c\u8a9e \U0001f600",
    "<|im_start|>user\nWhat is the name of the river?<|im_end|>\n<|im_start|>assistant\n",
)


@dataclass(frozen=True)
class HeadSpec:
    """A head, to be built for either side. `seed` draws the weights."""

    kind: str
    seed: int = 0
    n_embd: int = 0
    features: tuple[str, ...] = ()
    top_k: int = 0
    activation: str = "relu"
    widths: tuple[int, ...] = ()

    @cached_property
    def _layers(self) -> tuple[list[o.F32], list[o.F32]]:
        rng = np.random.default_rng(self.seed)
        n_in = self.n_embd + sum(self.top_k if f == "top_k_logprobs" else 1 for f in self.features)
        weights, biases = [], []
        for n_out in (*self.widths, 1):
            weights.append(rng.normal(0, 2.5 / math.sqrt(n_in), (n_out, n_in)).astype(np.float32))
            biases.append(rng.normal(0, 0.5, n_out).astype(np.float32))
            n_in = n_out
        weights[0][:, self.n_embd :] *= 0.3  # features are larger than hidden states
        return weights, biases

    def engine(self) -> str | colm.Head:
        """What is passed as `head=`."""
        if self.kind not in LEARNED:
            return D if self.kind == "token" else self.kind
        weights, biases = self._layers
        if self.kind == "linear":
            return colm.Head.linear(weights[0][0], float(biases[0][0]), features=self.features, top_k=self.top_k)
        return colm.Head.mlp(weights, biases, activation=self.activation, features=self.features, top_k=self.top_k)

    def oracle(self, defer_id: int) -> o.Head:
        """What the oracle takes."""
        if self.kind not in LEARNED:
            return ("token", defer_id) if self.kind == "token" else self.kind
        weights, biases = self._layers
        if self.kind == "linear":
            return ("linear", weights[0][0], float(biases[0][0]), self.features, self.top_k)
        return ("mlp", weights, biases, self.activation, self.features, self.top_k)


@dataclass(frozen=True)
class Case:
    """Everything that decides a text."""

    index: int
    redrawn: int
    pair: str
    prompt: str | tuple[int, ...]
    head: HeadSpec
    threshold: float
    options: Mapping[str, Any]
    """Those that engine and oracle call alike."""


@dataclass(frozen=True)
class Outcome:
    """A case and what the oracle makes of it."""

    case: Case
    steps: list[o.OracleStep]
    reason: str


class NoisyModel(o.OracleModel):
    """Remembers what it computed since `clear`, and can move it a little."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.noise: np.random.Generator | None = None
        self.noise_size = NOISE
        self._known: dict[tuple[int, ...], tuple[o.F32, o.F32]] = {}

    def clear(self) -> None:
        self.noise = None
        self._known.clear()

    def logits_and_hidden(self, tokens: Sequence[int]) -> tuple[o.F32, o.F32]:
        key = tuple(tokens)
        if key not in self._known:
            self._known[key] = super().logits_and_hidden(tokens)
        logits, hidden = self._known[key]
        if self.noise is None:
            return logits, hidden
        size = self.noise_size
        moved = [x + self.noise.uniform(-size, size, x.shape).astype(np.float32) for x in (logits, hidden)]
        return moved[0], moved[1]


@dataclass
class OraclePair:
    """The two models of a pair as the oracle has them, and what they share by the definition."""

    base: NoisyModel
    assistant: NoisyModel
    base_vocab: tm.Vocab
    assistant_vocab: tm.Vocab

    @property
    def n_shared(self) -> int:
        def n_used(vocab: tm.Vocab) -> int:
            return 1 + max(i for i, token in enumerate(vocab.tokens) if token.type != tm.UNUSED)

        return min(n_used(self.base_vocab), n_used(self.assistant_vocab))

    @property
    def defer_id(self) -> int:
        return self.base_vocab.id_of(D)

    def run(self, case: Case, threshold: float, **changes: Any) -> tuple[list[o.OracleStep], str]:
        prompt = self.base.tokenize(case.prompt) if isinstance(case.prompt, str) else case.prompt
        options = {**case.options, **changes}
        return o.oracle_generate(
            self.base,
            self.assistant,
            prompt,
            head=case.head.oracle(self.defer_id),
            threshold=threshold,
            n_shared=self.n_shared,
            **options,
        )


def vocab_of(options: Mapping[str, Any]) -> tm.Vocab:
    """The vocabulary that `make_model` would write with these options."""
    vocab: tm.Vocab = options.get("vocab", tm.Vocab())
    return vocab.with_tail(*options.get("extra_tail", ()), n_padding=options.get("n_padding", 0))


class Cases:
    """Draws cases and has the oracle decide them, each once."""

    def __init__(self, models: TinyModels) -> None:
        self._models = models
        self._pairs: dict[str, tuple[OraclePair, colm.Pair]] = {}
        self._outcomes: dict[int, Outcome] = {}

    def pair(self, name: str) -> tuple[OraclePair, colm.Pair]:
        """The pair as the oracle and as the engine have it."""
        if name not in self._pairs:
            base, assistant, load = PAIRS[name]
            number = list(PAIRS).index(name)
            paths = [
                self._models(**{"seed": 1000 * side + number, **options})
                for side, options in ((1, base), (2, assistant))
            ]
            mirror = OraclePair(
                NoisyModel(paths[0], n_ctx=128, exact=True),
                NoisyModel(paths[1], n_ctx=128, exact=True, embeddings=False),
                vocab_of(base),
                vocab_of(assistant),
            )
            for model, options in ((mirror.base, base), (mirror.assistant, assistant)):
                model.noise_size = GEMMA_NOISE if options["arch"] == "gemma3" else NOISE
            self._pairs[name] = (mirror, colm.load(paths[0], paths[1], **{**TINY_LOAD, **load}))
        return self._pairs[name]

    def __getitem__(self, index: int) -> Outcome:
        if index not in self._outcomes:
            self._outcomes[index] = self._decide(index)
        return self._outcomes[index]

    def _decide(self, index: int) -> Outcome:
        for attempt in range(10):
            case = self._draw(index, attempt)
            mirror, _ = self.pair(case.pair)
            mirror.base.clear()
            mirror.assistant.clear()
            if not 0.0 <= case.threshold <= 1.0:  # a quantile of z, see _draw
                case = self._place_threshold(case, mirror)
            steps, reason = mirror.run(case, case.threshold)
            if self._is_certain(case, mirror, steps):
                return Outcome(case, steps, reason)
        raise AssertionError(f"case {index}: rounding would decide each of ten draws")

    def _is_certain(self, case: Case, mirror: OraclePair, steps: list[o.OracleStep]) -> bool:
        if case.options["temperature"] == 0.0 and min(step.margin for step in steps) < MARGIN:
            return False
        if min(step.edge for step in steps) < 4 * mirror.assistant.noise_size:
            return False
        # Sampling has further boundaries: those of the draw, and of every truncation before it.
        for run in range(N_NOISY_RUNS):
            for model in (mirror.base, mirror.assistant):
                model.noise = np.random.default_rng([case.index, case.redrawn, run])
            moved, _ = mirror.run(case, case.threshold)
            if [(s.token, s.source) for s in moved] != [(s.token, s.source) for s in steps]:
                return False
        return True

    def _place_threshold(self, case: Case, mirror: OraclePair) -> Case:
        """Turns the wanted quantile of z into a threshold, so that each model writes a part."""
        steps, _ = mirror.run(case, 1.0, schedule="constant", max_tokens=8)
        z = float(np.quantile([step.defer_logit for step in steps], case.threshold - 2.0))
        return dataclasses.replace(case, threshold=round(o.sigmoid(z), 6))

    def _draw(self, index: int, attempt: int) -> Case:
        rng = np.random.default_rng([2403, index, attempt])
        name = list(PAIRS)[index % len(PAIRS)]
        mirror, _ = self.pair(name)
        prompt: str | tuple[int, ...]
        if rng.random() < 0.7:
            text = str(rng.choice(TEXTS))
            # The beginnings of one text share a prefix with what the engine has read before.
            prompt = text[: int(rng.integers(1, len(text) + 1))]
        else:
            prompt = tuple(int(t) for t in rng.integers(0, mirror.n_shared, int(rng.integers(1, 24))))
        place = float(rng.random())
        # A number above 1 stands for a quantile of z.
        threshold = 0.0 if place < 0.06 else 1.0 if place < 0.12 else 2.0 + float(rng.uniform(0.15, 0.65))
        options: dict[str, Any] = {
            "strategy": str(rng.choice(["defer", "defer", "compose", "contrastive"])),
            "beta": round(float(rng.uniform(0, 1)), 3),
            "alpha": round(float(rng.uniform(0.001, 0.5)), 3),
            "schedule": str(rng.choice(["constant", "constant", "linear", "cosine", "exponential"])),
            "schedule_tokens": int(rng.integers(0, 12)),
            "max_tokens": int(rng.integers(8, 20)),
            "seed": int(rng.integers(0, 2**32 - 1)),
            "temperature": 0.0,
        }
        if rng.random() < 0.5:
            options |= {
                "temperature": round(float(rng.uniform(0.2, 1.5)), 2),
                "top_k": int(rng.choice([0, 3, 40])),
                "top_p": float(rng.choice([0.5, 0.95, 1.0])),
                "min_p": float(rng.choice([0.0, 0.05, 0.2])),
                "typical_p": float(rng.choice([0.7, 1.0, 1.0])),
            }
        head = self._draw_head(rng, mirror)
        options |= {"hold": int(rng.choice([1, 1, 2, 3, 6]))}
        if rng.random() < 0.25:
            # As likely above the threshold as below it, where z of the tiny models lies.
            options["leave_threshold"] = round(float(rng.uniform(0.2, 0.9)), 3)
        return Case(index, attempt, name, prompt, head, threshold, options)

    def _draw_head(self, rng: np.random.Generator, mirror: OraclePair) -> HeadSpec:
        kind = str(rng.choice(["linear", "linear", "mlp", "mlp", "token", "confidence", "entropy", "random"]))
        if kind not in LEARNED:
            return HeadSpec(kind)
        n_features = int(rng.integers(0, 5))
        n_layers = int(rng.choice([0, 1, 1, 2])) if kind == "mlp" else 0
        features = tuple(str(f) for f in rng.permutation(colm.heads.FEATURES)[:n_features])
        return HeadSpec(
            kind,
            seed=int(rng.integers(2**31)),
            n_embd=mirror.base.n_embd,
            features=features,
            top_k=int(rng.integers(1, 13)) if "top_k_logprobs" in features else 0,
            activation=str(rng.choice(colm.heads.ACTIVATIONS)),
            widths=tuple(int(w) for w in rng.integers(1, 20, n_layers)),
        )

    def close(self) -> None:
        for mirror, pair in self._pairs.values():
            mirror.base.close()
            mirror.assistant.close()
            pair.close()


@pytest.fixture(scope="module")
def cases(tiny_model: TinyModels) -> Iterator[Cases]:
    made = Cases(tiny_model)
    yield made
    made.close()


def run_engine(pair: colm.Pair, case: Case) -> colm.Completion:
    """The text of a case."""
    return pair.generate(case.prompt, head=case.head.engine(), threshold=case.threshold, **case.options)


def written(completion: colm.Completion) -> list[colm.Token]:
    """The tokens, with the one that ended the text."""
    return [*completion.tokens, *([completion.end_token] if completion.end_token else [])]


def tolerance_of(case: Case) -> float:
    """How far z and log-probabilities may be off."""
    base, assistant, _ = PAIRS[case.pair]
    return GEMMA_TOLERANCE if "gemma3" in (base["arch"], assistant["arch"]) else TOLERANCE


def difference(completion: colm.Completion, outcome: Outcome) -> str:
    """Where engine and oracle part; empty where they agree."""
    got, steps = written(completion), outcome.steps
    tolerance = tolerance_of(outcome.case)
    for t, (token, step) in enumerate(zip(got, steps, strict=False)):
        if token.source != step.source:
            return f"token {t}: source {token.source}, oracle {step.source}"
        if token.id != step.token:
            return f"token {t}: id {token.id}, oracle {step.token} (margin {step.margin})"
        for name, allowed in (("defer_logit", tolerance), ("logprob", tolerance), ("threshold", 1e-9)):
            value, expected = getattr(token, name), getattr(step, name)
            if (value is None) != (expected is None):
                return f"token {t}: {name} {value}, oracle {expected}"
            if value is not None and not math.isclose(value, expected, rel_tol=0.0, abs_tol=allowed):
                return f"token {t}: {name} {value}, oracle {expected}"
    if len(got) != len(steps):
        return f"{len(got)} tokens, oracle {len(steps)}"
    if completion.finish_reason != outcome.reason:
        return f"finish reason {completion.finish_reason}, oracle {outcome.reason}"
    deferred = sum(step.source == "assistant" for step in steps) / len(steps)
    if not math.isclose(completion.stats.deferral_rate, deferred):
        return f"deferral rate {completion.stats.deferral_rate}, oracle {deferred}"
    return ""


@pytest.mark.parametrize(
    "index",
    [*range(N_CASES // 2), *(pytest.param(i, marks=pytest.mark.slow) for i in range(N_CASES // 2, N_CASES))],
)
def test_engine_agrees_with_oracle(cases: Cases, index: int) -> None:
    """What the engine has read before stays in the models: cases of one pair reuse each other's prefixes."""
    outcome = cases[index]
    _, pair = cases.pair(outcome.case.pair)
    found = difference(run_engine(pair, outcome.case), outcome)
    if found:
        pair.forget()
        again = difference(run_engine(pair, outcome.case), outcome)
        pytest.fail(f"{found}\nafter forget(): {again or 'no difference'}\n{outcome.case}", pytrace=False)


def test_vocabularies_share_what_the_oracle_says(cases: Cases) -> None:
    for name in PAIRS:
        mirror, pair = cases.pair(name)
        assert pair.n_shared == mirror.n_shared, name
        assert pair.n_embd == mirror.base.n_embd, name


@pytest.mark.slow
def test_cases_cover_what_they_should(cases: Cases) -> None:
    outcomes = [cases[i] for i in range(N_CASES)]
    drawn = [outcome.case for outcome in outcomes]
    redrawn = sum(case.redrawn for case in drawn)
    assert redrawn < 0.05 * N_CASES, f"{redrawn} redrawn"

    def at_least(least: int, counts: Counter[Any], *values: object) -> None:
        rare = {value: counts[value] for value in values if counts[value] < least}
        assert not rare, counts

    at_least(5, Counter(case.threshold for case in drawn), 0.0, 1.0)
    at_least(30, Counter(case.options["strategy"] for case in drawn), "defer", "compose", "contrastive")
    at_least(
        20,
        Counter(case.options["schedule"] for case in drawn if case.options["schedule_tokens"] > 2),
        "constant",
        "linear",
        "cosine",
        "exponential",
    )
    at_least(30, Counter(case.options["hold"] for case in drawn), 1, 2, 3, 6)
    at_least(40, Counter("leave_threshold" in case.options for case in drawn), True, False)
    at_least(200, Counter(step.defer_logit is None for outcome in outcomes for step in outcome.steps), True, False)
    at_least(15, Counter(c.head.kind for c in drawn), "linear", "mlp", "token", "confidence", "entropy", "random")
    at_least(10, Counter(c.head.activation for c in drawn if c.head.widths), *colm.heads.ACTIVATIONS)
    at_least(30, Counter(f for case in drawn for f in case.head.features), *colm.heads.FEATURES)
    at_least(80, Counter(case.options["temperature"] > 0 for case in drawn), True, False)
    at_least(80, Counter(isinstance(case.prompt, str) for case in drawn), True)
    at_least(40, Counter(isinstance(case.prompt, str) for case in drawn), False)
    at_least(15, Counter(outcome.reason for outcome in outcomes), "eos", "length")

    inner = [outcome for outcome in outcomes if 0.0 < outcome.case.threshold < 1.0]
    sources = Counter(step.source for outcome in inner for step in outcome.steps)
    share = sources["assistant"] / sources.total()
    assert 0.2 < share < 0.8, share
    mixed = sum(len({step.source for step in outcome.steps}) == 2 for outcome in inner)
    assert mixed > 0.7 * len(inner), f"{mixed} of {len(inner)} cases have both sources"
    for outcome in outcomes:
        sources = Counter(step.source for step in outcome.steps)
        if outcome.case.threshold == 1.0:
            assert sources["assistant"] == 0
        if outcome.case.threshold == 0.0 and outcome.case.options["schedule"] == "constant":
            assert sources["base"] == 0


@pytest.fixture(scope="module")
def real_pair(real_models: RealModels) -> Iterator[tuple[o.OracleModel, o.OracleModel, colm.Pair]]:
    paths = real_models["base"], real_models["assistant"]
    base = o.OracleModel(paths[0], n_ctx=64, n_threads=2)
    assistant = o.OracleModel(paths[1], n_ctx=64, n_threads=2, embeddings=False)
    with colm.load(*paths, n_ctx=64) as pair:
        yield base, assistant, pair
    base.close()
    assistant.close()


REAL_PROMPTS = ("def fibonacci(n):", "The capital of France is", "SELECT name FROM")


@pytest.mark.real_models
@pytest.mark.parametrize("kind", ["confidence", "linear"])
def test_engine_agrees_with_oracle_on_real_models(
    real_pair: tuple[o.OracleModel, o.OracleModel, colm.Pair], kind: str
) -> None:
    """Default settings. Quantised weights are multiplied with rounded activations, so that reading token by token and
    all at once differ by up to some tenths in z; read all at once, engine and oracle agree."""
    base, assistant, pair = real_pair
    head: str | colm.Head = kind
    oracle_head: o.Head = kind
    if kind == "linear":
        hidden = [base.logits_and_hidden(base.tokenize(prompt))[1] for prompt in REAL_PROMPTS]
        size = float(np.sqrt(np.mean(np.square(hidden))) * math.sqrt(base.n_embd))
        theta = (np.random.default_rng(3).standard_normal(base.n_embd) * 2.0 / size).astype(np.float32)
        bias = -float(np.mean([theta @ h for h in hidden]))
        head, oracle_head = colm.Head.linear(theta, bias), ("linear", theta, np.float32(bias), (), 0)
    compared = 0
    sources: set[str] = set()
    for prompt in REAL_PROMPTS:
        completion = pair.generate(prompt, head=head, threshold=0.5, max_tokens=12, temperature=0.0)
        tokens = base.tokenize(prompt)
        steps, _ = o.oracle_generate(
            base, assistant, tokens, head=oracle_head, threshold=0.5, max_tokens=12, n_shared=pair.n_shared
        )
        for t, (token, step) in enumerate(zip(written(completion), steps, strict=False)):
            where = f"{kind}, {prompt!r}, token {t}: {token}, oracle {step}"
            assert abs(token.defer_logit - step.defer_logit) < 0.3, where
            if (token.id, token.source) != (step.token, step.source):
                assert step.margin < 0.3, where
                break  # from here on the texts differ
            assert abs(token.logprob - step.logprob) < 0.3, where
            compared += 1
            sources.add(token.source)
        # The position after the text, read all at once. A learned head has its last token read alone.
        text = [*tokens, *(step.token for step in steps[:-1])]
        pair.forget()
        once = written(pair.generate(text, head=head, threshold=0.5, max_tokens=1, temperature=0.0))[0]
        allowed = 0.3 if kind == "linear" else 1e-3
        assert abs(once.defer_logit - steps[-1].defer_logit) < allowed, f"{kind}, {prompt!r}"
        if steps[-1].margin > 2 * allowed:
            assert (once.id, once.source) == (steps[-1].token, steps[-1].source), f"{kind}, {prompt!r}"
    assert compared >= 24, "rounding decided too much; choose other prompts"
    assert sources == {"base", "assistant"}


def test_difference_finds_each_kind(cases: Cases) -> None:
    """The comparison itself: whatever is changed in the oracle's answer is noticed."""
    index = next(
        i
        for i in range(N_CASES)
        if cases[i].reason == "length" and 0 < cases[i].case.threshold < 1 and cases[i].steps[3].defer_logit is not None
    )
    outcome = cases[index]
    completion = run_engine(cases.pair(outcome.case.pair)[1], outcome.case)
    assert difference(completion, outcome) == ""
    step = outcome.steps[3]
    beyond = 1.1 * tolerance_of(outcome.case)
    other = "base" if step.source == "assistant" else "assistant"

    def change(**new: Any) -> Outcome:
        steps = [*outcome.steps[:3], dataclasses.replace(step, **new), *outcome.steps[4:]]
        return dataclasses.replace(outcome, steps=steps)

    assert "id" in difference(completion, change(token=step.token ^ 1))
    assert "source" in difference(completion, change(source=other))
    assert step.defer_logit is not None
    assert "defer_logit" in difference(completion, change(defer_logit=step.defer_logit + beyond))
    assert "defer_logit" in difference(completion, change(defer_logit=None))
    assert "logprob" in difference(completion, change(logprob=step.logprob - beyond))
    assert "threshold" in difference(completion, change(threshold=step.threshold + 1e-6))
    assert "finish" in difference(completion, dataclasses.replace(outcome, reason="eos"))
    assert "tokens" in difference(completion, dataclasses.replace(outcome, steps=outcome.steps[:-1]))

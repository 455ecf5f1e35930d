"""Random cases for the engine and the oracle, drawn from their numbers alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import oracle as o
import pytest
import tiny_models as tm
from conftest import TINY_LOAD, TinyModels

import colm_cpp as colm

N_CASES = 240  # the first twelfth of them runs by default
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

"""Models of unlike vocabularies against an oracle without caches: token for token, 300 texts.

Every two of four kinds of vocabulary, with one expert or two, 1 to 4 texts at once. Each group of texts is drawn from
its number alone; a text that rounding could decide is drawn again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import engine_calls
import expert_oracle as eo
import numpy as np
import oracle as o
import pytest
import random_cases
import tiny_models as tm
import unlike_oracle as uo
from conftest import TINY_LOAD, TinyModels
from random_cases import TOLERANCE

import colm_cpp as colm

N_GROUPS = 120
TWINS = ("qwen2", "llama")
N_TWIN_GROUPS = 20
VOCABS: dict[str, tm.Vocab] = {
    "qwen2": tm.Vocab(n_padding=5),
    "smollm": tm.Vocab(pre="smollm", n_merges=60, specials=("<|endoftext|>", "<|im_end|>"), eos="<|endoftext|>"),
    "gemma": tm.Vocab.spm(n_merges=180, specials=("<eos>",), eos="<eos>", space_prefix=False),
    "llama": tm.Vocab.spm(n_merges=100, n_padding=3),
}
KINDS = tuple(VOCABS)
PROMPTS = ("def f(x):\n    return x", "The quick brown fox", "é 日本", "Answer: the", "a", "  x\n\ny ", "it's 12 (3)")


def options_of(kind: str, seed: int) -> dict[str, Any]:
    """A model that writes words more than single bytes."""
    vocab = VOCABS[kind]
    quiet: dict[str | int, float] = {}
    for i, token in enumerate(vocab.tokens):
        piece = vocab.piece(i)
        if token.type in (tm.NORMAL, tm.BYTE) and not piece.decode(errors="replace").isprintable() and piece != b"\n":
            quiet[i] = 0.0
        elif token.type == tm.BYTE:
            quiet[i] = 0.5
        elif b" " in piece or len(piece) > 2:
            quiet[i] = 1.3
    return {"arch": "llama", "seed": seed, "vocab": vocab, "row_scale": quiet}


def talking_pair(models: TinyModels) -> tuple[Path, Path]:
    """Files of a base and an assistant of unlike vocabularies, with a chat template."""
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    base, assistant = (
        models(**options_of(kind, n), chat_template=template) for kind, n in (("qwen2", 40), ("gemma", 41))
    )
    return base, assistant


def twin_of(kind: str, models: TinyModels) -> tuple[tm.Vocab, Path]:
    """Nearly the model of that kind, with its tokens under other ids: it mostly writes what that one would."""
    options = options_of(kind, 40 + KINDS.index(kind))
    n = len(VOCABS[kind])
    rng = np.random.default_rng(9)
    order = list(range(n))
    words = [i for i, token in enumerate(VOCABS[kind].tokens) if token.type == tm.NORMAL]
    for old, new in zip(words, rng.permutation(words), strict=True):
        order[old] = int(new)
    # Factors are of rows before they are put in order.
    for i in rng.choice(words, len(words) // 4, replace=False):
        options["row_scale"][int(i)] = options["row_scale"].get(int(i), 1.0) * 1.25
    options["vocab"] = VOCABS[kind].permuted(order)
    return options["vocab"], models(**options, row_order=order)


@dataclass(frozen=True)
class Case:
    """A text: its prompt, its head for either side, and options that both call alike."""

    prompt: str
    head: Any
    oracle_head: eo.Head
    options: dict[str, Any]


class Worlds:
    """All models as the oracle has them, and the pairs that were asked for."""

    def __init__(self, models: TinyModels) -> None:
        self.files = {kind: models(**options_of(kind, 40 + i)) for i, kind in enumerate(KINDS)}
        self.files["qwen2-b"] = models(**options_of("qwen2", 50))
        self.vocabs = {**VOCABS, "qwen2-b": VOCABS["qwen2"]}
        # One with a token of a full stop and a line break, as some vocabularies have thousands.
        self.vocabs["lines"] = tm.Vocab.spm(n_merges=100, tail=((".\n", tm.NORMAL),))
        self.files["lines"] = models(arch="llama", seed=51, vocab=self.vocabs["lines"])
        for kind in TWINS:
            self.vocabs[f"{kind}-twin"], self.files[f"{kind}-twin"] = twin_of(kind, models)
        self.models = {kind: o.OracleModel(file, n_ctx=192, exact=True) for kind, file in self.files.items()}
        self.pairs: dict[tuple[str, ...], colm.Pair] = {}
        self.groups: dict[int, list[tuple[Case, uo.Text]]] = {}
        self.drafts: Counter[str] = Counter()

    def pair(self, kinds: tuple[str, ...]) -> colm.Pair:
        if kinds not in self.pairs:
            base, *others = kinds
            experts = {f"e{i}": self.files[kind] for i, kind in enumerate(others, start=1)}
            self.pairs[kinds] = colm.load(self.files[base], experts=experts, n_parallel=4, **TINY_LOAD)
        return self.pairs[kinds]

    def readers(self, kinds: tuple[str, ...], prompt: str) -> list[uo.Reader]:
        readers = []
        for kind in kinds:
            vocab, model = self.vocabs[kind], self.models[kind]
            n_ids = len(vocab.tokens) - vocab.n_padding
            tokens = model.tokenize(prompt, add_special=bool(vocab.add_bos))
            readers.append(uo.Reader(model, vocab, n_ids, tokens))
        return readers

    def close(self) -> None:
        for model in self.models.values():
            model.close()
        for pair in self.pairs.values():
            pair.close()


@pytest.fixture(scope="module")
def worlds(tiny_model: TinyModels) -> Iterator[Worlds]:
    made = Worlds(tiny_model)
    yield made
    made.close()


def kinds_of(index: int) -> tuple[str, ...]:
    """Every ordered two of the kinds in turn; every third group has two experts, of which one may be of the base's.

    Behind them, a base with its twin.
    """
    if index >= N_GROUPS:
        base = TWINS[index // 4 % len(TWINS)]
        return base, f"{base}-twin"
    pairs = [(a, b) for a in KINDS for b in KINDS if a != b]
    base, expert = pairs[index % len(pairs)]
    if index % 3:
        return base, expert
    third = "qwen2-b" if base == "qwen2" else KINDS[(KINDS.index(expert) + 1 + index % 2) % 4]
    return base, expert, third if third != base else "smollm"


def draw_head(rng: np.random.Generator, n_experts: int, n_embd: int) -> tuple[Any, eo.Head]:
    names = tuple(f"e{i + 1}" for i in range(n_experts))
    if n_experts == 1 or rng.random() < 0.3:
        return random_cases.directed(rng, names, ["confidence", "entropy", "random", "random", "always"])
    weights = [rng.normal(0, 2.0 / math.sqrt(n_embd), (n_experts, n_embd)).astype(np.float32)]
    biases = [rng.normal(0, 0.5, n_experts).astype(np.float32)]
    head = colm.Head.mlp(weights, biases, activation="gelu", expert_names=names)
    return head, ("scores", weights, biases, "gelu", (), 0)


def draw(rng: np.random.Generator, worlds: Worlds, kinds: tuple[str, ...]) -> Case:
    head, oracle_head = draw_head(rng, len(kinds) - 1, worlds.models[kinds[0]].n_embd)
    place = rng.random()
    options: dict[str, Any] = {
        "threshold": 0.0 if place < 0.05 else 1.0 if place < 0.08 else round(float(rng.uniform(0.25, 0.8)), 4),
        **random_cases.options(rng, [1, 1, 1, 3], (8, 24)),
    }
    if rng.random() < 0.2 or oracle_head[2] == "always":
        options |= {"schedule": "linear", "schedule_tokens": int(rng.integers(2, 8))}
    if rng.random() < 0.2:
        options["leave_threshold"] = round(float(rng.uniform(0.2, 0.9)), 3)
    return Case(str(rng.choice(PROMPTS)), head, oracle_head, options)


def group(index: int, worlds: Worlds) -> list[tuple[Case, uo.Text]]:
    """1 to 4 texts with what the oracle makes of them."""
    rng, kinds = np.random.default_rng([22, index]), kinds_of(index)

    def decide(case: Case) -> uo.Text:
        return uo.write(worlds.readers(kinds, case.prompt), head=case.oracle_head, **case.options)

    if index not in worlds.groups:
        worlds.groups[index] = random_cases.certain(
            index, lambda: draw(rng, worlds, kinds), decide, lambda text: text.steps
        )
    return worlds.groups[index]


def run(pair: colm.Pair, cases: list[Case], **options: Any) -> list[colm.Completion]:
    each = [{**case.options, **options, "head": case.head} for case in cases]
    return random_cases.write(pair, [case.prompt for case in cases], each)


def check(completion: colm.Completion, text: uo.Text) -> None:
    written = engine_calls.written(completion)
    assert [(t.id, t.expert) for t in written] == [(s.token, s.expert) for s in text.steps]
    assert completion.text == text.text
    assert "".join(token.text for token in completion.tokens) == text.text
    for token, step in zip(written, text.steps, strict=True):
        assert token.logprob == pytest.approx(step.logprob, abs=TOLERANCE)
        assert (token.defer_logit is None) == (step.defer_logit is None)
        if step.defer_logit is not None and token.defer_logit is not None:
            assert token.defer_logit == pytest.approx(step.defer_logit, abs=TOLERANCE)
    assert completion.stats.waited_tokens == text.waited
    reread = [of.tokens_reread for of in completion.stats.experts.values()]
    if not completion.stats.lookahead:
        assert reread == text.reread
    # With look-ahead, tokens of drafts count, too.
    assert all(n >= plain for n, plain in zip(reread, text.reread, strict=True))


@pytest.mark.parametrize(
    "index", [pytest.param(i, marks=() if i % 13 == 0 else pytest.mark.slow) for i in range(N_GROUPS)]
)
def test_cached_text_is_that_without_caches(worlds: Worlds, index: int) -> None:
    found = group(index, worlds)
    completions = run(worlds.pair(kinds_of(index)), [case for case, _ in found])
    for (_, text), completion in zip(found, completions, strict=True):
        check(completion, text)


LOOKAHEADS = (1, 2, 4, 15, "auto")


@pytest.mark.parametrize(
    "index",
    [
        *(pytest.param(i, marks=() if i % 13 == 0 else pytest.mark.slow) for i in range(N_GROUPS)),
        *(pytest.param(N_GROUPS + i, marks=() if i % 5 == 0 else pytest.mark.slow) for i in range(N_TWIN_GROUPS)),
    ],
)
def test_look_ahead_writes_the_same(worlds: Worlds, index: int) -> None:
    found = group(index, worlds)
    pair = worlds.pair(kinds_of(index))
    lookahead = LOOKAHEADS[index % len(LOOKAHEADS)]
    completions = run(pair, [case for case, _ in found], lookahead=lookahead)
    for (_, text), completion in zip(found, completions, strict=True):
        check(completion, text)
        assert completion.stats.lookahead


def test_drafts_are_right_and_wrong(worlds: Worlds) -> None:
    """And a right one saves calls of the expert: with the twin, that mostly writes what the base would."""
    for index in range(N_GROUPS, N_GROUPS + N_TWIN_GROUPS, 5):
        found = group(index, worlds)
        pair = worlds.pair(kinds_of(index))
        cases = [case for case, _ in found]
        n_calls = {}
        for lookahead in (0, 4):
            completions = run(pair, cases, lookahead=lookahead)
            n_calls[lookahead] = sum(completion.stats.assistant_calls for completion in completions)
            drafted = sum(completion.stats.drafted_tokens for completion in completions)
            accepted = sum(completion.stats.accepted_tokens for completion in completions)
            worlds.drafts += Counter(
                {"drafted": drafted, "accepted": accepted, f"calls {lookahead}": n_calls[lookahead]}
            )
        assert n_calls[4] <= n_calls[0]
    drafts = worlds.drafts
    assert 0.3 * drafts["drafted"] < drafts["accepted"] < drafts["drafted"], drafts
    assert drafts["calls 4"] < 0.7 * drafts["calls 0"], drafts


@pytest.mark.slow
def test_cases_cover_what_they_should(worlds: Worlds) -> None:
    """300 texts; hand-overs that wait, tokens that are read again, characters over several tokens, every writer."""
    drawn = [(kinds_of(index), text) for index in range(N_GROUPS) for _, text in group(index, worlds)]
    assert len(drawn) == 300
    assert len({kinds[:2] for kinds, _ in drawn}) == 12
    seen: Counter[str] = Counter()
    for _, text in drawn:
        seen["waited"] += text.waited > 0
        seen["reread"] += sum(text.reread) > 0
        seen["several"] += len({step.expert for step in text.steps}) > 1
        seen["no character"] += "\ufffd" in text.text
        seen["beyond ASCII"] += not text.text.replace("\ufffd", "").isascii()
        for expert in range(3):
            seen[f"expert {expert}"] += any(step.expert == expert for step in text.steps)
    assert min(seen[what] for what in ("waited", "reread", "several", "expert 0", "expert 1")) > 50, seen
    assert min(seen[what] for what in ("no character", "beyond ASCII", "expert 2")) > 10, seen


def test_a_word_is_encoded_as_in_the_whole_text(worlds: Worlds) -> None:
    """Whatever writes a text token by token, the others' tokens are those of the whole text."""
    for kind in KINDS:
        writer, *others = worlds.readers((kind, *(k for k in KINDS if k != kind), "lines"), "x")
        others = [replace(reader) for reader in others]
        shared = uo.Shared([writer, *others])
        text = "def run(self, value): return the other\n  quick brown fox, über 日本 2024\n\n and ends.\n And .\n\n"
        for token in writer.encode(text.encode()):
            shared.add(token, 0)
        for reader in others:
            assert reader.tokens == reader.encode(text.encode())

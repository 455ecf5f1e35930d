"""Which tokens may be chosen, and which is."""

from __future__ import annotations

import ctypes
import itertools
import json
import math
import re
from collections.abc import Mapping
from typing import Any

import llama_cpp
import numpy as np
import oracle as o
import pytest
from conftest import TinyModels, TinyPairs, each_once
from engine_calls import (
    ENDLESS_ASSISTANT,
    ENDLESS_BASE,
    GREEDY,
    N_PLAIN,
    PLAIN,
    PROMPT,
    WILD,
    D,
    SharedPairs,
    ids,
    run,
    written,
)

import colm_cpp as colm

# -- which tokens may be chosen -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("known", "strategy"), each_once(["by the base", "by both"], ["defer", "compose", "contrastive"])
)
def test_tails_and_the_heads_token_never_appear(shared_pairs: SharedPairs, known: str, strategy: str) -> None:
    likely = {"row_scale": {D: 6.0}}
    base = {**ENDLESS_BASE, **likely}
    assistant = {**ENDLESS_ASSISTANT}
    if known == "by both":
        assistant = {"vocab": PLAIN, "extra_tail": (D,), "n_padding": 9, "eos": D, "seed": 2, **likely}
    pair = shared_pairs(base, assistant, n_ctx=512)
    assert pair.n_shared == N_PLAIN + (known == "by both")
    seen: set[int] = set()
    for threshold in (0.0, 0.5, 1.0):
        options: dict[str, Any] = {"head": D, "strategy": strategy, "alpha": 1e-6, "threshold": threshold}
        completion, _, tokens = run(pair, PROMPT, max_tokens=300, seed=1, **WILD, **options)
        assert len(tokens) == 300
        assert completion.finish_reason == "length"
        assert max(ids(tokens)) < N_PLAIN
        seen |= set(ids(tokens))
        for token in pair.generate(PROMPT, logprobs=500, max_tokens=20, seed=1, **options).tokens:
            named = [top.id for top in token.top_logprobs]
            assert max(named) < N_PLAIN
            assert sum(math.exp(top.logprob) for top in token.top_logprobs) == pytest.approx(1.0, abs=1e-5)
        _, _, tokens = run(pair, PROMPT, max_tokens=100, **GREEDY, **options)
        assert max(ids(tokens)) < N_PLAIN
    assert len(seen) > 200, "the vocabulary is hardly sampled"
    # The head's token is likely indeed: elsewhere it is chosen.
    if known == "by both":
        free, _, tokens = run(pair, PROMPT, head="confidence", max_tokens=100, seed=1, **WILD)
        assert (free.finish_reason, tokens[-1].id) == ("eos", N_PLAIN)


def test_bias_cannot_bring_what_is_not_shared(shared_pairs: SharedPairs) -> None:
    pair = shared_pairs(ENDLESS_BASE, ENDLESS_ASSISTANT)
    for token in (pair.n_shared, pair.n_shared + 3, 10**6, -1):
        for threshold in (0.0, 1.0):
            with pytest.raises(colm.OptionError, match=f"logit_bias.* {token}"):
                pair.generate(PROMPT, threshold=threshold, logit_bias={token: 1000.0})
    last = pair.n_shared - 1
    got = pair.generate(PROMPT, logit_bias={last: 1000.0}, max_tokens=3, seed=0)
    assert ids(got.tokens) == [last] * 3
    # The head's token is masked before the bias is added, where the assistant has that token too.
    both = shared_pairs(ENDLESS_BASE, {**ENDLESS_ASSISTANT, "n_padding": 0, "extra_tail": (D, "<|x|>")})
    assert both.n_shared == N_PLAIN + 1
    for options in (GREEDY, {"seed": 1}, {"seed": 1, **WILD}):
        try:
            got = both.generate(PROMPT, head=D, logit_bias={N_PLAIN: 1000.0}, max_tokens=30, **options)
        except colm.OptionError:
            continue
        assert N_PLAIN not in ids(written(got))


def test_prompt_tokens_must_be_shared(shared_pairs: SharedPairs) -> None:
    pair = shared_pairs(ENDLESS_BASE, ENDLESS_ASSISTANT)
    for token in (-1, pair.n_shared, 10**6):
        with pytest.raises(colm.TokenizeError, match=f"token 1 .*{token}"):
            pair.generate([65, token])
    with pytest.raises(colm.TokenizeError):
        pair.generate([])
    with pytest.raises(colm.TokenizeError):
        pair.generate("")


# -- choosing -------------------------------------------------------------------------------------------------------


def test_seeds(pair: colm.Pair) -> None:
    def text(seed: int | None, head: str = "confidence") -> tuple[list[int], int]:
        completion = pair.generate(PROMPT, head=head, seed=seed, max_tokens=16)
        return ids(written(completion)), completion.stats.seed

    texts = {seed: text(seed)[0] for seed in (0, 1, 2, 12345, 2**32 - 2)}
    assert len({tuple(tokens) for tokens in texts.values()}) == len(texts)
    for seed, tokens in texts.items():
        assert text(seed) == (tokens, seed)
    drawn = [text(None) for _ in range(4)]
    assert len({seed for _, seed in drawn}) == 4
    for tokens, seed in drawn:
        assert text(seed) == (tokens, seed)
    wrong: list[Any] = [-1, 2**32 - 1, 1.5, True]
    for seed in wrong:
        with pytest.raises(colm.OptionError, match="seed"):
            pair.generate(PROMPT, seed=seed)
    # The random head follows the seed, whatever the temperature.
    sources = {
        seed: [t.source for t in pair.generate(PROMPT, head="random", seed=seed, **GREEDY).tokens] for seed in (0, 1)
    }
    assert sources[0] != sources[1]


def test_temperature_zero_takes_the_likeliest(shared_pairs: SharedPairs) -> None:
    pair = shared_pairs(ENDLESS_BASE, ENDLESS_ASSISTANT)
    for strategy in ("defer", "compose", "contrastive"):
        for threshold in (0.0, 0.5, 1.0):
            options: dict[str, Any] = {
                "strategy": strategy,
                "threshold": threshold,
                "max_tokens": 30,
                "head": "confidence",
            }
            greedy = pair.generate(PROMPT, logprobs=2, **GREEDY, **options)
            assert len({t.source for t in greedy.tokens}) == (2 if threshold == 0.5 else 1)
            for token in greedy.tokens:
                assert token.id == token.top_logprobs[0].id
                assert token.logprob == token.top_logprobs[0].logprob
            # By way of the sampler chain, and with nothing else to choose from.
            for other in (
                {"logit_bias": {5: 0.0}, **GREEDY},
                {"repeat_penalty": 1.0, "presence_penalty": 1e-9, **GREEDY},
                {"top_k": 1, "temperature": 3.0},
                {"temperature": 1e-5},
            ):
                got = pair.generate(PROMPT, **other, **options)
                assert ids(got.tokens) == ids(greedy.tokens), other
                logprobs = [t.logprob for t in greedy.tokens]
                assert [t.logprob for t in got.tokens] == pytest.approx(logprobs, abs=1e-3)


class Reference:
    """The sampler chain of llama_cpp.Llama in front of the oracle's logits."""

    def __init__(self, n_vocab: int, options: Mapping[str, Any]) -> None:
        self.chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        self.seed = options["seed"]
        self.greedy = options.get("temperature") == 0.0
        samplers = []
        bias = options.get("logit_bias", {})
        if bias:
            array = (llama_cpp.llama_logit_bias * len(bias))()
            for entry, (token, value) in zip(array, bias.items(), strict=True):
                entry.token, entry.bias = token, value
            samplers.append(llama_cpp.llama_sampler_init_logit_bias(n_vocab, len(bias), array))
        samplers.append(
            llama_cpp.llama_sampler_init_penalties(
                n_vocab,
                64,
                options.get("repeat_penalty", 1.0),
                options.get("frequency_penalty", 0.0),
                options.get("presence_penalty", 0.0),
            )
        )
        if self.greedy:
            samplers.append(llama_cpp.llama_sampler_init_greedy())
        else:
            samplers += [
                llama_cpp.llama_sampler_init_top_k(40),
                llama_cpp.llama_sampler_init_typical(1.0, 1),
                llama_cpp.llama_sampler_init_top_p(0.95, 1),
                llama_cpp.llama_sampler_init_min_p(0.05, 1),
                llama_cpp.llama_sampler_init_temp(options.get("temperature", 0.8)),
            ]
        for sampler in samplers:
            llama_cpp.llama_sampler_chain_add(self.chain, sampler)

    def choose(self, logits: o.F32, position: int) -> int:
        data = (llama_cpp.llama_token_data * len(logits))()
        for token, (entry, logit) in enumerate(zip(data, logits, strict=True)):
            entry.id, entry.logit, entry.p = token, float(logit), 0.0
        array = llama_cpp.llama_token_data_array(data=data, size=len(logits), selected=-1, sorted=False)
        llama_cpp.llama_sampler_apply(self.chain, ctypes.byref(array))
        if self.greedy:
            token = int(array.data[array.selected].id)
        else:
            left = array.data[: array.size]
            token = o.gumbel_max([entry.id for entry in left], [entry.logit for entry in left], self.seed, position)
        llama_cpp.llama_sampler_accept(self.chain, token)
        return token

    def close(self) -> None:
        llama_cpp.llama_sampler_free(self.chain)


@pytest.mark.parametrize(
    "options",
    [
        *(
            pytest.param(options, marks=pytest.mark.slow)
            for options in ({"repeat_penalty": 1.6}, {"presence_penalty": 1.2}, {"frequency_penalty": 0.7})
        ),
        *(
            pytest.param(options, marks=pytest.mark.slow)
            for options in (
                {"repeat_penalty": 0.8, "frequency_penalty": -0.3, "presence_penalty": 0.4},
                {"logit_bias": {32: 6.0, 101: 4.0, 105: float("-inf"), 116: -20.0}},
            )
        ),
        {"repeat_penalty": 1.3, "logit_bias": {32: 8.0, 259: 5.0}},
    ],
    ids=str,
)
def test_penalties_and_bias_are_llama_cpps(
    shared_pairs: SharedPairs, tiny_model: TinyModels, options: dict[str, Any]
) -> None:
    """More than 64 tokens, so that the window of the penalties moves; the prompt is not penalised."""
    pair = shared_pairs(ENDLESS_BASE, ENDLESS_ASSISTANT)
    paths = tiny_model(**ENDLESS_BASE), tiny_model(**ENDLESS_ASSISTANT)
    prompt = pair.tokenize(PROMPT)
    with o.OracleModel(paths[0], 128, exact=True) as base, o.OracleModel(paths[1], 128, exact=True) as assistant:
        for sampling in (GREEDY, {"temperature": 0.8}):
            chosen: dict[str, Any] = {**sampling, "seed": 8, "max_tokens": 80, "head": "random"}
            got = pair.generate(prompt, **chosen, **options)
            plain = pair.generate(prompt, **chosen)
            assert len(got.tokens) == 80
            assert ids(got.tokens) != ids(plain.tokens), "no effect"
            assert {token.source for token in got.tokens} == {"base", "assistant"}
            reference = Reference(base.n_vocab, {**chosen, **options})
            text = list(prompt)
            for t, token in enumerate(got.tokens):
                model = assistant if token.deferred else base
                logits = model.logits_and_hidden(text)[0][: pair.n_shared]
                assert token.id == reference.choose(logits, len(text)), f"{sampling}, token {t}"
                # What is reported is the model's own probability, before penalties and bias.
                assert token.logprob == pytest.approx(o.log_softmax(logits)[token.id], abs=1e-3)
                text.append(token.id)
            reference.close()


GRAMMARS: list[tuple[Any, str]] = [
    ('root ::= ("yes" | "no") " " [0-9]{3} "."', r"(yes|no) [0-9]{3}\."),
    ('root ::= item (", " item){0,2}\nitem ::= [a-f]{1,4}', r"[a-f]{1,4}(, [a-f]{1,4}){0,2}"),
    ('root ::= "\u65e5\u672c" [\u00e9\u00fc] "caf\u00e9"?', r"日本[éü](café)?"),
]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"enum": ["river", "city"]},
        "n": {"enum": [7, 42]},
        "list": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
    },
    "required": ["name", "n", "list"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("strategy", "sampling"),
    each_once(("defer", "compose", "contrastive"), [GREEDY, {}, {"temperature": 2.0, "top_k": 0, "min_p": 0.0}]),
    ids=str,
)
def test_grammars(pair: colm.Pair, sampling: dict[str, Any], strategy: str) -> None:
    # The cutoff of "contrastive" comes before the grammar, and 0.1 may leave nothing that the grammar allows.
    options: dict[str, Any] = {"strategy": strategy, "alpha": 1e-30, "head": "random", "max_tokens": None, **sampling}
    sources = set()
    for grammar, pattern in GRAMMARS:
        for seed in range(3):
            got = pair.generate(PROMPT, grammar=grammar, seed=seed, **options)
            assert got.finish_reason == "eos"
            assert re.fullmatch(pattern, got.text), got.text
            sources |= {token.source for token in written(got)}
    assert sources == {"base", "assistant"}
    for grammar in (SCHEMA, json.dumps(SCHEMA)):
        for seed in range(2):
            got = pair.generate(PROMPT, grammar=grammar, seed=seed, **options)
            assert got.finish_reason == "eos"
            value = json.loads(got.text)
            assert set(value) == {"name", "n", "list"}
            assert value["name"] in ("river", "city")
            assert value["n"] in (7, 42)
            assert 1 <= len(value["list"]) <= 3
            assert all(isinstance(entry, bool) for entry in value["list"])


def _allowed(grammar: Any, logits: np.ndarray[Any, np.dtype[np.float32]]) -> list[tuple[int, float]]:
    """Tokens and logits that are left of a whole vocabulary."""
    data = (llama_cpp.llama_token_data * len(logits))()
    for i, logit in enumerate(logits):
        data[i].id, data[i].logit, data[i].p = i, float(logit), 0.0
    array = llama_cpp.llama_token_data_array(data=data, size=len(logits), selected=-1, sorted=False)
    llama_cpp.llama_sampler_apply(grammar, ctypes.byref(array))
    return [(entry.id, entry.logit) for entry in array.data[: array.size] if math.isfinite(entry.logit)]


# Not `[^a-z]+`: llama.cpp refuses the first byte of every character there, since it might become one of them.
@pytest.mark.parametrize(
    ("text", "top_k"),
    each_once(["root ::= [a-z ]+", "root ::= [A-Z0-9é]+", 'root ::= ("yes" | [0-9])+'], [3, 40, 300]),
    ids=str,
)
def test_a_grammar_asked_about_few_tokens_is_one_asked_about_all(
    tiny_model: TinyModels, tiny_pair: TinyPairs, text: str, top_k: int
) -> None:
    """Against llama.cpp's grammar over the whole vocabulary at every token, wide grammars and narrow ones."""
    pair = tiny_pair(ENDLESS_BASE, ENDLESS_ASSISTANT)
    # So hot that every token which is left is as likely as any other: one too few shows.
    for temperature, biased in itertools.product((0.0, 100.0), (False, True)):
        chain = o._Chain(3, temperature or 1.0, top_k, 1.0, 0.0, 1.0)
        with o.OracleModel(tiny_model(**ENDLESS_BASE), exact=True) as model:
            grammar = llama_cpp.llama_sampler_init_grammar(model._vocab, text.encode(), b"root")
            got = pair.generate(
                PROMPT,
                threshold=1.0,
                grammar=text,
                temperature=temperature,
                top_k=top_k,
                top_p=1.0,
                min_p=0.0,
                seed=3,
                max_tokens=16,
                logit_bias={pair.tokenize("a")[0]: 0.0} if biased else None,
            )
            tokens = pair.tokenize(PROMPT)
            for token in got.tokens:
                allowed = _allowed(grammar, model.logits_and_hidden(tokens)[0][: len(PLAIN)])
                if temperature == 0.0:
                    expected = max(allowed, key=lambda entry: entry[1])[0]
                else:
                    ids, logits = zip(*allowed, strict=True)
                    expected = chain.choose(ids, np.array(logits), len(tokens))
                assert token.id == expected
                llama_cpp.llama_sampler_accept(grammar, token.id)
                tokens.append(token.id)
            llama_cpp.llama_sampler_free(grammar)
        chain.close()


def test_a_grammar_cut_short_is_a_beginning(pair: colm.Pair) -> None:
    for seed in range(5):
        got = pair.generate(PROMPT, grammar='root ::= "(" [0-9]{20,} ")"', seed=seed, max_tokens=9)
        assert got.finish_reason == "length"
        assert re.fullmatch(r"\([0-9]*", got.text)


def test_bad_grammars_are_refused(pair: colm.Pair) -> None:
    for grammar in ("root ::= [", "start ::= 'a'", "", "root ::= undefined", {"type": "nonsense"}, 5):
        with pytest.raises(colm.GrammarError):
            pair.generate(PROMPT, grammar=grammar)
    assert pair.generate(PROMPT, max_tokens=2, seed=0).tokens, "the pair stays usable"


def test_banning_every_token_is_an_error(shared_pairs: SharedPairs) -> None:
    pair = shared_pairs(ENDLESS_BASE, ENDLESS_ASSISTANT)
    bans = dict.fromkeys(range(pair.n_shared), -math.inf)
    with pytest.raises(colm.GenerationError, match="logit_bias"):
        pair.generate(PROMPT, logit_bias=bans)
    del bans[77]
    for options in (GREEDY, {"seed": 0}):
        assert ids(pair.generate(PROMPT, logit_bias=bans, max_tokens=3, **options).tokens) == [77] * 3

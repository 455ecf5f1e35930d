"""Grammars: the same texts as llama.cpp's, bounded work, and a pair that stays free meanwhile."""

from __future__ import annotations

import ctypes
import itertools
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import oracle as o
import pytest
import tiny_models as tm
from conftest import BASE, TinyModels, TinyPairs
from grammars import hostile_grammar, small_grammar

import colm_cpp as colm
from colm_cpp._core import Grammar

PROMPT = "The answer is"
# Of this process's time: others share the machine.
SECONDS = 2.0
clock = time.process_time
SOURCE = os.environ.get("COLM_LLAMA_SOURCE")
_VOCAB = tm.Vocab(specials=("<|bos|>",), bos="<|bos|>", eos=0)


@pytest.fixture(scope="module")
def pair(tiny_model: TinyModels) -> Iterator[colm.Pair]:
    pairs = TinyPairs(tiny_model)
    yield pairs()
    pairs.close()


class LlamaGrammar:
    """llama.cpp's own grammar over a tiny vocabulary, token by token."""

    def __init__(self, model: o.OracleModel, gbnf: str) -> None:
        self._sampler = llama_cpp.llama_sampler_init_grammar(model._vocab, gbnf.encode(), b"root")

    def __bool__(self) -> bool:
        return bool(self._sampler)

    def allowed(self, tokens: list[int]) -> set[int]:
        data = (llama_cpp.llama_token_data * len(tokens))()
        for entry, token in zip(data, tokens, strict=True):
            entry.id, entry.logit, entry.p = token, 0.0, 0.0
        array = llama_cpp.llama_token_data_array(data=data, size=len(data), selected=-1, sorted=False)
        llama_cpp.llama_sampler_apply(self._sampler, ctypes.byref(array))
        return {entry.id for entry in array.data[: array.size] if entry.logit == 0.0}

    def accept(self, token: int) -> None:
        llama_cpp.llama_sampler_accept(self._sampler, token)

    def close(self) -> None:
        if self._sampler:
            llama_cpp.llama_sampler_free(self._sampler)


@pytest.fixture(scope="module")
def model(tiny_model: TinyModels) -> Iterator[o.OracleModel]:
    with o.OracleModel(tiny_model(vocab=_VOCAB, seed=1), exact=True) as opened:
        yield opened


def _follow(model: o.OracleModel, gbnf: str, rng: random.Random, n_tokens: int) -> int:
    """Writes a random text, where at each token what may follow is what llama.cpp says; how many tokens it has."""
    theirs = LlamaGrammar(model, gbnf)
    assert theirs, gbnf
    ours = Grammar(gbnf)
    # Whole characters: llama.cpp takes the first byte of a character for refused where it only may be.
    tokens = [i for i in range(len(_VOCAB)) if _VOCAB.tokens[i].type == tm.NORMAL and i > 0]
    tokens = [i for i in tokens if _VOCAB.piece(i).isascii() and _VOCAB.piece(i)[0] != 0]
    text = b""
    n_written = 0
    while n_written < n_tokens:
        allowed = {token for token in tokens if ours.begins(text + _VOCAB.piece(token))}
        assert allowed == theirs.allowed(tokens), f"{gbnf!r} after {text!r}"
        # Token 0 ends texts.
        assert ours.accepts(text) == bool(theirs.allowed([0])), f"{gbnf!r} after {text!r}"
        if not allowed:
            break
        token = rng.choice(sorted(allowed))
        theirs.accept(token)
        text += _VOCAB.piece(token)
        n_written += 1
    theirs.close()
    return n_written


@pytest.mark.parametrize("seed", [*range(20), *(pytest.param(i, marks=pytest.mark.slow) for i in range(20, 60))])
def test_small_grammars_are_those_of_llama_cpp(model: o.OracleModel, seed: int) -> None:
    rng = random.Random(seed)
    gbnf = small_grammar(rng)
    for _ in range(2):
        _follow(model, gbnf, rng, 6)


@pytest.mark.skipif(SOURCE is None, reason="COLM_LLAMA_SOURCE names no llama.cpp source, which has the grammars")
def test_llama_cpps_grammars_are_understood(model: o.OracleModel) -> None:
    assert SOURCE is not None
    files = sorted(Path(SOURCE, "grammars").glob("*.gbnf"))
    assert len(files) >= 8
    n_tokens = {path.name: _follow(model, path.read_text(), random.Random(1), 12) for path in files}
    assert n_tokens["json.gbnf"] == 12, n_tokens


# -- bounds -----------------------------------------------------------------------------------------------------


def _chain(n: int) -> str:
    return "root ::= r0\n" + "\n".join(f'r{i} ::= r{i + 1} "a" | r{i + 1} "b"' for i in range(n)) + f'\nr{n} ::= "a"'


@pytest.mark.parametrize(
    "gbnf",
    [
        _chain(30),
        _chain(2000),
        "root ::= " + '"a"? ' * 300,
        'root ::= (("a"?){0,50}){0,50}',
        'root ::= (("a"*)*)*',
        'root ::= (("a"* "a"*)* ("a"? "a"?)*)*',
        'root ::= "a" root root | ""',
    ],
    ids=[
        "2**30 stacks",
        "2**2000 stacks",
        "300 optional",
        "nested counts",
        "nested stars",
        "star of pairs",
        "ambiguous",
    ],
)
def test_ways_that_multiply_are_followed_at_once(pair: colm.Pair, gbnf: str) -> None:
    start = clock()
    got = pair.generate(PROMPT, grammar=gbnf, max_tokens=20, seed=1)
    assert clock() - start < SECONDS
    assert set(got.text) <= {"a", "b"}
    assert Grammar(gbnf).begins(got.text)


def test_a_grammar_beyond_the_bound_says_so(pair: colm.Pair) -> None:
    # At its beginning 3000 rules may each be one of 3000 alternatives.
    gbnf = "root ::= " + "any? " * 3000 + '"x"\nany ::= ' + " | ".join(['"a" "b"'] * 3000)
    start = clock()
    with pytest.raises(colm.GrammarError) as error:
        pair.stream(PROMPT, grammar=gbnf)
    assert clock() - start < SECONDS
    assert error.value.value > error.value.limit > 0
    assert str(error.value.limit) in str(error.value)


@pytest.mark.slow
def test_a_text_beyond_the_bound_says_so(tiny_pair: TinyPairs) -> None:
    pair = tiny_pair(n_ctx=1024)
    # Any of the letters before may have been where a word began, and no text ends.
    gbnf = 'root ::= w root | w root root | w root root root\nw ::= "a" w? | "a" root root'
    seconds = []

    def write() -> None:
        start = clock()
        for token in pair.stream(PROMPT, grammar=gbnf, max_tokens=None, seed=1):
            assert set(token.text) == {"a"}
            seconds.append(clock() - start)
            start = clock()

    with pytest.raises(colm.GrammarError) as error:
        write()
    assert max(seconds) < SECONDS
    assert error.value.value > error.value.limit > 0
    assert str(error.value.limit) in str(error.value)
    assert pair.generate(PROMPT, max_tokens=2, seed=1).tokens


def _try(pair: colm.Pair, seed: int) -> None:
    gbnf = hostile_grammar(random.Random(seed))
    start = clock()
    try:
        got = pair.generate(PROMPT, grammar=gbnf, max_tokens=8, seed=seed, top_k=0 if seed % 2 else 40)
        assert Grammar(gbnf).begins(got.text.encode("utf-8")) or "\ufffd" in got.text
    except (colm.GrammarError, colm.GenerationError):
        pass  # any other error fails
    seconds = clock() - start
    assert seconds < SECONDS, f"seed {seed} took {seconds:.1f} s"


def test_hostile_grammars(pair: colm.Pair) -> None:
    for seed in range(100):
        _try(pair, seed)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
def test_many_hostile_grammars(pair: colm.Pair, part: int) -> None:
    for seed in range(1000 + 500 * part, 1500 + 500 * part):
        _try(pair, seed)


# -- who else is waiting ------------------------------------------------------------------------------------------

# 200,000 rules, built in some tenths of a second.
LARGE = "root ::= [a-z]{0,100000} [A-Z]{0,100000}"


def test_other_threads_run_while_a_grammar_is_built_and_asked(pair: colm.Pair) -> None:
    ticks: list[float] = []
    stop = threading.Event()

    def tick() -> None:
        while not stop.wait(0.002):
            ticks.append(time.perf_counter())

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        start = time.perf_counter()
        stream = pair.stream(PROMPT, grammar=LARGE, max_tokens=4, seed=1)
        built = time.perf_counter()
        stream.completion()
    finally:
        stop.set()
        thread.join()
    within = [start, *(tick for tick in ticks if start < tick < built), built]
    assert max(b - a for a, b in itertools.pairwise(within)) < (built - start) / 2


# No text of it ends. In a context of 4096 tokens it takes seconds.
_MANY = '"a"? ' * 1500
SLOW: dict[str, Any] = {"grammar": f'root ::= {_MANY} "b" root', "max_tokens": None, "top_k": 0, "seed": 1}


def test_a_text_with_a_slow_grammar_is_cancelled(tiny_pair: TinyPairs) -> None:
    pair = tiny_pair(n_ctx=4096)
    asked: list[float] = []
    ended = threading.Event()

    def cancel() -> None:
        # A cancel before the text has begun ends nothing, so it is asked for again.
        while not ended.wait(0.02):
            asked.append(clock())
            pair.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    got = pair.generate(PROMPT, **SLOW)
    seconds = clock() - asked[0]
    ended.set()
    thread.join()
    assert got.finish_reason == "cancelled"
    assert seconds < SECONDS


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signal to send to a process itself")
def test_control_c_ends_a_text_with_a_slow_grammar(tiny_pair: TinyPairs) -> None:
    pair = tiny_pair(n_ctx=4096)
    asked: list[float] = []

    def interrupt() -> None:
        asked.append(clock())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(0.1, interrupt)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        pair.generate(PROMPT, **SLOW)
    timer.join()
    assert clock() - asked[0] < SECONDS


# -- tokens -----------------------------------------------------------------------------------------------------


def test_control_tokens_are_meant_by_name_only(tiny_pair: TinyPairs) -> None:
    with tiny_pair() as pair:
        control = "<|im_start|>"
        token = pair.tokenize(control)[0]
        assert pair.detokenize([token]) == ""
        got = pair.generate(PROMPT, grammar=f'root ::= {control} "b"', seed=1)
        assert got.tokens[0].id == token
        assert got.text == "b"
        # As text it is written letter by letter, since the token itself writes nothing.
        got = pair.generate(PROMPT, grammar=f'root ::= "{control}"', seed=1)
        assert got.text == control
        assert token not in [t.id for t in got.tokens]
        with pytest.raises(colm.GrammarError, match="no_such_token"):
            pair.generate(PROMPT, grammar="root ::= <no_such_token>")
        got = pair.generate(PROMPT, grammar=f"root ::= <[{token}]> !{control}", seed=1)
        assert [t.id == token for t in got.tokens] == [True, False]


def test_texts_with_a_grammar_are_valid_utf8(tiny_pair: TinyPairs) -> None:
    pair = tiny_pair(BASE)
    for seed in range(10):
        got = pair.generate(
            PROMPT, grammar="root ::= [^a-z]{20}", seed=seed, temperature=3.0, top_k=0, min_p=0, max_tokens=None
        )
        assert len(got.text) == 20
        assert "\ufffd" not in got.text

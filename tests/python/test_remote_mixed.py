"""Experts on other machines beside local ones, of the same and of other vocabularies, and every option with them."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import far_server
import numpy as np
import pytest
import tiny_models as tm
from conftest import ASSISTANT, TINY_LOAD, TinyModels, each_once, ids
from far_server import FAR_BASE, FarServer, broken_after

import colm_cpp as colm

PROMPTS = ["The quick brown", "def function(self", "über 日本"]
UNLIKE: dict[str, Any] = {"seed": 62, "vocab": tm.Vocab.spm(n_merges=100)}
ALL = 1000  # all tokens of the tiny vocabulary: the distributions are whole
EXPERTS = ("far", "near")


far = far_server.far


def either(seed: int = 3) -> colm.Head:
    """A head that names one expert here and the other there."""
    theta = np.random.default_rng(seed).standard_normal((2, 32)).astype(np.float32)
    return colm.Head.linear(theta, np.zeros(2, np.float32), expert_names=EXPERTS)


@pytest.fixture(scope="module")
def pairs(tiny_model: TinyModels, far: FarServer) -> Iterator[dict[str, colm.Pair]]:
    """A base with an expert of its vocabulary, here or far, and one of another."""
    base, near = tiny_model(**FAR_BASE), tiny_model(**UNLIKE)
    there = {"model": far.url, "remote_top_k": ALL, "remote_retries": 0, "on_failure": "base"}
    load: Any = {"head": either(), "n_parallel": 3, **TINY_LOAD}
    with (
        colm.load(base, experts={"far": tiny_model(**ASSISTANT), "near": near}, **load) as here,
        colm.load(base, experts={"far": there, "near": near}, **load) as remote,
    ):
        yield {"here": here, "remote": remote}


OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "drawn": {"temperature": 0.8, "top_k": 0, "min_p": 0.0, "seed": 4},
    "grammar": {"temperature": 0.0, "grammar": 'root ::= ("the " | "über " | [a-z]){20}'},
    "penalties": {"temperature": 0.0, "frequency_penalty": 0.8, "presence_penalty": 0.4},
    "hold": {"temperature": 0.0, "hold": 3},
    "stop": {"temperature": 0.0, "stop": ["e"]},
}


@pytest.mark.parametrize(("options", "lookahead"), each_once(OPTIONS, [0, 5, "auto"]))
def test_three_of_which_one_is_far_and_one_unlike(pairs: dict[str, colm.Pair], options: str, lookahead: Any) -> None:
    """What they write is what they write where all are here; without look-ahead each draw is too."""
    writers = set()
    for prompt in PROMPTS:
        given: dict[str, Any] = {"max_tokens": 24, "threshold": 0.55, "logprobs": 2, **OPTIONS[options]}
        want = pairs["here"].generate(prompt, **given)
        got = pairs["remote"].generate(prompt, lookahead=lookahead, **given)
        assert (ids(got), got.text, got.finish_reason) == (ids(want), want.text, want.finish_reason)
        assert [t.logprob for t in got.tokens] == pytest.approx([t.logprob for t in want.tokens], abs=2e-3)
        for one, other in zip(got.tokens, want.tokens, strict=True):
            assert [top.id for top in one.top_logprobs] == [top.id for top in other.top_logprobs]
        writers |= {token.source for token in got.tokens}
    assert writers == {"base", *EXPERTS}


def hang_up(handler: Any) -> None:
    handler.close_connection = True


@pytest.mark.parametrize(("after", "lookahead"), each_once([0, 2], [0, 5, "auto"]))
def test_the_unlike_one_stays_where_the_far_one_fails(
    pairs: dict[str, colm.Pair], far: FarServer, lookahead: Any, after: int
) -> None:
    pair = pairs["remote"]
    given: dict[str, Any] = {"max_tokens": 40, "threshold": 0.4, "temperature": 0.0, "lookahead": lookahead}
    whole = pair.generate(PROMPTS[0], **given)
    with broken_after(far, after, hang_up):
        text = pair.generate(PROMPTS[0], **given)
        n_asked = len(far.requests)
        assert text.stats.experts["far"].failures == 1
    n = next(i for i, (one, other) in enumerate(zip(ids(text), ids(whole), strict=False)) if one != other)
    assert {source for _, source in ids(text)[n:]} == {"base", "near"}
    assert len(far.requests) == n_asked
    assert ids(pair.generate(PROMPTS[0], **given)) == ids(whole)  # the next text asks it again


def test_look_ahead_goes_on_after_a_failure(pairs: dict[str, colm.Pair], far: FarServer) -> None:
    """The draft knows who has failed: it goes on where the head names that one."""
    pair = pairs["remote"]
    given: dict[str, Any] = {"head": "always:far", "threshold": 0.0, "max_tokens": 60, "temperature": 0.0}
    drafted = {}
    for lookahead in (0, 8):
        with broken_after(far, 0, hang_up):
            text = pair.generate(PROMPTS[0], lookahead=lookahead, **given)
        assert {token.source for token in text.tokens} == {"near"}
        assert text.stats.experts["far"].failures == 1
        drafted[lookahead] = text.stats.drafted_tokens
    assert drafted[0] == 0
    assert drafted[8] > 8


def test_a_failing_expert_ends_its_texts_alone(tiny_model: TinyModels, far: FarServer) -> None:
    """Several texts at once; the server refuses one of them, again and again."""
    base, near = tiny_model(**FAR_BASE), tiny_model(**UNLIKE)
    for on_failure in ("error", "base"):
        there = {"model": far.url, "remote_retries": 0, "on_failure": on_failure}
        with colm.load(base, experts={"far": there, "near": near}, head=either(), n_parallel=3, **TINY_LOAD) as pair:
            bad = pair.tokenize(PROMPTS[1])

            def refuse(handler: Any, bad: list[int] = bad) -> None:
                if any(tokens[: len(bad)] == bad for tokens in handler.body["prompt"]):
                    return handler.answer({"error": "no"}, 400)
                return handler.answer(far.complete(handler.body))

            given: dict[str, Any] = {"max_tokens": 20, "threshold": 0.4, "temperature": 0.0}
            want = [pair.generate(prompt, **given) for prompt in PROMPTS]
            far.fault = refuse
            try:
                with pair.stream_batch(PROMPTS, n_parallel=3, **given) as batch:
                    got = dict(batch)
            finally:
                far.fault = None
            for i in (0, 2):
                assert ids(got[i]) == ids(want[i])
            if on_failure == "error":
                assert isinstance(got[1], colm.errors.RemoteRefused)
                assert got[1].status == 400
                assert str(got[1]).startswith(f"the expert far: {far.url}: ")
            else:
                assert got[1].stats.experts["far"].failures == 1
                assert {token.source for token in got[1].tokens} <= {"base", "near"}


def test_errors_of_a_load_name_the_expert(tiny_model: TinyModels, far: FarServer) -> None:
    experts = {"far": far.url, "near": {"model": "http://127.0.0.1:1", "remote_retries": 0}}
    with pytest.raises(colm.errors.RemoteUnreachable, match=r"^the expert near: http://127\.0\.0\.1:1: "):
        colm.load(tiny_model(**FAR_BASE), experts=experts, head=either(), **TINY_LOAD)
    with pytest.raises(colm.errors.RemoteVocabularyMismatch, match=r"^the expert near: the model at .* has another"):
        colm.load(tiny_model(**UNLIKE), experts={"near": far.url}, head="always", **TINY_LOAD)


JSON = 'root ::= "{\\"a\\": " [0-9] [0-9] [0-9] ", \\"b\\": " ("true" | "false") "}"'


@pytest.mark.parametrize("lookahead", [0, 6, "auto"])
def test_where_no_named_token_may_follow_the_base_writes(
    tiny_model: TinyModels, far: FarServer, lookahead: Any
) -> None:
    """With one token for each position, hardly any is what the grammar asks for."""
    with colm.load(tiny_model(**FAR_BASE), far.url, "always", remote_top_k=1, n_parallel=2, **TINY_LOAD) as pair:
        given: dict[str, Any] = {"temperature": 0.0, "grammar": JSON, "max_tokens": -1}
        plain = pair.generate("Give me an object", **given)
        text = pair.generate("Give me an object", lookahead=lookahead, **given)
        assert set(json.loads(text.text)) == {"a", "b"}
        assert ids(text) == ids(plain)
        assert "base" in {token.source for token in text.tokens}
        assert all(token.defer_prob == 1.0 for token in text.tokens)
        banned = pair.generate("The quick", max_tokens=1, temperature=0.0).tokens[0]
        (other,) = pair.generate("The quick", max_tokens=1, temperature=0.0, logit_bias={banned.id: -np.inf}).tokens
        assert banned.source == "assistant"
        assert (other.source, other.id != banned.id) == ("base", True)


def test_a_context_that_is_shorter_there(tiny_model: TinyModels) -> None:
    """Texts end where the server's context is full, and it is never asked for more."""
    with (
        FarServer(tiny_model(**ASSISTANT), n_ctx=24) as short,
        colm.load(tiny_model(**FAR_BASE), short.url, "always", **TINY_LOAD) as pair,
    ):
        assert pair.n_ctx == 24
        for lookahead in (0, 8):
            for n in (22, 23, 24):
                text = pair.generate([5] * n, max_tokens=-1, temperature=0.0, lookahead=lookahead)
                assert (text.finish_reason, len(text.tokens)) == ("length", 24 - n)
        assert max(len(prompt) for request in short.requests for prompt in request["prompt"]) == 23
        with pytest.raises(colm.ContextFull, match="24"):
            pair.generate([5] * 25)
        with pytest.raises(colm.TokenizeError):
            pair.generate([])


def test_each_chats_by_a_template_of_its_own(tiny_model: TinyModels, far: FarServer) -> None:
    """A server's template is not known: its model reads the base's prompt, or one by a template that is given."""
    template = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
    base = tiny_model(**FAR_BASE, chat_template="{{ messages[0]['content'] }}:")
    messages = [{"role": "user", "content": "the river"}]
    given: dict[str, Any] = {"head": "always", "max_tokens": 4, "temperature": 0.0}
    with colm.load(base, far.url, **TINY_LOAD) as pair:
        same = pair.chat(messages, **given)
        assert ids(same) == ids(pair.generate("the river:", **given))
        own = pair.chat(messages, chat_template={"assistant": template}, **given)
        assert ids(own) == ids(pair.generate({"base": "the river:", "assistant": "[the river]"}, **given))
        assert far.requests[-1]["prompt"][0][: len(pair.tokenize("[the river]"))] == pair.tokenize("[the river]")
        with pytest.raises(colm.ChatTemplateError, match="no chat template"):
            pair.chat(messages, chat_template={"assistant": None}, **given)


def test_sessions_are_refused_whoever_else_is_there(pairs: dict[str, colm.Pair], tmp_path: Path) -> None:
    for work in (pairs["remote"].save_session, pairs["remote"].load_session):
        with pytest.raises(colm.OptionError, match="far of this pair is on another machine"):
            work(tmp_path / "session")
    assert not list(tmp_path.iterdir())


def test_texts_that_alternate_are_remembered(tiny_model: TinyModels, far: FarServer) -> None:
    """cache_mb keeps what the base has read, though the server keeps its own."""
    with colm.load(tiny_model(**FAR_BASE), far.url, "random", cache_mb=64, n_parallel=1, **TINY_LOAD) as pair:
        long = ["the river and the sea " * 8, "one in the north, one in the south " * 5]
        given: dict[str, Any] = {"max_tokens": 6, "temperature": 0.0, "threshold": 0.5, "seed": 1}
        first = [pair.generate(prompt, **given) for prompt in long]
        again = [pair.generate(prompt, **given) for prompt in long]
        assert [ids(text) for text in again] == [ids(text) for text in first]
        for text in again:
            assert text.stats.base_tokens_read < 20


def test_threads_share_a_pair(pairs: dict[str, colm.Pair]) -> None:
    """Each of several threads gets its own text, also while others come and leave in the middle."""
    pair = pairs["remote"]
    given: dict[str, Any] = {"max_tokens": 16, "threshold": 0.45, "temperature": 0.0, "lookahead": "auto"}
    want = {prompt: ids(pair.generate(prompt, **given)) for prompt in PROMPTS}
    wrong: list[Any] = []

    def write(i: int) -> None:
        prompt = PROMPTS[i % 3]
        try:
            if i % 4 == 3:
                with pair.stream(prompt, **given) as stream:  # and left
                    next(stream)
            elif ids(pair.generate(prompt, **given)) != want[prompt]:
                wrong.append(prompt)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []


def test_cancelling_and_going_on_while_the_old_answer_is_on_its_way(tiny_model: TinyModels, far: FarServer) -> None:
    """The answer to a text that was left is never taken for one to the next."""
    with colm.load(tiny_model(**FAR_BASE), far.url, "always", remote_top_k=2, **TINY_LOAD) as pair:
        want = {prompt: ids(pair.generate(prompt, max_tokens=4, temperature=0.0)) for prompt in PROMPTS}
        far.delay = 0.05
        try:
            for prompt, other in zip(PROMPTS, PROMPTS[1:] + PROMPTS[:1], strict=True):
                stream = pair.stream(prompt, max_tokens=4, temperature=0.0)
                next(stream)
                timer = threading.Timer(0.02, stream.cancel)
                timer.start()
                assert stream.completion().finish_reason == "cancelled"
                assert ids(pair.generate(other, max_tokens=4, temperature=0.0)) == want[other]
        finally:
            far.delay = 0.0


LEAVES_A_CALL = """
import sys, threading, colm_cpp
pair = colm_cpp.load(sys.argv[1], sys.argv[2], "always", n_ctx=64, n_threads=1, remote_timeout=60)
stream = pair.stream("x", max_tokens=2)
threading.Thread(target=next, args=(stream, None), daemon=True).start()
sys.stdin.readline()
"""


def test_a_process_ends_while_a_call_hangs(tiny_model: TinyModels, far: FarServer) -> None:
    """Nobody closed the pair, and nobody waits for the server's answer."""
    asked, ended = threading.Event(), threading.Event()

    def hang(handler: Any) -> None:
        asked.set()
        ended.wait(100)

    far.fault = hang
    arguments = [sys.executable, "-c", LEAVES_A_CALL, str(tiny_model(**FAR_BASE)), far.url]
    try:
        with subprocess.Popen(arguments, stdin=subprocess.PIPE) as process:
            assert asked.wait(60)
            process.communicate(b"end\n", timeout=30)
    finally:
        far.fault = None
        ended.set()
    assert process.returncode == 0


def test_a_dropped_pair_lets_go_of_its_server(
    tiny_model: TinyModels, far: FarServer, shared_pairs: Callable[..., colm.Pair]
) -> None:
    before = len(far.connections)
    pair = colm.load(tiny_model(**FAR_BASE), far.url, "always", **TINY_LOAD)
    pair.generate("x", max_tokens=2)
    assert len(far.connections) > before
    pair.close()
    for _ in range(200):
        if len(far.connections) <= before:
            break
        threading.Event().wait(0.02)
    assert len(far.connections) <= before

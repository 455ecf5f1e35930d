"""An expert on another machine writes what the same model writes on this one."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import commands
import far_server
import pytest
from commands import run
from conftest import ASSISTANT, TINY_LOAD, TinyModels, each_once, ids
from far_server import FAR_BASE as BASE
from far_server import FarServer

import colm_cpp as colm
from colm_cpp.learn.scoring import Scorer
from colm_cpp.remote import SCHEMES, RemoteModel

PROMPTS = ["The quick brown", "def function(self", "What is the name of", "日本 and é"]
# All tokens of the tiny vocabulary: the distributions are whole.
ALL = 1000


far = far_server.far


@pytest.fixture(scope="module")
def near_and_far(tiny_model: TinyModels, far: FarServer) -> Iterator[Callable[[int], tuple[colm.Pair, colm.Pair]]]:
    """By ``remote_top_k``: the pair on this machine, and the one whose assistant is elsewhere."""
    made: dict[int, tuple[colm.Pair, colm.Pair]] = {}
    base, assistant = tiny_model(**BASE), tiny_model(**ASSISTANT)

    def pairs(top_k: int) -> tuple[colm.Pair, colm.Pair]:
        if top_k not in made:
            here = colm.load(base, assistant, head="random", **TINY_LOAD)
            there = colm.load(base, far.url, head="random", remote_top_k=top_k, n_parallel=3, **TINY_LOAD)
            made[top_k] = here, there
        return made[top_k]

    yield pairs
    for here, there in made.values():
        here.close()
        there.close()


def sources(text: colm.Completion) -> list[str]:
    return [token.source for token in text.tokens]


OPTIONS: list[tuple[int, dict[str, Any]]] = [
    (1, {"temperature": 0.0}),
    (ALL, {"temperature": 0.0, "logit_bias": {5: -1.0}, "frequency_penalty": 0.7}),
    (ALL, {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}),
    (8, {"temperature": 0.9, "top_k": 8, "top_p": 0.9}),
]


@pytest.mark.parametrize(("how", "lookahead"), each_once(OPTIONS, ["auto", 0, 4]))
def test_writes_what_a_local_one_writes(near_and_far: Any, how: tuple[int, dict[str, Any]], lookahead: Any) -> None:
    top_k, options = how
    here, there = near_and_far(top_k)
    for seed, prompt in enumerate(PROMPTS):
        given = {"max_tokens": 24, "seed": seed, "threshold": 0.6, **options}
        want = here.generate(prompt, **given)
        got = there.generate(prompt, lookahead=lookahead, **given)
        assert (ids(got), got.text, sources(got)) == (ids(want), want.text, sources(want))
        assert got.stats.lookahead is (lookahead != 0)
        if top_k == ALL:
            assert [t.logprob for t in got.tokens] == pytest.approx([t.logprob for t in want.tokens], abs=1e-3)


@pytest.mark.parametrize("n", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_several_texts_at_once(near_and_far: Any, far: FarServer, n: int) -> None:
    here, there = near_and_far(ALL)
    given: dict[str, Any] = {"max_tokens": 20, "seed": 3, "temperature": 0.7, "top_k": 0, "threshold": 0.5}
    want = [here.generate(prompt, **{**given, "seed": 3 + i}) for i, prompt in enumerate(PROMPTS)]
    before = len(far.requests)
    for lookahead in (0, "auto"):
        got = there.generate_batch(PROMPTS, n_parallel=n, lookahead=lookahead, **given)
        assert [ids(text) for text in got] == [ids(text) for text in want]
        assert [sources(text) for text in got] == [sources(text) for text in want]
    assert {request["id_slot"] for request in far.requests[before:]} == {0, 1}  # it has two


def test_stats_and_facts(near_and_far: Any, far: FarServer) -> None:
    _, there = near_and_far(8)
    before = len(far.requests)
    text = there.generate("The quick", head="always", max_tokens=6, temperature=0.0)
    work = text.stats.experts["assistant"]
    assert len(far.requests) - before == work.calls == 6
    assert (work.tokens, work.top_k, work.failures, work.tokens_read) == (len(text.tokens), 8, 0, 0)
    tails = [
        1 - sum(2.718281828459045 ** entry["logprob"] for entry in far.top(r["prompt"][0], 8))
        for r in far.requests[before:]
    ]
    assert work.tail == pytest.approx(sum(tails) / 6, abs=1e-4)
    assert 0.0 < work.tail < 1.0
    assert text.stats.experts["base"].top_k == 0
    facts = there.assistant
    assert facts["url"] == far.url
    assert facts["protocol"] == "llama-server"
    assert (facts["top_k"], facts["n_ctx"]) == (8, 256)
    assert far.url.removeprefix("http://") in repr(there)


def test_one_call_has_all_open_positions(tiny_model: TinyModels, far: FarServer) -> None:
    """While it is under way the base drafts on. The base is the same model, so all drafts are right."""
    there = colm.load(tiny_model(**ASSISTANT), far.url, head="random", **TINY_LOAD)
    far.delay = 0.03
    try:
        counts = {}
        for lookahead in (0, 15):
            before = len(far.requests)
            text = there.generate(
                "The quick", max_tokens=40, threshold=0.7, seed=5, temperature=0.0, lookahead=lookahead
            )
            counts[lookahead] = [len(request["prompt"]) for request in far.requests[before:]]
            assert text.stats.assistant_calls == len(counts[lookahead])
    finally:
        far.delay = 0.0
    assert set(counts[0]) == {1}
    there.close()
    assert max(counts[15]) > 1
    assert len(counts[15]) < len(counts[0])


def test_fewer_positions_where_each_names_many(
    tiny_model: TinyModels, far: FarServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RemoteModel, "most_ids", 3 * 64)
    monkeypatch.setattr(far, "delay", 0.03)
    with colm.load(tiny_model(**ASSISTANT), far.url, head="random", remote_top_k=64, **TINY_LOAD) as there:
        before = len(far.requests)
        text = there.generate("The quick", max_tokens=40, threshold=0.7, seed=5, temperature=0.0, lookahead=15)
    asked = [len(request["prompt"]) for request in far.requests[before:]]
    assert max(asked) <= 3 < sum(asked)
    assert text.stats.accepted_tokens == text.stats.drafted_tokens > 3


def test_a_batch_counts_the_questions(
    near_and_far: Callable[[int], tuple[colm.Pair, colm.Pair]], far: FarServer
) -> None:
    _, there = near_and_far(8)
    for n_texts in (1, 3):
        before = len(far.requests)
        with there.stream_batch(["The quick"] * n_texts, n_parallel=3, head="always", max_tokens=5, seed=1) as batch:
            assert batch.counts == {"steps": 0, "base_decodes": 0, "assistant_decodes": 0}
            texts = [text for _, text in batch]
            assert batch.counts["assistant_decodes"] == len(far.requests) - before > 0
            assert batch.counts["base_decodes"] == 0
        assert len(texts) == n_texts


def test_two_experts_of_which_one_is_far(tiny_model: TinyModels, far: FarServer) -> None:
    other = tiny_model(**{**ASSISTANT, "seed": 7})
    near = {"a": tiny_model(**ASSISTANT), "b": other}
    given: dict[str, Any] = {"max_tokens": 30, "temperature": 0.0, "seed": 1}
    for order in (("a", "b"), ("b", "a")):
        for head in ("random:a", "random:b"):
            with colm.load(tiny_model(**BASE), experts={n: near[n] for n in order}, head=head, **TINY_LOAD) as pair:
                want = pair.generate("The quick", **given)
            mixed = {n: {"model": far.url, "remote_top_k": 3} if n == "a" else other for n in order}
            with colm.load(tiny_model(**BASE), experts=mixed, head=head, **TINY_LOAD) as pair:
                for lookahead in (0, "auto"):
                    got = pair.generate("The quick", lookahead=lookahead, **given)
                    assert (ids(got), sources(got)) == (ids(want), sources(want))


def test_command_line_and_pair_file(tiny_model: TinyModels, far: FarServer, tmp_path: Path) -> None:
    base = tiny_model(**BASE)
    options = [
        "--head",
        "random",
        "--threshold",
        "0.5",
        "--temperature",
        "0",
        "--seed",
        "2",
        "--max-tokens",
        "12",
        "-q",
    ]
    load = ["--n-ctx", "128"]

    def run(*arguments: str) -> str:
        return commands.succeed("generate", "The quick", *arguments, *load, *options).stdout

    want = run("--base", str(base), "--assistant", str(tiny_model(**ASSISTANT)))
    assert run("--base", str(base), "--assistant", far.url, "--remote-top-k", "5") == want
    assert run("--base", str(base), "--expert", f"far={far.url}", "--head", "random:far") == want
    file = tmp_path / "pair.toml"
    file.write_text(f'version = 1\nbase = "{base}"\n[experts.far]\nmodel = "{far.url}"\nremote_top_k = 5\n')
    assert run("--pair", str(file), "--head", "random:far") == want
    file.write_text(f'version = 1\nbase = "{base}"\nassistant = "{far.url}"\n[assistant_options]\nremote_top_k = 5\n')
    assert run("--pair", str(file)) == want
    kept = colm.generate(
        "The quick",
        base=base,
        assistant=far.url,
        head="random",
        max_tokens=12,
        temperature=0.0,
        seed=2,
        threshold=0.5,
        load_options={"n_ctx": 128},
    )
    assert want.startswith(kept.text)
    colm.unload()


@pytest.mark.parametrize("strategy", ["compose", "contrastive", "add"])
def test_strategies_that_need_whole_distributions_are_refused(near_and_far: Any, strategy: Any) -> None:
    with pytest.raises(colm.OptionError, match="every token"):
        near_and_far(1)[1].generate("x", strategy=strategy)


def test_what_needs_the_file_is_refused(
    near_and_far: Any, tiny_model: TinyModels, far: FarServer, tmp_path: Path
) -> None:
    _, there = near_and_far(1)
    base = str(tiny_model(**BASE))
    for work in (
        lambda: there.save_session(tmp_path / "s"),
        lambda: there.load_session(tmp_path / "s"),
        lambda: there.replay([1, 2], [("base", 0, 1, True, False)]),
    ):
        with pytest.raises(colm.OptionError, match="another machine"):
            work()
    with pytest.raises(colm.OptionError, match="another machine"):
        Scorer(base, far.url)
    with pytest.raises(colm.OptionError, match="must be a file"):
        colm.load(far.url, base)
    with pytest.raises(colm.OptionError, match="lora"):
        colm.load(base, far.url, assistant_options={"lora": "x.gguf"})
    result = run("inspect", far.url)
    assert result.exit_code != 0
    assert "another machine" in result.output


def test_urls_that_are_none(tiny_model: TinyModels) -> None:
    for place in (
        "host:99999",
        "host:port",
        "user:secret@host",
        "host?key=1",
        "",
        ":80",
        "[::1",
        "a\0b",
        "host/\x1b",
        "host..there",
        f"{'a' * 64}.com",
        "xn--\u00e4",
    ):
        for scheme in SCHEMES:
            with pytest.raises(colm.OptionError) as raised:
                colm.load("base.gguf", f"{scheme}{place}{'#pair:base' if scheme.startswith('colm') else ''}")
            assert "secret" not in str(raised.value)
            assert str(raised.value).isprintable()
    for address in ("127.0.0.1:8080", "host:80/v1", "my-host.lan:8080"):
        with pytest.raises(colm.OptionError, match="http://"):
            colm.load(tiny_model(**BASE), address)
    for url in ("ftp://host", "openai+ftp://host", "vllm+http://host", "http://host#model"):
        with pytest.raises(colm.OptionError, match=r"openai\+http://"):
            colm.load("base.gguf", url)


def test_the_key_is_sent(tiny_model: TinyModels, far: FarServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLM_REMOTE_KEY", "abc")
    far.paths.clear()
    with colm.load(tiny_model(**BASE), far.url, head="always", **TINY_LOAD) as pair:
        pair.generate("x", max_tokens=2)
    assert {path for path, _ in far.paths} == {"/props", "/v1/models", "/tokenize", "/completion"}
    assert {key for _, key in far.paths} == {"Bearer abc"}


def test_close_ends_a_call_that_hangs(tiny_model: TinyModels, far: FarServer) -> None:
    """Nobody waits for the server."""
    pair = colm.load(tiny_model(**BASE), far.url, head="always", remote_timeout=60, **TINY_LOAD)
    far.delay = 20.0
    failed: list[BaseException] = []

    def write() -> None:
        try:
            pair.generate("The quick", max_tokens=3)
        except BaseException as error:
            failed.append(error)

    try:
        before = len(far.requests)
        writer = threading.Thread(target=write)
        writer.start()
        while len(far.requests) == before:
            time.sleep(0.005)
        begin = time.monotonic()
        pair.close()
        writer.join()
        assert time.monotonic() - begin < 10
    finally:
        far.delay = 0.0
    assert isinstance(failed[0], colm.PairClosed)


def test_cancelling_while_a_call_hangs(tiny_model: TinyModels, far: FarServer) -> None:
    with colm.load(tiny_model(**BASE), far.url, head="always", **TINY_LOAD) as pair:
        far.delay = 20.0
        stream = pair.stream("The quick", max_tokens=3)
        timer = threading.Timer(0.1, pair.cancel)
        begin = time.monotonic()
        timer.start()
        text = stream.completion()
        assert time.monotonic() - begin < 10
        assert (text.finish_reason, text.text) == ("cancelled", "")
        far.delay = 0.0
        assert len(pair.generate("The quick", max_tokens=3, temperature=0.0).tokens) == 3


def test_a_cancelled_call_is_broken_off(tiny_model: TinyModels, far: FarServer) -> None:
    """The server can stop, and the slot's next text does not wait for the call."""
    left: list[bytes] = []

    def hang(handler: Any) -> None:
        pair.cancel()
        handler.connection.settimeout(20)
        left.append(handler.connection.recv(1))

    with colm.load(tiny_model(**BASE), far.url, head="always", **TINY_LOAD) as pair:
        far.fault = hang
        try:
            assert pair.generate("The quick", max_tokens=3).finish_reason == "cancelled"
        finally:
            far.fault = None
        assert len(pair.generate("The quick", max_tokens=3, temperature=0.0).tokens) == 3
    assert left == [b""]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_is_refused(near_and_far: Any) -> None:
    """It has the parent's connections, and none of its threads. The parent goes on."""
    _, there = near_and_far(8)
    there.generate("x", head="always", max_tokens=2)
    child = os.fork()
    if child == 0:
        try:
            there.generate("x", head="always", max_tokens=2)
        except colm.ForkError:
            there.close()
            os._exit(7)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert len(there.generate("x", head="always", max_tokens=2, temperature=0.0).tokens) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_closes_its_pair(tiny_model: TinyModels, far: FarServer) -> None:
    """The threads that wait in the parent are not there, so nobody waits for them."""
    with colm.load(tiny_model(**BASE), far.url, head="always", **TINY_LOAD) as pair:
        pair.generate("x", max_tokens=2)
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            pair.close()
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_stats_go_to_json(near_and_far: Any) -> None:
    _, there = near_and_far(8)
    stats = there.generate("x", head="always", max_tokens=2).stats.to_dict()
    assert set(stats["experts"]["assistant"]) == {f.name for f in dataclasses.fields(colm.results.ExpertStats)}

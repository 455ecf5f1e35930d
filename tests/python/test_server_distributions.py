"""``/v1/colm/distributions``: one model's distributions, as the local pair has them, and its client."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import expert_files
import numpy as np
import pytest
import tiny_models as tm
from conftest import ASSISTANT, BASE, TINY_LOAD, TinyModels
from oracle import OracleModel, log_softmax

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

from server_world import World, running, served, tiny  # noqa: E402

import colm_cpp as colm  # noqa: E402
from colm_cpp.errors import RemoteRefused, RemoteVocabularyMismatch  # noqa: E402
from colm_cpp.options import ExpertModel  # noqa: E402
from colm_cpp.remote import MOST_POSITIONS, Likeliest, frames, open_remote  # noqa: E402
from colm_cpp.server import Settings  # noqa: E402
from colm_cpp.server.registry import Registry  # noqa: E402
from colm_cpp.server.schemas import MAX_POSITIONS  # noqa: E402
from colm_cpp.sources.pair_file import Preset  # noqa: E402

files = expert_files.files
PATH = "/v1/colm/distributions"
KEY = "s3cret"
TEXT = "The quick brown fox jumps"
UNLIKE: dict[str, Any] = {"seed": 62, "vocab": tm.Vocab.spm(n_merges=100)}
Body = dict[str, Any]


@pytest.fixture(scope="module")
def world(tiny_model: TinyModels, files: dict[str, Path]) -> Iterator[World]:
    experts = tuple(ExpertModel(name, str(files[name])) for name in ("math", "code"))
    three = Preset("three", str(files["base"]), "", "random:math", experts=experts)
    unlike = Preset("unlike", str(tiny_model(**BASE)), str(tiny_model(**UNLIKE)), "random")
    entries = [tiny(tiny_model), *(served(p.name, p, n_parallel=2, **TINY_LOAD) for p in (three, unlike))]
    with running(Registry(entries), Settings(api_key=KEY)) as world:
        yield world


@pytest.fixture(scope="module")
def client(world: World) -> Iterator[Any]:
    with httpx.Client(base_url=world.address, timeout=30, headers={"Authorization": f"Bearer {KEY}"}) as client:
        yield client


@pytest.fixture(scope="module")
def local(tiny_model: TinyModels) -> Iterator[colm.Pair]:
    """The pair ``tiny`` in this process, with models of its own."""
    more: Body = {"n_ctx_train": 256}
    with colm.load(tiny_model(**BASE, **more), tiny_model(**ASSISTANT, **more), "confidence", **TINY_LOAD) as pair:
        yield pair


def asked(client: Any, model: str, tokens: Sequence[int], counts: Sequence[int], top_k: int) -> list[Likeliest]:
    answer = client.post(PATH, json={"model": model, "tokens": tokens, "counts": counts, "top_k": top_k})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == frames.MEDIA_TYPE
    at, found = frames.decode(answer.content)
    assert at == list(counts)
    return found


def here(pair: colm.Pair, head: str, tokens: Sequence[int], top_k: int) -> dict[int, float]:
    """What the pair in this process reports of its next token."""
    written = pair.generate(tokens, head=head, max_tokens=1, temperature=0.0, logprobs=top_k)
    first = written.tokens[0] if written.tokens else written.end_token
    assert first is not None
    return {top.id: top.logprob for top in first.top_logprobs}


def assert_same(one: Likeliest, other: dict[int, float]) -> None:
    """The same probabilities. A slot that goes on with a text rounds otherwise than one that reads it anew."""
    assert set(one.ids) == set(other)
    assert list(one.logprobs) == sorted(one.logprobs, reverse=True)
    expected = [other[token] for token in one.ids]
    assert np.exp(one.logprobs) == pytest.approx(np.exp(expected), abs=1e-5)
    assert list(one.logprobs) == pytest.approx(expected, abs=1e-4)
    assert one.tail == pytest.approx(1.0 - np.exp(expected).sum(), abs=2e-5)


# -- what it gives -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "head"), [("base", "never"), ("assistant", "always")])
@pytest.mark.parametrize("top_k", [1, 7, 10**6], ids=["one", "seven", "all"])
def test_they_are_those_of_the_local_pair(client: Any, local: colm.Pair, model: str, head: str, top_k: int) -> None:
    tokens = local.tokenize(TEXT)
    counts = [1, 2, len(tokens) - 3, len(tokens) - 1, len(tokens)]
    found = asked(client, f"tiny:{model}", tokens, counts, top_k)
    for count, one in zip(counts, found, strict=True):
        assert len(one.ids) == min(top_k, local.n_shared)
        assert_same(one, here(local, head, tokens[:count], top_k))
    if top_k > local.n_shared:
        assert all(sorted(one.ids) == list(range(local.n_shared)) and one.tail < 1e-6 for one in found)


@pytest.mark.parametrize(("model", "facts"), [("base", BASE), ("assistant", ASSISTANT)])
def test_they_are_those_of_llama_cpp(
    client: Any, tiny_model: TinyModels, local: colm.Pair, model: str, facts: Body
) -> None:
    """A context that reads the whole text anew for each position; softmax over the ids that the models share."""
    tokens = local.tokenize(TEXT)
    counts = [3, len(tokens)]
    found = asked(client, f"tiny:{model}", tokens, counts, 10**6)
    with OracleModel(tiny_model(**facts, n_ctx_train=256), 256, exact=True) as oracle:
        for count, one in zip(counts, found, strict=True):
            expected = log_softmax(oracle.logits_and_hidden(tokens[:count])[0][: local.n_shared])
            assert [expected[i] for i in one.ids] == pytest.approx(list(one.logprobs), abs=2e-4)


def test_json_says_the_same(client: Any, local: colm.Pair) -> None:
    tokens = local.tokenize(TEXT)
    body = {"model": "tiny:assistant", "tokens": tokens, "counts": [2, 5], "top_k": 4}
    answer = client.post(PATH, json=body, headers={"Accept": "application/json"}).json()
    assert (answer["object"], answer["model"]) == ("colm.distributions", "tiny:assistant")
    binary = asked(client, "tiny:assistant", tokens, [2, 5], 4)
    for count, position, one in zip([2, 5], answer["positions"], binary, strict=True):
        assert set(position) == {"count", "tail", "ids", "logprobs"}
        assert position["count"] == count
        assert_same(one, dict(zip(position["ids"], position["logprobs"], strict=True)))
        assert position["tail"] == pytest.approx(one.tail, abs=1e-6)


def test_without_counts_it_is_about_the_end(client: Any, local: colm.Pair) -> None:
    tokens = local.tokenize(TEXT)
    answer = client.post(PATH, json={"model": "tiny:base", "tokens": tokens, "top_k": 3})
    at, found = frames.decode(answer.content)
    assert at == [len(tokens)]
    (other,) = asked(client, "tiny:base", tokens, [len(tokens)], 3)
    assert_same(found[0], dict(zip(other.ids, other.logprobs, strict=True)))


def read(client: Any) -> dict[str, float]:
    """Tokens that each model of tiny has read, as counted by the server."""
    lines = re.findall(
        r'colm_model_tokens_read_total\{model="(\w+)",pair="tiny"\} ([0-9.e+]+)', client.get("/metrics").text
    )
    return {model: float(n) for model, n in lines}


def test_a_further_position_costs_its_new_tokens(client: Any, local: colm.Pair) -> None:
    """The slot keeps what it has read; and only the model that is asked for reads."""
    tokens = local.tokenize("Once there was a fox who told a story about the rain and the sun")
    n = len(tokens)
    asked(client, "tiny:assistant", tokens, [n - 4], 5)
    before = read(client)
    asked(client, "tiny:assistant", tokens, [n - 3, n - 1, n], 5)
    after = read(client)
    assert after["base"] == before["base"]
    assert after["assistant"] - before["assistant"] == 4


def test_one_of_several_experts(client: Any, files: dict[str, Path]) -> None:
    experts = {name: files[name] for name in ("math", "code")}
    with colm.load(files["base"], experts=experts, head="random:math", **TINY_LOAD) as pair:
        tokens = pair.tokenize(TEXT)
        for model, head in (("base", "never"), ("math", "always:math"), ("code", "always:code")):
            (one,) = asked(client, f"three:{model}", tokens, [len(tokens)], 9)
            assert_same(one, here(pair, head, tokens, 9))


def test_the_base_of_unlike_vocabularies(client: Any, tiny_model: TinyModels, local: colm.Pair) -> None:
    """Its ids are its own; the assistant's cannot be read without a text of the base's."""
    tokens = local.tokenize(TEXT)
    (one,) = asked(client, "unlike:base", tokens, [len(tokens)], 3)
    assert len(one.ids) == 3
    answer = client.post(PATH, json={"model": "unlike:assistant", "tokens": tokens, "top_k": 3})
    assert answer.status_code == 400
    assert "unlike:base" in answer.json()["error"]["message"]


def test_many_clients(client: Any, local: colm.Pair) -> None:
    """They share the slots, and each gets its own answer."""
    texts = [local.tokenize(TEXT + " over" * i) for i in range(8)]
    found: list[Any] = [None] * len(texts)

    def work(i: int) -> None:
        found[i] = asked(client, "tiny:assistant", texts[i], [2, len(texts[i])], 5)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for tokens, (_, last) in zip(texts, found, strict=True):
        assert_same(last, here(local, "always", tokens, 5))


# -- what it refuses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"model": "absent"}, 404, "model"),
        ({"model": "tiny"}, 400, "model"),
        ({"model": "tiny@20%"}, 400, "model"),
        ({"model": "tiny:mixture"}, 400, "model"),
        ({"tokens": []}, 400, "tokens"),
        ({"tokens": "text"}, 400, "tokens"),
        ({"tokens": [1.5]}, 400, "tokens[0]"),
        ({"tokens": [-1]}, 400, None),
        ({"tokens": [10**6]}, 400, None),
        ({"tokens": [10**30]}, 400, None),
        ({"tokens": [1] * 256, "counts": [256]}, 400, "messages"),
        ({"counts": []}, 400, "counts"),
        ({"counts": [0]}, 400, "counts"),
        ({"counts": [4]}, 400, "counts"),
        ({"counts": [2, 1]}, 400, "counts"),
        ({"counts": [2, 2]}, 400, "counts"),
        ({"tokens": [1] * 200, "counts": list(range(1, MAX_POSITIONS + 2))}, 400, "counts"),
        ({"top_k": 0}, 400, "top_k"),
        ({"top_k": "all"}, 400, "top_k"),
        ({"temperature": 0}, 400, "temperature"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refused(client: Any, change: Body, status: int, param: str | None) -> None:
    answer = client.post(PATH, json={"model": "tiny:base", "tokens": [1, 2, 3], "top_k": 3, **change})
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["param"] == param


def test_too_many_ids(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("colm_cpp.server.distributions.MAX_IDS", 10)
    body = {"model": "tiny:base", "tokens": [1, 2, 3], "counts": [1, 2], "top_k": 5}
    assert client.post(PATH, json=body).status_code == 200
    answer = client.post(PATH, json={**body, "top_k": 6})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "top_k")


@pytest.mark.parametrize("method", ["get", "post"])
def test_it_asks_for_the_key(world: World, method: str) -> None:
    assert getattr(httpx, method)(world.address + PATH, params={"model": "tiny:base"}).status_code == 401


def test_a_text_that_is_cancelled(local: colm.Pair) -> None:
    from colm_cpp.options import GenerationOptions

    options = GenerationOptions.of({"head": "always", "max_tokens": 1, "logprobs": 3})
    stream = local.begin(local.tokenize(TEXT), options)
    stream.cancel()
    with pytest.raises(colm.PairClosed):
        stream.likeliest()


# -- bytes -------------------------------------------------------------------------------------------------------------

FOUND = [Likeliest([5, 1, 9], [-0.5, -1.5, -2.5], 0.088), Likeliest([2], [0.0], 0.0)]


def test_bytes_and_back() -> None:
    body = frames.encode([3, 4], FOUND)
    assert len(body) == frames.size(2, 3)
    assert frames.decode(body) == ([3, 4], FOUND)
    assert frames.decode(frames.encode([], [])) == ([], [])


def test_bytes_as_documented() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "server.md").read_text(encoding="utf-8")
    program = re.search(r"<!-- program: distributions -->\n```python\n(.*?)```", page, re.S)
    assert program is not None
    scope: Body = {}
    exec(program[1], scope)
    positions = scope["positions"](frames.encode([3, 4], FOUND))
    assert [(count, tail, ids[:1].tolist()) for count, tail, ids, _ in positions] == [(3, 0.088, [5]), (4, 0.0, [2])]


@pytest.mark.parametrize("n", [0, 3, 15, 16, 40, -1])
def test_bytes_that_are_cut(n: int) -> None:
    with pytest.raises(ValueError, match="bytes"):
        frames.decode(frames.encode([3, 4], FOUND)[:n])


# -- the client --------------------------------------------------------------------------------------------------------


class OfPair:
    """The vocabulary of a local pair."""

    def __init__(self, pair: colm.Pair) -> None:
        self._pair = pair
        self.n_ids = pair.n_shared
        self.fingerprint = pair.vocab_fingerprint

    def tokenize(self, text: str) -> list[int]:
        return self._pair.tokenize(text, add_special=False, parse_special=False)


Connect = Callable[..., contextlib.closing[Any]]


@pytest.fixture
def connect(world: World) -> Connect:
    def connect(model: str, top_k: int = 0, key: str = KEY) -> contextlib.closing[Any]:
        url = f"colm+{world.address}#{model}"
        return contextlib.closing(open_remote(url, key=key, timeout=30.0, retries=0, top_k=top_k))

    return connect


def test_greedy_text_through_the_client(connect: Connect, local: colm.Pair) -> None:
    """Token for token that of the local assistant."""
    prompt = local.tokenize(TEXT)
    expected = [token.id for token in local.generate(prompt, head="always", max_tokens=20, temperature=0.0).tokens]
    assert len(expected) > 5
    with connect("tiny:assistant", top_k=4) as model:
        model.check(OfPair(local))
        assert model.n_ctx == local.n_ctx
        tokens = list(prompt)
        for _ in expected:
            (one,) = model.likeliest(0, tokens, [len(tokens)])
            tokens.append(one.ids[0])
        assert tokens[len(prompt) :] == expected
        counts = range(len(prompt), len(tokens))
        for at in range(0, len(expected), MOST_POSITIONS):  # and in few calls
            some = counts[at : at + MOST_POSITIONS]
            assert [one.ids[0] for one in model.likeliest(0, tokens, some)] == [tokens[count] for count in some]


def test_all_ids_through_the_client(connect: Connect, local: colm.Pair) -> None:
    tokens = local.tokenize(TEXT)
    with connect("tiny:assistant") as model:
        model.check(OfPair(local))
        (one,) = model.likeliest(3, tokens, [len(tokens)])
        assert_same(one, here(local, "always", tokens, local.n_shared))


def test_another_vocabulary_through_the_client(connect: Connect, tiny_model: TinyModels, world: World) -> None:
    file = tiny_model(**UNLIKE)
    with (
        colm.load(file, file, "never", **TINY_LOAD) as other,
        connect("tiny:assistant") as model,
        pytest.raises(RemoteVocabularyMismatch),
    ):
        model.check(OfPair(other))


def test_what_the_server_refuses_comes_through(connect: Connect, local: colm.Pair) -> None:
    with connect("tiny:mixture") as model, pytest.raises(RemoteRefused, match="one model"):
        model.check(OfPair(local))
    with connect("absent:base") as model, pytest.raises(RemoteRefused, match="no model"):
        model.check(OfPair(local))
    with connect("tiny:base", key="wrong") as model, pytest.raises(RemoteRefused, match="key"):
        model.check(OfPair(local))
    with connect("tiny:base") as model:
        model.check(OfPair(local))
        with pytest.raises(RemoteRefused, match="10000000"):
            model.likeliest(0, [1, 10_000_000], [2])

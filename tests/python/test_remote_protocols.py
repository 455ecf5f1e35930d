"""Every protocol of models on other machines against its look-alike: what is right, lies, and other models."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("httpx")

import remote_lookalikes
from conftest import each_once
from remote_lookalikes import (
    KEY,
    MODEL,
    N_CTX,
    N_IDS,
    PROTOCOLS,
    TEXT,
    LookAlike,
    Row,
    Words,
    ask,
    checked,
    connect,
    table,
)

from colm_cpp.errors import (
    OptionError,
    RemoteAnswerInvalid,
    RemoteRefused,
    RemoteVocabularyMismatch,
)
from colm_cpp.remote import MOST_POSITIONS
from colm_cpp.remote._http import MOST_BYTES
from colm_cpp.remote.colm import MOST_IDS
from colm_cpp.remote.sglang import SPARE

server = remote_lookalikes.server


# -- what is right -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [(8,), (1,), (5, 8), (1, 2, 3), (2, 4, 5, 7)], ids=str)
def test_the_likeliest_ids(server: LookAlike, counts: tuple[int, ...]) -> None:
    """Those of the table, whatever positions are asked for, in one request."""
    found = ask(server, counts)
    assert len(server.asked) == 1
    assert len(found) == len(counts)
    for count, one in zip(counts, found, strict=True):
        logprobs = table(TEXT[:count])
        best = sorted(range(N_IDS), key=lambda i: -logprobs[i])[:8]
        assert list(one.ids) == best
        assert list(one.logprobs) == pytest.approx([logprobs[i] for i in best], abs=1e-6)
        assert one.tail == pytest.approx(1 - sum(math.exp(logprobs[i]) for i in best), abs=1e-6)


def test_what_a_model_says_of_itself(server: LookAlike) -> None:
    with contextlib.closing(connect(server.url)) as model:
        model.check(Words())
        assert model.n_ctx == N_CTX - (SPARE if server.protocol == "sglang" else 0)
        assert MODEL in model.name
        assert (model.protocol, model.top_k) == (server.protocol, 8)
        longest = [1] * (model.n_ctx - 1)  # the last token of a text is written, and not read
        assert len(model.likeliest(0, longest, [len(longest)])) == 1
        with pytest.raises(RemoteRefused, match="too long"):
            model.likeliest(0, [1] * N_CTX, [N_CTX])


def test_all_ids() -> None:
    """Only our own server sends them; the tail is then nothing."""
    with LookAlike("colm") as server:
        for one in ask(server, top_k=0):
            assert sorted(one.ids) == list(range(N_IDS))
            assert one.tail == pytest.approx(0.0, abs=1e-6)


def test_a_written_token_behind_the_likeliest_is_left_out() -> None:
    """vLLM adds the token that was written to the k likeliest."""

    written = []

    def spoil(rows: list[Row]) -> list[Row]:
        written[:] = [next(i for i in range(N_IDS) if i not in row.ids) for row in rows]
        return [Row([i, *row.ids], [-30.0, *row.logprobs], row.tail) for i, row in zip(written, rows, strict=True)]

    with LookAlike("openai", spoil=spoil) as server:
        for one, token in zip(ask(server), written, strict=True):
            assert len(one.ids) == 8
            assert token not in one.ids


def test_impossible_ids() -> None:
    """vLLM sends -9999 for minus infinity."""

    def spoil(rows: list[Row]) -> list[Row]:
        return [Row(row.ids, [*row.logprobs[:-1], -9999.0], row.tail) for row in rows]

    with LookAlike("openai", spoil=spoil) as server:
        assert [len(one.ids) for one in ask(server)] == [7, 7]


def test_a_key(server: LookAlike, monkeypatch: pytest.MonkeyPatch) -> None:
    server.key = KEY
    assert len(ask(server, key=KEY)) == 2
    monkeypatch.setenv("COLM_REMOTE_KEY", KEY)
    assert len(ask(server)) == 2


# -- lies --------------------------------------------------------------------------------------------------------------


def each(change: Callable[[Row], Row]) -> Callable[[list[Row]], list[Row]]:
    return lambda rows: [change(row) for row in rows]


LIES: dict[str, Callable[[list[Row]], list[Row]]] = {
    "NaN": each(lambda row: Row(row.ids, [math.nan, *row.logprobs[1:]], row.tail)),
    "infinity": each(lambda row: Row(row.ids, [math.inf, *row.logprobs[1:]], row.tail)),
    "above 1": each(lambda row: Row(row.ids, [0.5, *row.logprobs[1:]], row.tail)),
    "a sum above 1": each(lambda row: Row(row.ids, [-0.5] * len(row.ids), 0.0)),
    "a negative id": each(lambda row: Row([-5, *row.ids[1:]], row.logprobs, row.tail)),
    "no id": each(lambda row: Row([], [], 1.0)),
    "nothing possible": each(lambda row: Row(row.ids, [-math.inf] * len(row.ids), row.tail)),
    "a position less": lambda rows: rows[:-1],
    "a position more": lambda rows: [*rows, rows[-1]],
}


@pytest.mark.parametrize(("lie", "server"), each_once(LIES, PROTOCOLS), indirect=["server"])
def test_lies(server: LookAlike, lie: str) -> None:
    with pytest.raises(RemoteAnswerInvalid) as caught:
        ask(server, then={"spoil": LIES[lie]})
    assert server.address in str(caught.value)
    assert caught.value.url


JSON_LIES: dict[str, Callable[[list[Row]], list[Row]]] = {
    "a text for a logarithm": each(lambda row: Row(row.ids, ["-1", *row.logprobs[1:]], row.tail)),
    "null for a logarithm": each(lambda row: Row(row.ids, [None, *row.logprobs[1:]], row.tail)),
    "true for a logarithm": each(lambda row: Row(row.ids, [True, *row.logprobs[1:]], row.tail)),
    "a text for an id": each(lambda row: Row(["the", *row.ids[1:]], row.logprobs, row.tail)),
    "a huge logarithm": each(lambda row: Row(row.ids, [10**400, *row.logprobs[1:]], row.tail)),
    "a huge id": each(lambda row: Row([10**30, *row.ids[1:]], row.logprobs, row.tail)),
    "a list for an id": each(lambda row: Row([[3], *row.ids[1:]], row.logprobs, row.tail)),
}


@pytest.mark.parametrize(("lie", "protocol"), each_once(JSON_LIES, ["openai", "sglang", "llama-server"]))
def test_lies_in_json(protocol: str, lie: str) -> None:
    with LookAlike(protocol) as server, pytest.raises(RemoteAnswerInvalid):
        ask(server, then={"spoil": JSON_LIES[lie]})


@pytest.mark.parametrize("tail", [math.nan, -0.5, 1.5, 0.9])
def test_lies_about_the_rest(tail: float) -> None:
    spoil = each(lambda row: Row(row.ids, row.logprobs, tail))
    with LookAlike("colm", spoil=spoil) as server, pytest.raises(RemoteAnswerInvalid):
        ask(server)


def test_an_id_twice() -> None:
    spoil = each(lambda row: Row([row.ids[0]] * len(row.ids), [-9.0] * len(row.ids), 0.0))
    for protocol in ("sglang", "colm", "llama-server"):  # an object of JSON cannot
        with LookAlike(protocol, spoil=spoil) as server, pytest.raises(RemoteAnswerInvalid, match="twice"):
            ask(server)


def test_equals_are_in_the_order_of_a_local_model(server: LookAlike) -> None:
    """The lowest id first, in whatever order the server names them."""
    spoil = each(lambda row: Row(row.ids[::-1], [-3.0] * len(row.ids), 1 - 8 * math.exp(-3)))
    for one in ask(server, then={"spoil": spoil}):
        assert list(one.ids) == sorted(one.ids)


@pytest.mark.parametrize(
    ("n_ctx", "server"), each_once([0, -1, 10**30, 2**31, 1.5, True, "64"], PROTOCOLS), indirect=["server"], ids=str
)
def test_sizes_that_are_none(server: LookAlike, n_ctx: Any) -> None:
    server.n_ctx = n_ctx
    with pytest.raises(RemoteAnswerInvalid, match=r"n_ctx|max_model_len"):
        checked(server.url)


def test_a_context_that_the_scheduler_needs_for_itself() -> None:
    with LookAlike("sglang", n_ctx=3) as server:
        assert checked(server.url).n_ctx == 1


def test_another_number_of_tokens(server: LookAlike) -> None:
    """A server that cuts a long text off says so in what it has read."""
    with pytest.raises(RemoteAnswerInvalid):
        ask(server, then={"n_read": lambda n: n - 1})


@pytest.mark.parametrize(
    "answer",
    [{}, [], None, 3, "text", {"choices": []}, {"choices": [3]}, {"choices": [{"index": 0}]}, {"meta_info": {}}],
    ids=str,
)
def test_other_json(server: LookAlike, answer: Any) -> None:
    with pytest.raises(RemoteAnswerInvalid):
        ask(server, then={"answers": lambda _, handler: handler.send(200, json.dumps(answer).encode())})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"CLMD",
        b"CLMD\1\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff",
        b"CLMD\2\0\0\0\1\0\0\0\0\0\0\0" + b"\0" * 12,
        b"<html>",
        b"[" * 100_000,
        b'{"choices": [',
        b"\xff\xfe",
    ],
    ids=lambda body: repr(body[:12]),
)
def test_what_is_no_answer(server: LookAlike, body: bytes) -> None:
    with pytest.raises(RemoteAnswerInvalid):
        ask(server, then={"answers": lambda _, handler: handler.send(200, body)})


# -- another model -----------------------------------------------------------------------------------------------------


def test_another_tokenizer_behind_the_same_name(server: LookAlike) -> None:
    server.words = Words(shift=1)
    with pytest.raises(RemoteVocabularyMismatch, match="another vocabulary"):
        ask(server)
    assert not server.asked


@pytest.mark.parametrize("protocol", ["colm", "llama-server"])
def test_fewer_ids(protocol: str) -> None:
    with (
        LookAlike(protocol) as server,
        contextlib.closing(connect(server.url)) as model,
        pytest.raises(RemoteVocabularyMismatch, match="60 token ids"),
    ):
        model.check(Words(n_ids=1000))


def test_some_ids_less() -> None:
    """Of one family, with fewer tokens at the end: texts are compared, as the fingerprints differ."""
    for n_ids in (N_IDS, N_IDS + 5):
        with LookAlike("colm") as server, contextlib.closing(connect(server.url)) as model:
            model.check(Words(n_ids=n_ids))
            assert model.n_vocab == N_IDS
            assert server.tokenized == (8 if n_ids > N_IDS else 0)


@pytest.mark.parametrize("models", [(), ("other",), ("one", "two")], ids=str)
@pytest.mark.parametrize("protocol", ["openai", "sglang", "colm"])
def test_no_such_model(protocol: str, models: tuple[str, ...]) -> None:
    with LookAlike(protocol, models=models) as server, pytest.raises(RemoteRefused):
        checked(f"{server.url.partition('#')[0]}#absent")


@pytest.mark.parametrize("protocol", ["openai", "sglang"])
def test_the_only_model_needs_no_name(protocol: str) -> None:
    with LookAlike(protocol) as server:
        url = server.url.partition("#")[0]
        assert checked(url).name == MODEL
        server.models = ("one", "two")
        with pytest.raises(RemoteRefused, match=r"one.*two"):
            checked(url)


def test_the_end_of_a_url_for_other_clients_is_left_out(server: LookAlike) -> None:
    place, fragment, name = server.url.partition("#")
    for end in ("/v1", "/v1/", "/"):
        assert checked(f"{place.removesuffix('/v1')}{end}{fragment}{name}").n_ctx > 1


@pytest.mark.parametrize(("there", "url"), [("sglang", "colm+http://{}#demo:assistant"), ("colm", "http://{}")])
def test_another_kind_of_server(there: str, url: str) -> None:
    """The message says what may be wrong with the URL."""
    with LookAlike(there) as server:
        with pytest.raises(RemoteRefused, match="kind of server") as raised:
            checked(url.format(server.address))
        assert raised.value.status == 404


def test_our_own_server_needs_a_name() -> None:
    with pytest.raises(OptionError, match="names no model"):
        connect("colm+http://127.0.0.1:1")


@pytest.mark.parametrize(("asked", "most", "given"), [(40, 20, 20), (40, 50, 40), (0, 50, 20), (7, 20, 7), (7, 7, 7)])
def test_more_ids_than_the_server_gives(asked: int, most: int, given: int) -> None:
    """vLLM gives 20, unless it was told to give more; what is in force is known once the model was checked."""
    with LookAlike("openai", most_logprobs=most) as server:
        assert checked(server.url, top_k=asked).top_k == given
        assert [len(one.ids) for one in ask(server, top_k=asked)] == [given, given]


@pytest.mark.parametrize("n_ids", [151_936, 262_144], ids=["qwen", "gemma"])
def test_answers_with_all_ids_stay_below_the_most_that_is_read(server: LookAlike, n_ids: int) -> None:
    """Whatever the server: a call asks about fewer positions where each has many ids."""
    with contextlib.closing(connect(server.url, top_k=64)) as model:
        assert model.n_positions == MOST_POSITIONS
    with contextlib.closing(connect(server.url, top_k=n_ids)) as model:
        model.n_vocab = n_ids
        assert 2 <= model.n_positions < MOST_POSITIONS  # look-ahead needs two
        is_json = server.protocol != "colm"
        entry = json.dumps({"id": n_ids, "token": "?" * 12, "bytes": [226] * 8, "logprob": -12.345678901234567})
        assert model.n_positions * n_ids * (len(entry) if is_json else 8) < MOST_BYTES
        assert is_json or model.n_positions * n_ids <= MOST_IDS


def test_fewer_ids_than_any_server_gives() -> None:
    with LookAlike("openai", most_logprobs=10) as server:
        for top_k in (11, 20, 40):
            with pytest.raises(RemoteRefused, match="max allowed: 10"):
                checked(server.url, top_k=top_k)

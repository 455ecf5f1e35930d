"""Servers that are away, slow or lie: a typed error each, and with on_failure="base" a text that goes on."""

from __future__ import annotations

import json
import math
import shutil
import ssl
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import far_server
import pytest
from conftest import ASSISTANT, TINY_LOAD, TinyModels, each_once, ids
from far_server import FAR_BASE, FarServer, broken_after
from loopback import free_port

import colm_cpp as colm

PROMPT = "The quick brown"
TEXT: dict[str, Any] = {"head": "always", "max_tokens": 12, "temperature": 0.0}


far = far_server.far


@pytest.fixture
def make(tiny_model: TinyModels, far: FarServer) -> Iterator[Callable[..., colm.Pair]]:
    pairs = []

    def made(**options: Any) -> colm.Pair:
        given = {"remote_retries": 0, "remote_timeout": 5.0, "remote_top_k": 4, **TINY_LOAD, **options}
        pairs.append(colm.load(tiny_model(**FAR_BASE), given.pop("url", far.url), **given))
        return pairs[-1]

    yield made
    far.fault, far.retokenize, far.delay = None, lambda tokens: tokens, 0.0
    far.change = lambda results: results[0] if len(results) == 1 else results
    for pair in pairs:
        pair.close()


# -- at load -----------------------------------------------------------------------------------------------------


def test_nobody_listens(make: Any) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    for on_failure in ("error", "base"):
        with pytest.raises(colm.errors.RemoteUnreachable) as raised:
            make(url=url, on_failure=on_failure)
        assert raised.value.url == url
        assert raised.value.reason


def test_a_name_that_nobody_has(make: Any) -> None:
    with pytest.raises(colm.errors.RemoteUnreachable):
        make(url="http://no-such-host.invalid:80")


def test_another_tokenizer(make: Any, far: FarServer) -> None:
    far.retokenize = lambda tokens: [*tokens[:-1], tokens[-1] + 1]
    with pytest.raises(colm.errors.RemoteVocabularyMismatch, match="fox"):
        make()


def test_a_server_of_another_kind(make: Any, far: FarServer) -> None:
    """A llama-server gives no tokens where it is asked as vLLM is."""
    far.retokenize = lambda tokens: []
    with pytest.raises(colm.errors.RemoteAnswerInvalid, match=r"no tokens for 'The quick.*openai\+http:// a vLLM"):
        make()


def test_no_llama_server(make: Any, far: FarServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for props in ([], {}, {"default_generation_settings": {"n_ctx": -1}, "total_slots": 1}):
        monkeypatch.setattr(far, "about", lambda path, props=props: props)
        with pytest.raises(colm.errors.RemoteAnswerInvalid):
            make()


def test_tls_is_verified(make: Any, far: FarServer) -> None:
    """A server that speaks no TLS is not spoken to without it."""
    before = len(far.paths)
    with pytest.raises(colm.errors.RemoteUnreachable):
        make(url=far.url.replace("http", "https"))
    assert len(far.paths) == before


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl to make a certificate")
def test_only_a_certificate_that_the_machine_knows(
    make: Any, tiny_model: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]
    subprocess.run(
        ["openssl", "req", *kind, *names, "-keyout", key, "-out", certificate], check=True, capture_output=True
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    class Encrypted(FarServer):
        tls = context

    with Encrypted(tiny_model(**ASSISTANT)) as server:
        url = server.url.replace("http", "https")
        with pytest.raises(colm.errors.RemoteUnreachable, match="certificate"):
            make(url=url)
        assert server.paths == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert len(make(url=url).generate(PROMPT, **TEXT).tokens) == 12


# -- in a text ---------------------------------------------------------------------------------------------------


def entries(results: list[Any]) -> list[Any]:
    """A copy whose distributions may be changed."""
    copied: list[Any] = json.loads(json.dumps(results))
    return copied


def with_top(change: Callable[[list[Any]], Any]) -> Callable[[list[Any]], Any]:
    """Changes the first distribution."""

    def changed(results: list[Any]) -> Any:
        copied = entries(results)
        of_first = copied[0]["completion_probabilities"][0]
        of_first["top_logprobs"] = change(of_first["top_logprobs"])
        return copied[0] if len(copied) == 1 else copied

    return changed


LIES: dict[str, Callable[[list[Any]], Any]] = {
    "too few tokens read": lambda results: {**results[0], "tokens_evaluated": 1},
    "too many distributions": lambda results: [*results, results[0]],
    "none": lambda results: [],
    "no probabilities": lambda results: {"tokens_evaluated": results[0]["tokens_evaluated"]},
    "a text": lambda results: "yes",
    "NaN": with_top(lambda top: [{**top[0], "logprob": math.nan}]),
    "infinity": with_top(lambda top: [{**top[0], "logprob": math.inf}]),
    "a probability above 1": with_top(lambda top: [{**top[0], "logprob": 0.1}]),
    "probabilities above 1 together": with_top(lambda top: [{**entry, "logprob": -0.1} for entry in top]),
    "a logprob that is a text": with_top(lambda top: [{**top[0], "logprob": "-1"}]),
    "an id that is none": with_top(lambda top: [{**top[0], "id": -1}]),
    "an id that is a text": with_top(lambda top: [{**top[0], "id": "1"}]),
    "an id twice": with_top(lambda top: [top[0], {**top[1], "id": top[0]["id"]}]),
    "more than was asked for": with_top(lambda top: [{"id": i, "logprob": -9.0} for i in range(5)]),
    "no token": with_top(lambda top: []),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies(make: Any, far: FarServer, lie: str) -> None:
    pair = make()
    far.change = LIES[lie]
    with pytest.raises(colm.errors.RemoteAnswerInvalid) as raised:
        pair.generate(PROMPT, **TEXT)
    assert raised.value.url == far.url


def test_ids_that_the_base_lacks_are_no_choice(make: Any, far: FarServer) -> None:
    pair = make()
    far.change = with_top(
        lambda top: [{"id": 2**30, "logprob": -0.5}, *({**e, "logprob": -3.0 - i} for i, e in enumerate(top[:3]))]
    )
    text = pair.generate(PROMPT, **{**TEXT, "max_tokens": 1})
    assert text.tokens[0].id < pair.n_shared


def raw(data: bytes, *, wait: float = 0.0, n: int = 1) -> Callable[[Any], None]:
    """Sends these bytes and ends the connection."""

    def answer(handler: Any) -> None:
        for _ in range(n):
            try:
                handler.wfile.write(data)
                handler.wfile.flush()
            except OSError:
                break
            time.sleep(wait)
        handler.close_connection = True

    return answer


# The connection ends with the answer, so the client must not use it again.
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
FAULTS: dict[str, tuple[Callable[[Any], None], type[Exception]]] = {
    "half an answer": (raw(OK + b'Content-Length: 100\r\n\r\n{"completion'), colm.errors.RemoteAnswerInvalid),
    "no JSON": (raw(OK + b"Content-Length: 5\r\n\r\n<html"), colm.errors.RemoteAnswerInvalid),
    "deep JSON": (raw(OK + b"Content-Length: 100000\r\n\r\n" + b"[" * 100000), colm.errors.RemoteAnswerInvalid),
    "10 GB": (raw(OK + b"Content-Length: 10000000000\r\n\r\n{"), colm.errors.RemoteAnswerInvalid),
    "no HTTP": (raw(b"hello\r\n\r\n"), colm.errors.RemoteUnreachable),
    "nothing": (raw(b""), colm.errors.RemoteUnreachable),
    "an error": (lambda handler: handler.answer({"error": "x"}, 500), colm.errors.RemoteRefused),
    "an expired key": (lambda handler: handler.answer({"error": "expired"}, 401), colm.errors.RemoteRefused),
    "busy": (lambda handler: handler.answer({}, 503), colm.errors.RemoteRefused),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults(make: Any, far: FarServer, fault: str) -> None:
    pair = make()
    far.fault, expected = FAULTS[fault]
    with pytest.raises(colm.errors.RemoteError) as raised:
        pair.generate(PROMPT, **TEXT)
    assert type(raised.value) is expected
    if isinstance(raised.value, colm.errors.RemoteRefused):
        assert raised.value.status == {"an error": 500, "an expired key": 401, "busy": 503}[fault]
    far.fault = None  # the pair stays usable
    assert len(pair.generate(PROMPT, **TEXT).tokens) > 0


def test_endless_answers_are_cut(make: Any, far: FarServer) -> None:
    pair = make()
    head = OK + b"Transfer-Encoding: chunked\r\n\r\n"
    part = b"100000\r\n" + b" " * 0x100000 + b"\r\n"

    def answer(handler: Any) -> None:
        raw(head)(handler)
        raw(part, n=10_000)(handler)

    far.fault = answer
    with pytest.raises(colm.errors.RemoteAnswerInvalid, match="more than"):
        pair.generate(PROMPT, **TEXT)


def test_slow_and_slowly_dripping_servers(make: Any, far: FarServer) -> None:
    pair = make(remote_timeout=0.3)
    far.delay = 20.0
    begin = time.monotonic()
    with pytest.raises(colm.errors.RemoteTimeout):
        pair.generate(PROMPT, **TEXT)
    assert time.monotonic() - begin < 10
    far.delay = 0.0
    drip = raw(b"2\r\n  \r\n", wait=0.05, n=400)  # 20 s

    def answer(handler: Any) -> None:
        raw(OK + b"Transfer-Encoding: chunked\r\n\r\n")(handler)
        drip(handler)

    far.fault = answer
    begin = time.monotonic()
    with pytest.raises(colm.errors.RemoteTimeout):
        pair.generate(PROMPT, **TEXT)
    assert time.monotonic() - begin < 10


def test_redirects_are_refused(make: Any, far: FarServer, tiny_model: TinyModels) -> None:
    """Nobody else sees the text."""
    pair = make()
    with FarServer(tiny_model(**ASSISTANT)) as other:
        for status in (301, 302, 307, 308):
            far.fault = lambda handler, status=status: handler.answer({}, status, Location=f"{other.url}/completion")
            with pytest.raises(colm.errors.RemoteRefused, match="redirect") as raised:
                pair.generate(PROMPT, **TEXT)
            assert raised.value.status == status
        assert other.paths == []


@pytest.mark.parametrize("status", [503, *(pytest.param(n, marks=pytest.mark.slow) for n in (429, 502, 504))])
def test_a_busy_server_is_asked_again(make: Any, far: FarServer, status: int) -> None:
    with make() as first:
        want = ids(first.generate(PROMPT, **TEXT))[:3]
    pair = make(remote_retries=2)
    asked: Counter[str] = Counter()

    def answer(handler: Any) -> None:
        body = json.dumps(handler.body)
        asked[body] += 1
        if asked[body] < 3:
            return handler.answer({}, status)
        return handler.answer(far.complete(handler.body))

    far.fault = answer
    assert ids(pair.generate(PROMPT, **{**TEXT, "max_tokens": 3})) == want
    assert list(asked.values()) == [3, 3, 3]


# -- on_failure="base" -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("after", "lookahead"), each_once([0, 1, 4], [0, "auto", 6]))
def test_the_base_goes_on_alone(make: Any, far: FarServer, tiny_model: TinyModels, lookahead: Any, after: int) -> None:
    pair = make(on_failure="base")
    given: dict[str, Any] = {"head": "random", "threshold": 0.5, "seed": 4, "max_tokens": 30, "temperature": 0.0}
    whole = pair.generate(PROMPT, **given)
    with broken_after(far, after, FAULTS["nothing"][0]):
        text = pair.generate(PROMPT, lookahead=lookahead, **given)
    work = text.stats.experts["assistant"]
    assert work.failures == 1
    assert text.finish_reason == "length"
    written = ids(text)
    n = next(i for i in range(len(written)) if written[i] != ids(whole)[i])
    assert {source for _, source in written[n:]} == {"base"}
    assert text.tokens[n].defer_prob > 0.5  # what the head said
    alone = pair.generate(
        [*pair.tokenize(PROMPT), *(token.id for token in text.tokens[:n])],
        head="never",
        max_tokens=30 - n,
        temperature=0.0,
    )
    assert [token for token, _ in ids(alone)] == [token for token, _ in written[n:]]
    again = pair.generate(PROMPT, lookahead=lookahead, **given)  # the next text tries again
    assert ids(again) == ids(whole)
    assert again.stats.experts["assistant"].failures == 0


def test_the_other_expert_stays(tiny_model: TinyModels, far: FarServer) -> None:
    experts = {"far": {"model": far.url, "remote_retries": 0, "on_failure": "base"}, "near": tiny_model(**ASSISTANT)}
    with colm.load(tiny_model(**FAR_BASE), experts=experts, **TINY_LOAD) as pair:
        far.fault = FAULTS["nothing"][0]
        try:
            text = pair.generate(PROMPT, **{**TEXT, "head": "always:far"})
            assert set(sources := [token.source for token in text.tokens]) <= {"base", "near"}
            assert text.stats.experts["far"].failures == 1
            assert sources
            near = pair.generate(PROMPT, **{**TEXT, "head": "always:near"})
            assert {token.source for token in near.tokens} == {"near"}
        finally:
            far.fault = None


def test_with_error_what_was_written_stays(make: Any, far: FarServer) -> None:
    pair = make()
    whole = pair.generate(PROMPT, **TEXT)
    with broken_after(far, 5, FAULTS["nothing"][0]):
        stream = pair.stream(PROMPT, **TEXT)
        seen = [next(stream) for _ in range(5)]
        with pytest.raises(colm.errors.RemoteUnreachable):
            next(stream)
    assert [(token.id, token.source) for token in seen] == ids(whole)[:5]
    assert ids(pair.generate(PROMPT, **TEXT)) == ids(whole)


def test_a_restarted_server(make: Any, tiny_model: TinyModels) -> None:
    """Killed and started again on its port: the next text finds it."""
    server = FarServer(tiny_model(**ASSISTANT))
    pair = make(url=server.url, on_failure="base")
    whole = pair.generate(PROMPT, **TEXT)
    server.close()
    alone = pair.generate(PROMPT, **TEXT)
    assert {token.source for token in alone.tokens} == {"base"}
    with FarServer(tiny_model(**ASSISTANT), port=server.port):
        assert ids(pair.generate(PROMPT, **TEXT)) == ids(whole)


def test_without_httpx(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(colm.errors.MissingDependency, match="colm-cpp\\[remote\\]"):
        make()

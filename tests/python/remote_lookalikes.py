"""Servers on loopback that speak the protocols of models on other machines, and lie or fail when a test says so.

They are written from the documentation of those protocols. Their model is a table: the distribution after some tokens
follows from the tokens alone.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

import loopback
import numpy as np
import pytest

from colm_cpp.remote import RemoteModel, open_remote

N_IDS = 60
N_CTX = 64
MODEL = "made:assistant"
KEY = "s3cret"
TEXT = [3, 1, 4, 1, 5, 9, 2, 6]
PROTOCOLS = ("openai", "sglang", "colm", "llama-server")


@dataclass
class Row:
    """What the server says of one position."""

    ids: list[Any]
    logprobs: list[Any]
    tail: float


def table(tokens: Sequence[int]) -> list[float]:
    """The log-probabilities of all ids after these tokens."""
    logits = np.random.default_rng(zlib.crc32(repr(list(tokens)).encode())).normal(size=N_IDS) * 3
    return [float(p) for p in logits - np.log(np.exp(logits).sum())]


class Words:
    """A vocabulary: a token for each character."""

    def __init__(self, shift: int = 0, n_ids: int = N_IDS) -> None:
        self._shift = shift
        self.n_ids = n_ids
        self.fingerprint = f"{shift:08x}{n_ids:08x}"

    def tokenize(self, text: str) -> list[int]:
        return [(ord(char) + self._shift) % N_IDS for char in text]


class BadRequest(Exception):
    """What the server answers with a status of its own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def need(condition: bool, message: str) -> None:
    if not condition:
        raise BadRequest(400, message)


@dataclass
class LookAlike(loopback.Server):
    """A server; use it as a context manager.

    Attributes:
        protocol: openai, sglang, colm or llama-server.
        key: what it asks for as a bearer token; None: nothing.
        words: its tokenizer.
        models: the names of its models.
        model: gives the log-probabilities of all ids after some tokens.
        n_ctx: tokens of a text, with the one that is written.
        spoil: changes what it says of the positions of a request.
        n_read: changes how many tokens it says that it has read.
        answers: answers requests for distributions by itself, instead of the protocol.
        most_logprobs: how many ids of a position it sends at most, in vLLM's form.
        asked: requests for distributions so far.
        sent: bytes that ``answers`` has sent.
        tokenized: texts that were tokenized so far.
    """

    protocol: str
    key: str | None = None
    words: Any = field(default_factory=Words)
    models: tuple[str, ...] = (MODEL,)
    model: Callable[[Sequence[int]], Sequence[float]] = field(default=table)
    n_ctx: int = N_CTX
    spoil: Callable[[list[Row]], list[Row]] = field(default=lambda rows: rows)
    n_read: Callable[[int], int] = field(default=lambda n: n)
    answers: Callable[[LookAlike, BaseHTTPRequestHandler], None] | None = None
    most_logprobs: int = 20
    asked: list[dict[str, Any]] = field(default_factory=list)
    sent: int = 0
    tokenized: int = 0

    @property
    def url(self) -> str:
        """What a user would write."""
        return {
            "openai": f"openai+http://{self.address}/v1#{MODEL}",
            "sglang": f"sglang+http://{self.address}",
            "colm": f"colm+http://{self.address}#{MODEL}",
            "llama-server": f"http://{self.address}",
        }[self.protocol]

    def rows(self, tokens: Sequence[int], counts: Sequence[int], k: int) -> list[Row]:
        need(all(0 <= token < self.words.n_ids for token in tokens), "a token is not in the vocabulary")
        need(len(tokens) < self.n_ctx, "the text is too long")
        return [self._row(tokens[:count], k) for count in counts]

    def _row(self, tokens: Sequence[int], k: int) -> Row:
        logprobs = self.model(tokens)
        ids = sorted(range(len(logprobs)), key=lambda i: -logprobs[i])[:k]
        return Row(ids, [logprobs[i] for i in ids], max(0.0, 1.0 - math.fsum(math.exp(logprobs[i]) for i in ids)))

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> Any:
        """JSON or bytes for a request."""
        is_llama = self.protocol == "llama-server"
        if path == "/v1/models" and method == "GET":
            facts = {"meta": {"n_vocab": self.words.n_ids}} if is_llama else {"max_model_len": self.n_ctx}
            return {"object": "list", "data": [{"id": name, **facts} for name in self.models]}
        if path == "/props" and method == "GET" and is_llama:
            return {"default_generation_settings": {"n_ctx": self.n_ctx}, "total_slots": 2, "model_alias": MODEL}
        if path == "/tokenize" and method == "POST":
            self.tokenized += 1
            need(body["add_special" if is_llama else "add_special_tokens"] is False, "BOS was asked for")
            ids = self.words.tokenize(body["content" if is_llama else "prompt"])
            return {"count": len(ids), "max_model_len": self.n_ctx, "tokens": ids}
        routes = {
            ("openai", "POST", "/v1/completions"): self._completions,
            ("sglang", "POST", "/generate"): self._generate,
            ("colm", "POST", "/v1/colm/distributions"): self._distributions,
            ("llama-server", "POST", "/completion"): self._completion,
        }
        if (self.protocol, method, path) in routes:
            return routes[self.protocol, method, path](body)
        if (self.protocol, method, path) == ("colm", "GET", "/v1/colm/distributions"):
            need(query.get("model") == [MODEL], "there is no such model")
            return {
                "model": MODEL,
                "n_ctx": self.n_ctx,
                "n_ids": self.words.n_ids,
                "vocab_fingerprint": self.words.fingerprint,
            }
        raise BadRequest(404, "not found")

    def _completions(self, body: dict[str, Any]) -> Any:
        need(body["model"] in self.models, f"the model {body['model']} does not exist")
        need(body["max_tokens"] == 1 and body["temperature"] == 0, "more than one greedy token")
        need(body["return_tokens_as_token_ids"] is True, "texts instead of ids")
        k, most = body["logprobs"], self.most_logprobs
        need(1 <= k <= most, f"Requested sample logprobs of {k}, which is greater than max allowed: {most}")
        prompts = body["prompt"]
        rows = self.spoil([row for prompt in prompts for row in self.rows(prompt, [len(prompt)], body["logprobs"])])
        choices = [
            {
                "index": number,
                "text": "?",
                "finish_reason": "length",
                "logprobs": {
                    "tokens": [f"token_id:{row.ids[0]}" if row.ids else ""],
                    "token_logprobs": row.logprobs[:1],
                    "top_logprobs": [{f"token_id:{i}": p for i, p in zip(row.ids, row.logprobs, strict=True)}],
                    "text_offset": [0],
                },
            }
            for number, row in enumerate(rows)
        ]
        # The API promises no order.
        return {"object": "text_completion", "choices": choices[::-1], "usage": {"prompt_tokens": self._read(prompts)}}

    def _read(self, prompts: Sequence[Sequence[int]]) -> int:
        return self.n_read(sum(map(len, prompts)))

    def _generate(self, body: dict[str, Any]) -> Any:
        need(body["return_logprob"] is True, "no log-probabilities")
        need(body["sampling_params"]["max_new_tokens"] == 1, "more than one token")
        need(body["sampling_params"]["temperature"] == 0, "not greedy")
        tokens, start, k = body["input_ids"], body["logprob_start_len"], body["top_logprobs_num"]
        need(-1 <= start < len(tokens), "logprob_start_len")
        begin = len(tokens) if start == -1 else start
        *before, last = [
            [[p, i, None] for i, p in zip(row.ids, row.logprobs, strict=True)]
            for row in self.spoil(self.rows(tokens, [*range(begin + 1, len(tokens)), len(tokens)], k))
        ]
        meta = {
            "prompt_tokens": self._read([tokens]),
            "completion_tokens": 1,
            "input_token_logprobs": [],
            "input_top_logprobs": [] if start == -1 else [None, *before],
            "output_top_logprobs": [last],
        }
        return {"text": "?", "meta_info": meta}

    def _completion(self, body: dict[str, Any]) -> Any:
        need(body["n_predict"] == 1 and body["temperature"] == 0, "more than one greedy token")
        need(body["post_sampling_probs"] is False, "what is left after sampling")
        need(0 <= body["id_slot"] < 2, "there is no such slot")
        prompts, results = body["prompt"], []
        rows = self.spoil([row for prompt in prompts for row in self.rows(prompt, [len(prompt)], body["n_probs"])])
        for number, row in enumerate(rows):
            entries = [{"id": i, "token": "?", "logprob": p} for i, p in zip(row.ids, row.logprobs, strict=True)]
            first = entries[0] if entries else {}
            n_read = self._read([prompts[min(number, len(prompts) - 1)]])
            results.append(
                {"completion_probabilities": [{**first, "top_logprobs": entries}], "tokens_evaluated": n_read}
            )
        return results

    def _distributions(self, body: dict[str, Any]) -> bytes:
        need(body["model"] in self.models, "there is no such model")
        rows = self.spoil(self.rows(body["tokens"], body["counts"], min(body["top_k"], self.words.n_ids)))
        n, k = len(rows), max(len(row.ids) for row in rows)
        ids = [[*row.ids, *[-1] * (k - len(row.ids))] for row in rows]
        logprobs = [[*row.logprobs, *[-math.inf] * (k - len(row.ids))] for row in rows]
        counts = [self.n_read(count) for count in [*body["counts"], *[0] * n][:n]]
        return b"".join(
            (
                b"CLMD" + struct.pack("<III", 1, n, k),
                struct.pack(f"<{n}d", *(row.tail for row in rows)),
                struct.pack(f"<{n}I", *counts),
                struct.pack(f"<{n * k}i", *itertools.chain(*ids)),
                struct.pack(f"<{n * k}f", *itertools.chain(*logprobs)),
            )
        )


class _Handler(loopback.Handler):
    owner: LookAlike

    def do_GET(self) -> None:
        self._do(None)

    def do_POST(self) -> None:
        self._do(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _do(self, body: Any) -> None:
        owner, parts = self.owner, urlsplit(self.path)
        asks = body is not None and parts.path != "/tokenize"
        try:
            if owner.key is not None and self.headers.get("Authorization") != f"Bearer {owner.key}":
                raise BadRequest(401, "the key has expired")
            if asks:
                owner.asked.append(body)
            if asks and owner.answers is not None:
                owner.answers(owner, self)
                return
            answer = owner.answer(self.command, parts.path, parse_qs(parts.query), body)
        except BadRequest as error:
            self.send(error.status, json.dumps({"error": {"message": str(error)}}).encode())
            return
        is_bytes = isinstance(answer, bytes)
        self.send(200, answer if is_bytes else json.dumps(answer).encode())

    def send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


LookAlike.handler = _Handler


def connect(url: str, *, key: str | None = None, timeout: float = 10.0, top_k: int = 8) -> RemoteModel:
    return open_remote(url, key=key, timeout=timeout, retries=0, top_k=top_k)


def checked(url: str, **options: Any) -> RemoteModel:
    """A model that has asked its server what it is, and is closed."""
    with contextlib.closing(connect(url, **options)) as model:
        model.check(Words())
        return model


@pytest.fixture(params=PROTOCOLS)
def server(request: pytest.FixtureRequest) -> Iterator[LookAlike]:
    with LookAlike(request.param) as server:
        yield server


def ask(server: LookAlike, counts: tuple[int, ...] = (5, 8), *, then: Any = None, **options: Any) -> list[Any]:
    """One call of a model that was checked; ``then``: what becomes of the server between the two."""
    with contextlib.closing(connect(server.url, **options)) as model:
        model.check(Words())
        server.asked.clear()
        for name, value in (then or {}).items():
            setattr(server, name, value)
        return model.likeliest(0, TEXT, counts)

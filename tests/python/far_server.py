"""A llama-server on loopback that answers from a model in this process, and lies where a test asks for it."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import loopback
import pytest
from conftest import ASSISTANT, TinyModels

import colm_cpp as colm

# A base that knows no token which the assistants of conftest.py do not know.
FAR_BASE: dict[str, Any] = {"arch": "llama", "seed": 1, "n_padding": 4}

Answer = Callable[["_Handler"], None]


class FarServer(loopback.Server):
    """What ``/completion``, ``/props``, ``/v1/models`` and ``/tokenize`` of a llama-server say of a model.

    Attributes:
        url: its address.
        delay: seconds before each answer of ``/completion``.
        fault: what answers ``/completion`` instead, with a handler; None: nothing.
        change: what becomes of an answer of ``/completion`` before it is sent.
        requests: the bodies that ``/completion`` was sent.
        paths: of each request its path and its key.
    """

    def __init__(self, model: Path, n_ctx: int = 256, port: int = 0, **load: Any) -> None:
        options: dict[str, Any] = {
            "n_ctx": n_ctx,
            "n_threads": 1,
            "type_k": "f32",
            "type_v": "f32",
            "flash_attn": False,
        }
        # A model alone is a pair whose base writes.
        self.pair = colm.load(model, model, head="never", **{**options, **load})
        self.n_ctx, self.delay = n_ctx, 0.0
        self.fault: Answer | None = None
        self.change: Callable[[list[Any]], Any] = lambda results: results[0] if len(results) == 1 else results
        self.retokenize: Callable[[list[int]], list[int]] = lambda tokens: tokens
        self.requests: list[dict[str, Any]] = []
        self.paths: list[tuple[str, str | None]] = []
        self.connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._known: dict[tuple[tuple[int, ...], int], list[dict[str, Any]]] = {}
        self.open(port)
        self.url = f"http://{self.address}"

    def close(self) -> None:
        """Ends it and the connections to it; the port is free then."""
        super().close()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):  # the client has gone
                connection.shutdown(socket.SHUT_RDWR)
        self.pair.close()

    def __enter__(self) -> FarServer:
        return self  # it was opened when it was made

    def top(self, tokens: list[int], n: int) -> list[dict[str, Any]]:
        """The likeliest tokens behind ``tokens``."""
        key = (tuple(tokens), n)
        with self._lock:
            if key not in self._known:
                written = self.pair.generate(tokens, max_tokens=1, temperature=0.0, logprobs=n)
                first = written.tokens[0] if written.tokens else written.end_token
                assert first is not None
                self._known[key] = [{"id": t.id, "logprob": t.logprob} for t in first.top_logprobs]
            return self._known[key]

    def complete(self, body: dict[str, Any]) -> Any:
        """The answer of ``/completion``."""
        prompts = body["prompt"] if isinstance(body["prompt"][0], list) else [body["prompt"]]
        assert body["n_predict"] == 1
        assert body["post_sampling_probs"] is False
        results = [
            {
                "completion_probabilities": [{"top_logprobs": self.top(tokens, body["n_probs"])}],
                "tokens_evaluated": len(tokens),
            }
            for tokens in prompts
        ]
        return self.change(results)

    def tokenize(self, body: dict[str, Any]) -> Any:
        """The answer of ``/tokenize``."""
        core = self.pair.open_core()
        return {"tokens": self.retokenize(core.tokenize(body["content"], body["add_special"], body["parse_special"]))}

    def about(self, path: str) -> Any:
        """The answers to GET."""
        n_vocab = self.pair.base["n_vocab"]
        return {
            "/props": {
                "default_generation_settings": {"n_ctx": self.n_ctx},
                "total_slots": 2,
                "model_alias": "far",
            },
            "/v1/models": {"data": [{"id": "far", "meta": {"n_vocab": n_vocab}}]},
        }[path]


class _Handler(loopback.Handler):
    owner: FarServer
    # Headers and body in one packet; else the second waits for the client's acknowledgement of the first.
    wbufsize = -1

    def setup(self) -> None:
        super().setup()
        self.owner.connections.add(self.connection)

    def finish(self) -> None:
        self.owner.connections.discard(self.connection)
        with contextlib.suppress(OSError):  # the client has gone
            super().finish()

    def do_GET(self) -> None:
        self._note()
        self.answer(self.owner.about(self.path))

    def do_POST(self) -> None:
        self._note()
        self.body = body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize":
            return self.answer(self.owner.tokenize(body))
        self.owner.requests.append(body)
        fault = self.owner.fault  # a test whose client has left in the delay may be over after it
        begin = time.monotonic()
        while (left := begin + self.owner.delay - time.monotonic()) > 0:  # a test may end the delay
            time.sleep(min(left, 0.02))
        if fault is not None:
            return fault(self)
        return self.answer(self.owner.complete(body))

    def _note(self) -> None:
        self.owner.paths.append((self.path, self.headers.get("Authorization")))

    def answer(self, value: Any, status: int = 200, **headers: str) -> None:
        """Sends JSON, or bytes as they are."""
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        with contextlib.suppress(OSError):  # the client has gone
            self.send_response(status)
            for name, text in headers.items():
                self.send_header(name.replace("_", "-"), text)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
            self.wfile.flush()


FarServer.handler = _Handler


@pytest.fixture(scope="module")
def far(tiny_model: TinyModels) -> Iterator[FarServer]:
    with FarServer(tiny_model(**ASSISTANT)) as server:
        yield server


@contextlib.contextmanager
def broken_after(server: FarServer, n: int, fault: Answer) -> Iterator[None]:
    """From the ``n``-th request on, ``fault`` answers."""
    sound = len(server.requests) + n

    def answer(handler: _Handler) -> None:
        if len(server.requests) > sound:
            return fault(handler)
        return handler.answer(server.complete(handler.body))

    server.fault = answer
    try:
        yield
    finally:
        server.fault = None

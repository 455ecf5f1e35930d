"""A real llama-server as the assistant; needs ``COLM_LLAMA_SERVER``, its program."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models as tm
from conftest import ASSISTANT, TINY_LOAD, RealModels, TinyModels, ids
from far_server import FAR_BASE

import colm_cpp as colm

PROGRAM = os.environ.get("COLM_LLAMA_SERVER", "")
pytestmark = pytest.mark.skipif(not PROGRAM, reason="COLM_LLAMA_SERVER names no llama-server")

SUBJECTS = ("The fox", "def function", "Question:", "We have been", "日本")
ENDS = ("", " is the", " and\n", " 12", "?", "...", ": a", "\n\n", " of", " (")
PROMPTS = [f"{subject}{behind}" for behind in ENDS for subject in SUBJECTS]  # 50


class Server:
    """A llama-server in a process of its own."""

    def __init__(self, model: Path, folder: Path, *options: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._model, self._log, self._options = model, folder / "llama-server.log", options
        self.start()

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        options = ["-c", "512", "-np", "2", "-t", "1", "-ctk", "f32", "-ctv", "f32", "-fa", "off", "-ngl", "0"]
        where = ["--host", "127.0.0.1", "--port", str(self.port)]
        command = [PROGRAM, "-m", str(self._model), *where, *options, *self._options]
        libraries = {**os.environ, "LD_LIBRARY_PATH": str(Path(PROGRAM).parent)}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, env=libraries, stdout=log, stderr=log)
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                assert self._process.poll() is None, self._log.read_text(errors="replace")[-2000:]
                time.sleep(0.1)
        raise AssertionError("llama-server did not start")

    def kill(self) -> None:
        """Ends it at once."""
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def server(tiny_model: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tiny_model(**ASSISTANT), tmp_path_factory.mktemp("llama-server"))
    yield started
    started.kill()


@pytest.mark.parametrize("n_prompts", [15, pytest.param(50, marks=pytest.mark.slow)])
def test_greedy_text_is_that_of_a_local_pair(tiny_model: TinyModels, server: Server, n_prompts: int) -> None:
    given: dict[str, Any] = {"head": "random", "threshold": 0.6, "max_tokens": 24, "temperature": 0.0}
    with colm.load(tiny_model(**FAR_BASE), tiny_model(**ASSISTANT), **TINY_LOAD) as pair:
        want = [pair.generate(prompt, seed=i, **given) for i, prompt in enumerate(PROMPTS[:n_prompts])]
    assert sum(text.stats.assistant_calls for text in want) > 2 * n_prompts
    with colm.load(tiny_model(**FAR_BASE), server.url, n_parallel=2, remote_top_k=8, **TINY_LOAD) as pair:
        assert pair.assistant["n_ctx"] == 256  # of one slot
        for lookahead, n in ((0, n_prompts), ("auto", 8), (8, 8)):
            got = [pair.generate(prompt, seed=i, lookahead=lookahead, **given) for i, prompt in enumerate(PROMPTS[:n])]
            assert [ids(text) for text in got] == [ids(text) for text in want[:n]]
        seeds = [{"seed": i} for i in range(8)]
        got = pair.generate_batch(PROMPTS[:8], n_parallel=2, lookahead=4, each=seeds, **given)
        assert [ids(text) for text in got] == [ids(text) for text in want[:8]]
    # With all tokens named, padding can be told from the others, as here.
    with colm.load(tiny_model(**FAR_BASE), server.url, remote_top_k=1000, **TINY_LOAD) as pair:
        for i, text in enumerate(want[:4]):
            alone = pair.generate(PROMPTS[i], seed=i, **given).tokens
            assert [token.logprob for token in alone] == pytest.approx([t.logprob for t in text.tokens], abs=1e-3)


def test_drawn_text_is_that_of_a_local_pair(tiny_model: TinyModels, server: Server) -> None:
    given: dict[str, Any] = {"head": "random", "threshold": 0.5, "max_tokens": 20, "top_k": 12, "temperature": 0.8}
    with colm.load(tiny_model(**FAR_BASE), tiny_model(**ASSISTANT), **TINY_LOAD) as pair:
        want = [ids(pair.generate(prompt, seed=i, **given)) for i, prompt in enumerate(PROMPTS[:8])]
    with colm.load(tiny_model(**FAR_BASE), server.url, remote_top_k=12, **TINY_LOAD) as pair:
        assert [ids(pair.generate(p, seed=i, lookahead="auto", **given)) for i, p in enumerate(PROMPTS[:8])] == want


def test_another_vocabulary_is_refused(server: Server, tmp_path: Path) -> None:
    other = tm.make_model(tmp_path / "other.gguf", seed=1, vocab=tm.Vocab.spm())
    with pytest.raises(colm.errors.RemoteVocabularyMismatch):
        colm.load(other, server.url, head="never", **TINY_LOAD)


def test_killed_and_started_again_in_the_middle_of_a_text(tiny_model: TinyModels, server: Server) -> None:
    given: dict[str, Any] = {"head": "random", "threshold": 0.5, "seed": 3, "max_tokens": 40, "temperature": 0.0}
    with colm.load(
        tiny_model(**FAR_BASE), server.url, on_failure="base", remote_retries=0, remote_timeout=10, **TINY_LOAD
    ) as pair:
        whole = pair.generate(PROMPTS[0], **given)
        stream = pair.stream(PROMPTS[0], **given)
        seen = [next(stream) for _ in range(10)]
        server.kill()
        seen += stream
        assert [(token.id, token.source) for token in seen][:10] == ids(whole)[:10]
        assert {token.source for token in seen[12:]} == {"base"}
        assert stream.completion().stats.experts["assistant"].failures == 1
        assert len(seen) == 40
        server.start()
        assert ids(pair.generate(PROMPTS[0], **given)) == ids(whole)


@pytest.mark.real_models
def test_greedy_text_of_real_models_is_that_of_a_local_pair(real_models: RealModels, tmp_path: Path) -> None:
    """Both compute one token after another, with the same kernels, so that every logit is the same."""
    given: dict[str, Any] = {"head": "random", "threshold": 0.75, "max_tokens": 12, "temperature": 0.0}
    load: dict[str, Any] = {"n_ctx": 128, "n_threads": 1, "n_gpu_layers": 0, "flash_attn": False}
    plain: dict[str, Any] = {"type_k": "f32", "type_v": "f32", "n_ubatch": 1, "repack": False}
    with colm.load(real_models["base"], real_models["assistant"], assistant_options=plain, **load) as pair:
        want = [pair.generate(prompt, seed=i, **given) for i, prompt in enumerate(PROMPTS)]
    assert sum(text.stats.assistant_calls for text in want) > 100
    server = Server(real_models["assistant"], tmp_path, "-ub", "1", "--no-repack")
    try:
        with colm.load(real_models["base"], server.url, remote_top_k=8, remote_timeout=600, **load) as pair:
            for lookahead, n in ((0, 50), (4, 10)):
                prompts = enumerate(PROMPTS[:n])
                got = [pair.generate(prompt, seed=i, lookahead=lookahead, **given) for i, prompt in prompts]
                assert [ids(text) for text in got] == [ids(text) for text in want[:n]]
    finally:
        server.kill()

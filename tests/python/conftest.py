"""Tiny pairs made once per session, and the real models where the machine has them."""

from __future__ import annotations

import functools
import gc
import importlib
import itertools
import os
import ssl
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

# Before NumPy is imported: for its small matrices a second thread costs more than it gives.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Tests start the package in hundreds of processes, which would each compile it from its source.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import pytest
import served_page
import tiny_models as tm

import colm_cpp as colm

sys.dont_write_bytecode = False  # the test files are compiled once, too


# Every HTTP client reads the certificates of the machine, which takes 40 ms.
ssl.create_default_context = functools.cache(ssl.create_default_context)  # type: ignore[assignment]


def pytest_collection_finish() -> None:
    """Tests and modules stay to the end: no collection of garbage needs to go through them again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


Options: TypeAlias = Mapping[str, Any]
"""Keyword arguments of `tiny_models.make_model`."""

DEFAULT_KV: dict[str, Any] = {"type_k": "f16", "type_v": "f16", "flash_attn": None}
"""What `load` itself takes."""

# Without the float16 of the usual cache and of flash attention, what is computed hardly depends on how a text was cut
# into batches. More threads than one are slower on models of this size.
TINY_LOAD: dict[str, Any] = {
    "n_ctx": 256,
    "n_threads": 1,
    "n_threads_batch": 1,
    "type_k": "f32",
    "type_v": "f32",
    "flash_attn": False,
}

# The vocabularies are padded differently, as those of real models of one family are, and the base has the
# token that a checkpoint of the reference implementation would have.
BASE: dict[str, Any] = {"arch": "llama", "seed": 1, "extra_tail": (tm.DEFER,), "n_padding": 4}
ASSISTANT: dict[str, Any] = {"arch": "qwen2", "seed": 2, "n_padding": 11}

REAL_FILES = {
    "base": "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
    "assistant": "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
    "smollm2": "smollm2-135m-instruct-q4_1.gguf",
    "gemma3": "gemma-3-270m-q4_k_m.gguf",
}


class TinyModels:
    """Writes each tiny model once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths: dict[str, Path] = {}

    def __call__(self, **options: Any) -> Path:
        """The file of the model with these options of `tiny_models.make_model`."""
        key = repr(sorted(options.items()))
        if key not in self._paths:
            self._paths[key] = tm.make_model(self._folder / f"tiny-{len(self._paths)}.gguf", **options)
        return self._paths[key]


class TinyPairs:
    """Loads pairs of tiny models and closes them at the end."""

    def __init__(self, models: TinyModels) -> None:
        self._models = models
        self._pairs: list[colm.Pair] = []

    def __call__(
        self,
        base: Options = BASE,
        assistant: Options = ASSISTANT,
        head: str | colm.Head | None = "confidence",
        **load: Any,
    ) -> colm.Pair:
        """A new pair; `load` overrides `TINY_LOAD`."""
        pair = colm.load(self._models(**base), self._models(**assistant), head, **{**TINY_LOAD, **load})
        self._pairs.append(pair)
        return pair

    def close(self) -> None:
        for pair in self._pairs:
            pair.close()


def each_once(*parameters: Iterable[Any]) -> list[Any]:
    """Cases of several parameters: each value is in one by default, and every other case is slow."""
    values = [list(parameter) for parameter in parameters]
    diagonal = [tuple(i % len(own) for own in values) for i in range(max(map(len, values)))]
    return [
        pytest.param(
            *(own[i] for own, i in zip(values, case, strict=True)), marks=() if case in diagonal else pytest.mark.slow
        )
        for case in itertools.product(*(range(len(own)) for own in values))
    ]


def token_ids(completion: object) -> list[int]:
    """The id of every token. What a batch gives is a text or an error."""
    assert isinstance(completion, colm.Completion)
    return [token.id for token in completion.tokens]


def ids(completion: colm.Completion) -> list[tuple[int, str]]:
    """Every token and who wrote it."""
    return [(token.id, token.source) for token in completion.tokens]


def assert_same_text(written: colm.Completion, plain: colm.Completion) -> None:
    """The same tokens by the same writers, and the same end; numbers to what batches round otherwise."""
    assert ids(written) == ids(plain)
    assert written.text == plain.text
    assert written.finish_reason == plain.finish_reason
    assert (written.end_token is None) == (plain.end_token is None)
    for one, other in zip(written.tokens, plain.tokens, strict=True):
        assert one.defer_logit == pytest.approx(other.defer_logit, abs=2e-3)
        assert one.logprob == pytest.approx(other.logprob, abs=2e-3)


class RealModels:
    """The real models in the folder that COLM_MODELS names."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __getitem__(self, name: str) -> Path:
        """The file of a model of `REAL_FILES`; skips the test where it is absent."""
        path = self._folder / REAL_FILES[name]
        if not path.is_file():
            pytest.skip(f"{path} is absent")
        return path


class Asked:
    """What pairs are asked to write while a test runs.

    Attributes:
        prompts: each prompt and the head it goes with, alone or in batches.
        n_parallel: of each call, 1 of a text alone.
        ended: the numbers of the texts in batches, as they end.
    """

    def __init__(self) -> None:
        self.prompts: list[tuple[tuple[int, ...], Any]] = []
        self.n_parallel: list[int] = []
        self.ended: list[int] = []


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What pairs are asked to write from now on, by token ids, with a head for each text."""
    noted = Asked()
    generate, stream_batch, end_of_next = colm.Pair.generate, colm.Pair.stream_batch, colm.BatchStream.__next__

    def alone(pair: colm.Pair, prompt: Any, **options: Any) -> Any:
        noted.prompts.append((tuple(prompt), options["head"]))
        noted.n_parallel.append(1)
        return generate(pair, prompt, **options)

    def together(pair: colm.Pair, prompts: Iterable[Any], *, each: Iterable[Any], **options: Any) -> Any:
        def pairs() -> Iterator[tuple[Any, Any]]:
            for prompt, own in zip(prompts, each, strict=True):
                noted.prompts.append((tuple(prompt), own["head"]))
                yield prompt, own

        noted.n_parallel.append(options["n_parallel"])
        first, second = itertools.tee(pairs())
        own = (entry[1] for entry in second)
        return stream_batch(pair, (entry[0] for entry in first), each=own, **options)

    def end(stream: colm.BatchStream) -> tuple[int, Any]:
        number, result = end_of_next(stream)
        noted.ended.append(number)
        return number, result

    monkeypatch.setattr(colm.Pair, "generate", alone)
    monkeypatch.setattr(colm.Pair, "stream_batch", together)
    monkeypatch.setattr(colm.BatchStream, "__next__", end)
    return noted


@pytest.fixture(autouse=True)
def _no_pairs_of_ones_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have presets."""
    monkeypatch.setenv("COLM_PAIRS", str(tmp_path_factory.getbasetemp() / "no-pairs"))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    """`tiny_model(arch="llama", seed=1, ...)`: the path of a tiny model."""
    return TinyModels(tmp_path_factory.mktemp("tiny-models"))


@pytest.fixture
def tiny_pair(tiny_model: TinyModels) -> Iterator[TinyPairs]:
    """`tiny_pair(base_options, assistant_options, head, n_ctx=...)`: a fresh pair, closed after the test."""
    pairs = TinyPairs(tiny_model)
    yield pairs
    pairs.close()


@pytest.fixture(scope="session")
def shared_pairs(tiny_model: TinyModels) -> Iterator[Callable[..., colm.Pair]]:
    """As `tiny_pair`, but equal arguments give the same pair throughout the session. Do not close it."""
    pairs = TinyPairs(tiny_model)
    cached: dict[str, colm.Pair] = {}

    def shared(base: Options = BASE, assistant: Options = ASSISTANT, **load: Any) -> colm.Pair:
        key = repr((sorted(base.items()), sorted(assistant.items()), sorted(load.items())))
        if key not in cached:
            cached[key] = pairs(base, assistant, **load)
        return cached[key]

    yield shared
    pairs.close()


@pytest.fixture
def pair(shared_pairs: Callable[..., colm.Pair]) -> colm.Pair:
    """The default pair (llama and qwen2, head "confidence"), having read nothing."""
    shared = shared_pairs()
    shared.forget()
    return shared


@pytest.fixture(scope="session")
def real_models() -> RealModels:
    """The real models; skips where COLM_MODELS names no folder. Tests with it carry the marker of that name."""
    folder = os.environ.get("COLM_MODELS")
    if not folder or not Path(folder).is_dir():
        pytest.skip("COLM_MODELS names no folder with the real models")
    return RealModels(Path(folder))


@pytest.fixture(scope="session")
def demo_server() -> Iterator[served_page.Server]:
    """A server with the demo pair and four slots, for tests that leave it as it is."""
    with served_page.serve("--parallel", "4", "--keep-alive", "0.2") as server:
        yield server


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser. Playwright's loop runs as long as it does, and tests in other files have loops of their own."""
    with served_page.browser() as opened:
        yield opened


@pytest.fixture
def web(chromium: Any, demo_server: served_page.Server) -> Iterator[served_page.Web]:
    """The page of `demo_server` on a desktop. Nothing on it may fail, or be forbidden by its policy."""
    with served_page.opened(chromium, demo_server) as page:
        yield page


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes a package one that is not installed."""
    real = importlib.import_module

    def hide(package: str) -> None:
        def import_module(name: str, parent: str | None = None) -> ModuleType:
            if name.partition(".")[0] == package:
                raise ImportError(f"No module named {package!r}")
            return real(name, parent)

        monkeypatch.setattr(importlib, "import_module", import_module)

    return hide

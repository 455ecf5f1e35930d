"""The pairs of a server, which come when they are asked for and leave; and ``colm serve`` as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from commands import fail, run
from conftest import TinyModels

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

from server_world import running, tiny

import colm_cpp as colm
from colm_cpp.options import SlotOptions
from colm_cpp.server import Settings, page
from colm_cpp.server.errors import ApiError
from colm_cpp.server.names import read_name
from colm_cpp.server.registry import Registry
from colm_cpp.server.sources import Served, read_config, read_folder

HOW = Served(options={}, base_options={}, assistant_options={}, slots=SlotOptions(n_parallel=2))


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "pair", "options"),
    [
        ("demo", "demo", {}),
        ("demo@20%", "demo", {"defer_rate": 0.2}),
        ("demo@0%", "demo", {"defer_rate": 0.0}),
        ("demo@100%", "demo", {"defer_rate": 1.0}),
        ("demo@12.5%", "demo", {"defer_rate": 0.125}),
        ("demo:base", "demo", {"head": "never"}),
        ("demo:assistant", "demo", {"head": "always"}),
        ("demo:mixture", "demo", {"strategy": "compose", "threshold": 0.0}),
    ],
)
def test_names(name: str, pair: str, options: dict[str, Any]) -> None:
    way = read_name(name, {"demo": ("assistant",), "other": ("assistant",)})
    assert (way.pair, dict(way.options)) == (pair, options)


@pytest.mark.parametrize(
    "name",
    [
        *("", "nobody", "nobody:base", "demo@", "demo@20", "demo@101%", "demo@-1%", "demo@nan%"),
        *("demo:", "demo:x", "demo:base@20%", "demo\n"),
    ],
)
def test_names_that_stand_for_nothing(name: str) -> None:
    with pytest.raises(ApiError) as raised:
        read_name(name, {"demo": ("assistant",)})
    assert (raised.value.status, raised.value.code) == (404, "model_not_found")


# -- coming and leaving ------------------------------------------------------------------------------------------------


def used(registry: Registry, *names: str) -> list[bool]:
    """Uses pairs one after another; which are loaded then, in the registry's order."""

    async def use() -> None:
        for name in names:
            async with registry.use(name) as (pair, turns):
                assert not pair.closed
                assert turns.slots == registry.entries[name].slots

    asyncio.run(use())
    return [entry.pair is not None for entry in registry.entries.values()]


def test_a_pair_loads_when_it_is_asked_for(tiny_model: TinyModels) -> None:
    registry = Registry([tiny(tiny_model, "one"), tiny(tiny_model, "two")])
    assert used(registry) == [False, False]
    assert used(registry, "two") == [False, True]
    registry.close()


def test_many_who_ask_at_once_load_it_once(tiny_model: TinyModels) -> None:
    entry, n_loads = tiny(tiny_model), []
    load = entry.load

    def counted(progress: Callable[[float], bool]) -> colm.Pair:
        n_loads.append(1)
        time.sleep(0.05)
        return load(progress)

    entry.load = counted
    registry = Registry([entry])

    async def use() -> colm.Pair:
        async with registry.use("tiny") as (pair, _):
            return pair

    async def use_all() -> list[colm.Pair]:
        return list(await asyncio.gather(*(use() for _ in range(5))))

    assert len(set(map(id, asyncio.run(use_all())))) == 1
    assert len(n_loads) == 1
    registry.close()


def test_an_idle_pair_leaves(tiny_model: TinyModels) -> None:
    registry = Registry([tiny(tiny_model, "one"), tiny(tiny_model, "two")], idle_s=0.2)

    async def use() -> None:
        watching = asyncio.ensure_future(registry.watch())
        async with registry.use("one"):
            async with registry.use("two") as (two, _):
                await asyncio.sleep(0.5)
                assert not two.closed
            one = registry.entries["one"].pair
            assert one is not None
            await asyncio.sleep(0.6)
            assert two.closed
            assert not one.closed  # it is in use
        watching.cancel()

    asyncio.run(use())
    registry.close()


def test_the_one_unused_for_longest_makes_room(tiny_model: TinyModels) -> None:
    entries = [tiny(tiny_model, name) for name in ("one", "two", "three")]
    assert entries[0].memory > 2**20
    registry = Registry(entries, memory=int(2.5 * entries[0].memory))
    assert used(registry, "one", "two", "one", "three") == [True, False, True]

    async def use() -> None:
        async with registry.use("one"), registry.use("three"), registry.use("two"):
            pass

    with pytest.raises(ApiError) as raised:
        asyncio.run(use())
    assert (raised.value.status, raised.value.retry_after) == (503, 5)
    registry.close()
    with pytest.raises(ApiError) as raised:
        used(Registry([tiny(tiny_model)], memory=1000), "tiny")
    assert raised.value.code == "memory_limit"


def test_a_pair_that_does_not_load(tiny_model: TinyModels) -> None:
    """Its requests fail, those of others do not; and it is tried again."""
    bad, good = tiny(tiny_model, "bad"), tiny(tiny_model, "good")
    load, fails = bad.load, [True]

    def sometimes(progress: Callable[[float], bool]) -> colm.Pair:
        if fails:
            raise colm.LoadError("the file is damaged; get another one")
        return load(progress)

    bad.load = sometimes
    with running(Registry([bad, good])) as world, httpx.Client(base_url=world.address, timeout=20) as client:
        body: dict[str, Any] = {"prompt": "a", "max_tokens": 1}
        answer = client.post("/v1/completions", json={"model": "bad", **body})
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "model_unavailable")
        assert client.post("/v1/completions", json={"model": "good", **body}).status_code == 200
        fails.clear()
        assert client.post("/v1/completions", json={"model": "bad", **body}).status_code == 200


def test_no_request_gets_more_tokens_than_the_server_allows(tiny_model: TinyModels) -> None:
    """Whatever it asks for; -1 asks for as many as the context has room for."""
    endless = tiny(tiny_model, endless=True)
    with (
        running(Registry([endless]), Settings(max_tokens=5)) as world,
        httpx.Client(base_url=world.address, timeout=20) as client,
    ):
        for path, asked, limit, counted in (
            ("completions", "prompt", "max_tokens", "completion_tokens"),
            ("responses", "input", "max_output_tokens", "output_tokens"),
        ):
            for most, written in ((-1, 5), (2, 2), (50, 5)):
                body = {"model": "tiny", asked: "a", limit: most}
                assert client.post(f"/v1/{path}", json=body).json()["usage"][counted] == written


# -- folders and files -------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tiny_model: TinyModels, tmp_path: Path) -> Path:
    """A folder with a pair in a file, one in a folder, and a colm.toml."""
    from conftest import ASSISTANT, BASE

    files = (
        f'version = 1\nbase = "{tiny_model(**BASE)}"\nassistant = "{tiny_model(**ASSISTANT)}"\nhead = "confidence"\n'
    )
    (tmp_path / "one.toml").write_text(files)
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "pair.toml").write_text(files)
    (tmp_path / "empty").mkdir()
    (tmp_path / "colm.toml").write_text(
        'idle_s = 60\nmemory_mb = 4000\n[pairs.both]\npair = "two"\nparallel = 3\nhead = "entropy"\n'
        "[pairs.both.options]\nn_ctx = 128\n[pairs.demo]\n"
    )
    return tmp_path


def test_a_folder(folder: Path) -> None:
    assert [entry.name for entry in read_folder(folder, HOW)] == ["one", "two"]
    with pytest.raises(colm.LoadError, match="nowhere"):
        read_folder(folder / "nowhere", HOW)


def test_a_config(folder: Path) -> None:
    entries, limits = read_config(folder / "colm.toml", HOW)
    assert limits == {"idle_s": 60.0, "memory_mb": 4000.0}
    assert [(entry.name, entry.slots) for entry in entries] == [("both", 3), ("demo", 2)]
    with entries[0].load(lambda loaded: True) as pair:
        assert (pair.n_ctx, pair.head) == (128, "entropy")


@pytest.mark.parametrize(
    "text",
    [
        *("pairs = 3", "what = 1", "idle_s = -1", "not toml", "[pairs.a]\npair = 3", "[pairs.a]\nwhat = 3"),
        *("[pairs.'a:b']\npair = 'demo'", "[pairs.a]\nparallel = 0\npair = 'demo'", "[pairs.a]\npair = 'nowhere'"),
    ],
)
def test_configs_that_are_wrong(text: str, tmp_path: Path) -> None:
    (tmp_path / "colm.toml").write_text(text)
    with pytest.raises(colm.ColmError):
        read_config(tmp_path / "colm.toml", HOW)


# -- long prompts ------------------------------------------------------------------------------------------------------


def test_a_long_prompt_stops_nobody(tiny_model: TinyModels) -> None:
    """It is read in pieces; between them another stream goes on, and comments tell how far it is."""
    entry = tiny(tiny_model, "demo", n_ctx=2048, endless=True, n_batch=32, n_ubatch=32)
    with running(Registry([entry]), Settings(keep_alive=0.05)) as world, httpx.Client(timeout=60) as client:
        url = f"{world.address}/v1/completions"
        short: dict[str, Any] = {"model": "demo", "prompt": "a", "max_tokens": 2000, "stream": True}
        long: dict[str, Any] = {"model": "demo", "prompt": [65] * 1500, "max_tokens": 2, "stream": True}
        pieces: list[float] = []
        ended = threading.Event()

        def read() -> None:
            with httpx.stream("POST", url, json=short, timeout=60) as answer:
                for _ in answer.iter_raw():
                    pieces.append(time.monotonic())
                    if ended.is_set():
                        break

        reader = threading.Thread(target=read)
        reader.start()
        while not pieces:
            time.sleep(0.01)
        begin = time.monotonic()
        with client.stream("POST", url, json=long) as answer:
            text = answer.read().decode()
        end = time.monotonic()
        ended.set()
        reader.join(60)
        during = [at for at in pieces if begin < at < end]
        # 47 batches of 32 tokens, and a token of the other text after each.
        assert len(during) >= 20
        read_so_far = [int(n) for n in re.findall(r"^: prefill (\d+)/1500 tokens$", text, re.M)]
        assert read_so_far == sorted(read_so_far)
        if end - begin > 0.5:
            assert any(0 < n < 1500 for n in read_so_far)


# -- the page ----------------------------------------------------------------------------------------------------------


def test_the_page(tiny_model: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of its folder alone, under a policy that allows scripts of this server only."""
    monkeypatch.setattr(page, "FOLDER", tmp_path)
    (tmp_path / "index.html").write_text("<!doctype html>")
    (tmp_path / "chat.js").write_text("1")
    (tmp_path / "notes.txt").write_text("1")
    with running(Registry([tiny(tiny_model)])) as world, httpx.Client(base_url=world.address) as client:
        for path, kind in (("/", "text/html"), ("/page/chat.js", "text/javascript")):
            answer = client.get(path)
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith(kind)
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
        for path in ("/page/notes.txt", "/page/nothing.js", "/page/%2e%2e/%2e%2e/etc/passwd"):
            assert client.get(path).status_code == 404


# -- the command -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def process(*arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``colm serve`` with the demo pair, and its address."""
    started = subprocess.Popen(
        [sys.executable, "-m", "colm_cpp.cli", "serve", "--port", "0", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        assert started.stderr is not None
        lines = []
        while not (found := re.search(r"(http://\S+)/v1", lines[-1] if lines else "")):
            lines.append(started.stderr.readline())
            assert lines[-1], lines
        yield started, found[1]
    finally:
        if started.poll() is None:
            started.kill()
        started.communicate(timeout=20)


def test_sigterm_finishes_what_is_being_written() -> None:
    """It answers at once, and the key comes from where nobody sees it. A stream ends whole; then the server is gone."""
    with process("--pair", "demo", "--grace", "20", COLM_API_KEY="k") as (server, address):
        client = httpx.Client(base_url=address, headers={"Authorization": "Bearer k"}, timeout=30)
        assert httpx.get(f"{address}/v1/models").status_code == 401
        body = {"model": "demo:assistant", "prompt": "1 + 1 =", "max_tokens": 200, "stream": True, "temperature": 2}
        body["colm"] = {"grammar": 'root ::= "a"{200}'}
        with client.stream("POST", "/v1/completions", json=body) as answer:
            pieces = answer.iter_text()
            text = next(pieces)
            server.send_signal(signal.SIGTERM)
            text += "".join(pieces)
        assert text.endswith("data: [DONE]\n\n")
        assert "".join(re.findall(r'"index":0,"text":"(a*)"', text)) == "a" * 200
        assert server.wait(20) == 0
        with pytest.raises(httpx.TransportError):
            client.get("/health")
        client.close()


@pytest.mark.slow
def test_grace_has_an_end() -> None:
    """What is still being written then ends with an error, and the server with 0."""
    with process("--pair", "demo", "--grace", "0.2", "--n-ctx", "40000", "--parallel", "1") as (server, address):
        body = {"model": "demo", "prompt": "a", "max_tokens": 39000, "stream": True, "logit_bias": {"0": -100}}
        with httpx.stream("POST", f"{address}/v1/completions", json=body, timeout=30) as answer:
            pieces = answer.iter_text()
            text = next(pieces)
            server.send_signal(signal.SIGTERM)
            start = time.monotonic()
            text += "".join(pieces)
        assert '"unavailable"' in text
        assert "[DONE]" not in text
        assert server.wait(20) == 0
        assert time.monotonic() - start < 10


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "prometheus_client"])
def test_without_the_extra(package: str, without: Callable[[str], None]) -> None:
    without(package)
    assert "pip install 'colm-cpp[server]'" in fail("serve", "--pair", "demo", "--port", "0")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--pair", "nowhere"],
        ["--pair", "demo", "--base", "a.gguf"],
        ["--base", "nowhere.gguf", "--assistant", "nowhere.gguf", "--head", "confidence"],
        ["--pair", "demo", "--host", "256.256.256.256"],
        ["--pair", "demo", "--name", "a@b"],
        ["--pair", "demo", "--head", "nowhere.gguf"],
        ["--pair", "demo", "--defer-rate", "3"],
        ["--model-dir", "nowhere"],
        ["--config", "nowhere.toml"],
    ],
    ids=" ".join,
)
def test_commands_that_are_wrong(arguments: list[str]) -> None:
    """One line each, before anything is loaded."""
    result = run("serve", "--port", "0", *arguments)
    assert result.exit_code in (1, 2)
    assert "Traceback" not in result.output

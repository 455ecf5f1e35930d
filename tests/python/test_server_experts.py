"""`colm serve` with several experts: names, who wrote what, counts by model, and likelihoods by each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import expert_files
import numpy as np
import pytest
from adapter_files import N_EMBD
from conftest import TINY_LOAD

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

from expert_files import PROMPT  # noqa: E402
from server_world import World, running, served  # noqa: E402

import colm_cpp as colm  # noqa: E402
from colm_cpp.engine import memory  # noqa: E402
from colm_cpp.machine.limits import FreeMemory  # noqa: E402
from colm_cpp.options import ExpertModel  # noqa: E402
from colm_cpp.server.errors import ApiError  # noqa: E402
from colm_cpp.server.names import read_name  # noqa: E402
from colm_cpp.server.registry import Registry  # noqa: E402
from colm_cpp.sources.pair_file import Preset, read  # noqa: E402

files = expert_files.files
NAMES = ("base", "math", "code")
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 8}


def three(files: dict[str, Path], name: str = "three", head: str = "random:math", **experts: str) -> Preset:
    given = experts or {"math": "math", "code": "code"}
    models = tuple(ExpertModel(who, str(files[file])) for who, file in given.items())
    return Preset(name, str(files["base"]), "", head, experts=models)


@pytest.fixture(scope="module")
def world(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    path = tmp_path_factory.mktemp("head") / "head.gguf"
    theta = np.random.default_rng(1).normal(size=(2, N_EMBD))
    # In another order than the pair's.
    colm.Head.linear(theta, 0.3, expert_names=("code", "math")).save(path)
    routed = three(files, "routed", str(path))
    with running(Registry([served(pair.name, pair, **TINY_LOAD) for pair in (three(files), routed)])) as world:
        yield world


@pytest.fixture(scope="module")
def client(world: World) -> Iterator[Any]:
    with httpx.Client(base_url=world.address, timeout=30) as client:
        for pair in ("three", "routed"):
            complete(client, f"{pair}:base")  # it is loaded
        yield client


def complete(client: Any, model: str, **body: Any) -> Any:
    answer = client.post("/v1/completions", json={"model": model, "prompt": PROMPT, **GREEDY, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]


def test_names(client: Any) -> None:
    listed = {model["id"]: model["colm"] for model in client.get("/v1/models").json()["data"]}
    assert [name for name in listed if name.startswith("three")] == [
        "three",
        *(f"three@{rate}%" for rate in (5, 10, 20, 40)),
        *("three:base", "three:math", "three:code", "three:mixture"),
    ]
    assert all(facts["models"] == list(NAMES) for facts in listed.values())
    one = client.get("/v1/models/three:code").json()
    assert (one["id"], one["colm"]["models"]) == ("three:code", list(NAMES))
    missing = client.get("/v1/models/three:assistant")
    assert missing.status_code == 404
    assert "three:math, three:code" in missing.json()["error"]["message"]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("x:base", {"head": "never"}),
        ("x:math", {"head": "always:math"}),
        ("x:code", {"head": "always:code"}),
        ("x:mixture", {"strategy": "compose", "threshold": 0.0}),
        ("x@20%", {"defer_rate": 0.2}),
        ("one:math", {"head": "always"}),
    ],
)
def test_what_names_set(name: str, options: dict[str, Any]) -> None:
    assert dict(read_name(name, {"x": ("math", "code"), "one": ("math",)}).options) == options


@pytest.mark.parametrize("name", ["x:assistant", "x:law", "one:code", "x:", "x:math:code"])
def test_names_of_nobody(name: str) -> None:
    with pytest.raises(ApiError):
        read_name(name, {"x": ("math", "code"), "one": ("math",)})


def test_a_pair_that_cannot_be_named(files: dict[str, Path]) -> None:
    with pytest.raises(colm.OptionError, match="mixture"):
        served("x", three(files, mixture="math", code="code", head="random:code"), **TINY_LOAD)


@pytest.mark.parametrize("who", NAMES)
def test_each_model_alone(client: Any, world: World, who: str) -> None:
    choice = complete(client, f"three:{who}")
    assert {token["source"] for token in choice["colm"]["tokens"]} == {who}
    head = "never" if who == "base" else f"always:{who}"
    assert choice["text"] == world.pair("three").generate(PROMPT, head=head, **GREEDY).text
    stats = choice["colm"]["stats"]["experts"]
    assert list(stats) == list(NAMES)
    assert {name for name, work in stats.items() if work["calls"]} == {who}


def test_a_stream_says_who_by_name(client: Any) -> None:
    body = {"model": "three", "prompt": PROMPT, "stream": True, "seed": 3, **GREEDY, "max_tokens": 24}
    sources, stats = [], None
    with client.stream("POST", "/v1/completions", json=body) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                colm_facts = json.loads(line[6:])["choices"][0]["colm"]
                sources += [token["source"] for token in colm_facts["tokens"]]
                stats = colm_facts.get("stats", stats)
    assert set(sources) == {"base", "math"}
    assert stats is not None
    assert stats["experts"]["math"]["tokens"] == sources.count("math")


def test_heads_of_a_request(client: Any) -> None:
    for head in ("always:code", "random:code"):
        choice = complete(client, "three", colm={"head": head})
        assert "math" not in {token["source"] for token in choice["colm"]["tokens"]}
    for head in ("always", "always:law", "confidence:base", "/etc/passwd:math"):
        answer = client.post("/v1/completions", json={"model": "three", "prompt": PROMPT, "colm": {"head": head}})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "colm.head"


def test_strategies_of_a_request(client: Any, world: World) -> None:
    own = {"strategy": "proxy", "proxy_tuned": "math", "proxy_untuned": "code", "head": "always:math"}
    wanted = world.pair("three").generate(PROMPT, **own, **GREEDY)  # type: ignore[arg-type]
    assert complete(client, "three", colm=own)["text"] == wanted.text
    answer = client.post("/v1/completions", json={"model": "three:math", "prompt": PROMPT, "colm": own})
    assert answer.status_code == 400  # the name decides it
    own["proxy_untuned"] = "law"
    answer = client.post("/v1/completions", json={"model": "three", "prompt": PROMPT, "colm": own})
    assert answer.status_code == 400
    assert "math and code" in answer.json()["error"]["message"]
    answer = client.post("/v1/completions", json={"model": "three", "prompt": PROMPT, "colm": {"proxy_weight": 2}})
    assert answer.status_code == 400
    assert "colm.proxy_weight is 2" in answer.json()["error"]["message"]


def test_counts_by_model(client: Any) -> None:
    def counts() -> dict[str, float]:
        lines = client.get("/metrics").text.splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}

    before = counts()
    choice = complete(client, "three", seed=3, max_tokens=24)
    after = counts()

    def more(name: str, label: str, who: str) -> float:
        key = f'{name}_total{{{label}="{who}",pair="three"}}'
        labels = f'{name}_total{{pair="three",{label}="{who}"}}'
        return after.get(key, after.get(labels, 0.0)) - before.get(key, before.get(labels, 0.0))

    for who in NAMES:
        work = choice["colm"]["stats"]["experts"][who]
        written = sum(token["source"] == who for token in choice["colm"]["tokens"])
        assert more("colm_tokens", "source", who) == written
        assert more("colm_model_calls", "model", who) == work["calls"]
        assert more("colm_model_tokens_read", "model", who) == work["tokens_read"]
        assert more("colm_model_seconds", "model", who) == pytest.approx(work["seconds"])
    assert more("colm_model_calls", "model", "math") > 0


def test_no_room_for_an_expert(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """At its first turn the request fails as one that may be tried again; others go on."""
    registry = Registry([served("three", three(files), **TINY_LOAD)])
    with running(registry) as world, httpx.Client(base_url=world.address, timeout=30) as client:
        complete(client, "three:base")
        monkeypatch.setattr(memory, "free_memory", lambda: FreeMemory(0))
        answer = client.post("/v1/completions", json={"model": "three:math", "prompt": PROMPT, **GREEDY})
        assert answer.status_code == 503
        assert "math" in answer.json()["error"]["message"]
        complete(client, "three:base")
        monkeypatch.undo()
        complete(client, "three:math")


def test_in_a_pairs_file(files: dict[str, Path], tmp_path: Path) -> None:
    text = f'version = 1\nbase = "{files["base"]}"\nhead = "random:code"\n[experts]\nmath = "{files["math"]}"\n'
    (tmp_path / "pair.toml").write_text(text + f'[experts.code]\nmodel = "{files["code"]}"\nn_batch = 9\n')
    entry = served("file", read(tmp_path / "pair.toml"), n_parallel=2, n_ctx=64)
    assert (entry.experts, entry.has_rates, entry.slots) == (("math", "code"), True, 2)
    alone = served("one", Preset("", str(files["base"]), str(files["math"]), "random"), n_parallel=2, n_ctx=64)
    assert entry.memory > alone.memory > 0
    with entry.load(lambda _: True) as pair:
        assert pair.names == NAMES
        assert pair.experts["code"]["n_batch"] == 9


def test_how_likely_a_prompt_is_by_each(client: Any, world: World) -> None:
    """That of a model alone is what it has for the same tokens when it writes them."""
    pair = world.pair("three")
    for who in NAMES:
        head = "never" if who == "base" else f"always:{who}"
        written = pair.generate(PROMPT, head=head, logprobs=2, **GREEDY)
        body = {"prompt": [*pair.tokenize(PROMPT), *(token.id for token in written.tokens)], "max_tokens": 0}
        told = complete(client, f"three:{who}", echo=True, logprobs=2, **body)["logprobs"]
        n = len(written.tokens)
        assert told["token_logprobs"][-n:] == pytest.approx([token.logprob for token in written.tokens], abs=1e-3)
        for top, token in zip(told["top_logprobs"][-n:], written.tokens, strict=True):
            assert max(top.values()) == pytest.approx(token.top_logprobs[0].logprob, abs=1e-3)


@pytest.mark.parametrize("model", ["three", "three@20%", "three:mixture", "routed", "routed:mixture"])
def test_how_likely_a_prompt_is_by_all(client: Any, world: World, model: str) -> None:
    """Of each token, what all models together would give it if they were to write there."""
    way = read_name(model, dict.fromkeys(("three", "routed"), NAMES[1:]))
    pair = world.pair(way.pair)
    written = pair.generate(PROMPT, seed=1, max_tokens=16, logit_bias=dict.fromkeys(pair.base["eog_tokens"], -99.0))
    ids = [*pair.tokenize(PROMPT), *(token.id for token in written.tokens)]
    told = complete(client, model, prompt=ids, echo=True, logprobs=2, max_tokens=0, seed=5)["logprobs"]
    assert told["token_logprobs"][0] is None
    sources = set()
    for at in range(1, len(ids)):
        there = pair.generate(ids[:at], max_tokens=1, temperature=0, logprobs=1024, seed=5, **way.options)
        token = (*there.tokens, there.end_token)[0]
        assert token is not None
        known = {top.id: top.logprob for top in token.top_logprobs}
        assert told["token_logprobs"][at] == pytest.approx(known[ids[at]], abs=1e-3)
        assert max(told["top_logprobs"][at].values()) == pytest.approx(token.top_logprobs[0].logprob, abs=1e-3)
        sources.add(token.source)
    if "mixture" not in model:
        assert sources == {"base", "math"} if way.pair == "three" else sources == set(NAMES)

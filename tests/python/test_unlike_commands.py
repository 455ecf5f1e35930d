"""Commands and the server with a pair of unlike vocabularies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import succeed
from conftest import TINY_LOAD, TinyModels
from test_unlike_oracle import talking_pair

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

from server_world import running, served  # noqa: E402

import colm_cpp as colm  # noqa: E402
from colm_cpp.server.registry import Registry  # noqa: E402
from colm_cpp.sources.pair_file import Preset  # noqa: E402

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12}


@pytest.fixture(scope="module")
def files(tiny_model: TinyModels) -> tuple[Path, Path]:
    return talking_pair(tiny_model)


@pytest.fixture(scope="module")
def client(files: tuple[Path, Path]) -> Iterator[Any]:
    pair = Preset("unlike", str(files[0]), str(files[1]), "random")
    with (
        running(Registry([served("unlike", pair, **TINY_LOAD)])) as world,
        httpx.Client(base_url=world.address, timeout=60) as client,
    ):
        yield client


def test_the_server_writes_with_both(client: Any) -> None:
    body = {"model": "unlike", "prompt": "The river", "logprobs": 2, **GREEDY, "seed": 3, "colm": {"threshold": 0.5}}
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    choice = answer.json()["choices"][0]
    assert "".join(choice["logprobs"]["tokens"]) == choice["text"]
    chat = {"model": "unlike", "messages": [{"role": "user", "content": "hi"}], "stream": True, "seed": 3, **GREEDY}
    with client.stream("POST", "/v1/chat/completions", json=chat) as stream:
        assert stream.status_code == 200
        lines = [line.removeprefix("data: ") for line in stream.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    streamed = "".join(
        choice["delta"].get("content") or "" for line in lines[:-1] for choice in json.loads(line)["choices"]
    )
    whole = client.post("/v1/chat/completions", json={**chat, "stream": False}).json()
    assert streamed == whole["choices"][0]["message"]["content"]


@pytest.mark.parametrize(("model", "head"), [("base", "never"), ("assistant", "always")])
def test_what_the_other_would_have_said(client: Any, files: tuple[Path, Path], model: str, head: str) -> None:
    """As the page asks it: ids of the tokens before say nothing here, so each model reads their text."""
    messages = [{"role": "user", "content": "The river"}]
    known = client.post("/tokenize", json={"model": "unlike", "messages": messages}).json()
    assert known["colm"] == {"one_vocabulary": False}
    begun = {"role": "assistant", "content": " runs to über 日本"}
    body = {"model": f"unlike:{model}", "messages": [*messages, begun], "continue_final_message": True}
    body |= {"max_tokens": 1, "temperature": 0, "logprobs": True, "top_logprobs": 5}
    said = client.post("/v1/chat/completions", json=body).json()["choices"][0]["logprobs"]["content"][0]
    with colm.load(*files, "random", **TINY_LOAD) as pair:
        text = f"user: The river\n{begun['content']}"
        (token,) = pair.generate(text, head=head, max_tokens=1, temperature=0.0, logprobs=5).tokens
    assert [one["token"] for one in said["top_logprobs"]] == [top.text for top in token.top_logprobs]
    assert said["logprob"] == pytest.approx(token.logprob, abs=1e-3)


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "The river"}],
        [{"role": "assistant", "content": "The river"}],
        [{"role": "assistant", "content": "The river"}, {"role": "user", "content": "The river"}],
    ],
    ids=len,
)
def test_only_an_answer_is_continued(client: Any, messages: list[dict[str, str]]) -> None:
    body = {"model": "unlike", "messages": messages, "continue_final_message": True, **GREEDY}
    answer = client.post("/v1/chat/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "continue_final_message")


def test_the_server_refuses_what_needs_one_vocabulary(client: Any) -> None:
    ask = {"model": "unlike", "prompt": "The river", **GREEDY}
    for change, says in (
        ({"echo": True, "logprobs": 1, "max_tokens": 0}, "one vocabulary"),
        ({"logit_bias": {"5": 1}}, "unlike vocabularies"),
        ({"colm": {"strategy": "compose"}}, "unlike vocabularies"),
    ):
        answer = client.post("/v1/completions", json={**ask, **change})
        assert answer.status_code == 400, answer.text
        assert says in answer.json()["error"]["message"]


def test_bench_and_the_page_of_patterns(files: tuple[Path, Path], tmp_path: Path) -> None:
    models = ["--base", files[0], "--assistant", files[1], "--n-ctx", "256", "--n-threads", "1"]
    done = succeed("bench", *models, "--tokens", "4", "--rounds", "1", "--json")
    assert all(arm["tokens_per_s"]["median"] > 0 for arm in json.loads(done.stdout)["arms"])
    trace, page = tmp_path / "trace", tmp_path / "page.html"
    done = succeed("generate", "The river", *models, "--head", "random", "--threshold", "0.5", "--seed", "1",
                   "--max-tokens", "30", "--trace", trace, "--json", "-q")  # fmt: skip
    assert {token["source"] for token in json.loads(done.stdout)["tokens"]} == {"base", "assistant"}
    done = succeed("patterns", trace, "--html", page)
    assert "assistant" in page.read_text()

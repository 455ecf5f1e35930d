"""The plugin, in llm itself and by its command."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

llm = pytest.importorskip("llm")
sys.path.insert(0, str(Path(__file__).parents[1]))  # where it is not installed

import llm_colm_cpp  # noqa: E402
from click.testing import CliRunner  # noqa: E402
from llm.cli import cli  # noqa: E402
from llm.plugins import pm  # noqa: E402

import colm_cpp as colm  # noqa: E402

QUESTION = "There were 5 drawers with 131 pencils in each. How many pencils are there?"


@pytest.fixture(autouse=True)
def _in_llm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """llm with the plugin and a folder of its own."""
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    installed = any(point.value == "llm_colm_cpp" for point in importlib.metadata.entry_points(group="llm"))
    if not installed:
        pm.register(llm_colm_cpp)
    yield
    if not installed:
        pm.unregister(llm_colm_cpp)


@pytest.fixture(scope="module")
def demo() -> Iterator[colm.Pair]:
    with colm.load("demo") as pair:
        yield pair


def answer(demo: colm.Pair, *turns: str, **options: Any) -> str:
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]
    return demo.chat(messages, temperature=0, **options).text


def test_every_preset_is_a_model() -> None:
    known = {model.model_id for model in llm.get_models()}
    assert {f"colm/{preset.name}" for preset in colm.presets()} <= known
    assert llm_colm_cpp._loaded == {} or set(llm_colm_cpp._loaded) == {"demo"}  # none is loaded for that


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {}),
        ({"who": "base"}, {"head": "never"}),
        ({"who": "assistant"}, {"head": "always"}),
        ({"rate": 40}, {"defer_rate": 0.4}),
        ({"max_tokens": 5}, {"max_tokens": 5}),
    ],
)
def test_an_answer_is_that_of_the_pair(given: dict[str, Any], expected: dict[str, Any], demo: colm.Pair) -> None:
    response = llm.get_model("colm/demo").prompt(QUESTION, temperature=0, **given)
    assert response.text() == answer(demo, QUESTION, **{"max_tokens": -1, **expected})
    stats = response.response_json["stats"]
    assert (response.input_tokens, response.output_tokens) == (stats["prompt_tokens"], stats["generated_tokens"])


def test_tokens_come_one_by_one() -> None:
    assert len(list(llm.get_model("colm/demo").prompt(QUESTION, temperature=0))) > 10


def test_a_conversation(demo: colm.Pair) -> None:
    talk = llm.get_model("colm/demo").conversation()
    first = talk.prompt(QUESTION, temperature=0).text()
    second = talk.prompt("And if 10 were sold?", temperature=0).text()
    assert second == answer(demo, QUESTION, first, "And if 10 were sold?", max_tokens=-1)


def test_a_system_message(demo: colm.Pair) -> None:
    response = llm.get_model("colm/demo").prompt(QUESTION, system="Be brief.", temperature=0)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
    assert response.text() == demo.chat(messages, temperature=0, max_tokens=-1).text


def test_a_schema() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 99}}, "required": ["n"]}
    written = llm.get_model("colm/demo").prompt(QUESTION, schema=schema, temperature=0, max_tokens=200).text()
    assert set(json.loads(written)) == {"n"}


@pytest.mark.parametrize("given", [{"who": "base", "rate": 20}, {"max_tokens": 5, "seed": 2**40}])
def test_errors_are_those_of_llm(given: dict[str, Any]) -> None:
    with pytest.raises(llm.ModelError):
        llm.get_model("colm/demo").prompt(QUESTION, **given).text()


def test_a_context_that_is_full() -> None:
    with pytest.raises(llm.ModelError, match="512"):
        llm.get_model("colm/demo").prompt("word " * 2000).text()


def test_the_command(demo: colm.Pair) -> None:
    arguments = ["-m", "colm/demo", "-o", "temperature", "0", "-o", "who", "base", QUESTION]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert result.output.strip() == answer(demo, QUESTION, head="never", max_tokens=-1).strip()

"""Pairs that go by a name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import commands
import pytest
from conftest import TINY_LOAD, TinyModels

import colm_cpp as colm
from colm_cpp.engine import loading
from colm_cpp.options import LoadOptions
from colm_cpp.sources.hub import HubFile
from colm_cpp.sources.pair_file import to_toml
from colm_cpp.sources.preset import Preset, preset


@pytest.fixture
def tiny_preset(tiny_model: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Preset:
    """One pair by the name of tiny, whose head is random."""
    models = {"base": str(tiny_model(seed=1)), "assistant": str(tiny_model(seed=2))}
    own = tmp_path / "pairs"
    own.mkdir()
    (own / "tiny.toml").write_text(to_toml({"about": "tiny models", **models, "head": "random"}))
    monkeypatch.setenv("COLM_PAIRS", str(own))
    return preset("tiny")


def test_what_there_is() -> None:
    known = {preset.name: preset for preset in colm.presets()}
    assert {"demo", "qwen2.5-coder-0.5b-1.5b"} <= set(known)
    assert known["qwen2.5-coder-0.5b-1.5b"].head in colm.shipped_heads()
    for model in (known["qwen2.5-coder-0.5b-1.5b"].base, known["qwen2.5-coder-0.5b-1.5b"].assistant):
        HubFile.parse(model)
    demo = known["demo"]
    assert all(Path(file).is_file() for file in (demo.base, demo.assistant, demo.head))


def test_load_takes_both_models_and_the_head(tiny_preset: Preset) -> None:
    with colm.load("tiny", **TINY_LOAD) as pair:
        assert pair.base["path"] == tiny_preset.base
        assert pair.assistant["path"] == tiny_preset.assistant
        assert pair.head == "random"
        assert len(pair.generate("a", max_tokens=3).tokens) <= 3


def test_another_head_may_be_given(tiny_preset: Preset) -> None:
    with colm.load("tiny", head="always", **TINY_LOAD) as pair:
        assert pair.head == "always"


def test_generate_takes_a_name(tiny_preset: Preset) -> None:
    out = colm.generate("a", pair="tiny", head="always", load_options=TINY_LOAD, max_tokens=3, temperature=0)
    assert {token.source for token in out.tokens} == {"assistant"}
    assert colm.generate("a", pair="tiny", load_options=TINY_LOAD, max_tokens=3).stats.generated_tokens


@pytest.mark.parametrize("name", ["qwen2.5", "", "x.gguf", "\ud800"])
def test_an_unknown_name_is_answered_with_those_there_are(name: str) -> None:
    for call in (lambda: colm.load(name), lambda: colm.generate("a", pair=name)):
        with pytest.raises(colm.OptionError, match=r"'demo'.*'qwen2\.5-coder-0\.5b-1\.5b'.*base=.*assistant=") as e:
            call()
        assert ascii(name) in str(e.value)


@pytest.mark.parametrize("value", [3, b"qwen"])
def test_a_name_is_a_text(value: object) -> None:
    with pytest.raises(TypeError, match=type(value).__name__):
        colm.load(value)  # type: ignore[arg-type]


def test_generate_wants_one_pair() -> None:
    with pytest.raises(colm.OptionError, match="pair="):
        colm.generate("a", base="x.gguf", head="random")


def test_models_that_are_given_replace_those_of_the_pair(tiny_preset: Preset, tmp_path: Path) -> None:
    """So that a pair of the hub runs with the files that are there."""
    mine = shutil.copy(tiny_preset.base, tmp_path / "mine.gguf")
    with colm.load(pair="tiny", base=mine, n_ctx=64) as pair:
        assert (pair.base["path"], pair.assistant["path"]) == (str(mine), tiny_preset.assistant)
    assert tiny_preset.with_models(assistant=Path("y.gguf")).models == [tiny_preset.base, "y.gguf"]
    for call in (colm.load, lambda **given: colm.generate("a", **given)):
        with pytest.raises(colm.LoadError, match=r"nowhere\.gguf"):
            call(pair="tiny", assistant=tmp_path / "nowhere.gguf")
    with pytest.raises(colm.OptionError, match="sums and almanac"):
        colm.load(pair="demo-three", assistant=mine)


class TestCommandLine:
    def run(self, *arguments: str) -> tuple[int, str, str]:
        result = commands.run(*arguments)
        return result.exit_code, result.stdout, result.stderr

    def test_generate(self, tiny_preset: Preset, tmp_path: Path) -> None:
        options = ("--pair", "tiny", "--n-threads", "1", "--max-tokens", "4", "--json")
        code, out, error = self.run("generate", "a", *options, "--head", "always")
        assert (code, error) == (0, "")
        assert '"assistant"' in out
        assert tiny_preset.assistant in out
        mine = shutil.copy(tiny_preset.base, tmp_path / "mine.gguf")
        code, out, error = self.run("generate", "a", *options, "--base", str(mine))
        assert (code, error) == (0, "")
        assert (str(mine) in out, tiny_preset.base in out, tiny_preset.assistant in out) == (True, False, True)
        code, out, _ = self.run("generate", "a", *options)
        assert code == 0
        assert '"head":"random"' in out.replace(" ", "")

    def test_other_commands(self, tiny_preset: Preset, tmp_path: Path) -> None:
        corpus = tmp_path / "texts.jsonl"
        corpus.write_text('{"prompt": "a b", "completion": "c d e f"}\n')
        out = tmp_path / "scores"
        code, _, error = self.run("score", str(corpus), "--pair", "tiny", "--out", str(out), "--n-threads", "1")
        assert code == 0, error
        assert (out / "meta.json").exists()

    @pytest.mark.parametrize("command", [("generate", "a"), ("score", "t"), ("calibrate", "h", "p"), ("evaluate", "t")])
    def test_usage(self, command: tuple[str, ...], tmp_path: Path) -> None:
        out = () if command[0] == "generate" else ("--out", str(tmp_path / "out"))
        code, _, error = self.run(*command, *out)
        assert code == 2
        assert "--base" in error
        assert "--pair demo" in error
        code, _, error = self.run(*command, *out, "--base", "x.gguf")
        assert code == 2
        assert "--assistant" in error
        code, _, error = self.run(*command, *out, "--pair", "qwen2.5")
        assert code == 1
        assert "'qwen2.5-coder-0.5b-1.5b'" in error

    def test_a_head_is_needed_for_models_of_ones_own(self) -> None:
        code, _, error = self.run("generate", "a", "--base", "x.gguf", "--assistant", "y.gguf")
        assert code == 2
        assert "--head" in error


def test_tiny_models_have_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless more are asked for; others have what the machine has."""
    monkeypatch.setattr(loading, "usable_cores", lambda: 7)
    known = preset("demo")

    def threads(**options: Any) -> list[tuple[int, int]]:
        chosen = (LoadOptions(**options), LoadOptions(**options))
        prepared, _ = loading.prepare({"base": known.base, "assistant": known.assistant}, chosen, check_memory=False)
        return [(core.values["n_threads"], core.values["n_threads_batch"]) for core in prepared]

    assert threads() == [(1, 1), (1, 1)]
    assert threads(n_threads=3, n_threads_batch=5) == [(3, 5), (3, 5)]
    monkeypatch.setattr(loading, "_TINY_FILE", 0)
    assert threads() == [(7, 7), (7, 7)]

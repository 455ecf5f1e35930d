"""What may be named, everywhere that a model, a head or a pair is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models as tm
from commands import fail, run, succeed
from conftest import ASSISTANT, BASE, TINY_LOAD, TinyModels

import colm_cpp as colm
from colm_cpp.evaluate.arms import named_head
from colm_cpp.learn import make_arms
from colm_cpp.sources.names import find_head
from colm_cpp.sources.pair_file import to_toml
from colm_cpp.sources.preset import preset

QWEN = "qwen2.5-coder-0.5b-1.5b"
DEFER = tm.DEFER


@pytest.fixture
def models(tiny_model: TinyModels) -> list[str]:
    files = ["--base", str(tiny_model(**BASE)), "--assistant", str(tiny_model(**ASSISTANT))]
    return [*files, "--n-threads", "1", "--n-ctx", "256"]


@pytest.fixture
def packaged(tiny_model: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a head in the package that fits the tiny models, and of their pair."""
    folder = tmp_path / "heads"
    folder.mkdir()
    theta = np.linspace(-1, 1, 32, dtype=np.float32)
    colm.Head.linear(theta, name="shipped", rates=(0.0, 1.0), thresholds=(1.0, 0.0)).save(folder / "tiny.gguf")
    monkeypatch.setattr("colm_cpp.sources.shipped.FOLDER", folder)
    own = tmp_path / "pairs"
    own.mkdir()
    models = {"base": str(tiny_model(**BASE)), "assistant": str(tiny_model(**ASSISTANT))}
    (own / "tiny.toml").write_text(to_toml({**models, "head": "tiny"}))
    monkeypatch.setenv("COLM_PAIRS", str(own))
    return "tiny"


@pytest.mark.parametrize(
    ("head", "kind", "has_place"),
    [
        ("confidence", "training-free", False),
        (QWEN, "packaged", True),
        ("demo", "packaged", True),
        (Path("demo"), "file", True),
        ("./demo.gguf", "file", True),
        ("hf:org/repo/head.gguf", "file", True),
        (Path("hf:org/repo/head.gguf"), "file", True),
        (DEFER, "token", False),
        ("confidences", "token", False),
        ("\0", "token", False),
    ],
)
def test_what_a_head_is(head: Any, kind: str, has_place: bool) -> None:
    named = find_head(head)
    assert (named.kind, named.place is not None) == (kind, has_place)
    if isinstance(head, Path):
        assert named.file() is not None  # nothing is asked of the hub


class TestPython:
    def test_a_pair_by_keyword(self) -> None:
        with colm.load(pair="demo") as pair:
            assert pair.base["path"] == preset("demo").base
        with colm.load(pair="demo", head="always") as pair:
            assert pair.head == "always"
        for more in ({"base": "x.gguf"}, {"assistant": "x.gguf"}):
            with pytest.raises(colm.LoadError, match=r"x\.gguf"):  # in place of the pair's own
                colm.load(pair="demo", **more)  # type: ignore[arg-type]
        with pytest.raises(colm.OptionError, match="'demos'"):
            colm.load(pair="demos")

    def test_a_pair_is_no_model(self, tiny_model: TinyModels) -> None:
        with pytest.raises(colm.OptionError, match="pair='demo'"):
            colm.load(tiny_model(**BASE), "demo")

    def test_a_head_of_the_package_beside_files(self, tiny_model: TinyModels, packaged: str) -> None:
        with colm.load(tiny_model(**BASE), tiny_model(**ASSISTANT), packaged, **TINY_LOAD) as pair:
            assert pair.generate("x", max_tokens=3, defer_rate=1.0).stats.deferral_rate == 1.0
        # The real one is another base's: it was found, and says which width it has.
        with pytest.raises(colm.HeadError):
            colm.load(tiny_model(**BASE), tiny_model(**ASSISTANT), "tinier", **TINY_LOAD)

    def test_the_head_of_a_pair(self) -> None:
        with colm.load(pair="demo", head="demo") as pair:
            own = pair.generate("Problem", max_tokens=20, seed=1)
        with colm.load(pair="demo") as pair:
            assert [token.id for token in pair.generate("Problem", max_tokens=20, seed=1).tokens] == [
                token.id for token in own.tokens
            ]

    def test_arms(self, packaged: str) -> None:
        arms = make_arms([], {"a": packaged, "b": DEFER, "c": "entropy", "d": "random"}, [0.25], random=False)
        assert [(arm.name, arm.threshold, arm.rate) for arm in arms] == [
            ("a@25", 0.75, 0.25),
            ("b", 0.5, None),
            ("c", 0.5, None),
            ("d@25", 0.75, 0.25),
        ]

    @pytest.mark.parametrize(
        ("text", "name", "head"),
        [
            ("mine=x.gguf", "mine", "x.gguf"),
            ("folder/x.gguf", "x", "folder/x.gguf"),
            (QWEN, QWEN, QWEN),
            (DEFER, "defer", DEFER),
            (f"t={DEFER}", "t", DEFER),
            ("<a=b>", "ab", "<a=b>"),
        ],
    )
    def test_names_of_arms(self, text: str, name: str, head: str) -> None:
        assert named_head(text) == (name, head)


class TestCommandLine:
    @pytest.mark.parametrize(
        "head", ["tiny", DEFER, *(pytest.param(name, marks=pytest.mark.slow) for name in ("entropy", "always"))]
    )
    def test_generate_score_and_evaluate_take_every_head(
        self, head: str, models: list[str], packaged: str, tmp_path: Path
    ) -> None:
        rows = tmp_path / "rows.jsonl"
        rows.write_text('{"prompt": "The sun", "answer": "1"}\n')
        written = succeed("generate", "x", *models, "--head", head, "--max-tokens", "2", "--json")
        assert json.loads(written.stdout)["head"] == head
        answers = ("--respond", "--head", head, "--max-tokens", "6", "--quiet", "--no-chat")
        succeed("score", rows, *models, *answers, "--out", tmp_path / "scores")
        out = tmp_path / "eval"
        done = succeed(
            "evaluate", rows, *models, "--head", head, "--max-tokens", "2", "--arm", "base", "--quiet", "-o", out
        )
        name = {"tiny": "tiny@20", DEFER: "defer"}.get(head, head)
        assert f"| {name} | 1 |" in done.stdout

    def test_inspect(self, models: list[str], packaged: str, tmp_path: Path) -> None:
        facts = json.loads(run("inspect", "--json", packaged).stdout)
        assert facts["pair"]["compatible"] is True
        assert [file["type"] for file in facts["files"]] == ["model", "model", "head"]
        assert facts["files"][2]["name"] == "shipped"
        assert json.loads(run("inspect", "--json", "--pair", packaged).stdout) == facts
        # A head of the package beside files; a name among several names.
        beside = json.loads(run("inspect", *models[:4], "--head", packaged, "--json").stdout)
        assert beside["files"][2] == facts["files"][2]
        several = json.loads(run("inspect", packaged, "confidence", "--json").stdout)["files"]
        assert [(file["type"], file["name"]) for file in several] == [
            ("head", "shipped"),
            ("training-free", "confidence"),
        ]
        with_token = json.loads(run("inspect", *models[:4], "--head", DEFER, "--json").stdout)
        assert with_token["pair"]["compatible"] is True
        assert run("inspect", "--pair", packaged, "--base", "x.gguf").exit_code == 2
        assert run("inspect", "--base", "x.gguf", packaged).exit_code == 2
        shown = succeed("inspect", packaged, "confidence")
        assert "training-free" in shown.stdout

    def test_inspect_demo(self) -> None:
        assert "--pair demo" in run("inspect", "demo", "confidence").stderr
        result = succeed("inspect", "demo")
        assert "pair: compatible" in result.stdout

    def test_calibrate(self, models: list[str], packaged: str, tmp_path: Path) -> None:
        prompts = tmp_path / "prompts.jsonl"
        prompts.write_text('{"prompt": "The sun"}\n')
        options = (prompts, *models, "--max-tokens", "4", "--no-chat", "--quiet")
        shipped = Path(str(find_head(packaged).place))
        before = shipped.read_bytes()
        refused = run("calibrate", packaged, *options)
        assert refused.exit_code == 2
        assert "--out" in refused.stderr
        succeed("calibrate", packaged, *options, "--out", tmp_path / "mine.gguf")
        assert len(colm.Head.load(tmp_path / "mine.gguf").rates) > 2
        assert shipped.read_bytes() == before
        for head in (DEFER, "entropy"):
            refused = fail("calibrate", head, *options, "--out", tmp_path / "no.gguf")
            assert head in refused
            assert "--target-rate" in refused

    def test_bench(self, models: list[str], packaged: str) -> None:
        options = ("--tokens", "8", "--rounds", "2", "--json", "--quiet")
        assert json.loads(run("bench", *models, *options, "--head", packaged).stdout)["head"] != "random"

    @pytest.mark.parametrize("command", [("generate", "x"), ("bench",), ("score", "x")])
    def test_a_pair_is_no_model(self, command: tuple[str, ...], tmp_path: Path) -> None:
        out = ("--out", tmp_path / "out") if command[0] == "score" else ()
        result = run(*command, *out, "--base", "demo")
        assert result.exit_code == 2
        assert "--pair demo" in result.stderr

    def test_models(self) -> None:
        listed = json.loads(run("models", "--json").stdout)
        assert [pair["name"] for pair in listed["pairs"]] == [known.name for known in colm.presets()]
        heads = {head["name"]: head for head in listed["heads"]}
        assert set(heads) == {
            *colm.shipped_heads(),
            "demo",
            "demo-three",
            "confidence",
            "entropy",
            "random",
            "always",
            "never",
        }
        assert heads[QWEN]["n_embd"] == 896
        assert heads["confidence"]["kind"] == "training-free"
        for name, head in heads.items():
            assert ("file" in head) == (find_head(name).place is not None)
        shown = run("models").stdout
        for name in (*heads, *(pair["name"] for pair in listed["pairs"])):
            assert f"  {name} " in shown
        assert run("models", "x").exit_code == 2


def test_heads_are_read_by_name(packaged: str) -> None:
    assert colm.Head.load(packaged).name == "shipped"
    with pytest.raises(colm.LoadError, match="tinier"):
        colm.Head.load("tinier")

"""A head belongs to a base with its adapters: what the file keeps, and what loading compares."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tiny_models as tm
from adapter_files import N_EMBD, write_adapter
from commands import fail, run, succeed
from conftest import TINY_LOAD
from tiny_models import make_model

import colm_cpp as colm
from colm_cpp.heads.adapters import adapter_digest, in_effect
from colm_cpp.learn import Scorer, Scores, TrainingOptions, score, select, train

ONE, TWO = "a" * 64, "b" * 64


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {
        "base": make_model(folder / "base.gguf", seed=1, n_embd=N_EMBD),
        "assistant": make_model(folder / "assistant.gguf", seed=2, n_embd=N_EMBD),
        "adapter": write_adapter(folder / "adapter.gguf"),
        "other": write_adapter(folder / "other.gguf", seed=1),
    }


def head(*adapters: tuple[Path, float], **changes: Any) -> colm.Head:
    bound = tuple((adapter_digest(path), scale) for path, scale in adapters)
    return colm.Head.linear(np.linspace(-1, 1, N_EMBD), **{"base_adapters": bound, "name": "mine", **changes})


def load(files: dict[str, Path], head: colm.Head, *lora: tuple[Path, float], **more: Any) -> colm.Pair:
    own: dict[str, Any] = {"base_options": {"lora": list(lora)}} if lora else {}
    return colm.load(files["base"], files["assistant"], head, **{**TINY_LOAD, **own, **more})


# -- the file -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [None, (), ((ONE, 1.0),), ((ONE, 0.3), (TWO, -2.0))])
def test_the_file_keeps_the_adapters(bound: Any, tmp_path: Path) -> None:
    file = tmp_path / "head.gguf"
    colm.Head.linear([1, 2], base_adapters=bound).save(file)
    assert colm.Head.load(file).base_adapters == bound


def test_a_file_of_an_earlier_version_says_nothing(tmp_path: Path) -> None:
    assert colm.Head.load(colm.shipped_heads()[0]).base_adapters is None


def test_what_adapters_add_up_to() -> None:
    assert in_effect([(TWO, 1.0), (ONE, 0.5), (ONE, 0.5)]) == ((ONE, 1.0), (TWO, 1.0))
    assert in_effect([(ONE, 0.0), (TWO, 1.0), (TWO, -1.0)]) == ()
    assert in_effect([(ONE, float(np.float32(0.3)))]) == ((ONE, 0.3),)


@pytest.mark.parametrize(
    "wrong",
    [ONE, 3, [(ONE,)], [("abc", 1.0)], [(ONE.upper(), 1.0)], [(ONE, float("nan"))], [(ONE, 1e39)], [(ONE, "1")],
     [(ONE, 1.0)] * 65],
)  # fmt: skip
def test_malformed_adapters_are_refused(wrong: Any) -> None:
    with pytest.raises(colm.HeadError, match="base_adapters"):
        colm.Head.linear([1, 2], base_adapters=wrong)


@pytest.mark.parametrize(
    ("n", "digests", "scales"), [(2, [ONE], [1.0]), (1, [], [1.0]), (1, [ONE], []), (65, [ONE] * 65, [1.0] * 65)]
)
def test_a_file_with_other_counts_is_refused(n: int, digests: list[str], scales: list[float], tmp_path: Path) -> None:
    file = tmp_path / "head.gguf"
    writer = gguf.GGUFWriter(file, "colm-head")
    for key, value in {"version": 1, "n_embd": 2, "n_layers": 1, "n_base_adapters": n}.items():
        writer.add_uint32(f"colm-head.{key}", value)
    writer.add_string("colm-head.kind", "linear")
    writer.add_array("colm-head.base_adapters", digests)
    writer.add_array("colm-head.base_adapter_scales", scales)
    writer.add_tensor("layers.0.weight", np.ones((1, 2), np.float32))
    writer.add_tensor("layers.0.bias", np.ones(1, np.float32))
    tm.finish(writer)
    with pytest.raises(colm.HeadError, match=f"n_base_adapters is {n} "):
        colm.Head.load(file)


# -- loading ------------------------------------------------------------------------------------------------------


def test_a_head_fits_the_base_with_its_adapter(files: dict[str, Path], tmp_path: Path) -> None:
    adapter = files["adapter"]
    moved = shutil.copy(adapter, tmp_path / "elsewhere.gguf")  # the content counts
    for lora in ([(adapter, 0.5)], [(Path(moved), 0.5)], [(adapter, 0.25), (Path(moved), 0.25)]):
        with load(files, head((adapter, 0.5)), *lora) as pair:
            assert pair.generate("x", max_tokens=2, threshold=0.0).stats.deferral_rate == 1.0
            assert [known["sha256"] for known in pair.base["adapters"]] == [adapter_digest(adapter)] * len(lora)
            assert pair.assistant["adapters"] == []
    with load(files, head((adapter, 1.0)), lora=[adapter]) as pair:  # for both models
        assert len(pair.assistant["adapters"]) == 1


def test_a_head_without_its_adapter_is_refused(files: dict[str, Path]) -> None:
    bound = head((files["adapter"], 1.0))
    for lora in ([], [(files["adapter"], 0.5)], [(files["other"], 1.0)], [(files["adapter"], 0.0)]):
        with pytest.raises(colm.HeadMismatch, match=r"adapter .* at scale 1.*pair\.toml"):
            load(files, bound, *lora)
    with pytest.raises(colm.HeadMismatch):  # the assistant's adapter is none of the base's
        load(files, bound, assistant_options={"lora": files["adapter"]})
    with load(files, head()) as pair, pytest.raises(colm.HeadMismatch):
        pair.generate("x", head=bound, max_tokens=1)


def test_a_head_of_the_plain_base_warns_with_an_adapter(files: dict[str, Path]) -> None:
    with pytest.warns(colm.AdapterWarning, match="calibrated"):
        load(files, head(), (files["adapter"], 1.0)).close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(files, head()).close()
        load(files, head(), (files["adapter"], 0.0)).close()
        load(files, head(base_adapters=None), (files["adapter"], 1.0)).close()  # an earlier file: nobody knows


def test_a_missing_adapter_is_named(files: dict[str, Path]) -> None:
    with pytest.raises(colm.LoadError, match=r"none\.gguf"):
        load(files, head(), (Path("none.gguf"), 1.0))


# -- the commands -------------------------------------------------------------------------------------------------


def test_the_commands_warn_refuse_and_show(files: dict[str, Path], tmp_path: Path) -> None:
    bound, plain = tmp_path / "bound.gguf", tmp_path / "plain.gguf"
    head((files["adapter"], 1.0)).save(bound)
    head().save(plain)
    models = ("--base", files["base"], "--assistant", files["assistant"], "--n-ctx", 256, "--n-threads", 1)
    adapter = ("--base-option", f"lora={files['adapter']}")
    writing = ("generate", "x", *models, "--max-tokens", 2, "--quiet")
    succeed(*writing, "--head", bound, *adapter)
    assert fail(*writing, "--head", bound).startswith(
        "colm: error: the head mine was fitted to the base with the adapter"
    )
    warned = succeed(*writing, "--head", plain, *adapter)
    assert [line[:22] for line in warned.stderr.splitlines()] == ["colm: warning: the hea"]
    known = json.loads(run("inspect", bound, plain, "--json").stdout)["files"]
    assert known[0]["base_adapters"] == [{"sha256": adapter_digest(files["adapter"]), "scale": 1.0}]
    assert known[1]["base_adapters"] == []
    assert adapter_digest(files["adapter"])[:12] in run("inspect", bound).stdout


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    words = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog"]
    rows = [{"prompt": f"say {i}", "completion": " ".join(words[i % 5 :])} for i in range(12)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def scored(files: dict[str, Path], texts: Path, out: Path, **options: Any) -> Scores:
    with Scorer(files["base"], files["assistant"], **{**TINY_LOAD, **options}) as scorer:
        score(scorer, select([texts]), out)
    return Scores(out)


def test_training_binds_the_head_to_what_the_scores_were_made_with(
    files: dict[str, Path], texts: Path, tmp_path: Path
) -> None:
    options = TrainingOptions(max_iterations=2)
    plain = scored(files, texts, tmp_path / "plain")
    assert train([plain], options).head.base_adapters == ()
    tuned = scored(files, texts, tmp_path / "tuned", base_options={"lora": [(files["adapter"], 0.5)]})
    assert tuned.meta["base_adapters"] == [[adapter_digest(files["adapter"]), 0.5]]
    trained = train([tuned], options)
    assert trained.head.base_adapters == ((adapter_digest(files["adapter"]), 0.5),)
    load(files, trained.head, (files["adapter"], 0.5)).close()
    with pytest.raises(colm.CorpusError, match="base_lora"):
        train([plain, tuned], options)
    # An earlier version kept the adapter's name alone.
    meta = json.loads((tmp_path / "tuned" / "meta.json").read_text())
    del meta["base_adapters"]
    (tmp_path / "tuned" / "meta.json").write_text(json.dumps(meta))
    trained = train([Scores(tmp_path / "tuned")], options)
    assert trained.head.base_adapters is None
    assert any("adapters" in note for note in trained.notes)

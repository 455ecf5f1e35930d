"""A head's file: what is written, what is read, and the heads that come with the package."""

from __future__ import annotations

import dataclasses
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_heads import an_mlp

import colm_cpp as colm
from colm_cpp.errors import HeadError, LoadError, MissingDependency
from colm_cpp.heads.head import Head


def fields_of(path: Path) -> dict[str, Any]:
    """The keys of a GGUF file, apart from those that GGUFReader makes up."""
    gguf = pytest.importorskip("gguf")
    reader = gguf.GGUFReader(path)
    return {key: f.contents() for key, f in reader.fields.items() if not key.startswith("GGUF.")}


def assert_same(a: Head, b: Head) -> None:
    for field in dataclasses.fields(Head):
        left, right = getattr(a, field.name), getattr(b, field.name)
        if field.name in ("weights", "biases"):
            assert len(left) == len(right)
            for x, y in zip(left, right, strict=True):
                assert x.dtype == y.dtype == np.float32
                np.testing.assert_array_equal(x, y)
        else:
            assert left == right, field.name


# --- file ---------------------------------------------------------------------------------------


def test_save_writes_what_the_format_says(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    head = an_mlp()
    head.save(tmp_path / "head.gguf")
    fields = fields_of(tmp_path / "head.gguf")
    floats = {k: fields.pop(f"colm-head.{k}") for k in ("default_threshold", "rates", "thresholds")}
    assert fields == {
        "general.architecture": "colm-head",
        "general.name": "a head",
        "colm-head.version": 1,
        "colm-head.kind": "mlp",
        "colm-head.n_embd": 5,
        "colm-head.n_layers": 2,
        "colm-head.activation": "gelu",
        "colm-head.features": ["entropy", "top_k_logprobs"],
        "colm-head.top_k": 3,
        "colm-head.base_name": "base",
        "colm-head.assistant_name": "assistant ü",
        "colm-head.vocab_fingerprint": "0123456789abcdef",
    }
    assert floats["default_threshold"] == np.float32(0.3)
    np.testing.assert_array_equal(floats["rates"], np.float32([0, 0.25, 1]))
    np.testing.assert_array_equal(floats["thresholds"], np.float32([1, 0.6, 0]))
    reader = gguf.GGUFReader(tmp_path / "head.gguf")
    kinds = {key: [t.name for t in f.types] for key, f in reader.fields.items()}
    for key in ("version", "n_embd", "n_layers", "top_k"):
        assert kinds[f"colm-head.{key}"] == ["UINT32"]
    assert kinds["colm-head.default_threshold"] == ["FLOAT32"]
    assert kinds["colm-head.rates"] == kinds["colm-head.thresholds"] == ["ARRAY", "FLOAT32"]
    assert kinds["colm-head.features"] == ["ARRAY", "STRING"]
    tensors = {t.name: t for t in reader.tensors}
    assert list(tensors) == ["layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias"]
    assert [list(t.shape) for t in tensors.values()] == [[9, 6], [6], [6, 1], [1]]  # ggml's order
    for i in range(2):
        np.testing.assert_array_equal(tensors[f"layers.{i}.weight"].data, head.weights[i])
        np.testing.assert_array_equal(tensors[f"layers.{i}.bias"].data, head.biases[i])
        assert tensors[f"layers.{i}.weight"].tensor_type == gguf.GGMLQuantizationType.F32


def test_save_leaves_out_what_is_not_set(tmp_path: Path) -> None:
    Head.linear([1.0, 2.0]).save(tmp_path / "head.gguf")
    assert fields_of(tmp_path / "head.gguf") == {
        "general.architecture": "colm-head",
        "colm-head.version": 1,
        "colm-head.kind": "linear",
        "colm-head.n_embd": 2,
        "colm-head.n_layers": 1,
        "colm-head.activation": "relu",
    }


def test_the_same_head_gives_the_same_bytes(tmp_path: Path) -> None:
    an_mlp().save(tmp_path / "a.gguf")
    an_mlp().save(tmp_path / "somewhere else.gguf")
    first = (tmp_path / "a.gguf").read_bytes()
    assert first == (tmp_path / "somewhere else.gguf").read_bytes()
    an_mlp(default_threshold=0.31).save(tmp_path / "b.gguf")
    assert first != (tmp_path / "b.gguf").read_bytes()


def test_save_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "head.gguf"
    path.write_text("old")
    an_mlp().save(str(path))
    assert path.read_bytes()[:4] == b"GGUF"
    assert [p.name for p in tmp_path.iterdir()] == ["head.gguf"]


@pytest.mark.skipif(sys.platform == "win32", reason="file modes are those of POSIX")
def test_a_saved_file_has_the_usual_mode(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    an_mlp().save(tmp_path / "head.gguf")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "head.gguf")]
    assert modes[0] == modes[1]


def test_a_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "head.gguf"
    path.write_text("old")

    def full(self: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", full)
    with pytest.raises(LoadError, match=r"head\.gguf.*No space left"):
        an_mlp().save(path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["head.gguf"]


def test_save_into_no_folder_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"none.head\.gguf"):
        an_mlp().save(tmp_path / "none" / "head.gguf")
    (tmp_path / "file").touch()
    with pytest.raises(LoadError, match=r"file.head\.gguf"):
        an_mlp().save(tmp_path / "file" / "head.gguf")
    (tmp_path / "folder").mkdir()
    with pytest.raises(LoadError, match="folder"):
        an_mlp().save(tmp_path / "folder")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_save_without_gguf_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingDependency, match="pip install gguf"):
        an_mlp().save(tmp_path / "head.gguf")


# --- loading, by the extension ------------------------------------------------------------------


# Made inside the test: a head that cannot be made should fail it, not the collection of this file.
SAVED: dict[str, Callable[[], Head]] = {
    "everything": an_mlp,
    "some": lambda: an_mlp(activation="silu", name=None, vocab_fingerprint=None),
    "plain": lambda: Head.linear(np.linspace(-1, 1, 64), -1.5),
    "calibrated": lambda: Head.linear([1.0, 2.0, 3.0], features=["margin"], rates=(0.1,), thresholds=(0.9,)),
    "mlp of one layer": lambda: Head.mlp([[[0.5, 0.25]]], [[0.0]], default_threshold=0.0),
}


@pytest.mark.parametrize("which", SAVED)
def test_load_gives_back_what_was_saved(which: str, tmp_path: Path) -> None:
    head = SAVED[which]()
    head.save(tmp_path / "head.gguf")
    assert_same(Head.load(tmp_path / "head.gguf"), head)


def test_load_of_no_file_is_a_load_error(tmp_path: Path) -> None:
    with pytest.raises(LoadError):
        Head.load(tmp_path / "none.gguf")


class TestShipped:
    """Heads that come with the package."""

    @pytest.fixture
    def shipped(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pair: colm.Pair) -> Path:
        """One shipped head, which defers at every token of the tiny pair."""
        monkeypatch.setattr("colm_cpp.sources.shipped.FOLDER", tmp_path)
        Head.linear(np.zeros(pair.n_embd), 5.0, name="always on").save(tmp_path / "my-pair.gguf")
        return tmp_path

    def test_is_used_by_its_name(self, shipped: Path, pair: colm.Pair) -> None:
        assert colm.shipped_heads() == ("my-pair",)
        out = pair.generate("a b", head="my-pair", max_tokens=4, temperature=0)
        assert [token.defer_logit for token in out.tokens] == pytest.approx([5.0] * len(out.tokens))

    def test_unknown_names_are_still_tokens_or_errors(self, shipped: Path, pair: colm.Pair) -> None:
        with pytest.raises(HeadError, match="my-pairs"):
            pair.generate("a b", head="my-pairs", max_tokens=4)

    def test_those_of_this_version_have_a_card_and_a_table(self) -> None:
        from colm_cpp.sources.shipped import FOLDER

        for name in colm.shipped_heads():
            head = Head.load(FOLDER / f"{name}.gguf")
            assert head.rates
            assert head.vocab_fingerprint
            assert name in (FOLDER / f"{name}.md").read_text(encoding="utf-8")

"""Model files: in several parts, with ids that lead nowhere, and what a refusal says."""

from __future__ import annotations

import re
from pathlib import Path

import gguf
import numpy as np
import pytest
import tiny_models as tm
from gguf import GGUFValueType as T

import colm_cpp as colm
from colm_cpp.errors import LoadError

FAST = {"n_ctx": 64, "n_threads": 1}


def load(path: Path) -> colm.Pair:
    return colm.load(path, path, "entropy", **FAST)


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A model in parts of at most ten tensors."""
    plain = gguf.GGUFWriter.__init__
    with monkeypatch.context() as patch:
        patch.setattr(
            gguf.GGUFWriter, "__init__", lambda self, path, arch: plain(self, path, arch, split_max_tensors=10)
        )
        tm.make_model(tmp_path / "tiny.gguf")
    found = sorted(tmp_path.glob("tiny-*.gguf"))
    assert [p.name for p in found] == [f"tiny-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    return found


def test_first_part_loads_them_all(parts: list[Path], tmp_path: Path) -> None:
    whole = tm.make_model(tmp_path / "whole.gguf")
    with load(parts[0]) as split, load(whole) as pair:
        assert (
            split.generate("The quick", max_tokens=8, seed=1).text
            == pair.generate("The quick", max_tokens=8, seed=1).text
        )


@pytest.mark.parametrize("number", [1, 2])
def test_a_later_part_names_the_first(parts: list[Path], number: int) -> None:
    with pytest.raises(LoadError) as error:
        load(parts[number])
    assert f"part {number + 1} of 3" in str(error.value)
    assert str(parts[0]) in str(error.value)


def test_a_missing_part_is_named(parts: list[Path]) -> None:
    parts[2].unlink()
    with pytest.raises(LoadError, match=re.escape(str(parts[2]))):
        load(parts[0])


def test_a_later_part_that_was_cut_is_named_with_both_sizes(parts: list[Path]) -> None:
    size = parts[1].stat().st_size
    parts[1].write_bytes(parts[1].read_bytes()[:-100])
    with pytest.raises(LoadError) as error:
        load(parts[0])
    for part in (str(parts[1]), str(size - 100), str(size)):
        assert part in str(error.value)


def test_a_first_part_by_another_name(parts: list[Path], tmp_path: Path) -> None:
    renamed = parts[0].rename(tmp_path / "model.gguf")
    with pytest.raises(LoadError, match="-00001-of-00003"):
        load(renamed)


@pytest.mark.parametrize("last", ["header", "tensor"])
def test_a_refusal_says_nothing_of_earlier_ones(tmp_path: Path, last: str) -> None:
    good = tm.make_model(tmp_path / "good.gguf")

    def lacking(name: str) -> Path:
        """The model without one of its tensors."""
        reader, path = gguf.GGUFReader(good), tmp_path / f"without-{name}.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        for key, field in reader.fields.items():
            if not key.startswith("GGUF.") and key != "general.architecture":
                writer.add_key_value(key, field.contents(), *field.types[:2])
        for tensor in reader.tensors:
            if tensor.name != name:
                writer.add_tensor(tensor.name, np.array(tensor.data))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    with pytest.raises(LoadError, match=r"blk\.1\.ffn_up\.weight"):
        load(lacking("blk.1.ffn_up.weight"))
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(good.read_bytes()[:200])
    with pytest.raises(LoadError) as error:
        load(damaged if last == "header" else lacking("blk.0.ffn_down.weight"))
    assert ("damaged" if last == "header" else "blk.0.ffn_down.weight") in str(error.value)
    assert "ffn_up" not in str(error.value)


def test_tokens_that_stand_for_others_are_in_the_vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add = gguf.GGUFWriter.add_context_length

    def with_substitutes(self: gguf.GGUFWriter, length: int) -> None:
        add(self, length)
        self.add_key_value("llama.adapters.token_ids_substitute", [1, n], T.ARRAY, T.INT32)

    monkeypatch.setattr(gguf.GGUFWriter, "add_context_length", with_substitutes)
    n = len(tm.Vocab())
    with pytest.raises(LoadError, match=rf"token_ids_substitute.* {n};.* {n - 1}"):
        load(tm.make_model(tmp_path / "model.gguf"))
    n -= 1
    load(tm.make_model(tmp_path / "model.gguf")).close()

"""The tuned pairs in docs/results/adapters: anyone can load them, and each head belongs to the adapter beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

import colm_cpp as colm
from colm_cpp.heads.adapters import adapter_digest
from colm_cpp.sources.preset import preset

FOLDERS = sorted(path.parent for path in Path(__file__).parents[2].glob("docs/results/adapters/*/pair.toml"))
MOST_BYTES = 10_000_000


def test_there_are_some() -> None:
    assert FOLDERS


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_tuned_pair_is_whole(folder: Path) -> None:
    pair = preset(folder)
    assert pair.base.startswith("hf:")
    assert pair.assistant.startswith("hf:")
    assert pair.adapter is not None
    assert pair.head is not None
    file, scale = pair.adapter
    assert Path(file).stat().st_size <= MOST_BYTES
    head = colm.Head.load(pair.head)
    assert head.base_adapters == ((adapter_digest(file), scale),)
    assert head.threshold_for_rate(0.2) > 0  # calibrated
    assert (folder / "card.md").is_file()

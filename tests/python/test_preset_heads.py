"""`head=` with the name of a preset whose head has an expert behind it: `head = "head.gguf:math"` in its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import expert_files
import numpy as np
import pytest
from adapter_files import N_EMBD
from conftest import TINY_LOAD
from expert_files import PROMPT

import colm_cpp as colm
from colm_cpp.sources.names import find_head
from colm_cpp.sources.pair_file import to_toml

files = expert_files.files
OPTIONS: dict[str, Any] = {"temperature": 0, "max_tokens": 12, "seed": 1}


@pytest.fixture
def presets(files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`filed` has a head's file, `free` a training-free head; code writes."""
    theta = np.linspace(-1, 1, N_EMBD, dtype=np.float32)
    colm.Head.linear(theta, default_threshold=0.0).save(tmp_path / "when.gguf")
    experts = "".join(f'{name} = "{files[name]}"\n' for name in ("math", "code"))
    for name, head in (("filed", "when.gguf:code"), ("free", "random:code")):
        text = to_toml({"base": str(files["base"]), "head": head})
        (tmp_path / f"{name}.toml").write_text(f"{text}[experts]\n{experts}")
    monkeypatch.setenv("COLM_PAIRS", str(tmp_path))


@pytest.mark.parametrize("name", ["filed", "free"])
def test_the_expert_of_the_preset_writes(files: dict[str, Path], presets: None, name: str) -> None:
    named = find_head(name)
    assert named.expert == "code"
    assert (named.kind, named.place is None) == (("file", False) if name == "filed" else ("training-free", True))
    experts = {"math": files["math"], "code": files["code"]}

    def written_by(pair: colm.Pair, **options: Any) -> set[str]:
        return {token.source for token in pair.generate(PROMPT, **OPTIONS, **options).tokens}

    with colm.load(files["base"], experts=experts, head=name, **TINY_LOAD) as pair:
        assert "code" in written_by(pair) <= {"base", "code"}
        assert "math" in written_by(pair, head=f"{name}:math") <= {"base", "math"}
    kept: Any = {"base": files["base"], "experts": experts, "load_options": TINY_LOAD}
    text = colm.generate(PROMPT, head=name, **kept, **OPTIONS)
    assert "code" in {token.source for token in text.tokens} <= {"base", "code"}
    colm.unload()
    # A pair without that expert: of one expert there is no question, of several it has to be said.
    with colm.load(files["base"], files["math"], name, **TINY_LOAD) as pair:
        assert "assistant" in written_by(pair)
    with (
        pytest.raises(colm.HeadError, match="math and law"),
        colm.load(files["base"], experts={"math": files["math"], "law": files["code"]}, head=name, **TINY_LOAD),
    ):
        pass

"""Which models can be tuned: torch computes what llama.cpp does, or the model is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models as tm
from tuned_pairs import scored

from colm_cpp import learn, tune
from colm_cpp.errors import LoadError
from colm_cpp.tune._libraries import libraries
from colm_cpp.tune.architecture import GgufFacts
from colm_cpp.tune.base import agreement, load_base
from colm_cpp.tune.data import read_texts

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning"),
]


def compared(folder: Path, arch: str, **shape: Any) -> tune.Agreement:
    """How torch and llama.cpp compare on some texts."""
    found, pair = libraries(), scored(folder, arch, **shape)
    texts, *_ = read_texts([learn.Scores(pair.scores)], held_out=0.1, seed=0)
    return agreement(found, load_base(found, pair.base, found.torch.float32), texts, 0.01)


# As a converter writes a Gemma 3 file, but for its size: no pattern, so every sixth layer sees everything.
GEMMA: dict[str, Any] = {"n_layer": 7, "sliding_window": 8, "sliding_pattern": False}


@pytest.mark.parametrize(
    ("arch", "shape"),
    [
        ("gemma3", GEMMA),
        ("gemma3", GEMMA | {"extra_keys": {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0}}),  # from 4B on
        ("llama", {"rope_factors": [1.0, 2.0, 8.0, 32.0]}),
    ],
    ids=["gemma3", "gemma3-linear", "llama3"],
)
def test_torch_computes_what_llama_cpp_does(arch: str, shape: dict[str, Any], tmp_path: Path) -> None:
    found = compared(tmp_path, arch, **shape)
    # llama.cpp looks GELU up in a table of float16.
    assert found.logprob < (5e-3 if arch == "gemma3" else 1e-4)
    assert found.top > 0.98


def test_the_window_of_a_layer_is_read_as_llama_cpp_reads_it(tmp_path: Path) -> None:
    given = GgufFacts(tm.make_model(tmp_path / "given.gguf", arch="gemma3", n_layer=3)).corrections()
    assert given["layer_types"] == ["sliding_attention", "full_attention", "sliding_attention"]
    assert given["query_pre_attn_scalar"] == given["head_dim"] == 8
    none = GgufFacts(tm.make_model(tmp_path / "none.gguf", arch="gemma3", sliding_window=0)).corrections()
    assert none["layer_types"] == ["full_attention", "full_attention"]


@pytest.mark.parametrize(
    ("keys", "named"),
    [({"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}, "yarn"), ({"expert_count": 4}, "experts")],
)
def test_what_the_torch_model_lacks_is_refused(keys: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=named):
        GgufFacts(tm.make_model(tmp_path / "base.gguf", extra_keys=keys))


def test_rope_factors_matter(tmp_path: Path) -> None:
    """What the correction corrects: without it, torch would read far positions otherwise."""
    found = libraries()
    models = [
        load_base(found, tm.make_model(tmp_path / f"{n}.gguf", rope_factors=factors), found.torch.float32)
        for n, factors in enumerate([None, [1.0, 2.0, 8.0, 32.0]])
    ]
    plain, scaled = (model.model.rotary_emb.inv_freq.numpy() for model in models)
    assert np.allclose(plain / scaled, [1.0, 2.0, 8.0, 32.0])

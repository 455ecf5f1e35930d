"""Heads for several experts out of checkpoints and arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from checkpoints import MATRIX, N_EMBD, model, write_safetensors
from commands import fail, succeed

from colm_cpp import Head
from colm_cpp.errors import HeadError, OptionError
from colm_cpp.heads.export import export_head

NAMES = ("math", "code")


def test_rows_of_a_checkpoint(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", model())
    head = export_head(tmp_path, row=(7, 3), expert_names=NAMES)
    assert head.expert_names == NAMES
    np.testing.assert_array_equal(head.weights[0], MATRIX[[7, 3]])
    np.testing.assert_array_equal(head.biases[0], [0, 0])
    for rows in (-1, 3, (3,), (1, 2, 3)):
        with pytest.raises(OptionError, match="a row of the output matrix for each of the experts math, code"):
            export_head(tmp_path, row=rows, expert_names=NAMES)
    with pytest.raises(HeadError, match="only 11"):
        export_head(tmp_path, row=(7, 11), expert_names=NAMES)
    one = export_head(tmp_path, row=(7,), expert_names=("math",))
    np.testing.assert_array_equal(one.weights[0], MATRIX[[7]])
    assert one.expert_names == ("math",)


def test_arrays(tmp_path: Path) -> None:
    theta, bias = np.arange(8.0).reshape(2, 4), np.array([0.5, -1.0])
    np.savez(tmp_path / "head.npz", theta=theta, bias=bias)
    head = export_head(tmp_path / "head.npz", expert_names=NAMES)
    np.testing.assert_array_equal(head.weights[0], theta)
    np.testing.assert_array_equal(head.biases[0], bias)
    with pytest.raises(HeadError, match=r"\[3, n_embd\]"):
        export_head(tmp_path / "head.npz", expert_names=(*NAMES, "law"))
    with pytest.raises(HeadError, match="n_embd"):
        export_head(tmp_path / "head.npz")
    np.savez(tmp_path / "short.npz", theta=theta, bias=bias[:1])
    with pytest.raises(HeadError, match="2 numbers"):
        export_head(tmp_path / "short.npz", expert_names=NAMES)
    np.savez(tmp_path / "mlp.npz", **{"layers.0.weight": np.ones((3, 4)), "layers.1.weight": np.ones((2, 3))})
    assert export_head(tmp_path / "mlp.npz", expert_names=NAMES).weights[-1].shape == (2, 3)
    with pytest.raises(HeadError, match="the last layer has 2 outputs"):
        export_head(tmp_path / "mlp.npz")
    with pytest.raises(HeadError, match="twice"):
        export_head(tmp_path / "head.npz", expert_names=("math", "math"))


def test_the_command(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", model())
    out = tmp_path / "head.gguf"
    done = succeed("export", tmp_path, out, "--expert-names", "math, code", "--row", "7", "--row", "3")
    assert "experts math, code" in done.stdout
    head = Head.load(out)
    assert (head.expert_names, head.n_embd) == (NAMES, N_EMBD)
    assert "--row" in fail("export", tmp_path, out, "--force", "--expert-names", "math,code")

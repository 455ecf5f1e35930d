"""export_head() itself, and files of torch."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import LAST, LAYERS, MATRIX, N_EMBD, N_VOCAB, OTHER, assert_theta, model, write_json, write_safetensors

from colm_cpp.errors import HeadError, LoadError, MissingDependency
from colm_cpp.heads.export import export_head, read_theta
from colm_cpp.heads.head import Head

# --- export_head --------------------------------------------------------------------------------


def test_export_head_sets_what_it_is_told(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", model(lm_head__bias=("F32", np.arange(N_VOCAB) / 8)))
    head = export_head(
        tmp_path,
        base_name="b",
        assistant_name="a",
        default_threshold=0.25,
        vocab_fingerprint="00ff" * 4,
        row=4,
        name="n",
    )
    assert isinstance(head, Head)
    assert (head.kind, head.n_embd, head.features, head.top_k) == ("linear", N_EMBD, (), 0)
    assert (head.name, head.base_name, head.assistant_name) == ("n", "b", "a")
    assert (head.default_threshold, head.vocab_fingerprint) == (0.25, "00ff" * 4)
    np.testing.assert_array_equal(head.weights[0], MATRIX[4:5])
    hidden = np.arange(N_EMBD) / 2
    assert head.defer_logits([hidden])[0] == pytest.approx(float(MATRIX[4] @ hidden) + 0.5, rel=1e-12)
    with pytest.raises(HeadError, match="default_threshold is 2"):
        export_head(tmp_path, default_threshold=2)


def test_an_exported_head_is_loaded_back(tmp_path: Path) -> None:
    np.savez(tmp_path / "head.npz", activation="gelu", **LAYERS)
    head = export_head(tmp_path / "head.npz", name="n")
    head.save(tmp_path / "head.gguf")
    again = Head.load(tmp_path / "head.gguf")
    inputs = np.linspace(-2, 2, 12).reshape(2, 6)
    np.testing.assert_array_equal(again.defer_logits(inputs), head.defer_logits(inputs))
    assert again.name == "n"


# --- torch --------------------------------------------------------------------------------------


def test_without_torch_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "pytorch_model.bin").touch()
    for source in (tmp_path, tmp_path / "pytorch_model.bin"):
        with pytest.raises(MissingDependency, match=r"needs PyTorch.*pip install torch"):
            read_theta(source)


@pytest.mark.parametrize("package", ["safetensors", "ml_dtypes"])
def test_without_safetensors_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    write_safetensors(tmp_path / "model.safetensors", model())
    for source in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(MissingDependency, match=rf"needs {package}.*pip install .*{package}"):
            read_theta(source)
    np.save(tmp_path / "theta.npy", LAST)  # which needs neither
    assert_theta(tmp_path / "theta.npy", LAST)


def test_safetensors_are_read_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch", "gguf"):
        monkeypatch.setitem(sys.modules, name, None)
    write_safetensors(tmp_path / "model.safetensors", model(lm_head__weight=("BF16", MATRIX)))
    (tmp_path / "pytorch_model.bin").touch()  # safetensors go first
    assert_theta(tmp_path, LAST)


# Importing PyTorch takes longer than all that follows.


@pytest.mark.slow
def test_a_torch_that_loads_unsafely_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    (tmp_path / "gperp_init.bin").touch()
    with pytest.raises(MissingDependency, match=r"needs PyTorch 2\.6 or newer, not 2\.5\.1.*pip install -U torch"):
        read_theta(tmp_path / "gperp_init.bin")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_bin_checkpoint(tmp_path: Path, dtype: str, zipped: bool) -> None:
    torch = pytest.importorskip("torch")
    state = {
        "model.embed_tokens.weight": torch.from_numpy(OTHER),
        "lm_head.weight": torch.from_numpy(MATRIX).to(getattr(torch, dtype)),
        "lm_head.bias": torch.arange(N_VOCAB).to(getattr(torch, dtype)) / 8,
    }
    torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    assert_theta(tmp_path, LAST, 1.25)
    assert_theta(tmp_path, MATRIX[3], 0.375, row=3)


@pytest.mark.slow
def test_bin_checkpoint_with_tied_embeddings(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"transformer.wte.weight": torch.from_numpy(MATRIX)}, tmp_path / "pytorch_model.bin")
    assert_theta(tmp_path, LAST)


@pytest.mark.slow
def test_sharded_bin_checkpoint(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    names = {
        "model.embed_tokens.weight": "pytorch_model-00001-of-00002.bin",
        "lm_head.weight": "pytorch_model-00002-of-00002.bin",
    }
    write_json(tmp_path / "pytorch_model.bin.index.json", {"weight_map": names})
    torch.save({"model.embed_tokens.weight": torch.from_numpy(OTHER)}, tmp_path / names["model.embed_tokens.weight"])
    torch.save({"lm_head.weight": torch.from_numpy(MATRIX)}, tmp_path / names["lm_head.weight"])
    assert_theta(tmp_path, LAST)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(N_EMBD,), (1, N_EMBD)])
@pytest.mark.parametrize("wrapped", [False, True])
def test_gperp_init(tmp_path: Path, shape: tuple[int, ...], wrapped: bool) -> None:
    torch = pytest.importorskip("torch")
    # As the published code leaves it: a parameter that still asks for its gradient.
    gperp = torch.from_numpy(LAST.reshape(shape).copy()).to(torch.bfloat16).requires_grad_()
    torch.save({"gperp": gperp} if wrapped else gperp, tmp_path / "gperp_init.bin")
    assert_theta(tmp_path / "gperp_init.bin", LAST)


@pytest.mark.slow
def test_state_dicts_of_torch_modules(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    linear = torch.nn.Linear(N_EMBD, 1)
    torch.save(linear.state_dict(), tmp_path / "linear.pt")
    assert_theta(tmp_path / "linear.pt", linear.weight.detach().numpy()[0], linear.bias.item())
    torch.save({"theta": torch.ones(3), "bias": 0.5}, tmp_path / "number.pt")
    assert_theta(tmp_path / "number.pt", np.ones(3), 0.5)
    torch.save({k: torch.from_numpy(v) for k, v in LAYERS.items()} | {"activation": "gelu"}, tmp_path / "mlp.pth")
    head = export_head(tmp_path / "mlp.pth")
    assert (head.kind, head.activation, len(head.weights)) == ("mlp", "gelu", 2)
    np.testing.assert_array_equal(head.weights[0], LAYERS["layers.0.weight"])


class Trap:
    """Runs code when it is unpickled, and so tells whether it was."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["zip", "before torch 1.6", "pickle"])
def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, how: str) -> None:
    torch = pytest.importorskip("torch")
    path, sprung = tmp_path / "gperp_init.bin", tmp_path / "sprung"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Trap(sprung), protocol=2))
    else:
        torch.save({"theta": Trap(sprung)}, path, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(HeadError, match=r"holds more than tensors .* loading that could run code") as caught:
        read_theta(path)
    assert "weights_only=False" not in str(caught.value)
    assert not sprung.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "the content of .* is list; it must be a dense floating-point tensor"),
        ({"theta": None}, "theta of .* is NoneType"),
        ({"theta": "text"}, "theta of .* is str"),
        ({"step": 3, "theta": [0.0]}, "holds 'step' beside theta"),
        ({}, "holds no tensor"),
    ],
)
def test_bin_with_other_content_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    torch = pytest.importorskip("torch")
    torch.save(content, tmp_path / "head.bin")
    with pytest.raises(HeadError, match=message):
        read_theta(tmp_path / "head.bin")


@pytest.mark.slow
def test_integer_tensors_are_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save(torch.ones(4, dtype=torch.int8), tmp_path / "head.bin")
    with pytest.raises(HeadError, match=r"is torch\.int8; it must be a dense floating-point tensor"):
        read_theta(tmp_path / "head.bin")
    torch.save(torch.ones(4).to_sparse(), tmp_path / "head.bin")
    with pytest.raises(HeadError, match="it must be a dense floating-point tensor"):
        read_theta(tmp_path / "head.bin")


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["garbage", "empty", "cut off", "cut off before torch 1.6"])
def test_a_damaged_bin_is_a_load_error(tmp_path: Path, damage: str) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "gperp_init.bin"
    torch.save(torch.from_numpy(LAST), path, _use_new_zipfile_serialization="before" not in damage)
    good = path.read_bytes()
    path.write_bytes({"garbage": b"hello there", "empty": b""}.get(damage, good[:-6]))
    with pytest.raises(LoadError, match=r"cannot be read by torch: .*; it is damaged"):
        read_theta(path)

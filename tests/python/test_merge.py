"""An adapter merged into its base: the same logits, the same keys, one file, whole or not there."""

from __future__ import annotations

import ctypes
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest
import tiny_models as tm
from commands import run, succeed

import colm_cpp as colm
from colm_cpp import learn, tune
from colm_cpp.errors import LoadError, NotEnoughMemory, OptionError
from colm_cpp.files.paths import digest_of
from colm_cpp.machine.limits import FreeMemory
from colm_cpp.sources.identity import model_identity
from colm_cpp.tune import merging, quantizing

EXACT: Any = {"type_k": "f32", "type_v": "f32"}
RANK = 4


def write_lora(path: Path, base: Path, *, arch: str = "llama", **other: Any) -> Path:
    """A random adapter of all of a base's linear layers, in float32: llama.cpp then computes with nothing less."""
    generator = np.random.default_rng(5)
    writer = gguf.GGUFWriter(path, arch)
    writer.add_string("general.type", other.get("general_type", "adapter"))
    writer.add_string("adapter.type", "lora")
    if other.get("alpha", 8.0) is not None:
        writer.add_float32("adapter.lora.alpha", other.get("alpha", 8.0))
    if other.get("digest"):
        writer.add_string("colm.adapter.base_digest", other["digest"])
    if other.get("invocation"):
        writer.add_array("adapter.alora.invocation_tokens", [1, 2])
    for tensor in gguf.GGUFReader(base).tensors:
        if (tensor.name.startswith("blk") and len(tensor.shape) == 2) or tensor.name == other.get("also"):
            n_in, n_out = (int(n) for n in tensor.shape)
            for side, shape in (("a", (RANK, n_in)), ("b", (n_out, RANK))):
                values = generator.normal(size=shape).astype(np.float32) / 8
                if other.get("infinite"):
                    values[0, 0] = np.inf
                writer.add_tensor(f"{tensor.name}.lora_{side}", values)
    tm.finish(writer)
    return path


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("merge")
    base = tm.make_model(folder / "base.gguf", arch="qwen2", seed=1, chat_template=tm.CHATML)
    texts = folder / "texts.txt"
    texts.write_text("The quick brown fox jumps over the lazy dog, and then the other dog runs after the fox.\n" * 2)
    return SimpleNamespace(base=base, adapter=write_lora(folder / "adapter.gguf", base, arch="qwen2"), texts=texts)


@pytest.fixture(scope="module")
def eighths(pair: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> tune.Merged:
    """Base and adapter in Q8_0."""
    return tune.merge(pair.base, pair.adapter, tmp_path_factory.mktemp("eighths") / "q8_0.gguf", "q8_0")


def logprobs(base: Path, out: Path, texts: Path, lora: Path | None = None) -> Any:
    """log P of each token, and the hidden states, by llama.cpp."""
    chosen: Any = {} if lora is None else {"base_options": {"lora": [(str(lora), 1.0)]}}
    with learn.Scorer(base, base, **EXACT, **chosen) as scorer:
        learn.score(scorer, learn.select([texts]), out)
    scores = learn.Scores(out)
    return np.array(scores["base_logprob"])


def keys(path: Path) -> dict[str, Any]:
    """Every key of a file with its types and its value."""
    fields = gguf.GGUFReader(path).fields
    return {name: (f.types, f.contents()) for name, f in fields.items() if not name.startswith("GGUF.")}


def test_the_merged_base_computes_what_base_and_adapter_do(
    pair: SimpleNamespace, eighths: tune.Merged, tmp_path: Path
) -> None:
    plain = logprobs(pair.base, tmp_path / "plain", pair.texts)
    both = logprobs(pair.base, tmp_path / "both", pair.texts, pair.adapter)
    assert np.abs(plain - both).mean() > 0.1  # the adapter does something
    floats = tune.merge(pair.base, pair.adapter, tmp_path / "f32.gguf", "f32")
    for type, merged, limit in (("f32", floats, 1e-3), ("q8_0", eighths, 0.1)):
        alone = logprobs(merged.path, tmp_path / type, pair.texts)
        assert np.abs(alone - both).max() < (limit if type == "f32" else 1.0)
        assert np.abs(alone - both).mean() < limit
        assert merged.n_changed == 14
        assert merged.bytes == merged.path.stat().st_size


def test_every_key_and_the_tokenizer_stay(pair: SimpleNamespace, tmp_path: Path) -> None:
    merged = tune.merge(pair.base, pair.adapter, tmp_path / "merged.gguf", "q4_k_m")
    before, after = keys(pair.base), keys(merged.path)
    facts = {name: value for name, (_, value) in after.items() if name not in before}
    assert facts == {
        "colm.merged.base_file": "base.gguf",
        "colm.merged.base_digest": model_identity(pair.base)["digest"],
        "colm.merged.adapters": json.dumps([[digest_of(pair.adapter), 1.0]]),
        "general.quantization_version": 2,
    }
    assert after["general.file_type"][1] == gguf.LlamaFileType.MOSTLY_Q4_K_M
    assert {name: after[name] for name in before if name != "general.file_type"} == {
        name: value for name, value in before.items() if name != "general.file_type"
    }
    # 32 columns are no multiple of 256.
    assert merged.n_fallback > 0
    assert {t.tensor_type.name for t in gguf.GGUFReader(merged.path).tensors} == {"F32", "Q5_0", "Q8_0"}


@pytest.mark.slow
def test_tensors_that_the_adapter_leaves_alone_keep_their_bytes(pair: SimpleNamespace, tmp_path: Path) -> None:
    quantised = tune.merge(pair.base, pair.adapter, tmp_path / "q8_0.gguf", "q8_0").path
    again = tune.merge(quantised, pair.adapter, tmp_path / "again.gguf", "q8_0").path  # an adapter of a merged base
    for name in ("token_embd.weight", "output.weight", "output_norm.weight"):
        data = [next(t.data for t in gguf.GGUFReader(f).tensors if t.name == name) for f in (quantised, again)]
        assert np.array_equal(*data)
    assert keys(again)["colm.merged.base_file"][1] == "base.gguf"
    assert json.loads(keys(again)["colm.merged.adapters"][1]) == [[digest_of(pair.adapter), 1.0]] * 2


def test_a_head_of_base_and_adapter_fits_the_merged_file(
    pair: SimpleNamespace, eighths: tune.Merged, tmp_path: Path
) -> None:
    merged = eighths.path
    weights = np.zeros((1, 32), np.float32)
    of_adapter, of_another = (
        colm.Head((weights,), (np.zeros(1, np.float32),), 32, "linear", base_adapters=((digest, 1.0),))
        for digest in (digest_of(pair.adapter), "0" * 64)
    )
    for number, head in enumerate((of_adapter, of_another)):
        head.save(tmp_path / f"{number}.gguf")
    with colm.load(merged, pair.base, tmp_path / "0.gguf", n_ctx=64) as loaded:
        assert loaded.generate("The", max_tokens=2).stats.generated_tokens == 2
    with pytest.raises(colm.HeadMismatch):
        colm.load(merged, pair.base, tmp_path / "1.gguf", n_ctx=64)


@pytest.mark.slow
def test_alpha_scales_as_llama_cpp_scales(pair: SimpleNamespace, tmp_path: Path) -> None:
    """Without alpha the scale is 1."""
    for number, alpha in enumerate((None, 2.0)):
        adapter = write_lora(tmp_path / f"{number}.gguf", pair.base, arch="qwen2", alpha=alpha)
        both = logprobs(pair.base, tmp_path / f"both{number}", pair.texts, adapter)
        merged = tune.merge(pair.base, adapter, tmp_path / f"merged{number}.gguf", "f32").path
        assert np.abs(logprobs(merged, tmp_path / f"alone{number}", pair.texts) - both).max() < 1e-3


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"general_type": "model"}, "no LoRA adapter"),
        ({"arch": "llama"}, "architecture"),
        ({"invocation": True}, "aLoRA"),
        ({"also": "token_embd.weight"}, "token_embd"),
        ({"infinite": True}, "finite"),
        ({"digest": "0123456789abcdef"}, "another file"),
    ],
)
def test_what_cannot_be_merged_is_refused(
    other: dict[str, Any], named: str, pair: SimpleNamespace, tmp_path: Path
) -> None:
    adapter = write_lora(tmp_path / "other.gguf", pair.base, **{"arch": "qwen2", **other})
    with pytest.raises(LoadError, match=named):
        tune.merge(pair.base, adapter, tmp_path / "merged.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["other.gguf"]


def test_an_adapter_of_a_wider_base_is_refused(pair: SimpleNamespace, tmp_path: Path) -> None:
    wide = tm.make_model(tmp_path / "wide.gguf", arch="qwen2", n_embd=64)
    with pytest.raises(LoadError, match="shape"):
        tune.merge(wide, pair.adapter, tmp_path / "merged.gguf")


def test_damaged_files_are_refused(pair: SimpleNamespace, tmp_path: Path) -> None:
    for number, whole in enumerate((pair.base, pair.adapter)):
        cut = tmp_path / f"{number}.gguf"
        cut.write_bytes(whole.read_bytes()[:-1000])
        files = (cut, pair.adapter) if number == 0 else (pair.base, cut)
        with pytest.raises(LoadError):
            tune.merge(*files, tmp_path / "merged.gguf")


def test_too_little_room_is_reported_before_the_work(
    pair: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(merging.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
        with pytest.raises(OptionError, match="disk"):
            tune.merge(pair.base, pair.adapter, tmp_path / "merged.gguf")
    monkeypatch.setattr(merging, "free_memory", lambda: FreeMemory(1000))
    with pytest.raises(NotEnoughMemory) as caught:
        tune.merge(pair.base, pair.adapter, tmp_path / "merged.gguf")
    assert caught.value.available == 1000 < caught.value.needed
    assert not list(tmp_path.iterdir())


def test_a_file_that_exists_stays_unless_told(pair: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "merged.gguf").write_bytes(b"mine")
    with pytest.raises(OptionError, match="exists"):
        tune.merge(pair.base, pair.adapter, tmp_path / "merged.gguf")
    with pytest.raises(OptionError, match="read by this command"):
        tune.merge(pair.base, pair.adapter, pair.base, force=True)
    with pytest.raises(OptionError, match="q9"):
        tune.merge(pair.base, pair.adapter, tmp_path / "new.gguf", "q9")
    assert (tmp_path / "merged.gguf").read_bytes() == b"mine"


# While the float file is written; while llama.cpp quantises.
@pytest.mark.parametrize("share", [0.1, pytest.param(0.6, marks=pytest.mark.slow)])
def test_ctrl_c_leaves_what_was_there(share: float, pair: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "merged.gguf").write_bytes(b"mine")

    def stop(done: float) -> None:
        if done >= share:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune.merge(pair.base, pair.adapter, tmp_path / "merged.gguf", force=True, on_progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["merged.gguf"]
    assert (tmp_path / "merged.gguf").read_bytes() == b"mine"


def test_llama_cpp_that_fails_is_an_error(pair: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "none.gguf").write_bytes(b"GGUF")
    with pytest.raises(LoadError, match="exit code"):
        quantizing.quantize(tmp_path / "none.gguf", tmp_path / "out.gguf", 7)


def test_llama_cpp_knows_each_type(pair: SimpleNamespace) -> None:
    llama_cpp: Any = pytest.importorskip("llama_cpp")
    for name in tune.FILE_TYPES:
        known = f"LLAMA_FTYPE_{'ALL' if name == 'f32' else 'MOSTLY'}_{name.upper()}"
        assert quantizing.file_type(name) == getattr(llama_cpp, known)
    fields = dict(llama_cpp.llama_model_quantize_params._fields_)
    assert fields["max_buf_size"] is ctypes.c_size_t


def test_the_command_writes_beside_the_adapter(pair: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "adapter.gguf").write_bytes(pair.adapter.read_bytes())
    done = succeed(*f"merge {tmp_path} --base {pair.base} --type q8_0 --json -q".split())
    report = json.loads(done.stdout)
    assert report["path"] == str(tmp_path / "merged-q8_0.gguf")
    assert report["bytes"] == (tmp_path / "merged-q8_0.gguf").stat().st_size
    again = run(*f"merge {tmp_path} --base {pair.base} --type q8_0".split())
    assert again.exit_code == 1
    assert "--force" in again.output
    forced = run(*f"merge {tmp_path} --base {pair.base} --type q8_0 --force".split())
    assert "14 changed by the adapter" in forced.output


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_real_ctrl_c_ends_the_quantiser_too(tmp_path: Path) -> None:
    """A base of 130 MB, so that llama.cpp is still at work when its file is there."""
    base = tm.make_model(tmp_path / "base.gguf", n_embd=1024, n_layer=3, n_head=16, n_head_kv=16)
    adapter = write_lora(tmp_path / "adapter.gguf", base)
    command = [sys.executable, "-m", "colm_cpp.cli", "merge", str(adapter), "--base", str(base), "--type", "q4_k_m"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list(tmp_path.glob(".colm-*.tmp"))) < 2:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter.gguf", "base.gguf"]

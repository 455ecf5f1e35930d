"""What a head file and a checkpoint may make their reader take: no more memory than a head has weights."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

from colm_cpp.errors import HeadError, LoadError, OptionError
from colm_cpp.heads.checks import layer_chain
from colm_cpp.heads.export import export_head, read_theta
from colm_cpp.heads.head import Head

gguf = pytest.importorskip("gguf")

HUGE = 10**5000  # Python does not write out so many digits
LONG = "x" * 1_000_000

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="measures by /proc")


def sparse_head(path: Path, shapes: dict[str, tuple[int, ...]], **keys: Any) -> Path:
    """A head file whose tensors are holes: all zeros, of any size, and no block on the disk."""
    writer = gguf.GGUFWriter(path, "colm-head")
    numbers = {"version": 1, "n_embd": 1, "n_layers": 1, **keys}
    for key, value in numbers.items():
        if isinstance(value, int):
            writer.add_uint32(f"colm-head.{key}", value)
        elif isinstance(value, list):
            writer.add_array(f"colm-head.{key}", value)
        else:
            writer.add_string(f"colm-head.{key}", value)
    if "kind" not in keys:
        writer.add_string("colm-head.kind", "linear")
    size = 0
    for name, shape in shapes.items():
        n_bytes = int(np.prod(shape, dtype=object)) * 4
        writer.add_tensor_info(name, shape, np.dtype("float32"), n_bytes)
        size += -(-n_bytes // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        end = file.seek(0, 2)
        file.truncate(-(-end // 32) * 32 + size)
    return path


PROGRAM = """
import json, re, sys
from pathlib import Path
from colm_cpp.errors import ColmError
from colm_cpp.heads.export import export_head
from colm_cpp.heads.head import Head
import colm_cpp._core
def peak():  # not ru_maxrss, which begins at that of the process that started this one
    return int(re.search("VmHWM:\\s+([0-9]+)", Path("/proc/self/status").read_text())[1])
for line in sys.stdin:
    code, paths = json.loads(line)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew at what is in use
    before = peak()
    said = []
    for path in paths:
        try:
            exec(code)
            said.append("OK")
        except ColmError as error:
            said.append(type(error).__name__ + ": " + str(error))
    print(json.dumps([said, (peak() - before) / 1024]), flush=True)
"""
Measured: TypeAlias = Callable[..., tuple[list[str], float]]


@pytest.fixture(scope="module")
def measured() -> Iterator[Measured]:
    """How code ends in another process for each path, and by how many MiB its peak memory grew meanwhile."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        asking, answers = process.stdin, process.stdout
        assert asking is not None
        assert answers is not None

        def measure(code: str, *paths: Path) -> tuple[list[str], float]:
            print(json.dumps([code, [str(path) for path in paths]]), file=asking, flush=True)
            answer = answers.readline()
            assert answer, f"the process ended: {process.wait()}"
            said, grown = json.loads(answer)
            return said, grown

        yield measure
        asking.close()


@linux_only
def test_what_is_taken_is_seen(measured: Measured) -> None:
    """Each time anew, though the memory was given back."""
    for _ in range(2):
        _, grown = measured("bytearray(64 * 2**20)", Path())
        assert 60 < grown < 90
    assert measured("pass", Path())[1] < 8


GIB = 2**28  # float32 values
SPARSE: dict[str, tuple[dict[str, tuple[int, ...]], dict[str, Any], str]] = {
    "64 GiB of weights": ({"layers.0.weight": (1, 64 * GIB), "layers.0.bias": (1,)}, {}, "17179869184"),
    "64 GiB of rows": ({"layers.0.weight": (64 * GIB, 1), "layers.0.bias": (1,)}, {}, "17179869184"),
    "64 GiB of bias": ({"layers.0.weight": (1, 1), "layers.0.bias": (64 * GIB,)}, {}, "17179869184"),
    "a hidden layer of 64 GiB": (
        {"layers.0.weight": (64 * GIB, 1), "layers.0.bias": (64 * GIB,), "layers.1.weight": (1, 64 * GIB)},
        {"kind": "mlp", "n_layers": 2},
        "17179869184",
    ),
    "n_embd as wide as the tensor": (
        {"layers.0.weight": (1, 2**32 - 1), "layers.0.bias": (1,)},
        {"n_embd": 2**32 - 1},
        "4294967295",
    ),
    "many rates": ({"layers.0.weight": (1, 1)}, {"rates": [0.5] * 5000}, "5000"),
    "a tensor of four dimensions": ({"layers.0.weight": (2, 1, 1, 1), "layers.0.bias": (1,)}, {}, "2 x 1 x 1 x 1"),
}


@linux_only
def test_what_a_head_file_merely_declares_takes_no_memory(measured: Measured, tmp_path: Path) -> None:
    paths = [sparse_head(tmp_path / f"{i}.gguf", shapes, **keys) for i, (shapes, keys, _) in enumerate(SPARSE.values())]
    said, grown = measured("Head.load(path)", *paths)
    for one, (_, _, fact) in zip(said, SPARSE.values(), strict=True):
        assert one.startswith("HeadError: ")
        assert fact in one
    assert grown < 32


@linux_only
def test_an_unused_tensor_costs_nothing(measured: Measured, tmp_path: Path) -> None:
    path = sparse_head(tmp_path / "head.gguf", {"unused": (3 * GIB,), "layers.0.weight": (1, 1), "layers.0.bias": (1,)})
    said, grown = measured("assert Head.load(path).n_embd == 1", path)
    assert said == ["OK"]
    assert grown < 32
    assert Head.load(path).weights[0].tolist() == [[0.0]]


def test_a_file_that_ends_before_its_tensors_is_cut_short(tmp_path: Path) -> None:
    path = sparse_head(tmp_path / "head.gguf", {"layers.0.weight": (1, 1), "unused": (3 * GIB,)})
    with path.open("r+b") as file:
        file.truncate(4096)
    with pytest.raises(LoadError, match=r"head\.gguf.*4096.*unused"):
        Head.load(path)


@linux_only
def test_a_header_longer_than_any_heads_is_not_read(measured: Measured, tmp_path: Path) -> None:
    path = tmp_path / "head.gguf"
    with path.open("wb") as file:
        file.write(b"GGUF" + (3).to_bytes(4, "little") + (0).to_bytes(8, "little") + (1).to_bytes(8, "little"))
        file.write((4).to_bytes(8, "little") + b"text" + (8).to_bytes(4, "little") + (2**30 - 1).to_bytes(8, "little"))
        file.truncate(2**31)
    (said,), grown = measured("Head.load(path)", path)
    assert said.startswith("LoadError: ")
    assert "head.gguf" in said
    assert grown < 32


def test_a_long_text_in_a_file_is_not_repeated(tmp_path: Path) -> None:
    for key in ("kind", "activation"):
        path = sparse_head(tmp_path / f"{key}.gguf", {"layers.0.weight": (1, 1)}, **{key: LONG, "n_embd": 1})
        with pytest.raises(HeadError, match=key) as caught:
            Head.load(path)
        assert len(str(caught.value)) < 1000
    path = sparse_head(tmp_path / "features.gguf", {"layers.0.weight": (1, 1)}, features=["entropy"] * 100_000)
    with pytest.raises(HeadError, match="entropy"):
        Head.load(path)


def test_the_widest_head_is_saved_and_read(tmp_path: Path) -> None:
    head = Head.linear(np.ones(2**20, np.float32), rates=np.linspace(0, 1, 4096), thresholds=np.ones(4096))
    head.save(tmp_path / "head.gguf")
    loaded = Head.load(tmp_path / "head.gguf")
    assert (loaded.n_embd, len(loaded.rates)) == (2**20, 4096)


ONE = np.ones(1, np.float32)
TOO_MUCH: list[tuple[Callable[[], object], str]] = [
    (lambda: Head.linear(np.ones(2**20 + 1)), "1048577"),
    (lambda: Head.mlp([np.ones((1, 1))] * 65, [np.zeros(1)] * 65), "65"),
    (
        lambda: layer_chain("mlp", (np.broadcast_to(ONE, (129, 2**20)),), (np.zeros(129, np.float32),), 1, 0),
        "135266304",
    ),
    (lambda: Head.linear([1.0], rates=np.linspace(0, 1, 4097), thresholds=np.ones(4097)), "4096"),
    (lambda: Head.linear([1.0], name="x" * (2**20 + 1)), "1048577"),
]


@pytest.mark.parametrize(("make", "fact"), TOO_MUCH, ids=range(len(TOO_MUCH)))
def test_what_could_not_be_read_again_is_not_made(make: Callable[[], object], fact: str) -> None:
    with pytest.raises(HeadError, match=fact):
        make()


HEAD = Head.linear([1.0, 2.0], rates=(0.1,), thresholds=(0.5,))
HOSTILE: dict[str, Callable[[Any], object]] = {
    "n_embd": lambda value: HEAD.replace(n_embd=value),
    "top_k": lambda value: HEAD.replace(top_k=value),
    "default_threshold": lambda value: HEAD.replace(default_threshold=value),
    "rates": lambda value: HEAD.replace(rates=(value,)),
    "kind": lambda value: HEAD.replace(kind=value),
    "features": lambda value: HEAD.replace(features=(value,)),
    "vocab_fingerprint": lambda value: HEAD.replace(vocab_fingerprint=value),
    "name": lambda value: HEAD.replace(name=value),
}


@pytest.mark.parametrize("value", [HUGE, -HUGE, [LONG] * 1000, {1: HUGE}, b"x" * 2_000_000], ids=range(5))
@pytest.mark.parametrize("field", HOSTILE)
def test_no_value_is_too_large_for_a_message(field: str, value: object) -> None:
    with pytest.raises(HeadError, match=field) as caught:
        HOSTILE[field](value)
    assert len(str(caught.value)) < 1000


def test_numbers_without_digits_are_no_rate_and_no_row(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="5000 digits"):
        HEAD.threshold_for_rate(HUGE)
    np.save(tmp_path / "theta.npy", np.ones(3))
    with pytest.raises(OptionError, match="5000 digits"):
        read_theta(tmp_path / "theta.npy", row=HUGE)


@pytest.mark.parametrize("path", ["\0", "a\0b.gguf", "\ud800.gguf", "x" * 5000, LONG], ids=range(5))
def test_no_file_has_such_a_name(path: str) -> None:
    for attempt in (lambda: HEAD.save(path), lambda: Head.load(path)):
        with pytest.raises(LoadError) as caught:
            attempt()
        assert len(str(caught.value)) < 1000


# --- arrays to export from ------------------------------------------------------------------------------------


def npz_of_zeros(path: Path, arrays: dict[str, tuple[int, ...]]) -> Path:
    """An archive of float32 zeros, a thousandth of their size, written without ever holding them."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, shape in arrays.items():
            header = io.BytesIO()
            np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
            left = 4 * int(np.prod(shape, dtype=np.int64))
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                stream.write(header.getvalue())
                while left:
                    left -= stream.write(bytes(min(left, 2**24)))
    return path


SMALL_ARCHIVES: list[tuple[dict[str, tuple[int, ...]], str]] = [
    ({"theta": (2**24,)}, "16777216"),
    ({"theta": (2,), "extra": (2**24,)}, "extra"),
    ({"theta": (2,), "bias": (2**24,)}, "16777216"),
    ({"activation": (2**24,), "theta": (2,)}, "activation"),
]


def assert_not_unpacked(measured: Measured, cases: list[tuple[dict[str, tuple[int, ...]], str]], folder: Path) -> None:
    paths = [npz_of_zeros(folder / f"{i}.npz", arrays) for i, (arrays, _) in enumerate(cases)]
    assert all(path.stat().st_size < 2**22 for path in paths)
    said, grown = measured("export_head(path)", *paths)
    for one, (_, fact) in zip(said, cases, strict=True):
        assert one.startswith("HeadError: ")
        assert fact in one
    assert grown < 32


@linux_only
def test_a_small_archive_of_large_arrays_is_not_unpacked(measured: Measured, tmp_path: Path) -> None:
    assert_not_unpacked(measured, SMALL_ARCHIVES, tmp_path)


@linux_only
@pytest.mark.slow
def test_nor_are_layers_that_are_too_large_together(measured: Measured, tmp_path: Path) -> None:
    arrays: dict[str, tuple[int, ...]] = {"layers.0.weight": (2**14, 2**13), "layers.1.weight": (1, 2**14)}
    assert_not_unpacked(measured, [(arrays, "134234112")], tmp_path)


@linux_only
def test_a_sparse_npy_is_not_read(measured: Measured, tmp_path: Path) -> None:
    path = tmp_path / "theta.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (2**33,)})
        file.truncate(2**36 + file.tell())
    (said,), grown = measured("export_head(path)", path)
    assert said.startswith("HeadError: ")
    assert str(2**33) in said
    assert grown < 32


def sparse_safetensors(path: Path, name: str, shape: tuple[int, ...], last: bytes = b"\0") -> Path:
    """A file of float32 zeros that takes no room, but for its last bytes."""
    n_bytes = 4 * math.prod(shape)
    header = json.dumps({name: {"dtype": "F32", "shape": shape, "data_offsets": [0, n_bytes]}}).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.seek(n_bytes - len(last), io.SEEK_CUR)
        file.write(last)
    return path


@linux_only
def test_of_a_matrix_of_64_gib_one_row_is_read(measured: Measured, tmp_path: Path) -> None:
    row = np.arange(1024, dtype="<f4")
    sparse_safetensors(tmp_path / "model.safetensors", "lm_head.weight", (2**24, 1024), row.tobytes())
    code = "assert export_head(path).weights[0][0].tolist() == list(range(1024))"
    said, grown = measured(code, tmp_path)
    assert said == ["OK"]
    assert grown < 32


@linux_only
def test_sparse_safetensors_files_are_not_read(measured: Measured, tmp_path: Path) -> None:
    with (tmp_path / "header.safetensors").open("wb") as file:
        file.write((2**35).to_bytes(8, "little"))
        file.truncate(2**36)
    cases = [
        tmp_path / "header.safetensors",
        sparse_safetensors(tmp_path / "vector.safetensors", "theta", (2**34,)),
        sparse_safetensors(tmp_path / "layer.safetensors", "layers.0.weight", (2**33, 2)),
    ]
    (header, *others), grown = measured("export_head(path)", *cases)
    assert header.startswith("LoadError: ")
    assert "header.safetensors is damaged or cut off: " in header
    assert len(others) == 2
    for said in others:
        assert said.startswith("HeadError: ")
        assert str(2**34) in said
    assert grown < 32


@linux_only
def test_a_sparse_tokenizer_file_is_not_read(measured: Measured, tmp_path: Path) -> None:
    header = json.dumps({"lm_head.weight": {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate(2**36)
    (said,), grown = measured("export_head(path)", tmp_path)
    assert said.startswith("LoadError: ")
    assert "tokenizer.json" in said
    assert grown < 32


def test_what_an_archive_says_of_itself_must_hold(tmp_path: Path) -> None:
    path = tmp_path / "theta.npz"
    np.savez(path, theta=np.arange(3.0))
    with zipfile.ZipFile(path, "a") as archive:
        short = io.BytesIO()
        np.lib.format.write_array_header_1_0(short, {"descr": "<f4", "fortran_order": False, "shape": (10**9,)})
        archive.writestr("bias.npy", short.getvalue())
    with pytest.raises(LoadError, match="'bias'"):
        export_head(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("theta.npy", b"")
    with pytest.raises(LoadError, match="'theta'"):
        export_head(path)


@pytest.mark.parametrize("given", ["9" * 5000, -1, 2**31, True, "x" * 1_000_000], ids=range(5))
def test_ids_that_no_token_can_have(given: object, tmp_path: Path) -> None:
    header = json.dumps({"lm_head.weight": {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|defer|>": given}))
    with pytest.raises(HeadError, match=r"added_tokens\.json") as caught:
        export_head(tmp_path)
    assert len(str(caught.value)) < 1000


def test_a_safetensors_header_with_numbers_of_thousands_of_digits(tmp_path: Path) -> None:
    for shape, offsets in (([int("9" * 4000)] * 2, [0, 4]), ([1], [0, int("9" * 4000)])):
        header = json.dumps({"theta": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}).encode()
        (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
        with pytest.raises(LoadError, match=r"a\.safetensors is damaged or cut off: .* out of range") as caught:
            export_head(tmp_path / "a.safetensors")
        assert len(str(caught.value)) < 1000

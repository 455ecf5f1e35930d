"""Outputs that are descriptors, such as /dev/stdout and /dev/fd/3: nothing that is read is written through them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from colm_cpp.errors import OptionError
from colm_cpp.files.output_file import OutputFile, check_output, descriptor_of

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs /dev/fd of Linux")

MODEL = b"stands for a model"
ROW = b'{"prompt": "x"}\n'


def slow(*case: str) -> Any:
    """A case whose like is tried by default."""
    return pytest.param(*case, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("arguments", "redirected", "fact"),
    [
        ("hi --base a.gguf --trace /dev/stdin", "< a.gguf", "a.gguf"),
        slow("hi --base a.gguf --trace /dev/fd/3", "3< a.gguf", "a.gguf"),
        slow("hi --base a.gguf --trace /dev/fd/3", "3>> a.gguf", "a.gguf"),
        slow("hi --base a.gguf --trace /dev/./fd/3", "3>> a.gguf", "a.gguf"),
        slow("hi --base a.gguf --trace /dev/fd/../cwd/a.gguf --force", "", "a.gguf"),
        slow("hi --base a.gguf --trace -", ">> a.gguf", "a.gguf"),
        slow("hi --base a.gguf", ">> a.gguf", "a.gguf"),
        ("hi --base none.gguf --trace /dev/fd/3", "3< a.gguf", "descriptor 3 is open for reading only"),
        slow("hi --base none.gguf --trace /dev/fd/77", "", "descriptor 77 is not open"),
        slow("--batch p.jsonl --base none.gguf --out /dev/fd/3", "3<> p.jsonl", "p.jsonl"),
        slow("--batch p.jsonl --base none.gguf --out /proc/self/fd/3", "3>> p.jsonl", "p.jsonl"),
        slow("--batch p.jsonl --base none.gguf --out /dev/stdout", ">> p.jsonl", "p.jsonl"),
        slow("--batch p.jsonl --base none.gguf --out /dev/fd/1", ">> p.jsonl", "p.jsonl"),
        slow("--batch p.jsonl --base none.gguf", ">> p.jsonl", "p.jsonl"),
    ],
)
def test_inputs_survive(arguments: str, redirected: str, fact: str, tmp_path: Path) -> None:
    model, prompts = tmp_path / "a.gguf", tmp_path / "p.jsonl"
    model.write_bytes(MODEL)
    prompts.write_bytes(ROW)
    shell = f'"$0" -m colm_cpp.cli generate --assistant none.gguf --head random {arguments} {redirected}'
    result = subprocess.run(
        ["bash", "-c", shell, sys.executable], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 1
    assert fact in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert "No such file" not in result.stderr  # refused before the models are looked for
    assert (model.read_bytes(), prompts.read_bytes()) == (MODEL, ROW)


def test_a_descriptor_is_written_where_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"before ")
    with path.open("r+b", buffering=0) as owner:
        owner.seek(7)
        name = f"/dev/fd/{owner.fileno()}"
        check_output(name, force=False, inputs=[tmp_path / "other"])
        with OutputFile(name) as file:
            file.write(b"written ")
        owner.write(b"after")
    assert path.read_bytes() == b"before written after"


def test_what_is_read_and_written_on_one_terminal(tmp_path: Path) -> None:
    master, slave = os.openpty()
    name = f"/dev/fd/{slave}"
    check_output(name, force=False, inputs=[name])
    check_output("/dev/null", force=False, inputs=["/dev/null"])
    with path_of(tmp_path).open("rb") as reader, pytest.raises(OptionError, match="reading only"):
        OutputFile(f"/proc/self/fd/{reader.fileno()}")
    os.close(master)
    os.close(slave)


def path_of(folder: Path) -> Path:
    (folder / "file").write_bytes(b"")
    return folder / "file"


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("/dev/stdin", 0),
        ("/dev//stdout", 1),
        ("/dev/fd/../fd/2", 2),
        pytest.param(f"/proc/{os.getpid()}/fd/5", 5, id="of this process"),
        ("/dev/fd/../cwd/1", None),
        ("/dev/fd/x", None),
        ("/dev/null", None),
        ("stdout", None),
    ],
)
def test_names_of_descriptors(name: str, number: int | None) -> None:
    assert descriptor_of(name) == number

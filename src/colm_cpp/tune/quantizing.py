"""GGUF files in another type, by llama.cpp's own quantiser."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .._shown import shortened, shown
from ..errors import LoadError, OptionError
from ..machine.cores import usable_cores
from ..options.tuning import FILE_TYPES

__all__ = ["bytes_per_weight", "file_type", "quantize"]

_TENSOR = re.compile(r"\[ *(\d+)/ *(\d+)\]")
_FALLBACK = re.compile(r"WARNING: (\d+) of \d+ tensor\(s\) required fallback")
_KEPT = 8  # last lines of the log, for an error


def file_type(name: str) -> int:
    """llama.cpp's number of a file type.

    Raises:
        OptionError: the name is none of :data:`colm_cpp.tune.FILE_TYPES`.
    """
    if name not in FILE_TYPES:
        raise OptionError(f"type is {shown(name)}; it must be one of {', '.join(FILE_TYPES)}")
    gguf: Any = importlib.import_module("gguf")
    return int(gguf.LlamaFileType[f"ALL_{name.upper()}" if name == "f32" else f"MOSTLY_{name.upper()}"])


def bytes_per_weight(name: str) -> float:
    """The most that a weight takes in a file of this type: single tensors get better types than the file's."""
    return {"f32": 4.0, "f16": 2.0, "bf16": 2.0}.get(name, 34 / 32)


def quantize(
    source: Path, target: Path, number: int, on_progress: Callable[[float], None] | None = None
) -> tuple[int, int]:
    """Writes ``source`` to ``target`` in another type. Ctrl-C stops it at once.

    Args:
        source: a GGUF file.
        target: the file to write.
        number: see :func:`file_type`.
        on_progress: called with the share that is done, 0 to 1.

    Returns:
        How many tensors there are, and how many of them have a width that the type cannot hold: llama.cpp gave them a
        type with smaller blocks.

    Raises:
        LoadError: llama.cpp could not do it; the message has its words.
    """
    # By its path: with the package it would import what only the other parts need.
    command = [sys.executable, *map(os.fspath, (Path(__file__).with_name("_quantizer.py"), source, target))]
    command += [str(number), str(usable_cores())]
    last: deque[str] = deque(maxlen=_KEPT)
    n_tensors = n_fallback = 0
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8",
        errors="replace",
    )  # fmt: skip
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if line.strip():
                last.append(line.strip())
            if (tensor := _TENSOR.search(line)) is not None:
                n_tensors = int(tensor[2])
                if on_progress is not None:
                    on_progress(int(tensor[1]) / n_tensors)
            if (fallback := _FALLBACK.search(line)) is not None:
                n_fallback = int(fallback[1])
        code = process.wait()
    except BaseException:  # Ctrl-C too: no process may go on writing
        process.kill()
        process.wait()
        raise
    finally:
        if process.stderr is not None:
            process.stderr.close()
    if code != 0:
        said = next((line for line in reversed(last) if "failed to quantize" in line), " ".join(last))
        raise LoadError(f"llama.cpp cannot quantise {source} (exit code {code}): {shortened(said)}")
    return n_tensors, n_fallback

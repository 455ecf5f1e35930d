"""The C++ core on Windows (Wine) and on 64-bit ARM (qemu-user): tests that run where COLM_CROSS names the systems."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_cpp import CASES, run

import colm_cpp as colm
from colm_cpp.sources.preset import DEMO_FOLDER

ROOT = Path(__file__).resolve().parents[2]
MISSING = 3  # exit code of tools/cross: something has to be installed
# Cases about memory of Linux that can be built for it alone.
N_LINUX = 2

# The demo knows such problems, so no two tokens are nearly as likely, and other kernels change nothing.
PROMPT = "Tom brings 5 crates of 143 eggs to the farm and sells 266 eggs. How many eggs are left?\n"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="tools/cross is for Linux"),
]


def asked_for(target: str) -> None:
    if target not in os.environ.get("COLM_CROSS", "").split():
        pytest.skip(f"COLM_CROSS does not name {target}; with COLM_CROSS='windows aarch64' both run")


def passed(target: str) -> int:
    """How many cases have passed, when all have. The emulators take minutes for them."""
    asked_for(target)
    done = run(ROOT / "tools" / "cross", target)
    if done.returncode == MISSING:
        pytest.skip(done.stdout.strip())
    if done.returncode != 0:
        pytest.fail(done.stdout, pytrace=False)
    cases = re.search(r"test cases: +(\d+) \| +(\d+) passed \| +0 failed", done.stdout)
    assert cases, done.stdout
    assert cases[1] == cases[2]
    return int(cases[1])


def test_core_on_windows() -> None:
    assert passed("windows") == len(CASES) - N_LINUX


def test_core_on_aarch64() -> None:
    assert passed("aarch64") == len(CASES)


@pytest.mark.parametrize("target", ["windows", "aarch64"])
def test_the_demo_writes_the_same_with_llama_cpp(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of csrc with llama.cpp in a program: with and without look-ahead, and with another vocabulary."""
    asked_for(target)
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    importlib.import_module("permute_vocabulary").permute(DEMO_FOLDER / "assistant.gguf", tmp_path / "other.gguf", 1)
    base, assistant, head = (DEMO_FOLDER / f"{name}.gguf" for name in ("base", "assistant", "head"))
    n_deferred = 0
    for other, lookahead in ((assistant, 0), (assistant, 4), (tmp_path / "other.gguf", 0)):
        with colm.load(base, other, head, n_ctx=512, n_threads=1, n_gpu_layers=0, flash_attn=False) as pair:
            options: dict[str, Any] = {"threshold": 0.3, "max_tokens": 48, "lookahead": lookahead, "temperature": 0.0}
            out = pair.generate(PROMPT, **options)
        wanted = [f"{int(token.source != 'base')} {token.id}" for token in out.tokens]
        files = [str(path) for path in (base, other, head)]
        command = [ROOT / "tools" / "cross", target, "write", *files, PROMPT, "0.3", "48", str(lookahead)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == MISSING:
            pytest.skip(done.stderr.strip())
        assert done.returncode == 0, done.stderr
        assert done.stdout.split("\n")[:-1] == wanted
        n_deferred += sum(line[0] == "1" for line in wanted)
    assert n_deferred == 15


def test_unknown_targets_are_refused() -> None:
    for arguments in ([], ["solaris"], ["windows", "aarch64"], ["windows", "write", "base.gguf"]):
        done = run(ROOT / "tools" / "cross", *arguments)
        assert done.returncode == 2
        assert "usage: tools/cross windows|aarch64" in done.stdout

"""The C++ core on Windows (Wine) and on 64-bit ARM (qemu-user): tests that run where COLM_CROSS names the systems."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
from test_cpp import CASES, run

ROOT = Path(__file__).resolve().parents[2]
MISSING = 3  # exit code of tools/cross: something has to be installed
# Cases about memory of Linux that can be built for it alone.
N_LINUX = 2

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="tools/cross is for Linux"),
]


def passed(target: str) -> int:
    """How many cases have passed, when all have. The emulators take minutes for them."""
    if target not in os.environ.get("COLM_CROSS", "").split():
        pytest.skip(f"COLM_CROSS does not name {target}; with COLM_CROSS='windows aarch64' both run")
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


def test_unknown_targets_are_refused() -> None:
    for arguments in ([], ["solaris"], ["windows", "aarch64"]):
        done = run(ROOT / "tools" / "cross", *arguments)
        assert done.returncode == 2
        assert "usage: tools/cross windows|aarch64" in done.stdout

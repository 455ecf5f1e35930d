"""Memory of a load in huge pages: where the system gives them, and only there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import TinyModels

from colm_cpp.options import LoadOptions

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
LARGE = 32 << 20

pytestmark = pytest.mark.skipif(
    not SETTING.is_file() or "[never]" in SETTING.read_text(), reason="this system gives no huge pages"
)

# In a process of its own: NumPy asks for huge pages, too.
LOAD = """
import json, sys
import colm_cpp as colm

def advised():
    sizes = []
    size = 0
    for line in open("/proc/self/smaps"):
        if line.startswith("Size:"):
            size = int(line.split()[1]) * 1024
        elif line.startswith("VmFlags:") and "hg" in line.split():
            sizes.append(size)
    return sizes

path, options = sys.argv[1], json.loads(sys.argv[2])
before = advised()
with colm.load(path, path, "never", n_threads=1, check_memory=False, **options) as pair:
    out = pair.generate([1, 2, 3], max_tokens=4, temperature=0.0, logprobs=3)
    found = {
        "before": before,
        "after": advised(),
        "tokens": [[token.id, token.logprob] for token in out.tokens],
        "resident": int(open("/proc/self/statm").read().split()[1]),
    }
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def path(tiny_model: TinyModels) -> Path:
    """A model of 48 MB, most of it one vocabulary's two matrices."""
    file = tiny_model(arch="llama", n_embd=384, n_vocab=16384, n_layer=1, n_ctx_train=32768)
    assert file.stat().st_size > 1.4 * LARGE
    return file


def load(path: Path, **options: Any) -> dict[str, Any]:
    command = [sys.executable, "-c", LOAD, str(path), json.dumps({"n_ctx": 64, "use_mmap": False, **options})]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_weights_lie_in_huge_pages(path: Path) -> None:
    on, off = load(path), load(path, huge_pages=False)
    assert on["before"] == off["before"] == off["after"] == []
    # Both models share the weights of their file: all but its first page.
    weights = path.stat().st_size - (1 << 20)
    assert len(on["after"]) == 1
    assert all(weights < size < weights + (4 << 20) for size in on["after"])
    assert on["tokens"] == off["tokens"]
    # Every page of the weights is used, whatever its size.
    assert on["resident"] < off["resident"] + (6 << 20) / 4096


@pytest.mark.slow
def test_caches_lie_in_huge_pages_and_a_mapped_file_does_not(path: Path) -> None:
    caches = load(path, use_mmap=True, n_ctx=32768, type_k="f32", type_v="f32")["after"]
    # 32768 tokens, keys and values of 192 float32 each.
    assert len([size for size in caches if size > 48 << 20]) == 2
    assert all(size >= LARGE for size in caches)
    assert load(path, use_mmap=True, n_ctx=1024)["after"] == []


def test_they_are_wanted_unless_turned_off() -> None:
    for given, wanted in (({}, True), ({"huge_pages": True}, True), ({"huge_pages": False}, False)):
        assert LoadOptions(**given).to_core("a", 8, 1, []).values["huge_pages"] == wanted

"""One llama.cpp in the process, of the right version."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import lifecycle
import pytest
from lifecycle import child_says, linux_only

import colm_cpp as colm

folder = lifecycle.folder


_MAPS = """
import importlib.util, os, re, sys
{imports}
libraries = set()
for line in open("/proc/self/maps"):
    found = re.search(r"(\\S+:\\S+) (\\d+) +(/.*/lib(?:llama|ggml)[^/]*)$", line.strip())
    if found:
        libraries.add(found.groups())
for device, inode, path in sorted(libraries):
    print(re.match(r"lib[a-z-]+", os.path.basename(path)).group(), os.path.dirname(path), device, inode)
"""


@linux_only
@pytest.mark.parametrize(
    "imports",
    [
        "import colm_cpp, llama_cpp",
        *(
            pytest.param(imports, marks=pytest.mark.slow)
            for imports in (
                "import colm_cpp",
                "import llama_cpp, colm_cpp",
                "import colm_cpp; from colm_cpp.grammar.gbnf import to_gbnf; to_gbnf({'type': 'string'})",
            )
        ),
        "import llama_cpp; llama_cpp.llama_backend_init(); import colm_cpp; colm_cpp._core.devices()",
    ],
)
def test_one_llama_cpp_in_the_process(folder: Path, imports: str) -> None:
    import llama_cpp

    wanted_folder = os.path.join(os.path.dirname(llama_cpp.__file__), "lib")
    lines = child_says(folder, _MAPS.format(imports=imports), begin="").splitlines()
    stems = [line.split()[0] for line in lines]
    assert {"libllama", "libggml", "libggml-base", "libggml-cpu"} <= set(stems)
    assert len(stems) == len(set(stems)), lines
    assert {line.split()[1] for line in lines} == {wanted_folder}


_IMPORT = """
import importlib.metadata, sys
real = importlib.metadata.version
{patch}
try:
    import colm_cpp
    print("imported")
except ImportError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("patch", "parts"),
    [
        (
            "importlib.metadata.version = lambda name: '9.9.9' if name == 'llama-cpp-python' else real(name)",
            ["9.9.9 is installed", "built against llama-cpp-python {built}", "llama-cpp-python=={built}"],
        ),
        (
            "from colm_cpp.llama import libraries; sys.exit",  # a control: nothing is wrong
            None,
        ),
    ],
    ids=["installed version", "control"],
)
def test_other_llama_cpp_python(folder: Path, patch: str, parts: list[str] | None) -> None:
    output = child_says(folder, _IMPORT.format(patch=patch), begin="")
    if parts is None:
        assert output == "imported\n"
        return
    built = colm._core.BUILT_FOR_LLAMA_CPP_PYTHON  # type: ignore[attr-defined]
    assert output.startswith("ImportError")
    for part in [*parts, "pip install"]:
        assert part.format(built=built) in output


def test_other_build_of_the_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    from colm_cpp import _core
    from colm_cpp.llama import compatibility

    compatibility.check()
    monkeypatch.setattr(_core, "BUILT_FOR_LLAMA_CPP_PYTHON", "0.0.1")
    with pytest.raises(ImportError, match=r'0\.0\.1.*pip install "llama-cpp-python==0\.0\.1"'):
        compatibility.check()


def test_other_llama_cpp_in_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from colm_cpp import _core
    from colm_cpp.llama import compatibility

    monkeypatch.setattr(_core, "llama_version", lambda: "9.9.9")
    with pytest.raises(ImportError, match=r"9\.9\.9.*LLAMA_CPP_LIB_PATH.*pip install"):
        compatibility.check()


def test_windows_is_told_where_libraries_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their whole path, which os.add_dll_directory asks for. Backends are opened between ggml-base and ggml."""
    from colm_cpp.llama import libraries

    for name in ("llama", "ggml", "ggml-base", "ggml-cpu"):
        (tmp_path / f"{name}.dll").touch()
    folders: list[str] = []
    opened: list[str] = []
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "add_dll_directory", folders.append, raising=False)
    monkeypatch.setattr(libraries.ctypes, "CDLL", lambda path: opened.append(Path(path).name))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", ".")
    libraries.preload()
    assert folders == [str(tmp_path)]
    assert opened == ["ggml-base.dll", "ggml-cpu.dll", "ggml.dll", "llama.dll"]


def test_missing_libraries(folder: Path, tmp_path: Path) -> None:
    output = child_says(folder, _IMPORT.format(patch=""), begin="", LLAMA_CPP_LIB_PATH=str(tmp_path))
    assert output.startswith("ImportError")
    assert str(tmp_path) in output
    assert "reinstall llama-cpp-python" in output

"""Brings exactly one llama.cpp into the process: the one that ``llama_cpp`` itself opens.

A wheel of llama-cpp-python holds each library under several names that are separate files (wheels cannot hold
links). The extension asks for sonames (``libllama.so.0``), ``llama_cpp`` opens paths (``libllama.so``); left alone,
the loader would map both files and the process would hold two llama.cpp's with separate global state. Opening the
paths first makes the sonames resolve to what is already there.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from pathlib import Path

__all__ = ["compute_library", "library_folder", "preload", "rpc_library"]


def library_folder() -> Path:
    """The folder whose libraries ``llama_cpp`` opens (``LLAMA_CPP_LIB_PATH`` overrides it, as there).

    Raises:
        ImportError: llama-cpp-python is not installed.
    """
    override = os.environ.get("LLAMA_CPP_LIB_PATH")
    if override:
        return Path(override)
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("colm_cpp needs llama-cpp-python, which is not installed: pip install colm-cpp")
    return Path(spec.submodule_search_locations[0]) / "lib"


def _file(folder: Path, name: str) -> Path | None:
    candidates = {
        "win32": [f"{name}.dll", f"lib{name}.dll"],
        "darwin": [f"lib{name}.so", f"lib{name}.dylib"],
    }.get(sys.platform, [f"lib{name}.so"])
    return next((folder / c for c in candidates if (folder / c).exists()), None)


def compute_library() -> Path | None:
    """ggml's library that computes on the CPU, or one of several; None where there is none apart."""
    folder = library_folder()
    return _file(folder, "ggml-cpu") or next(iter(sorted(folder.glob("*ggml-cpu*"))), None) or _file(folder, "ggml")


def rpc_library() -> Path | None:
    """ggml's RPC backend as a library of its own; None where there is none beside llama.cpp."""
    return _file(library_folder(), "ggml-rpc")


def _is_loaded(path: Path) -> bool:
    if sys.platform == "win32":
        return False  # it knows a library by its name alone, so loading it again is harmless
    try:
        ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    except OSError:
        return False
    return True


def _in_main_interpreter() -> bool:
    get, main = ctypes.pythonapi.PyInterpreterState_Get, ctypes.pythonapi.PyInterpreterState_Main
    get.restype = main.restype = ctypes.c_void_p
    return bool(get() == main())


def preload() -> None:
    """Opens ggml and llama.cpp in the order of their dependencies, unless the process has them already.

    Raises:
        ImportError: the libraries are missing or cannot be opened, or this is a subinterpreter.
    """
    if not _in_main_interpreter():
        # NumPy and pybind11 would wait for a lock that this interpreter cannot get.
        raise ImportError("colm_cpp cannot be imported in a subinterpreter; import it in the main one, or in a process")
    folder = library_folder()
    llama = _file(folder, "llama")
    if llama is None:
        raise ImportError(f"no llama.cpp library lies in {folder}; reinstall llama-cpp-python")
    if _is_loaded(llama):
        return
    if sys.platform == "win32":
        os.add_dll_directory(os.path.abspath(folder))
    # Backends (CPU, CUDA, Metal, ...) stand between ggml-base and ggml. Their names vary with the build.
    suffix = llama.suffix
    backends = sorted(folder.glob(f"*ggml-*{suffix}"))
    base = _file(folder, "ggml-base")
    ordered = [base, *(b for b in backends if b != base), _file(folder, "ggml"), llama]
    for path in ordered:
        if path is None:
            continue
        try:
            ctypes.CDLL(str(path))
        except OSError as error:
            raise ImportError(f"{path} cannot be opened ({error}); reinstall llama-cpp-python") from error

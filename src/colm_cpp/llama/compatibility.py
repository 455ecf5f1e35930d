"""Whether the llama.cpp in this process is the one that the extension was built against."""

from __future__ import annotations

import importlib.metadata

__all__ = ["check", "version"]


def version() -> str:
    """colm-cpp's own version."""
    return importlib.metadata.version("colm-cpp")


def _advice(built_for: str) -> str:
    return (
        f'install the two together: pip install "llama-cpp-python=={built_for}" '
        "(llama.cpp promises no binary interface between versions), or reinstall colm-cpp to build it against "
        "the installed one: pip install --force-reinstall --no-deps --no-cache-dir colm-cpp"
    )


def check() -> None:
    """Raises ImportError where versions differ or the extension cannot be imported."""
    installed = importlib.metadata.version("llama-cpp-python")
    try:
        from .. import _core
    except ImportError as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # pybind11 wraps Ctrl-C too
            raise KeyboardInterrupt from None
        raise ImportError(
            f"colm_cpp's extension cannot be loaded with llama-cpp-python {installed} ({error}); reinstall both: "
            "pip install --force-reinstall colm-cpp"
        ) from error
    built_for = _core.BUILT_FOR_LLAMA_CPP_PYTHON
    if installed != built_for:
        raise ImportError(
            f"colm_cpp was built against llama-cpp-python {built_for} and {installed} is installed; "
            f"{_advice(built_for)}"
        )
    loaded = _core.llama_version()
    if loaded != _core.BUILT_FOR_LLAMA_VERSION:
        raise ImportError(
            f"colm_cpp was built against llama.cpp {_core.BUILT_FOR_LLAMA_VERSION} and this process has loaded "
            f"llama.cpp {loaded} (is LLAMA_CPP_LIB_PATH set?); {_advice(built_for)}"
        )

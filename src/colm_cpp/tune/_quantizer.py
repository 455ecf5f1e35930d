"""What :func:`.quantizing.quantize` runs in a process of its own: ``SOURCE TARGET FILE_TYPE THREADS``.

llama.cpp cannot be stopped while it quantises, and it may end the process that it runs in.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
from typing import Any

_SLAB = 2**28  # bytes of a tensor that are converted at a time


def main(source: str, target: str, file_type: int, n_threads: int) -> int:
    """Quantises a file; llama.cpp's log goes to stderr. Returns 0 if all went well."""
    llama_cpp: Any = importlib.import_module("llama_cpp")  # it also has the log printed
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = file_type
    parameters.nthread = n_threads
    parameters.max_buf_size = _SLAB
    # Tensors that the adapter leaves alone are quantised already. Those that get another type must be converted.
    parameters.allow_requantize = True
    done = llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(parameters))
    return int(done)


if __name__ == "__main__":
    # Python has put this folder there, and its modules have ordinary names.
    sys.path[:] = [place for place in sys.path if place != os.path.dirname(os.path.abspath(__file__))]
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))

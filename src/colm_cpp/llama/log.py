"""llama.cpp's log, passed on to Python's ``colm_cpp.llama`` logger.

llama.cpp's lines wait in a queue in the extension and are passed on whenever a call returns, on the caller's thread.
The logger has no handler of its own, so nothing is printed unless the application asks for it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from .. import _core
from .busy import busy

__all__ = ["computing", "forward_log", "logger", "set_up_log"]

logger = logging.getLogger("colm_cpp.llama")
logger.addHandler(logging.NullHandler())

# ggml_log_level -> logging
_LEVELS = {1: logging.DEBUG, 2: logging.INFO, 3: logging.WARNING, 4: logging.ERROR}


def set_up_log() -> None:
    """Takes over llama.cpp's log; importing ``llama_cpp`` in between would have claimed it."""
    # What nobody listens to is dropped at the source: llama.cpp says several lines a tensor at these levels.
    wanted = [level for level, name in _LEVELS.items() if logger.isEnabledFor(name)]
    _core.set_min_log_level(min(wanted, default=4))
    _core.init_backend()


def forward_log() -> None:
    """Passes on what llama.cpp has logged since the last call."""
    for level, text in _core.drain_log():
        if text:
            logger.log(_LEVELS.get(level, logging.INFO), "%s", text)


@contextlib.contextmanager
def computing() -> Iterator[None]:
    """:func:`.busy.busy`, at whose end the log is passed on."""
    with busy():
        try:
            yield
        finally:
            forward_log()

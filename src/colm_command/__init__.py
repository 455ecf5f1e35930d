"""The entry point of the command ``colm``. It stands outside ``colm_cpp``, whose import takes the most of a start.

Ctrl-C during these imports ends the process at once. A KeyboardInterrupt could not: extension modules and other
packages turn one that comes while they are imported into an ImportError.
"""

import os
import signal
from types import FrameType

__all__ = ["main"]

INTERRUPTED = 128 + signal.SIGINT  # as shells have it


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)


def main() -> None:
    """Runs the command; Ctrl-C while it starts exits with 130 and without a word."""
    try:
        # What somebody else handles or ignores, such as nohup, stays so.
        owned = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if owned:
            signal.signal(signal.SIGINT, _end)
        from colm_cpp.cli import main as run

        if owned:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        run()
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None

"""The command ``colm``."""

from __future__ import annotations

import contextlib
import importlib
import signal
import threading
import warnings
from collections import UserDict
from collections.abc import Iterator
from types import FrameType
from typing import Any

import click
from click.exceptions import Exit

from .. import __version__, _core
from ..errors import ColmError
from ..heads.adapters import AdapterWarning
from ._flags import in_flags
from ._output import one_line, warn

__all__ = ["Terminated", "main"]

# Each is the function of its name in the module of its name.
_NAMES = (
    "bench",
    "calibrate",
    "chat",
    "completion",
    "demo",
    "evaluate",
    "export",
    "generate",
    "inspect",
    "merge",
    "models",
    "paths",
    "patterns",
    "pull",
    "score",
    "serve",
    "train",
    "tune",
)

INTERRUPTED = 128  # plus the number of the signal, as shells have it


class Terminated(KeyboardInterrupt):
    """A signal that ends a job, such as that of ``kill``. Ctrl-C may stop less than the command."""


class Failure(click.ClickException):
    """What ends a command: one line on stderr, exit code 1."""

    exit_code = 1

    def show(self, file: Any = None) -> None:
        """Prints the line."""
        click.echo(one_line(f"colm: error: {self.message}"), file=file, err=file is None)


def _safe(error: click.UsageError) -> click.UsageError:
    """The same error in words that are safe for a terminal: it repeats what was typed."""
    if type(error).show is not click.UsageError.show:  # one that prints help instead
        return error
    return click.UsageError(one_line(error.format_message()), error.ctx)


@contextlib.contextmanager
def _stoppable(came: list[int]) -> Iterator[None]:
    """Has the signals that end a job (kill, a closed terminal) do what Ctrl-C does, so that what was written is kept.

    Windows has SIGBREAK for both: Ctrl-Break, and a console that is closed.
    ``came`` gets the number of the signal. What somebody else handles or ignores stays so.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        came.append(number)
        raise Terminated

    names = ("SIGTERM", "SIGHUP", "SIGBREAK") if threading.current_thread() is threading.main_thread() else ()
    signals = [known for name in names if (known := getattr(signal, name, None)) is not None]
    taken = [known for known in signals if signal.getsignal(known) is signal.SIG_DFL]
    for known in taken:
        signal.signal(known, stop)
    try:
        yield
    finally:
        for known in taken:
            signal.signal(known, signal.SIG_DFL)


@contextlib.contextmanager
def _warnings_in_lines() -> Iterator[None]:
    """Shows a warning about a head and its adapters as the commands show warnings, and once."""
    with warnings.catch_warnings():
        warnings.simplefilter("once", AdapterWarning)
        show = warnings.showwarning

        def shown(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, AdapterWarning):
                warn(str(message))
            else:
                show(message, category, *where, **more)

        warnings.showwarning = shown
        yield


class _Commands(UserDict[str, Any]):
    """The commands by their names. One is imported when it is asked for: some take long."""

    def __getitem__(self, name: str) -> click.Command:
        if self.data[name] is None:
            self.data[name] = getattr(importlib.import_module(f".{name}", __name__), name)
        command: click.Command = self.data[name]
        return command


def _unwritten(error: OSError) -> Failure:
    return Failure(f"{error}; check the permissions of the file and the free space on the disk")


class _Main(click.Group):
    """The group, which turns the errors that are foreseen into one line each."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        try:
            return super().make_context(*args, **kwargs)
        except click.UsageError as error:
            raise _safe(error) from error
        except BrokenPipeError:
            raise
        except OSError as error:  # --help and --version print here
            raise _unwritten(error) from error
        except KeyboardInterrupt:
            raise Exit(INTERRUPTED + signal.SIGINT) from None

    def invoke(self, ctx: click.Context) -> Any:
        stopped_by: list[int] = []
        try:
            with _stoppable(stopped_by), _warnings_in_lines():
                return super().invoke(ctx)
        except ColmError as error:
            command = self.commands.get(ctx.invoked_subcommand or "", self)
            raise Failure(in_flags(str(error), command)) from error
        except click.UsageError as error:
            raise _safe(error) from error
        except click.ClickException as error:
            raise Failure(error.format_message()) from error
        except BrokenPipeError:
            raise  # whoever read the output has left: click ends the command without a word
        except OSError as error:
            raise _unwritten(error) from error
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED + (stopped_by or [signal.SIGINT])[0])


@click.group(
    name="colm",
    cls=_Main,
    commands=_Commands(dict.fromkeys(_NAMES)),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, message=f"colm %(version)s (llama-cpp-python {_core.BUILT_FOR_LLAMA_CPP_PYTHON})")
def main() -> None:
    """Generate text with two language models that take turns, token by token, on llama.cpp.

    The base model writes. At each token, a head decides whether to defer to the assistant model. Models and heads are
    GGUF files, files on the Hugging Face hub (hf:org/repo/file-pattern.gguf), or names. 'colm models' lists the names.
    """

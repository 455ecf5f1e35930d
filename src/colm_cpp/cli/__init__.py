"""The command ``colm``."""

from __future__ import annotations

from typing import Any

import click

from .. import __version__, _core
from ..errors import ColmError
from ._output import one_line
from .bench import bench
from .calibrate import calibrate
from .demo import demo
from .evaluate import evaluate
from .export import export
from .generate import generate
from .inspect import inspect
from .patterns import patterns
from .score import score
from .train import train
from .tune import tune

__all__ = ["main"]

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class Failure(click.ClickException):
    """What ends a command: one line on stderr, exit code 1."""

    exit_code = 1

    def show(self, file: Any = None) -> None:
        """Prints the line."""
        click.echo(f"colm: error: {one_line(self.message)}", file=file, err=file is None)


class _Main(click.Group):
    """The group, which turns the errors that are foreseen into one line each."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ColmError as error:
            raise Failure(str(error)) from error
        except click.UsageError:
            raise
        except click.ClickException as error:
            raise Failure(error.format_message()) from error
        except BrokenPipeError:
            raise  # whoever read the output has left: click ends the command without a word
        except OSError as error:
            raise Failure(f"{error}; check that the file or disk can be written") from error
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)


@click.group(name="colm", cls=_Main, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, message=f"colm %(version)s (llama-cpp-python {_core.BUILT_FOR_LLAMA_CPP_PYTHON})")
def main() -> None:
    """Two language models write one text, token by token, on llama.cpp.

    Models and heads are GGUF files, or hf:org/repo/file-pattern.gguf on the Hugging Face hub.
    """


for command in (demo, generate, inspect, export, score, train, tune, calibrate, evaluate, patterns, bench):
    main.add_command(command)

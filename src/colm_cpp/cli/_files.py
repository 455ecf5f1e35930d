"""Files that a command writes: checked before the work begins, opened once there is something to write."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import OptionError
from ..files.output_file import OutputFile, check_output, descriptor_of, refuse_inputs, write_file
from ..sources.names import find_head
from ._experts import expert_files
from ._help import Command, option
from ._output import byte_stream

__all__ = [
    "Sink",
    "StandardOutput",
    "check",
    "check_folder",
    "check_stdout",
    "force_option",
    "head_place",
    "is_stdout",
    "open_sink",
    "read_by",
    "write_result",
]

PathLike = str | os.PathLike[str]

STDIN = "/dev/stdin"
STDOUT = "/dev/stdout"


class StandardOutput:
    """Standard output, with the methods of :class:`.OutputFile`."""

    def __init__(self) -> None:
        self._stream = byte_stream("stdout")

    def write(self, data: bytes) -> None:
        """Adds ``data``, which the reader has at once."""
        self._stream.write(data)
        self._stream.flush()

    def keep(self) -> None:
        """Does nothing: what was written stays."""

    def __enter__(self) -> StandardOutput:
        return self

    def __exit__(self, *_: object) -> None:
        pass


Sink: TypeAlias = OutputFile | StandardOutput  # where lines go


def force_option(help: str) -> Callable[[Command], Command]:
    """Adds ``--force``."""
    return option("Output", "--force", is_flag=True, help=help)


def is_stdout(path: PathLike) -> bool:
    """Whether ``path`` is standard output: ``-`` or ``/dev/stdout`` by any of its names."""
    return os.fspath(path) == "-" or descriptor_of(path) == descriptor_of(STDOUT) is not None


def check(
    name: str, path: Path | None, *, force: bool, inputs: Iterable[PathLike | None], may_be_stdout: bool = False
) -> None:
    """Says before the work begins whether the file of an option can be written; see :func:`.output_file.check_output`.

    Args:
        name: the option.
        path: its value; None where it was not given.
        force: whether a file that exists may be replaced.
        inputs: what the command reads.
        may_be_stdout: whether ``-`` stands for standard output.

    Raises:
        OptionError: it cannot, or not without ``--force``.
    """
    if path is None:
        return
    if may_be_stdout and is_stdout(path):
        check_stdout(inputs)
        return
    if os.fspath(path) == "-":
        raise OptionError(
            f"{name} - is not possible: this command prints its report to standard output; give a file name"
        )
    try:
        check_output(path, force=force, inputs=inputs)
    except OptionError as error:
        raise OptionError(f"{name}: {error}") from error


def check_folder(path: Path) -> None:
    """Refuses a file where ``--out`` must be a folder, or a name for a new one.

    Raises:
        OptionError: it is a file.
    """
    if path.exists() and not path.is_dir():
        raise OptionError(f"--out must be a folder, and {path} is a file; name a folder, or one to be made")


def check_stdout(inputs: Iterable[PathLike | None]) -> None:
    """Refuses to run where standard output was redirected to a file that the command reads.

    Raises:
        OptionError: it was.
    """
    try:
        refuse_inputs([STDOUT], inputs)
    except OptionError as error:
        raise OptionError(f"standard output: {error}") from error


def open_sink(name: str, path: Path) -> AbstractContextManager[Sink]:
    """Opens the file of an option, or standard output, for lines.

    Raises:
        OptionError: it cannot be written.
    """
    if is_stdout(path):
        return StandardOutput()
    try:
        return OutputFile(path)
    except OSError as error:
        raise _unwritable(name, path, error) from error


def write_result(name: str, path: Path, data: bytes) -> None:
    """Writes the file of an option in one piece.

    Raises:
        OptionError: it cannot be written.
    """
    try:
        write_file(path, data)
    except OSError as error:
        raise _unwritable(name, path, error) from error


def _unwritable(name: str, path: Path, error: OSError) -> OptionError:
    return OptionError(
        f"{name} {path} cannot be written ({error.strerror or error}); choose a folder that you can write to, on a "
        "disk with free space"
    )


def read_by(values: Mapping[str, Any], *others: PathLike | None) -> list[PathLike]:
    """The files that a command with a pair reads: models, adapters, heads, and ``others``.

    Args:
        values: the command's options.
        others: its arguments and further files. ``-`` is standard input.
    """
    adapters = [path for path, _ in values.get("lora") or ()]
    for model in ("base_option", "assistant_option"):
        adapters += [value[0] for name, value in values.get(model) or () if name == "lora"]
    heads = [values["head"]] if isinstance(values.get("head"), str) else []
    experts = expert_files(values)
    given = [values.get("base"), values.get("assistant"), *experts, *adapters, *map(head_place, heads), *others]
    return [STDIN if path == "-" else path for path in given if path is not None]


def head_place(head: PathLike) -> str | None:
    """The file of a head; one on the hub is not fetched for that."""
    return find_head(head).place

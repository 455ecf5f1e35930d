"""Models and ways to run the command, for its tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tiny_models import CHATML, DEFER, Vocab, make_model

import colm_cpp as colm
from colm_cpp.cli import main

ONE_THREAD = ("--n-threads", "1", "--n-threads-batch", "1")


@dataclass(frozen=True)
class Models:
    base: Path
    assistant: Path
    other: Path  # of another vocabulary
    wide: Path  # a base of another width

    @property
    def arguments(self) -> list[str]:
        return ["--base", str(self.base), "--assistant", str(self.assistant), "--head", "confidence", *ONE_THREAD]

    def load(self, **options: Any) -> colm.Pair:
        return colm.load(self.base, self.assistant, "confidence", n_threads=1, n_threads_batch=1, **options)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("models")
    return Models(
        make_model(folder / "base.gguf", seed=1, chat_template=CHATML, name="the \x1b[31mbase"),
        make_model(folder / "assistant.gguf", seed=2, n_embd=64, extra_tail=[DEFER]),
        make_model(folder / "other.gguf", seed=3, vocab=Vocab().replace_token(40, "?!")),
        make_model(folder / "wide.gguf", seed=4, n_embd=64),
    )


def run(*arguments: object, stdin: str | bytes | None = "", draw: bool = False) -> Result:
    """What a command gives. The plots of an evaluation take longer than the rest of it: they are drawn if told."""
    with pytest.MonkeyPatch.context() as patch:
        if arguments[:1] == ("evaluate",) and not draw:
            patch.setattr("colm_cpp.report.evaluation.write_plots", lambda *_: [])
        return CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin, catch_exceptions=False)


def succeed(*arguments: object, stdin: str | bytes | None = "", draw: bool = False) -> Result:
    """What a command gives that must not fail."""
    result = run(*arguments, stdin=stdin, draw=draw)
    assert result.exit_code == 0, result.stderr
    return result


def fail(*arguments: object) -> str:
    """What a command says on stderr that must be refused."""
    result = run(*arguments)
    assert result.exit_code == 1, result.stderr
    return result.stderr


def error_of(result: Result, code: int = 1) -> str:
    """The one line on stderr, with nothing on stdout."""
    assert result.exit_code == code, result.stderr
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("colm: error: ")
    return result.stderr.removeprefix("colm: error: ").rstrip("\n")

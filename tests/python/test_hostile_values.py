"""Values that nobody means: numbers of thousands of digits, texts of a megabyte, and no memory left."""

from __future__ import annotations

import dataclasses
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ASSISTANT, BASE, TINY_LOAD, TinyModels, TinyPairs

import colm_cpp as colm
from colm_cpp import errors
from colm_cpp._shown import listed, shown
from colm_cpp.answers.checkers import make_checker
from colm_cpp.corpus.documents import BadRow, json_rows
from colm_cpp.errors import ColmError, CorpusError, LoadError, NotEnoughMemory, OptionError, OutOfMemory
from colm_cpp.options import GenerationOptions, LoadOptions
from colm_cpp.options.training import TrainingOptions
from colm_cpp.traces.record import Record

HUGE = 10**5000
LONG = "\u202e\0" + "x" * 1_000_000
VALUES = (HUGE, -HUGE, LONG, LONG.encode(), [LONG] * 100, {"a": {"b": HUGE}}, object(), {HUGE})


class Broken:
    """A caller's own class whose repr fails."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "value", [*VALUES, Broken(), [[[[[[[LONG]]]]]]], dict.fromkeys(range(9999), LONG)], ids=range(11)
)
def test_a_shown_value_is_short_and_plain(value: object) -> None:
    text = shown(value)
    assert len(text) <= 203
    assert text.isprintable()


def test_short_values_are_shown_as_they_are() -> None:
    for value in (0, -1.5, "a", b"b", None, True, [1, (2,)], {"a": {1}}, Path("x")):
        assert shown(value) == repr(value)
    assert shown(HUGE) == "a number of about 5000 digits"
    assert shown("x" * 199) == repr("x" * 199)[:200] + "..."
    assert listed(range(10)) == "0, 1, 2, 3, 4, 5, 6, 7 and 2 more"


def outcome(attempt: Callable[[], object]) -> str:
    """What an OptionError says; nothing where there is none."""
    try:
        attempt()
    except OptionError as error:
        return str(error)
    return ""


CLASSES = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, ColmError)]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_no_message_is_longer_than_4000_characters(kind: type[ColmError]) -> None:
    error = kind(f"the value is {LONG}; give another")
    assert len(str(error)) <= 4000
    assert str(error).startswith("the value is ")
    assert str(error).endswith("; give another")
    assert str(kind("short")) == "short"
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (kind, str(error))


@pytest.mark.parametrize("name", sorted(f.name for f in dataclasses.fields(GenerationOptions)))
def test_options_of_a_generation(name: str) -> None:
    for given in ({name: value} for value in VALUES):
        error = outcome(lambda given=given: GenerationOptions.of(given).to_core(0.5))
        assert len(error) <= 4000
        assert not error or name in error or name == "grammar"


@pytest.mark.parametrize("name", sorted(f.name for f in dataclasses.fields(LoadOptions)))
def test_options_of_loading(name: str) -> None:
    for given in ({name: value} for value in VALUES):
        error = outcome(lambda given=given: LoadOptions.merge(given, None))
        assert len(error) <= 1000
        assert not error or name in error


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_options_elsewhere(value: Any) -> None:
    for name in (field.name for field in dataclasses.fields(TrainingOptions) if field.name != "use_hidden"):
        with pytest.raises(OptionError, match="feature" if name == "features" else name) as caught:
            TrainingOptions(**{name: value})
        assert len(str(caught.value)) <= 1000
    for given in ({"time_limit": value}, {"memory_limit_mb": value}):
        with pytest.raises(OptionError, match=next(iter(given))) as caught:
            make_checker("python", **given)
        assert len(str(caught.value)) <= 1000


def test_names_and_prompts_of_a_megabyte(tiny_pair: TinyPairs) -> None:
    pair = tiny_pair()
    for attempt in (
        lambda: colm.load(LONG, LONG),
        lambda: colm.load("x" * 1_000_000, "b.gguf"),
        lambda: pair.generate("a", head="x" * 1_000_000),
        lambda: pair.generate([HUGE]),
        lambda: pair.generate([LONG]),  # type: ignore[list-item]
        lambda: pair.chat([{"role": LONG}]),
        lambda: pair.generate("a", max_tokens=HUGE),
    ):
        with pytest.raises(ColmError) as caught:
            attempt()
        assert len(str(caught.value)) <= 4000


def test_numbers_of_thousands_of_digits_in_files(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": ' + "9" * 5000 + '}\n{"prompt": "a", "completion": ' + "9" * 4000 + "}\n")
    first, second = json_rows(path)
    assert isinstance(first, BadRow)
    assert len(str(first)) < 1000
    assert not isinstance(second, BadRow)
    record = Record(0, "eos", (1,), ("a",), "0", (None,), 1, 1, 1, 0.1, 0.1)
    for name in ("problem", "ids", "prefill_s", "n_parallel"):
        value = json.loads(record.to_json())
        value[name] = int("9" * 4000)
        with pytest.raises(ValueError, match="ids" if name == "ids" else name) as caught:
            Record.from_json(json.dumps(value))
        assert len(str(caught.value)) < 1000


def test_out_of_memory_is_a_memory_error() -> None:
    assert issubclass(OutOfMemory, MemoryError)
    assert issubclass(OutOfMemory, ColmError)
    assert issubclass(NotEnoughMemory, OutOfMemory)
    assert issubclass(NotEnoughMemory, LoadError)
    assert not issubclass(CorpusError, MemoryError)


@pytest.mark.skipif(sys.platform != "linux", reason="limits as Linux has them")
def test_a_long_prompt_without_memory(tiny_model: TinyModels) -> None:
    """Splitting a text into tokens takes a stack as long as the text."""
    program = f"""
import resource, sys
import colm_cpp as colm
with colm.load(sys.argv[1], sys.argv[2], "confidence", **{TINY_LOAD!r}) as pair:
    pages = int(open("/proc/self/statm").read().split()[0])
    limit = pages * resource.getpagesize() + 200 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for size in (10**6, 10**7, 10**8):
        try:
            pair.generate("a" * size)
        except colm.ColmError as error:
            print(type(error).__name__)
    print(pair.generate("a", max_tokens=3, temperature=0).finish_reason)
"""
    files = tiny_model(**BASE), tiny_model(**ASSISTANT)
    done = subprocess.run([sys.executable, "-c", program, *files], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    *kinds, reason = done.stdout.split()
    assert kinds == ["OutOfMemory"] * 3
    assert reason == "length"

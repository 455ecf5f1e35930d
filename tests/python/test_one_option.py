"""One option has one name, default and range, in C++, Python, the command line and the documentation."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import commands
import pytest
from conftest import ASSISTANT, BASE, TinyModels, ids
from programs import load_program

import colm_cpp as colm
from colm_cpp import _core
from colm_cpp.answers.answering import Arm, answers
from colm_cpp.answers.problems import Problem
from colm_cpp.cli import _options, main
from colm_cpp.engine import loading
from colm_cpp.options import (
    REMOTE_OPTIONS,
    Choice,
    Flag,
    GenerationOptions,
    LoadOptions,
    Own,
    Real,
    SlotOptions,
    Whole,
    option_of,
    seed_of,
)

ROOT = Path(__file__).parents[2]
OPTIONS = {**{f.name: f for kind in (GenerationOptions, LoadOptions, SlotOptions) for f in dataclasses.fields(kind)}}
# Options that end in Python: they choose other ones.
PYTHON_ONLY = {"head", "defer_rate", "response_format", "n_parallel", "cache_mb", *REMOTE_OPTIONS}
# What the extension needs and no user gives.
CORE_ONLY = {"path", "n_sequences", "n_outputs"}
# Names in Python are numbers of llama.cpp in C++.
NUMBERS = {"split_mode": {"none": 0, "layer": 1, "row": 2}, "type_k": {"f16": 1}, "type_v": {"f16": 1}}
# None stands for a value that depends on the machine, the model or the file.
OPEN = {"n_ctx", "n_ubatch", "n_threads", "n_threads_batch", "flash_attn", "use_mmap", "threshold", "seed"}


def core_values() -> dict[str, Any]:
    return {**_core.GenerationOptions({}).values, **_core.ModelOptions({}).values}


def core_ranges() -> dict[str, Any]:
    return {**_core.GenerationOptions.ranges(), **_core.ModelOptions.ranges()}


def test_names_in_c_plus_plus() -> None:
    assert set(core_values()) == set(core_ranges()) == set(OPTIONS) - PYTHON_ONLY | CORE_ONLY


@pytest.mark.parametrize("name", sorted(set(OPTIONS) - PYTHON_ONLY))
def test_default_in_c_plus_plus(name: str) -> None:
    core, default = core_values()[name], OPTIONS[name].default
    if isinstance(option_of(OPTIONS[name]).kind, Own):
        assert not core
        assert not default
    elif name in OPEN:
        assert default is None
    elif default is None:
        assert core in (None, 0)  # off
    else:
        default = NUMBERS.get(name, {}).get(default, default)
        assert core == (pytest.approx(default) if isinstance(default, float) else default)


@pytest.mark.parametrize("name", sorted(set(OPTIONS) - PYTHON_ONLY))
def test_range_in_c_plus_plus(name: str) -> None:
    core, kind = core_ranges()[name], option_of(OPTIONS[name]).kind
    if isinstance(kind, Own) or name in ("type_k", "type_v"):
        assert core is None
    elif isinstance(kind, Flag):
        assert core == ((-1, 1, False) if name == "flash_attn" else None)
    elif isinstance(kind, Choice):
        numbers = range(len(kind.names))
        assert core == (list(kind.names) if name not in NUMBERS else (numbers[0], numbers[-1], False))
    elif isinstance(kind, Whole):
        # A word is the number below the least. A context of 0 tokens stands for the model's own length.
        least = kind.least if kind.word is None else kind.least - 1
        least = 2 if name == "n_ctx" else -math.inf if least == -(2**31) else least
        most = math.inf if kind.most == 2**31 - 1 else kind.most
        assert tuple(math.copysign(math.inf, x) if abs(x) > 1e38 else x for x in core[:2]) == (least, most)
    else:
        assert isinstance(kind, Real)
        assert core == pytest.approx((kind.least, kind.most, kind.is_open), rel=1e-7)


WITH_RANGE = [name for name, limits in _core.GenerationOptions.ranges().items() if isinstance(limits, tuple)]


@pytest.mark.parametrize("name", WITH_RANGE)
def test_c_plus_plus_holds_its_ranges(name: str) -> None:
    """At both ends of a range, and beyond them."""
    least, most, is_open = core_ranges()[name]
    whole = isinstance(option_of(OPTIONS[name]).kind, Whole)

    def takes(value: float) -> bool:
        try:
            _core.GenerationOptions({name: int(value) if whole else value})
        except colm.OptionError as error:
            assert str(error).startswith(f"{name} is")  # noqa: PT017
            return False
        return True

    if abs(least) < 1e38:
        assert takes(least) is not is_open
        assert name == "seed" or not takes(least - 1 if whole else least - 1e-3)  # it has no sign
    if most < 1e38:
        assert takes(most)
        assert not takes(most + 1)
    if not whole:
        assert not takes(math.nan)
        assert not takes(math.inf)


def flags() -> dict[str, click.Parameter]:
    return {str(param.name): param for param in main.commands["generate"].params}


@pytest.mark.parametrize("name", sorted(set(OPTIONS) - {"response_format"}))
def test_flag(name: str) -> None:
    """Its name; what it takes is compared in test_command_words.py."""
    assert flags()[name].opts == [_options.flag_of(name)]


def test_fields_of_a_request() -> None:
    """Over HTTP an option of a text is a field of its own or one under `colm`, and docs/server.md says which."""
    from colm_cpp.server.errors import ApiError
    from colm_cpp.server.options import own_fields
    from colm_cpp.server.schemas import ChatRequest, CompletionRequest

    page = (ROOT / "docs" / "server.md").read_text(encoding="utf-8")
    said = re.search(r"all but\n(.*?)\. ", page, re.DOTALL)
    assert said is not None
    published = set(re.findall(r"`(\w+)`", said[1]))
    assert published <= {*ChatRequest.model_fields, *CompletionRequest.model_fields}
    for field in dataclasses.fields(GenerationOptions):
        given = {field.name: "never" if field.name == "head" else 1}
        if field.name not in published:
            assert own_fields(given, ["assistant"], chat=True) == given
            continue
        with pytest.raises(ApiError, match=f"give it as {field.name}"):
            own_fields(given, ["assistant"], chat=True)


def test_the_page_of_options() -> None:
    """It is what the tool prints: names, flags, defaults and ranges of the dataclasses."""
    tool = load_program(ROOT / "tools" / "options_page.py")
    assert (ROOT / "docs" / "options.md").read_text(encoding="utf-8") == tool.page()


@pytest.mark.parametrize("kind", [GenerationOptions, LoadOptions, SlotOptions])
def test_docstrings_and_keywords(kind: type) -> None:
    """A docstring says all of them, and type checkers know all keywords."""
    for field in dataclasses.fields(kind):
        assert f"        {field.name}: {option_of(field).help[:20]}" in str(kind.__doc__)
    if kind is GenerationOptions:
        from colm_cpp.options import GenerationOptionsDict

        assert set(GenerationOptionsDict.__annotations__) == {field.name for field in dataclasses.fields(kind)}
    if kind is LoadOptions:
        from colm_cpp.options import LoadOptionsDict

        assert set(LoadOptionsDict.__annotations__) == {field.name for field in dataclasses.fields(kind)}


# -- read once ---------------------------------------------------------------------------------------------------


def test_an_iterator_of_stop_strings_is_read_once(pair: colm.Pair, tiny_model: TinyModels) -> None:
    """Wherever options are given, and for every text that they are for."""
    options: dict[str, Any] = {"head": "random", "seed": 1, "max_tokens": 40}
    plain = pair.generate("The sun", **options)
    stop = plain.tokens[3].text
    wanted = pair.generate("The sun", stop=[stop], **options)
    assert wanted.finish_reason == "stop"
    assert len(wanted.tokens) < len(plain.tokens)

    def once() -> Any:
        return iter([stop])

    assert pair.generate("The sun", stop=once(), **options).text == wanted.text
    assert pair.stream("The sun", stop=once(), **options).completion().text == wanted.text
    same_seed = [{"seed": 1}] * 3
    together = pair.generate_batch(["The sun"] * 3, stop=once(), each=same_seed, **options)
    assert [written.text for written in together] == [wanted.text] * 3
    files = {"base": tiny_model(**BASE), "assistant": tiny_model(**ASSISTANT)}
    given = {"load_options": {"n_ctx": 64}, "keep": False, **files, **options}
    alone = colm.generate("The sun", **given)
    ends = alone.tokens[2].text
    assert colm.generate("The sun", stop=iter([ends]), **given).text == alone.text[: alone.text.index(ends)]


def test_answers_read_their_options_once(pair: colm.Pair) -> None:
    asked = [(Problem(i, (), "", "The sun"), Arm("a", "random", 0.5, None, {})) for i in range(3)]

    def texts(options: dict[str, Any]) -> list[str]:
        found = answers(pair, asked, {"max_tokens": 30, **options}, chat=False)
        return [record.text for _, record in found]

    stop = [" "]
    assert texts({}) != texts({"stop": stop})
    assert texts({"stop": iter(stop)}) == texts({"stop": stop})


def test_options_are_checked_when_they_are_made() -> None:
    bad: list[dict[str, Any]] = [
        {"temperature": -1},
        {"stop": [""]},
        {"defer_rate": 0.1, "threshold": 0.1},
        {"target_rate": 0.1, "schedule": "linear"},
        {"grammar": "root ::= [a]", "response_format": {"type": "json_object"}},
        {"logit_bias": {1: math.nan}},
    ]
    for options in bad:
        with pytest.raises(colm.OptionError):
            GenerationOptions(**options)
    kept = GenerationOptions(stop=iter("ab"), temperature=1, seed=None)
    assert (kept.stop, kept.temperature) == (["a", "b"], 1.0)
    assert kept.to_core(0.25).values["threshold"] == 0.25
    assert kept.replaced({"seed": 7}).to_core(0.5).values["stop"] == ["a", "b"]
    assert GenerationOptions.checked({"stop": iter("ab"), "top_k": 3}) == {"stop": ["a", "b"], "top_k": 3}
    assert json.dumps(GenerationOptions.checked({"stop": iter("ab")})) == '{"stop": ["a", "b"]}'


def test_seeds_of_several_texts_do_not_overflow() -> None:
    assert [seed_of(2**32 - 2, i) for i in range(3)] == [2**32 - 2, 0, 1]
    GenerationOptions(seed=seed_of(2**32 - 2, 1))


def test_penalties_look_at_the_last_tokens(pair: colm.Pair) -> None:
    """A ban by penalty lasts for as many tokens as were asked for."""
    options: dict[str, Any] = {"head": "never", "temperature": 0.0, "max_tokens": 60, "frequency_penalty": 1000.0}
    for n in (1, 3, 10):
        written = ids(pair.generate("The sun", penalty_last_n=n, **options))
        assert all(token not in written[max(0, at - n) : at] for at, token in enumerate(written)), n
    assert ids(pair.generate("The sun", penalty_last_n=0, **options)) == ids(
        pair.generate("The sun", **{**options, "frequency_penalty": 0.0})
    )


# -- slots --------------------------------------------------------------------------------------------------------


def loads_of(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    seen: list[dict[str, Any]] = []
    real: Callable[..., Any] = loading.load

    def load(*args: Any, **kwargs: Any) -> Any:
        seen.append({name: kwargs[name] for name in ("n_parallel", "cache_mb") if name in kwargs})
        return real(*args, **kwargs)

    monkeypatch.setattr(loading, "load", load)
    return seen


def test_slots_of_a_command(tiny_model: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch loads the slots that it writes in, and no more than it has texts; --cache-mb is given on."""
    seen = loads_of(monkeypatch)
    files = ["--base", str(tiny_model(**BASE)), "--assistant", str(tiny_model(**ASSISTANT)), "--n-ctx", "64", "--quiet"]
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "x y"}\n' * 3)
    text = ["--head", "random", "--max-tokens", "4", "--seed", "1"]
    batch = ["--batch", str(rows), *text]

    def run(*arguments: str) -> str:
        return commands.succeed(*arguments, *files).stdout

    one = run("generate", "x y", *text)
    by_number = [
        sorted((row["number"], row["text"]) for row in map(json.loads, run("generate", *batch, *more).splitlines()))
        for more in ([], ["--parallel", "2", "--cache-mb", "0"], ["--parallel", "1"])
    ]
    assert by_number[0] == by_number[1] == by_number[2]
    assert len(by_number[0]) == 3
    assert one
    assert seen == [{"n_parallel": 1}, {"n_parallel": 3}, {"n_parallel": 2, "cache_mb": 0}, {"n_parallel": 1}]

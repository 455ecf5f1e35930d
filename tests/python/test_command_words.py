"""The command line speaks its own words, agrees with the Python API on every option, and shows nothing hidden."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import tiny_models as tm
from click.testing import CliRunner, Result
from commands import fail, run
from conftest import ASSISTANT, BASE, TinyModels

import colm_cpp as colm
from colm_cpp import learn, tune
from colm_cpp.cli import _options, _output, main
from colm_cpp.cli._flags import in_flags, typed
from colm_cpp.engine.pair import DEFAULT_PARALLEL
from colm_cpp.evaluate import bench
from colm_cpp.files.json_text import HIDDEN, dump_json
from colm_cpp.options import ANSWER_OPTIONS, MAX_PARALLEL

BIDI = "\u202e"
CHECKED = (-(2**33), -2, -1, 0, 1, 2, 3, 16, 64, 2**13, 2**21, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1, 2**64)
REALS = (*CHECKED, -0.5, 0.1, 0.5, 1.5, 1e39, math.inf, -math.inf, math.nan)


def options_of(command: str) -> dict[str, click.Option]:
    return {str(p.name): p for p in main.commands[command].params if isinstance(p, click.Option)}


def default_of(param: click.Option) -> Any:
    # Newer versions of click have an object of their own for a default that is not given.
    return None if type(param.default).__name__ == "Sentinel" else param.default


# -- one option, one name, one default, one range -----------------------------------------------------------------


def python_takes(kind: type, options: dict[str, Any]) -> bool:
    try:
        if kind is colm.LoadOptions:
            colm.LoadOptions.merge(options, None)
        else:
            colm.GenerationOptions.of(options).to_core(0.5)
    except colm.OptionError:
        return False
    return True


def command_of(table: dict[str, Any], kind: type) -> Callable[[list[str]], bool]:
    """Whether a command with these options takes the arguments."""
    taken: list[bool] = []

    @click.command()
    @_options.from_table(table, "Options")
    def command(**values: Any) -> None:
        taken.append(python_takes(kind, _options.collect(table, values)))

    def takes(arguments: list[str]) -> bool:
        taken.clear()
        CliRunner().invoke(command, arguments, catch_exceptions=False)
        return taken == [True]

    return takes


@pytest.mark.parametrize("kind", [colm.LoadOptions, colm.GenerationOptions])
def test_names_defaults_and_ranges_agree(kind: type) -> None:
    table = _options.LOAD if kind is colm.LoadOptions else _options.GENERATION
    params, command_takes = options_of("generate"), command_of(table, kind)
    n_numbers = 0
    for field in dataclasses.fields(kind):
        if field.name in ("head", "grammar"):  # --head, and --grammar with its two files
            assert field.name in params
            continue
        if field.name == "response_format":  # --json-schema
            continue
        spec, param = table[field.name], params[field.name]
        assert param.opts[0] == _options.flag_of(field.name)
        assert (spec.default, default_of(param) or None) == (field.default, None)
        if field.default is not None and not param.multiple:
            shown = field.default if not isinstance(field.default, bool) else param.opts[0].removeprefix("--")
            assert f"[default: {shown if field.default is not False else f'no-{shown}'}]" in str(param.help)
        if spec.type in (click.INT, click.FLOAT):
            n_numbers += 1
            for value in REALS if spec.type is click.FLOAT else CHECKED:
                same = python_takes(kind, {field.name: value})
                assert command_takes([param.opts[0], str(value)]) is same, (field.name, value)
        elif isinstance(spec.type, click.Choice):
            for choice in (*spec.type.choices, "other"):
                same = python_takes(kind, {field.name: choice})
                assert command_takes([param.opts[0], choice]) is same, (field.name, choice)
    assert n_numbers >= 9


@pytest.mark.parametrize("value", [-1, None])
def test_no_limit_means_the_same_everywhere(value: int | None, pair: colm.Pair) -> None:
    ends = {"logit_bias": dict.fromkeys(pair.base["eog_tokens"], -math.inf), "temperature": 0}
    written = pair.generate("x", max_tokens=value, **ends)  # type: ignore[arg-type]
    assert written.finish_reason == "length"
    assert written.stats.prompt_tokens + written.stats.generated_tokens >= pair.n_ctx - 1


def defaults_of(function: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


@pytest.mark.parametrize("command", ["calibrate", "evaluate", "score"])
def test_answers_have_one_set_of_defaults(command: str) -> None:
    """Of the three commands, and of the functions behind them."""
    params = options_of(command)
    for name, value in ANSWER_OPTIONS.items():
        if (command, name) != ("score", "seed"):  # where rows are drawn with it too
            assert default_of(params[name]) == value


@pytest.mark.parametrize(
    ("command", "function", "names"),
    [
        ("score", learn.score, ["chat", "system", "top_k", "strict"]),
        ("bench", bench.run_bench, ["n_tokens", "rounds"]),
        ("calibrate", learn.calibrate, ["default_rate", "n_parallel"]),
        ("evaluate", learn.evaluate, ["n_parallel"]),
        ("score", learn.respond, ["n_parallel"]),
        ("generate", colm.Pair.stream_batch, ["n_parallel"]),
    ],
)
def test_defaults_of_functions(command: str, function: Callable[..., Any], names: list[str]) -> None:
    params, defaults = options_of(command), defaults_of(function)
    for name in names:
        default = DEFAULT_PARALLEL if (command, name) == ("generate", "n_parallel") else default_of(params[name])
        assert (default or None) == (defaults[name] or None), name
        if name == "n_parallel":
            kind = params[name].type
            assert isinstance(kind, click.IntRange)
            assert (kind.min, kind.max) == (1, MAX_PARALLEL)


@pytest.mark.parametrize(("command", "kind"), [("train", learn.TrainingOptions), ("tune", tune.TuneOptions)])
def test_options_of_training(command: str, kind: type) -> None:
    params, defaults = options_of(command), kind()
    fields = {field.name for field in dataclasses.fields(kind)}
    assert fields - set(params) == ({"memory_limit"} if command == "train" else set())
    for name in fields & set(params):
        value = getattr(defaults, name)
        shown = params[name].opts[0].removeprefix("--") if value is True else value
        shown = params[name].secondary_opts[0].removeprefix("--") if value is False else shown
        if params[name].multiple:
            assert default_of(params[name]) == [value]
        else:
            assert str(params[name].help).endswith(f"[default: {shown}]"), name


def test_a_flag_means_one_thing() -> None:
    """The same name has the same flags wherever it stands; --top-k is that of sampling."""
    with_top_k = [name for name in main.commands if any("--top-k" in p.opts for p in options_of(name).values())]
    assert with_top_k == ["chat", "generate"]
    for command in ("score", "train"):
        assert options_of(command)["top_k"].opts == ["--top-logprobs"]
    for flag in ("--max-tokens", "--temperature", "--parallel", "--force", "--json", "--quiet", "--out", "--pair"):
        meant = {p.name for name in main.commands for p in options_of(name).values() if flag in p.opts}
        assert len(meant) == 1, flag


# -- messages --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "message", "told"),
    [
        ("generate", "x; check_memory=False loads all the same", "x; --no-check-memory loads all the same"),
        ("generate", "a smaller n_ctx, fewer n_gpu_layers", "a smaller --n-ctx, fewer --n-gpu-layers"),
        ("generate", "seed is -1; it must be from 0", "--seed is -1; it must be from 0"),
        ("generate", "the base's seed is odd", "the base's seed is odd"),
        ("generate", "use_mmap=True and repack=False", "--mmap and --no-repack"),
        ("generate", "head='seed is' is no file; give head= one of", "--head 'seed is' is no file; give --head one of"),
        ("generate", "there is no file /tmp/n_ctx/n_ctx.gguf", "there is no file /tmp/n_ctx/n_ctx.gguf"),
        ("generate", "did you mean 'n_ctx'?", "did you mean 'n_ctx'?"),
        ("generate", "n_ctxx n_ctx(3) my.n_ctx", "n_ctxx n_ctx(3) my.n_ctx"),
        ("generate", "defer_rate and threshold both say", "--defer-rate and --threshold both say"),
        ("export", "row=3 is for a folder; leave row out", "--row 3 is for a folder; leave row out"),
        ("export", "default_threshold is 2.0", "--threshold is 2.0"),
        ("models", "n_ctx is 3", "n_ctx is 3"),
    ],
)
def test_words_of_the_command_line(command: str, message: str, told: str) -> None:
    assert in_flags(message, main.commands[command]) == told


def test_messages_speak_flags(tiny_model: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = ("--base", tiny_model(**BASE), "--assistant", tiny_model(**ASSISTANT))

    def failure(*arguments: Any) -> str:
        return fail(*arguments)

    generate = ("generate", "x", *files, "--head", "entropy")
    assert "--n-ctx is 1" in failure(*generate, "--n-ctx", "1")
    assert "--max-tokens is -2" in failure(*generate, "--max-tokens", "-2")
    assert "--head 'none'" in failure("generate", "x", *files, "--head", "none")
    assert "--chat-template" in failure(*generate, "--chat")
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 1, "total": 1}))
    refused = failure(*generate)
    assert "--no-check-memory" in refused
    assert "check_memory=" not in refused


# -- nothing hidden ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "character",
    "\x1b\x9b\x7f\xad\u034f\u061c\u200b\u200f\u2028\u202a\u202e\u2060\u2066\u2069\u3164\ufeff\U0001d173\U000e0041",
)
def test_what_hides_is_escaped(character: str) -> None:
    shown = _output.printable(f"a{character}b")
    assert character not in shown
    assert re.fullmatch(r"a\\(x|u|U)[0-9a-f]+b", shown)
    dumped = dump_json({"text": f"a{character}b"})
    assert not HIDDEN.search(dumped)
    assert json.loads(dumped) == {"text": f"a{character}b"}


def test_what_scripts_need_is_not() -> None:
    text = "\tनमस्\u200dते मी\u200cख 👩\u200d🚀 ❤\ufe0f é ש\n"
    assert _output.printable(text) == text


def safe(result: Result, *, code: int = 0) -> str:
    """All that was printed but colours. It hides nothing."""
    shown = re.sub(r"\x1b\[[0-9;]*m", "", result.stdout + result.stderr)
    assert result.exit_code == code, shown
    found = HIDDEN.search(shown)
    assert found is None, shown[max(0, found.start() - 60) : found.end() + 60]
    return shown


def test_every_command_escapes_what_it_repeats(tmp_path: Path) -> None:
    """Texts, names of files, and what files say of themselves."""
    evil = f"{BIDI}\x1b[2J\u2066"
    folder = tmp_path / f"in{BIDI}side"
    folder.mkdir()
    base = tm.make_model(folder / "base.gguf", **{**BASE, "name": f"base{evil}"})
    assistant = tm.make_model(folder / "assistant.gguf", **{**ASSISTANT, "name": f"assistant{evil}"})
    pair = ("--base", base, "--assistant", assistant, "--n-threads", "1", "--n-ctx", "128")
    head = folder / "head.gguf"
    np.save(folder / "theta.npy", np.linspace(-1, 1, 32, dtype=np.float32))
    assert "\\u202e" in safe(run("export", folder / "theta.npy", head, "--name", evil, "--base-name", evil))
    assert safe(run("inspect", base, head)).count("\\u202e") >= 3

    trace = folder / "trace.jsonl"
    text = ("--grammar", f'root ::= "a{BIDI}b"', "--head", "random", "--max-tokens", "20", "--seed", "1")
    written = run("generate", "x", *pair, *text, "--color", "always", "--trace", trace, "--verbose")
    assert "a\\u202eb" in safe(written)
    assert "llama.cpp: " in written.stderr
    assert "\\u202e" in safe(run("generate", "x", *pair, *text, "--json"))
    page = folder / "page.html"
    assert "\\u202e" in safe(run("patterns", trace, "--html", page, "--min-count", "1", "--text", "1"))

    rows = folder / "rows.jsonl"
    rows.write_text('{"prompt": "x y", "completion": "z w", "answer": 1}\n' * 30 + f'{{"a{BIDI}": 1}}\n')
    scores = folder / "scores"
    assert "\\u202e" in safe(run("score", rows, *pair, "--out", scores))
    trained = run("train", scores, "--out", folder / "trained.gguf", "--max-iterations", "2", "--held-out", "0.4")
    assert "\\u202e" in safe(trained)
    (folder / "prompts.jsonl").write_text('{"prompt": "x y"}\n')
    table = folder / "table.gguf"
    calibrated = run("calibrate", head, folder / "prompts.jsonl", *pair, "--max-tokens", "3", "--out", table)
    assert "\\u202e" in safe(calibrated)
    few = ("--arm", "base", "--max-tokens", "2", "--limit", "2")
    evaluated = run("evaluate", rows, *pair, *few, "--out", folder / "eval")
    assert safe(evaluated).count("\\u202e") >= 2
    measured = ("--tokens", "8", "--rounds", "1", "--prompt", "x", "--head", head, "--plot", folder / "plot.png")
    assert "\\u202e" in safe(run("bench", *pair, *measured))

    for arguments, code in (
        (("generate", "x", "--base", f"{evil}.gguf", "--assistant", assistant, "--head", "random"), 1),
        (("generate", "x", *pair, "--head", evil), 1),
        (("generate", "x", "--pair", evil), 1),
        (("generate", "x", *pair, "--head", "random", "--strategy", evil), 2),
        (("generate", f"--{evil}"), 2),
        (("generate", "x", *pair, "--head", "random", "--base-option", evil), 2),
        ((evil,), 2),
        ((f"--{evil}",), 2),
        (("demo", "--prompt", f"Ada has 3 pens.{evil}", "--sample", "0"), 0),
    ):
        assert "\\u202e" in safe(run(*arguments), code=code), arguments


def test_a_piped_text_is_the_text_itself(tiny_model: TinyModels) -> None:
    pair = ("--base", tiny_model(**BASE), "--assistant", tiny_model(**ASSISTANT), "--head", "random")
    result = run("generate", "x", *pair, "--grammar", f'root ::= "a{BIDI}b"', "--max-tokens", "20", "--quiet")
    assert result.stdout == f"a{BIDI}b\n"


# -- the demo ----------------------------------------------------------------------------------------------------


def test_the_demo_explains_its_brackets() -> None:
    """Before the first of them, and with the marks that are in use."""
    piped = run("demo", "--sample", "0").stdout
    key, _, rest = piped.partition("\n")
    assert "[" in key
    assert "assistant" in key
    assert re.search(r"\[\s*\d+\]", rest)
    coloured = run("demo", "--sample", "0", "--color", "always").stdout.partition("\n")[0]
    assert "\x1b[" in coloured
    assert "assistant" in coloured
    assert "[in" not in coloured


def test_the_line_that_was_typed() -> None:
    """``card.md`` repeats it. An option that was given several times stands there as often."""

    @click.command("tune")
    @click.argument("folders", nargs=-1)
    @click.option("--texts", multiple=True, type=click.Path(path_type=Path))
    @click.option("--rank", type=int, default=16)
    @click.pass_context
    def command(ctx: click.Context, **values: Any) -> None:
        click.echo(typed(ctx))

    result = CliRunner().invoke(command, ["one", "two", "--texts", "a b.jsonl", "--texts", "c.jsonl", "--rank", "8"])
    assert result.stdout == "colm tune one two --texts 'a b.jsonl' --texts c.jsonl --rank 8\n"

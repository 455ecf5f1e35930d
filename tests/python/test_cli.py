"""The command ``colm``: in process where that is enough, on a real pseudo-terminal where terminals matter."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from tiny_models import CHATML, DEFER, Vocab, make_model

import colm_cpp as colm
from colm_cpp.cli import _facts, _inputs, _options, _output, main

CYAN = "\x1b[36m"
ONE_THREAD = ("--n-threads", "1", "--n-threads-batch", "1")
NEVER_ENDS = tuple(
    argument
    for token in ("<|endoftext|>", "<|im_end|>")
    for argument in ("--logit-bias", f"{Vocab().id_of(token)}=-inf")
)


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


@pytest.fixture(scope="module")
def head_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("head") / "head.gguf"
    theta = np.linspace(-1, 1, 32, dtype=np.float32)
    colm.Head.linear(theta, 0.25, name="a head", default_threshold=0.5, rates=(0.1, 0.9), thresholds=(0.75, 0.25)).save(
        path
    )
    return path


def run(*arguments: str | Path, stdin: str | bytes | None = "") -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin, catch_exceptions=False)


def error_of(result: Result, code: int = 1) -> str:
    """The one line on stderr, with nothing on stdout."""
    assert result.exit_code == code, result.stderr
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("colm: error: ")
    return result.stderr.removeprefix("colm: error: ").rstrip("\n")


def on_terminal(
    *arguments: str, env: dict[str, str] | None = None, piped: str = "", interrupt_at: int | None = None
) -> tuple[int, str, str]:
    """Runs ``colm`` on a pseudo-terminal: (exit code, what the terminal got, what the pipe got).

    ``piped`` names the stream (stdout or stderr) that goes to a pipe instead. With ``interrupt_at`` SIGINT is sent once
    the terminal has got that many bytes.
    """
    pty = pytest.importorskip("pty")  # POSIX only
    master, slave = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    environment |= {"TERM": "xterm-256color", **(env or {})}
    streams: dict[str, int] = {name: subprocess.PIPE if name == piped else slave for name in ("stdout", "stderr")}
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "colm_cpp.cli", *arguments], stdin=slave, env=environment, **streams
    )
    os.close(slave)
    collected: list[bytes] = []
    pipe = process.stdout or process.stderr
    reader = threading.Thread(target=lambda: collected.append(pipe.read()) if pipe else None)
    reader.start()
    screen, sent, deadline = b"", False, time.monotonic() + 30
    try:
        while time.monotonic() < deadline:
            if not select.select([master], [], [], 0.2)[0]:
                continue
            try:
                chunk = os.read(master, 65536)
            except OSError:  # Linux: every process has closed the terminal
                break
            if not chunk:
                break
            screen += chunk
            if interrupt_at is not None and not sent and len(screen) >= interrupt_at:
                process.send_signal(signal.SIGINT)
                sent = True
        code = process.wait(timeout=10)
    finally:
        process.kill()
        process.wait()
        os.close(master)
        reader.join()
        if pipe is not None:
            pipe.close()
    # A terminal shows a newline as CR LF.
    return code, screen.decode().replace("\r\n", "\n"), b"".join(collected).decode()


# -- options --------------------------------------------------------------------------------------------------


def test_every_option_of_the_api_is_on_the_command_line() -> None:
    fields = {field.name for field in dataclasses.fields(colm.LoadOptions)}
    assert set(_options.LOAD) == fields
    fields = {field.name for field in dataclasses.fields(colm.GenerationOptions)}
    assert {*_options.GENERATION, "head", "grammar", "response_format"} == fields
    shown = " ".join(run("generate", "--help").stdout.split())
    for spec in (*_options.LOAD.values(), *_options.GENERATION.values()):
        assert f"--{spec.name.removeprefix('use_').replace('_', '-')}" in shown
        assert spec.help in shown
    assert "[default: 0.95]" in shown
    assert "[default: repack]" in shown


def test_options_reach_the_api() -> None:
    seen: dict[str, Any] = {}

    @click.command()
    @_options.from_table(_options.GENERATION, "Text")
    @_options.from_table(_options.LOAD, "Loading")
    @_options.model_options
    def command(**values: Any) -> None:
        seen["text"] = _options.collect(_options.GENERATION, values)
        seen["load"] = _options.collect(_options.LOAD, values)
        seen["base"] = _options.read_model_options(values["base_option"])

    arguments = "--max-tokens -1 --temperature 0 --logit-bias 3=1.5 --logit-bias 4=-inf --stop a --stop b --top-k 0"
    arguments += " --tensor-split 1,2.5 --no-mmap --mlock --flash-attn --lora C:\\x.gguf:0.5 --lora hf:o/r/y.gguf"
    arguments += " --base-option n-ctx=64 --base-option use_mmap=false --base-option lora=z.gguf:2"
    arguments += " --base-option flash_attn=none --base-option type_k=q8_0"
    result = CliRunner().invoke(command, arguments.split(), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert seen["text"] == {
        "max_tokens": -1,
        "temperature": 0.0,
        "logit_bias": {3: 1.5, 4: float("-inf")},
        "stop": ["a", "b"],
        "top_k": 0,
    }
    assert seen["load"] == {
        "tensor_split": [1.0, 2.5],
        "use_mmap": False,
        "use_mlock": True,
        "flash_attn": True,
        "lora": [("C:\\x.gguf", 0.5), ("hf:o/r/y.gguf", 1.0)],
    }
    base = {"n_ctx": 64, "use_mmap": False, "lora": [("z.gguf", 2.0)], "flash_attn": None, "type_k": "q8_0"}
    assert seen["base"] == base
    colm.LoadOptions.merge(seen["load"], seen["base"])
    colm.GenerationOptions.of(seen["text"]).to_core(0.5)
    assert CliRunner().invoke(command, [], catch_exceptions=False).exit_code == 0
    assert seen == {"text": {}, "load": {}, "base": {}}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--top-k", "many"], "'many'"),
        (["--strategy", "both"], "'both'"),
        (["--logit-bias", "5"], "'5'"),
        (["--tensor-split", "a"], "'a'"),
        (["--base-option", "n_ctx"], "'n_ctx'"),
        (["--base-option", "n_ctx=x"], "'x'"),
        (["--grammar", "root ::= [a]", "--json-schema", "x"], "--grammar and --json-schema"),
        (["--file", "x"], "--file"),
    ],
)
def test_usage_errors(models: Models, arguments: list[str], said: str) -> None:
    result = run("generate", "Hi", *models.arguments, *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("command", [("score", "x.jsonl"), ("evaluate", "x.jsonl"), ("calibrate", "h.gguf", "x.jsonl")])
@pytest.mark.parametrize("n", ["0", "300", "many"])
def test_how_many_at_once_is_checked_before_anything_is_read(command: tuple[str, ...], n: str, tmp_path: Path) -> None:
    nowhere = ("--base", "none.gguf", "--assistant", "none.gguf", "--out", tmp_path / "out")
    result = run(*command, *nowhere, "--parallel", n)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--parallel" in result.stderr
    assert n in result.stderr
    assert not n.isdigit() or "1<=x<=256" in result.stderr
    assert not (tmp_path / "out").exists()
    # Within the range it goes on to the files.
    for allowed in ("1", "256"):
        assert "--parallel" not in error_of(run(*command, *nowhere, "--parallel", allowed))


def test_no_prompt_is_a_usage_error(models: Models) -> None:
    result = run("generate", *models.arguments, stdin="")
    assert result.exit_code == 2
    assert "standard input" in result.stderr
    assert run("generate", "Hi").exit_code == 2
    assert run("inspect").exit_code == 2
    assert run("inspect", "--base", models.base).exit_code == 2
    assert run("inspect", models.base, "--head", "confidence").exit_code == 2


# -- errors ---------------------------------------------------------------------------------------------------


def test_errors_are_one_line(models: Models, tmp_path: Path) -> None:
    def failure(*arguments: str | Path) -> str:
        return error_of(run("generate", "Hi", *models.arguments, *arguments))

    missing = tmp_path / "a\nb\x1b[2Jmissing.gguf"
    assert f"{tmp_path}/a b\\x1b[2Jmissing.gguf" in failure("--base", missing)
    assert re.search(r"--n-ctx .*\b1\b.*\b2\b", failure("--base-option", "n_ctx=1"))
    assert "'n_ctx'" in failure("--base-option", "n_ctxx=1")
    assert "'nonsense'" in failure("--head", "nonsense")
    assert "--threshold" in failure("--threshold", "2")
    assert re.search(r"--seed .*-1\b", failure("--seed", "-1"))  # ("--seed", "-1")
    assert "token 40" in failure("--assistant", models.other)
    assert "--trace" in failure("--trace", tmp_path / "no" / "trace")
    assert "grammar" in failure("--grammar", "root ::= (")
    assert str(tmp_path / "none") in failure("--grammar-file", tmp_path / "none")
    schema = tmp_path / "schema.json"
    schema.write_text("{,}")
    assert "line 1, column 2" in failure("--json-schema", schema)
    schema.write_text("[]")
    assert f"{schema} is of type list" in failure("--json-schema", schema)
    assert "prompt" in error_of(run("generate", "", *models.arguments))
    (tmp_path / "latin1").write_bytes(b"caf\xe9")
    refused = error_of(run("generate", "--file", tmp_path / "latin1", *models.arguments))
    assert all(fact in refused for fact in (str(tmp_path / "latin1"), "UTF-8", "0xe9", "offset 3"))
    assert "--chat-template" in error_of(
        run("generate", "Hi", "--chat", *models.arguments, "--base", models.assistant, "--assistant", models.base)
    )


# -- text on a pipe -------------------------------------------------------------------------------------------


def expected_text(models: Models, prompt: str, **options: Any) -> str:
    with models.load() as pair:
        return pair.generate(prompt, **options).text


def test_piped_output_is_the_text(models: Models, tmp_path: Path) -> None:
    text = expected_text(models, "Once upon", seed=8, max_tokens=40)
    assert "\x1b" not in text
    assert any(ord(c) < 0x20 for c in text)  # so that "unmodified" means something
    options = ("--seed", "8", "--max-tokens", "40", *models.arguments)
    result = run("generate", "Once upon", *options)
    assert result.exit_code == 0, result.stderr
    assert result.stdout_bytes == (text + "\n").encode()
    assert result.stderr == ""
    file = tmp_path / "prompt"
    file.write_bytes(b"Once upon\r\n")
    assert run("generate", "--file", file, *options).stdout_bytes == result.stdout_bytes
    assert run("generate", *options, stdin="Once upon\n").stdout_bytes == result.stdout_bytes
    assert run("generate", "--file", "-", *options, stdin="Once upon").stdout_bytes == result.stdout_bytes
    # An argument comes before standard input.
    assert run("generate", "Once upon", *options, stdin="other").stdout_bytes == result.stdout_bytes


def test_final_newline_is_not_doubled(models: Models) -> None:
    result = run("generate", "x", *models.arguments, "--grammar", 'root ::= "ab\\n"', "--max-tokens", "20")
    assert result.stdout_bytes == b"ab\n"
    result = run("generate", "x", *models.arguments, "--max-tokens", "0")
    assert result.stdout_bytes == b"\n"


def test_grammar_and_schema_files(models: Models, tmp_path: Path) -> None:
    grammar = tmp_path / "g.gbnf"
    grammar.write_text('root ::= "yes" | "no"\n')
    assert run("generate", "x", *models.arguments, "--grammar-file", grammar).stdout in ("yes\n", "no\n")
    schema = tmp_path / "s.json"
    schema.write_text('{"enum": ["red", "blue"]}')
    assert json.loads(run("generate", "x", *models.arguments, "--json-schema", schema).stdout) in ("red", "blue")


def test_colour_is_forced_on_a_pipe(models: Models) -> None:
    options = ("--seed", "8", "--max-tokens", "40", *models.arguments)
    result = run("generate", "Once upon", *options, "--color", "always")
    assert CYAN in result.stdout
    plain = re.sub(r"\x1b\[\d*m", "", result.stdout)
    assert plain == _output.printable(expected_text(models, "Once upon", seed=8, max_tokens=40)) + "\n"


def test_json(models: Models) -> None:
    options = ("--seed", "7", "--max-tokens", "12", "--logprobs", "3")
    value = json.loads(run("generate", "Hi", *models.arguments, *options, "--json").stdout)
    with models.load() as pair:
        expected = pair.generate("Hi", seed=7, max_tokens=12, logprobs=3).to_dict()
    for counts in (value["stats"], expected["stats"]):
        for timing in ("prefill_s", "decode_s", "tokens_per_s"):
            del counts[timing]
    names = {"base": str(models.base), "assistant": str(models.assistant), "head": "confidence"}
    assert value == json.loads(json.dumps({"prompt": "Hi", **names, **expected}))
    assert len(value["tokens"][0]["top_logprobs"]) == 3


def test_json_text_has_no_controls_and_no_infinities() -> None:
    value = {"a": "\x00\x1b\x7f\x9b\ud800é", "b": [float("-inf"), 1.5], 3: float("nan")}
    text = _output.dump_json(value)
    assert all(c >= " " and not "\x7f" <= c <= "\x9f" for c in text)
    assert json.loads(text) == {"a": value["a"], "b": [None, 1.5], "3": None}
    assert "é" in text


def test_trace(models: Models, tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    options = ("--seed", "9", "--max-tokens", "10", "--logit-bias", "7=-inf", "--base-option", "n_ctx=128")
    result = run("generate", "Hi", *models.arguments, *options, "--trace", file)
    header, *tokens, last = [json.loads(line) for line in file.read_text().splitlines()]
    assert header["format"] == "colm-trace"
    assert header["version"] == 1
    assert header["prompt"] == "Hi"
    assert (header["base"], header["assistant"], header["head"]) == (
        str(models.base),
        str(models.assistant),
        "confidence",
    )
    assert header["seed"] == last["stats"]["seed"] == 9
    assert header["options"]["max_tokens"] == 10
    assert header["options"]["top_p"] == 0.95
    assert header["options"]["logit_bias"] == {"7": "-inf"}
    assert header["load_options"] == {
        "both": {"n_threads": 1, "n_threads_batch": 1},
        "base": {"n_ctx": 128},
        "assistant": {},
    }
    with models.load() as pair:
        expected = pair.generate("Hi", seed=9, max_tokens=10, logit_bias={7: float("-inf")})
    assert tokens == json.loads(json.dumps([token.to_dict() for token in expected.tokens]))
    assert header["prompt_tokens"] == expected.stats.prompt_tokens
    assert last["finish_reason"] == expected.finish_reason
    assert last["stats"]["generated_tokens"] == expected.stats.generated_tokens
    assert result.stdout == expected.text + "\n"


def test_chat(models: Models, tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hello"}]
    template = tmp_path / "template"
    template.write_text("{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}")
    with models.load() as pair:
        expected = pair.chat(messages, seed=3, max_tokens=15).text
        rendered = pair.render_chat(messages)
        other = pair.chat(messages[1:], seed=3, max_tokens=15, chat_template=template.read_text()).text
    options = ("--seed", "3", "--max-tokens", "15", *models.arguments)
    trace = tmp_path / "trace"
    assert run("generate", "Hello", "--system", "Be brief", *options, "--trace", trace).stdout == expected + "\n"
    header = json.loads(trace.read_text().splitlines()[0])
    assert header["prompt"] == rendered
    assert header["options"]["temperature"] == 0.2
    assert run("generate", "Hello", "--chat-template", template, *options).stdout == other + "\n"
    assert run("generate", "Hello", "--chat", *options).exit_code == 0


def test_verbose_shows_the_log(models: Models) -> None:
    result = run("generate", "Hi", *models.arguments, "--max-tokens", "1", "--verbose")
    assert "llama.cpp: " in result.stderr
    assert run("generate", "Hi", *models.arguments, "--max-tokens", "1").stderr == ""


# -- text on a terminal ---------------------------------------------------------------------------------------


def test_terminal_shows_colours_and_legend(models: Models) -> None:
    text = expected_text(models, "Once upon", seed=8, max_tokens=40)
    shown = _output.printable(text) + "\n"
    arguments = ("generate", "Once upon", "--seed", "8", "--max-tokens", "40", *models.arguments)
    code, screen, legend = on_terminal(*arguments, piped="stderr")
    assert code == 0, legend
    assert CYAN in screen
    assert re.sub(r"\x1b\[\d*m", "", screen) == shown
    assert legend.count("\n") == 1
    assert all(re.search(fact, legend) for fact in (r"\d+ of 40\b", r"[\d.]+%", "tokens/s", "length", r"seed 8\b")), (
        legend
    )
    code, screen, _ = on_terminal(*arguments, "--quiet", env={"NO_COLOR": "1"})
    assert (code, screen) == (0, shown)


def test_stdout_stays_plain_when_only_stderr_is_a_terminal(models: Models) -> None:
    text = expected_text(models, "Once upon", seed=8, max_tokens=40)
    arguments = ("generate", "Once upon", "--seed", "8", "--max-tokens", "40", *models.arguments)
    code, screen, piped = on_terminal(*arguments, piped="stdout")
    assert code == 0, screen
    assert piped == text + "\n"
    assert "loading" in screen  # progress, then the legend
    assert "finish: length" in screen


def test_a_terminal_needs_a_prompt(models: Models) -> None:
    code, screen, _ = on_terminal("generate", *models.arguments)
    assert code == 2
    assert "--file" in screen


def test_interrupt(models: Models, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    options = ("--n-ctx", "60000", "--n-batch", "32", "--n-ubatch", "32", "--max-tokens", "-1", *NEVER_ENDS)
    begin = time.monotonic()
    code, screen, rest = on_terminal(
        "generate", "Hi", *models.arguments, *options, "--trace", str(trace), piped="stderr", interrupt_at=200
    )
    assert code == 130, rest
    assert time.monotonic() - begin < 10
    assert screen.endswith("\n")
    assert "finish: interrupted" in rest
    assert "Traceback" not in rest
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    assert lines[-1]["finish_reason"] == "interrupted"
    assert lines[-1]["stats"]["generated_tokens"] >= len(lines) - 2 > 0


def test_interrupt_while_loading(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("colm_cpp.engine.loading.load", load)
    result = run("generate", "Hi", *models.arguments)
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has /dev/full")
def test_full_disk(models: Models) -> None:
    result = run("generate", "Hi", *models.arguments, "--max-tokens", "1", "--trace", "/dev/full")
    assert "No space left on device" in error_of(result)


def test_closed_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(colm.OptionError, match="stdin"):
        _inputs.read_prompt(None, None, may_be_empty=False)
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(colm.OptionError, match="stdout"):
        _output.open_writer("auto")


def test_reader_that_leaves(models: Models) -> None:
    arguments = ("generate", "Hi", *models.arguments, "--n-ctx", "20000", "--max-tokens", "-1", *NEVER_ENDS)
    process = subprocess.Popen(
        [sys.executable, "-m", "colm_cpp.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with contextlib.closing(process.stdout), contextlib.closing(process.stderr):
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(10) == 1


def test_printable() -> None:
    assert _output.printable("a\tb\n\x1b[2J\r\x7f\x9b") == "a\tb\n\\x1b[2J\\x0d\\x7f\\x9b"
    assert _output.printable("aé", "ascii") == "a\\xe9"


# -- inspect --------------------------------------------------------------------------------------------------


def test_inspect_files(models: Models, head_file: Path) -> None:
    facts = json.loads(run("inspect", models.base, head_file, "--n-ctx", "100", "--json").stdout)
    model, head = facts["files"]
    assert model["architecture"] == "llama"
    assert (model["n_embd"], model["n_layer"], model["n_ctx_train"]) == (32, 2, 512)
    assert (model["n_vocab"], model["vocab_type"]) == (len(Vocab()), "gpt2")
    assert model["chat_template"] is True
    assert model["quantisation"] == "F32"
    assert model["file_bytes"] == models.base.stat().st_size
    assert model["memory"]["n_ctx"] == 100
    assert model["memory"]["kv_cache"] == 256 * 2 * 2 * 16 * 2  # llama.cpp rounds n_ctx up to 256 cells
    assert head["layers"] == [[1, 32]]
    assert head["calibration"][1]["threshold"] == 0.25
    shown = run("inspect", models.base, head_file)
    assert shown.exit_code == 0
    assert "the \\x1b[31mbase" in shown.stdout
    assert "\x1b" not in shown.stdout
    assert "threshold 0.25" in shown.stdout


def test_inspect_pair(models: Models, head_file: Path) -> None:
    arguments = ("inspect", "--base", models.base, "--assistant", models.assistant)
    pair = json.loads(run(*arguments, "--head", head_file, "--json").stdout)["pair"]
    assert pair["compatible"] is True
    assert pair["n_shared"] == len(Vocab())
    assert (pair["base_model"]["tail"], pair["assistant_model"]["tail"]) == (0, 1)
    with models.load() as loaded:
        assert pair["base_model"]["vocab_fingerprint"] == loaded.vocab_fingerprint
    result = run(*arguments, "--head", "entropy")
    assert result.exit_code == 0
    assert "pair: compatible" in result.stdout


def test_inspect_says_why_a_pair_does_not_fit(models: Models, head_file: Path, tmp_path: Path) -> None:
    result = run("inspect", "--base", models.base, "--assistant", models.other, "--json")
    assert result.exit_code == 1
    pair = json.loads(result.stdout)["pair"]
    assert (pair["compatible"], pair["differing_token"]) == (False, 40)
    assert result.stderr == f"colm: error: {pair['reason']}\n"

    result = run("inspect", "--base", models.wide, "--assistant", models.assistant, "--head", head_file)
    assert result.exit_code == 1
    assert "pair: not compatible" in result.stdout
    assert "32" in result.stderr
    assert "64" in result.stderr

    cut = tmp_path / "cut.gguf"
    cut.write_bytes(models.base.read_bytes()[:-100])
    result = run("inspect", cut)
    assert result.exit_code == 1
    size = models.base.stat().st_size
    assert all(fact in result.stderr for fact in (str(cut), str(size - 100), str(size)))
    assert all(fact in error_of(run("inspect", __file__)) for fact in (__file__, "GGUF"))


def test_quantisation_names() -> None:
    assert _facts.quantisation(15) == "Q4_K_M"
    assert _facts.quantisation(999) == "file type 999"
    assert _facts.quantisation(None) is None


# -- export ---------------------------------------------------------------------------------------------------


def test_export(models: Models, tmp_path: Path) -> None:
    source, output = tmp_path / "theta.npz", tmp_path / "head.gguf"
    theta = np.linspace(-1, 1, 32, dtype=np.float32)
    np.savez(source, theta=theta, bias=np.float32(0.5))
    named = ("--base-name", "B", "--assistant-name", "A", "--threshold", "0.25", "--name", "N")
    result = run("export", source, output, *named)
    assert result.exit_code == 0, result.stderr
    assert "linear head, n_embd 32, layers 32 -> 1" in result.stdout
    head = colm.Head.load(output)
    assert (head.base_name, head.assistant_name, head.name, head.default_threshold) == ("B", "A", "N", 0.25)
    np.testing.assert_array_equal(head.weights[0][0], theta)

    before = output.read_bytes()
    assert "--force" in error_of(run("export", source, output))
    assert output.read_bytes() == before
    assert run("export", source, output, "--force").exit_code == 0
    assert output.read_bytes() != before
    assert str(tmp_path / "none") in error_of(run("export", tmp_path / "none", tmp_path / "x.gguf"))
    assert "--row 3" in error_of(run("export", source, tmp_path / "x.gguf", "--row", "3"))
    assert "--threshold" in error_of(run("export", source, tmp_path / "x.gguf", "--threshold", "2"))

    refused = error_of(run("export", source, tmp_path / "x.gguf", "--base", models.wide))
    assert all(fact in refused for fact in (str(models.wide), "32", "64"))
    result = run("export", source, output, "--base", models.base, "--force")
    with models.load() as pair:
        assert colm.Head.load(output).vocab_fingerprint == pair.vocab_fingerprint
        assert f"vocabulary {pair.vocab_fingerprint}" in result.stdout
        assert pair.generate("Hi", head=output, max_tokens=2, seed=1).tokens


def test_export_passes_warnings_on(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    _write_checkpoint(checkpoint)
    result = run("export", checkpoint, tmp_path / "head.gguf")
    assert result.exit_code == 0, result.stderr
    assert result.stderr.startswith("colm: warning: ")
    assert result.stderr.count("\n") == 1


def _write_checkpoint(folder: Path) -> None:
    """A Hugging Face checkpoint whose tokenizer does not know the deferral token."""
    matrix = np.arange(12, dtype="<f4").reshape(3, 4)
    header = json.dumps(
        {"lm_head.weight": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, matrix.nbytes]}}
    ).encode()
    data = len(header).to_bytes(8, "little") + header + matrix.tobytes()
    (folder / "model.safetensors").write_bytes(data)
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text('{"added_tokens": [], "model": {"vocab": {}}}')


# -- the command itself ---------------------------------------------------------------------------------------


def test_version_and_help() -> None:
    assert run("--version").stdout.startswith(f"colm {colm.__version__} ")
    shown = run("-h").stdout
    for verb in ("generate", "inspect", "export"):
        assert verb in shown
    assert run("nonsense").exit_code == 2


def test_help_imports_no_rich_and_no_llama_cpp() -> None:
    code = "import sys; from colm_cpp.cli import main\n"
    code += "try: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print(sorted({'rich', 'llama_cpp', 'gguf', 'huggingface_hub'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "[]"

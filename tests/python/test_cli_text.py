"""colm generate on a pipe and on a terminal."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import commands
import pytest
from commands import Models, error_of, run, succeed
from tiny_models import Vocab

import colm_cpp as colm
from colm_cpp.cli import _inputs, _output
from colm_cpp.files.json_text import dump_json

models = commands.models


CYAN = "\x1b[36m"


NEVER_ENDS = tuple(
    argument
    for token in ("<|endoftext|>", "<|im_end|>")
    for argument in ("--logit-bias", f"{Vocab().id_of(token)}=-inf")
)


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


# -- text on a pipe -------------------------------------------------------------------------------------------


def expected_text(models: Models, prompt: str, **options: Any) -> str:
    with models.load() as pair:
        return pair.generate(prompt, **options).text


def test_piped_output_is_the_text(models: Models, tmp_path: Path) -> None:
    text = expected_text(models, "Once upon", seed=8, max_tokens=40)
    assert "\x1b" not in text
    assert any(ord(c) < 0x20 for c in text)  # so that "unmodified" means something
    options = ("--seed", "8", "--max-tokens", "40", *models.arguments)
    result = succeed("generate", "Once upon", *options)
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
        for of_model in counts["experts"].values():
            del of_model["seconds"]
    names = {"base": str(models.base), "assistant": str(models.assistant), "head": "confidence"}
    assert value == json.loads(json.dumps({"prompt": "Hi", **names, **expected}))
    assert len(value["tokens"][0]["top_logprobs"]) == 3


def test_json_text_has_no_controls_and_no_infinities() -> None:
    value = {"a": "\x00\x1b\x7f\x9b\ud800é", "b": [float("-inf"), 1.5], 3: float("nan")}
    text = dump_json(value)
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
    succeed("generate", "Hello", "--chat", *options)


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

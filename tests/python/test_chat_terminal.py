"""``colm chat`` on a terminal: prompts, colours, editing, Ctrl-C and Ctrl-D."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from commands import succeed
from conftest import ASSISTANT, BASE, TinyModels
from terminals import Terminal
from tiny_models import CHATML, Vocab

import colm_cpp as colm
from colm_cpp.cli import _chat_input, chat

prompt_toolkit = pytest.importorskip("prompt_toolkit")
pytestmark = pytest.mark.skipif(os.name != "posix", reason="a pseudo-terminal is needed")

DEMO = ("chat", "--pair", "demo", "--temperature", "0")
QUESTION = "There were 5 drawers with 131 pencils in each. How many pencils are there?"
CYAN = "\x1b[36m"


@pytest.fixture
def tiny(tiny_model: TinyModels) -> list[str]:
    files = ["--base", tiny_model(**BASE, chat_template=CHATML), "--assistant", tiny_model(**ASSISTANT)]
    options = ["--head", "confidence", "--n-threads", "1", "--n-threads-batch", "1", "--n-ctx", "16384"]
    return ["chat", *map(str, files), *options, "--no-history"]


@pytest.fixture
def endless(tiny: list[str]) -> list[str]:
    """A pair that writes until the context is full, which takes seconds."""
    ends = [Vocab().id_of(token) for token in ("<|endoftext|>", "<|im_end|>")]
    return [*tiny, *(word for token in ends for word in ("--logit-bias", f"{token}=-inf"))]


def test_a_conversation(tmp_path: Path) -> None:
    with colm.load("demo") as pair:
        first = pair.chat([{"role": "user", "content": QUESTION}], temperature=0).text
        lines = pair.chat([{"role": "user", "content": "one\ntwo"}], temperature=0).text
    history = tmp_path / "folder" / "history"
    with Terminal(*DEMO, "--history", str(history)) as terminal:
        terminal.wait_for("pair>")
        terminal.type(f"{QUESTION}\r")
        terminal.wait_for(re.escape(first))
        terminal.wait_for("finish: eos")
        assert CYAN in terminal.raw
        for rate in ("/rate 20", "/clear"):
            terminal.wait_for(">")
            terminal.type(f"{rate}\r")
        terminal.wait_for("20%>")
        terminal.type("/pair\r")
        terminal.wait_for("pair>")
        terminal.type("one\\\rtwo\r")  # Enter behind a backslash begins a line
        terminal.wait_for(re.escape(lines))
        terminal.wait_for("pair>")
        terminal.type("/clear\r")
        terminal.wait_for("pair>")
        terminal.type("one\x1b\rtwo\r")  # and so does Alt-Enter
        terminal.wait_for(re.escape(lines))
        terminal.wait_for("pair>")
        terminal.type("/nothing\r")
        terminal.wait_for("colm: error: there is no command '/nothing'")
        terminal.wait_for("pair>")
        terminal.type("\x04")
        assert terminal.end() == 0
    assert history.stat().st_mode & 0o077 == 0
    kept = history.read_text()
    assert f"+{QUESTION}\n" in kept
    assert "+one\n+two\n" in kept


def test_ctrl_c_stops_the_answer_and_not_the_program(endless: list[str]) -> None:
    with Terminal(*endless) as terminal:
        terminal.wait_for("pair>")
        terminal.type("a b c\r")
        terminal.wait_for(r"a b c\n[^\n]{20}")
        terminal.type("\x03")
        terminal.wait_for("finish: interrupted")
        terminal.wait_for("pair>")
        terminal.type("/stats\r")
        written = int(terminal.wait_for(r"last answer: \d+").split()[-1])
        assert 0 < written < 16000
        terminal.wait_for("pair>")
        terminal.type("half a message\x03")  # drops what stands in the line
        terminal.wait_for("pair>")
        terminal.type("/quit\r")
        assert terminal.end() == 0


@pytest.mark.slow  # test_chat_stopping.py has one without a terminal
@pytest.mark.parametrize("writes", [pytest.param(True, id="while writing"), pytest.param(False, id="at the prompt")])
def test_a_signal_ends_the_program(endless: list[str], writes: bool) -> None:
    with Terminal(*endless) as terminal:
        terminal.wait_for("pair>")
        if writes:
            terminal.type("a b c\r")
            terminal.wait_for(r"a b c\n[^\n]{20}")
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.end() == 128 + signal.SIGTERM
        assert "Traceback" not in terminal.screen


def test_hostile_text_is_escaped(tiny: list[str]) -> None:
    hostile = ["--grammar", 'root ::= "\\x1b]0;title\\x07\\u202e!"', "--system", "\x1b[2J"]
    with Terminal(*tiny, *hostile) as terminal:
        terminal.wait_for("pair>")
        terminal.type("x\r")
        terminal.wait_for("finish")
        terminal.wait_for("pair>")
        terminal.type("/system\r")
        terminal.wait_for(r"\\x1b\[2J")
        terminal.wait_for("pair>")  # Ctrl-D before the prompt would be lost
        terminal.type("\x04")
        assert terminal.end() == 0
    raw = re.sub(r"\x1b\[[0-9;]*m", "", terminal.raw)
    assert "\\x1b]0;title\\x07\\u202e!" in raw
    assert "\x1b]0;" not in raw
    assert "\u202e" not in raw
    assert "\x07" not in raw


@pytest.mark.slow
def test_no_color_and_a_narrow_terminal() -> None:
    with Terminal(*DEMO, "--no-history", env={"NO_COLOR": "1"}, size=(4, 12)) as terminal:
        terminal.wait_for("pair>")
        terminal.type("Tom has 3 apples and buys 4 more.\r")
        terminal.wait_for("finish")
        terminal.wait_for("pair>")
        terminal.type("/compare\r")
        terminal.wait_for("-- assistant")
        terminal.wait_for("-- pair")
        terminal.wait_for("pair>")
        terminal.type("/help\r")
        terminal.wait_for("/quit")
        terminal.wait_for("pair>")
        terminal.type("\x04")
        assert terminal.end() == 0
    assert CYAN not in terminal.raw
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", terminal.raw.split("pair>", 1)[1])


def test_tab_completes_commands_and_files(tmp_path: Path) -> None:
    from prompt_toolkit.application import create_app_session
    from prompt_toolkit.input import create_pipe_input
    from prompt_toolkit.output import DummyOutput

    def enter_once(session: Any, message: str, keys: Any) -> None:
        """Completion takes a moment."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not (session.app and session.app.current_buffer.text == message):
            time.sleep(0.01)
        keys.send_text("\r")

    (tmp_path / "chat.json").write_text("")
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()) as session:
        ask = _chat_input.open_prompt(None, {"/compare": "", "/system": "", "/save": ""})
        for typed, message in (
            ("/com\t", "/compare"),
            (f"/save {tmp_path}/ch\t", f"/save {tmp_path}/chat.json"),
            ("com\t", "com"),
        ):
            keys.send_text(typed)
            threading.Thread(target=enter_once, args=(session, message, keys)).start()
            assert ask("> ") == message
        keys.send_text("\x1b[200~pasted\nlines\x1b[201~\r")
        assert ask("> ") == "pasted\nlines"
        keys.send_text("\x04")
        with pytest.raises(EOFError):
            ask("> ")


def test_the_history_of_an_earlier_chat_is_there(tmp_path: Path) -> None:
    from prompt_toolkit.application import create_app_session
    from prompt_toolkit.input import create_pipe_input
    from prompt_toolkit.output import DummyOutput

    for message, typed in (("first\nwith two lines", "first\x1b\rwith two lines\r"), ("second", "second\r")):
        with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
            ask = _chat_input.open_prompt(_chat_input.open_history(tmp_path / "history"), {})
            keys.send_text(typed)
            assert ask("> ") == message
    history = _chat_input.open_history(tmp_path / "history")
    assert list(history.load_history_strings()) == ["second", "first\nwith two lines"]


def test_a_history_that_cannot_be_used_is_no_obstacle(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from prompt_toolkit.application import create_app_session
    from prompt_toolkit.input import create_pipe_input
    from prompt_toolkit.output import DummyOutput

    (tmp_path / "file").write_text("")
    history = tmp_path / "file" / "history"
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        ask = chat.prompt_of({"history": history, "no_history": False})
        keys.send_text("x\r")
        assert ask("> ") == "x"
    assert str(history) in capfd.readouterr().err


def test_without_prompt_toolkit_a_terminal_is_refused_and_a_pipe_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] == "prompt_toolkit":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "prompt_toolkit", None)
    with pytest.raises(colm.MissingDependency, match="pip install prompt_toolkit"):
        _chat_input.open_prompt(None, {})
    result = succeed(*DEMO, stdin="Tom has 3 apples.\n")
    assert result.stdout

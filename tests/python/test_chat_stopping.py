"""Ctrl-C in the middle of an answer, and signals that end a chat."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import chat_world
import pytest
from chat_world import OTHER, QUESTION
from tiny_models import Vocab

import colm_cpp as colm
from colm_cpp.cli import _chat_commands
from colm_cpp.cli._chat_commands import Chat
from colm_cpp.cli._conversation import Conversation
from colm_cpp.cli._output import TextWriter

demo = chat_world.demo
talk = chat_world.talk
chat = chat_world.chat
tiny = chat_world.tiny


def _never_ends() -> dict[int, float]:
    return {Vocab().id_of(token): float("-inf") for token in ("<|endoftext|>", "<|im_end|>")}


def test_ctrl_c_keeps_what_was_written(talk: Conversation) -> None:
    seen: list[colm.Token] = []

    def show(token: colm.Token) -> None:
        seen.append(token)
        if len(seen) == 5:
            raise KeyboardInterrupt

    stopped = talk.ask(QUESTION, show)
    assert stopped.finish_reason == "interrupted"
    assert [exchange.answer for exchange in talk.exchanges] == ["".join(token.text for token in seen)]
    assert talk.ask(OTHER, lambda token: None).finish_reason == "eos"


def test_ctrl_c_before_the_first_token_keeps_nothing(talk: Conversation, monkeypatch: pytest.MonkeyPatch) -> None:
    def at_once(stream: colm.TokenStream) -> colm.Token:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(colm.TokenStream, "__next__", at_once)
        assert talk.ask(QUESTION, lambda token: None).finish_reason == "interrupted"
    assert talk.exchanges == []


def test_ctrl_c_ends_a_comparison(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "_stops", True)
    written = []

    class Writer(TextWriter):
        def write(self, token: colm.Token) -> None:
            written.append(token)
            if len(written) == 3:
                raise KeyboardInterrupt

    monkeypatch.setattr(_chat_commands, "open_writer", lambda color: Writer())
    chat.take(f"/compare {QUESTION}")
    assert [answer.finish_reason for answer in chat.conversation.answers] == ["interrupted"]
    assert chat.conversation.exchanges == []


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_signal_ends_a_chat_in_a_pipe(number: signal.Signals, code: int, tiny: list[object]) -> None:
    if os.name != "posix":
        pytest.skip("signals of POSIX")
    bias = [word for token, value in _never_ends().items() for word in ("--logit-bias", f"{token}={value}")]
    process = subprocess.Popen(
        [sys.executable, "-m", "colm_cpp.cli", "chat", *map(str, tiny), *bias, "--n-ctx", "16384"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"a b\nc d\n")
        process.stdin.flush()
        process.stdout.read(10)
        start = time.monotonic()
        process.send_signal(number)
        _, error = process.communicate(timeout=20)
        assert (process.returncode, error) == (code, b"")
        assert time.monotonic() - start < 5
    finally:
        process.kill()
        process.wait()

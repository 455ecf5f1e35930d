"""What ``/save`` writes and ``/load`` takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import chat_world
import pytest
from chat_world import OTHER, QUESTION, answer
from commands import run

import colm_cpp as colm
from colm_cpp.cli import _chat_file
from colm_cpp.cli._chat_commands import Chat
from colm_cpp.cli._conversation import Conversation

demo = chat_world.demo
talk = chat_world.talk
chat = chat_world.chat


def test_what_is_saved_is_loaded_and_read_once(talk: Conversation, chat: Chat, tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    chat.take("/system Be exact.")
    chat.take(QUESTION)
    chat.take("/rate 20")
    chat.take(OTHER)
    chat.take(f"/save {file}")
    with colm.load("demo") as pair:
        later = Chat(Conversation(pair, {"temperature": 0.0}), color="never", quiet=True, stops=False)
        later.take(f"/load {file}")
        there = later.conversation
        assert (there.exchanges, there.system, there.way) == (talk.exchanges, talk.system, talk.way)
        later.take(QUESTION)
        stats = there.answers[-1].stats
        # The conversation has been read: what is left is the new message, and the tokens around it.
        new = len(pair.tokenize(QUESTION)) + 16
        assert stats.prompt_tokens > 2 * new
        assert stats.base_tokens_read - stats.generated_tokens < new
    chat.take(QUESTION)
    assert there.exchanges == talk.exchanges


def test_without_its_session_a_conversation_is_read_again(
    chat: Chat, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "chat.json"
    chat.take(QUESTION)
    chat.take(f"/save {file}")
    session = _chat_file.session_of(file)
    for spoil in (session.unlink, lambda: session.write_bytes(b"colm-session 1\nrubbish")):
        spoil()
        capfd.readouterr()
        chat.take("/clear")
        chat.take(f"/load {file}")
        assert str(session) in capfd.readouterr().err
        assert [exchange.question for exchange in chat.conversation.exchanges] == [QUESTION]


def test_a_file_that_exists_is_replaced_only_by_force(chat: Chat, tmp_path: Path) -> None:
    with pytest.raises(colm.OptionError, match="/save"):
        chat.take("/save")
    file, other = tmp_path / "chat.json", tmp_path / "other file.json"
    other.write_text("mine")
    with pytest.raises(colm.OptionError, match="--force"):
        chat.take(f"/save {other}")
    assert other.read_text() == "mine"
    chat.take(f"/save {file}")
    chat.take(QUESTION)
    chat.take("/save")  # to the same file again
    assert len(json.loads(file.read_text())["messages"]) == 2
    chat.take(f"/save --force {other}")
    assert json.loads(other.read_text())["format"] == "colm-chat"
    with pytest.raises(colm.OptionError):
        chat.take(f"/save {tmp_path / 'none' / 'chat.json'}")


def test_load_at_the_start(chat: Chat, demo: colm.Pair, tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    chat.take(QUESTION)
    chat.take(f"/save {file}")
    first = chat.conversation.exchanges[0].answer
    options = ["chat", "--pair", "demo", "--temperature", "0", "--load", str(file)]
    result = run(*options, stdin=f"{OTHER}\n")
    assert result.stdout == answer(demo, QUESTION, first, OTHER) + "\n"


def test_a_file_written_by_hand_needs_no_writers(chat: Chat, tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    file.write_text(json.dumps({"format": "colm-chat", "version": 1, "messages": messages}))
    chat.take(f"/load {file}")
    assert chat.conversation.exchanges[0].pieces == (("base", "b"),)


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        ("{", "JSON"),
        ("[" * 100_000, "JSON"),
        ([], "conversation"),
        ({"format": "other"}, "conversation"),
        ({"version": 2}, "version 2"),
        ({"messages": None}, "messages"),
        ({"messages": [{"role": "user", "content": "a"}]}, "1 messages"),
        ({"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]}, "message 0"),
        ({"messages": [{"role": "user", "content": 3}, {"role": "assistant", "content": "b"}]}, "message 0"),
        ({"written": [["nobody", "b"]]}, "written of message 1"),
        ({"written": 3}, "written of message 1"),
        ({"written": [["base", "c"]]}, "written of message 1"),
        ({"system": 3}, "system"),
        ({"way": "200%"}, "way"),
        ({"way": None}, "way"),
    ],
)
def test_a_file_that_is_no_conversation(change: Any, fact: str, chat: Chat, tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    value: Any = change
    if isinstance(change, dict):
        written = {"written": change.pop("written")} if "written" in change else {}
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", **written}]
        value = {"format": "colm-chat", "version": 1, "messages": messages, **change}
    file.write_text(value if isinstance(value, str) else json.dumps(value))
    chat.take("a question")
    said = list(chat.conversation.exchanges)
    with pytest.raises(colm.CorpusError, match=fact) as error:
        chat.take(f"/load {file}")
    assert str(file) in str(error.value)
    assert chat.conversation.exchanges == said


def test_a_hostile_file_is_shown_escaped(demo: colm.Pair, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "chat.json"
    messages = [{"role": "user", "content": "\x1b[2J"}, {"role": "assistant", "content": "\ud800\u202e\x07"}]
    file.write_text(json.dumps({"format": "colm-chat", "version": 1, "messages": messages}))
    chat = Chat(Conversation(demo, {}), color="always", quiet=False, stops=False)
    chat.take(f"/load {file}")
    shown = capfd.readouterr()
    assert "\\x1b[2J" in shown.err
    assert "\\ud800\\u202e\\x07" in shown.out
    with pytest.raises(colm.TokenizeError):  # a lone surrogate is no text
        chat.take("x")


def test_a_session_is_not_taken_for_a_conversation(chat: Chat, tmp_path: Path) -> None:
    """Both files lie beside each other, and Tab offers both."""
    file = tmp_path / "chat.json"
    chat.take(QUESTION)
    chat.take(f"/save {file}")
    with pytest.raises(colm.CorpusError, match=f"load {file}$"):
        chat.take(f"/load {file}.session")

"""``colm chat`` without a terminal: each line is a message, and what each command does."""

from __future__ import annotations

import re
from typing import Any

import chat_world
import commands
import pytest
from chat_world import OTHER, QUESTION, answer
from click.testing import Result
from conftest import BASE, TinyModels
from tiny_models import CHATML, Vocab

import colm_cpp as colm
from colm_cpp.cli._chat_commands import COMMANDS, Chat, Leave
from colm_cpp.cli._conversation import PAIR, Conversation

demo = chat_world.demo
talk = chat_world.talk
chat = chat_world.chat
tiny = chat_world.tiny


def run(*arguments: object, stdin: str | bytes = "") -> Result:
    return commands.run("chat", *arguments, stdin=stdin)


def on_demo(*lines: str, options: tuple[object, ...] = ("--temperature", "0")) -> Result:
    return run("--pair", "demo", *options, stdin="".join(f"{line}\n" for line in lines))


# -- lines ----------------------------------------------------------------------------------------------------


def test_each_line_is_a_message_and_the_answers_go_to_stdout(demo: colm.Pair) -> None:
    first = answer(demo, QUESTION)
    second = answer(demo, QUESTION, first, OTHER)
    result = on_demo(QUESTION, "", OTHER)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"{first}\n{second}\n"


def test_a_backslash_joins_lines(demo: colm.Pair) -> None:
    assert on_demo("one \\", "two\\", "three").stdout == answer(demo, "one \ntwo\nthree") + "\n"
    assert on_demo("the end\\").stdout == answer(demo, "the end") + "\n"


def test_two_slashes_are_a_message_with_one(demo: colm.Pair) -> None:
    assert on_demo("//clear").stdout == answer(demo, "/clear") + "\n"


def test_the_first_error_ends_it(demo: colm.Pair) -> None:
    result = on_demo(QUESTION, "/rat 20", OTHER)
    assert result.exit_code == 1
    assert result.stdout == answer(demo, QUESTION) + "\n"
    assert result.stderr.count("\n") == 1
    assert "/rate" in result.stderr


def test_input_that_is_not_text() -> None:
    result = run("--pair", "demo", stdin=b"/system x\ncaf\xe9\n")
    assert result.exit_code == 1
    assert "line 2" in result.stderr
    assert "0xe9" in result.stderr


def test_a_bad_option_or_template_is_found_before_a_message(tiny: list[object], tiny_model: TinyModels) -> None:
    assert "--temperature is -1" in on_demo("x", options=("--temperature", "-1")).stderr
    assert "calibration table" in run(*tiny, "--defer-rate", "0.2", stdin="x\n").stderr
    plain = ["--base", tiny_model(**BASE), *tiny[2:]]
    result = run(*plain, stdin="/help\n")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "--chat-template" in result.stderr
    result = run("--base", "b.gguf", "--assistant", "a.gguf")
    assert result.exit_code == 2
    assert "--head" in result.stderr


def test_options_of_the_table_reach_the_answer(tiny: list[object]) -> None:
    assert run(*tiny, "--grammar", 'root ::= "yes"', stdin="a\nb\n").stdout == "yes\nyes\n"
    limited = run(*tiny, "--max-tokens", "3", "--logit-bias", f"{Vocab().id_of('a')}=100", stdin="x\n")
    assert limited.stdout == "aaa\n"


def test_hostile_text_stays_as_it_is_in_a_pipe_and_is_escaped_in_lines(tiny: list[object]) -> None:
    hostile = 'root ::= "\\x1b[31m\\u202ehi"'
    result = run(*tiny, "--grammar", hostile, stdin="x\n/system \x1b]0;t\x07\n/system\n")
    written, rest = result.stdout.split("\n", 1)
    assert written == "\x1b[31m\u202ehi"  # the bytes of the text, as colm generate gives them to a pipe
    assert "\\x1b]0;t\\x07" in rest
    assert "\x1b" not in rest
    coloured = run(*tiny, "--grammar", hostile, "--color", "always", stdin="x\n").stdout
    assert re.sub("\x1b\\[[0-9]*m", "", coloured) == "\\x1b[31m\\u202ehi\n"


# -- who answers ----------------------------------------------------------------------------------------------


def test_base_assistant_and_pair(chat: Chat, demo: colm.Pair, capfd: pytest.CaptureFixture[str]) -> None:
    told = []
    for command, head in (("/base", "never"), ("/assistant", "always"), ("/pair", None)):
        chat.take("/clear")
        chat.take(command)
        chat.take(QUESTION)
        told.append({source for source, _ in chat.conversation.exchanges[-1].pieces})
        assert chat.conversation.exchanges[-1].answer == answer(demo, QUESTION, head=head)
    assert told == [{"base"}, {"assistant"}, {"base", "assistant"}]


def test_a_model_alone_leaves_out_the_options_of_deferral(demo: colm.Pair) -> None:
    talk = Conversation(demo, {"temperature": 0.0, "defer_rate": 0.3, "hold": 2, "strategy": "compose"})
    for way in talk.alone.values():
        talk.way = way
        assert {source for source, _ in talk.ask(OTHER, lambda token: None).pieces} == {way.name}


def test_a_rate_is_that_of_the_calibration(chat: Chat, demo: colm.Pair) -> None:
    chat.take("/rate 40")
    assert chat.conversation.way.options == {"defer_rate": 0.4}
    chat.take(QUESTION)
    assert chat.conversation.exchanges[-1].answer == answer(demo, QUESTION, defer_rate=0.4)


def test_a_head_without_a_table_is_adjusted(tiny_pair: Any) -> None:
    pair = tiny_pair({**BASE, "chat_template": CHATML}, n_ctx=512)
    talk = Conversation(pair, {"temperature": 0.0, "threshold": 1.0, "max_tokens": 60, "logit_bias": _never_ends()})
    chat = Chat(talk, color="never", quiet=True, stops=False)
    for percent in (0.0, 50.0, 100.0):
        chat.take(f"/rate {percent}")
        assert talk.way.options == {"target_rate": percent / 100}
        stats = talk.ask("a b c", lambda token: None).stats
        assert stats.deferral_rate == pytest.approx(percent / 100, abs=0.1)


@pytest.mark.parametrize("given", ["", "x", "101", "-1", "nan", "inf", "pair", "20 30"])
def test_a_rate_that_is_none(given: str, chat: Chat) -> None:
    with pytest.raises(colm.OptionError):
        chat.take(f"/rate {given}")
    assert chat.conversation.way == PAIR


@pytest.mark.parametrize("given", ["20", "20%", "20 %", "20.0"])
def test_forms_of_a_rate(given: str, chat: Chat) -> None:
    chat.take(f"/rate {given}")
    assert chat.conversation.way.name == "20%"


def test_compare_answers_the_last_message_by_all(
    chat: Chat, demo: colm.Pair, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(colm.OptionError, match="/compare"):
        chat.take("/compare")
    chat.take(QUESTION)
    before = list(chat.conversation.exchanges)
    capfd.readouterr()
    chat.take("/compare")
    ways = {"base": "never", "assistant": "always", "pair": None}
    expected = [line for name, head in ways.items() for line in (f"-- {name}", answer(demo, QUESTION, head=head))]
    assert capfd.readouterr().out == "\n".join(expected) + "\n"
    assert chat.conversation.exchanges == before


def test_compare_of_a_new_message_keeps_the_answer_of_who_answers(chat: Chat, demo: colm.Pair) -> None:
    chat.take("/rate 20")
    chat.take(f"/compare {QUESTION}")
    assert [len(chat.conversation.answers), len(chat.conversation.exchanges)] == [3, 1]
    assert chat.conversation.exchanges[0].answer == answer(demo, QUESTION, defer_rate=0.2)
    chat.take("/base")
    chat.take(f"/compare {OTHER}")
    first = chat.conversation.exchanges[0].answer
    assert chat.conversation.exchanges[1].answer == answer(demo, QUESTION, first, OTHER, head="never")


def test_compare_has_one_seed(demo: colm.Pair) -> None:
    chat = Chat(Conversation(demo, {"temperature": 1.0}), color="never", quiet=True, stops=False)
    chat.take(f"/compare {QUESTION}")
    assert len({answer.stats.seed for answer in chat.conversation.answers}) == 1
    chat = Chat(Conversation(demo, {"temperature": 1.0, "seed": 7}), color="never", quiet=True, stops=False)
    chat.take(f"/compare {QUESTION}")
    assert {answer.stats.seed for answer in chat.conversation.answers} == {7}


# -- what was said --------------------------------------------------------------------------------------------


def test_system(tiny_pair: Any, capfd: pytest.CaptureFixture[str]) -> None:
    pair = tiny_pair({**BASE, "chat_template": CHATML})
    talk = Conversation(pair, {"temperature": 0.0, "max_tokens": 8})
    chat = Chat(talk, color="never", quiet=True, stops=False)
    user = {"role": "user", "content": "a b"}
    for command, system in (("/system be brief", [{"role": "system", "content": "be brief"}]), ("/system -", [])):
        chat.take(command)
        chat.take("/system")
        assert ("be brief" in capfd.readouterr().out) == bool(system)
        assert talk.messages("a b") == [*system, user]
        chat.take("a b")
        assert talk.exchanges.pop().answer == pair.chat([*system, user], temperature=0, max_tokens=8).text


def test_a_template_without_system_messages(tiny_pair: Any) -> None:
    template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
    chat = Chat(
        Conversation(tiny_pair(), {}, template={"chat_template": template}), color="never", quiet=True, stops=False
    )
    with pytest.raises(colm.ChatTemplateError, match="no system"):
        chat.take("/system x")
    assert chat.conversation.system is None


def test_the_own_system_message_of_a_pair_is_shown(demo: colm.Pair, capfd: pytest.CaptureFixture[str]) -> None:
    chat = Chat(Conversation(demo, {}, own_system="You sell pencils."), color="never", quiet=True, stops=False)
    chat.take("/system")
    assert "You sell pencils." in capfd.readouterr().out


def test_clear_and_drop(chat: Chat) -> None:
    for question in ("a", "b", "c", "d"):
        chat.take(question)
    chat.take("/drop")
    assert [exchange.question for exchange in chat.conversation.exchanges] == ["b", "c", "d"]
    chat.take("/drop 2")
    assert [exchange.question for exchange in chat.conversation.exchanges] == ["d"]
    for wrong in ("/drop 2", "/drop 0", "/drop x"):
        with pytest.raises(colm.OptionError):
            chat.take(wrong)
    chat.take("/clear")
    assert chat.conversation.exchanges == []
    with pytest.raises(colm.OptionError):
        chat.take("/drop")


def test_stats(chat: Chat, capfd: pytest.CaptureFixture[str]) -> None:
    chat.take("/stats")
    assert "512" in capfd.readouterr().out
    chat.take(QUESTION)
    chat.take("/base")
    chat.take(OTHER)
    capfd.readouterr()
    chat.take("/stats")
    last, both, context = capfd.readouterr().out.splitlines()
    first, second = (answer.stats for answer in chat.conversation.answers)
    assert f"{second.generated_tokens} tokens, 0 deferred" in last
    assert f"{first.generated_tokens + second.generated_tokens} tokens" in both
    assert f"{second.prompt_tokens + second.generated_tokens} of 512" in context


def test_help_names_every_command(chat: Chat, capfd: pytest.CaptureFixture[str]) -> None:
    chat.take("/help")
    named = [line.split()[0] for line in capfd.readouterr().out.splitlines()]
    assert named == list(COMMANDS)
    assert set(named) >= {"/rate", "/base", "/assistant", "/pair", "/compare", "/system", "/save", "/load", "/stats"}
    assert set(named) >= {"/help", "/clear", "/quit", "/drop"}


def test_quit_and_what_takes_nothing(chat: Chat) -> None:
    with pytest.raises(Leave):
        chat.take("/quit")
    with pytest.raises(colm.OptionError, match="/base"):
        chat.take("/base now")
    assert on_demo("/quit", QUESTION).stdout == ""


# -- a context that is full -----------------------------------------------------------------------------------


def test_a_full_context_says_what_to_do_and_keeps_the_conversation(tiny_pair: Any) -> None:
    talk = Conversation(tiny_pair({**BASE, "chat_template": CHATML}), {"temperature": 0.0, "max_tokens": 10})
    chat = Chat(talk, color="never", quiet=True, stops=False)
    for _ in range(2):
        chat.take("a b c d e f")
    said = list(talk.exchanges)
    with pytest.raises(colm.ContextFull, match=r"/drop.*/clear.*n_ctx") as error:
        chat.take("x y " * 200)
    assert error.value.n_ctx == 256
    assert error.value.n_prompt > 256
    assert talk.exchanges == said
    chat.take("/drop")
    chat.take("z")
    assert len(talk.exchanges) == 2


def test_a_first_message_that_is_too_long_is_to_be_shortened(chat: Chat) -> None:
    """There is nothing to drop or to clear."""
    with pytest.raises(colm.ContextFull, match="shorten") as error:
        chat.take("word " * 1000)
    assert "/drop" not in str(error.value)


def test_an_answer_that_fills_the_context_is_kept(tiny_pair: Any, capfd: pytest.CaptureFixture[str]) -> None:
    options = {"temperature": 0.0, "max_tokens": -1, "logit_bias": _never_ends()}
    talk = Conversation(tiny_pair({**BASE, "chat_template": CHATML}), options)
    chat = Chat(talk, color="never", quiet=True, stops=False)
    chat.take("a b c")
    assert talk.answers[-1].context_full
    assert len(talk.exchanges) == 1
    error = capfd.readouterr().err
    assert "/drop" in error
    assert "--n-ctx" in error


def _never_ends() -> dict[int, float]:
    return {Vocab().id_of(token): float("-inf") for token in ("<|endoftext|>", "<|im_end|>")}

"""The pairs and the conversation that the tests of `colm chat` share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from conftest import ASSISTANT, BASE, TinyModels
from tiny_models import CHATML

import colm_cpp as colm
from colm_cpp.cli._chat_commands import Chat
from colm_cpp.cli._conversation import Conversation

QUESTION = "The workshop had 5 drawers with 131 pencils in each drawer. Then 214 pencils were sold. How many remain?"
OTHER = "Tom has 3 apples and buys 4 more. How many does he have?"


@pytest.fixture(scope="module")
def demo() -> Iterator[colm.Pair]:
    with colm.load("demo") as pair:
        yield pair


@pytest.fixture
def talk(demo: colm.Pair) -> Conversation:
    demo.forget()
    return Conversation(demo, {"temperature": 0.0})


@pytest.fixture
def chat(talk: Conversation) -> Chat:
    return Chat(talk, color="never", quiet=True, stops=False)


@pytest.fixture
def tiny(tiny_model: TinyModels) -> list[object]:
    """A pair that knows a chat template and writes the same text at any time."""
    files = ["--base", tiny_model(**BASE, chat_template=CHATML), "--assistant", tiny_model(**ASSISTANT)]
    return [*files, "--head", "confidence", "--n-threads", "1", "--n-threads-batch", "1", "--temperature", "0"]


def answer(demo: colm.Pair, *turns: str, **options: Any) -> str:
    """What the pair itself answers to the last of ``turns``, users' and answers in turn."""
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]
    return demo.chat(messages, temperature=0, **options).text

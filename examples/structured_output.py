"""An answer as an object of a class, whose JSON schema becomes a grammar: only fitting text can be written.

python examples/structured_output.py "Mia has 3 cats." --pair demo

It needs pydantic. The demo pair knows no facts: what it fills in is of the right form and otherwise its own invention.
"""

from __future__ import annotations

import argparse
from typing import Literal

from pydantic import BaseModel, Field

import colm_cpp as colm


class Pets(BaseModel):
    """What a text says of somebody's pets."""

    owner: str = Field(max_length=20)
    kind: Literal["cat", "dog", "bird"]
    number: int = Field(ge=0, le=99)


def ask(pair: colm.Pair, text: str) -> Pets:
    """What ``text`` says, as an object."""
    messages = [{"role": "user", "content": f"Whose pets are these, of what kind, and how many? {text}"}]
    return Pets.model_validate_json(pair.chat(messages, grammar=Pets, temperature=0, max_tokens=100).text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text")
    parser.add_argument("--pair", default="demo")
    arguments = parser.parse_args()
    with colm.load(arguments.pair) as pair:
        print(repr(ask(pair, arguments.text)))

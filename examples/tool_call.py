"""An agent's step: the pair names a function and its arguments, the program calls it, and the pair answers.

python examples/tool_call.py "What is 12 times 31?" --pair demo

Every call is checked by a grammar made of the functions' JSON schemas, so it can always be carried out. The demo pair
knows no functions and calls any; a chat model such as --pair qwen2.5-coder-0.5b-1.5b chooses by the question.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import colm_cpp as colm

TOOLS: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b,
    "multiply": lambda a, b: a * b,
}
NUMBER = {"type": "integer", "minimum": 0, "maximum": 9999}
CALL = {
    "type": "object",
    "properties": {"name": {"enum": list(TOOLS)}, "a": NUMBER, "b": NUMBER},
    "required": ["name", "a", "b"],
    "additionalProperties": False,
}
INSTRUCTIONS = (
    'Call one function as JSON, such as {"name": "multiply", "a": 12, "b": 31}. '
    f"The functions are: {', '.join(TOOLS)}. "
)


def answer(pair: colm.Pair, question: str) -> tuple[dict[str, Any], int, str]:
    """The call, its result, and the answer made of it."""
    messages = [{"role": "user", "content": INSTRUCTIONS + question}]
    schema = {"type": "json_schema", "json_schema": {"schema": CALL}}
    written = pair.chat(messages, response_format=schema, temperature=0, max_tokens=100).text
    call = json.loads(written)
    result = TOOLS[call["name"]](call["a"], call["b"])
    messages += [
        {"role": "assistant", "content": written},
        {"role": "user", "content": f"The result is {result}. Answer the question in one sentence."},
    ]
    return call, result, pair.chat(messages, temperature=0, max_tokens=60).text


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("question")
    parser.add_argument("--pair", default="demo")
    arguments = parser.parse_args()
    with colm.load(arguments.pair) as pair:
        call, result, text = answer(pair, arguments.question)
    print(f"call: {json.dumps(call)}\nresult: {result}\nanswer: {text.strip()}")

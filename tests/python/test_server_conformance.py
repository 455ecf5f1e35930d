"""OpenAI's Python client, unmodified, against ``colm serve``: every field, errors, clients that leave.

Each answer is compared with what the pair of the same process writes with the options that the field stands for.
"""

from __future__ import annotations

import json
import math
import threading
from typing import Any

import pytest
import server_clients
from server_cases import ADD, CHAT, MESSAGES, PROMPT, SCHEMA, Field
from server_clients import chat, client, get, post
from server_world import World

import colm_cpp as colm

world = server_clients.world


# What an option of the house means does not hang on how the text is sent: those are streamed where there is time.
WAYS_TO_SEND = [
    pytest.param(
        case,
        stream,
        id=f"{case.name}, {'streamed' if stream else 'whole'}",
        marks=[pytest.mark.slow] if stream and case.name.startswith("colm") else [],
    )
    for case in CHAT
    for stream in (False, True)
]


@pytest.mark.parametrize(("case", "stream"), WAYS_TO_SEND)
def test_chat(world: World, case: Field, stream: bool) -> None:
    answer = chat(world, stream=stream, **case.sent)
    options = dict(case.stands_for or {})
    expected = world.pair("demo").chat(MESSAGES, **{"max_tokens": None, **options})
    assert answer.texts == [expected.text]
    assert answer.reasons == ["length" if expected.finish_reason == "length" else "stop"]
    assert [(t["id"], t["text"], t["source"]) for t in answer.tokens[0]] == [
        (t.id, t.text, t.source) for t in expected.tokens
    ]
    for sent, token in zip(answer.tokens[0], expected.tokens, strict=True):
        assert sent["defer_prob"] == pytest.approx(token.defer_prob, abs=1e-3)
    assert answer.stats[0]["generated_tokens"] == expected.stats.generated_tokens
    if "seed" in case.sent:
        assert answer.stats[0]["seed"] == case.sent["seed"]
    if case.sent.get("logprobs"):
        assert len(answer.logprobs[0]) == len(expected.tokens)
        for got, token in zip(answer.logprobs[0], expected.tokens, strict=True):
            assert got.logprob == pytest.approx(token.logprob, abs=1e-3)
            assert bytes(got.bytes).decode() == got.token
            assert [top.token for top in got.top_logprobs] == [top.text for top in token.top_logprobs]
    case.check(answer)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_n(world: World, stream: bool) -> None:
    """Text i has the seed of text 0 plus i, and the prompt counts once."""
    fields: dict[str, Any] = {"temperature": 1.5, "seed": 40, "max_tokens": 20}
    more = {"stream_options": {"include_usage": True}} if stream else {}
    answer = chat(world, stream=stream, model="tiny", n=3, **fields, **more)
    alone = [world.pair("tiny").chat(MESSAGES, **{**fields, "seed": 40 + i}) for i in range(3)]
    assert answer.texts == [text.text for text in alone]
    assert len(set(answer.texts)) == 3
    assert answer.usage.prompt_tokens == alone[0].stats.prompt_tokens
    assert answer.usage.completion_tokens == sum(text.stats.generated_tokens for text in alone)


@pytest.mark.parametrize("wanted", [True, False, None])
def test_include_usage(world: World, wanted: bool | None) -> None:
    """The last chunk, without a choice."""
    more = {} if wanted is None else {"stream_options": {"include_usage": wanted}}
    chunks = list(
        client(world).chat.completions.create(model="demo", messages=MESSAGES, max_tokens=3, stream=True, **more)
    )
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [bool(wanted)]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["length"]
    if wanted:
        assert chunks[-1].choices == []
        assert chunks[-1].usage.completion_tokens == 3


def test_messages(world: World) -> None:
    """Roles, parts of content, and what the template makes of them."""
    pair = world.pair("tiny")
    messages: list[Any] = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
        ]},
        {"role": "tool", "tool_call_id": "c1", "content": "3"},
    ]  # fmt: skip
    plain: list[Any] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "one two"},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
        {"role": "tool", "content": "3"},
    ]
    answer = client(world).chat.completions.create(model="tiny", messages=messages, max_tokens=4, temperature=0)
    assert answer.usage.prompt_tokens == len(pair.tokenize_chat(plain))
    assert answer.choices[0].message.content == pair.chat(plain, max_tokens=4, temperature=0).text
    cached = client(world).chat.completions.create(model="tiny", messages=messages, max_tokens=4, temperature=0)
    assert cached.usage.prompt_tokens_details.cached_tokens > answer.usage.prompt_tokens // 2


def test_what_clients_make_of_a_message_goes_back(world: World) -> None:
    """All fields of the client's object, those that are null and those that the client added."""
    json_schema = {"name": "answer", "schema": SCHEMA, "strict": True}
    fields: dict[str, Any] = {"model": "demo", "temperature": 0}
    answer = client(world).chat.completions.parse(
        messages=MESSAGES, response_format={"type": "json_schema", "json_schema": json_schema}, **fields
    )
    said = answer.choices[0].message
    more = {"parsed": json.loads(said.content), "annotations": [], "audio": None, "function_call": None}
    next_question = {"role": "user", "content": "Why?"}
    plain, whole = (
        client(world).chat.completions.create(messages=[*MESSAGES, one, next_question], max_tokens=2, **fields)
        for one in ({"role": "assistant", "content": said.content}, {**said.model_dump(), **more})
    )
    assert whole.usage.prompt_tokens == plain.usage.prompt_tokens > answer.usage.prompt_tokens


# -- functions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"tool_choice": {"type": "function", "function": {"name": "add"}}}, {"add"}),
        ({"tool_choice": "required", "parallel_tool_calls": False}, {"add", "now"}),
        ({"tool_choice": "required", "seed": 3, "temperature": 1.2}, {"add", "now"}),
        ({"tool_choice": "auto", "logit_bias": {"27": 100}}, None),
        ({"tool_choice": "none"}, set()),
        ({}, None),
    ],
    ids=["named", "one", "several", "auto", "none", "default"],
)
def test_tools(world: World, fields: dict[str, Any], names: set[str] | None, stream: bool) -> None:
    """Random models call functions with valid arguments, because they cannot do otherwise."""
    tools = [
        ADD,
        {
            "type": "function",
            "function": {"name": "now", "parameters": {"type": "object", "additionalProperties": False}},
        },
    ]
    asked = {"temperature": 0, "max_tokens": 300 if names else 40, **fields}
    answer = chat(world, stream=stream, model="tiny", tools=tools, **asked)
    calls = answer.calls[0]
    assert names is None or {name for name, _ in calls} <= names
    if names:
        assert calls
    for name, arguments in calls[:-1] if answer.reasons == ["length"] else calls:
        value = json.loads(arguments)
        assert set(value) == ({"a", "op"} if name == "add" else set())
    if calls and answer.reasons != ["length"]:
        assert answer.reasons == ["tool_calls"]
    assert "<tool_call>" not in answer.texts[0] or names == set()


def test_tools_whole_and_streamed_are_the_same(world: World) -> None:
    fields: dict[str, Any] = {
        "model": "tiny",
        "tools": [ADD],
        "tool_choice": "required",
        "temperature": 0,
        "max_tokens": 300,
    }
    whole, streamed = (chat(world, stream=stream, **fields) for stream in (False, True))
    assert whole.calls == streamed.calls
    assert whole.calls[0]
    assert streamed.n_pieces > 1  # how many depends on how fast the text is written


# -- other routes ------------------------------------------------------------------------------------------------------


def test_models(world: World) -> None:
    names = [model.id for model in client(world).models.list()]
    assert {"demo", "demo@20%", "demo:base", "demo:assistant", "demo:mixture", "tiny", "tiny:base"} <= set(names)
    assert "tiny@20%" not in names  # its head knows no rates
    assert client(world).models.retrieve("demo@33%").id == "demo@33%"


def test_pieces_are_made_where_they_are_asked_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text may have millions of tokens, so no piece is made in the event loop, which other requests need."""
    threads: list[str] = []
    detokenize = colm.Pair.detokenize

    def watched(*given: Any, **more: Any) -> str:
        threads.append(threading.current_thread().name)
        return detokenize(*given, **more)

    monkeypatch.setattr(colm.Pair, "detokenize", watched)
    post(world, "/tokenize", {"prompt": PROMPT})
    assert threads == []
    post(world, "/tokenize", {"content": "Tom", "with_pieces": True})
    assert threads
    assert all(name.startswith("asyncio_") for name in threads)


def test_tokenize(world: World) -> None:
    """vLLM's fields and llama.cpp's, and back."""
    pair = world.pair("demo")
    ids = pair.tokenize(PROMPT)
    found = post(world, "/tokenize", {"model": "demo", "prompt": PROMPT, "return_token_strs": True})
    assert (found["tokens"], found["count"], found["max_model_len"]) == (ids, len(ids), 512)
    assert "".join(found["token_strs"][1:]) == PROMPT
    plain = pair.tokenize(PROMPT, add_special=False)
    assert post(world, "/tokenize", {"prompt": PROMPT, "add_special_tokens": False})["tokens"] == plain
    assert post(world, "/tokenize", {"content": PROMPT, "add_special": False})["tokens"] == plain
    pieces = post(world, "/tokenize", {"content": "Tom", "with_pieces": True})["tokens"]
    assert [piece["id"] for piece in pieces] == pair.tokenize("Tom")
    assert post(world, "/tokenize", {"messages": MESSAGES})["tokens"] == pair.tokenize_chat(MESSAGES)
    back = post(world, "/detokenize", {"tokens": plain})
    assert back == {"prompt": PROMPT, "content": PROMPT}
    info = get(world, "/tokenizer_info").json()
    assert info["eos_token"] == "<|endoftext|>"
    assert info["chat_template"] == pair.base["chat_template"]


def test_metrics_count(world: World) -> None:
    def value(name: str) -> float:
        lines = get(world, "/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    before = value('colm_tokens_total{pair="demo"'), value('colm_texts_total{pair="demo"}')
    done = client(world).completions.create(model="demo", prompt=PROMPT, max_tokens=5, temperature=0)
    assert done.usage.completion_tokens == 5
    assert value('colm_tokens_total{pair="demo"') == before[0] + 5
    assert value('colm_texts_total{pair="demo"}') == before[1] + 1


def test_probabilities_are_finite(world: World) -> None:
    """A banned token has no probability; JSON has no infinity."""
    answer = chat(world, stream=False, model="tiny", max_tokens=3, logprobs=True, top_logprobs=20, temperature=0)
    assert all(math.isfinite(top.logprob) for token in answer.logprobs[0] for top in token.top_logprobs)

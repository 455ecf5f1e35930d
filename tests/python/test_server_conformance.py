"""OpenAI's Python client, unmodified, against ``colm serve``: every field, errors, clients that leave.

Each answer is compared with what the pair of the same process writes with the options that the field stands for.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import pytest
from conftest import TinyModels

import colm_cpp as colm
from colm_cpp.learn.likelihoods import likelihoods
from colm_cpp.server import Settings
from colm_cpp.server.registry import Registry

openai = pytest.importorskip("openai")
pytest.importorskip("prometheus_client")

from server_cases import (  # noqa: E402
    ADD,
    CHAT,
    CHAT_ERRORS,
    COMPLETION_ERRORS,
    MESSAGES,
    PROMPT,
    QUESTION,
    RESPONSES_ERRORS,
    SCHEMA,
    Answer,
    Field,
    own,
)
from server_world import World, demo, running, tiny  # noqa: E402

KEY = "a-key"


@pytest.fixture(scope="module")
def world(tiny_model: TinyModels) -> Iterator[World]:
    registry = Registry(
        [demo(), tiny(tiny_model, n_ctx=1024), tiny(tiny_model, "endless", n_ctx=4096, endless=True)], queue=2
    )
    with running(registry, Settings(api_key=KEY, keep_alive=0.2)) as world:
        client(world).chat.completions.create(model="demo", messages=MESSAGES, max_tokens=1)
        client(world).completions.create(model="tiny", prompt="a", max_tokens=1)
        client(world).completions.create(model="endless", prompt="a", max_tokens=1)
        yield world


def client(world: World, **options: Any) -> Any:
    """The official client, which would try again by itself. Making one takes long."""
    return _client(world.address, tuple(options.items()))


@lru_cache
def _client(address: str, options: tuple[tuple[str, Any], ...]) -> Any:
    return openai.OpenAI(base_url=f"{address}/v1", **{"api_key": KEY, "max_retries": 0, "timeout": 30, **dict(options)})


def chat(world: World, *, stream: bool, model: str = "demo", messages: Any = None, **fields: Any) -> Answer:
    """One request for a chat completion."""
    asked = {"model": model, "messages": MESSAGES if messages is None else messages, **fields}
    if not stream:
        answer = client(world).chat.completions.create(**asked)
        choices = sorted(answer.choices, key=lambda choice: choice.index)
        return Answer(
            texts=[c.message.content or "" for c in choices],
            reasons=[c.finish_reason for c in choices],
            logprobs=[c.logprobs.content if c.logprobs else [] for c in choices],
            calls=[[(t.function.name, t.function.arguments) for t in c.message.tool_calls or []] for c in choices],
            tokens=[c.colm["tokens"] for c in choices],
            stats=[c.colm["stats"] for c in choices],
            usage=answer.usage,
        )
    n = fields.get("n") or 1
    made = Answer([""] * n, [None] * n, *([[] for _ in range(n)] for _ in range(3)), [{}] * n)  # type: ignore[arg-type]
    for chunk in client(world).chat.completions.create(stream=True, **asked):
        made.n_pieces += 1
        made.usage = chunk.usage or made.usage
        for choice in chunk.choices:
            at = choice.index
            made.texts[at] += choice.delta.content or ""
            made.reasons[at] = choice.finish_reason or made.reasons[at]
            made.logprobs[at] += choice.logprobs.content if choice.logprobs else []
            made.tokens[at] += choice.colm["tokens"]
            made.stats[at] = choice.colm.get("stats") or made.stats[at]
            for call in choice.delta.tool_calls or []:
                if call.id is not None:
                    made.calls[at].append((call.function.name, ""))
                name, arguments = made.calls[at][call.index]
                made.calls[at][call.index] = name, arguments + call.function.arguments
    return made


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


# -- completions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("kind", ["text", "ids", "texts", "lists of ids"])
def test_prompts(world: World, kind: str, stream: bool) -> None:
    pair = world.pair("tiny")
    texts = ["The quick fox", "and the dog", "One"]
    ids = [pair.tokenize(text) for text in texts]
    prompt: Any = {"text": texts[0], "ids": ids[0], "texts": texts, "lists of ids": ids}[kind]
    fields: dict[str, Any] = {"max_tokens": 6, "temperature": 0}
    expected = [
        pair.generate(text, **fields).text for text in (texts if kind in ("texts", "lists of ids") else texts[:1])
    ]
    answer = client(world).completions.create(model="tiny", prompt=prompt, stream=stream, **fields)
    if not stream:
        assert [choice.text for choice in answer.choices] == expected
        assert answer.usage.prompt_tokens == sum(map(len, ids[: len(expected)]))
        return
    written = [""] * len(expected)
    for chunk in answer:
        for choice in chunk.choices:
            written[choice.index] += choice.text
    assert written == expected


def test_completion_defaults(world: World) -> None:
    """16 tokens and the house's temperature of texts, as the published API and docs/options.md say."""
    answer = client(world).completions.create(model="tiny", prompt="The quick", seed=9)
    assert answer.choices[0].text == world.pair("tiny").generate("The quick", seed=9, max_tokens=16).text
    assert answer.usage.completion_tokens <= 16


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_completion_logprobs(world: World, stream: bool) -> None:
    fields: dict[str, Any] = {"max_tokens": 6, "temperature": 0, "logprobs": 2}
    answer = client(world).completions.create(model="tiny", prompt="The quick", stream=stream, **fields)
    found: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for chunk in answer if stream else [answer]:
        if chunk.choices[0].logprobs is not None:
            for name, values in found.items():
                values += getattr(chunk.choices[0].logprobs, name)
    expected = world.pair("tiny").generate("The quick", **fields)
    ended = [] if expected.end_token is None else [expected.end_token]
    tokens = [*expected.tokens, *ended]
    assert found["token_logprobs"] == [pytest.approx(token.logprob, abs=1e-3) for token in tokens]
    assert found["text_offset"] == [len("".join(found["tokens"][:i])) for i in range(len(tokens))]
    for top, token in zip(found["top_logprobs"], tokens, strict=True):
        assert top[token.top_logprobs[0].text] == pytest.approx(token.top_logprobs[0].logprob, abs=1e-3)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_echo(world: World, stream: bool) -> None:
    answer = client(world).completions.create(
        model="tiny", prompt="The quick", echo=True, max_tokens=4, temperature=0, stream=stream
    )
    text = "".join(chunk.choices[0].text for chunk in answer) if stream else answer.choices[0].text
    assert text == "The quick" + world.pair("tiny").generate("The quick", max_tokens=4, temperature=0).text


WAYS = {
    "demo": {},
    "demo@20%": {"defer_rate": 0.2},
    "demo:base": {"head": "never"},
    "demo:assistant": {"head": "always"},
    "demo:mixture": {"strategy": "compose", "threshold": 0.0},
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("model", WAYS)
def test_likelihoods(world: World, model: str, stream: bool) -> None:
    """Of each token, what the pair would give it if it were to write there; compared with writing there."""
    pair = world.pair("demo")
    ids = pair.tokenize(f"{PROMPT} At first: 143 * 5 = 715.")
    asked: dict[str, Any] = {
        "model": model,
        "prompt": ids,
        "echo": True,
        "logprobs": 2,
        "max_tokens": 1,
        "temperature": 0,
    }
    answer = client(world).completions.create(stream=stream, **asked)
    logprobs: list[float | None] = []
    tops: list[dict[str, float] | None] = []
    for chunk in answer if stream else [answer]:
        if chunk.choices[0].logprobs is not None:
            logprobs += chunk.choices[0].logprobs.token_logprobs
            tops += chunk.choices[0].logprobs.top_logprobs
    assert len(logprobs) == len(ids) + 1
    assert (logprobs[0], tops[0]) == (None, None)
    sources = set()
    for at in range(len(ids) - 12, len(ids)):
        way: Any = WAYS[model]
        there = pair.generate(ids[:at], max_tokens=1, temperature=0, logprobs=1024, **way)
        token = (*there.tokens, there.end_token)[0]
        assert token is not None
        known = {top.id: top.logprob for top in token.top_logprobs}
        assert logprobs[at] == pytest.approx(known[ids[at]], abs=5e-3)
        top = tops[at]
        assert top is not None
        assert max(top.values()) == pytest.approx(token.top_logprobs[0].logprob, abs=5e-3)
        assert next(iter(top)) == token.top_logprobs[0].text
        sources.add(token.source)
    if model in ("demo", "demo@20%"):
        assert sources == {"base", "assistant"}


def test_likelihoods_as_harnesses_ask(world: World) -> None:
    """Sums over a continuation, and whether it is greedy: the likeliest token has exactly its own log-probability."""
    pair = world.pair("demo")
    written = pair.generate(PROMPT, temperature=0, max_tokens=8)
    context, whole = pair.tokenize(PROMPT), [*pair.tokenize(PROMPT), *(token.id for token in written.tokens)]
    other = [*whole[:-1], 300]
    answer = client(world).completions.create(
        model="demo", prompt=[whole, other], echo=True, logprobs=1, max_tokens=1, temperature=0, seed=1234
    )
    greedy = []
    for choice, expected in zip(answer.choices, (written, None), strict=True):
        logprobs = choice.logprobs.token_logprobs[len(context) : -1]
        tops = choice.logprobs.top_logprobs[len(context) : -1]
        greedy.append(all(p == max(top.values()) for p, top in zip(logprobs, tops, strict=True)))
        if expected is not None:
            assert sum(logprobs) == pytest.approx(sum(token.logprob for token in expected.tokens), abs=1e-2)
    assert greedy == [True, False]


def test_likelihoods_without_a_token(world: World) -> None:
    pair = world.pair("demo")
    prompt = pair.tokenize(PROMPT)
    answer = client(world).completions.create(model="demo:base", prompt=prompt, echo=True, logprobs=0, max_tokens=0)
    head, _ = pair.heads().with_options(colm.GenerationOptions(head="never"))
    scorer = world.registry.entries["demo"].scorer(pair, ["assistant"])
    expected = likelihoods(scorer, [prompt], head, threshold=1.0)[0]
    assert answer.choices[0].logprobs.token_logprobs[1:] == pytest.approx(expected.logprobs, abs=1e-4)
    assert answer.usage.completion_tokens == 0


# -- responses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "stands_for"),
    [
        ({"input": QUESTION, "temperature": 0}, {"temperature": 0, "max_tokens": None}),
        ({"input": MESSAGES, "temperature": 0, "max_output_tokens": 4}, {"temperature": 0, "max_tokens": 4}),
        (
            {"input": QUESTION, "temperature": 0, **own(threshold=0.95)},
            {"temperature": 0, "threshold": 0.95, "max_tokens": None},
        ),
        (
            {
                "input": QUESTION,
                "temperature": 0,
                "text": {"format": {"type": "json_schema", "name": "a", "schema": SCHEMA}},
            },
            {"temperature": 0, "grammar": SCHEMA, "max_tokens": None},
        ),
    ],
    ids=["text", "items", "own", "schema"],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_responses(world: World, fields: dict[str, Any], stands_for: dict[str, Any], stream: bool) -> None:
    expected = world.pair("demo").chat(MESSAGES, **stands_for)
    answer = client(world).responses.create(model="demo", stream=stream, **fields)
    if stream:
        events = list(answer)
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert events[0].type == "response.created"
        assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == expected.text
        assert next(e.text for e in events if e.type == "response.output_text.done") == expected.text
        answer = events[-1].response
    assert answer.output_text == expected.text
    complete = expected.finish_reason != "length"
    assert answer.status == ("completed" if complete else "incomplete")
    assert (answer.incomplete_details is None) == complete
    assert answer.usage.output_tokens == expected.stats.generated_tokens
    assert [token["source"] for token in answer.colm["tokens"]] == [token.source for token in expected.tokens]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_responses_with_tools(world: World, stream: bool) -> None:
    """A call, and its result in the next request."""
    tool = {"type": "function", **ADD["function"]}  # type: ignore[dict-item]
    asked: dict[str, Any] = {"model": "tiny", "tools": [tool], "max_output_tokens": 200, "temperature": 0}
    answer = client(world).responses.create(
        input="Add.", tool_choice={"type": "function", "name": "add"}, stream=stream, **asked
    )
    if stream:
        events = list(answer)
        done = next(e for e in events if e.type == "response.function_call_arguments.done")
        assert "".join(e.delta for e in events if e.type.endswith("arguments.delta")) == done.arguments
        answer = events[-1].response
    call = answer.output[0]
    assert (call.type, call.name) == ("function_call", "add")
    assert json.loads(call.arguments)["a"] in (1, 2, 3)
    items = [{"role": "user", "content": "Add."}, call.model_dump(exclude_none=True)]
    items.append({"type": "function_call_output", "call_id": call.call_id, "output": "3"})
    after = client(world).responses.create(input=items, instructions="Be brief.", tool_choice="none", **asked)
    assert after.status in ("completed", "incomplete")
    assert after.usage.input_tokens > answer.usage.input_tokens


# -- other routes ------------------------------------------------------------------------------------------------------


def test_models(world: World) -> None:
    names = [model.id for model in client(world).models.list()]
    assert {"demo", "demo@20%", "demo:base", "demo:assistant", "demo:mixture", "tiny", "tiny:base"} <= set(names)
    assert "tiny@20%" not in names  # its head knows no rates
    assert client(world).models.retrieve("demo@33%").id == "demo@33%"


def post(world: World, path: str, body: Any) -> Any:
    answer = client(world)._client.post(f"{world.address}{path}", json=body, headers={"Authorization": f"Bearer {KEY}"})
    assert answer.status_code == 200, answer.text
    return answer.json()


def get(world: World, path: str) -> Any:
    return client(world)._client.get(f"{world.address}{path}", headers={"Authorization": f"Bearer {KEY}"})


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


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fields", "status", "param"), CHAT_ERRORS, ids=lambda value: json.dumps(value)[:60])
def test_errors(world: World, fields: dict[str, Any], status: int, param: str | None) -> None:
    with pytest.raises(openai.APIStatusError) as raised:
        client(world).chat.completions.create(**{"model": "demo", "messages": MESSAGES, "max_tokens": 4, **fields})
    assert raised.value.status_code == status
    error = raised.value.body
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    if param is not None:
        assert error["param"] == param


@pytest.mark.parametrize(("fields", "param"), COMPLETION_ERRORS, ids=lambda value: json.dumps(value)[:60])
def test_completion_errors(world: World, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client(world).completions.create(**{"model": "demo", "prompt": "a", **fields})
    if param:
        assert raised.value.body["param"] == param


@pytest.mark.parametrize(("fields", "param"), RESPONSES_ERRORS, ids=lambda value: json.dumps(value)[:50])
def test_responses_errors(world: World, fields: dict[str, Any], param: str | None) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client(world).responses.create(**{"model": "demo", "input": "a", **fields})
    if param is not None:
        assert raised.value.body["param"] == param


@pytest.mark.parametrize("key", ["wrong", ""])
def test_keys(world: World, key: str) -> None:
    with pytest.raises(openai.AuthenticationError) as raised:
        client(world, api_key=key or "x").models.list(extra_headers={} if key else {"Authorization": ""})
    assert raised.value.body["code"] == "invalid_api_key"
    assert client(world)._client.get(f"{world.address}/health").json() == {"status": "ok"}


# -- clients that leave, and a full queue ------------------------------------------------------------------------------


def writing(world: World, name: str = "endless") -> tuple[int, int]:
    turns = world.registry.entries[name].turns
    assert turns is not None
    return turns.writing, turns.waiting


def wait_for(world: World, wanted: tuple[int, int], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while writing(world) != wanted:
        assert time.monotonic() < end, writing(world)
        time.sleep(0.005)


LONG: dict[str, Any] = {"model": "endless", "messages": MESSAGES, "max_tokens": 3000, "stream": True}


@pytest.mark.parametrize("chunks", [1, 3])
def test_a_client_that_leaves_frees_its_slot(world: World, chunks: int) -> None:
    wait_for(world, (0, 0))
    stream = client(world).chat.completions.create(**LONG)
    for _ in zip(range(chunks), stream, strict=False):
        pass
    assert writing(world)[0] == 1
    start = time.monotonic()
    stream.close()
    wait_for(world, (0, 0))
    assert time.monotonic() - start < 1.0  # a step of these models takes a millisecond
    assert len(world.service.texts) == 0


def test_a_client_that_does_not_wait_for_the_whole(world: World) -> None:
    wait_for(world, (0, 0))
    with pytest.raises(openai.APITimeoutError):
        client(world, timeout=0.5).chat.completions.create(**{**LONG, "stream": False})
    wait_for(world, (0, 0))


def test_a_full_queue(world: World) -> None:
    """Four slots and two that wait; the next one is told to come again, and those that wait are told that they do."""
    wait_for(world, (0, 0))
    streams = [client(world).chat.completions.create(**LONG) for _ in range(6)]
    try:
        wait_for(world, (4, 2))
        with pytest.raises(openai.APIStatusError) as raised:
            client(world).chat.completions.create(**LONG)
        assert raised.value.status_code == 503
        assert raised.value.body["code"] == "queue_full"
        assert int(raised.value.response.headers["retry-after"]) >= 1
        time.sleep(0.5)
        raw = streams[-1].response.iter_raw()
        assert b": waiting for a slot" in next(raw) + next(raw)
    finally:
        for stream in streams:
            stream.close()
    wait_for(world, (0, 0))
    assert client(world).completions.create(model="endless", prompt="a", max_tokens=2).usage.completion_tokens == 2


def test_an_async_client(world: World) -> None:
    """Six at a time, each as if it were alone."""
    import asyncio

    async def ask(number: int) -> str:
        async with openai.AsyncOpenAI(base_url=f"{world.address}/v1", api_key=KEY, max_retries=0) as one:
            answer = await one.completions.create(model="tiny", prompt=f"{number} dogs", max_tokens=20, temperature=0)
            text: str = answer.choices[0].text
            return text

    async def ask_all() -> list[str]:
        return list(await asyncio.gather(*map(ask, range(6))))

    pair = world.pair("tiny")
    assert asyncio.run(ask_all()) == [pair.generate(f"{i} dogs", max_tokens=20, temperature=0).text for i in range(6)]


def test_probabilities_are_finite(world: World) -> None:
    """A banned token has no probability; JSON has no infinity."""
    answer = chat(world, stream=False, model="tiny", max_tokens=3, logprobs=True, top_logprobs=20, temperature=0)
    assert all(math.isfinite(top.logprob) for token in answer.logprobs[0] for top in token.top_logprobs)

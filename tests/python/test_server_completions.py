"""OpenAI's Python client against ``colm serve``: completions, and how likely texts are."""

from __future__ import annotations

from typing import Any

import pytest
import server_clients
from server_cases import PROMPT
from server_clients import client
from server_world import World

import colm_cpp as colm
from colm_cpp.learn.likelihoods import likelihoods

world = server_clients.world


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

"""Where a text ends, and what is left of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from conftest import TINY_LOAD, TinyModels, TinyPairs
from engine_calls import (
    ENDLESS_ASSISTANT,
    ENDLESS_BASE,
    PROMPT,
    STOP,
    STOP_ID,
    D,
    SharedPairs,
    assert_counts,
    ids,
    linear_head,
    of,
    run,
)

import colm_cpp as colm


def test_text_ends_when_the_context_is_full(tiny_pair: TinyPairs) -> None:
    pair = tiny_pair(ENDLESS_BASE, ENDLESS_ASSISTANT, n_ctx=40, n_batch=6)
    prompt = pair.tokenize(PROMPT)
    for head in ("confidence", linear_head(pair)):
        for threshold in (0.0, 0.5, 1.0):
            for max_tokens in (None, 1000):
                completion, calls, tokens = run(
                    pair, prompt, head=head, threshold=threshold, max_tokens=max_tokens, seed=1
                )
                assert completion.finish_reason == "length"
                assert len(prompt) + len(tokens) == pair.n_ctx == 40
                assert max(call.position + call.n_tokens for call in calls) == 39
    # One token less than the context leaves room for one; a full context for none.
    full = (prompt * 3)[:40]
    completion, calls, _ = run(pair, full[:39], threshold=0.0)
    assert (len(completion.tokens), completion.finish_reason) == (1, "length")
    completion, calls, _ = run(pair, full)
    assert (completion.text, completion.tokens, completion.finish_reason) == ("", (), "length")
    assert calls == []
    assert_counts(completion, calls)
    with pytest.raises(colm.ContextFull, match="41 tokens") as caught:
        pair.generate([*full, 65])
    assert (caught.value.n_prompt, caught.value.n_ctx) == (41, 40)


@pytest.mark.parametrize("smaller", ["base_options", "assistant_options"])
def test_the_smaller_context_counts(tiny_model: TinyModels, smaller: str) -> None:
    paths = tiny_model(**ENDLESS_BASE), tiny_model(**ENDLESS_ASSISTANT)
    load: dict[str, Any] = {**TINY_LOAD, smaller: {"n_ctx": 32}}
    with colm.load(*paths, "random", **load) as pair:
        assert pair.n_ctx == 32
        completion, _, tokens = run(pair, PROMPT, max_tokens=None, seed=0)
        assert completion.stats.prompt_tokens + len(tokens) == 32
        assert completion.finish_reason == "length"


def test_max_tokens(shared_pairs: SharedPairs) -> None:
    pair = shared_pairs(ENDLESS_BASE, ENDLESS_ASSISTANT)
    completion, calls, _ = run(pair, PROMPT, max_tokens=0)
    assert (completion.text, completion.tokens, completion.finish_reason) == ("", (), "length")
    assert calls == []
    assert_counts(completion, calls)
    for n in (1, 2, 17):
        completion, calls, tokens = run(pair, PROMPT, max_tokens=n, seed=n)
        assert len(tokens) == n
        assert completion.finish_reason == "length"
        assert sum(call.logits for call in of("base", calls)) == n, "nothing is computed beyond the last token"
    with pytest.raises(colm.OptionError, match="max_tokens"):
        pair.generate(PROMPT, max_tokens=-2)


def stop_ends(whole: str, stops: Sequence[str]) -> int:
    """Where a text ends that any of `stops` ends: before the first of them to be complete, or at its end."""
    found = [(whole.index(stop) + len(stop), whole.index(stop)) for stop in stops if stop in whole]
    if not found:
        return len(whole)
    # Of several that one token completes, the first to begin counts.
    return min(found)[1]


def test_stop_strings(shared_pairs: SharedPairs) -> None:
    pair = shared_pairs(ENDLESS_BASE, ENDLESS_ASSISTANT)
    rng = np.random.default_rng(0)
    n_split = n_cut = 0
    for seed in range(5):
        options: dict[str, Any] = {"max_tokens": 60, "seed": seed}
        whole = pair.generate(PROMPT, **options)
        ends = np.cumsum([len(token.text) for token in whole.tokens])
        for _ in range(12):
            start = int(rng.integers(0, len(whole.text) - 8))
            stop = whole.text[start : start + int(rng.integers(1, 9))]
            if "\ufffd" in stop:  # may stand for the beginning of a character that the next token completes
                continue
            at = whole.text.index(stop)
            stopped, calls, tokens = run(pair, PROMPT, stop=stop, **options)
            assert stopped.text == whole.text[:at], stop
            assert stopped.finish_reason == "stop"
            assert stopped.end_token is None
            # The text ends with the token that completes the stop string, which is among the tokens.
            n_tokens = int(np.searchsorted(ends, at + len(stop))) + 1
            assert ids(tokens) == ids(whole.tokens)[:n_tokens]
            n_split += at < len(whole.text) and int(np.searchsorted(ends, at + 1)) + 1 < n_tokens
            n_cut += at not in (0, *ends)
            assert_counts(stopped, calls)
    assert n_split >= 10, "no stop string was spread over tokens"
    assert n_cut >= 3, "no stop string began inside a token"


def test_several_stop_strings(shared_pairs: SharedPairs) -> None:
    pair = shared_pairs(ENDLESS_BASE, ENDLESS_ASSISTANT)
    options: dict[str, Any] = {"max_tokens": 40, "seed": 11}
    whole = pair.generate(PROMPT, **options)
    text = whole.text
    assert len(text) > 40
    never = "never in this text"
    assert pair.generate(PROMPT, stop=never, **options).text == text
    assert pair.generate(PROMPT, stop=[], **options).text == text
    # A text that may yet turn out to be a stop string is only held back.
    begun = [text[10:20] + "\x00", text[-3:] + "\x00"]
    held = pair.generate(PROMPT, stop=begun, **options)
    assert (held.text, held.finish_reason) == (text, "length")
    stops = [never, text[20:24], text[9:12], text[30:31]]
    got = pair.generate(PROMPT, stop=stops, **options)
    assert (got.text, got.finish_reason) == (text[: stop_ends(text, stops)], "stop")
    first = pair.generate(PROMPT, stop=text[:2], **options)
    assert (first.text, first.finish_reason) == ("", "stop")
    assert first.tokens
    assert all(token.text == "" for token in first.tokens)
    with pytest.raises(colm.OptionError, match="stop"):
        pair.generate(PROMPT, stop=["a", ""])


@pytest.mark.parametrize("ender", ["base", "assistant"])
def test_an_end_token_of_one_model_ends_the_text_of_both(shared_pairs: SharedPairs, ender: str) -> None:
    """Whoever of the two knows a token as the end, and whoever chooses it."""
    likely = {"row_scale": {"<|stop|>": 2.5}}
    base = {"vocab": STOP, "extra_tail": (D,), "eos": D, "seed": 31, **likely}
    assistant = {"vocab": STOP, "n_padding": 5, "eos": len(STOP), "arch": "qwen2", "seed": 32, **likely}
    (base if ender == "base" else assistant)["eos"] = "<|stop|>"
    pair = shared_pairs(base, assistant)
    chosen_by, endless = set(), 0
    for seed in range(30):
        completion, calls, tokens = run(pair, PROMPT, head="random", seed=seed, max_tokens=20)
        assert_counts(completion, calls)
        assert STOP_ID not in ids(completion.tokens)
        assert "<|stop|>" not in completion.text
        assert "".join(token.text for token in completion.tokens) == completion.text
        if completion.finish_reason == "eos":
            assert completion.end_token is not None
            assert completion.end_token.id == tokens[-1].id == STOP_ID
            assert completion.end_token.text == ""
            assert completion.stats.generated_tokens == len(completion.tokens) + 1
            chosen_by.add(completion.end_token.source)
        else:
            assert completion.end_token is None
            assert len(completion.tokens) == 20
            endless += 1
    assert chosen_by == {"base", "assistant"}
    assert endless > 0

"""Prompts and generation options that are refused, and those that only look wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import bad_input
import numpy as np
import pytest
from bad_input import INF, NAN, ban, says

import colm_cpp as colm
from colm_cpp import errors

folder = bad_input.folder
pair = bad_input.pair
still_usable = bad_input.still_usable


# -- prompts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("", ["empty"]),
        ([], ["no tokens"]),
        (None, ["NoneType", "token ids"]),
        (5, ["int", "token ids"]),
        (b"text", ["bytes", "token ids"]),
        (bytearray(b"text"), ["bytearray"]),
        ("a\ud800b", ["surrogate", "\\ud800", "character 1"]),
        ([1, -1], ["prompt token 1", "-1", "386"]),
        ([387], ["387", "<|defer|>", "386"]),
        ([388], ["388", "386"]),
        ([2**31], [2**31]),
        ([-(2**70)], [-(2**70)]),
        ([1.0], ["1.0", "whole"]),
        ([np.float32(1)], ["whole"]),
        ([True], ["True", "whole"]),
        ([None], ["None", "whole"]),
        (["a"], ["'a'", "whole"]),
        ([int], ["int", "whole"]),
        ([[1]], ["[1]", "whole"]),
        ([b"a"], ["b'a'", "whole"]),
        pytest.param([10**5000], ["prompt token"], id="huge"),
    ],
    ids=lambda value: ascii(value)[:20],
)
@pytest.mark.usefixtures("still_usable")
def test_prompt(pair: colm.Pair, prompt: Any, parts: list[object]) -> None:
    for attempt in (lambda: pair.generate(prompt), lambda: pair.stream(prompt)):
        with pytest.raises(errors.TokenizeError) as error:
            attempt()
        says(error, *parts)


def test_prompt_longer_than_the_context(pair: colm.Pair) -> None:
    for prompt in ([1] * 65, "!" * 65):
        with pytest.raises(errors.ContextFull) as error:
            pair.generate(prompt)
        assert (error.value.n_prompt, error.value.n_ctx) == (65, 64)
        says(error, 65, 64, "n_ctx")
    assert pair.generate([1] * 64).finish_reason == "length"
    assert pair.generate([1] * 63, seed=1, logit_bias=ban(pair, 384, 386)).stats.generated_tokens == 1


def test_nul_in_a_prompt_is_a_character(pair: colm.Pair) -> None:
    ids = pair.tokenize("a\0b")
    assert len(ids) == 3
    assert pair.detokenize(ids) == "a\0b"
    assert pair.generate("a\0b", max_tokens=1, seed=1).stats.prompt_tokens == 3


@pytest.mark.parametrize("text", [None, 5, b"a", ["a"], "\udfff"], ids=ascii)
def test_tokenize(pair: colm.Pair, text: Any) -> None:
    with pytest.raises(errors.TokenizeError):
        pair.tokenize(text)


@pytest.mark.parametrize("tokens", [None, 5, "abc", b"abc", [-1], [387], [2**40], [1.0], [True]], ids=repr)
def test_detokenize(pair: colm.Pair, tokens: Any) -> None:
    with pytest.raises(errors.TokenizeError):
        pair.detokenize(tokens)


# -- generation options ---------------------------------------------------------------------------------------


GENERATION_OPTIONS: list[tuple[str, object, type[Exception], list[object]]] = [
    ("threshold", 1.5, errors.OptionError, ["threshold", 1.5, "between 0 and 1"]),
    ("threshold", -0.25, errors.OptionError, ["threshold", -0.25]),
    ("threshold", NAN, errors.OptionError, ["threshold", "NaN"]),
    ("threshold", INF, errors.OptionError, ["threshold", "inf"]),
    ("threshold", "high", errors.OptionError, ["threshold", "high"]),
    ("threshold", [0.5], errors.OptionError, ["threshold", [0.5]]),
    ("threshold", 10**400, errors.OptionError, ["threshold"]),
    ("max_tokens", -2, errors.OptionError, ["max_tokens", -2]),
    ("max_tokens", 1.5, errors.OptionError, ["max_tokens", 1.5]),
    ("max_tokens", 2**40, errors.OptionError, ["max_tokens", 2**40]),
    ("max_tokens", int, errors.OptionError, ["max_tokens", "int"]),
    ("temperature", -0.5, errors.OptionError, ["temperature", -0.5, "0 or more"]),
    ("temperature", NAN, errors.OptionError, ["temperature", "NaN"]),
    ("temperature", INF, errors.OptionError, ["temperature", "inf"]),
    ("temperature", 1e300, errors.OptionError, ["temperature"]),
    ("temperature", 10**400, errors.OptionError, ["temperature"]),
    ("temperature", None, errors.OptionError, ["temperature", None]),
    ("temperature", "hot", errors.OptionError, ["temperature", "hot"]),
    ("top_p", 1.5, errors.OptionError, ["top_p", 1.5, "between 0 and 1"]),
    ("top_p", -0.5, errors.OptionError, ["top_p", -0.5]),
    ("top_p", NAN, errors.OptionError, ["top_p", "NaN"]),
    ("min_p", 1.5, errors.OptionError, ["min_p", 1.5]),
    ("min_p", INF, errors.OptionError, ["min_p", "inf"]),
    ("typical_p", 0, errors.OptionError, ["typical_p", 0, "above 0"]),
    ("typical_p", 1.5, errors.OptionError, ["typical_p", 1.5]),
    ("top_n_sigma", -1, errors.OptionError, ["top_n_sigma", -1, "0 or more"]),
    ("top_n_sigma", NAN, errors.OptionError, ["top_n_sigma", "NaN"]),
    ("top_n_sigma", INF, errors.OptionError, ["top_n_sigma", "inf"]),
    ("top_k", 2**31, errors.OptionError, ["top_k", 2**31]),
    ("top_k", 1.5, errors.OptionError, ["top_k", 1.5]),
    ("top_k", NAN, errors.OptionError, ["top_k", "nan"]),
    ("repeat_penalty", 0, errors.OptionError, ["repeat_penalty", 0, "above 0"]),
    ("repeat_penalty", -1, errors.OptionError, ["repeat_penalty", -1]),
    ("repeat_penalty", INF, errors.OptionError, ["repeat_penalty", "inf"]),
    ("frequency_penalty", INF, errors.OptionError, ["frequency_penalty", "inf"]),
    ("presence_penalty", NAN, errors.OptionError, ["presence_penalty", "NaN"]),
    ("seed", -1, errors.OptionError, ["seed", -1, 2**32 - 2]),
    ("seed", 2**32 - 1, errors.OptionError, ["seed", 2**32 - 1, 2**32 - 2]),
    ("seed", 2**40, errors.OptionError, ["seed", 2**40, 2**32 - 2]),
    ("seed", 1.5, errors.OptionError, ["seed", 1.5]),
    ("logprobs", -1, errors.OptionError, ["logprobs", -1]),
    ("logprobs", 2**31, errors.OptionError, ["logprobs", 2**31]),
    ("logprobs", "3", errors.OptionError, ["logprobs", "3"]),
    ("stop", "", errors.OptionError, ["stop", "empty"]),
    ("stop", ["a", ""], errors.OptionError, ["stop", "empty"]),
    ("stop", [1], errors.OptionError, ["stop", 1]),
    ("stop", 5, errors.OptionError, ["stop", 5]),
    ("stop", b"ab", errors.OptionError, ["stop"]),
    ("stop", "a\ud800", errors.OptionError, ["stop", "surrogate"]),
    ("logit_bias", {5: NAN}, errors.OptionError, ["logit_bias", "NaN"]),
    ("logit_bias", {5: INF}, errors.OptionError, ["logit_bias", "inf", "-inf"]),
    ("logit_bias", {5: "x"}, errors.OptionError, ["logit_bias", "x"]),
    ("logit_bias", {-1: 1.0}, errors.OptionError, ["logit_bias", -1, 386]),
    ("logit_bias", {387: 1.0}, errors.OptionError, ["logit_bias", 387, 386]),
    ("logit_bias", {2**40: 1.0}, errors.OptionError, ["logit_bias", 2**40]),
    ("logit_bias", {"a": 1.0}, errors.OptionError, ["logit_bias", "a"]),
    ("logit_bias", [1.0], errors.OptionError, ["logit_bias"]),
    ("strategy", "vote", errors.OptionError, ["strategy", "vote", "compose"]),
    ("strategy", None, errors.OptionError, ["strategy", None]),
    ("beta", -1, errors.OptionError, ["beta", -1]),
    ("beta", INF, errors.OptionError, ["beta", "inf"]),
    ("alpha", 0, errors.OptionError, ["alpha", 0, "above 0"]),
    ("alpha", 2, errors.OptionError, ["alpha", 2]),
    ("schedule", "steps", errors.OptionError, ["schedule", "steps", "cosine"]),
    ("schedule_tokens", -1, errors.OptionError, ["schedule_tokens", -1]),
    ("tempreature", 1.0, TypeError, ["tempreature", "did you mean 'temperature'"]),
    ("zzz", 1.0, TypeError, ["zzz", "temperature"]),
]


@pytest.mark.parametrize(
    ("name", "value", "wanted", "parts"),
    GENERATION_OPTIONS,
    ids=[f"{o[0]}={ascii(o[1])[:20]}" for o in GENERATION_OPTIONS],
)
@pytest.mark.usefixtures("still_usable")
def test_generation_option(
    pair: colm.Pair, name: str, value: object, wanted: type[Exception], parts: list[object]
) -> None:
    for attempt in (
        lambda: pair.stream("the", **{name: value}),
        lambda: pair.chat([{"role": "user", "content": "hi"}], **{name: value}),
    ):
        with pytest.raises(wanted) as error:
            attempt()
        assert error.type is wanted
        says(error, *parts)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1e-45},
        {"temperature": 1e38},
        {"repeat_penalty": 1e-38},
        {"repeat_penalty": 3e38},
        {"frequency_penalty": 3e38},
        {"frequency_penalty": -3e38},
        {"presence_penalty": -3e38},
        {"top_p": 0},
        {"min_p": 1.0},
        {"typical_p": 1e-30},
        {"top_n_sigma": 3.4e38},
        {"top_n_sigma": 1e-45, "typical_p": 1e-30},
        {"top_n_sigma": 1.0, "logit_bias": {5: 3e38}},
        {"top_n_sigma": 1.0, "frequency_penalty": -3.4e38},
        {"top_k": -(2**31)},
        {"top_k": 2**31 - 1},
        {"logit_bias": {5: 3e38}, "repeat_penalty": 1e-30},
        {"logit_bias": {}},
        {"stop": []},
        {"stop": None},
        {"max_tokens": 0},
        {"threshold": None},
        {"threshold": 0},
        {"threshold": 1},
        {"schedule": "exponential", "threshold": 0.0, "schedule_tokens": 2**31 - 1},
        {"strategy": "contrastive", "beta": 1000, "threshold": 0},
        {"strategy": "contrastive", "alpha": 5e-324, "threshold": 0},
        {"seed": 2**32 - 2},
        {"logprobs": 0},
    ],
    ids=str,
)
@pytest.mark.usefixtures("still_usable")
def test_extreme_generation_options(pair: colm.Pair, options: dict[str, Any]) -> None:
    try:
        result = pair.generate("the fox", **{"max_tokens": 5, "seed": 1, **options})
    except errors.GenerationError:
        return
    json.dumps(result.to_dict(), allow_nan=False)
    assert all(0 <= token.id < pair.n_shared for token in result.tokens)


@pytest.mark.parametrize(
    ("grammar", "parts"),
    [
        ("", ["empty"]),
        (" \n", ["empty"]),
        ("root ::= \0", ["NUL"]),
        ('root ::= "\ud800"', ["surrogate"]),
        (5, ["int", "GBNF"]),
        (b"root", ["bytes", "GBNF"]),
        (["a"], ["list", "GBNF"]),
        ('root ::= "a', ["line 1", "column 12", '"']),
        ("root ::= (", ["line 1", ")"]),
        ('other ::= "a"', ["root"]),
        ("root ::= missing", ["missing"]),
        ('root ::= root "a" | "b"', ["left recursion"]),
        ('root ::= a\na ::= b\nb ::= a "x"', ["left recursion"]),
        ('root ::= "a"{99999999999999999999}', ["{99999999999999999999}", 100000]),
        ({"type": 5}, ["schema", "5"]),
        ({"type": "strong"}, ["schema", "strong"]),
        ("{", ["schema"]),
        ("{1: 2}", ["schema"]),
        ({"$ref": "#/nowhere"}, ["schema", "nowhere"]),
        ({"$ref": "http://127.0.0.1:1/x"}, ["schema"]),
        ({"const": {1, 2}}, ["schema"]),
        pytest.param({"enum": object()}, ["schema"], id="an object in a schema"),
    ],
    ids=lambda value: ascii(value)[:30],
)
@pytest.mark.usefixtures("still_usable")
def test_grammar(pair: colm.Pair, capfd: pytest.CaptureFixture[str], grammar: Any, parts: list[object]) -> None:
    with pytest.raises(errors.GrammarError) as error:
        pair.stream("the", grammar=grammar)
    says(error, *parts)
    assert capfd.readouterr() == ("", "")


def test_circular_schema(pair: colm.Pair) -> None:
    schema: dict[str, Any] = {"type": "object"}
    schema["properties"] = {"self": schema}
    with pytest.raises(errors.GrammarError):
        pair.stream("the", grammar=schema)


@pytest.mark.usefixtures("still_usable")
def test_grammar_that_no_token_satisfies(pair: colm.Pair) -> None:
    only = pair.tokenize("\x01")
    assert len(only) == 1
    options: dict[str, Any] = {"grammar": 'root ::= "a" "\\x01"', "logit_bias": ban(pair, *only), "max_tokens": 9}
    stream = pair.stream("the", **options)
    assert next(stream).text == "a"
    with pytest.raises(errors.GenerationError, match="grammar"):
        next(stream)
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(stream)
    assert list(stream) == []
    assert stream.finish_reason != "eos"
    assert stream.stats.generated_tokens == 1
    with pytest.raises(colm.ColmError):
        stream.completion()
    with pytest.raises(errors.GenerationError, match="grammar"):
        pair.generate("the", **options)


@pytest.mark.usefixtures("still_usable")
def test_bias_that_bans_every_token(pair: colm.Pair) -> None:
    with pytest.raises(errors.GenerationError, match="logit_bias"):
        pair.generate("the", logit_bias=ban(pair))


def test_long_options_are_checked_before_loading(tmp_path: Path) -> None:
    with pytest.raises(errors.OptionError, match="top_p"):
        colm.generate("a", base=tmp_path / "no", assistant=tmp_path / "no", head="confidence", top_p=2)

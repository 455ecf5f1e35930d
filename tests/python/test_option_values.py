"""Options out of NumPy, and texts where numbers belong: taken as meant, or refused by name."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from conftest import ids

import colm_cpp as colm
from colm_cpp.options import GenerationOptions, LoadOptions

SCALARS: list[tuple[str, Any, Any]] = [
    ("threshold", np.float32(0.5), 0.5),
    ("defer_rate", np.float64(0.25), 0.25),
    ("target_rate", np.array(0.25), 0.25),
    ("temperature", np.float16(0.5), 0.5),
    ("top_p", Fraction(1, 2), 0.5),
    ("top_k", np.int64(3), 3),
    ("seed", np.uint32(7), 7),
    ("max_tokens", np.int8(4), 4),
    ("logprobs", np.array(2), 2),
    ("schedule_tokens", np.int32(0), 0),
    ("lookahead", np.int64(2), 2),
    ("stop", np.array(["a", "b"]), ["a", "b"]),
    ("stop", np.str_("a"), "a"),
    ("logit_bias", {np.int32(5): np.float32(1.5)}, {5: 1.5}),
    ("strategy", np.str_("compose"), "compose"),
]


@pytest.mark.parametrize(("name", "given", "plain"), SCALARS, ids=[f"{name}-{type(g)}" for name, g, _ in SCALARS])
def test_scalars_are_numbers(pair: colm.Pair, name: str, given: Any, plain: Any) -> None:
    options: dict[str, Any] = {"seed": 1, "max_tokens": 6, "head": "random"}
    one = pair.generate("The sun", **{**options, name: given})
    assert ids(one) == ids(pair.generate("The sun", **{**options, name: plain}))


ARRAYS = [np.array([0.5]), np.array([1, 2]), np.zeros((2, 2)), np.array(["a"]), np.array([]), np.array(None)]
TEXTS = ["0.5", "1", b"1", ""]
NO_TEXT = ("temperature", "threshold", "defer_rate", "target_rate", "beta", "alpha", "top_k", "top_p", "min_p")


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(GenerationOptions)])
def test_arrays_are_refused_by_name(pair: colm.Pair, name: str) -> None:
    for value in ARRAYS:
        if name == "stop" and (value.dtype.kind == "U" or value.size == 0):
            assert GenerationOptions(stop=value).stop == value.tolist()
            continue
        with pytest.raises(colm.ColmError) as error:
            pair.stream("a", **{name: value})
        assert name in str(error.value) or name == "grammar"


@pytest.mark.parametrize("field", dataclasses.fields(LoadOptions), ids=lambda field: field.name)
def test_arrays_are_refused_by_name_when_loading(field: dataclasses.Field[Any]) -> None:
    name = field.name
    for value in ARRAYS:
        if field.type in ("bool", "bool | None") and value.ndim == 0:
            continue  # it is true or false
        if name == "tensor_split" and value.ndim == 1 and value.dtype.kind in "if":
            core = LoadOptions.merge({name: value}, None).to_core("a", 8, 1, [])
            assert core.values["tensor_split"] == value.tolist()
            continue
        with pytest.raises(colm.ColmError) as error:
            LoadOptions.merge({name: value}, None)
        assert name.split("_")[0] in str(error.value)


@pytest.mark.parametrize("name", NO_TEXT)
def test_a_text_is_no_number(pair: colm.Pair, name: str) -> None:
    for options in ({name: value, **head} for value in TEXTS for head in ({}, {"head": "random"})):
        with pytest.raises(colm.OptionError, match=name):
            pair.generate("a", **options)
        (result,) = pair.generate_batch(["a"], each=[options], return_exceptions=True)  # type: ignore[list-item]
        assert isinstance(result, colm.OptionError)


def test_gpu_shares_may_be_an_array() -> None:
    assert LoadOptions(tensor_split=np.array([0.25, 0.75])).to_core("a", 8, 1, []).values["tensor_split"] == [
        0.25,
        0.75,
    ]  # type: ignore[arg-type]
    assert LoadOptions(tensor_split=(1, 2)).to_core("a", 8, 1, []).values["tensor_split"] == [1, 2]


@pytest.mark.parametrize("rate", ["0.5", [0.5], np.array([0.5]), 20, -1, float("nan")], ids=repr)
def test_a_rate_of_a_head_s_table(rate: Any) -> None:
    head = colm.Head.linear([0.0] * 4, rates=(0.1, 0.5), thresholds=(0.8, 0.4))
    with pytest.raises(colm.OptionError, match="rate"):
        head.threshold_for_rate(rate)
    assert head.threshold_for_rate(np.float32(0.5)) == pytest.approx(0.4)

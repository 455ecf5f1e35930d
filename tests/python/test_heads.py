"""colm_cpp.heads.head: the rules of a well-formed head, and its arithmetic."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from made_heads import an_mlp

from colm_cpp.errors import HeadError, OptionError
from colm_cpp.heads.head import ACTIVATIONS, FEATURES, KINDS, Head

RNG = np.random.default_rng(20240306)


# --- making heads -------------------------------------------------------------------------------


def test_constants_are_those_of_the_file_format() -> None:
    assert KINDS == ("linear", "mlp")
    assert ACTIVATIONS == ("relu", "gelu", "silu")
    assert FEATURES == ("log_odds", "entropy", "margin", "top_k_logprobs")


def test_linear_takes_a_vector_and_a_bias() -> None:
    head = Head.linear([1.0, 2.0, 3.0], 0.5)
    assert (head.kind, head.n_embd, head.n_features) == ("linear", 3, 0)
    np.testing.assert_array_equal(head.weights[0], [[1, 2, 3]])
    np.testing.assert_array_equal(head.biases[0], [0.5])


def test_linear_takes_one_row_of_a_matrix() -> None:
    assert Head.linear(np.ones((1, 4))).n_embd == 4


@pytest.mark.parametrize("shape", [(), (2, 4), (1, 1, 4)])
def test_linear_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(HeadError, match="theta"):
        Head.linear(np.ones(shape))


def test_features_are_not_part_of_n_embd() -> None:
    head = Head.linear(np.ones(10), features=["margin", "top_k_logprobs"], top_k=4)
    assert (head.n_embd, head.n_features) == (5, 5)
    assert head.features == ("margin", "top_k_logprobs")


def test_mlp_finds_n_embd_unless_told() -> None:
    assert an_mlp().n_embd == 5
    assert an_mlp(n_embd=5).n_embd == 5
    with pytest.raises(HeadError, match=r"n_embd=6.*\[n_out, 10\]"):
        an_mlp(n_embd=6)


def test_arrays_are_private_read_only_float32() -> None:
    theta = np.asfortranarray(np.arange(8, dtype=np.float64).reshape(2, 4))
    head = Head.mlp([theta, np.ones((1, 2))], [np.zeros(2), np.zeros(1)])
    theta[:] = 99
    assert head.weights[0].dtype == np.float32
    assert head.weights[0].flags.c_contiguous
    np.testing.assert_array_equal(head.weights[0], np.arange(8).reshape(2, 4))
    for array in head.weights + head.biases:
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


def test_a_float32_array_given_is_copied_too() -> None:
    theta = np.ones(3, dtype=np.float32)
    head = Head.linear(theta)
    theta[0] = 7
    assert head.weights[0][0, 0] == 1
    assert theta.flags.writeable


def test_attributes_cannot_be_set() -> None:
    head = Head.linear([1.0])
    with pytest.raises(dataclasses.FrozenInstanceError):
        head.n_embd = 2  # type: ignore[misc]


def test_heads_are_hashable_and_compare_by_identity() -> None:
    a, b = Head.linear([1.0]), Head.linear([1.0])
    assert a == a
    assert a != b
    assert len({a, b}) == 2


def test_replace_changes_a_copy_and_checks_it() -> None:
    head = an_mlp()
    other = head.replace(default_threshold=0.7, name=None)
    assert (other.default_threshold, other.name) == (0.7, None)
    assert (head.default_threshold, head.name) == (0.3, "a head")
    np.testing.assert_array_equal(other.weights[1], head.weights[1])
    with pytest.raises(HeadError, match=r"default_threshold is 1\.5"):
        head.replace(default_threshold=1.5)
    with pytest.raises(TypeError, match="no_such"):
        head.replace(no_such=1)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"kind": "tree"}, r"kind is 'tree'; use one of linear, mlp"),
    ({"kind": "linear"}, r"linear.*\b2\b"),
    ({"activation": "tanh"}, "activation is 'tanh'; use one of relu, gelu, silu"),
    ({"features": ("entropy", "mood")}, "features is 'mood'; use one of log_odds"),
    ({"features": "entropy"}, r"features is 'entropy'; it must be a sequence"),
    ({"features": ("entropy", "entropy")}, "names 'entropy' twice"),
    ({"top_k": 0}, "top_k.* is 0; .* from 1 to 64"),
    ({"top_k": 65}, "top_k.* is 65; .* from 1 to 64"),
    ({"top_k": 2.5}, "top_k.* is 2.5; it must be a whole number"),
    ({"features": ("entropy",)}, "top_k is 3, but features lacks"),
    ({"n_embd": 0}, "n_embd is 0; it must be a whole number from 1"),
    ({"n_embd": True}, "n_embd is True"),
    ({"n_embd": 4}, r"weights\[0\] has shape \(6, 9\), but n_embd=4 and 4 feature"),
    ({"weights": ()}, "weights must be a tuple or list .* at least one"),
    ({"weights": (np.ones((6, 9)),)}, "1 weights but 2 biases"),
    ({"weights": (np.ones((6, 9)), np.ones((1, 5)))}, r"weights\[1\] has shape \(1, 5\), but the 6 output"),
    (
        {"weights": (np.ones((6, 9)), np.ones(6))},
        r"weights\[1\] has shape \(6,\); it must be \[n_out, n_in\]",
    ),
    ({"weights": (np.ones((6, 9)), np.ones((2, 6))), "biases": ([0.0] * 6, [0.0] * 2)}, r"\b2\b"),
    (
        {"weights": (np.ones((0, 9)), np.ones((1, 0))), "biases": ([], [0.0])},
        r"weights\[0\] has shape \(0, 9\)",
    ),
    ({"weights": (np.ones((6, 9)), np.array([["a"] * 6]))}, r"weights\[1\] has dtype <U1"),
    ({"weights": (np.ones((6, 9)), [[1], [1, 2]])}, r"weights\[1\] cannot be read as an array"),
    ({"weights": (np.ones((6, 9)), np.ones((1, 6), dtype=complex))}, r"weights\[1\] has dtype complex128"),
    ({"biases": (np.ones(6), [np.nan])}, r"biases\[1\] has 1 value.* \(nan\) at \[0\]"),
    ({"biases": (np.ones(6), [1e39])}, r"biases\[1\] has 1 value.* not finite in float32.*1e\+39"),
    ({"biases": (np.ones(5), [0.0])}, r"biases\[0\] has shape \(5,\), but weights\[0\] needs \[6\]"),
    ({"biases": (np.ones(6), 0.0)}, r"biases\[1\] has shape \(\); it must be \[n_out\]"),
    ({"name": ""}, "name is ''"),
    ({"base_name": 3}, "base_name is 3"),
    ({"assistant_name": "\ud800"}, "assistant_name is .* UTF-8"),
    ({"vocab_fingerprint": "0123456789abcde"}, "vocab_fingerprint is '0123456789abcde'; .* 16 hexadecimal"),
    ({"vocab_fingerprint": "0123456789abcdeg"}, "vocab_fingerprint.*16"),
    ({"vocab_fingerprint": "0123456789abcdef\n"}, "vocab_fingerprint.*16"),
    ({"default_threshold": -0.1}, "default_threshold is -0.1"),
    ({"default_threshold": math.nan}, "default_threshold is nan"),
    ({"default_threshold": "high"}, "default_threshold is 'high'"),
    ({"thresholds": (1.0, 0.5)}, "3 rates but 2 thresholds"),
    ({"thresholds": (1.0, 0.5, 1.01)}, r"thresholds\[2\] is 1.01"),
    ({"rates": (0.0, 0.5, 1.5)}, r"rates\[2\] is 1.5"),
    ({"rates": (0.0, 0.5, 0.4)}, r"rates\[2\] is 0.4 after 0.5"),
    ({"rates": (0.0, 0.5, 0.5)}, r"rates\[2\] is 0.5 after 0.5"),
    ({"rates": 0.5}, "rates is 0.5"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=range(len(BAD)))
def test_what_is_not_well_formed_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(HeadError, match=message):
        an_mlp().replace(**changes)


def test_a_fingerprint_is_kept_in_lower_case() -> None:
    assert an_mlp(vocab_fingerprint="0123456789ABCDEF").vocab_fingerprint == "0123456789abcdef"


def test_thresholds_are_rounded_as_the_file_rounds_them() -> None:
    assert Head.linear([1.0], default_threshold=0.3).default_threshold == 0.3
    assert Head.linear([1.0], default_threshold=float(np.float32(0.3))).default_threshold == 0.3
    exact = 0.123456789012
    kept = Head.linear([1.0], default_threshold=exact).default_threshold
    assert kept is not None
    assert kept != exact
    assert np.float32(kept) == np.float32(exact)


# --- arithmetic ---------------------------------------------------------------------------------


def test_linear_logits_are_theta_times_input_plus_bias() -> None:
    head = Head.linear([1.0, -2.0, 0.5, 10.0], 0.25, features=["entropy"])
    z = head.defer_logits([[1, 1, 2, 0.1], [0, 3, 0, -1]])
    assert z.dtype == np.float64
    np.testing.assert_allclose(z, [1.25, -15.75], rtol=1e-7)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mlp_logits_agree_with_plain_python(activation: str) -> None:
    def scalar(x: float) -> float:
        if activation == "relu":
            return max(x, 0.0)
        if activation == "silu":
            return x / (1 + math.exp(-x))
        return x * 0.5 * (1 + math.erf(x / math.sqrt(2)))

    head = an_mlp(activation=activation)
    inputs = RNG.normal(size=(7, 9))
    expected = []
    for row in inputs:
        hidden = [
            scalar(sum(float(w) * x for w, x in zip(ws, row, strict=True)) + float(b))
            for ws, b in zip(head.weights[0], head.biases[0], strict=True)
        ]
        expected.append(sum(float(w) * h for w, h in zip(head.weights[1][0], hidden, strict=True)) + 0.5)
    np.testing.assert_allclose(head.defer_logits(inputs), expected, rtol=1e-12)


# Of the exact GELU, to 15 digits; the tanh approximation is 0.841192 at 1.
@pytest.mark.parametrize(
    ("activation", "x", "y"),
    [
        ("gelu", 1.0, 0.841344746068543),
        ("gelu", -3.0, -0.00404969409489031),
        ("gelu", -40.0, 0.0),
        ("silu", 1.0, 0.731058578630005),
        ("silu", -1000.0, 0.0),
        ("silu", 1000.0, 1000.0),
        ("relu", -2.0, 0.0),
    ],
)
@pytest.mark.filterwarnings("error")
def test_activations_at_known_points(activation: str, x: float, y: float) -> None:
    one = np.ones((1, 1))
    head = Head.mlp([one, one], [[0.0], [0.0]], activation=activation)
    assert head.defer_logits([[x]])[0] == pytest.approx(y, rel=1e-12, abs=1e-300)


def test_no_activation_follows_the_last_layer() -> None:
    head = Head.mlp([[[1.0]]], [[0.0]])
    assert head.defer_logits([[-2.0]])[0] == -2.0


def test_no_tokens_give_no_logits() -> None:
    assert an_mlp().defer_logits(np.empty((0, 9))).shape == (0,)


@pytest.mark.parametrize("inputs", [np.ones(9), np.ones((2, 5)), np.ones((1, 2, 9)), [["a"] * 9]])
def test_inputs_of_another_shape_are_refused(inputs: Any) -> None:
    with pytest.raises(OptionError, match=r"inputs .*\[n, 9\]"):
        an_mlp().defer_logits(inputs)


def test_threshold_for_rate_interpolates() -> None:
    head = an_mlp()
    assert head.threshold_for_rate(0.25) == pytest.approx(0.6)
    assert head.threshold_for_rate(0.125) == pytest.approx(0.8)
    assert head.threshold_for_rate(0.5) == pytest.approx(0.4)
    assert (head.threshold_for_rate(0), head.threshold_for_rate(1)) == (1.0, 0.0)


def test_threshold_for_rate_beyond_the_table_is_that_of_its_end() -> None:
    head = Head.linear([1.0], rates=(0.2, 0.4), thresholds=(0.9, 0.7))
    assert (head.threshold_for_rate(0.0), head.threshold_for_rate(1.0)) == (0.9, 0.7)


def test_threshold_for_rate_needs_a_table_and_a_rate() -> None:
    with pytest.raises(HeadError, match=r"calibration table.*calibrate"):
        Head.linear([1.0], name="plain").threshold_for_rate(0.5)
    for rate in (-0.01, 1.01, math.nan):
        with pytest.raises(OptionError, match="rate is"):
            an_mlp().threshold_for_rate(rate)

"""The rules of a well-formed head, one function each; all raise HeadError.

Each takes a caller's value and returns it in the form that the head keeps.
"""

from __future__ import annotations

import itertools
import math
import operator
import re
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from .._shown import shown
from ..errors import HeadError
from .adapters import in_effect

KINDS = ("linear", "mlp")
ACTIVATIONS = ("relu", "gelu", "silu")
FEATURES = ("log_odds", "entropy", "margin", "top_k_logprobs")
MAX_TOP_K = 64
# Limits of a head, the same as in head_file.cpp: a head that cannot be read again is not made.
MAX_EMBD = 2**20
MAX_LAYERS = 64
MAX_WEIGHTS = 2**27
MAX_RATES = 4096
MAX_ADAPTERS = 64
MAX_EXPERTS = 9  # kMostExperts
EXPERT_NAME = r"[A-Za-z][A-Za-z0-9_-]{0,31}"
_MAX_TEXT = 2**20
_MAX_SCALE = float(np.finfo(np.float32).max)


def choice(field: str, value: object, known: tuple[str, ...]) -> str:
    """Check that ``value`` is one of ``known``."""
    if not isinstance(value, str) or value not in known:
        raise HeadError(f"{field} is {shown(value)}; use one of {', '.join(known)}")
    return value


def integer(field: str, value: object, low: int, high: int) -> int:
    """Check that ``value`` is a whole number from ``low`` to ``high``, both included."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # a wrong type is what is caught here
    except TypeError:
        raise HeadError(f"{field} is {shown(value)}; it must be a whole number") from None
    if isinstance(value, bool) or not low <= number <= high:
        raise HeadError(f"{field} is {shown(value)}; it must be a whole number from {low} to {high}")
    return number


def feature_names(value: object) -> tuple[str, ...]:
    """Check that the features are known and that none is named twice."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise HeadError(f"features is {shown(value)}; it must be a sequence of names, such as ('entropy',)")
    names = tuple(choice("features", item, FEATURES) for item in value)
    for i, item in enumerate(names):
        if item in names[:i]:
            raise HeadError(f"features names {shown(item)} twice; name each feature once")
    return names


def top_k(value: object, features: tuple[str, ...]) -> int:
    """Check that top_k is 1 to 64 with the feature that it belongs to, else 0."""
    if "top_k_logprobs" in features:
        return integer("top_k (with the feature top_k_logprobs)", value, 1, MAX_TOP_K)
    if integer("top_k", value, 0, MAX_TOP_K) != 0:
        raise HeadError(f"top_k is {shown(value)}, but features lacks 'top_k_logprobs'; add it, or set top_k to 0")
    return 0


def count_features(features: tuple[str, ...], k: object) -> int:
    """How many numbers ``features`` stands for."""
    k = top_k(k, features)
    return sum(k if item == "top_k_logprobs" else 1 for item in features)


def array(field: str, value: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Copy ``value`` into a contiguous, read-only, finite float32 array."""
    try:
        given = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as exc:  # RuntimeError: a torch tensor that needs a gradient
        raise HeadError(f"{field} cannot be read as an array of numbers: {exc}") from exc
    if given.dtype.kind not in "fiu":
        raise HeadError(f"{field} has dtype {given.dtype}; it must hold real numbers")
    with np.errstate(over="ignore"):  # beyond float32 becomes inf, which is refused below
        copy = np.array(given, dtype=np.float32, order="C", copy=True)
    bad = np.argwhere(~np.isfinite(copy))
    if bad.size:
        where = [int(i) for i in bad[0]]
        raise HeadError(
            f"{field} has {len(bad)} value(s) that are not finite in float32, the first "
            f"({given[tuple(where)]}) at {where}; the training diverged, or the file is damaged"
        )
    copy.setflags(write=False)
    return copy


def arrays(field: str, value: object, ndim: int) -> tuple[npt.NDArray[np.float32], ...]:
    """Check a sequence of at least one array, each with ``ndim`` dimensions."""
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        raise HeadError(f"{field} must be a tuple or list with one array for each layer, and at least one array")
    out = tuple(array(f"{field}[{i}]", item) for i, item in enumerate(value))
    for i, item in enumerate(out):
        if item.ndim != ndim:
            wanted = "[n_out, n_in]" if ndim == 2 else "[n_out]"
            raise HeadError(f"{field}[{i}] has shape {item.shape}; it must be {wanted}")
    return out


def layer_chain(
    kind: str,
    weights: tuple[npt.NDArray[np.float32], ...],
    biases: tuple[npt.NDArray[np.float32], ...],
    n_embd: int,
    n_features: int,
    n_experts: int = 1,
) -> None:
    """Check that every layer takes what the one before it gives, and the last gives a number for each expert."""
    if len(weights) != len(biases):
        raise HeadError(f"there are {len(weights)} weights but {len(biases)} biases; give one of each for every layer")
    if len(weights) > MAX_LAYERS:
        raise HeadError(f"there are {len(weights)} layers; a head has at most {MAX_LAYERS}")
    n_weights = sum(weight.size for weight in weights)
    if n_weights > MAX_WEIGHTS:
        raise HeadError(f"the layers have {n_weights} weights; a head has at most {MAX_WEIGHTS}")
    if kind == "linear" and len(weights) != 1:
        raise HeadError(f"a linear head has 1 layer, but {len(weights)} were given; use kind='mlp'")
    n_in = n_embd + n_features
    source = f"n_embd={n_embd} and {n_features} feature(s)"
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        if weight.shape[0] < 1 or weight.shape[1] != n_in:
            raise HeadError(f"weights[{i}] has shape {weight.shape}, but {source} need [n_out, {n_in}]")
        if bias.shape != (weight.shape[0],):
            raise HeadError(f"biases[{i}] has shape {bias.shape}, but weights[{i}] needs [{weight.shape[0]}]")
        n_in = weight.shape[0]
        source = f"the {n_in} output(s) of weights[{i}]"
    if n_in != n_experts:
        raise HeadError(
            f"the last layer has {n_in} outputs, and the head is for {n_experts} expert{'s' * (n_experts > 1)}; it "
            "gives one number for each, and expert_names names them"
        )


def text(field: str, value: object) -> None:
    """Check an optional text that the file can hold."""
    if value is None:
        return
    if not isinstance(value, str) or not value:
        raise HeadError(f"{field} is {shown(value)}; it must be a str that is not empty, or None")
    if len(value) > _MAX_TEXT:
        raise HeadError(f"{field} has {len(value)} characters; a head file holds at most {_MAX_TEXT}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise HeadError(f"{field} is {shown(value)}, which cannot be written as UTF-8: {exc.reason}") from exc


def names_of_experts(value: object) -> tuple[str, ...]:
    """Check the names of the experts: short words, each once."""
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) > MAX_EXPERTS:
        raise HeadError(f"expert_names is {shown(value)}; it must be a sequence of at most {MAX_EXPERTS} names")
    for i, name in enumerate(value):
        if not isinstance(name, str) or re.fullmatch(EXPERT_NAME, name) is None or name == "base":
            raise HeadError(
                f"expert_names holds {shown(name)}; give a letter and at most 31 more letters, digits, '-' and '_', "
                "but not 'base'"
            )
        if name in value[:i]:
            raise HeadError(f"expert_names names {shown(name)} twice; name each expert once")
    return tuple(value)


def fingerprint(value: object) -> str | None:
    """Check an optional vocabulary fingerprint."""
    if value is None:
        return None
    if not isinstance(value, str) or re.fullmatch(r"[0-9a-fA-F]{16}", value) is None:
        raise HeadError(f"vocab_fingerprint is {shown(value)}; it must be 16 hexadecimal digits, or None")
    return value.lower()


def adapters(value: object) -> tuple[tuple[str, float], ...] | None:
    """Check the optional adapters of the base: SHA-256 and scale of each."""
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) > MAX_ADAPTERS:
        raise HeadError(f"base_adapters is {shown(value)}; it must be a sequence of at most {MAX_ADAPTERS}, or None")
    for entry in value:
        if not isinstance(entry, Sequence) or len(entry) != 2 or not isinstance(entry[1], int | float):
            raise HeadError(f"base_adapters holds {shown(entry)}; each entry must be a SHA-256 and a scale")
        if not isinstance(entry[0], str) or re.fullmatch(r"[0-9a-f]{64}", entry[0]) is None:
            raise HeadError(f"base_adapters holds {shown(entry[0])}; a SHA-256 has 64 hexadecimal digits")
        if not math.isfinite(entry[1]) or abs(entry[1]) > _MAX_SCALE:
            raise HeadError(f"base_adapters holds the scale {shown(entry[1])}; it must be finite in float32")
    return in_effect((digest, scale) for digest, scale in value)


def unit(field: str, value: object) -> float:
    """Check a number in [0, 1] and round it to float32.

    The result is the shortest decimal that float32 rounds to the same number: 0.3 stays 0.3, and
    what comes back from a file (0.300000012) becomes 0.3 again.
    """
    try:
        number = float(value)  # type: ignore[arg-type]  # a wrong type is what is caught here
    except (TypeError, ValueError, OverflowError):
        raise HeadError(f"{field} is {shown(value)}; it must be a number from 0 to 1") from None
    if not 0.0 <= number <= 1.0:  # also refuses NaN
        raise HeadError(f"{field} is {shown(value)}; it must lie between 0 and 1")
    return float(str(np.float32(number)))


def units(field: str, value: object) -> tuple[float, ...]:
    """Check a sequence of numbers in [0, 1]."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise HeadError(f"{field} is {shown(value)}; it must be a sequence of numbers from 0 to 1")
    value = list(itertools.islice(value, MAX_RATES + 1))
    if len(value) > MAX_RATES:
        raise HeadError(f"{field} has more than {MAX_RATES} numbers; a calibration table holds at most {MAX_RATES}")
    return tuple(unit(f"{field}[{i}]", item) for i, item in enumerate(value))


def calibration(rates: tuple[float, ...], thresholds: tuple[float, ...]) -> None:
    """Check that the two columns of the calibration table belong together."""
    if len(rates) != len(thresholds):
        raise HeadError(f"there are {len(rates)} rates but {len(thresholds)} thresholds; give one for each rate")
    for i in range(1, len(rates)):
        # Equal rates too: between them the interpolation would not be defined.
        if rates[i] <= rates[i - 1]:
            raise HeadError(
                f"rates[{i}] is {rates[i]} after {rates[i - 1]}; sort the table by rate and keep one threshold per rate"
            )

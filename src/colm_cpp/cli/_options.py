"""Command-line options out of the dataclasses of :mod:`colm_cpp.options`: names, types and defaults are theirs."""

from __future__ import annotations

import dataclasses
import os
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from ..errors import OptionError
from ..heads.head import Head
from ..options import GenerationOptions, GenerationOptionsDict, LoadOptions, LoadOptionsDict, reject_unknown
from ._help import Option

__all__ = ["GENERATION", "LOAD", "collect", "from_table", "model_options", "read_model_options"]

Command = TypeVar("Command", bound=Callable[..., Any])

if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # not generic in older versions of click


class _Floats(_ParamType):
    name = "NUMBERS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[float]:
        try:
            return [float(number) for number in value.split(",")]
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers; separate the numbers by commas, such as 1,2", param, ctx)


class _Bias(_ParamType):
    name = "ID=BIAS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, float]:
        token, _, bias = value.partition("=")
        try:
            return int(token), float(bias)
        except ValueError:
            self.fail(
                f"{value!r} is not ID=BIAS; give a token id and a number, such as 42=1.5 (-inf bans the token)",
                param,
                ctx,
            )


class _Lookahead(_ParamType):
    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value == "auto":
            return "auto"
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r} is neither a whole number nor 'auto'; give 0 to 15, or auto", param, ctx)


class _Adapter(_ParamType):
    name = "PATH[:SCALE]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        path, colon, scale = value.rpartition(":")
        if not colon or not path or os.path.exists(value):
            return value, 1.0
        try:
            return path, float(scale)
        except ValueError:  # a colon of the path's own, as in C:\lora.gguf or hf:org/repo/lora.gguf
            return value, 1.0


@dataclass(frozen=True)
class Spec:
    """One option, derived from a field of a dataclass."""

    name: str
    help: str
    type: click.ParamType[Any]
    default: Any
    optional: bool
    multiple: bool

    def decorator(self, section: str) -> Callable[[Command], Command]:
        """What adds it to a command. Its value stays None (or empty) unless it is given."""
        flag = self.name.removeprefix("use_").replace("_", "-")
        is_flag = self.type is click.BOOL
        shown = str(self.default)
        if is_flag and self.default is not None:
            shown = flag if self.default else f"no-{flag}"
        text = self.help if self.default is None or self.multiple else f"{self.help} [default: {shown}]"
        return click.option(
            f"--{flag}/--no-{flag}" if is_flag else f"--{flag}",
            self.name,
            cls=Option,
            section=section,
            type=None if is_flag else self.type,
            default=None,
            multiple=self.multiple,
            help=text,
        )


# Types that the annotation alone does not give: (type, may be repeated).
_SPECIAL: dict[str, tuple[click.ParamType[Any], bool]] = {
    "tensor_split": (_Floats(), False),
    "lora": (_Adapter(), True),
    "stop": (click.STRING, True),
    "logit_bias": (_Bias(), True),
    "lookahead": (_Lookahead(), False),
}


def _table(options: type, hints: Mapping[str, Any], helps: Mapping[str, str]) -> dict[str, Spec]:
    defaults = {field.name: field.default for field in dataclasses.fields(options)}
    table = {}
    for name, text in helps.items():
        hint = hints[name]
        optional = type(None) in typing.get_args(hint)
        if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
            hint = next(part for part in typing.get_args(hint) if part is not type(None))
        kind, multiple = _SPECIAL.get(name, (None, False))
        if kind is None and typing.get_origin(hint) is Literal:
            kind = click.Choice(typing.get_args(hint))
        kind = kind or {bool: click.BOOL, int: click.INT, float: click.FLOAT}[hint]
        table[name] = Spec(name, text, kind, defaults[name], optional, multiple)
    return table


LOAD = _table(
    LoadOptions,
    typing.get_type_hints(LoadOptionsDict),
    {
        "n_ctx": "Context length in tokens; 0: the length that the model was trained with. Unset: 4096, or the "
        "trained length if it is shorter.",
        "n_batch": "Maximum tokens per llama.cpp call during prefill.",
        "n_ubatch": "Maximum tokens per forward pass. Unset: 128, or 512 with a GPU.",
        "n_threads": "Threads for decoding single tokens. Unset: the number of usable physical cores.",
        "n_threads_batch": "Threads for prefill. Unset: the value of --n-threads.",
        "n_gpu_layers": "Number of layers on the GPU; -1: all.",
        "main_gpu": "The GPU that holds the whole model when --split-mode is none.",
        "split_mode": "How to split a model over several GPUs.",
        "tensor_split": "Share of the model for each GPU, such as 1,2. Unset: in proportion to free memory.",
        "offload_kqv": "Keep the KV cache on the GPU.",
        "flash_attn": "Use flash attention. Unset: on if the device supports it, off with an f32 KV cache.",
        "type_k": "Data type of the keys in the KV cache.",
        "type_v": "Data type of the values in the KV cache.",
        "swa_full": "Keep a full-size KV cache for sliding-window layers.",
        "repack": "Store the weights in a layout that is faster on this CPU.",
        "batch_invariant": "Compute the same logits for a text whatever else is in the batch; slower.",
        "use_mmap": "Map the model file into memory instead of reading it. Unset: on, unless its weights are repacked "
        "for the CPU.",
        "use_mlock": "Lock the models in RAM, so that they are not swapped out.",
        "huge_pages": "On Linux, keep weights that are not mapped in huge pages, which are faster.",
        "rope_freq_base": "RoPE base frequency; 0: the model's own value.",
        "rope_freq_scale": "RoPE frequency scale; 0: the model's own value.",
        "lora": "A LoRA adapter to apply. SCALE is 1 unless given. Repeatable.",
    },
)
GENERATION = _table(
    GenerationOptions,
    typing.get_type_hints(GenerationOptionsDict, localns={"Head": Head}),
    {
        "threshold": "Defer when the defer probability exceeds this value; 1: never defer. Unset: the head's default, "
        "or 0.5.",
        "defer_rate": "Share of tokens to defer, 0 to 1. The head's calibration table gives the threshold. Replaces "
        "--threshold.",
        "target_rate": "Adjust the threshold during the text, so that this share of its tokens is deferred.",
        "hold": "Number of tokens that the assistant writes each time that the head defers. The head is not asked "
        "between them.",
        "leave_threshold": "After a token of the assistant, defer when the defer probability exceeds this value, not "
        "--threshold. A lower value makes runs longer. Unset: the same.",
        "strategy": "Distribution to sample from when the head defers: the assistant's (defer), a mixture of both "
        "models (compose), or their contrast (contrastive).",
        "beta": "Weight of the base with --strategy contrastive.",
        "alpha": "With --strategy contrastive: drop tokens whose probability is below this share of the assistant's "
        "top probability.",
        "schedule": "How the threshold falls from 1 to its value during the first --schedule-tokens tokens.",
        "schedule_tokens": "Length of the --schedule in tokens.",
        "max_tokens": "Maximum number of new tokens; -1: until the context is full.",
        "temperature": "Sampling temperature; 0 is greedy. With --chat the default is 0.2.",
        "top_k": "Keep the k most likely tokens; 0 is off.",
        "top_p": "Nucleus sampling; 1 is off.",
        "min_p": "Drop tokens whose probability is below this share of the top probability; 0 is off.",
        "typical_p": "Locally typical sampling; 1 is off.",
        "repeat_penalty": "Divide the logits of recent tokens by this number; 1 is off.",
        "frequency_penalty": "Subtract this from a logit for each recent occurrence of the token; 0 is off.",
        "presence_penalty": "Subtract this once from the logit of each recent token; 0 is off.",
        "seed": "Seed for sampling and for the 'random' head. Unset: a random seed, which is reported.",
        "stop": "End the text just before this string. Repeatable.",
        "logit_bias": "Add BIAS to the logit of token ID; -inf bans the token. Repeatable.",
        "logprobs": "Report this many of the most likely tokens at each position, in --json and --trace.",
        "lookahead": "Maximum number of deferred tokens that the base drafts before the assistant verifies them, "
        "0 to 15 or auto.",
    },
)


def from_table(
    table: Mapping[str, Spec], section: str, only: Iterable[str] | None = None
) -> Callable[[Command], Command]:
    """A decorator that adds the options of ``table``, all or those named in ``only``."""

    def decorate(command: Command) -> Command:
        for name in reversed(list(table if only is None else only)):
            command = table[name].decorator(section)(command)
        return command

    return decorate


def _final(name: str, value: Any) -> Any:
    """A command-line value in the form of the Python API."""
    if name == "logit_bias":
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


def collect(table: Mapping[str, Spec], values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``values`` that belong to ``table`` and were given."""
    given = {name: value for name, value in values.items() if name in table and value is not None and value != ()}
    return {name: _final(name, value) for name, value in given.items()}


class _ModelOption(_ParamType):
    name = "NAME=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        name, equals, text = value.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            self.fail(f"{value!r} has no '='; give a loading option and its value, such as n_ctx=2048", param, ctx)
        try:
            reject_unknown({name: text}, LoadOptions, param.opts[0] if param else "loading")
        except TypeError as error:
            raise OptionError(str(error)) from None
        spec = LOAD[name]
        if spec.optional and text.lower() == "none":
            return name, None
        return name, spec.type.convert(text, param, ctx)


def model_options(command: Command) -> Command:
    """Adds ``--base-option`` and ``--assistant-option``."""
    for model in ("assistant", "base"):
        command = click.option(
            f"--{model}-option",
            cls=Option,
            section="Loading",
            type=_ModelOption(),
            multiple=True,
            help=f"A loading option for the {model} only, such as n_ctx=2048. Repeatable.",
        )(command)
    return command


def read_model_options(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The values of ``--base-option`` as a dict; the last one of a name counts, adapters add up."""
    options: dict[str, Any] = {}
    for name, value in pairs:
        options[name] = [*options.get(name, []), value] if LOAD[name].multiple else value
    return options

"""Every option of the Python API, once: name, default, meaning, range."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

import numpy as np

from . import _core
from ._numbers import flag, integer, real, share
from ._shown import shown
from .errors import OptionError
from .files.paths import to_native
from .grammar.gbnf import response_grammar, to_gbnf
from .heads.adapters import adapter_digest

if TYPE_CHECKING:
    from .heads.head import Head

__all__ = ["GenerationOptions", "GenerationOptionsDict", "LoadOptions", "LoadOptionsDict", "WritingOptionsDict"]

PathLike = str | os.PathLike[str]
KVType = Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"]
StrategyName = Literal["defer", "compose", "contrastive"]
STRATEGIES: tuple[StrategyName, ...] = get_args(StrategyName)
ScheduleName = Literal["constant", "linear", "cosine", "exponential"]

# ggml_type
_KV_TYPES = {
    "f32": 0,
    "f16": 1,
    "q4_0": 2,
    "q4_1": 3,
    "q5_0": 6,
    "q5_1": 7,
    "q8_0": 8,
    "iq4_nl": 20,
    "bf16": 30,
}
_SPLIT_MODES = {"none": 0, "layer": 1, "row": 2}
DEFAULT_N_CTX = 4096
CPU_N_UBATCH = 128
LONG_N_UBATCH = 512
_MAX_FLOAT = 3.4028234663852886e38  # float32
# llama.cpp reads this seed as "draw one".
MAX_SEED = 2**32 - 2
MAX_LOOKAHEAD = 15
MOST_RUN_OUTPUTS = 8  # kMostRunOutputs
# Defaults for answers in ``learn`` and in its commands.
ANSWER_OPTIONS: Mapping[str, Any] = MappingProxyType({"max_tokens": 512, "temperature": 0.0, "seed": 0})
# Names that other libraries give to the option for a JSON schema.
_GRAMMAR_NAMES = ("json_schema", "schema", "guided_json", "format")
_AUTO_LOOKAHEAD = -1  # kAutoLookahead
_DECIMAL = re.compile(r"-?[0-9]{1,10}")


def choice(name: str, value: object, choices: Sequence[str]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise OptionError(f"{name} is {shown(value)}; it must be one of {', '.join(choices)}")


def _lookahead(value: object) -> int:
    if isinstance(value, str):
        if value == "auto":
            return _AUTO_LOOKAHEAD
        raise OptionError(f'lookahead is {shown(value)}; give "auto" or a whole number from 0 to {MAX_LOOKAHEAD}')
    return integer("lookahead", value, 0, MAX_LOOKAHEAD)


def option_dict(name: str, given: object) -> Mapping[str, Any]:
    """Options as a caller gives them; none for None.

    Raises:
        OptionError: they are no dict whose keys are names.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise OptionError(f"{name} is {shown(given)}; give a dict of options by name")
    return given


def reject_unknown(given: Mapping[str, object], known: type, what: str) -> None:
    """Raises TypeError for a name that is no field of the dataclass ``known``."""
    names = [field.name for field in dataclasses.fields(known)]
    for name in given:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(names)}"
            if "grammar" in names and name in _GRAMMAR_NAMES:
                hint = "; give the JSON schema as grammar="
            raise TypeError(f"{what} has no option {shown(name)}{hint}")


class LoadOptionsDict(TypedDict, total=False):
    """Keyword arguments of :func:`colm_cpp.load`; see :class:`LoadOptions`."""

    n_ctx: int | None
    n_batch: int
    n_ubatch: int | None
    n_threads: int | None
    n_threads_batch: int | None
    n_gpu_layers: int
    main_gpu: int
    split_mode: Literal["none", "layer", "row"]
    tensor_split: Sequence[float] | None
    offload_kqv: bool
    flash_attn: bool | None
    type_k: KVType
    type_v: KVType
    swa_full: bool
    repack: bool
    batch_invariant: bool
    use_mmap: bool | None
    use_mlock: bool
    huge_pages: bool
    rope_freq_base: float
    rope_freq_scale: float
    lora: PathLike | Sequence[PathLike | tuple[PathLike, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How one model is loaded. Names and meaning are those of ``llama_cpp.Llama``.

    Attributes:
        n_ctx: context size in tokens, prompt and text together (at least 2). None: 4096, or the context length that
            both models were trained with if that is less. 0: the length that this model was trained with.
        n_batch: the most tokens in one llama.cpp call during prefill.
        n_ubatch: the most tokens in one pass of the graph. A value above ``n_batch`` counts as ``n_batch``. None: 128
            on a CPU, which is as fast as 512 and takes a quarter of the memory; 512 with layers on a GPU and for
            :class:`colm_cpp.learn.Scorer`.
        n_threads: threads for single tokens. None: one for each physical core that the process's affinity and its
            control group's CPU quota allow. A file below 16 MiB gets one thread, because more threads would wait for
            each other longer than they compute.
        n_threads_batch: threads for prefill. None: ``n_threads``.
        n_gpu_layers: layers on the GPU; -1 is all, 0 is none. It has no effect if llama-cpp-python has no GPU.
        main_gpu: the GPU that holds the model with ``split_mode="none"``.
        split_mode: how several GPUs share the model.
        tensor_split: each GPU's share of the model. None: in proportion to the GPUs' free memory.
        offload_kqv: keep the KV cache on the GPU.
        flash_attn: flash attention on or off. None: on where the device supports it, but off with an f32 cache. True
            reads an f32 cache as f16; f32 then takes more memory and gains nothing.
        type_k: type of the K cache. ``"f32"`` keeps the precision of a float32 model. It takes twice the memory of f16.
        type_v: type of the V cache. Quantised types need flash attention, even with an f32 K cache.
        swa_full: full-size cache for sliding-window layers. Without it, going back to a shorter prefix needs a new
            prefill.
        repack: keep weights in a layout that suits this CPU, if llama.cpp has one for their type. Single tokens are
            faster with it. On some CPUs the prefill is faster without it.
        batch_invariant: give every token the same logits, bit for bit, alone and in a batch. Look-ahead and batches
            then write exactly the text that the model writes alone. By default llama.cpp's kernels round larger
            batches differently. Loading measures the largest batch that is exact, which takes some seconds. A pass of
            the graph is then no longer than that and no longer than ``n_ubatch``, weights are not repacked, and an f16
            cache becomes bf16. Prefill is slower, and on many CPUs single tokens are too.
        use_mmap: map the file instead of reading it. None: map it, except where weights are repacked for the CPU.
            Repacking copies the weights, and the mapped file would take memory beside the copies.
        use_mlock: keep the model in RAM.
        huge_pages: ask Linux for pages of 2 MB where weights are read or repacked into memory, unless its setting is
            "never". Every token reads all weights, and larger pages make that faster. A file that is mapped
            (``use_mmap``) stays in pages of the system's choice. It has no effect on other systems.
        rope_freq_base: RoPE base frequency; 0: the model's own.
        rope_freq_scale: RoPE frequency scale; 0: the model's own.
        lora: a LoRA adapter, or a list of them. Each is a path or ``(path, scale)``; the scale defaults to 1.
    """

    n_ctx: int | None = None
    n_batch: int = 512
    n_ubatch: int | None = None
    n_threads: int | None = None
    n_threads_batch: int | None = None
    n_gpu_layers: int = -1
    main_gpu: int = 0
    split_mode: str = "layer"
    tensor_split: Sequence[float] | None = None
    offload_kqv: bool = True
    flash_attn: bool | None = None
    type_k: str = "f16"
    type_v: str = "f16"
    swa_full: bool = True
    repack: bool = True
    batch_invariant: bool = False
    use_mmap: bool | None = None
    use_mlock: bool = False
    huge_pages: bool = True
    rope_freq_base: float = 0.0
    rope_freq_scale: float = 0.0
    lora: PathLike | Sequence[PathLike | tuple[PathLike, float]] = ()

    @classmethod
    def merge(cls, shared: Mapping[str, Any], own: Mapping[str, Any] | None) -> LoadOptions:
        """Options of one model: ``shared`` ones, replaced by its ``own`` where both have a name.

        Raises:
            TypeError: an unknown name.
            OptionError: a value outside its range.
        """
        merged = {**shared, **(own or {})}
        reject_unknown(merged, cls, "load()")
        return cls(**merged)

    @classmethod
    def of_both(
        cls, shared: Mapping[str, Any], base_options: object, assistant_options: object
    ) -> tuple[LoadOptions, LoadOptions]:
        """Base's and assistant's options, as :func:`colm_cpp.load` is given them. Errors are those of :meth:`merge`."""
        return (
            cls.merge(shared, option_dict("base_options", base_options)),
            cls.merge(shared, option_dict("assistant_options", assistant_options)),
        )

    def __post_init__(self) -> None:
        # Whole numbers are kept as int: sums and products of small NumPy scalars overflow.
        if self.n_ctx is not None and self._keep_integer("n_ctx", 0, 2**28) == 1:
            raise OptionError("n_ctx is 1; it must be from 2 to 268435456, or 0 for the model's own context length")
        self._keep_integer("n_batch", 1, 2**20)
        for name, most in (("n_ubatch", 2**20), ("n_threads", 512), ("n_threads_batch", 512)):
            if getattr(self, name) is not None:
                self._keep_integer(name, 1, most)
        self._keep_integer("n_gpu_layers", -1, 2**20)
        self._keep_integer("main_gpu", 0, 2**10)
        choice("split_mode", self.split_mode, list(_SPLIT_MODES))
        choice("type_k", self.type_k, list(_KV_TYPES))
        choice("type_v", self.type_v, list(_KV_TYPES))
        for field in dataclasses.fields(self):
            if field.type in ("bool", "bool | None"):
                flag(field.name, getattr(self, field.name))
        for part in self._shares():
            if not 0.0 <= real("tensor_split", part) <= _MAX_FLOAT:
                raise OptionError(f"tensor_split holds {shown(part)}; each share must be a finite number, 0 or more")
        for name in ("rope_freq_base", "rope_freq_scale"):
            if not 0.0 <= real(name, getattr(self, name)) <= _MAX_FLOAT:
                raise OptionError(f"{name} is {shown(getattr(self, name))}; it must be a finite number, 0 or more")
        self.adapters()

    def _keep_integer(self, name: str, low: int, high: int) -> int:
        number = integer(name, getattr(self, name), low, high)
        object.__setattr__(self, name, number)
        return number

    def _shares(self) -> list[Any]:
        """``tensor_split`` as a list; it may be given as an array."""
        given = () if self.tensor_split is None else self.tensor_split
        if isinstance(given, np.ndarray):
            given = given.tolist()
        if isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
            raise OptionError(f"tensor_split is {shown(given)}; give a list with one share for each GPU")
        return list(given)

    def adapters(self) -> list[tuple[str, float]]:
        """``lora`` as a list of (path, scale)."""
        if isinstance(self.lora, (str, os.PathLike)):
            return [(os.fspath(self.lora), 1.0)]
        if not isinstance(self.lora, Sequence):
            raise OptionError(f"lora is {shown(self.lora)}; give a path, or a list of paths or (path, scale) tuples")
        pairs = []
        for entry in self.lora:
            if isinstance(entry, (str, os.PathLike)):
                pairs.append((os.fspath(entry), 1.0))
            elif isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], (str, os.PathLike)):
                scale = real("the scale of a LoRA adapter", entry[1])
                if abs(scale) > _MAX_FLOAT:
                    raise OptionError(f"the scale of a LoRA adapter is {shown(entry[1])}; it must be a finite number")
                pairs.append((os.fspath(entry[0]), scale))
            else:
                raise OptionError(f"lora holds {shown(entry)}; each entry must be a path or a (path, scale) tuple")
        return pairs

    def context_size(self, trained: int) -> int:
        """``n_ctx`` for a model that was trained with ``trained`` tokens (0: its file does not say)."""
        if self.n_ctx is None:
            return min(DEFAULT_N_CTX, trained) if trained else DEFAULT_N_CTX
        return self.n_ctx or trained or DEFAULT_N_CTX

    def pass_size(self) -> int:
        """``n_ubatch``, or the value that None stands for."""
        if self.n_ubatch is not None:
            return self.n_ubatch
        return LONG_N_UBATCH if self._uses_gpu() else CPU_N_UBATCH

    def uses_flash_attention(self) -> bool:
        """``flash_attn``, or the value that None stands for on a device that supports it."""
        if self.flash_attn is not None:
            return bool(self.flash_attn)
        # It reads f32 as f16; a quantised V cache cannot be read otherwise.
        return "f32" not in (self.type_k, self.type_v) or self.type_v not in ("f32", "f16", "bf16")

    def maps_file(self, *, quantised: bool) -> bool:
        """``use_mmap``, or the value that None stands for with these weights."""
        if self.use_mmap is not None:
            return bool(self.use_mmap)
        return not quantised or not self.repack or self.batch_invariant or self._uses_gpu()

    def _uses_gpu(self) -> bool:
        return self.n_gpu_layers != 0 and any(device["gpu"] for device in _core.devices())

    def to_core(
        self, path: str, n_ctx: int, n_threads: int, adapters: list[tuple[str, float]], *, quantised: bool = False
    ) -> _core.ModelOptions:
        """The extension's form. ``n_ctx`` and ``n_threads`` replace values that were left open."""
        core = _core.ModelOptions()
        core.path = to_native(path)
        core.n_ctx = n_ctx
        core.n_batch = self.n_batch
        core.n_ubatch = self.pass_size()
        core.n_threads = self.n_threads or n_threads
        core.n_threads_batch = self.n_threads_batch or core.n_threads
        core.n_gpu_layers = self.n_gpu_layers
        core.main_gpu = self.main_gpu
        core.split_mode = _SPLIT_MODES[self.split_mode]
        core.tensor_split = [float(part) for part in self._shares()]
        core.offload_kqv = bool(self.offload_kqv)
        flash_attn = self.uses_flash_attention()
        core.flash_attn = -1 if flash_attn and self.flash_attn is None else int(flash_attn)  # -1: where supported
        core.type_k = _KV_TYPES[self.type_k]
        core.type_v = _KV_TYPES[self.type_v]
        core.swa_full = bool(self.swa_full)
        core.repack = bool(self.repack)
        core.batch_invariant = bool(self.batch_invariant)
        core.use_mmap = self.maps_file(quantised=quantised)
        core.use_mlock = bool(self.use_mlock)
        core.huge_pages = bool(self.huge_pages)
        core.rope_freq_base = float(self.rope_freq_base)
        core.rope_freq_scale = float(self.rope_freq_scale)
        core.lora = [(to_native(adapter), scale, adapter_digest(adapter)) for adapter, scale in adapters]
        return core


class WritingOptionsDict(TypedDict, total=False):
    """Keyword arguments of :func:`colm_cpp.generate`; see :class:`GenerationOptions`."""

    threshold: float | None
    defer_rate: float | None
    target_rate: float | None
    hold: int
    leave_threshold: float | None
    strategy: StrategyName
    beta: float
    alpha: float
    schedule: ScheduleName
    schedule_tokens: int
    max_tokens: int | None
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    repeat_penalty: float
    frequency_penalty: float
    presence_penalty: float
    seed: int | None
    stop: str | Sequence[str] | None
    logit_bias: Mapping[int, float] | Mapping[str, float | str] | None
    grammar: Any
    response_format: Any
    logprobs: int | None
    lookahead: int | Literal["auto"]


class GenerationOptionsDict(WritingOptionsDict, total=False):
    """Keyword arguments of a pair's ``generate`` and ``stream``; see :class:`GenerationOptions`."""

    head: str | os.PathLike[str] | Head | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationOptions:
    """How one text is written. Sampling options have the names and defaults of ``llama_cpp.Llama``.

    Attributes:
        head: the deferral head for this text. None: the pair's.
        threshold: eta in [0, 1]: a token is deferred exactly when z_t > logit(eta). 1 is the base alone, 0 is the
            assistant alone. None: the head's default threshold, or 0.5 if it has none.
        defer_rate: defer this share of the tokens, 0 to 1. It takes the place of ``threshold``: the head's calibration
            table for this ``hold`` and ``leave_threshold`` (``colm calibrate``) gives the threshold. The head
            ``"random"`` needs no table.
        target_rate: move the threshold while writing, so that this share of *this* text is deferred, 0 to 1. The
            first threshold is ``threshold`` if given, else the calibrated one if the head has a table, else the
            head's default. It cannot be combined with ``schedule``.
        hold: how many tokens the assistant writes each time that the head defers, 1 or more. The head is asked again
            after them. Meanwhile the base reads nothing (except with ``"compose"`` and ``"contrastive"``, which mix
            its distribution in). Then it reads the whole run in one batch. Deferral rates count all tokens of the
            assistant.
        leave_threshold: after a token of the assistant, z_t is compared with the logit of this threshold, 0 to 1. A
            value below ``threshold`` thus makes runs longer, and one above it counts as ``threshold``. Schedule and
            target rate move both thresholds alike. None: the same as ``threshold``.
        strategy: what happens at a deferred position: ``"defer"`` (the assistant's distribution), ``"compose"``
            ((1 - p) P_base + p P_assistant with p = sigmoid(z_t)) or ``"contrastive"`` (log P_assistant - beta log
            P_base over the ids with P_assistant >= alpha max P_assistant; Li et al., arXiv 2210.15097).
        beta: weight of the base in ``"contrastive"``, 0 to 1000.
        alpha: plausibility cutoff of ``"contrastive"``, above 0 and at most 1.
        schedule: how the threshold moves from 1 down to ``threshold`` over the first ``schedule_tokens`` generated
            tokens. p is the share of these tokens that is written: ``"constant"`` eta; ``"linear"`` 1 + (eta - 1) p;
            ``"cosine"`` eta + (1 - eta)(1 + cos(pi p)) / 2; ``"exponential"`` max(eta, 0.0001)^p.
        schedule_tokens: K, 0 or more.
        max_tokens: the most tokens to generate. None or -1: until the context is full.
        temperature: 0 is greedy.
        top_k: keep the k likeliest tokens; 0 is off.
        top_p: nucleus sampling; 1 is off.
        min_p: drop tokens below this share of the top probability; 0 is off.
        typical_p: locally typical sampling; 1 is off.
        repeat_penalty: divides the logits of tokens among the last 64 generated; 1 is off.
        frequency_penalty: subtracted from a token's logit for each occurrence among the last 64; 0 is off.
        presence_penalty: subtracted once from the logit of every token among the last 64; 0 is off.
        seed: seed of sampling and of the ``random`` head, 0 to 4294967294. None: a random one, reported in ``stats``.
        stop: a string, or a list of them; the text ends before the first one that appears. A control token such as
            ``"<|im_start|>"`` ends the text where a model writes that token.
        logit_bias: token id -> number added to its logit; ``float("-inf")`` bans the token. For JSON, an id may also
            be a string of decimal digits, and minus infinity the string ``"-inf"``.
        grammar: GBNF text with a rule named root, a JSON schema (dict, or text beginning with ``{``), a pydantic
            model or a ``llama_cpp.LlamaGrammar``.
        response_format: instead of ``grammar``, as in OpenAI's API: ``{"type": "json_object"}`` or ``{"type":
            "json_schema", "json_schema": {"schema": ...}}``.
        logprobs: report this many of the likeliest tokens at each position.
        lookahead: the most deferred tokens, 0 to 15, that the base drafts before the assistant verifies them in one
            batch. 0 is off. ``"auto"`` drafts where it saves time, judged by the measured step times and acceptance
            rate. The choices follow the same rules, but a batch rounds a quantised model's logits differently from
            single tokens. The text can then differ where two tokens are nearly equally likely, so the default is 0.
            In a batch every text drafts for itself, and the assistant verifies the drafts of all texts in one call.
    """

    head: str | os.PathLike[str] | Head | None = None
    threshold: float | None = None
    defer_rate: float | None = None
    target_rate: float | None = None
    hold: int = 1
    leave_threshold: float | None = None
    strategy: str = "defer"
    beta: float = 0.5
    alpha: float = 0.1
    schedule: str = "constant"
    schedule_tokens: int = 0
    max_tokens: int | None = 128
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int | None = None
    stop: str | Sequence[str] | None = None
    logit_bias: Mapping[int, float] | Mapping[str, float | str] | None = None
    grammar: Any = None
    response_format: Any = None
    logprobs: int | None = None
    lookahead: int | str = 0

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> GenerationOptions:
        """Raises TypeError for an unknown name, OptionError for a value outside its range."""
        reject_unknown(options, cls, "generate()")
        return cls(**options)

    def stop_strings(self) -> list[str]:
        """``stop`` as a list."""
        if self.stop is None:
            return []
        if not isinstance(self.stop, (str, Iterable)):
            raise OptionError(f"stop is {shown(self.stop)}; give a string or a list of strings")
        try:
            given = [self.stop] if isinstance(self.stop, str) else list(self.stop)
        except TypeError:  # a 0-dimensional array claims to be iterable
            raise OptionError(f"stop is {shown(self.stop)}; give a string or a list of strings") from None
        for text in given:
            if not isinstance(text, str):
                raise OptionError(f"stop holds {shown(text)}; each stop string must be a str")
            try:
                text.encode("utf-8")
            except UnicodeEncodeError:
                raise OptionError(
                    f"the stop string {shown(text)} holds a lone surrogate, so no text can contain it"
                ) from None
        return given

    def rate_to_start_from(self) -> float | None:
        """The deferral rate to look up in the calibration table; None where the threshold does not come from it.

        Raises:
            OptionError: a rate outside [0, 1], or two options that contradict each other.
        """
        for name in ("defer_rate", "target_rate"):
            if getattr(self, name) is not None:
                share(name, getattr(self, name))
        if self.defer_rate is None:
            return self.target_rate if self.threshold is None else None
        for name in ("threshold", "target_rate"):
            if getattr(self, name) is not None:
                raise OptionError(f"defer_rate and {name} both set how much is deferred; leave one of them out")
        return self.defer_rate

    def _biases(self) -> list[tuple[int, float]]:
        """``logit_bias`` as the extension takes it."""
        if self.logit_bias is not None and not isinstance(self.logit_bias, Mapping):
            raise OptionError(f"logit_bias is {shown(self.logit_bias)}; give a dict of token id -> bias")
        biases: dict[int, float] = {}
        for key, bias in (self.logit_bias or {}).items():
            # The keys of a JSON object are strings. int() would accept other forms, and fails on thousands of digits.
            token = int(key) if isinstance(key, str) and _DECIMAL.fullmatch(key) else key
            number = integer("a token of logit_bias", token, -(2**31), 2**31 - 1)
            if number in biases:
                raise OptionError(f"logit_bias names token {number} twice, as a number and as a string; leave one out")
            biases[number] = -math.inf if bias == "-inf" else real("a logit_bias", bias)
        return list(biases.items())

    def to_core(self, default_threshold: float) -> _core.GenerationOptions:
        """The extension's form; a seed is drawn where none is given.

        Raises:
            OptionError: a value of the wrong type or outside its range.
            GrammarError: the JSON schema cannot be turned into a grammar.
        """
        choice("strategy", self.strategy, STRATEGIES)
        choice("schedule", self.schedule, ["constant", "linear", "cosine", "exponential"])
        core = _core.GenerationOptions()

        policy = _core.PolicyOptions()
        policy.threshold = share("threshold", default_threshold if self.threshold is None else self.threshold)
        if self.target_rate is not None:
            policy.target_rate = share("target_rate", self.target_rate)
        policy.hold = integer("hold", self.hold, 1, 2**31 - 1)
        if self.leave_threshold is not None:
            policy.leave_threshold = share("leave_threshold", self.leave_threshold)
        policy.schedule = getattr(_core.Schedule, self.schedule)
        policy.schedule_tokens = integer("schedule_tokens", self.schedule_tokens, 0, 2**31 - 1)
        core.policy = policy

        strategy = _core.StrategyOptions()
        strategy.strategy = getattr(_core.Strategy, self.strategy)
        strategy.beta = real("beta", self.beta)
        strategy.alpha = real("alpha", self.alpha)
        core.strategy = strategy

        sampling = _core.SamplingOptions()
        for name in (
            "temperature",
            "top_p",
            "min_p",
            "typical_p",
            "repeat_penalty",
            "frequency_penalty",
            "presence_penalty",
        ):
            value = real(name, getattr(self, name))
            if abs(value) > _MAX_FLOAT:
                raise OptionError(f"{name} is {shown(getattr(self, name))}; it must be a finite number")
            setattr(sampling, name, value)
        sampling.top_k = integer("top_k", self.top_k, -(2**31), 2**31 - 1)
        drawn = secrets.randbelow(MAX_SEED + 1) if self.seed is None else self.seed
        sampling.seed = integer("seed", drawn, 0, MAX_SEED)
        sampling.logit_bias = self._biases()
        if self.grammar is not None and self.response_format is not None:
            raise OptionError("grammar and response_format both set the form of the text; leave one of them out")
        grammar = response_grammar(self.response_format) if self.grammar is None else self.grammar
        sampling.grammar = to_gbnf(grammar)
        core.sampling = sampling

        core.max_tokens = -1 if self.max_tokens is None else integer("max_tokens", self.max_tokens, -1, 2**31 - 1)
        core.stop = self.stop_strings()
        core.lookahead = _lookahead(self.lookahead)
        core.n_logprobs = 0 if self.logprobs is None else integer("logprobs", self.logprobs, 0, 2**31 - 1)
        core.check()
        return core

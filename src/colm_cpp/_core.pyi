"""The C++ engine of colm_cpp. Private: use the names in colm_cpp."""

import enum
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

BUILT_FOR_LLAMA_CPP_PYTHON: str
BUILT_FOR_LLAMA_VERSION: str

def llama_version() -> str: ...
def init_backend() -> None: ...
def set_min_log_level(level: int) -> None: ...
def max_devices() -> int: ...
def supports_gpu_offload() -> bool: ...
def drain_log() -> list[tuple[int, str]]: ...
def devices() -> list[dict[str, Any]]: ...
def inspect_gguf(path: str | bytes) -> dict[str, Any]: ...
def shared_vocabulary(base: str | bytes, assistant: str | bytes) -> int: ...
def inspect_vocabulary(path: str | bytes) -> dict[str, Any]: ...
def stop_loading() -> None: ...
def read_head(path: str | bytes) -> dict[str, Any]: ...
def training_free_head(name: str) -> Head | None: ...
def learned_head(
    weights: Sequence[npt.ArrayLike],
    biases: Sequence[npt.ArrayLike],
    n_embd: int,
    kind: str,
    activation: str,
    features: Sequence[str],
    top_k: int,
    vocab_fingerprint: str,
) -> Head: ...
def distribution_features(logits: npt.ArrayLike, features: Sequence[str], top_k: int) -> npt.NDArray[np.float32]: ...

class Schedule(enum.Enum):
    constant = 0
    linear = 1
    cosine = 2
    exponential = 3

class Strategy(enum.Enum):
    defer = 0
    compose = 1
    contrastive = 2

class ModelOptions:
    path: str | bytes
    n_ctx: int
    n_batch: int
    n_ubatch: int
    n_threads: int
    n_threads_batch: int
    n_sequences: int
    n_outputs: int
    n_gpu_layers: int
    main_gpu: int
    split_mode: int
    tensor_split: list[float]
    offload_kqv: bool
    flash_attn: int
    type_k: int
    type_v: int
    swa_full: bool
    use_mmap: bool
    use_mlock: bool
    rope_freq_base: float
    rope_freq_scale: float
    lora: list[tuple[str, float]] | list[tuple[bytes, float]]
    def __init__(self) -> None: ...

class PolicyOptions:
    threshold: float
    schedule: Schedule
    schedule_tokens: int
    target_rate: float | None
    def __init__(self) -> None: ...

class StrategyOptions:
    strategy: Strategy
    beta: float
    alpha: float
    def __init__(self) -> None: ...

class SamplingOptions:
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    repeat_penalty: float
    frequency_penalty: float
    presence_penalty: float
    penalty_last_n: int
    seed: int
    logit_bias: list[tuple[int, float]]
    grammar: str
    def __init__(self) -> None: ...

class GenerationOptions:
    policy: PolicyOptions
    strategy: StrategyOptions
    sampling: SamplingOptions
    max_tokens: int
    stop: list[str]
    n_logprobs: int
    def __init__(self) -> None: ...
    def check(self) -> None: ...

class Head:
    @property
    def needs_hidden(self) -> bool: ...

class Generation:
    def next(self) -> tuple[int, str, str, float, float, float, list[tuple[int, float]]] | None: ...
    def cancel(self) -> None: ...
    @property
    def finish_reason(self) -> str: ...
    @property
    def n_prompt(self) -> int: ...
    @property
    def tokens(self) -> list[int]: ...
    @property
    def end_step(self) -> tuple[int, str, str, float, float, float, list[tuple[int, float]]] | None: ...
    def stats(self) -> dict[str, Any]: ...
    def calls(self) -> list[tuple[str, int, int, bool, bool]]: ...

class Pair:
    def __init__(
        self, base: ModelOptions, assistant: ModelOptions, progress: Callable[[float], object] | None = None
    ) -> None: ...
    def start(self, prompt: Sequence[int], head: Head, options: GenerationOptions) -> Generation: ...
    def token_head(self, text: str) -> Head: ...
    def check_head(self, head: Head) -> None: ...
    def tokenize(self, text: str, add_special: bool, parse_special: bool) -> list[int]: ...
    def detokenize(self, tokens: Sequence[int], special: bool) -> str: ...
    def reset(self) -> None: ...
    @property
    def n_ctx(self) -> int: ...
    @property
    def n_shared(self) -> int: ...
    @property
    def vocab_fingerprint(self) -> str: ...
    @property
    def base(self) -> dict[str, Any]: ...
    @property
    def assistant(self) -> dict[str, Any]: ...

class ScoringPair:
    def __init__(
        self, base: ModelOptions, assistant: ModelOptions, progress: Callable[[float], object] | None = None
    ) -> None: ...
    def score(
        self, texts: Sequence[tuple[Sequence[int], Sequence[int]]], top_k: int
    ) -> tuple[dict[str, Any], dict[str, Any]]: ...
    def tokenize(self, text: str, add_special: bool, parse_special: bool) -> list[int]: ...
    @property
    def n_shared(self) -> int: ...
    @property
    def vocab_fingerprint(self) -> str: ...
    @property
    def base(self) -> dict[str, Any]: ...
    @property
    def assistant(self) -> dict[str, Any]: ...

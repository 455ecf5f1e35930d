"""Every option of the Python API, once: name, default, range, meaning. The command line and docs/options.md follow."""

from .field import Choice, Flag, Kind, Own, Real, Whole, choice, option_dict, option_of, reject_unknown
from .generation import (
    ANSWER_OPTIONS,
    MAX_LOOKAHEAD,
    MAX_SEED,
    STRATEGIES,
    GenerationOptions,
    GenerationOptionsDict,
    StrategyName,
    WritingOptionsDict,
    seed_of,
)
from .loading import (
    CPU_N_UBATCH,
    DEFAULT_N_CTX,
    LONG_N_UBATCH,
    MAX_PARALLEL,
    MOST_RUN_OUTPUTS,
    LoadOptions,
    LoadOptionsDict,
    SlotOptions,
)

__all__ = [
    "ANSWER_OPTIONS",
    "CPU_N_UBATCH",
    "DEFAULT_N_CTX",
    "LONG_N_UBATCH",
    "MAX_LOOKAHEAD",
    "MAX_PARALLEL",
    "MAX_SEED",
    "MOST_RUN_OUTPUTS",
    "STRATEGIES",
    "Choice",
    "Flag",
    "GenerationOptions",
    "GenerationOptionsDict",
    "Kind",
    "LoadOptions",
    "LoadOptionsDict",
    "Own",
    "Real",
    "SlotOptions",
    "StrategyName",
    "Whole",
    "WritingOptionsDict",
    "choice",
    "option_dict",
    "option_of",
    "reject_unknown",
    "seed_of",
]

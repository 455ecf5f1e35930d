"""Two language models write one text together, token by token, on llama.cpp.

A small *base* model and an *assistant*, both GGUF files; a *deferral head* decides at every token
who writes it (Shen et al., "Learning to Decode Collaboratively with Multiple Language Models", arXiv 2403.03870)::

    import colm_cpp as colm

    out = colm.generate("The capital of France is", base="small.gguf", assistant="large.gguf", head="confidence")
    print(out.text, out.stats.deferral_rate)

    with colm.load(base="small.gguf", assistant="large.gguf", head="confidence") as pair:
        for token in pair.stream("Once upon a time", threshold=0.3):
            print(token.text, token.source, token.defer_prob)
"""

from .llama import libraries as _libraries

_libraries.preload()

from .llama import compatibility as _compatibility  # noqa: E402

_compatibility.check()

from . import errors  # noqa: E402
from .engine.batch import BatchStream  # noqa: E402
from .engine.kept import unload  # noqa: E402
from .engine.loading import generate, load  # noqa: E402
from .engine.pair import Pair  # noqa: E402
from .engine.stream import TokenStream  # noqa: E402
from .errors import *  # noqa: E402, F403
from .heads.adapters import AdapterWarning  # noqa: E402
from .heads.export import export_head  # noqa: E402
from .heads.head import Head  # noqa: E402
from .options import GenerationOptions, LoadOptions  # noqa: E402
from .results import Completion, ExpertStats, Stats, Token, TopLogprob  # noqa: E402
from .sources.preset import Preset, presets  # noqa: E402
from .sources.shipped import shipped_heads  # noqa: E402
from .traces.trace import Trace, read_trace, write_trace  # noqa: E402

__version__ = _compatibility.version()

__all__ = [
    "AdapterWarning",
    "BatchStream",
    "Completion",
    "ExpertStats",
    "GenerationOptions",
    "Head",
    "LoadOptions",
    "Pair",
    "Preset",
    "Stats",
    "Token",
    "TokenStream",
    "TopLogprob",
    "Trace",
    "__version__",
    "export_head",
    "generate",
    "load",
    "presets",
    "read_trace",
    "shipped_heads",
    "unload",
    "write_trace",
    *errors.__all__,
]

"""Tuning the base together with the head: what ``colm tune`` and ``colm merge`` do, as functions.

Nothing here is imported by ``import colm_cpp`` or ``colm_cpp.learn``. torch, transformers and peft (extra
``colm-cpp[tune]``) are imported when :func:`tune` runs; :func:`merge` needs none of them.
"""

from ..options.tuning import FILE_TYPES, OBJECTIVES, TuneOptions
from .architecture import ARCHITECTURES
from .base import Agreement
from .loop import HeldOut, Progress
from .merging import Merged, merge
from .tuning import Tuned, tune

__all__ = [
    "ARCHITECTURES",
    "FILE_TYPES",
    "OBJECTIVES",
    "Agreement",
    "HeldOut",
    "Merged",
    "Progress",
    "TuneOptions",
    "Tuned",
    "merge",
    "tune",
]

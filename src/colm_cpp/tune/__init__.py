"""Tuning the base together with the head: what ``colm tune`` does, as functions (extra ``colm-cpp[tune]``).

Nothing here is imported by ``import colm_cpp`` or ``colm_cpp.learn``; torch, transformers and peft are imported when
:func:`tune` runs.
"""

from .base import ARCHITECTURES, Agreement
from .loop import HeldOut, Progress
from .options import OBJECTIVES, TuneOptions
from .tuning import Tuned, tune

__all__ = ["ARCHITECTURES", "OBJECTIVES", "Agreement", "HeldOut", "Progress", "TuneOptions", "Tuned", "tune"]

"""Log-probabilities of segments by their bytes: the sum over all rows of tokens that write them.

Scores of unlike vocabularies (:mod:`.segments`) say how likely a model's own tokens of a text are. Another row of
tokens may write the same text, so these are too low. Here nothing is lost but what the tolerance drops
(:mod:`colm_cpp.evaluate.byte_reader`). A model then reads about two contexts for each byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ..corpus.shared_texts import SharedText
from ..evaluate.byte_level import byte_logprobs
from ..evaluate.byte_reader import END, TOLERANCE, ByteModel, ByteReader

__all__ = ["by_bytes"]

F64: TypeAlias = npt.NDArray[np.float64]


def by_bytes(
    models: Mapping[str, ByteModel],
    texts: Sequence[SharedText],
    by_tokens: Mapping[str, F64],
    *,
    tolerance: float = TOLERANCE,
) -> dict[str, F64]:
    """Natural log-probabilities of the segments of ``texts``, for each model, ``[n]``.

    A control token inside a text has no bytes, and stays the token that it is.

    Args:
        models: by their names, in the order of the texts' models.
        texts: what is read.
        by_tokens: log-probabilities of the same segments by the models' own tokens.
        tolerance: see :class:`colm_cpp.evaluate.byte_reader.ByteReader`.

    Raises:
        ContextFull: a row of tokens is longer than the context.
        GenerationError: llama.cpp reported a failure.
        TokenizeError: no token of a model writes a byte of the text.
    """
    found = {name: values.copy() for name, values in by_tokens.items()}
    for number, (name, model) in enumerate(models.items()):
        row = 0
        for text in texts:
            tokens = text.tokens_of[name]
            reader, read = None, -1  # of what was scored without a gap, up to this token
            for segment in text.segments:
                first, last = segment.spans[number]
                pieces = [model.pieces[token] for token in tokens[first:last]]
                if reader is None or read != first:
                    reader = ByteReader(model, tokens[:first], tolerance=tolerance)
                if segment.n_bytes == 0 and not any(pieces):
                    found[name][row] = reader.next()[END]
                    reader = None
                elif all(pieces):
                    found[name][row] = byte_logprobs(reader, b"".join(pieces)).sum()
                else:
                    reader = None  # a control token: the texts before and behind it are read by themselves
                read = last
                row += 1
    return found

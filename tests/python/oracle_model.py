"""A model as the oracles read it: one whole text at a time, through llama-cpp-python."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import llama_cpp
import numpy as np
import numpy.typing as npt

F32: TypeAlias = npt.NDArray[np.float32]
F64: TypeAlias = npt.NDArray[np.float64]


# llama_cpp prints everything unless its own logger has a level. This changes nothing in libllama. Its levels
# are one off against ggml's (warnings count as errors, errors as debugging), so that only CRITICAL is quiet.
_logger = logging.getLogger("llama-cpp-python")
if _logger.level == logging.NOTSET:
    _logger.setLevel(logging.CRITICAL)


_ignore_log = llama_cpp.llama_log_callback(lambda level, text, user_data: None)  # must outlive its use
if os.environ.get("COLM_ORACLE_QUIET"):
    # The callback belongs to the whole process, so others' one is only replaced on request.
    llama_cpp.llama_log_set(_ignore_log, ctypes.c_void_p(0))

llama_cpp.llama_backend_init()


class OracleModel:
    """A model that reads a whole text from scratch at each call."""

    def __init__(
        self,
        path: str | Path,
        n_ctx: int = 512,
        n_threads: int = 1,
        *,
        embeddings: bool = True,
        exact: bool = False,
    ) -> None:
        """Load a model. `exact` does without the float16 of the usual cache and of flash attention.

        With it, reading token by token and reading all at once agree within 1e-4 in the logits (gemma3, whose
        GELU is a float16 table: 2e-3); without it within about 0.05.
        """
        self._ctx: Any = None
        self._model: Any = None
        self.n_ctx = n_ctx
        self.embeddings = embeddings
        mparams = llama_cpp.llama_model_default_params()
        mparams.n_gpu_layers = 0
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), mparams)
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        cparams = llama_cpp.llama_context_default_params()
        # The whole text goes into one decode and one micro-batch.
        cparams.n_ctx = cparams.n_batch = cparams.n_ubatch = n_ctx
        cparams.n_threads = cparams.n_threads_batch = n_threads
        cparams.embeddings = embeddings
        cparams.pooling_type = llama_cpp.LLAMA_POOLING_TYPE_NONE
        if exact:
            cparams.type_k = cparams.type_v = llama_cpp.GGML_TYPE_F32
            cparams.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._ctx = llama_cpp.llama_init_from_model(self._model, cparams)
        if not self._ctx:
            self.close()
            raise RuntimeError(f"llama.cpp cannot make a context for {path}")
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self.n_vocab = int(llama_cpp.llama_vocab_n_tokens(self._vocab))
        self.n_embd = int(llama_cpp.llama_model_n_embd(self._model))

    def close(self) -> None:
        """Free the model. May be called more than once."""
        if self._ctx:
            llama_cpp.llama_free(self._ctx)
            self._ctx = None
        if self._model:
            llama_cpp.llama_model_free(self._model)
            self._model = None

    def __enter__(self) -> OracleModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if llama_cpp is not None and llama_cpp.llama_free is not None:  # gone when the interpreter ends
            self.close()

    def logits_and_hidden(self, tokens: Sequence[int]) -> tuple[F32, F32]:
        """The logits and the final-norm hidden state at the last position (empty with `embeddings=False`)."""
        n = len(tokens)
        if not 0 < n <= self.n_ctx:
            raise ValueError(f"{n} tokens, a context of {self.n_ctx}")
        if not all(0 <= t < self.n_vocab for t in tokens):
            raise ValueError("token id out of range")
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._ctx), True)
        batch = llama_cpp.llama_batch_init(n, 0, 1)
        try:
            batch.n_tokens = n
            for i, token in enumerate(tokens):
                batch.token[i] = token
                batch.pos[i] = i
                batch.n_seq_id[i] = 1
                batch.seq_id[i][0] = 0
                # A context with embeddings wants all of them as outputs.
                batch.logits[i] = self.embeddings or i == n - 1
            code = llama_cpp.llama_decode(self._ctx, batch)
        finally:
            llama_cpp.llama_batch_free(batch)
        if code != 0:
            raise RuntimeError(f"llama_decode returned {code}")
        logits = _copy(llama_cpp.llama_get_logits_ith(self._ctx, n - 1), self.n_vocab)
        hidden = np.zeros(0, dtype=np.float32)
        if self.embeddings:
            hidden = _copy(llama_cpp.llama_get_embeddings_ith(self._ctx, n - 1), self.n_embd)
        return logits, hidden

    def tokenize(self, text: str | bytes, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """The tokens of a text."""
        data = text.encode() if isinstance(text, str) else text
        size = len(data) + 8
        buffer = (llama_cpp.llama_token * size)()
        n = llama_cpp.llama_tokenize(self._vocab, data, len(data), buffer, size, add_special, parse_special)
        if n < 0:
            raise RuntimeError(f"llama_tokenize returned {n}")
        return [int(t) for t in buffer[:n]]

    def token_bytes(self, token: int, special: bool = False) -> bytes:
        """The bytes of one token; those of a control token are empty unless `special`."""
        buffer = ctypes.create_string_buffer(256)
        n = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, special)
        if n < 0:
            raise RuntimeError(f"llama_token_to_piece returned {n}")
        return buffer.raw[:n]

    def is_eog(self, token: int) -> bool:
        """Whether a token ends the generation. Ids that the model does not have do not."""
        return 0 <= token < self.n_vocab and bool(llama_cpp.llama_vocab_is_eog(self._vocab, token))


def _copy(pointer: Any, n: int) -> F32:
    if not pointer:
        raise RuntimeError("llama.cpp has no such output")
    return np.ctypeslib.as_array(pointer, shape=(n,)).astype(np.float32, copy=True)

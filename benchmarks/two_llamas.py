"""The loop that a user of llama-cpp-python would write: two ``Llama`` objects, their caches kept, greedy."""

from __future__ import annotations

import llama_cpp
import numpy as np
import numpy.typing as npt

__all__ = ["TwoLlamas"]


class TwoLlamas:
    """Confidence routing with ``llama_cpp.Llama``: 1 - p1 of the base against a threshold."""

    def __init__(self, base: str, assistant: str, *, n_ctx: int, n_threads: int) -> None:
        self.base, self.assistant = (
            llama_cpp.Llama(
                path, n_ctx=n_ctx, n_threads=n_threads, n_threads_batch=n_threads, flash_attn=True, verbose=False
            )
            for path in (base, assistant)
        )
        self._n_shared = min(self.base.n_vocab(), self.assistant.n_vocab())

    def _logits(self, llama: llama_cpp.Llama) -> npt.NDArray[np.float32]:
        pointer = llama_cpp.llama_get_logits_ith(llama.ctx, -1)
        return np.ctypeslib.as_array(pointer, shape=(llama.n_vocab(),))[: self._n_shared]

    def generate(self, prompt: str, *, threshold: float, max_tokens: int) -> list[int]:
        """Token ids after ``prompt``, an end-of-generation token included."""
        self.base.reset()
        self.assistant.reset()
        tokens = self.base.tokenize(prompt.encode(), special=True)
        unread_base, unread_assistant = list(tokens), list(tokens)
        generated: list[int] = []
        while len(generated) < max_tokens:
            self.base.eval(unread_base)
            logits = self._logits(self.base)
            top = float(logits.max())
            p1 = 1.0 / float(np.exp(logits - top).sum())
            if threshold <= 0 or (threshold < 1 and 1.0 - p1 > threshold):
                self.assistant.eval(unread_assistant)
                unread_assistant = []
                logits = self._logits(self.assistant)
            token = int(logits.argmax())
            generated.append(token)
            unread_base = [token]
            unread_assistant.append(token)
            if token in self._ends:
                break
        return generated

    @property
    def _ends(self) -> set[int]:
        return {self.base.token_eos(), self.assistant.token_eos()}

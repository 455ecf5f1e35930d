"""SGLang's own route: ``sglang+http://host:30000``.

The fields are those of SGLang 0.5 (``GenerateReqInput``). One call of ``/generate`` verifies several
positions in one pass: ``input_ids``, ``return_logprob``, ``top_logprobs_num`` k and ``logprob_start_len``, the token
from which on ``input_top_logprobs`` has what stood before each token. Its first entry is null, because what stood
before that token may come from the cache, so it is asked for from one token earlier. The last position is that of the
one token that is written (``output_top_logprobs``). ``token_ids_logprob`` would give ids of one's own choice; whole
distributions do not need it. With ``temperature`` 0 the server's log-probabilities are the model's own.

``/v1/models`` tells the context size, and ``/tokenize`` shows whose vocabulary it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._shown import shown
from ._http import invalid
from ._models import GREEDY, ListedModel
from .protocol import Likeliest, Vocabulary, likeliest_of

__all__ = ["SPARE", "SgLang"]

SPARE = 5  # tokens, beside the one that is written


class SgLang(ListedModel):
    """A model behind ``POST /generate``. ``n_ctx``: ``max_model_len``, less what the scheduler keeps free."""

    protocol = "sglang"
    usual_top_k = 64

    def check(self, vocabulary: Vocabulary) -> None:
        """See :class:`ListedModel`."""
        super().check(vocabulary)
        self.n_ctx = max(self.n_ctx - SPARE, 1)

    def likeliest(self, slot: int, tokens: Sequence[int], counts: Sequence[int]) -> list[Likeliest]:
        """See :class:`RemoteModel`. The server finds what it has read by itself, so ``slot`` is not sent."""
        n = counts[-1]
        start = counts[0] - 1 if len(counts) > 1 else -1  # -1: of the written token only
        body = {
            "input_ids": list(tokens[:n]),
            "sampling_params": {"max_new_tokens": 1, **GREEDY},
            "return_logprob": True,
            "logprob_start_len": start,
            "top_logprobs_num": self.top_k,
            "return_text_in_logprobs": False,
        }
        url, answer = self._http.url, self._http.post("/generate", body)
        meta = answer.get("meta_info") if isinstance(answer, dict) else None
        if not isinstance(meta, dict):
            raise invalid(url, f"it has no meta_info, but {shown(answer)}")
        if meta.get("prompt_tokens") != n:
            raise invalid(url, f"it has read {shown(meta.get('prompt_tokens'))} tokens, and {n} were sent")
        rows = []
        if len(counts) > 1:
            before = _rows(url, meta, "input_top_logprobs", n - start)
            rows = [before[count - start] for count in counts[:-1]]
        rows += _rows(url, meta, "output_top_logprobs", 1)
        return [_likeliest(url, row) for row in rows]


def _rows(url: str, meta: dict[str, Any], name: str, n: int) -> list[Any]:
    rows = meta.get(name)
    if not isinstance(rows, list) or len(rows) != n:
        has = f"has {len(rows)} entries" if isinstance(rows, list) else f"is {shown(rows)}"
        raise invalid(url, f"{name} {has}, and {n} positions were asked for")
    return rows


def _likeliest(url: str, row: Any) -> Likeliest:
    """Of entries [logprob, id, text]."""
    if not isinstance(row, list) or not all(isinstance(entry, list) and len(entry) >= 2 for entry in row):
        raise invalid(url, f"a position has {shown(row)}; it must be a list of [logprob, id, text]")
    return likeliest_of(url, [entry[1] for entry in row], [entry[0] for entry in row])

"""vLLM's form of OpenAI's completions: ``openai+http://host:8000/v1#model``.

The fields are those of vLLM 0.26 (``CompletionRequest``). Several positions are several prompts of one request: the
server's prefix cache reads the text once, while ``prompt_logprobs`` would have it read all of it again.
Log-probabilities are those before temperature and penalties (``--logprobs-mode raw_logprobs``, the default), of the
whole vocabulary.

A request has ``prompt`` (lists of ids), ``max_tokens`` 1, ``logprobs`` k (up to the server's ``--max-logprobs``, 20 by
default) and ``return_tokens_as_token_ids``, so that ids come as ``token_id:123`` and not as texts, of which several
tokens may have the same. ``/v1/models`` tells the context size, ``/tokenize`` shows whose vocabulary it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._shown import shown
from ..errors import RemoteRefused
from ._http import invalid
from ._models import GREEDY, ListedModel
from .protocol import PROBES, Likeliest, Vocabulary, likeliest_of

__all__ = ["OpenAi"]

_AS_ID = "token_id:"
_IMPOSSIBLE = -9999.0  # what the API has for minus infinity
LEAST_TOP_K = 20  # --max-logprobs of a server that was not told otherwise


class OpenAi(ListedModel):
    """A model behind ``POST /v1/completions``. ``n_ctx``: of the tokens sent and the one that is written."""

    protocol = "openai"
    usual_top_k = LEAST_TOP_K

    def check(self, vocabulary: Vocabulary) -> None:
        """Also tries a call: where the server gives no more than 20 ids, it is asked for those."""
        super().check(vocabulary)
        tokens = vocabulary.tokenize(PROBES[0])
        try:
            self.likeliest(0, tokens, [len(tokens)])
        except RemoteRefused as error:
            if error.status != 400 or self.top_k <= LEAST_TOP_K:
                raise
            self.top_k = LEAST_TOP_K
            self.likeliest(0, tokens, [len(tokens)])

    def likeliest(self, slot: int, tokens: Sequence[int], counts: Sequence[int]) -> list[Likeliest]:
        """See :class:`RemoteModel`. The server finds what it has read by itself, so ``slot`` is not sent."""
        body = {
            "model": self.name,
            "prompt": [list(tokens[:count]) for count in counts],
            "max_tokens": 1,
            "logprobs": self.top_k,
            "return_tokens_as_token_ids": True,
            **GREEDY,
        }
        answer = self._http.post("/v1/completions", body)
        choices = _choices(self._http.url, answer, len(counts))
        n_read = answer["usage"].get("prompt_tokens") if isinstance(answer.get("usage"), dict) else None
        if n_read != sum(counts):
            raise invalid(self._http.url, f"it has read {shown(n_read)} tokens, and {sum(counts)} were sent")
        return [_likeliest(self._http.url, choice, self.top_k) for choice in choices]


def _choices(url: str, answer: Any, n: int) -> list[dict[str, Any]]:
    """The choices in the order of the prompts."""
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise invalid(url, f"it has no choices, but {shown(answer)}")
    by_number = {choice["index"]: choice for choice in choices if type(choice.get("index")) is int}
    if len(choices) != n or sorted(by_number) != list(range(n)):
        raise invalid(url, f"it has the choices {shown(sorted(by_number))} of {len(choices)}, and {n} were asked for")
    return [by_number[number] for number in range(n)]


def _likeliest(url: str, choice: dict[str, Any], top_k: int) -> Likeliest:
    logprobs = choice.get("logprobs")
    tops = logprobs.get("top_logprobs") if isinstance(logprobs, dict) else None
    if not isinstance(tops, list) or len(tops) != 1 or not isinstance(tops[0], dict):
        raise invalid(url, f"top_logprobs is {shown(tops)}; it must hold one object, of the one token asked for")
    listed = likeliest_of(url, [_id(url, name) for name in tops[0]], [_finite(value) for value in tops[0].values()])
    if len(listed.ids) <= top_k:
        return listed
    # The token that was written may stand behind the likeliest.
    return likeliest_of(url, listed.ids[:top_k], listed.logprobs[:top_k])


def _id(url: str, name: str) -> int:
    digits = name.removeprefix(_AS_ID)
    if digits == name or not digits.isascii() or not digits.isdigit() or len(digits) > 10:
        raise invalid(
            url,
            f"it names the token {shown(name)} and not {_AS_ID}NUMBER; the server must know "
            "return_tokens_as_token_ids, as vLLM does",
        )
    return int(digits)


def _finite(logprob: Any) -> Any:
    return float("-inf") if logprob == _IMPOSSIBLE else logprob

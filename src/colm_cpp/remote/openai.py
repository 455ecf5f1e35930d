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
from dataclasses import replace
from typing import Any

from .._shown import shown
from ..errors import RemoteRefused
from ._http import Http
from ._models import find_model, split_model, tokenizes_alike
from .protocol import PROBES, Likeliest, Limits, RemoteModel, Vocabulary, invalid, likeliest_of

__all__ = ["OpenAi"]

_AS_ID = "token_id:"
_IMPOSSIBLE = -9999.0  # what the API has for minus infinity
MOST_POSITIONS = 16
LEAST_TOP_K = 20  # --max-logprobs of a server that was not told otherwise


class OpenAi(RemoteModel):
    """A model behind ``POST /v1/completions``."""

    def __init__(self, url: str, *, key: str | None, timeout: float, retries: int, top_k: int) -> None:
        """Connects to nothing yet.

        Args:
            url: ``http(s)://host:port/v1``, with ``#model`` where the server has several.
            key, timeout, retries: see :class:`._http.Http`.
            top_k: how many of the likeliest ids to ask for; 0: 20. If the server gives no more than 20, it is asked for
                those.

        Raises:
            OptionError: the URL cannot be used.
        """
        place, self.name = split_model(url)
        # /tokenize stands beside /v1, not below it.
        root = place.rstrip("/").removesuffix("/v1")
        self._http = Http(root, key=key, timeout=timeout, retries=retries)
        self._n_ctx = 0
        self.limits = Limits(
            protocol="openai",
            top_k=top_k or LEAST_TOP_K,
            positions=MOST_POSITIONS,
            exact=True,
            one_pass=True,
            echo=True,
        )

    @property
    def n_ctx(self) -> int:
        """``max_model_len``: of the tokens sent and the one that is written."""
        return self._n_ctx

    def check(self, vocabulary: Vocabulary) -> None:
        """Finds the model, compares how texts are tokenized, and tries a call. See :class:`RemoteModel`."""
        self.name, self._n_ctx = find_model(self._http, self.name, "/v1/models")
        tokenizes_alike(self._http, self.name, vocabulary)
        tokens = vocabulary.tokenize(PROBES[0])
        try:
            self.likeliest(0, tokens, [len(tokens)])
        except RemoteRefused as error:
            if error.status != 400 or self.limits.top_k <= LEAST_TOP_K:
                raise
            self.limits = replace(self.limits, top_k=LEAST_TOP_K)
            self.likeliest(0, tokens, [len(tokens)])

    def likeliest(self, slot: int, tokens: Sequence[int], counts: Sequence[int]) -> list[Likeliest]:
        """See :class:`RemoteModel`. The server finds what it has read by itself, so ``slot`` is not sent."""
        body = {
            "model": self.name,
            "prompt": [list(tokens[:count]) for count in counts],
            "max_tokens": 1,
            "logprobs": self.limits.top_k,
            "return_tokens_as_token_ids": True,
            # A model's own generation_config.json must not change them.
            "temperature": 0,
            "frequency_penalty": 0,
            "presence_penalty": 0,
            "repetition_penalty": 1,
        }
        answer = self._http.post("/v1/completions", body)
        choices = _choices(self._http.url, answer, len(counts))
        n_read = answer["usage"].get("prompt_tokens") if isinstance(answer.get("usage"), dict) else None
        if n_read != sum(counts):
            raise invalid(self._http.url, f"it has read {shown(n_read)} tokens, and {sum(counts)} were sent")
        return [_likeliest(self._http.url, choice, self.limits.top_k) for choice in choices]

    def close(self) -> None:
        """See :class:`RemoteModel`."""
        self._http.close()


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

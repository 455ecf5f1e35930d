"""Another ``colm serve``: ``colm+http://host:8080#demo:assistant``. It gives whole distributions, as bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from urllib.parse import quote

from .._shown import shown
from ..errors import OptionError
from . import frames
from ._http import invalid, shown_url
from ._models import split_model, tokenized
from .protocol import Likeliest, RemoteModel, Vocabulary, check_vocabulary, count_of, likeliest_of

__all__ = ["MOST_IDS", "PATH", "Colm"]

PATH = "/v1/colm/distributions"
MOST_IDS = 2**21  # of all positions of an answer: 16 MB


class Colm(RemoteModel):
    """One model of a pair that another ``colm serve`` has: ``http(s)://host:port#PAIR:MODEL``."""

    protocol = "colm"
    most_ids = MOST_IDS

    def __init__(self, url: str, *, key: str | None, timeout: float, retries: int, top_k: int) -> None:
        """See :class:`RemoteModel`. Raises OptionError, too, where the URL names no model."""
        place, name = split_model(url)
        if not name:
            raise OptionError(
                f"{shown_url(url)} names no model; write it behind the URL, such as colm+http://host:8080#demo:assistant"
            )
        super().__init__(place, key=key, timeout=timeout, retries=retries, top_k=top_k)
        self.name = name

    def check(self, vocabulary: Vocabulary) -> None:
        """Asks for the model and its vocabulary. See :class:`RemoteModel`.

        Vocabularies that differ in their padding or their last tokens have other fingerprints. Then texts are compared.
        """
        facts = self._http.get(f"{PATH}?model={quote(self.name, safe='')}")
        if not isinstance(facts, dict):
            raise invalid(self._http.url, f"it has {shown(facts)} where an object belongs; is it a colm serve?")
        self.n_ctx, self.n_vocab = (count_of(self._http.url, facts.get(name), name) for name in ("n_ctx", "n_ids"))
        if facts.get("vocab_fingerprint") == vocabulary.fingerprint:
            return
        given = {"model": self.name, "add_special_tokens": False, "parse_special": False}
        check_vocabulary(
            self._http.url, vocabulary, self.n_vocab, lambda text: tokenized(self._http, {**given, "prompt": text})
        )

    def likeliest(self, slot: int, tokens: Sequence[int], counts: Sequence[int]) -> list[Likeliest]:
        """See :class:`RemoteModel`. The server's slots find what they have read, so ``slot`` is not sent."""
        n_ids = self.n_vocab or 0
        k = min(self.top_k or n_ids, n_ids)
        body = {"model": self.name, "tokens": list(tokens[: counts[-1]]), "counts": list(counts), "top_k": k}
        given = json.dumps(body, separators=(",", ":")).encode()
        url, answer = self._http.url, self._http.post_bytes(PATH, given, "application/json")
        try:
            at, found = frames.decode(answer)
        except ValueError as error:
            raise invalid(url, str(error)) from error
        if at != list(counts):
            raise invalid(url, f"it is about the positions {shown(at)}, and {shown(list(counts))} were asked for")
        return [likeliest_of(url, one.ids, one.logprobs, one.tail) for one in found]

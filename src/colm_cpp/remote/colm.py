"""Another ``colm serve``: ``colm+http://host:8080#demo:assistant``. It gives whole distributions, as bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from .._shown import shown
from ..errors import OptionError
from . import frames
from ._http import Http, shown_url
from ._models import ids_of, split_model
from .protocol import Likeliest, Limits, RemoteModel, Vocabulary, check_vocabulary, invalid, likeliest_of

__all__ = ["Colm"]

PATH = "/v1/colm/distributions"
MOST_POSITIONS = 16


class Colm(RemoteModel):
    """One model of a pair that another ``colm serve`` has."""

    def __init__(self, url: str, *, key: str | None, timeout: float, retries: int, top_k: int) -> None:
        """Connects to nothing yet.

        Args:
            url: ``http(s)://host:port#PAIR:MODEL``.
            key, timeout, retries: see :class:`._http.Http`.
            top_k: how many of the likeliest ids to ask for; 0: all.

        Raises:
            OptionError: the URL cannot be used, or names no model.
        """
        place, self.name = split_model(url)
        if not self.name:
            raise OptionError(
                f"{shown_url(url)} names no model; write it behind the URL, such as colm+http://host:8080#demo:assistant"
            )
        self._http = Http(place, key=key, timeout=timeout, retries=retries)
        self._top_k = top_k
        self._n_ctx = self._n_ids = 0
        self.limits = Limits(
            protocol="colm", top_k=top_k, positions=MOST_POSITIONS, exact=True, one_pass=False, echo=True
        )

    @property
    def n_ctx(self) -> int:
        """That of the pair there."""
        return self._n_ctx

    def check(self, vocabulary: Vocabulary) -> None:
        """Asks for the model and its vocabulary. See :class:`RemoteModel`.

        Vocabularies that differ in their padding or their last tokens have other fingerprints. Then texts are compared.
        """
        facts = self._http.get(f"{PATH}?model={quote(self.name, safe='')}")
        self._n_ctx, self._n_ids = self._whole(facts, "n_ctx"), self._whole(facts, "n_ids")
        self.n_vocab = self._n_ids
        if facts.get("vocab_fingerprint") == vocabulary.fingerprint:
            return

        def tokenize(text: str) -> list[int]:
            body = {"model": self.name, "prompt": text, "add_special_tokens": False, "parse_special": False}
            return ids_of(self._http.url, self._http.post("/tokenize", body), "tokens")

        check_vocabulary(self._http.url, vocabulary, self._n_ids, tokenize)

    def likeliest(self, slot: int, tokens: Sequence[int], counts: Sequence[int]) -> list[Likeliest]:
        """See :class:`RemoteModel`. The server's slots find what they have read, so ``slot`` is not sent."""
        k = min(self._top_k or self._n_ids, self._n_ids)
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

    def close(self) -> None:
        """See :class:`RemoteModel`."""
        self._http.close()

    def _whole(self, facts: Any, name: str) -> int:
        value = facts.get(name) if isinstance(facts, dict) else None
        if type(value) is not int or value < 1:
            raise invalid(self._http.url, f"{name} is {shown(value)}; it must be a whole number from 1")
        return value

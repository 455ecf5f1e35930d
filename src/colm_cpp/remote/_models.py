"""Servers with OpenAI's list of models, and vLLM's ``/tokenize``, which SGLang has too."""

from __future__ import annotations

from typing import Any

from .._shown import listed, shown
from ..errors import RemoteRefused
from ._http import Http, invalid
from .protocol import RemoteModel, Vocabulary, check_vocabulary, count_of

__all__ = ["GREEDY", "UNKNOWN_N_CTX", "ListedModel", "find_model", "split_model", "tokenized"]

UNKNOWN_N_CTX = 2**31 - 1  # a server that does not say refuses longer texts by itself
# Sampling that leaves the log-probabilities as they are: a model's own generation_config.json must not change them.
GREEDY = {"temperature": 0, "frequency_penalty": 0, "presence_penalty": 0, "repetition_penalty": 1}


def split_model(url: str) -> tuple[str, str]:
    """A URL without its fragment, and the fragment, which names a model."""
    place, _, name = url.partition("#")
    return place, name


def find_model(http: Http, name: str) -> tuple[str, int]:
    """Name and context size of the model ``name``, or of the server's only one for "".

    Raises:
        RemoteRefused: there is no such model, or there are several and none was named.
        RemoteError: see there.
    """
    answer = http.get("/v1/models")
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, list) or not all(isinstance(one, dict) and isinstance(one.get("id"), str) for one in data):
        raise invalid(http.url, f"/v1/models has no list of models, but {shown(answer)}")
    found = [one for one in data if name in ("", one["id"])]
    if len(found) != 1:
        error = RemoteRefused(
            f"{http.url} has {f'no model {shown(name)}' if name else 'several models or none'}; its models are "
            f"{listed(one['id'] for one in data)}. Name one behind the URL: {http.url}#MODEL"
        )
        error.url, error.reason = http.url, "no such model"
        raise error
    n_ctx = found[0].get("max_model_len")
    if n_ctx is None:
        return found[0]["id"], UNKNOWN_N_CTX
    return found[0]["id"], count_of(http.url, n_ctx, "max_model_len")


class ListedModel(RemoteModel):
    """A model of such a server: ``http(s)://host:port``, with ``#model`` where the server has several."""

    usual_top_k: int

    def __init__(self, url: str, *, key: str | None, timeout: float, retries: int, top_k: int) -> None:
        """See :class:`RemoteModel`."""
        place, self._wanted = split_model(url)
        super().__init__(place, key=key, timeout=timeout, retries=retries, top_k=top_k or self.usual_top_k)

    def check(self, vocabulary: Vocabulary) -> None:
        """Finds the model, and compares how texts are tokenized. See :class:`RemoteModel`."""
        self.name, self.n_ctx = find_model(self._http, self._wanted)
        given = {"model": self.name, "add_special_tokens": False}
        check_vocabulary(
            self._http.url, vocabulary, None, lambda text: tokenized(self._http, {**given, "prompt": text})
        )


def tokenized(http: Http, body: dict[str, Any]) -> list[int]:
    """The token ids that a server's ``/tokenize`` answers. Raises RemoteAnswerInvalid, and as :meth:`Http.post`."""
    answer = http.post("/tokenize", body)
    ids = answer.get("tokens") if isinstance(answer, dict) else None
    if not isinstance(ids, list) or not all(type(one) is int for one in ids):
        raise invalid(http.url, f"tokens is {shown(ids)}; it must be a list of token ids")
    return ids

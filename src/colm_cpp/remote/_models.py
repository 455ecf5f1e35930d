"""What servers with OpenAI's API say of their models, and vLLM's ``/tokenize``, which SGLang has too."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit, urlunsplit

from .._shown import listed, shown
from ..errors import RemoteRefused
from ._http import Http
from .protocol import Vocabulary, check_vocabulary, invalid

__all__ = ["UNKNOWN_N_CTX", "find_model", "ids_of", "split_model", "tokenizes_alike"]

UNKNOWN_N_CTX = 2**31 - 1  # a server that does not say refuses longer texts by itself


def split_model(url: str) -> tuple[str, str]:
    """A URL without its fragment, and the fragment, which names a model."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(fragment="")), parts.fragment


def find_model(http: Http, name: str, path: str) -> tuple[str, int]:
    """Name and context size of the model ``name``, or of the server's only one for "".

    Raises:
        RemoteRefused: there is no such model, or there are several and none was named.
        RemoteError: see there.
    """
    answer = http.get(path)
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, list) or not all(isinstance(one, dict) and isinstance(one.get("id"), str) for one in data):
        raise invalid(http.url, f"{path} has no list of models, but {shown(answer)}")
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
    if type(n_ctx) is not int or n_ctx < 1:
        raise invalid(http.url, f"max_model_len is {shown(n_ctx)}")
    return found[0]["id"], n_ctx


def tokenizes_alike(http: Http, model: str, vocabulary: Vocabulary, n_vocab: int | None = None) -> None:
    """Compares the server's vocabulary with the base's. Errors are those of :func:`check_vocabulary`."""

    def tokenize(text: str) -> list[int]:
        body = {"model": model, "prompt": text, "add_special_tokens": False}
        return ids_of(http.url, http.post("/tokenize", body), "tokens")

    check_vocabulary(http.url, vocabulary, n_vocab, tokenize)


def ids_of(url: str, answer: Any, name: str) -> list[int]:
    """A list of token ids in an answer. Raises RemoteAnswerInvalid."""
    ids = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(ids, list) or not all(type(one) is int for one in ids):
        raise invalid(url, f"{name} is {shown(ids)}; it must be a list of token ids")
    return ids

"""llama.cpp's llama-server, through its own ``/completion``: token ids in, the likeliest next tokens out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .._shown import shown
from ..errors import OptionError
from ._http import invalid, shown_url
from ._models import split_model, tokenized
from .protocol import Likeliest, RemoteModel, Vocabulary, check_vocabulary, count_of, likeliest_of

__all__ = ["LlamaServer"]

_FIELDS = ["completion_probabilities", "tokens_evaluated"]
# The probabilities are those before sampling; what is sampled is thrown away, so it may be cheap.
_SAMPLING = {"temperature": 0.0, "samplers": ["top_k"], "top_k": 1, "stop": [], "post_sampling_probs": False}


class LlamaServer(RemoteModel):
    """A model in a llama-server. ``n_ctx``: that of one of the server's slots."""

    protocol = "llama-server"
    _n_slots = 1
    _written = 0  # what the server is made to write, see check()

    def __init__(self, url: str, *, key: str | None, timeout: float, retries: int, top_k: int) -> None:
        """See :class:`RemoteModel`. Raises OptionError, too, where the URL names a model."""
        _, named = split_model(url)
        if named:
            raise OptionError(
                f"{shown_url(url)} is a llama-server, which needs no model, and names {shown(named)}; leave the name "
                "out, or give the kind of another server: openai+http://, sglang+http:// or colm+http://"
            )
        super().__init__(url, key=key, timeout=timeout, retries=retries, top_k=top_k)
        self._url = self._http.url

    def check(self, vocabulary: Vocabulary) -> None:
        """See :class:`RemoteModel`."""
        props = self._dict(self._http.get("/props"), "/props")
        settings = self._dict(props.get("default_generation_settings"), "/props")
        self.n_ctx = count_of(self._url, settings.get("n_ctx"), "n_ctx in /props")
        self._n_slots = count_of(self._url, props.get("total_slots"), "total_slots in /props")
        models = self._dict(self._http.get("/v1/models"), "/v1/models").get("data")
        model = models[0] if isinstance(models, list) and models else None
        meta = self._dict(self._dict(model, "/v1/models").get("meta"), "/v1/models")
        self.n_vocab = count_of(self._url, meta.get("n_vocab"), "n_vocab in /v1/models")
        self.name = f"{shown(props.get('model_alias', ''))} at {self._url}"
        check_vocabulary(self._url, vocabulary, self.n_vocab, self._tokenize)
        # Where the token that it writes is a part of a character, the server leaves the probabilities out. So it is
        # made to write one of plain letters. A bias does not change the probabilities before sampling.
        self._written = vocabulary.tokenize("The")[0]

    def likeliest(self, slot: int, tokens: Sequence[int], counts: Sequence[int]) -> list[Likeliest]:
        """See :class:`RemoteModel`. One request; the server reads the positions one after the other."""
        tokens = list(tokens)
        body = {
            # One slot of the server, so that each beginning is read once.
            "prompt": [tokens[:count] for count in counts],
            "id_slot": slot % self._n_slots,
            "cache_prompt": True,
            "n_predict": 1,
            "n_probs": self.top_k,
            "response_fields": _FIELDS,
            "logit_bias": [[self._written, 1e4]],
            **_SAMPLING,
        }
        answer = self._http.post("/completion", body)
        results = answer if isinstance(answer, list) else [answer]
        if len(results) != len(counts):
            raise invalid(self._url, f"{len(counts)} distributions were asked for, and it has {len(results)}")
        return [self._one(result, count) for result, count in zip(results, counts, strict=True)]

    def _one(self, result: Any, count: int) -> Likeliest:
        result = self._dict(result, "/completion")
        n_read = result.get("tokens_evaluated", count)
        if n_read != count:
            raise invalid(self._url, f"the server was given {count} tokens and says that it read {shown(n_read)}")
        positions = result.get("completion_probabilities")
        if not isinstance(positions, list) or len(positions) != 1 or not isinstance(positions[0], Mapping):
            raise invalid(
                self._url,
                "completion_probabilities has not one entry; a llama-server of 2025 or later gives it",
            )
        top = positions[0].get("top_logprobs")
        if not isinstance(top, list) or not all(isinstance(entry, Mapping) for entry in top):
            raise invalid(self._url, f"top_logprobs is {shown(top)}, which is no list of tokens")
        if len(top) > self.top_k:
            raise invalid(self._url, f"{self.top_k} tokens were asked for, and it names {len(top)}")
        return likeliest_of(self._url, (entry.get("id") for entry in top), (entry.get("logprob") for entry in top))

    def _tokenize(self, text: str) -> list[int]:
        return tokenized(self._http, {"content": text, "add_special": False, "parse_special": False})

    def _dict(self, value: Any, where: str) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            raise invalid(self._url, f"{where} has {shown(value)} where an object belongs; is it a llama-server?")
        return value

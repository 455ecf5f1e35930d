"""The experts of a pair that are on other machines."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from .. import _core
from ..errors import ForkError, OptionError
from ..options import BASE, LoadOptions
from ..remote import RemoteModel, is_remote, open_remote, shown_url
from .model_files import naming

PathLike = str | os.PathLike[str]

__all__ = ["Remotes"]


class _BaseVocabulary:
    """What a server's vocabulary is compared with."""

    def __init__(self, path: str) -> None:
        self._tokenizer = _core.Tokenizer(path)
        self.n_ids = self._tokenizer.size_without_padding
        self.fingerprint = str(self._tokenizer.facts["vocab_fingerprint"])

    def tokenize(self, text: str) -> list[int]:
        return self._tokenizer.tokenize(text, False, False)


class Remotes:
    """Opens the models among ``models`` that are URLs. Nothing is sent yet.

    Args:
        models: all models of a pair by their names, the base first.
        chosen: the load options of each.

    Raises:
        OptionError: the base is a URL, a URL cannot be used, or an adapter is given for such a model.
        MissingDependency: httpx is not installed.
    """

    def __init__(self, models: Mapping[str, PathLike], chosen: Sequence[LoadOptions]) -> None:
        self._process = os.getpid()
        self._models = list(models)
        self._opened: dict[str, tuple[RemoteModel, LoadOptions]] = {}
        self._urls: dict[str, str] = {}
        self.local_models: dict[str, PathLike] = {}  # those on this machine, and the options of each
        self.local_options: list[LoadOptions] = []
        for (name, model), options in zip(models.items(), chosen, strict=True):
            if not is_remote(model):
                self.local_models[name] = model
                self.local_options.append(options)
                continue
            if name == BASE:
                raise OptionError(
                    f"base is {shown_url(model)}, a model on another machine; the base must be a file on this one, "
                    "because the head looks at each of its tokens"
                )
            if options.adapters():
                raise OptionError(f"lora is given for {name}, which is on another machine; apply adapters there")
            self._urls[name] = model
            opened = open_remote(
                model,
                key=None,
                timeout=options.remote_timeout,
                retries=options.remote_retries,
                top_k=options.remote_top_k,
            )
            self._opened[name] = opened, options

    def check_process(self) -> None:
        """Raises ForkError in a forked child, which shares the parent's connections and has none of its threads."""
        if self._opened and self._process != os.getpid():
            raise ForkError(
                f"this process was forked from one whose pair asks {' and '.join(self._opened)} on another machine; "
                "load the pair in the child, or use spawn"
            )

    def check(self, base: _core.ModelOptions) -> None:
        """Asks every server what it is.

        Raises:
            RemoteError: one does not answer, or its model has another vocabulary than the base.
        """
        if self._opened:
            vocabulary = _BaseVocabulary(base.values["path"])
            for name, (model, _) in self._opened.items():
                with naming(name):
                    model.check(vocabulary)

    def members(self) -> list[tuple[str, int, Callable[..., Any], int, int, int, bool]]:
        """For the extension. Call :meth:`check` before."""
        return [
            (
                name,
                self._models.index(name),
                naming(name)(model.likeliest_while),
                model.n_ctx,
                model.n_positions,
                model.n_vocab or 0,
                options.on_failure == "base",
            )
            for name, (model, options) in self._opened.items()
        ]

    def room(self, check_turn: Callable[[int, int], int]) -> Callable[[int, int], int]:
        """``check_turn``, which counts the models on this machine, for the numbers of all models."""
        numbers = {self._models.index(name): number for number, name in enumerate(self.local_models)}
        return lambda expert, n_slots: check_turn(numbers[expert], n_slots)

    def described(self, facts: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """``facts`` with what is known of those on other machines; what is not known is None.

        The extension gives the base's. What its vocabulary says holds for them, too: their ids are the base's.
        """
        for name, (model, options) in self._opened.items():
            url = shown_url(self._urls[name])
            facts[name].update(
                path=urlsplit(url).netloc or url,
                name=model.name,
                description=f"{model.protocol} at {url}",
                n_ctx=model.n_ctx,
                n_vocab=model.n_vocab,
                **dict.fromkeys(("n_embd", "n_batch", "n_ubatch", "n_ctx_train", "can_rewind")),
                chat_template="",
                adapters=[],
                url=url,
                protocol=model.protocol,
                top_k=model.top_k,
                on_failure=options.on_failure,
            )
        return facts

    def refuse(self, why: str) -> None:
        """Raises OptionError where there are any."""
        if self._opened:
            raise OptionError(f"{why}, and {' and '.join(self._opened)} of this pair is on another machine")

    def close(self, core: _core.Pair | None = None) -> None:
        """Ends calls under way, closes all connections and ends ``core``'s threads, unless they are a parent's."""
        if self._process == os.getpid():
            for model, _ in self._opened.values():
                model.close()
            if self._opened and core is not None:
                core.stop_remotes()

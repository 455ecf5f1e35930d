"""Which models were these? What is written down, so that results of two pairs are never mixed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files.paths import digest_of
from ..heads.adapters import Adapters, in_effect, of_model
from ..remote import is_remote, shown_url
from .hub import resolve
from .names import head_file

__all__ = [
    "adapters_identity",
    "base_adapters",
    "head_identity",
    "loaded_adapters",
    "loaded_identity",
    "model_identity",
    "models_identity",
    "named_identity",
    "pair_identity",
]

_SAMPLED = 2**20


def model_identity(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A model file's name, size and digest.

    The digest is SHA-256 of the size, the first and the last MiB: hashing all of a model would take longer than loading
    it, and two quantisations of one model differ in size and header.
    """
    file = Path(path)
    size = file.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with file.open("rb") as stream:
        digest.update(stream.read(_SAMPLED))
        stream.seek(max(0, size - _SAMPLED))
        digest.update(stream.read(_SAMPLED))
    return {"file": file.name, "bytes": size, "digest": digest.hexdigest()[:16]}


def loaded_identity(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Of a loaded model; of one on another machine what is known of it."""
    if _remote(facts):
        return {"url": facts["url"], "name": facts["name"], "top_k": facts["top_k"]}
    return model_identity(facts["path"])


def loaded_adapters(facts: Mapping[str, Any]) -> list[list[Any]] | None:
    """The adapters of a loaded model, as :func:`adapters_identity`; of one on another machine none are known."""
    return None if _remote(facts) else adapters_identity(of_model(facts))


def _remote(facts: Mapping[str, Any]) -> bool:
    return "url" in facts


def named_identity(model: str) -> dict[str, Any]:
    """Of a model that is not loaded yet: a file, a place on the hub, which is downloaded, or a URL."""
    return {"url": shown_url(model)} if is_remote(model) else model_identity(resolve(model))


def head_identity(head: str | os.PathLike[str]) -> dict[str, Any]:
    """A head's name, and the SHA-256 of its file where it has one."""
    name = os.fspath(head)
    file = head_file(head)
    digest = {} if file is None else {"head_sha256": digest_of(Path(file))}
    return {"head": os.path.basename(name), **digest}


def pair_identity(base: Mapping[str, Any], assistant: Mapping[str, Any], fingerprint: str) -> dict[str, Any]:
    """Facts about a loaded pair for a ``meta.json``: names, files, adapters, vocabulary.

    A model without adapters has None there, as the files of earlier versions do, which lack these names.
    """
    return {
        "base": base["name"],
        "assistant": assistant["name"],
        "base_model": model_identity(base["path"]),
        "assistant_model": loaded_identity(assistant),
        "base_adapters": loaded_adapters(base),
        "assistant_adapters": loaded_adapters(assistant),
        "vocab_fingerprint": fingerprint,
    }


def models_identity(models: Mapping[str, Mapping[str, Any]], fingerprint: str) -> dict[str, Any]:
    """The same about a base and its experts.

    Args:
        models: facts about each loaded model by its name, the base first. Of one expert they are those of
            :func:`pair_identity`, and ``experts`` says its name unless it is the assistant.
        fingerprint: of the vocabulary.
    """
    (_, base), *others = models.items()
    names = [name for name, _ in others]
    if len(others) == 1:
        named = {} if names == ["assistant"] else {"experts": names}
        return {**pair_identity(base, others[0][1], fingerprint), **named}
    return {
        "base": base["name"],
        "base_model": model_identity(base["path"]),
        "base_adapters": loaded_adapters(base),
        "experts": names,
        "expert_models": {
            name: {
                "name": model["name"],
                "model": loaded_identity(model),
                "adapters": loaded_adapters(model),
                "adapter_bytes": sum(Path(adapter["path"]).stat().st_size for adapter in model["adapters"]),
            }
            for name, model in others
        },
        "vocab_fingerprint": fingerprint,
    }


def adapters_identity(adapters: Adapters) -> list[list[Any]] | None:
    """Adapters as a file holds them, in lists, so that they compare with what is read back. None: there are none."""
    return [list(adapter) for adapter in adapters] or None


def base_adapters(meta: Mapping[str, Any]) -> Adapters | None:
    """The adapters that the base had when texts were scored, out of their ``meta.json``.

    None if they are unknown: earlier versions kept only the names of the adapters.
    """
    known = meta.get("base_adapters")
    if known:
        return in_effect((digest, scale) for digest, scale in known)
    return () if meta.get("base_lora") == [] else None

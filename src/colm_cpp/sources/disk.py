"""The models on this machine, and which of them fit together. Only the headers of files are read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import _core
from ..errors import ColmError, OptionError, VocabMismatch
from ..files.paths import PART, parts_of, to_native
from ..heads.head import Head
from .hub import HubFile, is_hub_spec, matching

__all__ = ["Fit", "FoundModel", "Library", "Place", "cached_files", "files_below", "look"]

_LATER_PART = re.compile(r".*-(?!00001)[0-9]{5}-of-[0-9]{5}\.gguf", re.DOTALL)
_HEAD = "colm-head"
_THREADS = 4


@dataclass(frozen=True, slots=True)
class Place:
    """A file, and the name that it has on the hub; None for one that came from elsewhere."""

    path: Path
    hub: str | None = None


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model on the disk.

    Attributes:
        place: its file.
        name: what the file calls it.
        architecture: such as ``llama``.
        parameters: how many it has; those of the first part of a split model.
        file_type: llama.cpp's number for the quantisation; None where the file does not say.
        bytes: the size of all its parts.
        n_embd: width of the hidden state.
        chat_template: whether it has one.
        vocabulary: its vocabulary.
    """

    place: Place
    name: str
    architecture: str
    parameters: int
    file_type: int | None
    bytes: int
    n_embd: int
    chat_template: bool
    vocabulary: _core.Vocabulary


@dataclass(frozen=True, slots=True)
class Fit:
    """Two models as a pair.

    Attributes:
        base: the smaller one.
        assistant: the larger one.
        n_shared: how many token ids they share; 0 where they do not fit.
        heads: names or files of heads that were made for this base.
        why_not: why they do not fit; "" where they do.
        differing_token: the first token that differs; None where it is another difference, or there is none.
    """

    base: FoundModel
    assistant: FoundModel
    n_shared: int
    heads: tuple[str, ...] = ()
    why_not: str = ""
    differing_token: int | None = None


@dataclass(frozen=True, slots=True)
class Library:
    """What was found.

    Attributes:
        models: the models, by size.
        heads: the heads, by name or file.
        unreadable: files that are no model and no head, and why.
    """

    models: tuple[FoundModel, ...]
    heads: dict[str, Head]
    unreadable: dict[str, str]

    def pairs(self) -> Iterator[Fit]:
        """Every two models of different size, the smaller one as the base."""
        for i, base in enumerate(self.models):
            for assistant in self.models[i + 1 :]:
                if base.parameters < assistant.parameters:
                    yield self.fit(base, assistant)

    def fit(self, base: FoundModel, assistant: FoundModel) -> Fit:
        """Whether two models have one vocabulary. It agrees with what loading them would say."""
        try:
            n_shared = base.vocabulary.shared_with(assistant.vocabulary)
            if n_shared is None:  # llama.cpp must say whether both add BOS
                loaded = [_core.Vocabulary.loaded(to_native(model.place.path)) for model in (base, assistant)]
                n_shared = loaded[0].shared_with(loaded[1]) or 0
        except VocabMismatch as error:
            token = error.token_id if error.token_id >= 0 else None
            return Fit(base, assistant, 0, why_not=str(error), differing_token=token)
        return Fit(base, assistant, n_shared, tuple(self._heads_for(base)))

    def _heads_for(self, base: FoundModel) -> Iterator[str]:
        vocabulary = base.vocabulary.fingerprint
        for name, head in self.heads.items():
            made_for = head.base_name in (None, base.name) and head.vocab_fingerprint in (None, vocabulary)
            if made_for and head.n_embd == base.n_embd:
                yield name

    def has(self, spec: str) -> bool:
        """Whether a model is here, a file or one of the hub."""
        return self.of_hub(spec) is not None if is_hub_spec(spec) else os.path.isfile(spec)

    def of_hub(self, spec: str) -> FoundModel | None:
        """The model that is cached under a name of the hub, which may be a pattern."""
        wanted = HubFile.parse(spec)
        for model in self.models:
            if model.place.hub is not None:
                here = HubFile.parse(model.place.hub)
                if here.repo_id == wanted.repo_id and matching(wanted.pattern, [here.pattern]):
                    return model
        return None


def cached_files() -> list[Place]:
    """The GGUF files in the hub client's cache; a file that several revisions have stands once."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        return []
    found: dict[Path, Place] = {}
    for repo in sorted(repos, key=lambda repo: repo.repo_id):
        for revision in repo.revisions if repo.repo_type == "model" else ():
            for file in revision.files:
                if file.file_name.lower().endswith(".gguf"):
                    name = file.file_path.relative_to(revision.snapshot_path).as_posix()
                    found.setdefault(file.blob_path, Place(file.file_path, f"hf:{repo.repo_id}/{name}"))
    return list(found.values())


def files_below(folders: Iterable[Path]) -> list[Place]:
    """The GGUF files in these folders and below.

    Raises:
        OptionError: one of them is no folder.
    """
    found = []
    for folder in folders:
        if not folder.is_dir():
            raise OptionError(f"there is no folder {folder}; give one that holds .gguf files")
        for root, folders_in, names in os.walk(folder):
            folders_in.sort()
            found += [Place(Path(root, name)) for name in sorted(names) if name.lower().endswith(".gguf")]
    return found


def look(places: Sequence[Place], heads: dict[str, Head]) -> Library:
    """Reads the headers of files.

    Args:
        places: the files. Later parts of split models, projectors and adapters are passed over.
        heads: heads that are known beside those in the files.
    """
    first = {os.path.realpath(place.path): place for place in places if not _LATER_PART.fullmatch(place.path.name)}
    with ThreadPoolExecutor(_THREADS) as pool:  # most of the time is spent outside the interpreter
        looked = list(pool.map(_look_at, first.values()))
    models = []
    known, unreadable = dict(heads), {}
    for place, found in zip(first.values(), looked, strict=True):
        if isinstance(found, FoundModel):
            models.append(found)
        elif isinstance(found, Head):
            known[str(place.path)] = found
        elif found is not None:
            unreadable[str(place.path)] = found
    models.sort(key=lambda model: (model.parameters, model.bytes, model.place.path))
    return Library(tuple(models), known, unreadable)


def _look_at(place: Place) -> FoundModel | Head | str | None:
    """What a file is; why it cannot be used; None where it is something else than a model."""
    path = to_native(place.path)
    try:
        info = _core.inspect_gguf(path)
        metadata: dict[str, Any] = info["metadata"]
        kind = metadata.get("general.architecture")
        if kind == _HEAD:
            return Head.load(place.path)
        if kind == "clip" or metadata.get("general.type") in ("adapter", "mmproj", "imatrix"):
            return None
        if info["truncated"] and not PART.fullmatch(place.path.name):
            of = f"{info['file_bytes']} of {info['expected_bytes']} bytes"
            return f"{place.path} is truncated: it has {of}; download it again"
        file_type, width = (metadata.get(key) for key in ("general.file_type", f"{kind}.embedding_length"))
        return FoundModel(
            place=place,
            name=str(metadata.get("general.name") or place.path.stem),
            architecture=str(kind),
            parameters=int(info["n_parameters"]),
            file_type=file_type if isinstance(file_type, int) else None,
            bytes=sum(part.stat().st_size for part in parts_of(place.path)),
            n_embd=width if isinstance(width, int) else 0,
            chat_template="tokenizer.chat_template" in metadata,
            vocabulary=_core.Vocabulary.of_header(path),
        )
    except (ColmError, OSError) as error:
        return str(error)

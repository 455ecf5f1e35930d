"""Which pairs a server has: one from the command line, those of a folder, those of a ``colm.toml``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from .._numbers import integer, real
from .._shown import shown
from ..engine.loading import load, options_of
from ..engine.memory import ModelMemory, rows_of
from ..engine.pair import Pair
from ..errors import HeadError, LoadError, OptionError
from ..heads.head import Head
from ..learn.scoring import Scorer
from ..options import BASE, DEFAULT_N_CTX, SlotOptions, split_head
from ..remote import is_remote
from ..sources.hub import is_hub_spec
from ..sources.names import find_head, find_model
from ..sources.pair_file import Preset, read_toml
from ..sources.preset import files_in, preset
from .names import MIXTURE
from .registry import Entry

__all__ = ["CONFIG", "Served", "entry", "read_config", "read_folder"]

CONFIG = "colm.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """How pairs are loaded.

    Attributes:
        options: options for both models, beside those of the pair's file.
        base_options: options for the base alone.
        assistant_options: options for the assistant alone.
        slots: texts at a time, and memory of what was read.
        check_memory: compare with free memory before loading.
    """

    options: Mapping[str, Any]
    base_options: Mapping[str, Any]
    assistant_options: Mapping[str, Any]
    slots: SlotOptions
    check_memory: bool = True


def entry(name: str, pair: Preset, head: str | None, how: Served) -> Entry:
    """A pair of the registry.

    Raises:
        OptionError: the name holds a character that stands for a way of writing, or an expert's name is one.
        HeadError: there is no head.
    """
    if not name or any(char in name for char in "@:\0") or name != name.strip():
        raise OptionError(f"the name of a pair is {shown(name)}; it must not be empty, nor hold @ or :")
    if MIXTURE in pair.names:
        raise OptionError(f"an expert of {name} is called {MIXTURE}, as the mixture of all models; rename the expert")
    if head is None and pair.head is None:
        raise HeadError(f"{name} has no deferral head; give --head, or a pair that has one")

    def loaded(progress: Callable[[float], bool]) -> Pair:
        return load(
            pair=pair,
            head=head,
            progress=progress,
            base_options=dict(how.base_options),  # type: ignore[arg-type]  # names are checked by load()
            assistant_options=dict(how.assistant_options),  # type: ignore[arg-type]
            check_memory=how.check_memory,
            n_parallel=how.slots.n_parallel,
            cache_mb=how.slots.cache_mb,
            **dict(how.options),
        )

    def scorer(of: Pair, experts: Sequence[str]) -> Scorer:
        chosen = options_of(pair, pair.experts, how.options, how.base_options, how.assistant_options)
        # A group of texts is as long as the longest prompt.
        own = {
            model: {**{field.name: getattr(options, field.name) for field in fields(options)}, "n_ctx": of.n_ctx}
            for model, options in zip(pair.names, chosen, strict=True)
        }
        files = dict(zip(pair.names, pair.models, strict=True))
        return Scorer(
            pair.base,
            experts={expert: {"model": files[expert], **own[expert]} for expert in experts},
            base_options=own[BASE],  # type: ignore[arg-type]  # names are checked by Scorer
            check_memory=how.check_memory,
            weights_of=of,
        )

    return Entry(
        name,
        loaded,
        scorer,
        slots=how.slots.n_parallel,
        about=pair.about,
        has_rates=_has_rates(head or pair.head, pair.names[1:]),
        experts=tuple(pair.names[1:]),
        memory=_memory(pair, how),
    )


def _has_rates(head: str | None, experts: Sequence[str]) -> bool:
    """Whether a head knows thresholds of rates. One that lies on the hub is not downloaded for that."""
    if head is None:
        return False
    head, _ = split_head(head, experts)
    named = find_head(head)
    if named.place is None:
        return head == "random"
    if is_hub_spec(named.place):
        return False
    return bool(Head.load(os.path.expanduser(named.place)).rates)


def _memory(pair: Preset, how: Served) -> int:
    """Estimated bytes of the loaded pair; 0 where a file is still on the hub."""
    if any(map(is_hub_spec, pair.models)):
        return 0
    chosen = options_of(pair, pair.experts, how.options, how.base_options, how.assistant_options)
    n = how.slots.n_parallel
    total = 0
    for place, options, rows in zip(pair.models, chosen, rows_of(len(pair.models), n), strict=True):
        if is_remote(place):
            continue
        model = ModelMemory.of(find_model("base", place), options)
        n_ctx = options.n_ctx or DEFAULT_N_CTX
        total += model.loaded(n_ctx, n_outputs=min(rows, options.n_batch), n_texts=n, shared=False).total
    return total + how.slots.cache_mb * 2**20


def read_folder(folder: Path, how: Served) -> list[Entry]:
    """The pairs of a folder: each ``NAME.toml`` and ``NAME/pair.toml``, in the order of their names.

    Raises:
        OptionError: there is none.
        LoadError, HeadError: one of them cannot be used.
    """
    try:
        files = files_in(folder)
    except OSError as error:
        raise LoadError(f"the folder {folder} cannot be read ({error.strerror}); check its name") from error
    found = [preset(file) for _, file in files if file.name != CONFIG]
    return [entry(known.name, known, None, how) for known in found]


def read_config(file: Path, how: Served) -> tuple[list[Entry], dict[str, float]]:
    """The pairs of a ``colm.toml``, and ``idle_s`` and ``memory_mb`` where it has them.

    Raises:
        LoadError: the file cannot be read, or is no TOML.
        OptionError: a key is unknown or has an invalid value.
    """
    value = read_toml(file, "docs/server.md")
    limits: dict[str, float] = {}
    entries: list[Entry] = []
    for key, given in value.items():
        if key in ("idle_s", "memory_mb"):
            limits[key] = real(key, given)
            if limits[key] < 0:
                raise OptionError(f"{file}: {key} is {shown(given)}; it must be 0 or more")
        elif key == "pairs" and isinstance(given, dict):
            entries = [_configured(file, name, own, how) for name, own in given.items()]
        else:
            raise OptionError(f"{file}: there is no key {shown(key)}; the keys are idle_s, memory_mb and [pairs.NAME]")
    return entries, limits


def _configured(file: Path, name: str, given: object, how: Served) -> Entry:
    if not isinstance(given, dict):
        raise OptionError(f"{file}: pairs.{name} is {shown(given)}; write [pairs.{name}] with pair = ...")
    own = dict(given)
    place, head = own.pop("pair", name), own.pop("head", None)
    for key, what in (("pair", place), ("head", head)):
        if what is not None and not isinstance(what, str):
            raise OptionError(f"{file}: pairs.{name}.{key} is {shown(what)}; give a text")
    n_parallel = integer("parallel", own.pop("parallel", how.slots.n_parallel), 1, 256)
    cache_mb = integer("cache_mb", own.pop("cache_mb", how.slots.cache_mb), 0, 2**20)
    options = {**how.options, **own.pop("options", {})}
    if own:
        raise OptionError(
            f"{file}: pairs.{name} has no key {shown(next(iter(own)))}; the keys are pair, head, parallel, cache_mb "
            "and options"
        )
    beside = file.parent / os.path.expanduser(place)
    known = preset(str(beside)) if beside.exists() else preset(place)
    slots = SlotOptions(n_parallel=n_parallel, cache_mb=cache_mb)
    return entry(name, known, head, replace(how, options=options, slots=slots))

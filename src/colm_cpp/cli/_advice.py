"""``colm bench --advise``: the pair is loaded in several ways, and the advice is printed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import LoadError
from ._pair import loading, slots

if TYPE_CHECKING:
    from ..engine.pair import Pair
    from ..evaluate.advice import Advice, Drafts
    from ..sources.pair_file import Preset
    from ._progress import Meter

__all__ = ["NO_TYPE", "advice_of"]

NO_TYPE = "none"
_AS_IS = "the pair as it is"
_USUAL, _OTHER = "q4_0", "q4_k_m"


def advice_of(models: Preset, values: Mapping[str, Any], drafts: Drafts, rounds: int, bar: Meter) -> Advice:
    """Measures the pair as it is, with other numbers of threads, and with its files in another type."""
    from ..engine.loading import threads_for
    from ..evaluate.advice import advise, time_settings
    from ..machine.cores import usable_cores
    from ..sources.names import find_models

    models = find_models(models)
    local = list(dict.fromkeys(models.models))
    now = values["n_threads"] or max(map(threads_for, local))
    cores = usable_cores()
    others = {f"{n} threads": n for n in sorted({cores, (cores + 1) // 2} - {now})}
    notes: list[str] = []

    def opened(chosen: Preset, n_threads: int | None) -> Callable[[], Pair]:
        from ._loading import load_pair

        given = loading({**values, "n_threads": n_threads, "quiet": True})
        return lambda: load_pair(chosen, "never", **given, **slots(values))

    settings = {_AS_IS: opened(models, values["n_threads"])}
    settings |= {name: opened(models, n) for name, n in others.items()}
    with tempfile.TemporaryDirectory(prefix="colm-") as folder:
        type = values["advise_type"] or _type_to_try(local)
        made = None if type == NO_TYPE else _in_type(models, type, Path(folder), notes, bar)
        if made is not None:
            settings[type] = opened(made, values["n_threads"])
        found = time_settings(settings, rounds, bar.update)
    return advise(
        found[_AS_IS],
        n_threads=now,
        drafts=drafts,
        threads={n: found[name] for name, n in others.items()},
        types={} if made is None else {type: found[type]},
        notes=notes,
    )


def _type_to_try(files: list[str]) -> str:
    from ..engine.model_files import metadata
    from ..tune.quantizing import file_type

    all_usual = all(metadata(path).get("general.file_type") == file_type(_USUAL) for path in files)
    return _OTHER if all_usual else _USUAL


def _in_type(models: Preset, type: str, folder: Path, notes: list[str], bar: Meter) -> Preset | None:
    """The pair with all files in another type; None, with a note, where that is not possible."""
    from ..tune.quantizing import file_type, quantize

    number = file_type(type)
    local = list(dict.fromkeys(models.models))
    needed = sum(Path(path).stat().st_size for path in local)
    free = shutil.disk_usage(folder).free
    if free < needed:
        notes.append(
            f"Type: {type.upper()} was not measured: it needs {needed / 1e9:.1f} GB in {folder.parent}, which has "
            f"{free / 1e9:.1f} GB free. TMPDIR names another folder."
        )
        return None
    made = {path: str(folder / f"{i}.gguf") for i, path in enumerate(local)}
    for path, target in made.items():
        try:
            quantize(Path(path), Path(target), number, lambda share: bar.update(share, f"making {type} files"))
        except LoadError as error:
            notes.append(f"Type: {type.upper()} was not measured: {error}")
            return None
    base, *others = (made[path] for path in models.models)
    if not models.experts:
        return replace(models, base=base, assistant=others[0])
    experts = tuple(replace(expert, model=path) for expert, path in zip(models.experts, others, strict=True))
    return replace(models, base=base, experts=experts)

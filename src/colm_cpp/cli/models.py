"""``colm models``: presets, heads, and what is on this disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._output import echo, one_line, print_json, sized

if TYPE_CHECKING:
    from ..sources.disk import FoundModel, Library
    from ..sources.pair_file import Preset

__all__ = ["library_facts", "models"]


@click.command()
@click.option(
    "--dir",
    "folders",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FOLDER",
    help="Look for models in FOLDER too, and below. Repeatable.",
)
@click.option("--check", is_flag=True, help="Ask the hub whether the models of the presets are there and fit together.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def models(ctx: click.Context, folders: tuple[Path, ...], check: bool, as_json: bool) -> None:
    """List presets, heads, and the models on this disk with the pairs that they make.

    A preset is a pair of models with a head. Give its name to --pair, to 'colm inspect' or to 'colm pull'. Give the
    name of a head to --head. Your own presets are NAME.toml or NAME/pair.toml in the folder that this command shows.
    COLM_PAIRS names another folder.

    Models are looked for in the cache of the hub's client and in the folders of --dir. Two of them fit together if they
    have one vocabulary; the smaller one is the base. Only the headers of files are read, and nothing is downloaded.
    With --check the headers of the presets' models are read from the hub; the exit code is 1 if one of the presets
    cannot be used.
    """
    from ..heads.head import Head
    from ..sources.disk import cached_files, files_below, look
    from ..sources.names import TRAINING_FREE_HEADS, find_head, head_names
    from ..sources.preset import own_folder
    from ._facts import ABOUT_HEADS

    files: dict[str, Head] = {}
    places: dict[str, str] = {}
    for name in head_names():
        named = find_head(name)
        if named.place is not None:  # a pair may defer without a file
            files[name], places[name] = Head.load(str(named.file())), named.place
    library = look([*cached_files(), *files_below(folders)], files)
    heads: list[dict[str, Any]] = [
        {
            "name": name,
            "kind": head.kind,
            "base": head.base_name,
            "assistant": head.assistant_name,
            "n_embd": head.n_embd,
            "calibrated": bool(head.rates),
            "file": places.get(name, name),
        }
        for name, head in library.heads.items()
    ]
    heads += [{"name": name, "kind": "training-free", "about": ABOUT_HEADS[name]} for name in TRAINING_FREE_HEADS]
    pairs = _presets(library, check)
    on_disk = library_facts(library)
    if as_json:
        print_json({"pairs": pairs, "heads": heads, "folder": str(own_folder()), **on_disk})
    else:
        lines = _table("Presets (--pair NAME)", [(pair["name"], _of_pair(pair)) for pair in pairs])
        lines += ["", *_table("Heads (--head NAME)", [(head["name"], _about(head)) for head in heads])]
        lines += ["", *_of_disk(library), ""]
        lines += [
            f"Your own presets: {own_folder()}",
            "A head may also be a file, hf:org/repo/file.gguf, or a token of the base such as '<|defer|>'.",
        ]
        # In one piece, so that a reader that leaves after some lines, such as head, ends no command in the middle.
        echo("\n".join(map(one_line, lines)))
    if check and any("problem" in pair or "error" in pair for pair in pairs):
        ctx.exit(1)


def _presets(library: Library, check: bool) -> list[dict[str, Any]]:
    """Every preset; whether its models are on this disk; with ``check``, what the hub says of them."""
    from ..errors import ColmError, LoadError, OptionError
    from ..sources.pair_file import read
    from ..sources.preset import preset_files

    pairs: list[dict[str, Any]] = []
    for name, file in preset_files().items():
        facts: dict[str, Any] = {"name": name, "file": str(file)}
        try:
            known = read(file, name)
        except (LoadError, OptionError) as error:
            pairs.append({**facts, "error": str(error)})
            continue
        adapter = None if known.adapter is None else dict(zip(("path", "scale"), known.adapter, strict=True))
        facts |= {"base": known.base, "assistant": known.assistant or None}
        facts |= {"experts": {expert.name: str(expert.model) for expert in known.experts}} if known.experts else {}
        facts |= {"adapter": adapter, "head": known.head, "about": known.about}
        facts["on_disk"] = all(map(library.has, known.models))
        if check:
            try:
                facts |= _checked(known)
            except ColmError as error:
                facts["problem"] = str(error)
        pairs.append(facts)
    return pairs


def _checked(known: Preset) -> dict[str, Any]:
    """What the headers of a preset's models say, wherever these lie. A server is not asked.

    Raises:
        ColmError: a model is not there, or both do not fit together.
    """
    from .. import _core
    from ..files.paths import to_native
    from ..remote import is_remote, shown_url
    from ..sources.hub import is_hub_spec
    from ..sources.hub_header import remote_model

    found: list[dict[str, Any]] = []
    vocabularies = []
    for model in known.models:
        if is_remote(model):
            found.append({"url": shown_url(model)})
        elif is_hub_spec(model):
            remote = remote_model(model)
            found.append({"file": remote.file, "bytes": remote.bytes, "bytes_read": remote.bytes_read})
            vocabularies.append(remote.vocabulary)
        else:
            found.append({"file": model})
            vocabularies.append(_core.Vocabulary.of_header(to_native(model)))
    shared = [vocabularies[0].shared_with(other) for other in vocabularies[1:]]
    counts = [n for n in shared if n is not None]
    return {"n_shared": min(counts) if counts and None not in shared else None, "models": found}


def _of_pair(pair: dict[str, Any]) -> str:
    if "error" in pair:
        return f"cannot be used: {pair['error']}"
    about = pair["about"] or f"{pair['base']} and {pair['assistant']}"
    if "problem" in pair:
        return f"{about}\n{pair['problem']}"
    if "models" in pair:
        shared = "both headers can be read" if pair["n_shared"] is None else f"{pair['n_shared']} shared tokens"
        return f"{about}; checked: {shared}"
    return f"{about}{' (on this disk)' if pair['on_disk'] else ''}"


def _about(head: dict[str, Any]) -> str:
    if "about" in head:
        return f"{head['kind']}: {head['about']}"
    made_for = f", trained for {head['base']} and {head['assistant']}" if head["base"] and head["assistant"] else ""
    return f"{head['kind']}{made_for}{', calibrated' if head['calibrated'] else ''}"


def library_facts(library: Library) -> dict[str, Any]:
    """The models on the disk and every two of them as a pair, ready for JSON."""
    from ._facts import quantisation

    fits, differ = [], []
    for fit in library.pairs():
        facts: dict[str, Any] = {"base": str(fit.base.place.path), "assistant": str(fit.assistant.place.path)}
        if fit.why_not:
            differ.append({**facts, "reason": fit.why_not, "differing_token": fit.differing_token})
        else:
            fits.append({**facts, "n_shared": fit.n_shared, "heads": list(fit.heads)})
    models = [
        {
            "path": str(model.place.path),
            "hub": model.place.hub,
            "name": model.name,
            "architecture": model.architecture,
            "parameters": model.parameters,
            "quantisation": quantisation(model.file_type),
            "bytes": model.bytes,
            "n_embd": model.n_embd,
            "n_vocab": model.vocabulary.size,
            "vocab_fingerprint": model.vocabulary.fingerprint,
            "chat_template": model.chat_template,
        }
        for model in library.models
    ]
    return {"models": models, "fits": fits, "differ": differ, "unreadable": library.unreadable}


def _of_disk(library: Library) -> list[str]:
    from ._facts import quantisation

    if not library.models and not library.unreadable:
        return ["Models on this disk: none; 'colm pull NAME' downloads those of a preset, --dir looks in a folder"]
    rows = [(model.place.path.name, _of_model(model, quantisation(model.file_type))) for model in library.models]
    rows += [(Path(path).name, f"cannot be used: {why}") for path, why in library.unreadable.items()]
    lines = _table("Models on this disk (--base FILE, --assistant FILE)", rows)
    fits: list[tuple[str, str]] = []
    differ: dict[frozenset[str], tuple[str, str]] = {}
    for fit in library.pairs():
        names = f"{fit.base.place.path.name} + {fit.assistant.place.path.name}"
        if not fit.why_not:
            heads = ", ".join(fit.heads) or "none of its own; --head confidence needs none"
            fits.append((names, f"{fit.n_shared} shared tokens; head: {heads}"))
        else:  # one line for all models of the same two vocabularies
            kinds = frozenset(model.vocabulary.fingerprint for model in (fit.base, fit.assistant))
            differ.setdefault(kinds, (names, fit.why_not))
    lines += ["", *(_table("Pairs that fit together", fits) if fits else ["Pairs that fit together: none"])]
    if differ:
        lines += ["", *_table("Pairs that do not, one of each two vocabularies", list(differ.values()))]
    return lines


def _of_model(model: FoundModel, kind: str | None) -> str:
    facts = [sized(model.bytes), f"{_short(model.parameters)} parameters", kind, model.architecture]
    where = model.place.hub or str(model.place.path)
    return f"{', '.join(fact for fact in facts if fact)}; {where}"


def _short(n: int) -> str:
    return f"{n / 1e9:.1f}B" if n >= 1e9 else f"{n / 1e6:.0f}M" if n >= 1e6 else str(n)


def _table(title: str, rows: list[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in rows)
    return [title, *(f"  {name:<{width}}  {about}" for name, about in rows)]

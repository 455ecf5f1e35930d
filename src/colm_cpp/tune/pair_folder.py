"""A tuned pair as one folder: ``pair.toml``, which loads it, and ``card.md``, which says how it was made."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CorpusError
from ..files.output_file import write_file
from ..files.paths import digest_of
from ..learn.scores import Scores
from ..sources.hub import is_hub_spec, resolve
from ..sources.identity import model_identity
from ..sources.names import find_model
from ..sources.pair_file import FILE, Preset, to_toml
from .loop import HeldOut

__all__ = ["CARD", "HELD_OUT_ROWS", "Models", "models_of", "write_card", "write_pair"]

PathLike = str | os.PathLike[str]

CARD = "card.md"
HELD_OUT_ROWS = (
    ("base", "base_nll"),
    ("assistant", "assistant_nll"),
    ("pair with this head", "joint_nll"),
    ("better model at each token", "oracle_nll"),
    ("mean defer probability", "mean_defer_prob"),
)
_LIBRARIES = ("colm-cpp", "llama-cpp-python", "torch", "transformers", "peft")


@dataclass(frozen=True, slots=True)
class Models:
    """The two models of a tuned pair.

    Attributes:
        names: the keys of ``pair.toml`` that name them.
        base: what tells the base from other files, see :func:`colm_cpp.sources.identity.model_identity`.
        assistant: the same of the assistant.
        missing: the assistant's file name, if nobody said where the file is; else None.
    """

    names: Mapping[str, str]
    base: Mapping[str, Any]
    assistant: Mapping[str, Any]
    missing: str | None = None


def models_of(
    pair: Preset | None, base: PathLike, assistant: PathLike | None, folders: Sequence[Scores], out: Path
) -> Models:
    """How ``pair.toml`` names the models.

    Args:
        pair: the pair that was tuned, if it was named as one. One in the package stays a name.
        base: the base's file, or its place on the hub.
        assistant: the same of the assistant. None: the file of its name beside the base, if it is the one that was
            scored.
        folders: the scores, which know both models.
        out: the folder of ``pair.toml``; paths are relative to it.

    Raises:
        CorpusError: a folder was scored with another base or assistant, or a path cannot be written as UTF-8.
        OptionError: the assistant is on another machine.
        DownloadError: a model on the hub cannot be had.
    """
    local = resolve(base)
    known = model_identity(local)
    for folder in folders:
        _require(folder, "base", known, base)
    scored: Mapping[str, Any] = folders[0].meta["assistant_model"]
    missing = None
    if assistant is not None:
        for folder in folders:
            _require(folder, "assistant", model_identity(find_model("assistant", assistant)), assistant)
    else:
        beside = Path(local).parent / str(scored["file"])
        if beside.is_file() and model_identity(beside) == scored:
            assistant = beside
        else:
            missing = str(scored["file"])
    if pair is not None and pair.packaged:
        return Models({"models": pair.name}, known, scored)
    names = {"base": _named(base, out), "assistant": missing if assistant is None else _named(assistant, out)}
    return Models(names, known, scored, missing)  # type: ignore[arg-type]  # one of the two is known


def _require(folder: Scores, model: str, identity: Mapping[str, Any], given: PathLike) -> None:
    scored = folder.meta.get(f"{model}_model") or {}
    # The file may have another name by now.
    if any(scored.get(key) != identity[key] for key in ("bytes", "digest")):
        raise CorpusError(
            f"{folder.path} was scored with the {model} {scored.get('file')!r}, and {os.fspath(given)} is "
            "another file; score the texts with it"
        )


def _named(given: PathLike, out: Path) -> str:
    name = os.fspath(given)
    if is_hub_spec(given):
        return name
    path = os.path.realpath(os.path.expanduser(name))
    try:
        path = Path(os.path.relpath(path, os.path.realpath(out))).as_posix()
    except ValueError:  # on another drive
        path = Path(path).as_posix()
    try:
        path.encode()
    except UnicodeEncodeError:
        raise CorpusError(f"{name!a} cannot be written into {FILE}, which is UTF-8; rename this file") from None
    return path


def write_pair(out: Path, models: Models, *, head: Path | None, n_texts: int, system: str | None) -> Path:
    """Writes ``pair.toml``: the models, ``adapter.gguf`` and the head beside it, and the texts' system message."""
    base, assistant = models.base["file"], models.assistant["file"]
    values = {
        "about": f"{base} with an adapter tuned on {n_texts} texts, and {assistant}",
        **models.names,
        "adapter": "adapter.gguf",
        "adapter_scale": 1.0,
        "head": None if head is None else head.name,
        "system": system,
    }
    file = out / FILE
    write_file(file, to_toml(values).encode())
    return file


def write_card(
    out: Path,
    models: Models,
    folders: Sequence[Scores],
    *,
    command: str | None,
    options: Mapping[str, Any],
    n_texts: tuple[int, int],
    adapter: Path,
    head: Path | None,
    before: HeldOut,
    best: HeldOut,
) -> Path:
    """Writes ``card.md``: models, data, command, held-out numbers and versions."""
    name = out.resolve().name
    lines = [f"# {name}: a pair tuned by colm tune", ""]
    if command is not None:
        lines += ["```", command, "```", ""]
    lines += [
        f"Made with {', '.join(f'{library} {_version(library)}' for library in _LIBRARIES)}.",
        "",
        "## Models",
        "",
    ]
    lines += _table(
        ["", "file", "bytes", "digest"],
        [
            [what, str(model["file"]), str(model["bytes"]), str(model["digest"])]
            for what, model in (("base", models.base), ("assistant", models.assistant))
        ],
    )
    lines += [
        "",
        f"The adapter is {adapter.name}: rank {options['rank']}, alpha {options['alpha']:g}, "
        f"{adapter.stat().st_size} bytes, SHA-256 {digest_of(adapter)}. "
        + (
            "There is no head."
            if head is None
            else f"The head is {head.name}; it belongs to the base with this adapter."
        ),
        "",
        "## Data",
        "",
        f"{n_texts[0]} texts for training, {n_texts[1]} held out "
        f"(share {options['held_out']:g}, seed {options['seed']}).",
        "",
    ]
    lines += _table(["scores", "texts", "scored tokens", "SHA-256 of texts.jsonl", "texts from"], map(_data, folders))
    lines += ["", f"## Nats per token on the {n_texts[1]} held-out texts", ""]
    rows = [[label, f"{getattr(before, key):.4f}", f"{getattr(best, key):.4f}"] for label, key in HELD_OUT_ROWS]
    lines += _table(["", "before", f"after (step {best.step})"], rows)
    lines += ["", "## Use", ""]
    if head is None:
        lines += [
            f'`colm.load({name!r}, head="always")` loads base, adapter and assistant. To fit a head, run '
            f"`colm train {name}/scores/* --out {name}/head.gguf`, and add "
            '`head = "head.gguf"` to pair.toml.',
        ]
    else:
        lines += [
            f"First `colm calibrate --pair {name} PROMPTS.jsonl`. Then `colm generate PROMPT --chat --pair {name} "
            f"--defer-rate 0.2`, or `colm.load({name!r})` in Python.",
        ]
    file = out / CARD
    write_file(file, ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace"))
    return file


def _data(folder: Scores) -> list[str]:
    corpus = folder.meta.get("corpus")
    files = [f"{entry['file']} ({entry['sha256']})" for entry in corpus] if isinstance(corpus, list) else []
    progress = folder.progress
    digest = digest_of(folder.path / "texts.jsonl")
    return [folder.path.resolve().name, str(progress.n_texts), str(progress.n_tokens), digest, ", ".join(files)]


def _table(titles: Sequence[str], rows: Any) -> list[str]:
    cells = [titles, ["---"] * len(titles), *rows]
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in cells]


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "(unknown version)"

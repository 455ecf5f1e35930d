"""``colm models``: the names of presets and heads."""

from __future__ import annotations

from typing import Any

import click

from ._output import echo, one_line, print_json

__all__ = ["models"]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def models(as_json: bool) -> None:
    """List the names of presets and heads.

    A preset is a pair of models with a head. Give its name to --pair or to 'colm inspect'. Give the name of a head to
    --head. Your own presets are NAME.toml or NAME/pair.toml in the folder that this command shows. COLM_PAIRS names
    another folder. This command downloads nothing.
    """
    from ..errors import LoadError, OptionError
    from ..heads.head import Head
    from ..sources.names import TRAINING_FREE_HEADS, find_head, head_names
    from ..sources.pair_file import read
    from ..sources.preset import own_folder, preset_files
    from ._facts import ABOUT_HEADS

    pairs: list[dict[str, Any]] = []
    for name, file in preset_files().items():
        facts = {"name": name, "file": str(file)}
        try:
            known = read(file, name)
        except (LoadError, OptionError) as error:
            pairs.append({**facts, "error": str(error)})
            continue
        adapter = None if known.adapter is None else dict(zip(("path", "scale"), known.adapter, strict=True))
        facts |= {"base": known.base, "assistant": known.assistant}
        pairs.append({**facts, "adapter": adapter, "head": known.head, "about": known.about})
    heads: list[dict[str, Any]] = []
    for name in head_names():
        named = find_head(name)
        if named.place is None:  # a pair may defer without a file
            continue
        head = Head.load(str(named.file()))
        heads.append(
            {
                "name": name,
                "kind": head.kind,
                "base": head.base_name,
                "assistant": head.assistant_name,
                "n_embd": head.n_embd,
                "calibrated": bool(head.rates),
                "file": named.place,
            }
        )
    heads += [{"name": name, "kind": "training-free", "about": ABOUT_HEADS[name]} for name in TRAINING_FREE_HEADS]
    if as_json:
        print_json({"pairs": pairs, "heads": heads, "folder": str(own_folder())})
        return
    lines = _table("Presets (--pair NAME)", [(one_line(pair["name"]), _of_pair(pair)) for pair in pairs])
    lines += ["", *_table("Heads (--head NAME)", [(head["name"], _about(head)) for head in heads])]
    # In one piece, so that a reader that leaves after some lines, such as head, ends no command in the middle.
    echo(
        "\n".join(
            [
                *lines,
                "",
                one_line(f"Your own presets: {own_folder()}"),
                "A head may also be a file, hf:org/repo/file.gguf, or a token of the base such as '<|defer|>'.",
            ]
        )
    )


def _of_pair(pair: dict[str, Any]) -> str:
    if "error" in pair:
        return one_line(f"cannot be used: {pair['error']}")
    return one_line(pair["about"] or f"{pair['base']} and {pair['assistant']}")


def _about(head: dict[str, Any]) -> str:
    if "about" in head:
        return f"{head['kind']}: {head['about']}"
    made_for = f", trained for {head['base']} and {head['assistant']}" if head["base"] and head["assistant"] else ""
    return f"{head['kind']}{made_for}{', calibrated' if head['calibrated'] else ''}"


def _table(title: str, rows: list[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in rows)
    return [title, *(f"  {name:<{width}}  {about}" for name, about in rows)]

"""``colm inspect``: facts about a model, a head or a pair."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ._experts import chosen_experts, expert_arguments
from ._flags import in_flags
from ._options import LOAD, collect, from_table
from ._output import echo, is_terminal, one_line, print_json, sized, wants_color

if TYPE_CHECKING:
    from rich.table import Table

    from ..sources.pair_file import Preset

__all__ = ["inspect"]

# For checking a pair: the vocabularies are compared, no text is written.
_SMALL_CONTEXT = 256
_PIPE_WIDTH = 160
_MEMORY_OPTIONS = ("n_ctx", "n_batch", "n_ubatch", "type_k", "type_v", "n_gpu_layers")


@click.command()
@click.argument("files", nargs=-1)
@click.option("--base", metavar="MODEL", help="The base of a pair to check.")
@click.option("--assistant", metavar="MODEL", help="The assistant of a pair to check.")
@expert_arguments
@click.option("--pair", "pair", metavar="PAIR", help="A pair to check, instead of --base and --assistant.")
@click.option("--head", metavar="HEAD", help="A head to check with the pair (see --head of 'colm generate').")
@click.option(
    "--text",
    metavar="FILE",
    help="A text, or JSON lines with completions: count after how many of its tokens models with unlike vocabularies "
    "cannot hand over to each other.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@from_table(LOAD, "Options", _MEMORY_OPTIONS)
@click.pass_context
def inspect(
    ctx: click.Context,
    /,
    files: tuple[str, ...],
    base: str | None,
    assistant: str | None,
    pair: str | None,
    head: str | None,
    text: str | None,
    as_json: bool,
    **values: Any,
) -> None:
    """Show facts about models and heads, and check whether a pair fits together.

    FILES are model files, head files, or names of heads. To check a pair, give --base and --assistant (or --expert), or
    a pair with --pair or as FILES: the name of a preset, a folder with a pair.toml, or such a file. All models are then
    loaded and their vocabularies are compared. Files on the hub are downloaded. The exit code is 1 if the parts of a
    pair do not fit together, or if a file is truncated.
    """
    from ..options import LoadOptions
    from ..remote import is_remote
    from ..sources.pair_file import Preset
    from ..sources.preset import is_preset, preset
    from ..sources.shipped import shipped_heads
    from ._facts import file_facts, pair_facts

    pairs = [name for name in files if is_preset(name) and name not in shipped_heads()]
    if len(files) == 1 and pair is None and base is None and is_preset(files[0]):
        pair, files = files[0], ()
    elif pairs:
        raise click.UsageError(f"{pairs[0]} is a preset; give its name alone, or as --pair {pairs[0]}")
    experts = chosen_experts(values)
    if experts and assistant is not None:
        raise click.UsageError("--expert replaces --assistant; give the assistant as --expert assistant=MODEL")
    known = None
    if pair is not None:
        if base is not None or assistant is not None or experts:
            raise click.UsageError("--pair already gives all models; remove --base and --assistant, or remove --pair")
        known = preset(pair)
        base, head = known.base, known.head if head is None else head
    elif base is not None and (assistant is not None or experts):
        known = Preset("", base, assistant or "", None, experts=experts)
    if not files and base is None and assistant is None and not experts:
        raise click.UsageError("nothing to inspect; give FILES, or --base and --assistant, or --pair")
    if known is None and (base is not None or assistant is not None or experts):
        raise click.UsageError("a pair needs both --base and --assistant; to inspect one model, give it as FILES")
    if head is not None and base is None:
        raise click.UsageError("--head needs --base and --assistant; to inspect a head alone, give it as FILES")
    if text is not None and known is None:
        raise click.UsageError("--text needs --base and --assistant, or --pair: it is read with the tokens of both")

    given = collect(LOAD, values)
    options = LoadOptions.merge(given, None)
    # Of a model on another machine there is no file; what its server says of it stands in the table of the pair.
    named = [*files, *(model for model in ([] if known is None else known.models) if not is_remote(model))]
    if head is not None and (place := _place(head, known)) is not None:
        named.append(place)
    facts: dict[str, Any] = {"files": [file_facts(name, options) for name in dict.fromkeys(named)]}
    complaints = [
        f"{file['path']} is truncated: it has {file['file_bytes']} of {file['expected_bytes']} bytes; download it again"
        for file in facts["files"]
        if file.get("truncated")
    ]
    if known is not None and not complaints:
        # What is to be known of the pair does not depend on the size of the context or on the device.
        small = {**given, "n_ctx": _SMALL_CONTEXT, "n_gpu_layers": 0}
        facts["pair"] = pair_facts(known, head, small, text)
        if not facts["pair"]["compatible"]:
            complaints.append(facts["pair"]["reason"])
    if as_json:
        print_json(facts)
    else:
        _show(facts)
    for complaint in complaints:
        echo(one_line(f"colm: error: {in_flags(complaint, ctx.command)}"), err=True)
    if complaints:
        ctx.exit(1)


def _place(head: str, known: Preset | None) -> str | None:
    """The file of a head, which may have the name of an expert behind it."""
    from ..options import split_head
    from ..sources.names import find_head

    experts = () if known is None else known.names[1:]
    return find_head(split_head(head, experts)[0]).place


def _show(facts: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console(
        highlight=False,
        markup=False,
        emoji=False,
        no_color=not wants_color("auto", "stdout"),
        width=None if is_terminal("stdout") else _PIPE_WIDTH,
    )
    for file in facts["files"]:
        console.print(one_line(file["path"]), style="bold", soft_wrap=True)
        console.print(_TABLES[file["type"]](file))
    if "pair" in facts:
        pair = facts["pair"]
        console.print(f"pair: {'compatible' if pair['compatible'] else 'not compatible'}", style="bold")
        if "n_shared" in pair:
            console.print(_pair_table(pair))


def _table(rows: list[tuple[str, ...]], columns: tuple[str, ...] = ()) -> Table:
    """A table of texts; rows without a value are left out."""
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=bool(columns))
    for column in columns or ("", ""):
        table.add_column(column, overflow="fold")
    for row in rows:
        if any(row[1:]):
            # Names come out of files: as Text they are no markup, and their control characters are escaped.
            table.add_row(*(Text(one_line(cell)) for cell in row))
    return table


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def _model_table(facts: dict[str, Any]) -> Table:
    memory = facts["memory"]
    vocab = ", ".join(_text(facts[key]) for key in ("n_vocab", "vocab_type", "pre_tokenizer") if facts[key] is not None)
    special = {name: facts[f"{name}_token_id"] for name in ("bos", "eos")}
    ids = ", ".join(f"{name} {token}" for name, token in special.items() if token is not None)
    size = sized(facts["file_bytes"])
    if facts["truncated"]:
        size += f", truncated: {sized(facts['expected_bytes'])} expected"
    return _table(
        [
            ("model", _text(facts["name"])),
            ("architecture", _text(facts["architecture"])),
            ("parameters", _text(facts["parameters"] or facts["size_label"])),
            ("file", size),
            ("quantisation", _text(facts["quantisation"])),
            ("context", f"{facts['n_ctx_train']} tokens" if facts["n_ctx_train"] else ""),
            ("layers", _text(facts["n_layer"])),
            ("n_embd", _text(facts["n_embd"])),
            ("vocabulary", vocab),
            ("special ids", ids),
            ("chat template", _text(facts["chat_template"])),
            (
                f"memory at n_ctx {memory['n_ctx']}",
                f"{sized(memory['total'])} (weights {sized(memory['weights'])}, KV cache "
                f"{sized(memory['kv_cache'])}, compute {sized(memory['compute'])})",
            ),
        ],
    )


def _head_table(facts: dict[str, Any]) -> Table:
    features = ", ".join(facts["features"]) + (f" (top_k {facts['top_k']})" if facts["top_k"] else "")
    known = facts["base_adapters"]
    adapters = None if known is None else [f"{a['sha256']} at scale {a['scale']:g}" for a in known]
    rows: list[tuple[str, ...]] = [
        ("head", _text(facts["name"])),
        ("kind", facts["kind"] + (f", {facts['activation']}" if facts["activation"] else "")),
        ("n_embd", _text(facts["n_embd"])),
        ("layers", ", ".join(f"[{n_out}, {n_in}]" for n_out, n_in in facts["layers"])),
        ("features", features or "none"),
        ("base", _text(facts["base_name"])),
        ("assistant", _text(facts["assistant_name"])),
        ("experts", ", ".join(facts["expert_names"])),
        ("vocabulary", _text(facts["vocab_fingerprint"])),
        ("adapters of the base", "" if adapters is None else "none" if not adapters else "\n".join(adapters)),
        ("default threshold", "" if facts["default_threshold"] is None else f"{facts['default_threshold']:g}"),
        ("file", sized(facts["file_bytes"])),
    ]
    rows += _training_rows(facts["training"])
    if facts["tables"]:
        rows.append(("calibrated for", "; ".join(facts["tables"])))
    rows += [(f"rate {row['rate']:g}", f"threshold {row['threshold']:g}") for row in facts["calibration"]]
    return _table(rows)


def _free_table(facts: dict[str, Any]) -> Table:
    return _table([("head", facts["name"]), ("kind", "training-free"), ("function", facts["about"])])


_TABLES = {"model": _model_table, "head": _head_table, "training-free": _free_table}


def _training_rows(training: Any) -> list[tuple[str, ...]]:
    """The held-out results of a head from ``colm train``. A head made elsewhere may have anything there."""
    held_out = training.get("held_out") if isinstance(training, dict) else None
    if not isinstance(held_out, dict):
        return []
    several = isinstance(training.get("experts"), dict)
    names = {
        "base_nll": "base",
        "assistant_nll": "the expert that the head names" if several else "assistant",
        "joint_nll": "all models with this head" if several else "pair",
        "oracle_nll": "best model at each token" if several else "better model at each token",
    }
    losses = [f"{name} {value:.3f}" for key, name in names.items() if isinstance(value := held_out.get(key), float)]
    areas = [
        f"{name} {value:.3f}"
        for key, name in (("auc_differ", "this head"), ("confidence_auc_differ", "confidence"))
        if isinstance(value := held_out.get(key), float)
    ]
    rows = [("held-out NLL", ", ".join(losses)), ("AUC where models differ", ", ".join(areas))]
    return rows + _expert_rows(training.get("experts"))


def _expert_rows(report: Any) -> list[tuple[str, ...]]:
    """What each of several experts does on the held-out texts, and what it costs to drop it."""
    models = report.get("models") if isinstance(report, dict) else None
    rows: list[tuple[str, ...]] = []
    for name, model in models.items() if isinstance(models, dict) else ():
        if not isinstance(model, dict) or not isinstance(model.get("without"), float):
            continue
        known = [(what, model.get(what)) for what in ("best", "named")]
        shares = [f"{what} at {share:.1%} of the tokens" for what, share in known if isinstance(share, float)]
        freed = f", -{sized(model['freed'])}" if isinstance(model.get("freed"), int) and model["freed"] else ""
        rows.append((f"expert {name}", f"{', '.join(shares)}; if dropped {model['without']:+.3f} nats{freed}"))
    return rows


def _adapters(model: dict[str, Any]) -> str:
    return "\n".join(f"{a['path']} ({a['sha256'][:12]}) at scale {a['scale']:g}" for a in model["adapters"])


def _pair_table(facts: dict[str, Any]) -> Table:
    models = {"base": facts["base_model"]}
    models |= facts.get("expert_models") or {"assistant": facts["assistant_model"]}
    labels = {
        "vocab_type": "tokenizer",
        "n_vocab": "vocabulary",
        "tail": "ids that are not shared",
        "bos_token": "BOS",
        "add_bos": "adds BOS",
        "eos_token": "EOS",
        "vocab_fingerprint": "fingerprint",
        "n_embd": "n_embd",
    }
    rows: list[tuple[str, ...]] = [("shared ids", *[str(facts["n_shared"])] * len(models))]
    if facts.get("waits") == {}:
        rows.append(("hand-overs that wait", "none: one vocabulary", *[""] * (len(models) - 1)))
    if not facts["one_vocabulary"]:
        # Each has its own tokens of the text; the more of them are the same texts, the less is read again.
        overlaps = facts["overlap"].values()
        shares = (f"{one['texts']} ({one['of_base']:.0%} of the base's, {one['of_expert']:.0%})" for one in overlaps)
        rows = [("token texts as the base", "", *shares)]
        labels["tail"] = "ids that are never written"
        if "waits" in facts:
            met = facts["waits"].values()
            rows += [
                ("tokens of the text", "", *(f"{one['base_tokens']} and {one['expert_tokens']}" for one in met)),
                ("  that end together", "", *(str(one["shared"]) for one in met)),
                ("the base has to wait", "", *(f"after {one['base_waits']:.1%} of its tokens" for one in met)),
                ("the other has to wait", "", *(f"after {one['expert_waits']:.1%} of its tokens" for one in met)),
            ]
    servers = (f"{model['protocol']} at {model['url']}" if "url" in model else "" for model in models.values())
    likeliest = (_text(model.get("top_k")) for model in models.values())
    rows += [("server", *servers), ("likeliest tokens that it names", *likeliest)]
    rows += [(label, *(_text(model[key]) for model in models.values())) for key, label in labels.items()]
    rows.append(("adapters", *(_adapters(model) for model in models.values())))
    if facts["head"] is not None:
        fits = "fits" if facts["compatible"] else "does not fit"
        rows.append(("head", facts["head"], fits, *[""] * (len(models) - 2)))
    return _table(rows, ("", *models))

"""``colm calibrate``: from thresholds to deferral rates."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import OptionError
from ._help import SectionedCommand
from ._pair import chosen_models, loading, option, pair_arguments, parallel_option

if TYPE_CHECKING:
    from ..learn.calibration import Calibrated

__all__ = ["calibrate"]


@click.command(cls=SectionedCommand)
@click.argument("head")
@click.argument("prompts", nargs=-1, required=True, type=click.Path())
@pair_arguments
@option("Texts", "--skip", type=int, default=0, show_default=True, help="Rows of each file to pass over.")
@option("Texts", "--limit", type=int, default=16, show_default=True, help="Prompts of each file at most.")
@option("Texts", "--max-tokens", type=int, default=256, show_default=True, help="Tokens of a text at most.")
@option("Texts", "--temperature", type=float, default=0.0, show_default=True, help="0 is greedy.")
@option("Texts", "--seed", type=int, default=0, show_default=True, help="Of sampling.")
@option("Texts", "--chat/--no-chat", default=None, help="The base's chat template. Unset: where it has one.")
@parallel_option("Texts", "Texts written at once.")
@option("Head", "--out", "-o", type=click.Path(path_type=Path), help="The head file to write.  [default: HEAD itself]")
@option("Head", "--default-rate", type=float, help="Make the threshold of this rate the head's default.")
@option("Head", "--force", is_flag=True, help="Replace the file of --out if it exists.")
@option("Output", "--json", "as_json", is_flag=True, help="Print one JSON object.")
def calibrate(head: str, prompts: tuple[str, ...], out: Path | None, as_json: bool, **values: Any) -> None:
    """Measure at which thresholds HEAD defers 5, 10, ... 95% of what the pair writes on PROMPTS.

    HEAD is a head file, or confidence: that gives a head file too. PROMPTS are JSON lines with prompt or messages that
    the head was not trained on. The table goes into the head file; --defer-rate and defer_rate= read it.
    """
    from ..heads import Head
    from ..hub import resolve
    from ..learn.calibration import CHECKED_RATES
    from ..learn.calibration import calibrate as run
    from ..learn.tasks import load_prompts
    from ..learn.texts import uses_chat
    from ._loading import load_pair
    from ._output import log_to_stderr, one_line, print_json
    from ._progress import meter

    models = chosen_models(values)[:2]
    by_name = head == "confidence"
    if out is None and (by_name or head.startswith("hf:")):
        raise click.UsageError(f"--out is needed: {head} is no file that the table could go into")
    target = Path(head) if out is None else out
    if out is not None and os.path.lexists(out) and not values["force"] and str(out) != head:
        raise OptionError(f"{out} exists; give another name, or --force to replace it")
    loaded = None if by_name else Head.load(resolve(head))
    problems = [p for path in prompts for p in load_prompts(path, skip=values["skip"], limit=values["limit"])]
    options = {"max_tokens": values["max_tokens"], "temperature": values["temperature"], "seed": values["seed"]}
    with (
        log_to_stderr(values["verbose"]),
        load_pair(*models, None, **loading(values)) as pair,
        meter("calibrating", shown=not values["quiet"]) as bar,
    ):
        if loaded is None:
            loaded = Head.confidence(
                pair.n_embd,
                base_name=pair.base["name"] or None,
                assistant_name=pair.assistant["name"] or None,
                vocab_fingerprint=pair.vocab_fingerprint,
            )

        phases: list[str] = []

        def on_text(what: str, done: int, total: int, record: Any) -> None:
            if done == 1:
                phases.append(what)
            # A rate that is measured again takes longer than was foreseen: the bar waits for it.
            share = (len(set(phases)) - 1 + done / total) / (1 + len(CHECKED_RATES))
            bar.update(share, f"{what}: {record.n_deferred} of {record.n_tokens} tokens deferred")

        use_chat = uses_chat(pair.base, values["chat"])
        result = run(
            pair,
            loaded,
            problems,
            options,
            chat=use_chat,
            default_rate=values["default_rate"],
            n_parallel=values["n_parallel"],
            on_text=on_text,
        )
    result = _with_youden(result, models, values)
    result.head.save(target)
    for rate, measured in result.off.items():
        nearest = f"colm: warning: at {rate:.0%} the nearest that was measured is {measured:.1%}; "
        if rate in result.stuck:
            why = "other thresholds give texts that were measured already, so the search ended; "
        else:
            why = ""
        click.echo(one_line(f"{nearest}{why}more prompts or longer texts give a steadier table"), err=True)
    if as_json:
        rows = [[m.wanted, m.threshold, m.measured, m.n_tokens] for m in result.measurements]
        table = dict(zip(map(str, result.head.rates), result.head.thresholds, strict=True))
        print_json({"head": str(target), "thresholds": table, "measurements": rows, "youden": result.youden})
    else:
        _report(result, target)


def _with_youden(result: Calibrated, models: tuple[str, str], values: dict[str, Any]) -> Calibrated:
    from ..learn.calibration import add_youden
    from ._loading import load_scorer

    # The same models again, loaded for reading whole texts rather than for writing one.
    longest = max((len(text.tokens) for text in result.base_texts), default=2)
    scorer = load_scorer(*models, n_ctx=max(longest, 2), **loading(values))
    with scorer:
        return add_youden(result, scorer)


def _report(result: Calibrated, target: Path) -> None:
    click.echo("wanted  threshold  measured  tokens")
    for m in result.measurements:
        click.echo(f"{m.wanted:6.0%}  {m.threshold:9.4g}  {m.measured:8.1%}  {m.n_tokens:6d}")
    click.echo("rate    threshold")
    for rate, threshold in zip(result.head.rates, result.head.thresholds, strict=True):
        click.echo(f"{rate:6.0%}  {threshold:9.4g}")
    if result.youden is not None:
        click.echo(
            f"threshold {result.youden['threshold']:.4g} best tells where the models differ "
            f"(Youden's J {result.youden['j']:.3f})"
        )
    click.echo(f"{target}: calibrated; try colm generate --head {target} --defer-rate 0.2")

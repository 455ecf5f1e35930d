"""Where a pair pays: small bases with large assistants, which are made up. Speed depends on the shapes alone.

    python benchmarks/shapes.py BASE.gguf [--pairs 0.5B/7B 1.5B/14B] [--folder build/shapes] [--rounds 3] [--tokens 48]

BASE.gguf gives the vocabulary; without it the demo's is filled up to the size of Qwen2.5's. The models are written
once, in the types of Q4_K_M files, and stay in the folder (5 GB for the first pair, 10 GB for the second).

The head ``random`` defers 0 to 40% of the tokens, with and without look-ahead, beside each model alone. The ways of
writing take turns. Made-up models never choose the same token, which is the worst for look-ahead; a bias that leaves
one token to both is the best, where no draft is ever rejected. (The base's probabilities do not show this, so that
"auto" would not try: there the draft has 4 tokens.) The truth of a real pair lies between. Each measurement
is printed and added to measured.jsonl in the folder; the same command again does what is missing. At the end there are
a table and a figure.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from fresh import Spread
from made_up import SHAPES, made_up, no_end

import colm_cpp as colm
from colm_cpp.evaluate.steps import PROMPT, StepCosts, time_steps
from colm_cpp.machine.cores import usable_cores
from colm_cpp.sources.preset import preset

RATES = (0.0, 0.05, 0.1, 0.2, 0.4)
N_VOCAB = 151936
AGREE: dict[str, Literal["auto", 4]] = {"never": "auto", "always": 4}
WARM_TOKENS = 16
ONE_TOKEN = 1e4  # added to its logit, so that no other is chosen
NAMES = {"never": "the models never agree", "always": "they always agree"}


@dataclass(frozen=True)
class Arm:
    """A way of writing: a model alone, or both."""

    name: Literal["base", "assistant", "both"]
    rate: float = 0.0
    lookahead: Literal[0, 4, "auto"] = 0

    def options(self) -> dict[str, Any]:
        if self.name != "both":
            return {"head": "never" if self.name == "base" else "always", "lookahead": 0}
        return {"head": "random", "threshold": 1.0 - self.rate, "lookahead": self.lookahead}

    def __str__(self) -> str:
        ahead = f", look-ahead {self.lookahead}" if self.lookahead else ""
        return f"both, {self.rate:.0%}{ahead}" if self.name == "both" else f"{self.name} alone"


def arms(rates: list[float], agree: str) -> list[Arm]:
    ahead = [Arm("both", rate, AGREE[agree]) for rate in rates if rate > 0]
    return [Arm("base"), Arm("assistant"), *(Arm("both", rate) for rate in rates), *ahead]


class Measured:
    """The lines of measured.jsonl."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path, self.settings = path, settings
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.lines = [found for line in lines if (found := json.loads(line))["settings"] == settings]

    def add(self, **fields: Any) -> None:
        self.lines.append({**fields, "settings": self.settings})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self.lines[-1]) + "\n")

    def of(self, **fields: Any) -> list[dict[str, Any]]:
        return [line for line in self.lines if all(line.get(name) == value for name, value in fields.items())]

    def steps(self, pair: str) -> dict[str, float]:
        """Milliseconds of bare decodes."""
        return dict(self.of(pair=pair, what="steps")[-1]["ms"])


def measure(pair_name: str, models: list[Path], args: argparse.Namespace, measured: Measured) -> None:
    todo = {
        agree: [
            (number, arm)
            for number in range(args.rounds)
            for arm in arms(args.rates, agree)[:: 1 if number % 2 == 0 else -1]
            if not measured.of(pair=pair_name, agree=agree, round=number, **asdict(arm))
        ]
        for agree in AGREE
    }
    for agree in (agree for agree in AGREE if todo[agree]):  # look-ahead learns how often models agree: a pair for each
        with colm.load(*models, "random", n_ctx=512, n_threads=args.n_threads, n_gpu_layers=args.n_gpu_layers) as pair:
            if not measured.of(pair=pair_name, what="steps"):
                measured.add(pair=pair_name, what="steps", ms=milliseconds(*time_steps(pair)))
                print(f"{pair_name}, milliseconds of a decode: {measured.steps(pair_name)}", flush=True)
            only = {pair.tokenize(" the")[-1]: ONE_TOKEN}
            bias = no_end(models[0]) if agree == "never" else only
            write(pair, Arm("both", 1.0, "auto"), bias, WARM_TOKENS, 0)
            for number, arm in todo[agree]:
                out = write(pair, arm, bias, args.tokens, number)
                stats = out.stats
                measured.add(
                    pair=pair_name,
                    agree=agree,
                    round=number,
                    **asdict(arm),
                    tokens=stats.generated_tokens,
                    seconds=stats.decode_s,
                    deferred=sum(token.deferred for token in out.tokens),
                    calls=stats.assistant_calls,
                    drafted=stats.drafted_tokens,
                    accepted=stats.accepted_tokens,
                )
                print(
                    f"{pair_name}, round {number + 1}, {NAMES[agree]}, {arm}: {stats.tokens_per_s:.2f} tokens/s, "
                    f"{stats.deferral_rate:.0%} deferred, {stats.assistant_calls} calls, "
                    f"{stats.accepted_tokens} of {stats.drafted_tokens} drafts accepted",
                    flush=True,
                )


def write(pair: colm.Pair, arm: Arm, bias: dict[int, float], n_tokens: int, seed: int) -> colm.Completion:
    options = {"temperature": 0.0, "max_tokens": n_tokens, "seed": seed, "logit_bias": bias}
    return pair.generate(PROMPT, **options, **arm.options())


def milliseconds(costs: StepCosts) -> dict[str, float]:
    models = {"base": costs.base, **costs.experts}
    return {
        f"{name} {size}": round(1000 * spread.median, 2) for name, of in models.items() for size, spread in of.items()
    }


@dataclass(frozen=True)
class Row:
    """An arm in all rounds: the share that was deferred, tokens/s, and the speed over the assistant alone."""

    rate: float
    tokens_per_s: float
    over: Spread

    @classmethod
    def of(cls, measured: Measured, pair: str, agrees: tuple[str, ...], arm: Arm) -> Row:
        found = [line for agree in agrees for line in measured.of(pair=pair, agree=agree, **asdict(arm))]
        alone = {
            (line["agree"], line["round"]): line["tokens"] / line["seconds"]
            for line in measured.of(pair=pair, **asdict(Arm("assistant")))
        }
        speeds = [line["tokens"] / line["seconds"] for line in found]
        rate = sum(line["deferred"] for line in found) / sum(line["tokens"] for line in found)
        ratios = [speed / alone[line["agree"], line["round"]] for speed, line in zip(speeds, found, strict=True)]
        return cls(rate, statistics.median(speeds), Spread(ratios))


def pays_until(rows: list[Row]) -> str:
    """The share deferred at which the pair is as fast as the assistant alone, between two rows."""
    for before, after in itertools.pairwise(rows):
        high, low = before.over.median, after.over.median
        if high >= 1.0 > low:
            at = before.rate + (after.rate - before.rate) * (high - 1.0) / (high - low)
            return f"up to {at:.0%} deferred"
    return f"at every rate, up to {rows[-1].rate:.0%} deferred" if rows[0].over.median >= 1.0 else "at no rate"


def report(measured: Measured, pairs: list[str], rates: list[float], plot: Path) -> None:
    matplotlib = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    figure: Any = importlib.import_module("matplotlib.figure").Figure(
        figsize=(5 * len(pairs), 4.2), layout="constrained"
    )
    for number, pair in enumerate(pairs):
        axes = figure.add_subplot(1, len(pairs), number + 1)
        plain = [Row.of(measured, pair, tuple(AGREE), Arm("both", rate)) for rate in rates]
        ahead = {
            agree: [Row.of(measured, pair, (agree,), Arm("both", rate, lookahead)) for rate in rates if rate > 0]
            for agree, lookahead in AGREE.items()
        }
        base, assistant = (Row.of(measured, pair, tuple(AGREE), Arm(name)) for name in ("base", "assistant"))
        print(f"\n{pair}: the base alone {base.tokens_per_s:.1f} tokens/s, the assistant {assistant.tokens_per_s:.2f}")
        print(f"milliseconds of a decode: {measured.steps(pair)}\n")
        print(
            "| deferred | tokens/s | over the assistant alone | auto, they never agree | 4 ahead, they always agree |"
        )
        print("|---|---|---|---|---|")
        for i, row in enumerate(plain):
            cells = [ahead[agree][i - 1].over.show(2) if rates[i] > 0 else "" for agree in AGREE]
            print(f"| {row.rate:.0%} | {row.tokens_per_s:.2f} | {row.over.show(2)} | {' | '.join(cells)} |")
        print(f"\nFaster than the assistant alone without look-ahead: {pays_until(plain)}.")
        for agree in AGREE:
            rows = [plain[0], *ahead[agree]]
            print(f"Faster than the assistant alone with look-ahead, {NAMES[agree]}: {pays_until(rows)}.")
        lines = [("without look-ahead", plain, "#0e7c93", "-")]
        lines += [
            (f"look-ahead, {NAMES[agree]}", ahead[agree], color, style)
            for agree, color, style in (("never", "#b4531f", "--"), ("always", "#3f7d20", "--"))
        ]
        for label, rows, color, style in lines:
            at = [100 * row.rate for row in rows]
            middle = [row.over.median for row in rows]
            least = [row.over.median - row.over.least for row in rows]
            most = [row.over.most - row.over.median for row in rows]
            axes.errorbar(
                at, middle, yerr=[least, most], marker="o", capsize=3, color=color, linestyle=style, label=label
            )
        axes.axhline(1.0, color="0.35", linestyle="-.", label="the assistant alone")
        axes.set_title(pair)
        axes.set_xlabel("deferred tokens (%)")
        axes.set_ylabel("speed over the assistant alone")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(plot, dpi=120, metadata={"Software": None} if plot.suffix == ".png" else None)
    print(f"\n{plot}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, nargs="?", help="a Qwen2.5's GGUF file, for its vocabulary")
    parser.add_argument("--pairs", nargs="+", default=["0.5B/7B"], metavar="BASE/ASSISTANT", help=", ".join(SHAPES))
    parser.add_argument("--folder", type=Path, default=Path("build/shapes"))
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--n-threads", type=int, default=usable_cores())
    parser.add_argument("--n-gpu-layers", type=int, default=0)
    parser.add_argument("--plot", type=Path, help="Unset: shapes.png in the folder.")
    args = parser.parse_args()
    args.rates = sorted({0.0, *args.rates})
    args.folder.mkdir(parents=True, exist_ok=True)
    settings = {"tokens": args.tokens, "threads": args.n_threads, "gpu_layers": args.n_gpu_layers}
    measured = Measured(args.folder / "measured.jsonl", settings)
    vocabulary, n_vocab = (args.base, None) if args.base else (Path(preset("demo").base), N_VOCAB)
    for pair in args.pairs:
        models = []
        for seed, name in enumerate(pair.split("/")):
            models.append(made_up(args.folder / f"{name}.gguf", vocabulary, SHAPES[name], seed, n_vocab))
            print(f"{models[-1]}: {models[-1].stat().st_size / 1e9:.2f} GB", flush=True)
        measure(pair, models, args, measured)
    report(measured, args.pairs, args.rates, args.plot or args.folder / "shapes.png")


if __name__ == "__main__":
    main()

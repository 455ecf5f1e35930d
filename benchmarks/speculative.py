"""Where everything is deferred, look-ahead is speculative decoding: against llama.cpp's own, in one alternating run.

    python benchmarks/speculative.py BASE ASSISTANT TEXTS.jsonl --binary llama-speculative-simple [--tokens 128]

The binary is llama.cpp's example of that name. It is in no wheel; built from the llama.cpp that lies in
llama-cpp-python's source package, against the libraries of the installed wheel (LD_LIBRARY_PATH), both sides run the
same kernels:

    pip download --no-deps --no-binary :all: llama-cpp-python==0.3.36

Both read the prompt and write greedily. What is compared is the tokens written over the seconds from the first token
read to the last one written; loading is left out on both sides.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import statistics
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import colm_cpp as colm
from colm_cpp.machine.cores import usable_cores

N_CTX = 1024


@dataclass
class Run:
    """One text."""

    n_tokens: int
    seconds: float
    n_calls: int | None
    n_drafted: int
    n_accepted: int
    text: str


def _ours(pair: colm.Pair, prompt: str, n_tokens: int, lookahead: Any) -> Run:
    pair.forget()
    ids = pair.tokenize(prompt, parse_special=True)
    out = pair.generate(
        ids, head="confidence", threshold=0.0, temperature=0.0, max_tokens=n_tokens, lookahead=lookahead
    )
    stats = out.stats
    return Run(
        stats.generated_tokens,
        stats.prefill_s + stats.decode_s,
        stats.assistant_calls,
        stats.drafted_tokens,
        stats.accepted_tokens,
        out.text,
    )


def _theirs(command: list[str], n_max: int, prompt: Path) -> Run:
    options = [
        "--spec-type",
        "draft-simple",
        "--spec-draft-n-max",
        str(n_max),
        "--temp",
        "0",
        "-lv",
        "4",
        "-f",
        str(prompt),
    ]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    said = done.stdout + done.stderr
    found = {name: re.search(rf"{name}\s+(\d+) tokens in\s+([\d.]+) seconds", said) for name in ("encoded", "decoded")}
    if any(match is None for match in found.values()):
        raise SystemExit(f"the binary printed no times:\n{said[-2000:]}")
    seconds = sum(float(match[2]) for match in found.values() if match)
    counts = {
        name: int(match[1]) if (match := re.search(rf"{name}\s*=\s*(\d+)", said)) else 0
        for name in ("n_drafted", "n_accept")
    }
    n_tokens = int(found["decoded"][1]) if found["decoded"] else 0
    return Run(n_tokens, seconds, None, counts["n_drafted"], counts["n_accept"], done.stdout)


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("assistant")
    parser.add_argument("texts", type=Path)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--n-texts", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--lookahead", nargs="+", default=["0", "3", "8", "auto"])
    parser.add_argument("--n-max", type=int, nargs="+", default=[3, 8], help="their draft's length at most")
    parser.add_argument("--threads", type=int, default=0, help="0: the physical cores")
    args = parser.parse_args()
    n_threads = args.threads or usable_cores()
    rows = itertools.islice(args.texts.read_text(encoding="utf-8").splitlines(), args.skip, args.skip + args.n_texts)
    command = [args.binary, "-m", args.assistant, "-md", args.base, "-c", str(N_CTX), "-t", str(n_threads)]
    command += ["-td", str(n_threads), "-n", str(args.tokens - 1), "--seed", "1"]
    arms: list[tuple[str, Any]] = [
        (f"look-ahead {value}", value if value == "auto" else int(value)) for value in args.lookahead
    ]
    arms += [(f"llama.cpp, draft of {n}", n) for n in args.n_max]
    found: dict[str, list[Run]] = {name: [] for name, _ in arms}
    with (
        tempfile.TemporaryDirectory() as folder,
        colm.load(args.base, args.assistant, n_ctx=N_CTX, n_threads=n_threads, n_gpu_layers=0) as pair,
    ):
        file = Path(folder) / "prompt.txt"
        for number, row in enumerate(rows):
            prompt = pair.render_chat([{"role": "user", "content": json.loads(row)["prompt"]}])
            file.write_text(prompt, encoding="utf-8")
            for name, value in arms[number % len(arms) :] + arms[: number % len(arms)]:
                theirs = name.startswith("llama.cpp")
                run = _theirs(command, value, file) if theirs else _ours(pair, prompt, args.tokens, value)
                found[name].append(run)
    _print(found)


def _print(found: dict[str, list[Run]]) -> None:
    columns = (
        "arm",
        "tokens/s, median (quartiles)",
        "against ours without look-ahead",
        "assistant calls per token",
        "acceptance rate",
        "texts as without",
    )
    print(f"| {' | '.join(columns)} |")
    print("|---|---|---|---|---|---|")
    plain = next(iter(found.values()))
    for name, runs in found.items():
        speeds = [run.n_tokens / run.seconds for run in runs]
        low, middle, high = statistics.quantiles(speeds, n=4, method="inclusive")
        ratio = statistics.median(s / (p.n_tokens / p.seconds) for s, p in zip(speeds, plain, strict=True))
        n_tokens = sum(run.n_tokens for run in runs)
        known = [run.n_calls for run in runs if run.n_calls is not None]
        drafted, accepted = sum(run.n_drafted for run in runs), sum(run.n_accepted for run in runs)
        # The binary prints the prompt first, and may write a few tokens more.
        same = sum(other.text in run.text for run, other in zip(runs, plain, strict=True))
        cells = (
            name,
            f"{middle:.1f} ({low:.1f} to {high:.1f})",
            f"{ratio:.2f}",
            f"{sum(known) / n_tokens:.2f}" if known else "",
            f"{accepted / drafted:.1%} of {drafted}" if drafted else "",
            f"{same} of {len(runs)}",
        )
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

"""Where the processor time of a step goes, function by function: what perf samples while a loaded pair writes.

    python benchmarks/profile_step.py demo [--seconds 20]                   (a preset, or a pair.toml)
    python benchmarks/profile_step.py BASE.gguf ASSISTANT.gguf [--head confidence] [--threshold 0.5] [--texts 8]

It needs Linux and perf (Debian: linux-perf). Loading and a first text are not sampled. Each token goes through Python,
as a loop over ``pair.stream()`` has it; with --texts, ``pair.generate_batch()`` writes. A sample belongs to the
innermost of llama.cpp, colm-cpp's extension and Python in its stack; of the extension those functions are listed that
take 1% or more.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import colm_cpp as colm
from colm_cpp.evaluate.steps import PROMPT

_LLAMA = ("libggml", "libllama", "libgomp")
_PYTHON = ("libpython", "python3")
_OURS = "_core."
_LISTED = 0.01
_FRAME = re.compile(r"\s*[0-9a-f]+ (.+?) \((\S+)\)")


def _write(pair: colm.Pair, seconds: float, n_texts: int, options: dict[str, Any]) -> int:
    """Texts, so many at a time, until the time is over; how many tokens they have."""
    end = time.monotonic() + seconds
    n = seed = 0
    while time.monotonic() < end:
        if n_texts > 1:
            outs = pair.generate_batch([PROMPT] * n_texts, n_parallel=n_texts, seed=seed, **options)
            n += sum(len(out.tokens) for out in outs)
            seed += n_texts
            continue
        for _ in pair.stream(PROMPT, seed=seed, **options):
            n += 1
            if time.monotonic() >= end:
                break
        seed += 1
    return n


def _whose(stack: list[tuple[str, str]]) -> tuple[str, str]:
    """Whose a sample is, and the function: memory that llama.cpp asks for is its own, and so is what we ask for."""
    for function, library in stack:  # the innermost first
        if library.startswith(_LLAMA):
            return "llama.cpp", ""
        if library.startswith(_OURS):
            return "colm-cpp, C++", function.partition("(")[0]
        if library.startswith(_PYTHON):
            return "Python", ""
    return "other", stack[0][0] if stack else ""


def _samples(data: Path) -> Counter[tuple[str, str]]:
    """Whose and which function -> samples."""
    command = ["perf", "script", "-i", str(data), "-F", "comm,ip,sym,dso"]
    told = subprocess.run(command, check=True, capture_output=True, text=True, errors="replace").stdout
    found: Counter[tuple[str, str]] = Counter()
    for sample in told.split("\n\n"):
        frames = [_FRAME.fullmatch(line) for line in sample.splitlines()]
        stack = [(frame[1], Path(frame[2]).name) for frame in frames if frame is not None]
        if stack:
            found[_whose(stack)] += 1
    return found


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="a pair, or a base and an assistant")
    parser.add_argument("--head", help="Unset: the pair's own, confidence for two files.")
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--texts", type=int, default=1, help="at a time, each with an equal prompt")
    parser.add_argument("--n-threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0)
    args = parser.parse_args()
    if shutil.which("perf") is None:
        sys.exit("there is no perf; install it (Debian: linux-perf)")
    head = args.head or (None if len(args.models) == 1 else "confidence")
    options = {"threshold": args.threshold, "temperature": args.temperature, "max_tokens": args.tokens}
    with (
        tempfile.TemporaryDirectory() as folder,
        colm.load(*args.models, head=head, n_ctx=512, n_threads=args.n_threads, n_gpu_layers=0) as pair,
    ):
        _write(pair, 1.0, args.texts, options)
        data = Path(folder) / "perf.data"
        record = ["perf", "record", "-q", "-F", "999", "--call-graph", "dwarf,16384", "-o", str(data)]
        perf = subprocess.Popen([*record, "-p", str(os.getpid())])
        time.sleep(1.0)  # until it has begun
        n = _write(pair, args.seconds, args.texts, options)
        perf.send_signal(signal.SIGINT)
        perf.wait()
        found = _samples(data)
    n_samples = sum(found.values())
    print(f"{n} tokens, {n_samples} samples\n\n| function | share |\n|---|---|")
    for whose in ("llama.cpp", "Python", "colm-cpp, C++", "other"):
        share = sum(n for (of, _), n in found.items() if of == whose) / n_samples
        print(f"| {whose} | {share:.1%} |")
    for (whose, function), n_function in found.most_common():
        if function and n_function >= _LISTED * n_samples:
            print(f"| {whose}: `{function}` | {n_function / n_samples:.1%} |")


if __name__ == "__main__":
    main()

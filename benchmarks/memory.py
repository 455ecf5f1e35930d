"""The most memory that a process with a pair ever holds, beside its files and caches.

    python benchmarks/memory.py BASE.gguf ASSISTANT.gguf [--n-ctx 4096] [--prompt-tokens 2048] [--tokens 64]
    python benchmarks/memory.py BASE.gguf --expert law=BASE.gguf --lora law=law.gguf --expert plain=BASE.gguf

Loads the pair, and with each expert reads a long prompt and writes tokens, deferring every second one. Prints what
Linux says of this process: the peak of resident memory, and at the end which part of it is private and which is pages
of the mapped files. Python itself and its libraries are in it. A file that several models load is counted once.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import colm_cpp as colm
from colm_cpp.engine.memory import estimate
from colm_cpp.options import LoadOptions

MB = 1e6


def _status() -> dict[str, float]:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    found = dict(line.split(":", 1) for line in lines)
    return {name: int(found[name].split()[0]) * 1024 / MB for name in ("VmHWM", "RssAnon", "RssFile")}


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("assistant", nargs="?", help="in place of --expert assistant=FILE")
    parser.add_argument("--expert", action="append", default=[], help="NAME=FILE")
    parser.add_argument("--lora", action="append", default=[], help="NAME=FILE: an expert's adapter")
    parser.add_argument("--n-ctx", type=int, default=4096)
    parser.add_argument("--prompt-tokens", type=int, default=2048)
    parser.add_argument("--tokens", type=int, default=64, help="to write with each expert")
    parser.add_argument("--option", action="append", default=[], help="of colm.load(), NAME=JSON")
    args = parser.parse_args()
    options: dict[str, Any] = {"n_ctx": args.n_ctx, "n_gpu_layers": 0}
    options |= {name: json.loads(value) for name, value in (option.split("=", 1) for option in args.option)}
    models = dict(given.split("=", 1) for given in args.expert)
    if args.assistant is not None:
        models = {"assistant": args.assistant, **models}
    adapters = dict(given.split("=", 1) for given in args.lora)
    experts = {name: {"model": model} for name, model in models.items()}
    for name, adapter in adapters.items():
        experts[name]["lora"] = adapter
    empty = _status()
    with colm.load(args.base, experts=experts, **options) as pair:
        loaded = _status()
        ids = pair.tokenize("A shop sells pens and books. ")
        prompt = (ids * (args.prompt_tokens // len(ids) + 1))[: args.prompt_tokens]
        for name in experts:
            pair.generate(prompt, head=f"random:{name}", threshold=0.5, seed=1, temperature=0.0, max_tokens=args.tokens)
        done = _status()
    paths = [args.base, *models.values()]
    loaded_once = dict.fromkeys(map(os.path.realpath, paths))
    files = sum(map(os.path.getsize, loaded_once)) / MB
    of_adapters = sum(map(os.path.getsize, adapters.values())) / MB
    caches = sum(estimate(path, args.n_ctx, LoadOptions()).kv_cache for path in paths) / MB
    counted = {1: "the file", 2: "the two files"}.get(len(loaded_once), f"the {len(loaded_once)} files")
    print("| MB | |")
    print("|---|---|")
    for name, value in (
        (counted, files),
        *([("the adapters", of_adapters)] if adapters else []),
        (f"{'both' if len(paths) == 2 else len(paths)} KV caches at n_ctx {args.n_ctx} (f16)", caches),
        ("Python before loading", empty["VmHWM"]),
        ("peak once loaded", loaded["VmHWM"]),
        (f"peak after {args.prompt_tokens} + {args.tokens} tokens", done["VmHWM"]),
        ("of it private, at the end", done["RssAnon"]),
        ("of it pages of files, at the end", done["RssFile"]),
        (
            f"peak beyond files{', adapters' if adapters else ''} and caches",
            done["VmHWM"] - files - of_adapters - caches,
        ),
    ):
        print(f"| {name} | {value:.0f} |")


if __name__ == "__main__":
    main()

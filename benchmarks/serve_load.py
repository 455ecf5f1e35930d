"""Load on ``colm serve``: many clients on few slots, a third of which leave in the middle.

    python benchmarks/serve_load.py --clients 32 --slots 8 --minutes 10

Every finished text is compared with the text alone. At the end all slots must be free, and memory, descriptors and
threads of the server where they were after the first tenth. Prints times to the first token and between tokens (p50,
p99), and the tokens per second beside those of ``generate_batch`` in one process.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import httpx
import numpy as np
import psutil

import colm_cpp as colm
from colm_cpp.sources.preset import preset

# Weights and cache in float32: a text then hardly depends on which texts are in its batches.
F32 = {"type_k": "f32", "type_v": "f32", "flash_attn": False}
FLAGS = ["--type-k", "f32", "--type-v", "f32", "--no-flash-attn"]
PROMPTS = [f"Problem: Tom brings {a} crates of {b} eggs to the farm. How many eggs are there?\nSolution:"
           for a in range(2, 10) for b in (12, 35, 48, 143)]  # fmt: skip
OPTIONS: dict[str, Any] = {"temperature": 0, "max_tokens": 60}


@dataclass
class Counts:
    """What the clients saw.

    Attributes:
        finished: texts that were read to their end.
        left: texts that a client left in the middle.
        busy: answers 503.
        wrong: texts that differ from the text alone, and other errors.
        first: seconds to the first token.
        between: seconds between tokens.
        n_tokens: tokens of finished texts.
    """

    finished: int = 0
    left: int = 0
    busy: int = 0
    wrong: list[str] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)
    n_tokens: int = 0


async def ask(client: httpx.AsyncClient, number: int, alone: dict[str, str], counts: Counts, *, leaves: bool) -> None:
    """One text, or a part of it."""
    prompt = PROMPTS[number % len(PROMPTS)]
    body = {"model": "demo", "prompt": prompt, "stream": True, **OPTIONS}
    begin, text, n = time.monotonic(), "", 0
    last = begin
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        if answer.status_code == 503:
            counts.busy += 1
            await asyncio.sleep(0.1)
            return
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            piece = json.loads(line[6:])
            if "error" in piece:
                counts.wrong.append(f"{prompt!r}: {piece['error']['message']}")
                return
            choice = piece["choices"][0]
            tokens = choice["colm"]["tokens"]
            now = time.monotonic()
            if tokens and n == 0:
                counts.first.append(now - begin)
            elif tokens:
                counts.between += [(now - last) / len(tokens)] * len(tokens)
            last, n, text = now, n + len(tokens), text + choice["text"]
            if leaves and n >= 5:
                counts.left += 1
                return
    if text == alone[prompt]:
        counts.finished += 1
        counts.n_tokens += n
    else:
        counts.wrong.append(f"{prompt!r}: {text!r} instead of {alone[prompt]!r}")


async def client(address: str, seed: int, end: float, alone: dict[str, str], counts: Counts, leaving: float) -> None:
    """Asks one text after another until ``end``."""
    chance = random.Random(seed)
    async with httpx.AsyncClient(base_url=address, timeout=120) as http:
        while time.monotonic() < end:
            await ask(http, chance.randrange(len(PROMPTS)), alone, counts, leaves=chance.random() < leaving)


def resources(server: psutil.Process) -> dict[str, float]:
    """Memory in MB, descriptors and threads."""
    return {"rss_mb": server.memory_info().rss / 2**20, "files": server.num_fds(), "threads": server.num_threads()}


async def grown(server: psutil.Process, seconds: float) -> list[int]:
    """Memory in MB at each tenth of the time. A leak grows to the end; what an allocator keeps does not."""
    found = []
    for _ in range(10):
        await asyncio.sleep(seconds / 10)
        found.append(round(resources(server)["rss_mb"]))
    return found


def slots_in_use(address: str) -> float:
    """Texts that are being written or wait."""
    lines = httpx.get(f"{address}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if re.match(r"colm_texts_(writing|waiting)\{", line))


def float32(source: str, target: Path) -> str:
    """The model with its weights in float32."""
    read = gguf.GGUFReader(source)
    architecture = read.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    for name, known in read.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        kind = known.types[0]
        inner = known.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, known.contents(), kind, inner)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for tensor in read.tensors:
        writer.add_tensor(tensor.name, gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(target)


def demo_in_float32(folder: Path) -> Path:
    """The folder with the demo's models in float32, and its head, as a pair."""
    demo = preset("demo")
    base, assistant = (float32(model, folder / f"{i}.gguf") for i, model in enumerate((demo.base, demo.assistant)))
    lines = [f'{key} = "{value}"' for key, value in (("base", base), ("assistant", assistant), ("head", demo.head))]
    (folder / "pair.toml").write_text("\n".join(["version = 1", *lines]) + "\n")
    return folder


@contextlib.contextmanager
def served(pair: Path, slots: int) -> Iterator[tuple[psutil.Process, str]]:
    """A server in a process of its own."""
    named = ["--pair", str(pair), "--name", "demo"]
    arguments = [
        "serve",
        *named,
        "--port",
        "0",
        "--parallel",
        str(slots),
        "--load-now",
        "--cache-mb",
        "8",
        *FLAGS,
    ]  # texts that are kept are no leak
    process = subprocess.Popen([sys.executable, "-m", "colm_cpp.cli", *arguments], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if found := re.search(r"(http://\S+)/v1", line):
                yield psutil.Process(process.pid), found[1]
                break
    finally:
        process.terminate()
        assert process.wait(30) == 0


async def load(address: str, n_clients: int, seconds: float, alone: dict[str, str], leaving: float) -> Counts:
    """All clients for so long."""
    counts, end = Counts(), time.monotonic() + seconds
    await asyncio.gather(*(client(address, i, end, alone, counts, leaving) for i in range(n_clients)))
    return counts


async def watched(
    server: psutil.Process, address: str, n_clients: int, seconds: float, alone: dict[str, str]
) -> tuple[Counts, list[int]]:
    """The load of which a third leaves, and the memory meanwhile."""
    return await asyncio.gather(load(address, n_clients, seconds, alone, 1 / 3), grown(server, seconds))


def percentile(values: list[float], share: float) -> float:
    """In milliseconds."""
    ordered = sorted(values)
    return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def run(n_clients: int, slots: int, seconds: float, folder: Path) -> dict[str, Any]:
    """The whole measurement. The folder gets the models."""
    demo = demo_in_float32(folder)
    with colm.load(pair=demo, n_parallel=slots, **F32) as pair:  # type: ignore[arg-type]
        alone = {prompt: pair.generate(prompt, **OPTIONS).text for prompt in PROMPTS}
        begin = time.monotonic()
        written = pair.generate_batch(PROMPTS * 4, n_parallel=slots, **OPTIONS)
        batch = sum(len(text.tokens) for text in written) / (time.monotonic() - begin)
    with served(demo, slots) as (server, address):
        warm_up = asyncio.run(load(address, n_clients, seconds / 10, alone, 1 / 3))
        before = resources(server)
        counts, rss = asyncio.run(watched(server, address, n_clients, seconds, alone))
        end = time.monotonic() + 10
        while slots_in_use(address) and time.monotonic() < end:
            time.sleep(0.05)
        after, in_use = resources(server), slots_in_use(address)
        begin = time.monotonic()
        full = asyncio.run(load(address, n_clients, seconds / 4, alone, 0.0))
        speed = full.n_tokens / (time.monotonic() - begin)
    return {
        "finished": counts.finished,
        "left": counts.left,
        "busy": counts.busy,
        "wrong": [*warm_up.wrong, *counts.wrong, *full.wrong],
        "slots_in_use": in_use,
        "before": before,
        "after": after,
        "rss_mb_by_tenths": rss,
        "first_ms": [percentile(counts.first, share) for share in (0.5, 0.99)],
        "between_ms": [percentile(counts.between, share) for share in (0.5, 0.99)],
        "tokens_per_s": speed,
        "batch_tokens_per_s": batch,
    }


def main() -> None:
    """Prints one JSON object; fails if a text is wrong or something is left over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=10.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = run(given.clients, given.slots, 60 * given.minutes, Path(folder))
    print(json.dumps(found, indent=2))
    sys.exit(bool(found["wrong"] or found["slots_in_use"]))


if __name__ == "__main__":
    main()

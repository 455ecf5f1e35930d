"""``colm serve`` beside llama.cpp's own server: the same file, slots, threads and requests, for the base alone.

    python benchmarks/serve_llama.py LLAMA_SERVER BASE.gguf --slots 8 --texts 16 --tokens 32 --rounds 3

``LLAMA_SERVER`` is the program ``llama-server``, best built from the source of the llama.cpp that colm runs on. Both
servers run all the time, each in a process of its own, and get the same requests in turns, whole and streamed. There
are twice as many clients as slots. Processor time hardly depends on other work of the machine, with one thread.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import psutil
from fresh import Spread
from serve_overhead import from_server
from serving import free_port, served

ARMS = ("colm whole", "llama whole", "colm streamed", "llama streamed")


@contextlib.contextmanager
def llama_served(program: str, gguf: str, slots: int, n_ctx: int, threads: int) -> Iterator[tuple[psutil.Process, str]]:
    """llama-server when it answers: its process and its address."""
    port = free_port()
    command = [program, "--model", gguf, "--port", str(port), "--parallel", str(slots)]
    command += [
        "--ctx-size",
        str(slots * n_ctx),
        "--threads",
        str(threads),
        "--threads-batch",
        str(threads),
        "--alias",
        "pair:base",
    ]
    address = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            with contextlib.suppress(urllib.error.URLError), urllib.request.urlopen(f"{address}/health") as answer:
                if answer.status == 200:
                    break
            if process.poll() is not None:
                sys.exit(f"{program} ended with status {process.returncode}: {command}")
            time.sleep(0.1)
        yield psutil.Process(process.pid), address
    finally:
        process.terminate()
        process.wait(60)


def main() -> None:
    """Prints one JSON object; each round goes to stderr as it ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program", metavar="LLAMA_SERVER")
    parser.add_argument("gguf", metavar="BASE")
    parser.add_argument("--assistant", help="of the pair, which writes nothing here; default: the base's file again")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--texts", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--n-ctx", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    given.model = "pair:base"
    flags = [
        "--base",
        given.gguf,
        "--assistant",
        given.assistant or given.gguf,
        "--head",
        "confidence",
        "--name",
        "pair",
    ]
    flags += ["--parallel", str(given.slots), "--n-ctx", str(given.n_ctx)]
    flags += ["--n-threads", str(given.threads), "--n-threads-batch", str(given.threads)]
    found: list[dict[str, list[float]]] = []
    with (
        served(*flags) as ours,
        llama_served(given.program, given.gguf, given.slots, given.n_ctx, given.threads) as theirs,
    ):
        for number in range(given.rounds + 1):  # the first one warms up
            one: dict[str, list[float]] = {}
            for arm in ARMS if number % 2 else ARMS[::-1]:
                process, address = ours if arm.startswith("colm") else theirs
                # Prompts that neither server has read: llama-server keeps what it read before in memory.
                first = (len(ARMS) * number + ARMS.index(arm)) * given.texts
                one[arm] = from_server(process, address, given, stream=arm.endswith("streamed"), first=first)
            print(json.dumps(one), file=sys.stderr, flush=True)
            found.append(one)
    shown: dict[str, str] = {}
    for way in ("whole", "streamed"):
        ours_, theirs_ = ([one[f"{name} {way}"] for one in found[1:]] for name in ("colm", "llama"))
        for name, side in (("colm", ours_), ("llama-server", theirs_)):
            shown[f"{way}: {name}, tokens per s"] = Spread([n / seconds for n, seconds, _ in side]).show(1)
            shown[f"{way}: {name}, processor ms per token"] = Spread([1000 * used / n for n, _, used in side]).show(1)
        pairs = list(zip(ours_, theirs_, strict=True))
        shown[f"{way}: speed over llama-server's"] = Spread([(a[0] / a[1]) / (b[0] / b[1]) for a, b in pairs]).show()
        shown[f"{way}: processor time over llama-server's"] = Spread(
            [(a[2] / a[0]) / (b[2] / b[0]) for a, b in pairs]
        ).show()
    print(json.dumps(shown, indent=2))


if __name__ == "__main__":
    main()

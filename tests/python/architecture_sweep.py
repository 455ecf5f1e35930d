"""Loads damaged files of every architecture in child processes, and says which of them ended one.

Run as a script: MODELS (a pickle of `architectures.models()` and the cases) FOLDER PART N_PARTS.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import architectures as arch
import numpy as np
import tiny_models as tm
from architecture_keys import N_CTX, keys_of
from gguf import GGMLQuantizationType as Q
from gguf import GGUFValueType as T

import colm_cpp as colm

CHUNK = 25
MOST_SECONDS = 120
"""No case takes a second on a machine that has time for it."""


@dataclass(frozen=True)
class Case:
    """A model with another value of one key, or with one tensor of another type or shape."""

    model: str
    key: str = ""
    value: arch.Value | None = None
    tensor: str = ""
    kind: Q = Q.F32
    shape: tuple[int, ...] = ()


@dataclass
class Outcome:
    """What became of the cases, by index."""

    written: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    wrong: list[tuple[Case, str]] = field(default_factory=list)
    """Cases that ended the process, hung, gave other values or an error without a type."""


def _values(old: arch.Value | None) -> Iterator[arch.Value]:
    """What a key's value might be replaced by."""
    if old is not None and old[1] is T.FLOAT32:
        yield from ((v, T.FLOAT32) for v in (0.0, -1.0, 1e30, -1e30, 1e-30))
        yield 1, T.UINT32
    elif old is not None and old[1] is T.BOOL:
        yield not old[0], T.BOOL
        yield 1, T.UINT32
    else:
        was = old[0] if old is not None and isinstance(old[0], int) else 4
        sizes = (0, 1, 2, 3, 7, was + 1, was // 2, 2 * was, 64, 1000, 65536, 2**31, 2**32 - 1)
        yield from ((size, T.UINT32) for size in sizes)
        yield -1, T.INT32
        yield 1.0, T.FLOAT32
        yield "x", T.STRING
        for values in ([], [0], [0, 0], [1, 2], [1, 0], [0, 1, 0, 1], [2**32 - 1] * 2, [0] * 600):
            yield values, T.ARRAY, T.UINT32
        yield [0.0, 1.0], T.ARRAY, T.FLOAT32


def key_cases(models: dict[str, arch.Model], n: int, seed: int) -> list[Case]:
    """Every hyperparameter missing and 0, then others at random: `n` in all."""
    sure, others = [], []
    for name, model in models.items():
        for key in keys_of(model.arch):
            old = model.keys.get(key)
            if old is not None:
                sure.append(Case(name, key))
            for value in _values(old):
                certain = old is not None and value == (0, T.UINT32)
                (sure if certain else others).append(Case(name, key, value))
    return sure + random.Random(seed).sample(others, n - len(sure))


def tensor_cases(models: dict[str, arch.Model], n: int, seed: int) -> list[Case]:
    """Tensors in float16, bfloat16 and 8 bits, and tensors that are longer than they must be: `n` at random."""
    cases = []
    for name, model in models.items():
        seen = set()
        for tensor, (shape, kind) in model.tensors.items():
            general = re.sub(r"\d+", "", tensor)
            if general in seen or kind != Q.F32:
                continue
            seen.add(general)
            cases += [Case(name, tensor=tensor, kind=k, shape=shape) for k in (Q.F16, Q.BF16)]
            if shape[0] % 32 == 0:
                cases.append(Case(name, tensor=tensor, kind=Q.Q8_0, shape=shape))
            cases.append(Case(name, tensor=tensor, shape=(shape[0] + 32, *shape[1:])))
            cases.append(Case(name, tensor=tensor, shape=(*shape, 2)))
    return random.Random(seed).sample(cases, n)


def run(models: dict[str, arch.Model], cases: Sequence[Case], folder: Path, *, n_parts: int = 2) -> Outcome:
    """Load each case as the base of a pair and write with it, in processes of its own."""
    work = folder / "cases.pickle"
    work.write_bytes(pickle.dumps((models, list(cases))))
    # Threads that wait by spinning would take the cores from each other.
    env = {**os.environ, "GGML_NO_BACKTRACE": "1", "OMP_WAIT_POLICY": "passive"}
    parts = [
        subprocess.Popen(
            [sys.executable, __file__, str(work), str(folder), str(i), str(n_parts)], stdout=subprocess.PIPE, env=env
        )
        for i in range(n_parts)
    ]
    outcome = Outcome()
    for part in parts:
        out, _ = part.communicate()
        assert part.returncode == 0
        for line in out.decode().splitlines():
            index, what = json.loads(line)
            if what == "written":
                outcome.written.append(index)
            elif what == "refused":
                outcome.refused.append(index)
            else:
                outcome.wrong.append((cases[index], what))
    assert len(outcome.written) + len(outcome.refused) + len(outcome.wrong) == len(cases)
    return outcome


def _first_logprobs(path: Path, assistant: Path) -> dict[int, float]:
    """How likely the base finds each token after a prompt, with what a head that looks at it needs."""
    with colm.load(path, assistant, "entropy", n_threads=2, n_ctx=N_CTX, check_memory=False) as pair:
        out = pair.generate("The quick brown fox", max_tokens=3, logprobs=len(arch.VOCAB), threshold=1.0)
        first = out.tokens[0] if out.tokens else out.end_token
        assert first is not None
        return {t.id: t.logprob for t in first.top_logprobs}


class _Runner:
    def __init__(self, models: dict[str, arch.Model], folder: Path) -> None:
        self.models = models
        self.path = folder / "case.gguf"
        self.assistant = tm.make_model(folder / "assistant.gguf", vocab=arch.VOCAB)
        self.plain: dict[str, dict[int, float] | None] = {}

    def __call__(self, case: Case) -> str:
        model = self.models[case.model]
        try:
            if not case.tensor:
                changes = {case.key: case.value} if case.key else {}
                _first_logprobs(model.write(self.path, changes), self.assistant)
                return "written"
            changed = replace(model, tensors={**model.tensors, case.tensor: (case.shape, case.kind)})
            found = _first_logprobs(changed.write(self.path), self.assistant)
        except colm.errors.ColmError:
            return "refused"
        except BaseException as error:
            return repr(error)
        return "written" if self.alike(case.model, found) else f"other values than in float32: {found}"

    def alike(self, name: str, found: dict[int, float]) -> bool:
        """Whether these are the values of the undamaged file, but for what the type rounds off."""
        if name not in self.plain:
            self.plain[name] = _first_logprobs(self.models[name].write(self.path), self.assistant)
        plain = self.plain[name]
        assert plain is not None
        limit = 0.15 * max(float(np.std(list(plain.values()))), 0.05)
        return all(abs(value - found.get(token, np.inf)) < limit for token, value in plain.items())


def _chunk(runner: _Runner, cases: Sequence[Case], folder: Path) -> tuple[list[str], str]:
    """The outcomes of the first cases, and how the process ended where it did not reach the last."""
    receive, send = os.pipe()
    process = os.fork()
    if process == 0:
        os.dup2(os.open(folder / "stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        for case in cases:
            os.write(send, (runner(case).replace("\n", " ") + "\n").encode())
        os._exit(0)
    os.close(send)
    said, hung = b"", False
    while True:
        if not select.select([receive], [], [], MOST_SECONDS)[0]:
            os.kill(process, signal.SIGKILL)
            hung = True
        if not (more := os.read(receive, 1 << 16)):
            break
        said += more
    os.close(receive)
    _, status = os.waitpid(process, 0)
    done = said.decode().splitlines()
    if len(done) == len(cases):
        return done, ""
    lines = (folder / "stderr").read_text(errors="replace").splitlines()
    reason = next((line for line in reversed(lines) if "ASSERT" in line or ".cpp:" in line), "")
    return done, "hung" if hung else f"signal {os.WTERMSIG(status)} {reason}"


def _main(work: Path, folder: Path, part: int, n_parts: int) -> None:
    models, cases = pickle.loads(work.read_bytes())
    folder = folder / str(part)
    folder.mkdir()
    runner = _Runner(models, folder)
    mine = list(range(part, len(cases), n_parts))
    while mine:
        done, ended = _chunk(runner, [cases[i] for i in mine[:CHUNK]], folder)
        if ended:
            done.append(ended)
        for what in done:
            print(json.dumps([mine.pop(0), what]))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))

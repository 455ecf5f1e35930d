"""Cases of bad input, each in a child: what once could end the process must be a typed error, or work."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tiny_models as tm
from bad_input import FAST, make_files

import colm_cpp as colm

ANY = "a typed error or success"


class Cases:
    """The cases of one test file, which ends with ::

        outcomes = CASES.fixture(__file__)
        test_in_a_child = CASES.test()

        if __name__ == "__main__":
            CASES.main()

    Attributes:
        expected: of each case by its name a pattern of "Class: message", "OK", or ANY.
    """

    def __init__(self) -> None:
        self.expected: dict[str, str] = {}
        self._run: dict[str, Callable[[Path], Any]] = {}

    def add(self, name: str, expect: str, run: Callable[[Path], Any]) -> None:
        """``run`` gets a folder with the files of `bad_input.make_files`."""
        assert name not in self._run
        self.expected[name], self._run[name] = expect, run

    def outcomes(self, file: str, folder: Path, names: Iterable[str] | None = None) -> dict[str, str]:
        """What becomes of all cases, or of those with these names.

        "OK", "Class: message", "untyped Class: message" or "the process died: code".
        """
        make_files(folder)
        results: dict[str, str] = {}
        left = list(self._run if names is None else names)
        while left:
            done = subprocess.run(
                [sys.executable, file, str(folder)],
                input=json.dumps(left),
                capture_output=True,
                text=True,
                timeout=900,
                env={**os.environ, "GGML_NO_BACKTRACE": "1"},
            )
            lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
            assert lines, done.stderr
            for name, result in lines:
                results[name] = result or f"the process died: {done.returncode}: {done.stderr[-300:]}"
            left = left[left.index(lines[-1][0]) + 1 :]
        return results

    def wrong(self, outcomes: Mapping[str, str]) -> dict[str, str]:
        """Those of ``outcomes`` that were not expected."""
        return {name: result for name, result in outcomes.items() if not self._fits(result, self.expected[name])}

    def fixture(self, file: str, wanted: Callable[[str], bool] = lambda name: True) -> Any:
        """What `outcomes` of the file is: that of its cases whose names are wanted."""

        @pytest.fixture(scope="module")
        def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
            return self.outcomes(file, tmp_path_factory.mktemp("child"), filter(wanted, self.expected))

        return outcomes

    def test(self, wanted: Callable[[str], bool] = lambda name: True) -> Any:
        """What `test_in_a_child` of the file is."""

        @pytest.mark.parametrize("name", list(filter(wanted, self.expected)))
        def test_in_a_child(outcomes: dict[str, str], name: str) -> None:
            assert self.wrong({name: outcomes[name]}) == {}

        return test_in_a_child

    @staticmethod
    def _fits(result: str, expect: str) -> bool:
        if expect == ANY:
            return not result.startswith(("untyped", "the process died"))
        return re.match(expect, result, re.DOTALL) is not None

    def main(self) -> None:
        """In the child: runs cases, announcing each one before it may kill the process."""
        if sys.platform == "linux":
            import resource

            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_AS, (12 * 2**30, 12 * 2**30))
        folder = Path(sys.argv[1])
        for name in json.load(sys.stdin):
            print(json.dumps([name, None]), flush=True)
            if hasattr(signal, "setitimer"):
                # Their default actions end the process, wherever it computes or waits without end.
                signal.setitimer(signal.ITIMER_PROF, 5)
                signal.setitimer(signal.ITIMER_REAL, 60)
            try:
                self._run[name](folder)
                result = "OK"
            except colm.ColmError as error:
                result = f"{type(error).__name__}: {error}"
            except Exception as error:
                result = f"untyped {type(error).__name__}: {error}"
            print(json.dumps([name, result[:1000]]), flush=True)


# -- files and their use --------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4)
def _contents(source: Path, changed: int) -> tuple[dict[str, tuple[Any, ...]], dict[str, Any]]:
    """Keys and tensors of a file, changed last at this time. The gguf package reads it more slowly than llama.cpp."""
    reader = gguf.GGUFReader(source)
    keys = {
        key: (field.contents(), field.types[0], field.types[1] if len(field.types) > 1 else None)
        for key, field in reader.fields.items()
        if not key.startswith("GGUF.")
    }
    return keys, {tensor.name: np.array(tensor.data) for tensor in reader.tensors}


def rewrite(
    source: Path,
    target: Path,
    changes: Mapping[str, tuple[Any, ...] | None] | None = None,
    tensors: Mapping[str, Callable[[Any], Any]] | None = None,
) -> Path:
    """A copy of a GGUF file with other keys ((value, type[, element type]), or None to drop one) and tensors."""
    keys, data = _contents(source, source.stat().st_mtime_ns)
    writer = gguf.GGUFWriter(target, keys["general.architecture"][0])
    writer.kv_data[0].clear()
    for key, value in {**keys, **(changes or {})}.items():
        if value is not None:
            writer.add_key_value(key, *value)
    for name, values in data.items():
        writer.add_tensor(name, (tensors or {}).get(name, lambda same: same)(values.copy()))
    tm.finish(writer)
    return target


def use_model(path: Path, **options: Any) -> str:
    with colm.load(path, path, "confidence", **{**FAST, **options}) as pair:
        _ = pair.base, pair.assistant, repr(pair)
        return pair.generate("the fox", max_tokens=2, logprobs=2, seed=1).text


def changed_bytes(folder: Path, name: str, change: Callable[[bytearray], Any]) -> Path:
    data = bytearray((folder / name).read_bytes())
    changed = change(data)
    path = folder / "damaged.gguf"
    path.write_bytes(data if changed is None else changed)
    return path

"""A tuning that was interrupted goes on, and the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import tuned_pairs
from commands import succeed
from tuned_pairs import QUICK

from colm_cpp import tune
from colm_cpp.errors import CorpusError

pair = tuned_pairs.pair
tuned = tuned_pairs.tuned


pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning"),
]


# -- going on ---------------------------------------------------------------------------------------------------


def test_a_run_killed_in_the_middle_ends_in_the_same_bytes(
    pair: SimpleNamespace, tuned: tune.Tuned, tmp_path: Path
) -> None:
    script = (
        "from colm_cpp import tune; from colm_cpp.tune import base\n"
        "base.usable_cores = lambda: 1\n"  # as here: sums of several threads are rounded otherwise
        f"options = tune.TuneOptions(**{ {name: getattr(QUICK, name) for name in QUICK.__slots__}!r})\n"
        f"tune.tune({str(pair.base)!r}, [{str(pair.scores)!r}], {str(tmp_path)!r}, options,\n"
        "    on_progress=lambda p: print(p.step, flush=True))\n"
    )
    child = subprocess.Popen([sys.executable, "-W", "ignore", "-c", script], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for line in child.stdout:
        if int(line) >= 4:
            break
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert (tmp_path / "checkpoint.pt").exists()
    assert not (tmp_path / "adapter.gguf").exists()
    seen: list[int] = []
    again = tune.tune(pair.base, [pair.scores], tmp_path, QUICK, on_progress=lambda p: seen.append(p.step))
    assert seen[0] > 1  # not from the start
    assert again.adapter.read_bytes() == tuned.adapter.read_bytes()
    assert again.head is not None
    assert tuned.head is not None
    assert again.head.read_bytes() == tuned.head.read_bytes()
    assert again.history == tuned.history


def test_a_checkpoint_of_another_training_is_refused(pair: SimpleNamespace, tuned: tune.Tuned) -> None:
    with pytest.raises(CorpusError, match="rank"):
        tune.tune(pair.base, [pair.scores], tuned.adapter.parent, replace(QUICK, rank=2))


def test_a_damaged_checkpoint_is_reported(pair: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"PK\3\4 not a checkpoint")
    with pytest.raises(CorpusError, match="checkpoint"):
        tune.tune(pair.base, [pair.scores], tmp_path, QUICK)


def test_the_command_trains_and_reports(pair: SimpleNamespace, tmp_path: Path) -> None:
    started = time.monotonic()
    options = ("--json", "-q", "--epochs", 1, "--rank", 2, "--learning-rate", 0.01, "--dtype", "float32")
    done = succeed("tune", pair.scores, "--base", pair.base, "--out", tmp_path, *options)
    report = json.loads(done.stdout)
    assert os.path.exists(report["adapter"])
    assert report["best"]["base_nll"] < report["before"]["base_nll"]
    assert report["options"]["rank"] == 2
    assert time.monotonic() - started < 120

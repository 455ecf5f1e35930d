"""``colm bench`` of a pair with several experts."""

from __future__ import annotations

import json
from pathlib import Path

import expert_files
import numpy as np
import pytest
from commands import run, succeed
from conftest import TINY_LOAD

import colm_cpp as colm
from colm_cpp.evaluate.bench import RATES, run_bench
from colm_cpp.evaluate.steps import BATCH_SIZES, Spread, StepCosts

files = expert_files.files


def test_what_the_steps_predict() -> None:
    """Each expert is called for its own tokens, and reads all that were written since."""
    sizes = {
        name: {n: Spread(call + 0.001 * n, 0, 1, 1) for n in BATCH_SIZES} for name, call in (("a", 0.05), ("b", 0.2))
    }
    steps = StepCosts({1: Spread(0.01, 0, 1, 1)}, sizes, Spread(0.02, 0, 1, 1))
    calls = 0.25 * (0.05 + 0.004) + 0.125 * (0.2 + 0.008)
    assert steps.predicted({"a": 0.25, "b": 0.125}, hidden=True) == pytest.approx(1 / (0.02 + calls))
    assert steps.predicted({"a": 0.25, "b": 0.0}, hidden=False) == pytest.approx(1 / (0.01 + 0.25 * 0.054))


def test_every_expert_is_measured(files: dict[str, Path], tmp_path: Path) -> None:
    experts = {"math": files["math"], "code": files["code"]}
    with colm.load(files["base"], experts=experts, head="never", **TINY_LOAD) as pair:
        bench = run_bench(pair, n_tokens=6, rounds=1)
        assert list(bench.steps.experts) == ["math", "code"]
        assert bench.experts == {name: pair.experts[name]["name"] for name in experts}
        names = list(dict.fromkeys(arm.name for arm in bench.arms))
        assert names == ["base alone", "math alone", "code alone", "base and math", "base and code"]
        for name in experts:
            whole = bench.arm(f"base and {name}", rate=1.0)
            assert whole is not None
            assert whole.deferral_rate == 1.0
            assert whole.predicted is not None
            assert whole.predicted < 1 / bench.steps.experts[name][1].median
            assert {a.rate for a in bench.arms if a.name == f"base and {name}" and a.n_texts == 1} == set(RATES)
        fields = bench.to_dict()
        assert fields["verdict"].count("On this machine deferring") == 2
        assert set(fields["steps"]["experts"]) == set(experts)
        # A calibrated head that chooses is measured with all.
        theta = np.random.default_rng(1).standard_normal((2, pair.n_embd))
        head = colm.Head.linear(theta, expert_names=("code", "math"), name="mine", rates=(0, 1), thresholds=(1, 0))
        own = colm.Pair(pair.open_core(), head)
        chosen = run_bench(own, n_tokens=4, rounds=1)
        assert chosen.head == "mine"
        arm = chosen.arm("all", rate=1.0)
        assert arm is not None
        assert arm.deferral_rate == 1.0


def test_the_command(files: dict[str, Path], tmp_path: Path) -> None:
    args: list[str | Path] = [
        "bench",
        *expert_files.arguments(files),
        "--n-threads",
        "1",
        "--n-ctx",
        "256",
        "--tokens",
        "4",
        "--rounds",
        "1",
        "-q",
    ]
    done = succeed(*args, "--plot", tmp_path / "speed.png")
    for words in ("base and code, 20%, look-ahead", "base and math, 20%, 8 texts at once", "code alone"):
        assert words in done.stdout
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads(run(*args, "--json").stdout)
    assert set(found["experts"]) == {"math", "code"}

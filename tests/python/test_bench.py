"""``colm bench``: what it measures and what it makes of it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import commands
import pytest
from click.testing import Result
from conftest import ASSISTANT, BASE, TinyModels

import colm_cpp as colm
from colm_cpp.evaluate.bench import Arm, Bench, run_bench, verdict
from colm_cpp.evaluate.steps import BATCH_SIZES, Spread, StepCosts


def spread(value: float) -> Spread:
    return Spread(value, 0.9 * value, 1.1 * value, 5)


def costs(base: float, call: float, token: float) -> StepCosts:
    assistant = {n: spread(call + token * n) for n in BATCH_SIZES}
    return StepCosts({n: spread(base * n) for n in BATCH_SIZES}, {"assistant": assistant}, spread(base))


def made_up(steps: StepCosts, together: float, *, eight: float = 3.0) -> Bench:
    alone = 1 / steps.experts["assistant"][1].median
    base = 1 / steps.base[1].median
    arms = (
        Arm("base alone", None, 0, 1, spread(base), 0.0, 0.0),
        Arm("assistant alone", None, 0, 1, spread(alone), 1.0, 1.0),
        Arm("both", 0.2, 0, 1, spread(together), 0.21, 0.21),
        Arm("both", 0.2, "auto", 1, spread(0.9 * together), 0.21, 0.15),
        Arm("base alone", None, 0, 8, spread(eight * base), 0.0, 0.0),
    )
    return Bench("b", {"assistant": "a"}, "random", 2, steps, spread(1.02), arms, 10**9, 60.0)


class TestNumbers:
    def test_spread(self) -> None:
        assert Spread.of([5.0, 1.0, 3.0, 2.0, 4.0]) == Spread(3.0, 2.0, 4.0, 5)
        assert Spread.of([2.0]) == Spread(2.0, 2.0, 2.0, 1)

    def test_what_the_steps_predict(self) -> None:
        steps = costs(0.01, 0.05, 0.001)
        assert steps.predicted({}, hidden=False) == pytest.approx(100)
        assert steps.predicted({"assistant": 1.0}, hidden=False) == pytest.approx(1 / (0.01 + 0.051))
        # One call in five tokens, which reads these five.
        assert steps.predicted({"assistant": 0.2}, hidden=True) == pytest.approx(1 / (0.01 + 0.2 * 0.055))
        assert steps.batch("assistant", 64) == pytest.approx(2 * (0.05 + 0.032))

    def test_a_plain_sentence(self) -> None:
        fast = verdict(made_up(costs(0.01, 0.05, 0.001), 32.0))
        assert all(fact in fast for fact in ("21%", "1.6x", "32.0 and 19.6 tokens/s", "3.0x"))
        assert "Q4_0" not in fast
        slow = verdict(made_up(costs(0.03, 0.03, 0.03), 15.0, eight=1.4))
        assert all(fact in slow for fact in ("21%", "15.0 and 16.7 tokens/s", "1.9x", "50%", "1.4x", "Q4_0"))


def test_every_arm_has_its_turns(pair: colm.Pair) -> None:
    """In alternation, there and back; look-ahead and many texts too."""
    notes: list[str] = []
    shares: list[float] = []

    def note(share: float, what: str) -> None:
        shares.append(share)
        notes.append(what)

    bench = run_bench(pair, n_tokens=8, rounds=2, on_progress=note)
    arms = [what for what in notes if what not in ("steps of the models", "done")]
    assert len(arms) == 2 * 15
    assert arms[:15] == arms[15:][::-1]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert len(bench.arms) == 15
    assert all(arm.tokens_per_s.median > 0 for arm in bench.arms)
    by_name = {(arm.name, arm.rate, arm.lookahead, arm.n_texts): arm for arm in bench.arms}
    assert by_name["base alone", None, 0, 1].assistant_calls == 0
    assert by_name["assistant alone", None, 0, 1].assistant_calls == 1
    assert by_name["both", 0.0, 0, 1].deferral_rate == 0
    assert by_name["both", 1.0, 0, 1].deferral_rate == 1
    assert 0 < by_name["both", 0.4, 0, 1].deferral_rate < 1
    # Eight texts share the assistant's decodes.
    assert by_name["both", 0.2, 0, 8].assistant_calls < by_name["both", 0.2, 0, 8].deferral_rate + 1e-9
    assert set(bench.steps.base) == set(BATCH_SIZES)
    assert bench.overhead.n == 2
    assert bench.overhead.median > 0.8
    assert bench.head == "random"
    assert bench.peak_bytes is not None
    assert bench.peak_bytes > 2**20


def test_a_calibrated_head_decides(pair: colm.Pair) -> None:
    head = replace(colm.Head.linear([0.1] * pair.n_embd), name="mine", rates=(0.0, 1.0), thresholds=(1.0, 0.0))
    own = colm.Pair(pair.open_core(), head)
    assert run_bench(own, n_tokens=4, rounds=1).head == "mine"


def test_the_same_decodes_again(pair: colm.Pair) -> None:
    """What bare decodes are timed with."""
    stream = pair.stream("The sun", threshold=0.7, temperature=0, max_tokens=20, lookahead=0)
    text = stream.completion().text
    calls = stream.calls
    seconds = pair.replay(stream.token_ids, calls)
    assert len(seconds) == len(calls)
    assert all(second > 0 for second in seconds)
    assert pair.generate("The sun", threshold=0.7, temperature=0, max_tokens=20).text == text
    for bad in (("base", 1, 1, True, False), ("base", 0, 9999, True, False), ("base", -1, 1, True, False)):
        with pytest.raises(colm.OptionError, match=f"of {len(stream.token_ids)} tokens"):
            pair.replay(stream.token_ids, [bad])
    with pytest.raises(colm.TokenizeError):
        pair.replay([10**6], [])


def test_the_decodes_of_several_texts_again(pair: colm.Pair) -> None:
    """As many decodes, in the contexts that a batch of so many texts has. Its texts stay the same."""
    options: dict[str, Any] = {"threshold": 0.7, "temperature": 0, "max_tokens": 20, "lookahead": 0}
    before = [out.text for out in pair.generate_batch(["The sun"] * 3, n_parallel=3, **options)]
    stream = pair.stream("The sun", **options)
    n = len(stream.completion().tokens)
    seconds = pair.replay(stream.token_ids, stream.calls, 3)
    assert len(seconds) == len(stream.calls) > n
    # The text of each goes back alike, and too many tokens for a batch are refused.
    again = [stream.calls[0], *stream.calls, stream.calls[0]]
    assert len(pair.replay(stream.token_ids, again, 3)) == len(again)
    with pytest.raises(colm.OptionError, match="200 texts"):
        pair.replay([1] * 10, [("base", 0, 10, True, False)], 200)
    with pytest.raises(colm.OptionError, match="n_texts is 0"):
        pair.replay([1], [], 0)
    assert [out.text for out in pair.generate_batch(["The sun"] * 3, n_parallel=3, **options)] == before


@pytest.mark.parametrize(
    ("options", "words"),
    [({"n_tokens": 3}, "n_tokens is 3"), ({"rounds": 0}, "rounds is 0"), ({"n_tokens": 5000}, r"\b5\d\d\d\b")],
)
def test_bad_options(pair: colm.Pair, options: dict[str, int], words: str) -> None:
    with pytest.raises(colm.OptionError, match=words):
        run_bench(pair, **options)


class TestCommand:
    def run(self, tiny_model: TinyModels, *arguments: str) -> Result:
        files = ["--base", str(tiny_model(**BASE)), "--assistant", str(tiny_model(**ASSISTANT))]
        options = ["--n-threads", "1", "--n-ctx", "256", "--tokens", "6", "--rounds", "1"]
        return commands.run("bench", *files, *options, *arguments)

    def test_tables(self, tiny_model: TinyModels, tmp_path: Path) -> None:
        plot = tmp_path / "speed.png"
        result = self.run(tiny_model, "--plot", str(plot))
        assert result.exit_code == 0, result.stderr
        assert "\x1b" not in result.stdout
        for words in (
            "decode time in ms",
            "both, 40%, look-ahead",
            "8 texts at once",
        ):
            assert words in result.stdout
        assert re.search(r"^On this machine deferring \d+% is ", result.stdout, re.MULTILINE)
        assert plot.read_bytes().startswith(b"\x89PNG")
        assert "measuring: 100%" in result.stderr

    def test_json(self, tiny_model: TinyModels) -> None:
        result = self.run(tiny_model, "--json", "--quiet")
        found = json.loads(result.stdout)
        assert found["n_threads"] == 1
        assert len(found["arms"]) == 15
        assert found["verdict"].startswith("On this machine")
        assert set(found["steps"]["assistant"]) == {str(size) for size in BATCH_SIZES}

    def test_a_plot_without_a_folder(self, tiny_model: TinyModels, tmp_path: Path) -> None:
        result = self.run(tiny_model, "--plot", str(tmp_path / "no" / "plot.png"))
        assert result.exit_code == 1
        assert f"there is no folder {tmp_path / 'no'}" in result.stderr

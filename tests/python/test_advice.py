"""``colm bench --advise``: what step times say about a pair, and the command that measures them."""

from __future__ import annotations

import json
import os
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import commands
import pytest
from click.testing import Result
from conftest import ASSISTANT, BASE, TINY_LOAD, TinyModels

import colm_cpp as colm
from colm_cpp.evaluate.advice import (
    Advice,
    Change,
    Drafts,
    advice_lines,
    advise,
    seconds_per_token,
    time_settings,
    try_drafts,
)
from colm_cpp.evaluate.steps import BATCH_SIZES, Spread, StepCosts


def line(call: float, token: float) -> dict[int, Spread]:
    """Batches that take a price and one for each token."""
    return {n: Spread(call + token * n, 0.0, 0.0, 1) for n in BATCH_SIZES}


def costs(base: float, call: float, token: float, *, hidden: float | None = None) -> StepCosts:
    return StepCosts(line(0.0, base), {"assistant": line(call, token)}, Spread(hidden or base, 0.0, 0.0, 1))


def advice(now: StepCosts, *, accepted: float | None = 0.8, hidden: bool = False, **others: object) -> Advice:
    drafts = Drafts({"assistant": accepted}, hidden)
    given: dict[str, object] = {"threads": {}, "types": {}, **others}
    return advise(now, n_threads=2, drafts=drafts, **given)  # type: ignore[arg-type]


def change(found: Advice, kind: str) -> Change:
    return next(change for change in found.experts[0].changes if change.kind == kind)


LARGE = costs(0.02, 0.2, 0.005)  # an assistant ten times as slow as the base, which reads well


class TestSeconds:
    @pytest.mark.parametrize("rate", [0.02, 0.05, 0.2, 0.4, 1.0])
    def test_without_look_ahead_as_the_bench_predicts(self, rate: float) -> None:
        for hidden in (False, True):
            steps = costs(0.01, 0.05, 0.001, hidden=0.015)
            predicted = steps.predicted({"assistant": rate}, hidden=hidden)
            assert seconds_per_token(steps, "assistant", rate, hidden=hidden) == pytest.approx(1 / predicted)

    def test_drafts_that_are_all_right_share_a_call(self) -> None:
        # Four of five tokens are the base's; four deferred ones share one call, which reads 20 tokens.
        found = seconds_per_token(LARGE, "assistant", 0.2, hidden=False, draft=4)
        assert found == pytest.approx(0.02 + (0.2 + 20 * 0.005) / 20)

    def test_drafts_that_are_all_wrong_keep_one_token_of_a_call(self) -> None:
        plain = seconds_per_token(LARGE, "assistant", 0.2, hidden=False)
        found = seconds_per_token(LARGE, "assistant", 0.2, hidden=False, draft=4, acceptance=0.0)
        # The base writes four times as much for each token that is kept, and the assistant reads it.
        assert found == pytest.approx(plain + 3 * 0.02 + 15 * 0.005 * 0.2)


class TestRate:
    def test_up_to_where_the_assistant_alone_is_as_fast(self) -> None:
        found = advice(LARGE).experts[0]
        # 0.02 + r (0.2 + 0.005 / r) = 0.205 at r = 0.9
        assert found.most_rate == pytest.approx(0.89)
        assert found.alone == pytest.approx(1 / 0.205)
        assert found.rate == 0.2
        assert found.tokens_per_s == pytest.approx(1 / (0.02 + 0.2 * 0.225))
        assert found.at_rates[0.1] == pytest.approx(1 / (0.02 + 0.1 * 0.25))
        said = advice_lines(advice(LARGE))[0]
        assert "defer less than 90%" in said
        assert "15.4 tokens/s, 3.15x as fast as the assistant alone" in said

    def test_a_pair_that_never_pays(self) -> None:
        found = advice(costs(0.03, 0.0, 0.03))
        assert found.experts[0].most_rate == 0.0
        assert found.experts[0].rate == 0.05
        assert "at no rate is this pair faster than the assistant alone" in advice_lines(found)[0]
        assert "100% of the time" in advice_lines(found)[0]

    def test_the_hidden_state_counts_with_a_learned_head(self) -> None:
        steps = costs(0.02, 0.2, 0.005, hidden=0.1)
        assert advice(steps).experts[0].most_rate == pytest.approx(0.89)
        assert advice(steps, hidden=True).experts[0].most_rate == pytest.approx(0.49)


class TestLookahead:
    def test_it_gains_where_calls_cost_and_drafts_are_right(self) -> None:
        found = advice(LARGE, accepted=0.9)
        ahead = change(found, "lookahead")
        assert ahead.worth
        best = min(
            seconds_per_token(LARGE, "assistant", 0.2, hidden=False, draft=draft, acceptance=0.9)
            for draft in range(1, 17)
        )
        assert ahead.tokens_per_s == pytest.approx(1 / best)
        assert any("use --lookahead auto" in line and "90% of the drafts" in line for line in advice_lines(found))

    def test_what_it_needs(self) -> None:
        needs = change(advice(LARGE), "lookahead").needs
        assert needs is not None
        assert change(advice(LARGE, accepted=needs), "lookahead").worth
        assert not change(advice(LARGE, accepted=needs - 0.01), "lookahead").worth

    def test_nothing_to_gain_where_a_batch_costs_as_much_as_its_tokens(self) -> None:
        found = advice(costs(0.02, 0.0, 0.2), accepted=1.0)
        assert change(found, "lookahead").needs is None
        assert change(found, "lookahead").gain == pytest.approx(1.0)
        assert any("leave it off" in line and "even if all drafts" in line for line in advice_lines(found))

    def test_not_measured(self) -> None:
        assert advice(LARGE, accepted=None).experts[0].changes == ()


class TestThreadsAndTypes:
    def test_threads(self) -> None:
        slower, faster = costs(0.04, 0.4, 0.01), costs(0.01, 0.1, 0.0025)
        found = advice(LARGE, threads={1: slower})
        assert change(found, "threads").gain == pytest.approx(0.5)
        assert "Threads: keep 2; 1 would be 0.50x" in " ".join(advice_lines(found))
        found = advice(LARGE, threads={1: slower, 4: faster})
        assert change(found, "threads").value == "4"
        assert change(found, "threads").gain == pytest.approx(2.0)
        assert "use --n-threads 4 instead of 2" in " ".join(advice_lines(found))

    @pytest.mark.parametrize(
        ("other", "of", "words"),
        [
            (costs(0.01, 0.1, 0.0025), "both", "Q4_0 for all files would be 2.00x"),
            (costs(0.01, 0.4, 0.01), "base", "Q4_0 for the base's file would be"),
            (costs(0.04, 0.1, 0.0025), "assistant", "Q4_0 for the assistant's file would be"),
            (costs(0.0199, 0.199, 0.005), "both", "keep your files; Q4_0 for all files would be 1.00x"),
        ],
    )
    def test_types_of_each_model(self, other: StepCosts, of: str, words: str) -> None:
        found = advice(LARGE, types={"q4_0": other})
        assert change(found, "type").of == of
        assert words in " ".join(advice_lines(found))

    def test_a_change_may_move_the_rate(self) -> None:
        slow_base = costs(0.15, 0.2, 0.005)
        found = advice(slow_base, types={"q4_0": replace(slow_base, base=line(0.0, 0.05))})
        # The learned head's seconds are those of the hidden state; without one, the base's own.
        assert change(found, "type").most_rate > found.experts[0].most_rate
        assert f"up to {change(found, 'type').most_rate:.0%}" in " ".join(advice_lines(found))


def test_several_experts_are_named() -> None:
    steps = StepCosts(line(0, 0.02), {"math": line(0.2, 0.005), "code": line(0, 0.01)}, Spread(0.02, 0, 0, 1))
    found = advise(
        steps, n_threads=2, drafts=Drafts({"math": 0.9, "code": None}, False), threads={}, types={}, notes=["A note."]
    )
    lines = advice_lines(found)
    assert [line.partition(":")[0] for line in lines[:-1]] == ["math", "math", "code"]
    assert "math alone" in lines[0]
    assert lines[-1] == "A note."
    assert json.loads(json.dumps(found.to_dict()))["lines"] == lines


class TestMeasuring:
    def test_settings_take_turns(self, tiny_model: TinyModels) -> None:
        files, loads, notes = (tiny_model(**BASE), tiny_model(**ASSISTANT)), list[str](), list[str]()

        def opened(name: str) -> colm.Pair:
            loads.append(name)
            return colm.load(*files, "never", **TINY_LOAD)

        settings = {name: (lambda name=name: opened(name)) for name in ("a", "b")}
        found = time_settings(settings, 2, lambda share, note: notes.append(f"{share:.2f} {note}"))
        assert loads == ["a", "b", "b", "a"]
        assert notes == ["0.00 a", "0.25 b", "0.50 b", "0.75 a", "1.00 done"]
        assert all(of.experts["assistant"][8].median > 0 and of.base[1].n == 2 for of in found.values())

    def test_drafts_of_equal_and_of_unlike_models(self, tiny_model: TinyModels) -> None:
        for assistant, least, most in ((BASE, 1.0, 1.0), (ASSISTANT, 0.0, 0.9)):
            with colm.load(tiny_model(**BASE), tiny_model(**assistant), **TINY_LOAD) as pair:
                found = try_drafts(pair, n_tokens=32)
                accepted = found.acceptance["assistant"]
                assert accepted is not None
                assert least <= accepted <= most
                assert not found.hidden


class TestCommand:
    @pytest.fixture(autouse=True)
    def one_core(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """No other number of threads is measured: two threads wait for each other where another process computes."""
        monkeypatch.setattr("colm_cpp.machine.cores.usable_cores", lambda: 1)

    def run(self, tiny_model: TinyModels, *arguments: str) -> Result:
        files = ["--base", str(tiny_model(**BASE)), "--assistant", str(tiny_model(**ASSISTANT))]
        options = ["--n-threads", "1", "--n-ctx", "256", "--tokens", "6", "--rounds", "1", "-q"]
        return commands.run("bench", *files, *options, *arguments)

    def test_from_files_to_advice(
        self, tiny_model: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        monkeypatch.setattr("colm_cpp.machine.cores.usable_cores", lambda: 2)
        result = self.run(tiny_model, "--advise", "--json")
        assert result.exit_code == 0, result.stderr
        found = json.loads(result.stdout)["advice"]
        assert found["n_threads"] == 1
        (expert,) = found["experts"]
        kinds = {change["kind"]: change for change in expert["changes"]}
        assert kinds["threads"]["value"] == "2"
        assert kinds["type"]["value"] == "q4_0"
        assert expert["base_share"] > 0
        assert found["lines"][0].startswith("Deferral rate: ")
        assert os.listdir(tmp_path) == []  # the files in the other type are gone

    def test_in_words(self, tiny_model: TinyModels) -> None:
        result = self.run(tiny_model, "--advise", "--advise-type", "none")
        assert result.exit_code == 0, result.stderr
        told = result.stdout.partition("advice (predicted from decode times, each change alone)")[2]
        assert told.strip().startswith("Deferral rate: ")
        assert "Type: " not in told

    def test_no_room_for_the_other_type(self, tiny_model: TinyModels, monkeypatch: pytest.MonkeyPatch) -> None:
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 0))
        result = self.run(tiny_model, "--advise")
        assert result.exit_code == 0, result.stderr
        assert "Type: Q4_0 was not measured: it needs 0.0 GB in " in result.stdout

    def test_a_file_that_is_that_type_already_is_compared_with_another(
        self, tiny_model: TinyModels, tmp_path: Path
    ) -> None:
        from colm_cpp.cli._advice import _type_to_try
        from colm_cpp.tune.quantizing import file_type, quantize

        plain = tiny_model(**BASE)
        quantize(plain, tmp_path / "q4_0.gguf", file_type("q4_0"))
        assert _type_to_try([str(tmp_path / "q4_0.gguf")]) == "q4_k_m"
        assert _type_to_try([str(tmp_path / "q4_0.gguf"), str(plain)]) == "q4_0"

    def test_a_type_without_advice(self, tiny_model: TinyModels) -> None:
        result = self.run(tiny_model, "--advise-type", "q4_0")
        assert result.exit_code == 2
        assert "--advise-type is for --advise" in result.stderr

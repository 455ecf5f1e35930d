"""From thresholds to deferral rates: the table, what it gives when texts are written anew, and steering one text."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import ASSISTANT, BASE, TINY_LOAD, Asked, TinyModels

import colm_cpp as colm
from colm_cpp import Completion, Head, Pair
from colm_cpp.cli import main
from colm_cpp.errors import ContextFull, CorpusError, HeadError, HeadMismatch, OptionError
from colm_cpp.learn import Calibrated, Problem, calibrate
from colm_cpp.learn.calibration import CHECKED_RATES, RATES, TOLERANCE, threshold_table

PROMPTS = ("The river", "Once upon", "How many apples", "She said", "A train", "The doctor", "Seven pears", "In it")
PROBLEMS = tuple(Problem(i, ({"role": "user", "content": text},), "-", text) for i, text in enumerate(PROMPTS))
TOO_LONG = Problem(8, ({"role": "user", "content": "pears " * 600},), "-", "pears " * 600)
OPTIONS: dict[str, Any] = {"max_tokens": 64, "temperature": 1.0, "seed": 6}


def linear(n_embd: int) -> Head:
    return Head.linear(np.random.default_rng(0).standard_normal(n_embd) * 0.5, 0.2, name="linear")


HEADS: dict[str, Callable[[int], Head]] = {"confidence": Head.confidence, "linear": linear}


@pytest.fixture(scope="module")
def wide(tiny_model: TinyModels) -> Iterator[Pair]:
    """A pair for texts of some hundred tokens."""
    with colm.load(tiny_model(**BASE), tiny_model(**ASSISTANT), "confidence", **{**TINY_LOAD, "n_ctx": 512}) as pair:
        yield pair


@pytest.fixture(scope="module")
def calibrated(wide: Pair) -> dict[str, Calibrated]:
    return {
        name: calibrate(wide, make(wide.n_embd), PROBLEMS, OPTIONS, chat=False, default_rate=0.3)
        for name, make in HEADS.items()
    }


def endless(pair: Pair) -> dict[int, float]:
    """A ban on the tokens that end texts."""
    return dict.fromkeys(pair.base["eog_tokens"], -math.inf)


def experts(completion: Completion) -> str:
    tokens = [*completion.tokens, *([completion.end_token] if completion.end_token else [])]
    return "".join(str(token.expert) for token in tokens)


def ids(completion: Completion) -> list[int]:
    return [token.id for token in completion.tokens]


def afresh(pair: Pair, **options: Any) -> str:
    """Who writes the prompts' texts, joined."""
    written = []
    for problem in PROBLEMS:
        pair.forget()
        own = {**OPTIONS, "seed": OPTIONS["seed"] + problem.index, **options}
        written.append(experts(pair.generate(problem.prompt, **own)))
    return "".join(written)


# --- the table --------------------------------------------------------------------------------------------------------


def test_the_table_counts() -> None:
    z = np.random.default_rng(1).normal(-1.0, 3.0, 1001)
    rates = [0.0, 0.05, 0.2, 0.5, 0.95, 1.0]
    thresholds = threshold_table(z, rates)
    assert (thresholds[0], thresholds[-1]) == (1.0, 0.0)
    for rate, threshold in list(zip(rates, thresholds, strict=True))[1:-1]:
        above = sum(1 / (1 + math.exp(-value)) > threshold for value in z)
        assert abs(above - rate * len(z)) <= 1
    assert threshold_table(np.array([]), [0.0, 1.0]) == [1.0, 0.0]
    assert threshold_table(np.array([-1e6, 1e6]), [0.5]) == [0.5]
    assert threshold_table(np.array([1e6, 1e6]), [0.5])[0] == pytest.approx(1.0)


@pytest.mark.parametrize("name", list(HEADS))
def test_a_calibrated_head_has_a_monotone_table(name: str, calibrated: dict[str, Calibrated]) -> None:
    result = calibrated[name]
    head = result.head
    np.testing.assert_allclose(head.rates, RATES, atol=1e-7)
    assert (head.thresholds[0], head.thresholds[-1]) == (1.0, 0.0)
    assert all(left >= right for left, right in pairwise(head.thresholds))
    assert len(set(head.thresholds)) == len(RATES)
    assert head.default_threshold == pytest.approx(head.threshold_for_rate(0.3), abs=1e-6)
    facts = json.loads(head.calibration or "")
    assert facts["n_prompts"] == len(PROMPTS)
    assert facts["options"] == OPTIONS
    assert facts["measurements"] == [m.facts() for m in result.measurements]
    assert "experts" not in facts["measurements"][0]  # which only several have
    assert {m.wanted for m in result.measurements} == set(CHECKED_RATES)


@pytest.mark.parametrize("name", list(HEADS))
def test_the_first_table_is_that_of_what_the_base_writes(
    name: str, wide: Pair, calibrated: dict[str, Calibrated]
) -> None:
    result = calibrated[name]
    z: list[float] = []
    for problem in PROBLEMS:
        wide.forget()
        own = {**OPTIONS, "seed": OPTIONS["seed"] + problem.index}
        written = wide.generate(problem.prompt, head=HEADS[name](wide.n_embd), threshold=1.0, **own)
        z += [token.defer_logit for token in written.tokens if token.defer_logit is not None]
    assert len(z) >= len(PROBLEMS)
    for rate in CHECKED_RATES:
        logit = math.log(result.first[rate] / (1 - result.first[rate]))
        assert sum(value > logit for value in z) / len(z) == pytest.approx(rate, abs=2 / len(z))


@pytest.mark.parametrize("name", list(HEADS))
def test_rates_are_as_asked_when_texts_are_written_afresh(
    name: str, wide: Pair, calibrated: dict[str, Calibrated]
) -> None:
    result = calibrated[name]
    for rate in CHECKED_RATES:
        written = afresh(wide, head=result.head, defer_rate=rate)
        assert len(written) > 100
        wanted, tolerance = (result.off[rate], 0.01) if rate in result.off else (rate, TOLERANCE + 0.005)
        assert written.count("1") / len(written) == pytest.approx(wanted, abs=tolerance)
    # Between what was measured as well, with more room.
    written = afresh(wide, head=result.head, defer_rate=0.3)
    assert written.count("1") / len(written) == pytest.approx(0.3, abs=0.08)
    assert set(afresh(wide, head=result.head, defer_rate=0.0)) == {"0"}
    assert set(afresh(wide, head=result.head, defer_rate=1.0)) == {"1"}


def test_what_cannot_be_reached_is_said(wide: Pair) -> None:
    # One z for every token: all are deferred, or none.
    constant = Head.linear(np.zeros(wide.n_embd), 0.3)
    result = calibrate(wide, constant, PROBLEMS[:2], {**OPTIONS, "max_tokens": 8}, chat=False)
    assert set(result.off) == set(CHECKED_RATES)
    assert set(result.off.values()) <= {0.0, 1.0}
    assert all(left >= right for left, right in pairwise(result.head.thresholds))
    assert result.head.default_threshold is None


def test_nothing_is_written_twice(wide: Pair) -> None:
    """One z for every token: whatever the rate, the texts are the base's or the assistant's."""
    constant = Head.linear(np.zeros(wide.n_embd), 0.3)
    phases: list[str] = []
    result = calibrate(
        wide,
        constant,
        PROBLEMS[:2],
        {**OPTIONS, "max_tokens": 8},
        chat=False,
        on_text=lambda what, done, total, record: phases.append(what),
    )
    assert phases == ["base alone"] * 2 + ["10%"] * 2
    assert [(m.wanted, m.written) for m in result.measurements] == [
        (0.1, True),
        (0.2, False),
        (0.4, False),
        (0.6, False),
    ]
    assert result.stuck == CHECKED_RATES
    assert len({(m.measured, m.n_tokens, m.n_deferred) for m in result.measurements}) == 1


def test_only_the_rates_that_are_asked_for_are_measured(wide: Pair) -> None:
    result = calibrate(wide, linear(wide.n_embd), PROBLEMS, OPTIONS, chat=False, rates=[0.33], default_rate=0.33)
    assert {m.wanted for m in result.measurements} == {0.33}
    best = min(result.measurements, key=lambda m: abs(m.measured - 0.33))
    assert result.head.default_threshold == pytest.approx(best.threshold, abs=1e-6)
    assert result.table.keys() == {*RATES, 0.33}
    assert all(left >= right for left, right in pairwise(result.head.thresholds))


@pytest.mark.parametrize("name", list(HEADS))
def test_what_is_not_written_again_would_be_the_same(name: str, wide: Pair) -> None:
    """A threshold that leaves every decision as it was gives the very texts, and one that does not is tried."""
    head = HEADS[name](wide.n_embd)
    written: dict[str, list[str]] = {}
    result = calibrate(
        wide,
        head,
        PROBLEMS[:1],
        {**OPTIONS, "max_tokens": 6},
        chat=False,
        on_text=lambda what, done, total, record: written.setdefault(what, []).append(record.experts),
    )
    known = [m for m in result.measurements if not m.written]
    assert known
    for measurement in known:
        wide.forget()
        again = wide.generate(
            PROBLEMS[0].prompt, **{**OPTIONS, "max_tokens": 6}, head=head, threshold=measurement.threshold, lookahead=0
        )
        assert experts(again) in {text for texts in written.values() for text in texts}
        assert experts(again).count("1") == measurement.n_deferred


@pytest.mark.parametrize("n_parallel", [1, 3])
def test_every_text_is_reported(n_parallel: int, wide: Pair) -> None:
    seen: list[tuple[str, int, int, str]] = []
    result = calibrate(
        wide,
        Head.confidence(wide.n_embd),
        PROBLEMS[:3],
        {**OPTIONS, "max_tokens": 4},
        chat=False,
        n_parallel=n_parallel,
        on_text=lambda what, done, total, record: seen.append((what, done, total, record.experts)),
    )
    assert [entry[:3] for entry in seen[:3]] == [("base alone", i, 3) for i in (1, 2, 3)]
    assert set("".join(entry[3] for entry in seen[:3])) == {"0"}
    written_anew = [measurement for measurement in result.measurements if measurement.written]
    assert len(seen) == 3 * (1 + len(written_anew))
    for i, measurement in enumerate(written_anew):
        written = "".join(entry[3] for entry in seen[3 * (i + 1) : 3 * (i + 2)])
        assert (measurement.n_tokens, measurement.n_deferred) == (len(written), written.count("1"))


@pytest.mark.parametrize("name", list(HEADS))
def test_many_at_once(name: str, wide: Pair, calibrated: dict[str, Calibrated], asked: Asked) -> None:
    """The same table, whatever ends first."""
    alone = calibrated[name]
    head = HEADS[name](wide.n_embd)
    together = calibrate(wide, head, PROBLEMS, OPTIONS, chat=False, default_rate=0.3, n_parallel=3)
    assert asked.n_parallel == [3] * (1 + sum(measurement.written for measurement in together.measurements))
    assert asked.ended != [*range(8)] * len(asked.n_parallel)
    for ours, theirs in zip(together.measurements, alone.measurements, strict=True):
        assert (ours.wanted, ours.n_tokens, ours.n_deferred) == (theirs.wanted, theirs.n_tokens, theirs.n_deferred)
    assert together.first == pytest.approx(alone.first, abs=1e-3)
    assert together.head.thresholds == pytest.approx(alone.head.thresholds, abs=1e-3)
    assert together.head.default_threshold == pytest.approx(alone.head.default_threshold, abs=1e-3)
    assert together.off == pytest.approx(alone.off)


def test_calibration_refuses(wide: Pair) -> None:
    head = Head.confidence(wide.n_embd)
    with pytest.raises(CorpusError, match="no prompts"):
        calibrate(wide, head, [], OPTIONS, chat=False)
    with pytest.raises(OptionError, match=r"default_rate is 1\.5"):
        calibrate(wide, head, PROBLEMS, OPTIONS, chat=False, default_rate=1.5)
    with pytest.raises(OptionError, match=r"no rate"):
        calibrate(wide, head, PROBLEMS, OPTIONS, chat=False, rates=[])
    for rate in (0.0, 1.0, 20.0, float("nan")):
        with pytest.raises(OptionError, match=r"a rate to measure is"):
            calibrate(wide, head, PROBLEMS, OPTIONS, chat=False, rates=[0.2, rate])
    with pytest.raises(OptionError, match=r"n_parallel is 257.* 1 .*256"):
        calibrate(wide, head, PROBLEMS, OPTIONS, chat=False, n_parallel=257)
    with pytest.raises(ContextFull):
        calibrate(wide, head, [*PROBLEMS, TOO_LONG], OPTIONS, chat=False, n_parallel=3)
    with pytest.raises(CorpusError, match="max_tokens"):
        calibrate(wide, head, PROBLEMS[:1], {"max_tokens": 0}, chat=False)
    with pytest.raises(HeadMismatch):
        calibrate(wide, Head.confidence(wide.n_embd + 1), PROBLEMS, OPTIONS, chat=False)


# --- writing by rate --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(HEADS))
@pytest.mark.parametrize("rate", [0.1, 0.33, 0.6])
def test_a_rate_is_its_threshold(name: str, rate: float, wide: Pair, calibrated: dict[str, Calibrated]) -> None:
    head = calibrated[name].head
    options: dict[str, Any] = {"head": head, "max_tokens": 40, "seed": 1}
    wide.forget()
    by_rate = wide.generate("The city", defer_rate=rate, **options)
    wide.forget()
    explicit = wide.generate("The city", threshold=head.threshold_for_rate(rate), **options)
    assert by_rate.tokens == explicit.tokens
    assert {token.threshold for token in by_rate.tokens} == {head.threshold_for_rate(rate)}
    assert set(experts(by_rate)) == {"0", "1"}


def test_random_needs_no_table(wide: Pair) -> None:
    options: dict[str, Any] = {"head": "random", "max_tokens": 256, "seed": 4, "logit_bias": endless(wide)}
    wide.forget()
    by_rate = wide.generate("The city", defer_rate=0.25, **options)
    wide.forget()
    assert by_rate.tokens == wide.generate("The city", threshold=0.75, **options).tokens
    assert by_rate.stats.deferral_rate == pytest.approx(0.25, abs=0.09)  # 3 standard deviations


def test_a_head_without_a_table_says_what_to_do(wide: Pair) -> None:
    for head, name in ((linear(wide.n_embd), "linear"), ("confidence", "confidence"), ("always", "always")):
        with pytest.raises(HeadError, match=f"head {name} .*20%.*colm calibrate.*threshold="):
            wide.generate("The city", head=head, defer_rate=0.2)
    # A head of one's own that happens to be called random has no rule of its own either.
    with pytest.raises(HeadError, match="colm calibrate"):
        wide.generate("The city", head=linear(wide.n_embd).replace(name="random"), defer_rate=0.2)


@pytest.mark.parametrize("other", [{"threshold": 0.4}, {"target_rate": 0.2}])
def test_two_ways_to_say_how_much(other: dict[str, Any], wide: Pair) -> None:
    with pytest.raises(OptionError, match=f"defer_rate.*{next(iter(other))}"):
        wide.generate("The city", head="random", defer_rate=0.2, **other)


@pytest.mark.parametrize("name", ["defer_rate", "target_rate"])
@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan, math.inf, "much"])
def test_rates_out_of_range(name: str, value: Any, wide: Pair) -> None:
    with pytest.raises(OptionError, match=f"{name} is "):
        wide.generate("The city", head="random", **{name: value})


def test_a_schedule_and_a_target_contradict_each_other(wide: Pair) -> None:
    with pytest.raises(OptionError, match=r"schedule.*target_rate"):
        wide.generate("The city", target_rate=0.2, schedule="linear", schedule_tokens=8)


# --- steering one text ------------------------------------------------------------------------------------------------


def steered(start: float, rate: float, seen: list[float], n_deferred: int) -> float:
    """The threshold behind ``seen``, as policy.h describes it."""
    deviation = 1.0 if len(seen) < 8 else max(0.05, float(np.std(seen, ddof=1)))
    logit = math.log(start) - math.log1p(-start) + 0.75 * deviation * (n_deferred - rate * len(seen))
    return 1 / (1 + math.exp(-min(max(logit, -30.0), 30.0)))


@pytest.mark.parametrize("name", list(HEADS))
@pytest.mark.parametrize(("temperature", "given"), [(0.0, None), (1.0, None), (1.0, 0.999)])
def test_a_text_keeps_to_its_target(name: str, temperature: float, given: float | None, wide: Pair) -> None:
    head = HEADS[name](wide.n_embd)
    options: dict[str, Any] = {"max_tokens": 256, "temperature": temperature, "seed": 3, "logit_bias": endless(wide)}
    completion = wide.generate("The answer", head=head, target_rate=0.2, threshold=given, **options)
    tokens = completion.tokens
    assert len(tokens) == 256
    assert completion.stats.deferral_rate == pytest.approx(0.2, abs=0.03)
    start = 0.5 if given is None else given
    for i, token in enumerate(tokens):
        before = [other.defer_logit for other in tokens[:i]]
        wanted = steered(start, 0.2, before, sum(other.deferred for other in tokens[:i]))
        assert token.threshold == pytest.approx(wanted, rel=1e-9)
        assert token.deferred == (token.defer_logit > math.log(token.threshold) - math.log1p(-token.threshold))
    # Up where the assistant wrote, down where the base did.
    moves = {later.threshold > earlier.threshold for earlier, later in pairwise(tokens) if earlier.deferred}
    assert moves == {True}


@pytest.mark.parametrize(("rate", "who"), [(0.0, "0"), (1.0, "1")])
def test_the_ends_of_the_target_are_the_models_alone(rate: float, who: str, wide: Pair) -> None:
    assert set(experts(wide.generate("The answer", target_rate=rate, max_tokens=30, seed=1))) == {who}


def test_a_target_starts_from_the_table_where_there_is_one(wide: Pair, calibrated: dict[str, Calibrated]) -> None:
    head = calibrated["linear"].head
    options: dict[str, Any] = {"target_rate": 0.4, "max_tokens": 1, "seed": 1, "logit_bias": endless(wide)}

    def first(**changes: Any) -> float:
        return wide.generate("The answer", **{**options, **changes}).tokens[0].threshold

    assert first(head=head) == pytest.approx(head.threshold_for_rate(0.4), rel=1e-9)
    assert first(head=head, threshold=0.9) == pytest.approx(0.9, rel=1e-9)
    assert first(head=linear(wide.n_embd).replace(default_threshold=0.25)) == pytest.approx(0.25, rel=1e-9)
    assert first(head="random") == pytest.approx(0.6, rel=1e-9)
    assert first(head="confidence") == pytest.approx(0.5, rel=1e-9)


# --- plain confidence as a file ---------------------------------------------------------------------------------------


def test_confidence_from_a_file_is_confidence(wide: Pair, tmp_path: Path) -> None:
    Head.confidence(wide.n_embd, vocab_fingerprint=wide.vocab_fingerprint).save(tmp_path / "confidence.gguf")
    loaded = Head.load(tmp_path / "confidence.gguf")
    assert loaded.name == "confidence"
    written = []
    for head in ("confidence", loaded, str(tmp_path / "confidence.gguf")):
        wide.forget()
        written.append(wide.generate("Once more", head=head, threshold=0.7, max_tokens=100, temperature=1.0, seed=2))
    for other in written[1:]:
        assert ids(other) == ids(written[0])
        assert experts(other) == experts(written[0])
        for ours, theirs in zip(other.tokens, written[0].tokens, strict=True):
            assert ours.defer_logit == pytest.approx(theirs.defer_logit, abs=1e-4)
    assert set(experts(written[0])) == {"0", "1"}


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def arguments(tiny_model: TinyModels, tmp_path: Path) -> list[str]:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    models = ["--base", str(tiny_model(**BASE)), "--assistant", str(tiny_model(**ASSISTANT)), "--n-threads", "1"]
    return [str(prompts), *models, "--n-ctx", "256"]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


def test_the_command_makes_a_head_of_confidence(arguments: list[str], tmp_path: Path) -> None:
    out = tmp_path / "confidence.gguf"
    writing = ["--max-tokens", "48", "--temperature", "1", "--seed", "6"]
    result = run("calibrate", "confidence", *arguments, *writing, "--out", out, "--default-rate", "0.2")
    assert result.exit_code == 0, result.stderr
    head = Head.load(out)
    assert head.default_threshold == pytest.approx(head.threshold_for_rate(0.2), abs=1e-6)
    assert head.name == "confidence"
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["wanted", "threshold", "measured", "tokens"]
    assert len(lines) == 1 + len(json.loads(head.calibration or "")["measurements"]) + 1 + len(RATES) + 1
    assert f"   20%  {head.threshold_for_rate(0.2):9.4g}" in lines
    assert lines[-1].startswith(f"{out}: calibrated; try colm generate PROMPT --")
    assert lines[-1].endswith(f" --head {out} --defer-rate 0.2")
    assert "calibrating: 100%, 60%: " in result.stderr  # no terminal: lines
    facts = json.loads(head.calibration or "")
    assert facts["options"] == {"max_tokens": 48, "temperature": 1.0, "seed": 6}
    assert facts["chat"] is False  # the base has no template

    # The same tokens by rate and by threshold, and the head's default is the rate of --default-rate.
    models = arguments[1:]
    printed = []
    for extra in (["--defer-rate", "0.2"], ["--threshold", repr(head.threshold_for_rate(0.2))], []):
        writing = ["--json", "--seed", "1", "--max-tokens", "30", *extra]
        result = run("generate", "The city", *models, "--head", out, *writing)
        assert result.exit_code == 0, result.stderr
        tokens = json.loads(result.stdout)["tokens"]
        printed.append([(token["id"], token["source"]) for token in tokens])
    assert printed[0] == printed[1] == printed[2]
    assert {source for _, source in printed[0]} == {"base", "assistant"}


def test_the_command_writes_many_texts_at_once(arguments: list[str], tmp_path: Path, asked: Asked) -> None:
    measured = []
    for n in (1, 3):
        writing = ["--max-tokens", "16", "--limit", "4", "--out", tmp_path / f"{n}.gguf", "--parallel", str(n)]
        result = run("calibrate", "confidence", *arguments, *writing, "--json", "--quiet")
        assert result.exit_code == 0, result.stderr
        assert asked.n_parallel[-1] == n
        measured.append([[row[0], row[2], row[3]] for row in json.loads(result.stdout)["measurements"]])
    assert measured[0] == measured[1]


def test_the_command_writes_into_the_head_itself(arguments: list[str], tmp_path: Path) -> None:
    file = tmp_path / "mine.gguf"
    head = linear(32)
    head.save(file)
    only = [part for rate in CHECKED_RATES[:2] for part in ("--rate", rate)]
    result = run("calibrate", file, *arguments, *only, "--max-tokens", "16", "--limit", "3", "--json", "--quiet")
    assert result.exit_code == 0, result.stderr
    printed = json.loads(result.stdout)
    loaded = Head.load(file)
    assert printed["head"] == str(file)
    assert list(printed["thresholds"].values()) == list(loaded.thresholds)
    assert {row[0] for row in printed["measurements"]} == set(CHECKED_RATES[:2])
    assert json.loads(loaded.calibration or "")["n_prompts"] == 3
    np.testing.assert_array_equal(loaded.weights[0], head.weights[0])
    assert loaded.default_threshold is None
    # Few tokens cannot give every rate; what is off is said, a line each.
    assert all(line.startswith("colm: warning: ") and "%" in line for line in result.stderr.splitlines())


def test_the_command_refuses(arguments: list[str], tmp_path: Path) -> None:
    result = run("calibrate", "confidence", *arguments)
    assert result.exit_code == 2
    assert "--out" in result.stderr
    assert "confidence" in result.stderr
    out = tmp_path / "there.gguf"
    out.write_bytes(b"precious")
    result = run("calibrate", "confidence", *arguments, "--out", out)
    assert result.exit_code == 1
    assert all(fact in result.stderr for fact in ("--out", str(out), "--force"))
    assert out.read_bytes() == b"precious"
    result = run("calibrate", tmp_path / "none.gguf", *arguments)
    assert result.exit_code == 1
    assert "none.gguf" in result.stderr
    result = run("calibrate", "hf:org/repo/head.gguf", *arguments)
    assert result.exit_code == 2
    assert "--out" in result.stderr

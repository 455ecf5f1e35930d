"""Fits of heads for several experts: what they find, what they report, what they refuse."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import fail, run, succeed
from made_choice import EXPERTS, facts, known_parts, write_choice
from made_scores import PLAIN, planted, write_scores

from colm_cpp import Head
from colm_cpp.errors import CorpusError, OptionError
from colm_cpp.learn import Scores, TrainingOptions, costs_by_time, train


@pytest.fixture
def scores(tmp_path: Path) -> Scores:
    return write_choice(tmp_path / "scores", known_parts(1600))


@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("objective", ["marginal", "weak"])
def test_the_expert_that_knows_is_found(kind: str, objective: str, scores: Scores, tmp_path: Path) -> None:
    options = dataclasses.replace(PLAIN, kind=kind, objective=objective, n_units=8, cost=0.05)
    trained = train([scores], options)
    head = trained.head
    assert head.expert_names == EXPERTS
    assert trained.notes == ()
    # On new texts, of which nobody has told who knows them.
    fresh = known_parts(seed=1)
    z = head.scores(fresh.hidden)
    deferred = head.defer_logits(fresh.hidden) > 0
    assert deferred.mean() == pytest.approx(0.75, abs=0.05)
    assert (z.argmax(axis=1)[deferred] + 1 == fresh.who[deferred]).mean() > 0.95
    assert (fresh.who[~deferred] == 0).mean() > 0.95
    held_out = trained.held_out
    assert held_out.joint_nll < 0.5 * held_out.base_nll
    assert held_out.oracle_nll <= held_out.joint_nll
    head.save(tmp_path / "head.gguf")
    again = Head.load(tmp_path / "head.gguf")
    assert again.expert_names == EXPERTS
    np.testing.assert_array_equal(again.weights[0], head.weights[0])


def test_the_report_is_what_its_definitions_say(scores: Scores) -> None:
    trained = train([scores], dataclasses.replace(PLAIN, max_iterations=3, held_out=0.3))
    report = trained.experts
    assert report is not None
    # The held-out texts by hand.
    texts = np.random.default_rng([0, scores.progress.n_texts]).permutation(scores.progress.n_texts)
    n_held_out = round(0.3 * scores.progress.n_texts)
    rows = np.flatnonzero(np.isin(scores["text"], texts[:n_held_out]))
    z = trained.head.scores(np.asarray(scores["base_hidden"], np.float64)[rows])
    base = np.asarray(scores["base_logprob"], np.float64)[rows]
    each = np.concatenate([base[:, None], np.asarray(scores.of_experts("logprob"), np.float64)[rows]], axis=1)
    odds = np.exp(np.concatenate([np.zeros((len(z), 1)), z], axis=1))
    p = odds / odds.sum(axis=1, keepdims=True)
    named = np.where(1 - p[:, 0] > 0.5, z.argmax(axis=1) + 1, 0)
    best = each.argmax(axis=1)
    names = ("base", *EXPERTS)
    assert list(report.models) == list(names)
    for i, of_best in enumerate(names):
        assert report.confusion[of_best] == {
            name: int(((best == i) & (named == k)).sum()) for k, name in enumerate(names)
        }
    joint = -np.log((p * np.exp(each)).sum(axis=1)).mean()
    for k, name in enumerate(names):
        model = report.models[name]
        assert model.nll == pytest.approx(-each[:, k].mean())
        assert model.best == pytest.approx((best == k).mean())
        assert model.share == pytest.approx(p[:, k].mean(), rel=1e-5)
        assert model.named == pytest.approx((named == k).mean())
        lost = each.max(axis=1) - each[:, k]
        assert model.regret == pytest.approx(lost[named == k].mean())
        if k == 0:
            assert model.without is None
            assert model.freed is None
            continue
        others = np.delete(p, k, axis=1)
        without = -np.log((others * np.delete(np.exp(each), k, axis=1)).sum(axis=1) / others.sum(axis=1)).mean()
        assert model.without == pytest.approx(without - joint, rel=1e-4)
        assert model.without > 0
    assert [report.models[name].freed for name in EXPERTS] == [3_000_000, 2_000_000, 1_000_000]
    deferred = named > 0
    assert report.right == pytest.approx((each[deferred, named[deferred]] >= each[deferred, 1:].max(axis=1)).mean())
    # When is judged by the expert that the head names.
    chosen = each[np.arange(len(z)), z.argmax(axis=1) + 1]
    assert trained.held_out.assistant_nll == pytest.approx(-chosen.mean())
    assert trained.held_out.joint_nll == pytest.approx(joint, rel=1e-5)
    assert trained.held_out.oracle_nll == pytest.approx(-each.max(axis=1).mean())
    kept = json.loads(trained.head.training or "")
    assert kept["experts"] == json.loads(json.dumps(dataclasses.asdict(report)))


def test_a_file_that_others_use_frees_nothing(tmp_path: Path) -> None:
    told = facts()
    told["expert_models"]["code"] |= {"model": told["base_model"], "adapters": [["d", 1.0]], "adapter_bytes": 70}
    told["expert_models"]["law"] |= {"model": told["expert_models"]["math"]["model"]}
    folder = write_choice(tmp_path / "s", known_parts(400), expert_models=told["expert_models"])
    report = train([folder], dataclasses.replace(PLAIN, max_iterations=1)).experts
    assert report is not None
    assert [report.models[name].freed for name in EXPERTS] == [0, 70, 0]


def test_a_dear_expert_is_asked_less(scores: Scores) -> None:
    def shares(cost: Any) -> dict[str, float]:
        report = train([scores], dataclasses.replace(PLAIN, cost=cost)).experts
        assert report is not None
        return {name: model.share for name, model in report.models.items()}

    cheap, dear = shares(0.0), shares({"math": 3.0, "code": 0.0, "law": 0.0})
    assert dear["math"] < 0.6 * cheap["math"]
    assert dear["code"] > 0.9 * cheap["code"]
    assert shares({"law": 0.1, "math": 0.1, "code": 0.1}) == shares(0.1)


def test_prices_by_time() -> None:
    assert costs_by_time(0.1, {"math": 40.0, "code": 10.0}) == {"math": 0.1, "code": 0.025}
    for seconds in ({}, {"math": 0.0}, {"math": float("nan")}, {"math": "x"}):
        with pytest.raises(OptionError):
            costs_by_time(0.1, seconds)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="cost"):
        costs_by_time(-1.0, {"math": 1.0})


@pytest.mark.parametrize("cost", [{"math": 0.1}, {"math": 0.1, "code": 0.1, "law": 0.1, "art": 0.1}, {"math": -1}])
def test_prices_that_cannot_be(cost: Any, scores: Scores) -> None:
    with pytest.raises(OptionError, match="cost"):
        train([scores], dataclasses.replace(PLAIN, cost=cost))


def test_a_price_of_one_expert_is_the_plain_price(tmp_path: Path) -> None:
    made = planted(600)
    folder = write_scores(tmp_path / "s", made.hidden, made.columns)
    one, other = (train([folder], dataclasses.replace(PLAIN, cost=cost)) for cost in (0.2, {"assistant": 0.2}))
    np.testing.assert_array_equal(one.head.weights[0], other.head.weights[0])


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_one_expert_of_any_name_is_an_assistant(kind: str, tmp_path: Path) -> None:
    made = planted(600)
    options = dataclasses.replace(PLAIN, kind=kind, n_units=4)
    named = write_scores(tmp_path / "math", made.hidden, made.columns, experts=["math"])
    plain = write_scores(tmp_path / "plain", made.hidden, made.columns)
    assert named.experts == ("math",)
    assert plain.experts == ("assistant",)
    one, other = train([named], options), train([plain], options)
    assert one.head.expert_names == ("math",)
    assert other.head.expert_names == ()
    assert one.experts is other.experts is None
    assert one.held_out == other.held_out
    for ours, theirs in zip(
        (*one.head.weights, *one.head.biases), (*other.head.weights, *other.head.biases), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("changes", [{"objective": "regret"}, {"label": "differ"}, {"label": "continuation"}])
def test_what_only_an_assistant_has_is_refused(changes: dict[str, Any], scores: Scores) -> None:
    with pytest.raises(OptionError, match="3 experts"):
        train([scores], dataclasses.replace(PLAIN, **changes))


def test_the_assistants_columns_are_refused(scores: Scores) -> None:
    with pytest.raises(CorpusError, match="math and code and law"):
        scores["assistant_logprob"]
    assert scores.of_experts("top").shape == (1600, 3)


def test_folders_of_other_experts(tmp_path: Path) -> None:
    made = known_parts(200)
    first = write_choice(tmp_path / "one", made)
    other = write_choice(tmp_path / "two", made, experts=["math", "law", "code"])
    with pytest.raises(CorpusError, match="experts"):
        train([first, other], PLAIN)


def test_damaged_facts_are_named(tmp_path: Path) -> None:
    folder = write_choice(tmp_path / "one", known_parts(200)).path
    meta = json.loads((folder / "meta.json").read_text())
    for changed in ({"experts": ["math"]}, {"experts": "math"}, {"experts": ["a b", "c"]}, {"version": 1}):
        (folder / "meta.json").write_text(json.dumps({**meta, **changed}))
        with pytest.raises(CorpusError, match=r"meta\.json is damaged"):
            Scores(folder)
    (folder / "meta.json").write_text(json.dumps({**meta, "experts": ["math", "code"]}))
    with pytest.raises(CorpusError, match="experts"):
        train([Scores(folder), Scores(write_choice(tmp_path / "two", known_parts(200)).path)], PLAIN)


def test_an_expert_that_no_text_needs_is_noted(tmp_path: Path) -> None:
    made = known_parts(1200)
    made.columns["expert_top"][:, 2] = 999
    made.columns["expert_logprob"][:, 2] = -9.0
    trained = train([write_choice(tmp_path / "s", made)], PLAIN)
    assert any("law" in note for note in trained.notes)
    report = trained.experts
    assert report is not None
    assert report.models["law"].share < 0.05
    assert abs(report.models["law"].without or 0.0) < 0.01


def test_a_value_that_is_no_log_probability_is_named(tmp_path: Path) -> None:
    made = known_parts(200)
    made.columns["expert_logprob"][70, 1] = np.nan
    with pytest.raises(CorpusError, match=r"expert_logprob is .* in row 70"):
        train([write_choice(tmp_path / "s", made)], PLAIN)


def test_the_command(scores: Scores, tmp_path: Path) -> None:
    head = tmp_path / "head.gguf"
    arguments = ["train", scores.path, "-o", head, "--features", "none", "-q"]
    done = succeed(*arguments)
    lines = done.stdout.splitlines()
    [at] = [i for i, line in enumerate(lines) if line.startswith("held out")]
    assert [line.split()[0] for line in lines[at + 1 : at + 5]] == ["base", *EXPERTS]
    assert "-2.0 MB" in lines[at + 3]
    [at] = [i for i, line in enumerate(lines) if line.startswith("tokens  ") and "base" in line]
    counts = np.array([list(map(int, line.split()[1:])) for line in lines[at + 1 : at + 5]])
    assert np.trace(counts) > 0.9 * counts.sum()
    assert "--expert law=" in lines[-1]

    printed = json.loads(run(*arguments, "--json", "--force", "--cost", "0.2", "--cost", "code=2.5").stdout)
    assert printed["options"]["cost"] == {"math": 0.2, "code": 2.5, "law": 0.2}
    assert set(printed["experts"]["confusion"]) == {"base", *EXPERTS}
    by_time = ("--step-ms", "math=40", "--step-ms", "code=10", "--step-ms", "law=20")
    timed = json.loads(run(*arguments, "--json", "--force", *by_time).stdout)
    assert timed["options"]["cost"] == {"math": 0.1, "code": 0.025, "law": 0.05}
    for more, words in (
        (("--cost", "x"), "NATS|NAME=NATS"),
        (("--cost", "=1"), "NATS|NAME=NATS"),
        (("--step-ms", "7"), "NAME=MS"),
        (("--step-ms", "math=7", "--cost", "code=1"), "--step-ms"),
    ):
        failed = run(*arguments, "--force", *more)
        assert failed.exit_code == 2
        assert words in failed.stderr
    for more, words in (
        (("--cost", "art=1"), "'art'"),
        (("--step-ms", "math=7"), "'code'"),
        (("--objective", "regret"), "3 experts"),
    ):
        assert words in fail(*arguments, "--force", *more)


def test_options_of_one_price_stay_a_number() -> None:
    assert dataclasses.asdict(TrainingOptions())["cost"] == 0.1
    assert dataclasses.asdict(TrainingOptions(cost={"math": 1.0}))["cost"] == {"math": 1.0}

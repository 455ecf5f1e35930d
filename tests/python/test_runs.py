"""Runs: the assistant holds its turn for some tokens, or until the head is sure of the base again."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import fail, succeed
from conftest import ASSISTANT, BASE, TinyModels, assert_same_text, each_once

import colm_cpp as colm
from colm_cpp import Head
from colm_cpp.errors import HeadError, OptionError
from colm_cpp.evaluate.arms import make_arms
from colm_cpp.evaluate.costs import StepTimes, answer_costs
from colm_cpp.heads.tables import PLAIN, Runs, add_table, find_table
from colm_cpp.learn import Record
from colm_cpp.learn.runs import deferred_share, logit_of, runs_table
from colm_cpp.report.traces import traced

SharedPairs = Callable[..., colm.Pair]


def who(completion: colm.Completion) -> str:
    """Who wrote each token; '-' where the head was not asked."""
    return "".join(token.source[0] + ("-" if token.defer_logit is None else "") for token in completion.tokens)


def endless(pair: colm.Pair) -> dict[int, float]:
    return dict.fromkeys(pair.base["eog_tokens"], -math.inf)


def a_linear_head(pair: colm.Pair) -> Head:
    return Head.linear(np.random.default_rng(0).standard_normal(pair.n_embd) * 0.5, 0.2)


# --- writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["confidence", "linear"])
def test_the_base_reads_a_run_in_one_batch(pair: colm.Pair, kind: str) -> None:
    """With and without hidden states: one decode for four tokens, and none before the run has ended."""
    head = a_linear_head(pair) if kind == "linear" else kind
    options: dict[str, Any] = {"max_tokens": 12, "temperature": 0, "logit_bias": endless(pair)}
    stream = pair.stream("The sun", head=head, threshold=0.0, hold=4, **options)
    out = stream.completion()
    assert who(out) == "aa-a-a-" * 3
    n_prompt = out.stats.prompt_tokens
    base = [(position, n) for model, position, n, *_ in stream.calls if model == "base"]
    assert base[-2:] == [(n_prompt, 4), (n_prompt + 4, 4)]
    assert (out.stats.base_steps, out.stats.deferral_rate) == (3, 1.0)
    assert out.stats.base_tokens_read == n_prompt + 8
    # It is what the assistant alone writes.
    alone = pair.generate("The sun", head="always", **options)
    assert [token.id for token in out.tokens] == [token.id for token in alone.tokens]


def test_what_a_held_token_says(pair: colm.Pair) -> None:
    out = pair.generate("The sun", threshold=0.0, hold=2, max_tokens=4, temperature=0, logit_bias=endless(pair))
    asked, held = out.tokens[:2]
    assert (held.defer_logit, held.defer_prob, held.deferred) == (None, None, True)
    assert asked.defer_prob is not None
    fields = held.to_dict()
    assert (fields["defer_logit"], fields["defer_prob"]) == (None, None)
    assert json.loads(json.dumps(out.to_dict()))["tokens"][1]["defer_prob"] is None
    assert "None" in repr(held)
    assert "not asked" in out._repr_html_()


def test_two_thresholds(pair: colm.Pair) -> None:
    """The head is asked at every token. The assistant stays while z is above the lower threshold."""
    options: dict[str, Any] = {"max_tokens": 40, "temperature": 0, "logit_bias": endless(pair)}
    z = [token.defer_prob for token in pair.generate("Once upon", threshold=1.0, **options).tokens]
    enter, leave = (float(np.quantile(z, q)) for q in (0.8, 0.2))
    out = pair.generate("Once upon", threshold=enter, leave_threshold=leave, **options)
    in_run = False
    stayed = 0
    for token in out.tokens:
        assert token.defer_prob is not None
        assert token.threshold == pytest.approx(leave if in_run else enter)
        assert token.deferred == (token.defer_prob > token.threshold)
        stayed += token.deferred and token.defer_prob <= enter
        in_run = token.deferred
    assert stayed > 3
    same = pair.generate("Once upon", threshold=enter, leave_threshold=1.0, **options)
    assert_same_text(same, pair.generate("Once upon", threshold=enter, **options))


@pytest.mark.parametrize("hold", [1, 2, 4, 8])
def test_a_target_rate_counts_held_tokens(shared_pairs: SharedPairs, hold: int) -> None:
    pair = shared_pairs(BASE, ASSISTANT, n_ctx=512)
    out = pair.generate(
        "Once", target_rate=0.25, hold=hold, max_tokens=400, temperature=1.0, seed=3, logit_bias=endless(pair)
    )
    assert out.stats.deferral_rate == pytest.approx(0.25, abs=0.03)
    if hold > 1:
        assert out.stats.base_steps < 400 - 0.2 * 400 * (hold - 1) / hold


def random_options(rng: random.Random) -> dict[str, Any]:
    options: dict[str, Any] = {
        "hold": rng.choice([1, 2, 3, 5, 50]),
        "leave_threshold": rng.choice([None, None, 0.3, 0.6]),
        "temperature": rng.choice([0.0, 0.0, 0.8]),
        "threshold": rng.choice([0.0, 0.55, 0.65, 0.7, 1.0]),
        "head": rng.choice(["confidence", "confidence", "entropy", "random", "always"]),
        "seed": rng.randrange(1000),
        "max_tokens": rng.choice([1, 7, 20, 28]),
        "strategy": rng.choice(["defer", "defer", "compose", "contrastive"]),
    }
    own: list[dict[str, Any]] = [
        {"grammar": "root ::= [a-z ]+"},
        {"stop": ["e", " t"]},
        {"schedule": "cosine", "schedule_tokens": 12},
        {"target_rate": 0.4, "threshold": 0.6},
        {"repeat_penalty": 1.3},
        {},
    ]
    return options | rng.choice(own)


def test_look_ahead_and_batches_write_the_same(shared_pairs: SharedPairs) -> None:
    """Whatever else is asked for: stop strings, ends within a run, grammars, schedules, rates, mixtures."""
    rng = random.Random(14)
    pair = shared_pairs(BASE, ASSISTANT)
    prompts = ["The sun", "a", "two hundred and one", "Once upon a time there was", "12 + 7 ="]
    each = [random_options(rng) for _ in range(60)]
    asked = [rng.choice(prompts) for _ in each]
    alone = [pair.generate(prompt, **options) for prompt, options in zip(asked, each, strict=True)]
    drafted = 0
    for prompt, options, plain in zip(asked, each, alone, strict=True):
        written = pair.generate(prompt, lookahead=rng.choice([1, 3, 15, "auto"]), **options)
        assert_same_text(written, plain)
        assert who(written) == who(plain)
        drafted += written.stats.drafted_tokens
    together = pair.generate_batch(asked, n_parallel=4, each=each)  # type: ignore[arg-type]
    for written, plain in zip(together, alone, strict=True):
        assert_same_text(written, plain)
        assert written.stats.base_steps == plain.stats.base_steps
    held = "".join(map(who, alone)).count("-")
    assert held > 100
    assert drafted > 100
    assert {out.finish_reason for out in alone} == {"length", "eos", "stop"}


def test_a_run_that_was_cancelled_can_be_written_again(pair: colm.Pair) -> None:
    options: dict[str, Any] = {"threshold": 0.6, "hold": 5, "temperature": 0, "max_tokens": 30}
    whole = pair.generate("Once upon", **options)
    for n in range(1, len(whole.tokens)):
        stream = pair.stream("Once upon", **options)
        for _ in range(n):
            next(stream)
        stream.close()
        assert_same_text(pair.generate("Once upon", **options), whole)


@pytest.mark.parametrize(
    ("name", "value"),
    [("hold", 0), ("hold", -1), ("hold", 1.5), ("hold", None), ("hold", True), ("hold", 2**31)]
    + [("leave_threshold", value) for value in (-0.1, 1.1, math.nan, "a", [0.5])],
)
def test_bad_values_are_refused_by_name(pair: colm.Pair, name: str, value: Any) -> None:
    with pytest.raises(OptionError, match=name):
        pair.generate("a", **{name: value})


# --- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hold", "leave", "named"), [(0, None, "hold"), (1.5, None, "hold"), (1, 1.1, "leave"), (1, "a", "leave")]
)
def test_runs_that_cannot_be_are_not_made(hold: Any, leave: Any, named: str) -> None:
    with pytest.raises(OptionError, match=named):
        Runs(hold, leave)


def test_a_table_holds_for_its_runs_alone(tmp_path: Path, pair: colm.Pair) -> None:
    table = {0.0: 1.0, 0.5: 0.7, 1.0: 0.0}
    four, low = Runs(4), Runs(1, 0.25)
    head = Head.confidence(pair.n_embd, rates=(0.0, 1.0), thresholds=(1.0, 0.0))
    head = head.replace(calibration=add_table(head.calibration, four, table, {"n_prompts": 3}))
    head = head.replace(calibration=add_table(head.calibration, low, {0.0: 0.9, 1.0: 0.1}, {}))
    head.save(tmp_path / "head.gguf")
    head = Head.load(tmp_path / "head.gguf")
    assert head.threshold_for_rate(0.5) == 0.5
    assert head.threshold_for_rate(0.5, hold=4) == pytest.approx(0.7)
    assert head.threshold_for_rate(0.5, leave_threshold=0.25) == pytest.approx(0.5)
    with pytest.raises(HeadError, match=r"hold=2.*only for hold=1; hold=4; leave_threshold=0.25.*calibrate --hold 2"):
        head.threshold_for_rate(0.5, hold=2)
    out = pair.generate("a", head=head, defer_rate=0.5, hold=4, max_tokens=2)
    assert out.tokens[0].threshold == pytest.approx(0.7)
    with pytest.raises(HeadError, match="hold=2"):
        pair.generate("a", head=head, defer_rate=0.5, hold=2)
    # A target rate needs no table.
    assert pair.generate("a", head=head, target_rate=0.5, hold=2, max_tokens=2).tokens

    again = add_table(head.calibration, four, {0.0: 1.0, 1.0: 0.5}, {})
    assert find_table(head.replace(calibration=again), four) == ((0.0, 1.0), (1.0, 0.5))
    assert find_table(head.replace(calibration=again), low)[1] == (0.9, 0.1)
    # A plain table replaces what was said of the plain one, and keeps the others.
    plain = head.replace(calibration=add_table(head.calibration, PLAIN, table, {"n_prompts": 7}))
    assert json.loads(plain.calibration or "")["n_prompts"] == 7
    assert find_table(plain, four)[1] == (1.0, 0.7, 0.0)


@pytest.mark.parametrize("runs", ["x", [3], [{"hold": 0}], [{"hold": 4}], [{"hold": 4, "rates": [0, 2]}]])
def test_damaged_tables(runs: Any) -> None:
    head = Head.confidence(4, calibration=json.dumps({"runs": runs}))
    with pytest.raises(HeadError, match=r"calibration table"):
        head.threshold_for_rate(0.5, hold=4)
    with pytest.raises(HeadError, match=r"calibration table"):
        Head.confidence(4, calibration="no JSON").threshold_for_rate(0.5, hold=4)


@pytest.mark.parametrize(("runs", "rate"), each_once([PLAIN, Runs(4), Runs(1, 0.3), Runs(3, 0.5)], [0.1, 0.4, 0.8]))
def test_thresholds_of_random_probabilities(runs: Runs, rate: float) -> None:
    """The closed form, and the table from z, give the rate that they should when the policy is applied to fresh z."""
    rng = np.random.default_rng(5)

    def logits(n: int) -> list[Any]:
        p = rng.random((n, 400))
        return list(np.log(p / (1 - p)))

    fresh = logits(200)
    eta = runs.random_threshold(rate)
    assert deferred_share(fresh, logit_of(eta), runs, every_token=True) == pytest.approx(rate, abs=0.015)
    table = runs_table(logits(20), [0.0, rate, 1.0], runs, every_token=True)
    assert (table[0], table[2]) == (1.0, 0.0)
    assert deferred_share(fresh, logit_of(table[1]), runs, every_token=True) == pytest.approx(rate, abs=0.03)


# --- records, costs, arms ---------------------------------------------------------------------------------------------


def test_records_keep_who_was_asked(pair: colm.Pair) -> None:
    out = pair.generate("The sun", threshold=0.6, hold=3, max_tokens=20, temperature=0, logit_bias=endless(pair))
    record = Record.of(0, out)
    assert record.held == tuple(i for i, token in enumerate(out.tokens) if token.defer_logit is None)
    assert len(record.held) > 3
    assert Record.from_json(record.to_json()) == record
    assert record.n_runs == len([run for run in record.experts.split("0") if run])
    assert [token.defer_prob is None for token in traced(record, "t").tokens] == [
        i in record.held for i in range(record.n_tokens)
    ]
    plain = Record.of(0, pair.generate("The sun", threshold=0.6, max_tokens=4, temperature=0))
    assert "held" not in plain.to_json()
    assert Record.from_json(plain.to_json()) == plain
    for wrong in ([20], [-1], ["a"], 3):
        with pytest.raises(ValueError, match="held"):
            Record.from_json(json.dumps({**json.loads(record.to_json()), "held": wrong}))


def test_costs_count_one_decode_for_a_run() -> None:
    steps = StepTimes({1: 1.0, 2: 1.5, 4: 2.0}, {"assistant": {1: 3.0, 8: 6.0}}, 1.2)
    record = Record(0, "eos", tuple(range(6)), ("x",) * 6, "011100", (0.0,) * 6, 2, 4, 3, 0.0, 0.0, held=(2, 3))
    costs = answer_costs([record], steps)
    assert costs.writing_s is not None
    # The base is asked for tokens 0, 1, 4 and 5: it reads 1, then 3, then 1.
    assert costs.writing_s[0] == pytest.approx(1.0 + 1.75 + 1.0 + 2 * 3.0)
    learned = answer_costs([record], steps, "sha256")
    assert learned.writing_s is not None
    assert learned.writing_s[0] == pytest.approx(1.2 * 3.75 + 2 * 3.0)


def test_arms_are_named_after_their_runs() -> None:
    arms = make_arms([], {}, [0.2], runs=[PLAIN, Runs(4), Runs(2, 0.1)])
    assert [arm.name for arm in arms] == ["random@20", "random@20+hold4", "random@20+hold2+leave0.1"]
    assert "hold" not in arms[0].facts
    assert arms[2].facts["leave_threshold"] == 0.1
    head = Head.confidence(4)
    assert arms[1].threshold == pytest.approx(1 - 0.2 / 3.4)
    assert head.rates == ()


# --- the command line -------------------------------------------------------------------------------------------------


def test_from_the_table_to_the_report(tiny_model: TinyModels, tmp_path: Path) -> None:
    models = ["--base", str(tiny_model(**BASE)), "--assistant", str(tiny_model(**ASSISTANT)), "--n-threads", "1"]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"{word} and", "answer": "x"}) + "\n" for word in "abcdefgh"))
    head = tmp_path / "head.gguf"
    write = ["--max-tokens", "24", "--temperature", "1", "--no-chat", "--quiet"]
    Head.confidence(32).save(tmp_path / "plain.gguf")
    succeed("calibrate", "confidence", str(prompts), *models, *write, "--out", str(head))
    done = succeed("calibrate", str(head), str(prompts), *models, *write, "--hold", "3", "--json")
    facts = json.loads(done.stdout)
    assert (facts["hold"], facts["leave_threshold"]) == (3, None)
    loaded = Head.load(head)
    assert len(loaded.rates) == 21  # the first table stays
    assert loaded.threshold_for_rate(0.4, hold=3) == pytest.approx(facts["thresholds"]["0.4"], rel=1e-5)
    assert loaded.threshold_for_rate(0.4, hold=3) > loaded.threshold_for_rate(0.4)
    again = fail("calibrate", str(head), str(prompts), *models, *write, "--hold", "3")
    assert "hold=3" in again or "--hold 3" in again
    near = [row for row in facts["measurements"] if row[0] == 0.4]
    assert min(abs(measured - 0.4) for _, _, measured, *_ in near) < 0.1

    out = tmp_path / "out"
    options = ["--head", f"mine={head}", "--rate", "0.4", "--hold", "1", "--hold", "3", "--checker", "exact"]
    judged = succeed("evaluate", str(prompts), *models, *write, *options, "--out", str(out), "--json")
    arms = {arm["name"]: arm for arm in json.loads(judged.stdout)["arms"]}
    assert {"mine@40", "mine@40+hold3", "random@40", "random@40+hold3"} <= arms.keys()
    assert arms["mine@40"]["base_steps_per_token"] == 1.0
    held = arms["mine@40+hold3"]
    assert held["base_steps_per_token"] == pytest.approx(1 - held["deferral_rate"] * 2 / 3, abs=0.05)
    assert held["runs_per_token"] <= held["assistant_calls_per_token"] == pytest.approx(held["deferral_rate"])
    assert "runs per token" in (out / "report.md").read_text()
    assert "calibrate --hold 5" in fail(
        "evaluate", str(prompts), *models, "--head", f"mine={head}", "--hold", "5", "--out", str(tmp_path / "no")
    )

    trace = tmp_path / "trace.jsonl"
    succeed("generate", "a", *models, "--head", "always", "--hold", "2", "--leave-threshold", "0.4",
            "--max-tokens", "4", "--trace", str(trace), "--quiet")  # fmt: skip
    header = json.loads(trace.read_text().splitlines()[0])
    assert (header["options"]["hold"], header["options"]["leave_threshold"]) == (2, 0.4)

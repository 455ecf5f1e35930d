"""The whole way with a pair that really collaborates: streaming, traces, batches, learning, calibration, evaluation."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from commands import succeed

import colm_cpp as colm
from colm_cpp.evaluate.demo import ANSWER_PATTERN, MAX_TOKENS, PROBLEMS, demo_problems
from colm_cpp.sources.preset import DEMO_FOLDER

GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": MAX_TOKENS}


@pytest.fixture(scope="module")
def pair() -> Iterator[colm.Pair]:
    with colm.load("demo") as pair:
        yield pair


def right(text: str, answer: str) -> bool:
    return re.findall(ANSWER_PATTERN, text)[-1:] == [answer]


def test_streaming(pair: colm.Pair) -> None:
    """Both write in turns, token by token, and the text is that of the whole completion."""
    problem = demo_problems(limit=1)[0]
    tokens = list(pair.stream_chat(list(problem.messages), **GREEDY))
    whole = pair.chat(list(problem.messages), lookahead=0, **GREEDY)
    assert "".join(token.text for token in tokens) == whole.text
    assert whole.finish_reason == "eos"
    turns = [source for source, _ in groupby(token.source for token in tokens)]
    assert len(turns) >= 5
    assert all((token.defer_prob > token.threshold) == token.deferred for token in tokens)
    # What the assistant was not asked for, it read later, in one call for each turn of its own.
    assert whole.stats.assistant_calls == sum(token.deferred for token in tokens)


def test_looking_ahead(pair: colm.Pair) -> None:
    """The base drafts sums, drafts wrongly, and is corrected: the same texts, and now and then a call less."""
    prompts = [pair.tokenize_chat(list(problem.messages)) for problem in demo_problems(limit=12)]
    plain = [pair.generate(prompt, lookahead=0, **GREEDY) for prompt in prompts]
    ahead = [pair.generate(prompt, lookahead=4, **GREEDY) for prompt in prompts]
    same = [
        [(token.id, token.source) for token in a.tokens] == [(token.id, token.source) for token in b.tokens]
        for a, b in zip(plain, ahead, strict=True)
    ]
    assert sum(same) >= 11
    drafted, accepted = (
        sum(getattr(out.stats, name) for out in ahead) for name in ("drafted_tokens", "accepted_tokens")
    )
    assert 0 < accepted < drafted
    assert sum(out.stats.assistant_calls for out in ahead) < sum(out.stats.assistant_calls for out in plain)


def test_either_model_alone(pair: colm.Pair) -> None:
    messages = list(demo_problems(limit=1)[0].messages)
    for threshold, head, source in ((1.0, "never", "base"), (0.0, "always", "assistant")):
        by_threshold = pair.chat(messages, threshold=threshold, **GREEDY)
        assert {token.source for token in by_threshold.tokens} == {source}
        assert by_threshold.text == pair.chat(messages, head=head, **GREEDY).text


def test_many_at_once(pair: colm.Pair) -> None:
    """As alone, but for what rounding decides where two tokens are equally likely."""
    problems = demo_problems(limit=12)
    prompts = [pair.tokenize_chat(list(problem.messages)) for problem in problems]
    together = pair.generate_batch(prompts, n_parallel=8, **GREEDY)
    alone = [pair.generate(prompt, **GREEDY) for prompt in prompts]
    same = [
        [(token.id, token.source) for token in a.tokens] == [(token.id, token.source) for token in b.tokens]
        for a, b in zip(alone, together, strict=True)
    ]
    assert sum(same) >= 11
    assert sum(right(out.text, problem.answer) for out, problem in zip(together, problems, strict=True)) >= 10


def test_more_deferral_until_it_is_too_much(pair: colm.Pair) -> None:
    """The two are better together than at either end, and the threshold moves the rate one way."""
    problems = demo_problems(limit=20)
    prompts = [pair.tokenize_chat(list(problem.messages)) for problem in problems]
    rates, n_right = [], []
    for threshold in (1.0, 0.9, 0.5, 0.1, 0.0):
        outs = pair.generate_batch(prompts, n_parallel=20, threshold=threshold, **GREEDY)
        n = sum(out.stats.generated_tokens for out in outs)
        rates.append(sum(out.stats.deferral_rate * out.stats.generated_tokens for out in outs) / n)
        n_right.append(sum(right(out.text, problem.answer) for out, problem in zip(outs, problems, strict=True)))
    assert (rates[0], rates[-1]) == (0.0, 1.0)
    assert rates == sorted(rates)
    assert n_right[2] > max(n_right[0], n_right[-1]) + 9


def test_traces(tmp_path: Path) -> None:
    traces = []
    for number, problem in enumerate(demo_problems(limit=8)):
        traces.append(str(tmp_path / f"{number}.jsonl"))
        options = ["--pair", "demo", "--chat", "--temperature", "0", "--max-tokens", str(MAX_TOKENS)]
        succeed("generate", problem.prompt, *options, "--trace", traces[-1])
    found = json.loads(succeed("patterns", *traces, "--json").stdout)
    assert found["texts"] == 8
    lift = {part["part"]: part["lift"] for part in found["parts"] if part["tokens"]}
    assert lift["digits"] > 1.3
    assert lift.get("words", 0.0) < 0.3


@pytest.mark.slow
def test_learning_again(pair: colm.Pair, tmp_path: Path) -> None:
    """Five commands from prompts to a head of one's own that is as good as the one in the package."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(PROBLEMS.read_text(encoding="utf-8").splitlines(keepends=True)[:120]))
    scores, head, out = (str(tmp_path / name) for name in ("scores", "head.gguf", "evaluation"))
    demo = ("--pair", "demo")
    # The texts are those of the pair in the package; only their words are looked at.
    own = ("--respond", "--head", str(DEMO_FOLDER / "head.gguf"), "--parallel", "24", "--max-tokens", str(MAX_TOKENS))
    succeed("score", str(prompts), *demo, *own, "--out", scores)
    succeed("train", scores, "--l2", "0.001", "--out", head)
    learned = colm.Head.load(head)
    calibrate = ("--skip", "120", "--limit", "32", "--max-tokens", str(MAX_TOKENS), "--parallel", "32")
    succeed("calibrate", head, str(PROBLEMS), *demo, *calibrate)
    calibrated = colm.Head.load(head)
    assert not learned.rates
    assert calibrated.rates

    task = ("--skip", "160", "--limit", "60", "--checker", "regex", "--pattern", ANSWER_PATTERN, "--parallel", "30")
    heads = ("--head", f"own={head}", "--head", f"shipped={DEMO_FOLDER / 'head.gguf'}", "--rate", "0.1")
    report = json.loads(succeed("evaluate", str(PROBLEMS), *demo, *task, *heads, "--out", out, "--json").stdout)
    arms = {arm["name"]: arm for arm in report["arms"]}
    assert arms["own@10"]["accuracy"] >= 0.8
    assert abs(arms["own@10"]["deferral_rate"] - 0.1) < 0.04
    assert arms["own@10"]["accuracy"] >= arms["shipped@10"]["accuracy"] - 0.1
    for name in ("base", "assistant", "random@10"):
        assert arms[name]["accuracy"] < arms["own@10"]["accuracy"] - 0.3


def test_a_pair_with_a_name_is_evaluated_with_its_own_head(tmp_path: Path) -> None:
    task = ("--limit", "12", "--checker", "regex", "--pattern", ANSWER_PATTERN, "--parallel", "12", "--rate", "0.1")
    out = ("--out", str(tmp_path / "evaluation"), "--json", "--arm", "base")
    report = json.loads(succeed("evaluate", str(PROBLEMS), "--pair", "demo", *task, *out).stdout)
    arms = {arm["name"]: arm for arm in report["arms"]}
    assert set(arms) == {"base", "learned@10"}
    assert arms["learned@10"]["accuracy"] > arms["base"]["accuracy"]

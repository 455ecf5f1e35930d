"""Heads that are learned from scores of unlike vocabularies, and the commands on the way."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import unlike_scores
from commands import fail, run, succeed
from test_unlike_oracle import VOCABS
from unlike_scores import KINDS, LOAD, corpus_of, texts_of

import colm_cpp as colm
from colm_cpp import Head, _core, learn
from colm_cpp.corpus.selection import select
from colm_cpp.learn import Scorer, Scores
from colm_cpp.learn.likelihoods import likelihoods
from colm_cpp.learn.parts import part_of

files = unlike_scores.files
scorer = unlike_scores.scorer
corpus = unlike_scores.corpus
folder = unlike_scores.folder
three = unlike_scores.three


def test_objectives_on_segments_are_their_formulas(folder: Path, three: Path) -> None:
    options = learn.TrainingOptions(cost=0.05)
    scores = Scores(folder)
    part = part_of([scores], [np.arange(24)], options)
    n = len(scores)
    z = np.random.default_rng(0).normal(0, 1, n)
    s = 1 / (1 + np.exp(-z))
    base, other = (np.exp(scores[c].astype(np.float64)) for c in ("base_logprob", "assistant_logprob"))
    value, gradient = part.marginal([0.05])(z, slice(None))
    assert value == pytest.approx(np.mean(-np.log((1 - s) * base + s * other) + 0.05 * s))
    wanted = s * (1 - s) * (-(other - base) / ((1 - s) * base + s * other) + 0.05) / n
    np.testing.assert_allclose(gradient, wanted, rtol=1e-9, atol=1e-15)
    lost = scores["assistant_top_logprob"].astype(np.float64) - scores["assistant_logprob_of_base_top"]
    np.testing.assert_allclose(part.regret, np.clip(lost, 0, 10), atol=1e-6)
    assert not part.regret[scores["assistant_differs"] == 0].any()
    assert (part.regret[scores["assistant_differs"] == 1] > 0).all()
    np.testing.assert_array_equal(part.label("differ"), scores["assistant_differs"] == 1)
    right = [scores[f"{who}_right"] == 1 for who in ("base", "assistant")]
    np.testing.assert_array_equal(part.label("a"), ~right[0] & right[1])
    np.testing.assert_array_equal(part.label("b"), ~right[0])

    several = Scores(three)
    part = part_of([several], [np.arange(24)], options)
    z = np.random.default_rng(1).normal(0, 1, (len(several), 2))
    shares = np.exp(np.c_[np.zeros(len(several)), z])
    shares /= shares.sum(axis=1, keepdims=True)
    each = np.exp(np.c_[several["base_logprob"], several.of_experts("logprob")].astype(np.float64))
    value, _ = part.marginal([0.0, 0.0])(z, slice(None))
    assert value == pytest.approx(-np.log((shares * each).sum(axis=1)).mean())


@pytest.fixture(scope="module")
def written(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts that a pair writes with a head that looks at the hidden state, which the texts do not say."""
    path = tmp_path_factory.mktemp("written") / "texts.jsonl"
    prompts = [json.loads(line)["prompt"] for line in corpus_of(path, 80, seed=3).read_text().splitlines()]
    with colm.load(files["base"], files["near"], teacher(), n_parallel=8, **LOAD) as pair:
        texts = pair.generate_batch(prompts, threshold=0.5, max_tokens=24, temperature=0.7, seed=5, n_parallel=8)
    assert 0.2 < np.mean([t.expert for text in texts for t in text.tokens]) < 0.8
    rows = [{"prompt": p, "completion": t.text} for p, t in zip(prompts, texts, strict=True) if t.text]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def teacher() -> Head:
    return Head.linear(np.random.default_rng(5).standard_normal(32).astype(np.float32) * 2.0)


def test_nobody_says_when_and_the_head_learns_it(scorer: Scorer, written: Path, tmp_path: Path) -> None:
    """The texts of a pair are likelier with the head that is learned from them than with either model alone."""
    learn.score(scorer, select([written]), tmp_path / "scores")
    scores = Scores(tmp_path / "scores")
    trained = learn.train([scores], learn.TrainingOptions(features="none", cost=0.0, l2=0.003))
    held_out = trained.held_out
    assert held_out.joint_nll < min(held_out.base_nll, held_out.assistant_nll)
    hidden = np.asarray(scores["base_hidden"], np.float32)
    wanted = hidden @ np.asarray(teacher().weights[0][0])
    assert np.corrcoef(trained.head.defer_logits(hidden), wanted)[0, 1] > 0.6
    segments = trained.segments
    assert segments is not None
    assert segments.base_nll * segments.n_bytes == pytest.approx(held_out.base_nll * held_out.n_tokens)
    assert json.loads(trained.head.training or "")["segments"]["n_bytes"] == segments.n_bytes
    regret = learn.train([scores], learn.TrainingOptions(objective="regret", label="differ", features="none"))
    assert regret.held_out.regret > 0
    with pytest.raises(colm.errors.CorpusError, match="vocabularies"):
        learn.train([scores, Scores(make_other(tmp_path, scores))], learn.TrainingOptions())


def make_other(path: Path, scores: Scores) -> Path:
    """The same folder, said to be of other vocabularies."""
    other = path / "other"
    other.mkdir()
    for file in scores.path.iterdir():
        if file.name != ".lock":
            (other / file.name).write_bytes(file.read_bytes())
    meta = json.loads((other / "meta.json").read_text())
    meta["vocabularies"]["assistant"] = "f" * 16
    (other / "meta.json").write_text(json.dumps(meta))
    return other


def test_three_vocabularies_learn(three: Path) -> None:
    trained = learn.train([Scores(three)], learn.TrainingOptions(features="none", label="b"))
    assert trained.experts is not None
    assert set(trained.experts.models) == {"base", "near", "far"}
    assert trained.segments is not None
    assert trained.held_out.n_tokens == trained.segments.n_segments


def test_from_texts_to_a_judgement(files: dict[str, Path], written: Path, tmp_path: Path) -> None:
    """score, train, calibrate, evaluate, patterns, inspect: all commands with one such pair."""
    models = ["--base", files["base"], "--assistant", files["near"]]
    small = ["--n-ctx", "128", "--n-threads", "1", "--n-threads-batch", "1", "-q"]
    scores, head = tmp_path / "scores", tmp_path / "head.gguf"
    done = succeed("score", written, *models, *small, "-o", scores, "--no-chat")
    assert "segments of" in done.stdout
    assert "for 100 tokens of the base" in done.stdout

    done = succeed("train", scores, "-o", head, "-q", "--features", "none", "--cost", "0")
    assert "nats per byte" in done.stdout
    as_json = json.loads(run("train", scores, "-o", head, "-q", "--force", "--json").stdout)
    assert as_json["segments"]["n_segments"] == as_json["held_out"]["n_tokens"]

    prompts = corpus_of(tmp_path / "prompts.jsonl", 6, seed=9)
    done = succeed("calibrate", head, prompts, *models, *small, "--no-chat", "--rate", "0.4", "--max-tokens", "16",
                   "--temperature", "1", "--json")  # fmt: skip
    measured = json.loads(done.stdout)["measurements"]
    assert all(0 < rate < 1 and n > 0 for _, _, rate, n, *_ in measured)
    assert json.loads(Head.load(head).calibration or "")["measurements"][0]["n_tokens"] > 0

    task = tmp_path / "task.jsonl"
    task.write_text("".join(json.dumps({"prompt": f"There are {i}", "answer": str(i)}) + "\n" for i in range(3)))
    done = succeed("evaluate", task, "-o", tmp_path / "eval", *models, *small[:-1], "--head", f"learned={head}",
                   "--rate", "0.4", "--max-tokens", "8", "--checker", "number", "--no-chat", "--json",
                   "-q")  # fmt: skip
    arms = {arm["name"]: arm for arm in json.loads(done.stdout)["arms"]}
    assert set(arms) == {"base", "assistant", "learned@40", "random@40"}

    trace = tmp_path / "trace"
    done = succeed("generate", "The river", *models, *small, "--head", head, "--defer-rate", "0.4", "--max-tokens",
                   "30", "--trace", trace, "--json")  # fmt: skip
    sources = [token["source"] for token in json.loads(done.stdout)["tokens"]]
    counted = json.loads(run("patterns", trace, "--json").stdout)
    assert counted["deferred"] == sources.count("assistant")
    assert "colm paths works with models of one vocabulary" in fail("paths", scores, *models, *small)
    with pytest.raises(colm.errors.CorpusError, match="colm tune works with models of one vocabulary"):
        Scores(scores).require_one("colm tune")


def test_answers_are_scored_by_their_text(files: dict[str, Path], corpus: Path, tmp_path: Path) -> None:
    """An answer that was cut has no token that ends it."""
    models = ["--base", files["base"], "--assistant", files["near"], "--n-ctx", "128", "--n-threads", "1", "-q"]
    succeed("score", corpus, *models, "-o", tmp_path / "s", "--respond", "--max-tokens", "6", "--no-chat",
            "--limit", "6")  # fmt: skip
    answers = [json.loads(line) for line in (tmp_path / "s" / "responses.jsonl").read_text().splitlines()][1:]
    texts = texts_of(tmp_path / "s")
    scores = Scores(tmp_path / "s")
    by_line = {text["line"]: number for number, text in enumerate(texts)}
    assert by_line
    for answer in answers:
        rows = scores["text"] == by_line[answer["line"]]
        assert scores["n_bytes"][rows].sum() == len(answer["completion"].encode())
        assert (scores["n_bytes"][rows] == 0).any() == (answer["finish_reason"] == "eos")


def test_likelihoods_of_tokens_are_refused(scorer: Scorer) -> None:
    with pytest.raises(colm.OptionError, match="one vocabulary"):
        likelihoods(scorer, [[1, 2, 3]], _core.training_free_head("random"), threshold=0.5)  # type: ignore[arg-type]


def test_inspect_says_how_often_a_hand_over_waits(files: dict[str, Path], scorer: Scorer, tmp_path: Path) -> None:
    text = "The quick brown fox, über 日本.\n  def function(self, value): return value\n"
    (tmp_path / "text.txt").write_text(text)
    arguments = ("inspect", "--base", files["base"], "--assistant", files["near"], "--text", tmp_path / "text.txt")
    done = succeed(*arguments, "--json")
    found = json.loads(done.stdout)["pair"]["waits"]["assistant"]
    ends = []
    for name, kind in (("base", "base"), ("assistant", "near")):
        ids = scorer.tokenize(text, False, False, name)
        pieces = [len(VOCABS[KINDS[kind]].piece(i)) for i in ids]
        ends.append(set(itertools.accumulate(pieces)))
    data = text.encode()
    both = {e for e in ends[0] & ends[1] if e == len(data) or data[e] & 0xC0 != 0x80}
    assert found["shared"] == len(both)
    assert found["base_waits"] == pytest.approx(1 - len(both) / found["base_tokens"])
    assert found["expert_waits"] == pytest.approx(1 - len(both) / found["expert_tokens"])
    assert found["n_bytes"] == len(data)
    assert f"{found['expert_waits']:.1%}" in run(*arguments).stdout
    alike = run("inspect", "--base", files["base"], "--assistant", files["base"], "--text", tmp_path / "text.txt")
    assert "none: one vocabulary" in alike.stdout

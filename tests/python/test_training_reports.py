"""What a fit says of a head: metrics, facts, notes."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import made_scores
import numpy as np
import numpy.typing as npt
import pytest
from made_scores import F64, FACTS, PLAIN, Planted, planted, splits, write_scores

from colm_cpp import Head
from colm_cpp.learn import Metrics, Scores, parts, train
from colm_cpp.learn.inputs import feature_columns

scores = made_scores.scores


def pairwise_auc(score: F64, label: npt.NDArray[np.bool_]) -> float:
    up, down = score[label], score[~label]
    return float((up[:, None] > down).mean() + 0.5 * (up[:, None] == down).mean())


def by_hand(folder: Scores, head: Head, rows: npt.NDArray[np.int64]) -> Metrics:
    """Metrics straight from their definitions."""
    at = {name: np.asarray(folder[name])[rows] for name in parts.COLUMNS}
    raw = np.concatenate(
        [np.asarray(folder["base_hidden"], np.float64), feature_columns(folder, head.features, head.top_k)], 1
    )
    z = head.defer_logits(raw[rows])
    p = 1 / (1 + np.exp(-z))
    base, assistant = np.exp(at["base_logprob"].astype(float)), np.exp(at["assistant_logprob"].astype(float))
    label = (at["base_top"] != at["token"]) & (at["assistant_top"] == at["token"])
    differ = at["base_top"] != at["assistant_top"]
    lost = at["assistant_top_logprob"].astype(float) - at["assistant_logprob_of_base_top"]
    regret = np.clip(lost, 0, 10)
    doubt = -at["base_log_odds"].astype(float)

    def share(score: F64, worth: F64) -> dict[str, float]:
        ranked = sorted(range(len(score)), key=lambda i: -score[i])
        n = len(score)
        return {f"{r:g}": sum(worth[ranked[: round(r * n)]]) / sum(worth) for r in (0.05, 0.1, 0.2, 0.4)}

    return Metrics(
        n_texts=len(set(np.asarray(folder["text"])[rows].tolist())),
        n_tokens=len(rows),
        base_nll=float(-np.log(base).mean()),
        assistant_nll=float(-np.log(assistant).mean()),
        joint_nll=float(-np.log((1 - p) * base + p * assistant).mean()),
        oracle_nll=float(-np.log(np.maximum(base, assistant)).mean()),
        mean_defer_prob=float(p.mean()),
        auc_a=pairwise_auc(z, label),
        auc_differ=pairwise_auc(z, differ),
        confidence_auc_a=pairwise_auc(doubt, label),
        confidence_auc_differ=pairwise_auc(doubt, differ),
        differ_rate=float(differ.mean()),
        caught=share(z, differ.astype(float)),
        confidence_caught=share(doubt, differ.astype(float)),
        regret=float(regret.mean()),
        saved=share(z, regret),
        confidence_saved=share(doubt, regret),
    )


def assert_alike(ours: Metrics, wanted: Metrics) -> None:
    for field in dataclasses.fields(Metrics):
        left, right = getattr(ours, field.name), getattr(wanted, field.name)
        if right is None:
            assert left is None, field.name
        else:
            assert left == pytest.approx(right, rel=1e-4, abs=1e-3), field.name


def differing(n: int, seed: int) -> Planted:
    """Rows at which the models differ sometimes."""
    made = planted(n, seed=seed)
    token, same = made.columns["token"], np.random.default_rng(seed + 50).random(n) < 0.4
    for name in ("base_top", "assistant_top"):
        made.columns[name] = np.where(same, token, made.columns[name])
    made.columns["assistant_logprob_of_base_top"] = np.where(same, -0.05, made.columns["assistant_logprob_of_base_top"])
    return made


def test_metrics_are_what_their_definitions_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [differing(1200, 0), differing(800, 1)]
    folders = [write_scores(tmp_path / f"f{i}", m.hidden, m.columns) for i, m in enumerate(made)]
    options = dataclasses.replace(PLAIN, features="logits", top_k=3, held_out=0.3)
    trained = train(folders, options)
    fitted, held_out = splits(folders, monkeypatch, held_out=0.3)
    assert list(trained.by_folder) == ["f0", "f1"]
    for i, folder in enumerate(folders):
        assert_alike(trained.by_folder[f"f{i}"], by_hand(folder, trained.head, held_out[i]))
    for metrics, rows in ((trained.held_out, held_out), (trained.training, fitted)):
        assert metrics.n_tokens == sum(map(len, rows))
        parts = [by_hand(folder, trained.head, r) for folder, r in zip(folders, rows, strict=True)]
        assert metrics.n_texts == sum(part.n_texts for part in parts)
        joint = sum(part.joint_nll * part.n_tokens for part in parts) / metrics.n_tokens
        assert metrics.joint_nll == pytest.approx(joint, rel=1e-4)


def test_a_head_keeps_how_it_was_made(scores: Scores, tmp_path: Path) -> None:
    trained = train([scores], dataclasses.replace(PLAIN, features="logits", top_k=2, memory_limit=2**29), name="mine")
    trained.head.save(tmp_path / "h.gguf")
    head = Head.load(tmp_path / "h.gguf")
    assert head.name == "mine"
    assert (head.base_name, head.assistant_name) == ("small", "large")
    assert head.vocab_fingerprint == FACTS["vocab_fingerprint"]
    assert (head.features, head.top_k) == (("log_odds", "entropy", "margin", "top_k_logprobs"), 2)
    assert head.training == trained.head.training
    facts = json.loads(head.training or "")
    assert facts["held_out"] == dataclasses.asdict(trained.held_out)
    assert list(facts["by_folder"]) == ["scores"]
    assert facts["options"]["l2"] == PLAIN.l2
    assert "memory_limit" not in facts["options"]  # says nothing about the head
    for ours, theirs in zip(trained.head.weights + trained.head.biases, head.weights + head.biases, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_folders_of_one_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    folders = []
    for name, n in (("a", 400), ("b", 800)):
        made = planted(n)
        folders.append(write_scores(tmp_path / name / "scores", made.hidden, made.columns))
    trained = train(folders, PLAIN)
    counts = {name: metrics.n_tokens for name, metrics in trained.by_folder.items()}
    assert counts == {str(folders[0].path): 60, str(folders[1].path): 120}


def test_few_tokens_are_noted(tmp_path: Path) -> None:
    made = planted(200)
    trained = train([write_scores(tmp_path / "s", made.hidden, made.columns)], PLAIN)
    assert trained.training.n_tokens == 160
    assert re.search(r"\b160 .*\b1000\b", trained.notes[0])

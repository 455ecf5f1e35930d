"""What follows either model's token: who writes it, what is read for it, what it comes to, and what learns from it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_models as tm
from commands import run, succeed

import colm_cpp as colm
from colm_cpp import learn
from colm_cpp.errors import CorpusError, OptionError
from colm_cpp.learn import parts, training
from colm_cpp.learn.continuation import continue_paths, plan
from colm_cpp.learn.forks import BOUND, FILE, Continuations, Fork, differing_rows, parse_group
from colm_cpp.learn.forks import Path as TokenPath
from colm_cpp.learn.parts import text_split
from colm_cpp.learn.scored import scored_texts

N_TOKENS = 8
LOAD: dict[str, Any] = {"n_ctx": 96, "n_threads": 1}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A pair whose models are alike but for noise: they mostly agree, and differ somewhere in every text."""
    folder = tmp_path_factory.mktemp("paths")
    base = tm.make_model(folder / "base.gguf", seed=1)
    liked = {**dict.fromkeys(range(0, 300, 5), 1.4), "<|im_end|>": 1.6}
    assistant = tm.make_model(folder / "assistant.gguf", seed=1, row_scale=liked)
    texts = folder / "texts.jsonl"
    rows = [
        {"prompt": f"The quick {i} the medicine for the treatment", "completion": " brown fox jumps"[: 4 + i % 9]}
        for i in range(30)
    ]
    texts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return SimpleNamespace(base=base, assistant=assistant, texts=texts)


@pytest.fixture(scope="module")
def pair(files: SimpleNamespace) -> Iterator[colm.Pair]:
    with colm.load(files.base, files.assistant, "never", n_parallel=16, **LOAD) as pair:
        yield pair


def scored(files: SimpleNamespace, folder: Path, **options: Any) -> learn.Scores:
    with learn.Scorer(files.base, files.assistant, **LOAD) as scorer:
        learn.score(scorer, learn.select([files.texts], **options), folder)
    return learn.Scores(folder)


@pytest.fixture(scope="module")
def continued(files: SimpleNamespace, pair: colm.Pair, tmp_path_factory: pytest.TempPathFactory) -> learn.Scores:
    scores = scored(files, tmp_path_factory.mktemp("continued") / "scores")
    continue_paths(pair, scores, n_tokens=N_TOKENS)
    return scores


def forks_of(scores: learn.Scores) -> list[Fork]:
    forks: list[Fork] = []
    done = 0
    for line in (scores.path / FILE).read_bytes().splitlines()[1:]:
        done, more = parse_group(line, done)
        forks += more
    return forks


# -- writing ----------------------------------------------------------------------------------------------------


def test_both_paths_are_what_the_assistant_writes_greedily(continued: learn.Scores, pair: colm.Pair) -> None:
    forks = forks_of(continued)
    assert [fork.row for fork in forks] == differing_rows(continued).tolist()
    assert 0.1 < len(forks) / len(continued) < 0.9
    places = {
        text.rows.start + at: (text, int(position))
        for text in scored_texts(continued)
        for at, position in enumerate(text.positions)
    }
    ended = 0
    for fork in forks[:: max(1, len(forks) // 40)]:
        text, position = places[fork.row]
        for path, first, logprob in (
            (fork.assistant, "assistant_top", "assistant_top_logprob"),
            (fork.base, "base_top", "assistant_logprob_of_base_top"),
        ):
            assert path.ids[0] == continued[first][fork.row]
            assert path.logprobs[0] == pytest.approx(continued[logprob][fork.row], abs=1e-4)
            prompt = [*text.tokens[:position].tolist(), path.ids[0]]
            if path.ids[0] in pair.base["eog_tokens"]:
                assert len(path.ids) == 1
                continue
            alone = pair.generate(prompt, head="always", temperature=0.0, max_tokens=N_TOKENS - 1, lookahead=0)
            tokens = [*alone.tokens, *([alone.end_token] if alone.end_token else [])]
            assert list(path.ids[1:]) == [token.id for token in tokens]
            assert path.logprobs[1:] == pytest.approx([token.logprob for token in tokens], abs=2e-3)
            ended += alone.end_token is not None
    assert ended


def test_what_the_text_itself_says_is_not_written_again(
    files: SimpleNamespace, pair: colm.Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the assistant's own answers its own path is the text."""
    corpus = learn.select([files.texts], limit=6, needs_completion=False)
    answers = learn.respond(pair, corpus, tmp_path / "scores", {"max_tokens": 24, "temperature": 0.0})
    with learn.Scorer(files.base, files.assistant, **LOAD) as scorer:
        learn.score(scorer, answers, tmp_path / "scores")
    scores = learn.Scores(tmp_path / "scores")
    asked: list[tuple[list[int], int]] = []
    stream_batch = colm.Pair.stream_batch

    def noted(self: colm.Pair, prompts: Any, *, each: Any, **options: Any) -> Any:
        assert options["head"] == "always"
        assert options["temperature"] == 0.0
        asked.extend((prompt, own["max_tokens"]) for prompt, own in zip(prompts, each, strict=True))
        return stream_batch(self, prompts, each=each, **options)

    monkeypatch.setattr(colm.Pair, "stream_batch", noted)
    due = plan(pair, scores, N_TOKENS)
    done = continue_paths(pair, scores, n_tokens=N_TOKENS)
    assert due.n_positions == done.n_positions == len(differing_rows(scores))
    assert sum(n for _, n in asked) == due.n_to_write >= done.n_written
    texts = list(scored_texts(scores))
    n_own = 0
    for prompt, n in asked:
        begun = [t for t in texts if prompt[:-1] == t.tokens[: len(prompt) - 1].tolist()]
        assert begun
        n_own += all(prompt[-1] == t.tokens[len(prompt) - 1] for t in begun)
        assert n < N_TOKENS
    # Only near the end of a text that ran into its limit does the text not hold a path whole.
    assert n_own < len(asked) / 2
    assert done.n_written < 1.2 * N_TOKENS * done.n_positions


def test_a_text_is_read_about_once(files: SimpleNamespace, pair: colm.Pair, tmp_path: Path) -> None:
    scores = scored(files, tmp_path / "scores", limit=5)
    due = plan(pair, scores, N_TOKENS)
    done = continue_paths(pair, scores, n_tokens=N_TOKENS, n_parallel=16)
    n_paths = 2 * due.n_positions
    everything = sum(int(p) for t in scored_texts(scores) for p in t.positions[differing_rows(scores, t.rows)])
    # Each path reads its own first token; what stands before it is shared.
    assert done.n_read <= due.n_to_read + done.n_written + 2 * n_paths
    assert done.n_read < done.n_written + everything


SCRIPT = """
import sys
import colm_cpp as colm
from colm_cpp import learn
from colm_cpp.learn.continuation import continue_paths
base, assistant, folder = sys.argv[1:]
with colm.load(base, assistant, "never", n_parallel=16, n_ctx=96, n_threads=1) as pair:
    continue_paths(pair, learn.Scores(folder), n_tokens=8, on_progress=lambda p: p.n_texts and print(flush=True))
"""


def test_a_run_killed_in_the_middle_ends_in_the_same_bytes(
    files: SimpleNamespace, continued: learn.Scores, pair: colm.Pair, tmp_path: Path
) -> None:
    scores = scored(files, tmp_path / "scores")
    file = scores.path / FILE
    command = [sys.executable, "-c", SCRIPT, files.base, files.assistant, scores.path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        child.send_signal(signal.SIGKILL)
    whole = (continued.path / FILE).read_bytes()
    begun = file.read_bytes()
    assert begun
    assert whole.startswith(begun[: begun.rindex(b"\n") + 1])
    assert len(begun) < len(whole)
    with pytest.raises(CorpusError, match=r"of 30 texts.*colm paths"):
        Continuations(scores)
    # As if it had been killed while writing a row.
    cut = whole[: len(begun) + (len(whole) - len(begun)) // 2]
    for beginning in (begun, cut):
        file.write_bytes(beginning)
        first: list[int] = []
        continue_paths(pair, scores, n_tokens=N_TOKENS, on_progress=lambda p, first=first: first.append(p.n_texts))
        assert file.read_bytes() == whole
        assert first[0] > 0  # not from the start


def test_a_folder_that_has_grown_goes_on(files: SimpleNamespace, pair: colm.Pair, tmp_path: Path) -> None:
    scores = scored(files, tmp_path / "scores", limit=4)
    continue_paths(pair, scores, n_tokens=N_TOKENS)
    before = (scores.path / FILE).read_bytes()
    scores = scored(files, tmp_path / "scores", limit=9)
    assert Continuations.if_whole(scores) is None
    continue_paths(pair, scores, n_tokens=N_TOKENS)
    assert (scores.path / FILE).read_bytes().startswith(before)
    assert len(Continuations(scores).cost) == len(scores)
    assert continue_paths(pair, scores, n_tokens=N_TOKENS).n_positions == 0


def test_other_options_and_other_models_are_refused(
    files: SimpleNamespace, continued: learn.Scores, pair: colm.Pair, tmp_path: Path
) -> None:
    with pytest.raises(CorpusError, match="n_tokens"):
        continue_paths(pair, continued, n_tokens=N_TOKENS + 1)
    with pytest.raises(CorpusError, match="n_parallel"):
        continue_paths(pair, continued, n_tokens=N_TOKENS, n_parallel=3)
    for wrong in (1, 1025, 2.5):
        with pytest.raises(OptionError, match="n_tokens"):
            continue_paths(pair, continued, n_tokens=wrong)  # type: ignore[arg-type]
    adapted = copy_of(continued, tmp_path / "adapted")
    meta = json.loads((adapted.path / "meta.json").read_text())
    (adapted.path / "meta.json").write_text(json.dumps({**meta, "base_adapters": [["0" * 64, 1.0]]}))
    with pytest.raises(CorpusError, match="base_adapters"):
        continue_paths(pair, learn.Scores(adapted.path), n_tokens=N_TOKENS)
    with (
        colm.load(files.assistant, files.base, "never", **LOAD) as swapped,
        pytest.raises(CorpusError, match="base_model"),
    ):
        continue_paths(swapped, continued, n_tokens=N_TOKENS)
    with (
        colm.load(files.base, files.assistant, "never", **{**LOAD, "n_ctx": 24}) as short,
        pytest.raises(CorpusError, match="n_ctx="),
    ):
        continue_paths(short, scored(files, tmp_path / "scores"), n_tokens=N_TOKENS)


# -- what paths come to -----------------------------------------------------------------------------------------


def fork(own: str, other: str, own_logprobs: list[float], other_logprobs: list[float], same: bool = False) -> Fork:
    """Letters stand for tokens."""
    paths = [
        TokenPath([ord(c) for c in ids], logprobs) for ids, logprobs in ((own, own_logprobs), (other, other_logprobs))
    ]
    return Fork(0, *paths, same)


def test_the_cost_is_the_likelihood_lost_up_to_where_the_paths_agree_again() -> None:
    apart = fork("abc", "xyz", [-0.1, -0.2, -0.3], [-2.0, -1.0, -0.5])
    assert apart.ends() == (3, 3)
    assert apart.cost == pytest.approx(3.5 - 0.6)
    longer = fork("abc", "xyzxyz", [-0.1, -0.2, -0.3], [-2.0, -1.0, -0.5, -9.0, -9.0, -9.0])
    assert longer.cost == apart.cost  # more tokens are less likely, whatever they say
    # "ab" or "x", then the same: the end of the longer path has no counterpart.
    again = fork("abcdefgh", "xcdefghij", [-0.1] * 8, [-3.0, *[-0.2] * 6, -50.0, -50.0])
    assert again.ends() == (8, 7)
    assert again.cost == pytest.approx(3.0 + 6 * 0.2 - 0.8)
    # Three letters alike are no agreement.
    short = fork("abcde", "xycde", [-0.1] * 5, [-1.0] * 5)
    assert short.ends() == (5, 5)
    assert fork("ab", "xb", [-3.0, -3.0], [-0.1, -0.1]).cost == 0.0  # the base's path is the likelier one
    assert fork("ab", "cd", [-0.1, -0.1], [-9.0, -9.0], same=True).cost == 0.0  # one text in other tokens


def test_columns_of_a_folder(continued: learn.Scores) -> None:
    found = Continuations(continued)
    forks = forks_of(continued)
    assert found.n_tokens == N_TOKENS
    rows = [fork.row for fork in forks]
    assert found.cost[rows].tolist() == [fork.cost for fork in forks]
    assert not np.delete(found.cost, rows).any()
    assert 0 < found.divergent.sum() < len(rows)
    assert (found.divergent == (found.cost > BOUND)).all()


def copy_of(scores: learn.Scores, to: Path) -> learn.Scores:
    shutil.copytree(scores.path, to)
    return learn.Scores(to)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"format": "colm-continuations"', b'"format": "colm-something"'),
        (b'{"texts": [0,', b'{"texts": [1,'),
        (b'"row": ', b'"row": 1'),
        (b'"same_text": false', b'"same_text": 0'),
        (b'"base": [[', b'"base": [[-'),
        (b", -", b", "),
    ],
)
def test_damage_is_reported(old: bytes, new: bytes, continued: learn.Scores, tmp_path: Path) -> None:
    scores = copy_of(continued, tmp_path / "scores")
    data = (scores.path / FILE).read_bytes()
    assert old in data
    (scores.path / FILE).write_bytes(data.replace(old, new, 1))
    with pytest.raises(CorpusError, match=FILE):
        Continuations(scores)


# -- learning ---------------------------------------------------------------------------------------------------


def test_a_folder_without_paths_cannot_give_the_label(continued: learn.Scores, tmp_path: Path) -> None:
    scores = copy_of(continued, tmp_path / "scores")
    (scores.path / FILE).unlink()
    with pytest.raises(CorpusError, match="colm paths"):
        learn.train([scores], learn.TrainingOptions(label="continuation"))
    assert learn.train([scores], learn.TrainingOptions(label="differ")).held_out.parting is None


def test_the_label_and_the_cost_are_learned_from(continued: learn.Scores, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[Any]] = {"label": [], "regret": []}
    weak, regret = parts.WeakLoss, training.RegretLoss
    monkeypatch.setattr(parts, "WeakLoss", lambda label: seen["label"].append(label) or weak(label))
    monkeypatch.setattr(training, "RegretLoss", lambda r, cost: seen["regret"].append(r) or regret(r, cost))
    options = learn.TrainingOptions(label="continuation", objective="regret", held_out=0.3)
    trained = learn.train([continued], options)
    found = Continuations(continued)
    split = text_split(continued, 0.3, 0)
    for values, all_of in ((seen["label"], found.divergent), (seen["regret"], np.minimum(found.cost, 10.0))):
        of = {True: np.isin(continued["text"], split.training), False: np.isin(continued["text"], split.held_out)}
        assert values[0].tolist() == all_of[of[True]].tolist()
        assert values[1].tolist() == all_of[of[False]].tolist()
    parting = trained.held_out.parting
    assert parting is not None
    held_out = np.isin(continued["text"], split.held_out)
    differ = continued["base_top"] != continued["assistant_top"]
    assert parting.divergent_rate == pytest.approx(found.divergent[held_out].mean())
    assert parting.neutral_rate == pytest.approx((differ & ~found.divergent)[held_out].mean())
    assert parting.cost == pytest.approx(found.cost[held_out].mean())
    assert json.loads(trained.head.training or "")["held_out"]["parting"]["auc"] == parting.auc


def test_scores_of_the_base_with_and_without_an_adapter_are_not_mixed(continued: learn.Scores, tmp_path: Path) -> None:
    other = copy_of(continued, tmp_path / "other")
    meta = json.loads((other.path / "meta.json").read_text())
    (other.path / "meta.json").write_text(json.dumps({**meta, "base_lora": [["adapter.gguf", 1.0]]}))
    with pytest.raises(CorpusError, match="base_lora"):
        learn.train([continued, learn.Scores(other.path)], learn.TrainingOptions())


def test_tuning_weighs_the_cost_of_the_path(continued: learn.Scores, tmp_path: Path) -> None:
    from colm_cpp.tune.data import read_texts

    texts = [t for part in read_texts([continued], held_out=0.2, seed=0, label="continuation")[:2] for t in part]
    plain = [t for part in read_texts([continued], held_out=0.2, seed=0)[:2] for t in part]
    cost = sorted(float(c) for t in texts for c in t.assistant_top_logprob - t.assistant_logprob_of_base_top)
    assert cost == pytest.approx(sorted(Continuations(continued).cost), abs=1e-4)
    assert cost != pytest.approx(
        sorted(float(c) for t in plain for c in t.assistant_top_logprob - t.assistant_logprob_of_base_top), abs=1e-4
    )
    scores = copy_of(continued, tmp_path / "scores")
    (scores.path / FILE).unlink()
    with pytest.raises(CorpusError, match="colm paths"):
        read_texts([scores], held_out=0.2, seed=0, label="continuation")


def test_the_commands(files: SimpleNamespace, continued: learn.Scores, tmp_path: Path) -> None:
    scores = copy_of(continued, tmp_path / "scores")
    (scores.path / FILE).unlink()
    models = f"--base {files.base} --assistant {files.assistant} --n-ctx 96 --n-threads 1"
    command = f"paths {scores.path} {models} --tokens {N_TOKENS}"
    due = succeed(*f"{command} --dry-run".split())
    assert f"differ at {len(differing_rows(scores))} of them" in due.stderr
    assert not (scores.path / FILE).exists()
    done = succeed(*command.split())
    assert (scores.path / FILE).read_bytes() == (continued.path / FILE).read_bytes()
    assert f"{Continuations(scores).divergent.mean():.1%} divergent" in done.stdout
    head = tmp_path / "head.gguf"
    fitted = succeed(*f"train {scores.path} --label continuation --objective regret --out {head} --json -q".split())
    assert 0 < json.loads(fitted.stdout)["held_out"]["parting"]["divergent_rate"] < 1
    table = run(*f"train {scores.path} --label continuation --out {head} --force -q".split())
    assert "share of divergent tokens" in table.stdout

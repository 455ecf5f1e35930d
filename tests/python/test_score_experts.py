"""Three models, from texts to tokens: scores, a head learned from them, its table, and who then writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import expert_files
import numpy as np
import pytest
import scored_folders
from adapter_files import write_adapter
from commands import fail, run, succeed
from conftest import TINY_LOAD
from scored_folders import Stop, assert_same, progress_of, stop_after

import colm_cpp as colm
from colm_cpp import Head, learn
from colm_cpp.corpus.documents import Corpus, Document
from colm_cpp.corpus.selection import select
from colm_cpp.learn import Scorer, Scores
from colm_cpp.learn.score_files import COLUMNS_OF_SEVERAL

files = expert_files.files
folder = scored_folders.finished
LOAD: dict[str, Any] = {**TINY_LOAD, "n_ctx": 512}
EXPERTS = ("math", "code")
WORDS = ("The river", "city", "apples", "value", "basket", "doctor", "there are", "seven", "story", "time again")
ROWS = 24


def prompts(n: int, seed: int) -> list[str]:
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, 4)) for _ in range(n)]


@pytest.fixture(scope="module")
def scorer(files: dict[str, Path]) -> Iterator[Scorer]:
    with Scorer(files["base"], experts={name: files[name] for name in EXPERTS}, **LOAD) as scorer:
        yield scorer


@pytest.fixture(scope="module")
def pair(files: dict[str, Path]) -> Iterator[colm.Pair]:
    with colm.load(files["base"], experts={name: files[name] for name in EXPERTS}, **LOAD) as pair:
        yield pair


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    path = tmp_path_factory.mktemp("corpus") / "texts.jsonl"
    rows = [
        {"prompt": text, "completion": f" {more}"}
        for text, more in zip(prompts(ROWS, 1), prompts(ROWS, 2), strict=True)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [path]


@pytest.fixture(scope="module")
def teacher(folder: Path) -> Head:
    """A head with opinions of its own, and sure of them: who it names knows that part of the world."""
    hidden = np.asarray(Scores(folder)["base_hidden"], np.float64)
    theta = 4 * np.random.default_rng(5).standard_normal((2, hidden.shape[1])) / hidden.std(axis=0)
    return Head.linear(theta, -(theta @ hidden.mean(axis=0)), expert_names=EXPERTS)


def written(pair: colm.Pair, head: Head, n: int, seed: int) -> tuple[Corpus, list[int]]:
    """Texts that a pair writes with a head, and who wrote each token, which the texts do not say."""
    given = prompts(n, seed)
    texts = pair.generate_batch(given, head=head, max_tokens=16, temperature=0.7, seed=seed, n_parallel=16)
    documents = [
        Document("made", line, prompt=prompt, completion=text.text, completion_ids=tuple(t.id for t in text.tokens))
        for line, (prompt, text) in enumerate(zip(given, texts, strict=True), start=1)
        if text.tokens
    ]
    return Corpus(lambda: iter(documents), len(documents), {}), [t.expert for text in texts for t in text.tokens]


def test_columns_are_those_of_each_pair(
    folder: Path, files: dict[str, Path], corpus: list[Path], tmp_path: Path
) -> None:
    scores = Scores(folder)
    assert scores.experts == ("math", "code")
    assert sorted(path.name for path in folder.iterdir() if path.suffix == ".npy") == sorted(
        f"{name}.npy" for name in COLUMNS_OF_SEVERAL
    )
    for k, name in enumerate(scores.experts):
        with Scorer(files["base"], files[name], **LOAD) as pair:
            learn.score(pair, select(corpus), tmp_path / name)
        alone = Scores(tmp_path / name)
        for column in ("token", "base_logprob", "base_top", "base_hidden", "base_top_k_logprobs"):
            np.testing.assert_array_equal(scores[column], alone[column])
        for what in ("logprob", "top", "top_logprob", "entropy", "logprob_of_base_top"):
            np.testing.assert_array_equal(scores.of_experts(what)[:, k], alone[f"assistant_{what}"])
            np.testing.assert_array_equal(alone.of_experts(what)[:, 0], alone[f"assistant_{what}"])
    meta = scores.meta
    assert meta["version"] == 2
    assert meta["expert_models"]["code"]["model"]["file"] == files["code"].name
    assert "assistant" not in meta


def test_an_interrupted_scoring_goes_on(scorer: Scorer, corpus: list[Path], folder: Path, tmp_path: Path) -> None:
    begun = tmp_path / "scores"
    with pytest.raises(Stop):
        learn.score(scorer, select(corpus), begun, on_progress=stop_after(1))
    assert 0 < progress_of(begun).n_texts < progress_of(folder).n_texts
    learn.score(scorer, select(corpus), begun)
    assert_same(begun, folder)


def test_one_expert_is_an_assistant_by_another_name(files: dict[str, Path], corpus: list[Path], tmp_path: Path) -> None:
    for name, models in (("a", {"assistant": files["math"]}), ("m", {"experts": {"math": files["math"]}})):
        with Scorer(files["base"], **models, **LOAD) as one:
            learn.score(one, select(corpus, limit=5), tmp_path / name)
    facts = {n: json.loads((tmp_path / n / "meta.json").read_text()) for n in "am"}
    assert facts["m"].pop("experts") == ["math"]
    assert facts["a"] == facts["m"]
    for path in (tmp_path / "a").glob("*.npy"):
        assert path.read_bytes() == (tmp_path / "m" / path.name).read_bytes()


def test_an_expert_on_the_bases_file(files: dict[str, Path], corpus: list[Path], tmp_path: Path) -> None:
    law = {"model": files["base"], "lora": str(write_adapter(tmp_path / "law.gguf"))}
    with Scorer(files["base"], experts={"math": files["math"], "law": law}, **LOAD) as scorer:
        learn.score(scorer, select(corpus, limit=5), tmp_path / "s")
    scores = Scores(tmp_path / "s")
    told = scores.meta["expert_models"]["law"]
    assert told["model"] == scores.meta["base_model"]
    assert told["adapter_bytes"] == (tmp_path / "law.gguf").stat().st_size
    assert not np.array_equal(scores.of_experts("logprob")[:, 1], scores["base_logprob"])


def test_each_reads_its_own_prompt(scorer: Scorer, files: dict[str, Path], tmp_path: Path) -> None:
    """An expert scores the same completion behind a prompt of its own, and the rows stand beside those of the base."""
    rows: list[dict[str, Any]] = []
    alone: dict[str, list[dict[str, Any]]] = {"math": [], "code": []}
    for i in range(6):
        completion = f" there are {i} apples in the basket"
        own = {"base": f"The river {i}:", "math": f"Question: how many rivers and apples {i}:", "code": f"def {i}:"}
        if i == 2:
            del own["code"]
        rows.append({"prompt": own if i != 4 else own["base"], "completion": completion})
        for name in EXPERTS:
            prompt = own["base"] if i == 4 else own.get(name, own["base"])
            alone[name].append({"prompt": prompt, "completion": completion})

    def scored(model: Scorer, name: str, texts: list[dict[str, Any]]) -> Scores:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in texts))
        learn.score(model, select([path]), tmp_path / name)
        return Scores(tmp_path / name)

    both = scored(scorer, "both", rows)
    plain = scored(
        scorer, "plain", [{**row, "prompt": row["prompt"]["base"]} if i != 4 else row for i, row in enumerate(rows)]
    )
    for column in ("token", "base_top", "text"):
        np.testing.assert_array_equal(both[column], plain[column])
    np.testing.assert_allclose(both["base_logprob"], plain["base_logprob"], atol=1e-4)
    assert not np.allclose(both.of_experts("logprob"), plain.of_experts("logprob"), atol=1e-2)
    for k, name in enumerate(EXPERTS):
        with Scorer(files["base"], files[name], **LOAD) as pair:
            wanted = scored(pair, name, alone[name])
        np.testing.assert_array_equal(both["token"], wanted["token"])
        np.testing.assert_allclose(both.of_experts("logprob")[:, k], wanted["assistant_logprob"], atol=1e-4)
        np.testing.assert_array_equal(both.of_experts("top")[:, k], wanted["assistant_top"])
    described = [json.loads(line) for line in (both.path / "texts.jsonl").read_text().splitlines()]
    assert [sorted(line.get("own_prompts", {})) for line in described] == [
        *([["code", "math"]] * 2), ["math"], ["code", "math"], [], ["code", "math"]
    ]  # fmt: skip


def test_own_prompts_that_cannot_be(scorer: Scorer, tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    long = "apples " * 600
    prompts = [
        {"math": "x"},
        {"base": "x", "law": "y"},
        {"base": "x", "math": ""},
        {"base": "x", "math": 7},
        {"base": "x", "math": long},
        {"base": "The river", "math": "The apples"},
    ]
    path.write_text("".join(json.dumps({"prompt": prompt, "completion": " is"}) + "\n" for prompt in prompts))
    reasons: list[str] = []
    done = learn.score(
        scorer, select([path]), tmp_path / "s", on_progress=lambda progress: reasons.extend(map(str, progress.bad_rows))
    )
    assert (done.n_bad, done.n_texts) == (5, 1)
    for reason, words in zip(reasons, ("give 'base'", "'law'", "empty", "int", "fills the context"), strict=True):
        assert words in reason


def test_what_cannot_be_scored(files: dict[str, Path], corpus: list[Path], folder: Path, tmp_path: Path) -> None:
    with pytest.raises(colm.OptionError, match="either assistant= or experts="):
        Scorer(files["base"], **LOAD)
    other = tmp_path / "rwkv.gguf"  # of a kind that may change a text
    other.write_bytes(files["code"].read_bytes().replace(b"gpt2", b"rwkv"))
    with pytest.raises(colm.VocabMismatch, match="code"):
        Scorer(files["base"], experts={"math": files["math"], "code": other}, **LOAD)
    with (
        Scorer(files["base"], experts={n: files[n] for n in ("code", "math")}, **LOAD) as turned,
        pytest.raises(colm.errors.CorpusError, match="experts"),
    ):
        learn.score(turned, select(corpus), folder)


def test_nobody_says_who_and_the_head_learns_it(pair: colm.Pair, scorer: Scorer, teacher: Head, tmp_path: Path) -> None:
    """A part of the world is known to each of three models; texts alone say which part."""
    texts, who = written(pair, teacher, 120, 3)
    assert min(np.bincount(who)) > 0.15 * len(who)
    learn.score(scorer, texts, tmp_path / "scores")
    trained = learn.train([Scores(tmp_path / "scores")], learn.TrainingOptions(features="none", cost=0.05, l2=0.003))
    report = trained.experts
    assert report is not None
    assert report.right is not None
    assert report.right > 0.9
    assert trained.held_out.joint_nll < min(model.nll for model in report.models.values())
    # On new texts: who wrote a token, and whom the new head names there.
    fresh, known = written(pair, teacher, 40, 77)
    learn.score(scorer, fresh, tmp_path / "fresh")
    hidden = np.asarray(Scores(tmp_path / "fresh")["base_hidden"], np.float64)
    deferred = trained.head.defer_logits(hidden) > 0
    named = trained.head.scores(hidden).argmax(axis=1) + 1
    assert deferred.mean() == pytest.approx(np.mean(np.array(known) > 0), abs=0.07)
    assert (named == known)[deferred].mean() > 0.9
    for k in (1, 2):
        assert (named == known)[deferred & (np.array(known) == k)].mean() > 0.9


def test_from_texts_to_tokens(files: dict[str, Path], pair: colm.Pair, teacher: Head, tmp_path: Path) -> None:
    """score, train, calibrate, load, generate, inspect, patterns: by the command, and by the API."""
    texts, _ = written(pair, teacher, 60, 3)
    corpus = tmp_path / "texts.jsonl"
    rows = [
        {"prompt": d.prompt, "completion": d.completion or "."} for d in texts.documents() if isinstance(d, Document)
    ]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    models = ["--base", files["base"], *(word for n in EXPERTS for word in ("--expert", f"{n}={files[n]}"))]
    small = ["--n-ctx", "256", "--n-threads", "1", "--n-threads-batch", "1", "-q"]
    scores, head, trace = tmp_path / "scores", tmp_path / "head.gguf", tmp_path / "trace"
    done = succeed("score", corpus, *models, *small, "-o", scores, "--no-chat")
    again = run("score", corpus, *models, *small, "-o", scores, "--no-chat")  # there is nothing left to do
    assert again.stdout == done.stdout
    assert "--respond" in fail("score", corpus, *models, *small, "-o", tmp_path / "none", "--respond")

    done = succeed("train", scores, "-o", head, "-q", "--cost", "0.01", "--cost", "code=0.02", "--l2", "0.003")
    assert Head.load(head).expert_names == EXPERTS

    calibrate = ["calibrate", head, corpus, *models, *small, "--no-chat", "--limit", "6", "--max-tokens", "24"]
    done = succeed(*calibrate, "--temperature", "1", "--rate", "0.4", "--default-rate", "0.4", "--json")
    for _, _, rate, n_tokens, each in json.loads(done.stdout)["measurements"]:
        assert set(each) == set(EXPERTS)
        assert sum(each.values()) == round(rate * n_tokens)
    done = succeed(*calibrate, "--rate", "0.5", "--force")
    assert done.stdout.split("\n")[0].split() == ["wanted", "threshold", "measured", "tokens", *EXPERTS]
    facts = json.loads(Head.load(head).calibration or "")
    assert facts["experts"] == list(EXPERTS)
    assert set(facts["measurements"][0]["experts"]) == set(EXPERTS)

    generate = ["generate", "The river", *models, *small, "--head", head, "--defer-rate", "0.4", "--max-tokens", "40"]
    done = succeed(*generate, "--seed", "1", "--temperature", "1", "--trace", trace, "--json")
    by_command = [(token["id"], token["source"]) for token in json.loads(done.stdout)["tokens"]]
    load: dict[str, Any] = {"n_ctx": 256, "n_threads": 1, "n_threads_batch": 1}
    with colm.load(files["base"], experts={n: files[n] for n in EXPERTS}, head=head, **load) as loaded:
        text = loaded.generate("The river", defer_rate=0.4, max_tokens=40, seed=1, temperature=1.0)
    assert [(token.id, token.source) for token in text.tokens] == by_command
    assert {source for _, source in by_command} == {"base", *EXPERTS}

    found = json.loads(run("inspect", head, "--json").stdout)["files"][0]
    assert found["expert_names"] == list(EXPERTS)
    shown = succeed("inspect", *models, "--head", head)
    for words in ("experts", "expert code", "if dropped", "fits"):
        assert words in shown.stdout
    counted = json.loads(run("patterns", trace, "--json").stdout)
    assert counted["experts"] == {n: sum(source == n for _, source in by_command) for n in EXPERTS}
    assert sum(part["experts"]["math"] for part in counted["parts"]) == counted["experts"]["math"]


def test_a_table_for_a_head_that_only_says_when(files: dict[str, Path], corpus: list[Path], tmp_path: Path) -> None:
    models = ["--base", files["base"], *(word for n in EXPERTS for word in ("--expert", f"{n}={files[n]}"))]
    small = ["--n-ctx", "256", "--n-threads", "1", "--no-chat", "--limit", "4", "--max-tokens", "16", "-q"]
    out = tmp_path / "confidence.gguf"
    done = succeed("calibrate", "confidence:code", *corpus, *models, *small, "--rate", "0.5", "-o", out, "--json")
    measured = json.loads(done.stdout)["measurements"]
    assert all(each["math"] == 0 and each["code"] == round(rate * n) for _, _, rate, n, each in measured)
    assert Head.load(out).expert_names == ("code",)
    failed = fail("calibrate", "confidence", *corpus, *models, *small, "-o", tmp_path / "none.gguf")
    assert "confidence:math" in failed or "name one of them" in failed

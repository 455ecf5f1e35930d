"""A folder of scores: what is in it, and which scores may be added."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scored_folders
import tiny_models as tm
from adapter_files import write_adapter
from conftest import TinyModels
from scored_folders import BAD_LINES, CHAT_BASE, LOAD, N_CTX, assert_same, contents, progress_of

from colm_cpp.corpus.selection import select
from colm_cpp.errors import CorpusError, FolderInUse
from colm_cpp.learn.score_files import COLUMNS, ProgressMark
from colm_cpp.learn.scores import Scores, ScoresWriter
from colm_cpp.learn.scoring import Progress, Scorer, score
from colm_cpp.sources.identity import model_identity

_no_sync = scored_folders._no_sync
begun = scored_folders.begun
corpus = scored_folders.corpus
finished = scored_folders.finished
pair_files = scored_folders.pair_files
scorer = scored_folders.scorer


# -- what is in the folder ------------------------------------------------------------------------------------


def test_arrays_open_with_numpy(finished: Path) -> None:
    scores = Scores(finished)
    n = len(scores)
    assert n == scores.progress.n_tokens > 200
    shapes = dict.fromkeys(COLUMNS, (n,)) | {"base_hidden": (n, 32), "base_top_k_logprobs": (n, 10)}
    assert scores.n_embd == 32
    assert sorted(contents(finished)) == sorted(
        [*(f"{c}.npy" for c in COLUMNS), "meta.json", "progress.json", "texts.jsonl"]
    )
    for name, dtype in COLUMNS.items():
        array = np.load(finished / f"{name}.npy", mmap_mode="r")
        assert isinstance(array, np.memmap)
        assert (array.shape, array.dtype) == (shapes[name], np.dtype(dtype)), name
        np.testing.assert_array_equal(array, scores[name], name)
    assert scores.bad_values() is None


def test_rows_belong_to_their_texts(scorer: Scorer, finished: Path) -> None:
    scores = Scores(finished)
    texts = [json.loads(line) for line in (finished / "texts.jsonl").read_text().splitlines()]
    assert len(texts) == scores.progress.n_texts
    assert list(scores["text"]) == [i for i, text in enumerate(texts) for _ in range(text["n_scored"])]
    lines = [text["line"] for text in texts if text["file"] == "rows.jsonl"]
    assert lines == [i + 1 for i in range(22) if i + 1 not in BAD_LINES]
    windows = [text for text in texts if text["file"] == "plain.txt"]
    assert len(windows) > 2
    assert [text["n_scored"] for text in windows] == [text["n_tokens"] - 1 for text in windows]
    assert [text["line"] for text in texts if text["truncated"]] == [10, 15]
    # The first row, scored alone, has the first values.
    tokens = scorer.tokenize(
        "<|im_start|>user\nthe river 0<|im_end|>\n<|im_start|>assistant\nthere are <|im_end|>", True, True
    )
    n = texts[0]["n_scored"]
    assert list(scores["token"][:n]) == tokens[-n:]
    assert tm.Vocab().id_of("<|im_end|>") == tokens[-1]


def test_progress_and_meta(scorer: Scorer, corpus: list[Path], finished: Path, pair_files: tuple[Path, Path]) -> None:
    scores = Scores(finished)
    texts = [json.loads(line) for line in (finished / "texts.jsonl").read_text().splitlines()]
    assert scores.progress == ProgressMark(
        n_documents=23,
        n_texts=len(texts),
        n_tokens=sum(text["n_scored"] for text in texts),
        n_read=sum(text["n_tokens"] for text in texts),
        n_bad=len(BAD_LINES),
        n_truncated=2,
        complete=True,
    )
    assert scores.meta == {
        "format": "colm-scores",
        "version": 1,
        **select(corpus).facts,
        "base": "tiny",
        "assistant": "tiny",
        "base_model": model_identity(pair_files[0]),
        "assistant_model": model_identity(pair_files[1]),
        "base_lora": [],
        "assistant_lora": [],
        "base_adapters": None,
        "assistant_adapters": None,
        "vocab_fingerprint": scorer.vocab_fingerprint,
        "n_embd": 32,
        "top_k": 10,
        "chat": True,
        "system": None,
        "n_ctx": N_CTX,
        "n_batch": N_CTX,
    }


def test_progress_is_told(scorer: Scorer, corpus: list[Path], finished: Path, tmp_path: Path) -> None:
    told: list[Progress] = []
    done = score(scorer, select(corpus), tmp_path, on_progress=told.append)
    assert done == progress_of(finished)
    assert [bad.line for progress in told for bad in progress.bad_rows] == list(BAD_LINES)
    assert all(bad.path == str(corpus[0]) for progress in told for bad in progress.bad_rows)
    shares = [progress.share for progress in told]
    assert shares == sorted(set(shares))  # each window of the long text moves it on
    assert shares[-1] == 1.0
    assert told[-1].n_read == done.n_read
    assert all(progress.decode_s > 0 and not progress.done.complete for progress in told)


# -- folders with other scores --------------------------------------------------------------------------------


def test_other_options_are_refused(begun: Path, scorer: Scorer, corpus: list[Path], finished: Path) -> None:
    for options, said in (
        ({"top_k": 5}, "top_k 10, not 5"),
        ({"chat": False}, "chat true, not false"),
        ({"system": "Be brief"}, 'system null, not "Be brief"'),
    ):
        with pytest.raises(CorpusError, match=said):
            score(scorer, select(corpus), begun, **options)  # type: ignore[arg-type]
    score(scorer, select(corpus), begun)
    assert_same(begun, finished)


def test_other_corpora_are_refused(begun: Path, scorer: Scorer, corpus: list[Path], tmp_path: Path) -> None:
    for other in (corpus[:1], corpus[::-1], [*corpus, corpus[0]]):
        with pytest.raises(CorpusError, match="corpus"):
            score(scorer, select(other), begun)
    edited = tmp_path / "rows.jsonl"
    edited.write_bytes(corpus[0].read_bytes().replace(b"river 21", b"river 12") + b"\n")
    with pytest.raises(CorpusError, match="corpus"):
        score(scorer, select([edited, corpus[1]]), begun)
    with pytest.raises(CorpusError, match="sample null"):
        score(scorer, select(corpus, limit=23, seed=1), begun)


@pytest.mark.parametrize("missing", [True, False])
def test_facts_that_only_one_side_knows_are_refused(missing: bool, tmp_path: Path) -> None:
    few: Mapping[str, Any] = {"n_embd": 3, "top_k": 2}
    more = {**few, "respond": {"seed": 1}}
    ScoresWriter(tmp_path, more if missing else few).close()
    with pytest.raises(CorpusError, match=r"respond (null, .*\{|\{.*null)"):
        ScoresWriter(tmp_path, few if missing else more)


def test_other_models_are_refused(
    begun: Path, corpus: list[Path], tiny_model: TinyModels, pair_files: tuple[Path, Path], tmp_path: Path
) -> None:
    adapter = write_adapter(tmp_path / "adapter.gguf")
    other = tiny_model(**{**CHAT_BASE, "seed": 9})
    others: list[tuple[tuple[Path, Path], dict[str, Any], str]] = [
        ((other, pair_files[1]), {}, "base_model"),
        ((pair_files[0], other), {}, "assistant_model"),
        ((tiny_model(**CHAT_BASE, n_embd=64), pair_files[1]), {}, "base_model"),
        (pair_files, {"n_ctx": 32}, "n_ctx"),
        (pair_files, {"n_batch": 32}, "n_batch"),
        (pair_files, {"base_options": {"lora": adapter}}, "base_(lora|adapters)"),
        (pair_files, {"base_options": {"lora": [(adapter, 0.5)]}}, "base_(lora|adapters)"),
    ]
    for files, load, name in others:
        with (
            Scorer(*files, **{**LOAD, **load}) as scorer,
            pytest.raises(CorpusError, match=f" {name} "),
        ):
            score(scorer, select(corpus), begun)


def test_identity_tells_quantisations_and_seeds_apart(pair_files: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = (model_identity(path) for path in pair_files)
    assert first["digest"] != second["digest"]
    assert first == model_identity(pair_files[0])
    assert first["bytes"] == pair_files[0].stat().st_size
    moved = tmp_path / "elsewhere" / pair_files[0].name
    moved.parent.mkdir()
    data = bytearray(pair_files[0].read_bytes())
    moved.write_bytes(data)
    assert model_identity(moved) == first  # a place is no part of it
    data[-1] ^= 1
    moved.write_bytes(data)
    assert model_identity(moved) != first


def test_folders_of_something_else(begun: Path, scorer: Scorer, corpus: list[Path], tmp_path: Path) -> None:
    meta = json.loads((begun / "meta.json").read_text())
    for change, said in (
        ({"version": 4}, "format version 4 and this colm-cpp reads 1 and 2 and 3"),
        ({"version": None}, "format version None"),
        ({"format": "colm-evaluation"}, "does not describe scores"),
    ):
        (begun / "meta.json").write_text(json.dumps({**meta, **change}))
        for open_folder in (lambda: score(scorer, select(corpus), begun), lambda: Scores(begun)):
            with pytest.raises(CorpusError, match=said):
                open_folder()
    for text, said in (("[1]", "does not describe scores"), ("{", "is damaged")):
        (begun / "meta.json").write_text(text)
        with pytest.raises(CorpusError, match=said):
            score(scorer, select(corpus), begun)
    with pytest.raises(CorpusError, match=r"meta\.json"):
        Scores(tmp_path / "none")


def test_two_writers(scorer: Scorer, corpus: list[Path], finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "scores"

    def second(progress: Progress) -> None:
        with pytest.raises(FolderInUse) as caught:
            score(scorer, select(corpus), folder)
        assert caught.value.folder == str(folder)

    score(scorer, select(corpus), folder, on_progress=second)
    assert_same(folder, finished)

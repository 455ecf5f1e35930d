"""The assistant's own answers: that they are its own, token for token, and that none is written twice."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models as tm
from click.testing import CliRunner, Result
from conftest import ASSISTANT, BASE, TINY_LOAD, Asked, TinyModels

import colm_cpp as colm
from colm_cpp.cli import main
from colm_cpp.corpus.documents import BadRow, Corpus, Document
from colm_cpp.corpus.selection import select
from colm_cpp.errors import ChatTemplateError, CorpusError, FolderInUse, HeadError, OptionError
from colm_cpp.learn.respond import FILE, Progress, respond
from colm_cpp.learn.scores import Scores
from colm_cpp.learn.scoring import Scorer, score

LOAD = {**TINY_LOAD, "n_ctx": 96}
# Ends are made likely, so that some answers end by themselves and others at the limit.
END = "<|im_end|>"
CHAT_BASE = {**BASE, "chat_template": tm.CHATML}
ENDING = {**ASSISTANT, "row_scale": {END: 1.6}}
GREEDY = {"max_tokens": 12, "temperature": 0.0, "seed": 0}
SAMPLED = {"max_tokens": 12, "temperature": 1.0, "seed": 7}
USER = {"role": "user", "content": "What is the name?"}
ROWS: list[Any] = [
    {"prompt": "the river"},
    {"prompt": "the fox", "completion": "a reference"},
    {"prompt": "the patient"},
    {"completion": "no prompt"},
    {"messages": [USER, {"role": "assistant", "content": "one"}, USER, {"role": "assistant", "content": "two"}]},
    {"prompt": "jumps over the lazy dog " * 20},  # does not fit
    {"prompt": "seven apples"},
    {"prompt": "three pears"},
]
BAD_LINES = [4, 6]


@pytest.fixture(scope="module")
def files(tiny_model: TinyModels) -> tuple[Path, Path]:
    return tiny_model(**CHAT_BASE), tiny_model(**ENDING)


@pytest.fixture(scope="module")
def pair(files: tuple[Path, Path]) -> Iterator[colm.Pair]:
    # Its own head would let the base write.
    with colm.load(*files, "never", **LOAD) as pair:
        yield pair


@pytest.fixture
def prompts(tmp_path: Path) -> Corpus:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return select([path], needs_completion=False)


def rows_of(folder: Path) -> list[Any]:
    """The answers, without the header."""
    return [json.loads(line) for line in (folder / FILE).read_text().splitlines()][1:]


class Stop(BaseException):
    """Ends a run as Ctrl-C would."""


def stop_after(n: int) -> Callable[[Progress], None]:
    def on_progress(progress: Progress) -> None:
        if progress.done == n:
            raise Stop

    return on_progress


def ids_of(completion: colm.Completion) -> list[int]:
    end = [] if completion.end_token is None else [completion.end_token.id]
    return [token.id for token in completion.tokens] + end


# -- what is written ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [GREEDY, SAMPLED])
def test_answers_are_the_assistants(options: dict[str, Any], pair: colm.Pair, prompts: Corpus, tmp_path: Path) -> None:
    respond(pair, prompts, tmp_path / "out", options)
    endings = set()
    for number, (row, given) in enumerate(zip(rows_of(tmp_path / "out"), ROWS, strict=True)):
        assert (os.path.basename(row["file"]), row["line"]) == ("prompts.jsonl", number + 1)
        if number + 1 in BAD_LINES:
            continue
        messages = given["messages"][:3] if "messages" in given else [{"role": "user", "content": given["prompt"]}]
        # Each prompt has a seed of its own, whatever was answered before.
        own = {**options, "seed": options["seed"] + number}
        expected = pair.chat(messages, head="always", **own)
        assert {token.source for token in expected.tokens} <= {"assistant"}
        assert (row["ids"], row["completion"]) == (ids_of(expected), expected.text)
        assert row["finish_reason"] == expected.finish_reason
        assert row["ids"] != ids_of(pair.chat(messages, head="never", **own))
        endings.add(expected.finish_reason)
    assert endings == {"eos", "length"}


def test_answers_without_chat(pair: colm.Pair, prompts: Corpus, tmp_path: Path) -> None:
    respond(pair, prompts, tmp_path / "out", GREEDY, chat=False)
    for row in rows_of(tmp_path / "out"):
        if row.get("prompt"):
            assert row["ids"] == ids_of(pair.generate(row["prompt"], head="always", **GREEDY))
    # A conversation can only be answered in the template.
    assert rows_of(tmp_path / "out")[4]["ids"] == ids_of(pair.chat(ROWS[4]["messages"][:3], head="always", **GREEDY))


def test_a_system_message_stands_before_prompts(pair: colm.Pair, prompts: Corpus, tmp_path: Path) -> None:
    respond(pair, prompts, tmp_path / "out", GREEDY, system="Be brief")
    messages = [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "the river"}]
    assert rows_of(tmp_path / "out")[0]["ids"] == ids_of(pair.chat(messages, head="always", **GREEDY))


def test_the_answered_corpus(pair: colm.Pair, prompts: Corpus, tmp_path: Path) -> None:
    told: list[Progress] = []
    corpus = respond(pair, prompts, tmp_path / "out", GREEDY, on_progress=told.append)
    documents = list(corpus.documents())
    assert corpus.n_documents == len(documents) == len(ROWS)
    assert corpus.facts == {**prompts.facts, "respond": GREEDY}
    assert [progress.done for progress in told] == list(range(1, 9))
    assert {progress.total for progress in told} == {8}
    rows = rows_of(tmp_path / "out")
    assert told[-1].n_tokens == sum(len(row.get("ids", [])) for row in rows)
    bad = [document for document in documents if isinstance(document, BadRow)]
    assert [row.line for row in bad] == BAD_LINES
    assert [progress.bad_row for progress in told if progress.bad_row] == bad
    assert bad[0].reason == "there is no prompt to answer"
    assert "96" in bad[1].reason  # tokens of the context
    for document, row, given in zip(documents, rows, ROWS, strict=True):
        if isinstance(document, Document):
            assert document.completion_ids == tuple(row["ids"])
            assert document.completion == row["completion"]
            last = ({"role": "assistant", "content": row["completion"]},)
            assert document.messages == ((*given["messages"][:3], *last) if "messages" in given else ())


def test_the_very_tokens_are_scored(pair: colm.Pair, prompts: Corpus, files: tuple[Path, Path], tmp_path: Path) -> None:
    with Scorer(*files, **LOAD) as scorer:
        corpus = respond(pair, prompts, tmp_path, GREEDY)
        done = score(scorer, corpus, tmp_path)
        with pytest.raises(CorpusError, match="respond"):
            score(scorer, prompts, tmp_path)
    rows = [row for row in rows_of(tmp_path) if "ids" in row]
    # The tokenizer would cut at least one of them into other tokens.
    assert any(
        pair.tokenize(row["completion"], add_special=False) != row["ids"] for row in rows if len(row["ids"]) == 12
    )
    scores = Scores(tmp_path)
    assert (done.n_bad, done.n_texts) == (2, 6)
    texts = [list(scores["token"][scores["text"] == i]) for i in range(6)]
    # Of the conversation, the first answer is scored too.
    earlier = [pair.tokenize(f"one{END}", add_special=False) if row["messages"] else [] for row in rows]
    assert texts == [before + row["ids"] for before, row in zip(earlier, rows, strict=True)]
    # Greedy answers: wherever the assistant wrote, its token is its likeliest.
    (conversation,) = (i for i, row in enumerate(rows) if row["messages"])
    written = scores["text"] != conversation
    assert (scores["assistant_top"] == scores["token"])[written].all()
    assert not (scores["base_top"] == scores["token"])[written].all()


def test_an_empty_answer_is_a_bad_row(pair: colm.Pair, prompts: Corpus, tmp_path: Path) -> None:
    corpus = respond(pair, prompts, tmp_path / "out", {**GREEDY, "max_tokens": 0})
    reasons = {document.reason for document in corpus.documents() if isinstance(document, BadRow)}
    assert len([document for document in corpus.documents() if isinstance(document, BadRow)]) == len(ROWS)
    assert "its answer is empty" in reasons


@pytest.mark.parametrize("n_parallel", [1, 4])
def test_strict(n_parallel: int, pair: colm.Pair, prompts: Corpus, tmp_path: Path) -> None:
    for _ in range(2):  # nor is a bad row passed over the next time
        with pytest.raises(CorpusError, match=r"prompts\.jsonl:4: .*--strict"):
            respond(pair, prompts, tmp_path / "out", GREEDY, strict=True, n_parallel=n_parallel)
    assert len(rows_of(tmp_path / "out")) == 3


def test_chat_needs_a_template(tiny_pair: Any, prompts: Corpus, tmp_path: Path) -> None:
    pair = tiny_pair(BASE, ASSISTANT, n_ctx=96)
    with pytest.raises(ChatTemplateError, match="chat template"):
        respond(pair, prompts, tmp_path / "out", GREEDY, chat=True)
    corpus = respond(pair, prompts, tmp_path / "out", GREEDY)
    bad = [document for document in corpus.documents() if isinstance(document, BadRow)]
    assert [row.line for row in bad] == [4, 5, 6]
    assert "chat template" in bad[1].reason


@pytest.mark.parametrize("n_parallel", [1, 4])
def test_an_unset_temperature_is_greedy(n_parallel: int, pair: colm.Pair, prompts: Corpus, tmp_path: Path) -> None:
    """As on the command line."""
    options = {"max_tokens": 12, "seed": 7}
    respond(pair, prompts, tmp_path / "out", options, chat=False, n_parallel=n_parallel)
    rows = rows_of(tmp_path / "out")

    def expected(number: int, **more: Any) -> list[int]:
        own: dict[str, Any] = {**options, "temperature": 0, "head": "always", "seed": 7 + number, **more}
        if "messages" in ROWS[number]:
            return ids_of(pair.chat(ROWS[number]["messages"][:3], **own))
        return ids_of(pair.generate(ROWS[number]["prompt"], **own))

    answered = [i for i, row in enumerate(rows) if "ids" in row]
    assert [rows[i]["ids"] for i in answered] == [expected(i) for i in answered]
    # It makes a difference.
    assert [rows[i]["ids"] for i in answered] != [expected(i, temperature=0.8) for i in answered]


# -- the pair's answers ---------------------------------------------------------------------------------------


@pytest.fixture
def head_file(pair: colm.Pair, tmp_path: Path) -> Path:
    """A head with a table by which 40% of the tokens are deferred at eta = 0.5."""
    weights = np.random.default_rng(3).normal(size=pair.n_embd)
    path = tmp_path / "learned.gguf"
    colm.Head.linear(weights, rates=(0.0, 0.4, 1.0), thresholds=(1.0, 0.5, 0.0)).save(path)
    return path


@pytest.mark.parametrize("n_parallel", [1, 4])
def test_answers_of_the_pair(
    n_parallel: int, pair: colm.Pair, prompts: Corpus, head_file: Path, tmp_path: Path
) -> None:
    options = {**GREEDY, "defer_rate": 0.4}
    corpus = respond(pair, prompts, tmp_path / "out", options, head=head_file, n_parallel=n_parallel)
    sources: set[str] = set()
    for row, given in zip(rows_of(tmp_path / "out"), ROWS, strict=True):
        if "ids" in row:
            messages = given["messages"][:3] if "messages" in given else [{"role": "user", "content": given["prompt"]}]
            expected = pair.chat(messages, head=head_file, threshold=0.5, **{**GREEDY, "seed": row["line"] - 1})
            assert row["ids"] == ids_of(expected)
            sources |= {token.source for token in expected.tokens}
    assert sources == {"base", "assistant"}
    digest = hashlib.sha256(head_file.read_bytes()).hexdigest()
    identity = {"head": "learned.gguf", "head_sha256": digest}
    assert corpus.facts["respond"] == {**options, **identity}
    header = json.loads((tmp_path / "out" / FILE).read_text().splitlines()[0])
    assert {key: header[key] for key in identity} == identity
    assert header["base"]["file"] == os.path.basename(pair.base["path"])


def test_answers_of_another_head_are_refused(pair: colm.Pair, prompts: Corpus, head_file: Path, tmp_path: Path) -> None:
    respond(pair, prompts, tmp_path / "out", GREEDY, head=head_file)
    colm.Head.load(head_file).replace(default_threshold=0.3).save(head_file)
    for other, said in ((head_file, "head_sha256 "), ("always", "head .*null"), ("never", "head .*never")):
        with pytest.raises(CorpusError, match=f"holds answers with {said}"):
            respond(pair, prompts, tmp_path / "out", GREEDY, head=other)
    with pytest.raises(HeadError, match="head confidence"):
        respond(pair, prompts, tmp_path / "other", {**GREEDY, "defer_rate": 0.4}, head="confidence")


# -- many at once ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_parallel", [2, 4, 8])
@pytest.mark.parametrize("options", [GREEDY, SAMPLED])
def test_many_at_once(
    options: dict[str, Any], n_parallel: int, pair: colm.Pair, prompts: Corpus, tmp_path: Path, asked: Asked
) -> None:
    """The same bytes, and the same told on the way: in the order of the prompts, not in that of the ends."""
    told: dict[str, list[Progress]] = {"alone": [], "together": []}
    respond(pair, prompts, tmp_path / "alone", options, on_progress=told["alone"].append)
    respond(pair, prompts, tmp_path / "together", options, n_parallel=n_parallel, on_progress=told["together"].append)
    assert asked.n_parallel == [1] * 7 + [n_parallel]
    assert sorted(asked.ended) == list(range(7)) != asked.ended
    assert (tmp_path / "together" / FILE).read_bytes() == (tmp_path / "alone" / FILE).read_bytes()
    assert [row["line"] for row in rows_of(tmp_path / "together") if "bad" in row] == BAD_LINES
    assert told["together"] == told["alone"]


def test_bad_rows_at_both_ends(pair: colm.Pair, tmp_path: Path) -> None:
    """Also where no answer comes behind them, or none at all."""
    path = tmp_path / "prompts.jsonl"
    bad: list[Any] = [{"completion": "no prompt"}] * 2
    for given in ([*bad, *ROWS[:3], *bad], bad):
        path.write_text("".join(json.dumps(row) + "\n" for row in given))
        corpus = select([path], needs_completion=False)
        for n_parallel in (1, 4):
            folder = tmp_path / f"{len(given)}-{n_parallel}"
            answered = respond(pair, corpus, folder, GREEDY, n_parallel=n_parallel)
            assert [("bad" in row, row["line"]) for row in rows_of(folder)] == [
                (row in bad, line) for line, row in enumerate(given, start=1)
            ]
            assert len(list(answered.documents())) == len(given)


def test_texts_that_fail_together(pair: colm.Pair, prompts: Corpus, tmp_path: Path) -> None:
    """As alone, each is a bad row with its reason."""
    options = {**GREEDY, "logit_bias": dict.fromkeys(range(pair.n_shared), float("-inf"))}
    respond(pair, prompts, tmp_path / "alone", options)
    respond(pair, prompts, tmp_path / "together", options, n_parallel=4)
    reasons = [row["bad"] for row in rows_of(tmp_path / "together")]
    assert ["bans every token" in reason for reason in reasons] == [line not in BAD_LINES for line in range(1, 9)]
    assert (tmp_path / "together" / FILE).read_bytes() == (tmp_path / "alone" / FILE).read_bytes()


# -- interruptions --------------------------------------------------------------------------------------------


@pytest.fixture
def whole(pair: colm.Pair, prompts: Corpus, tmp_path: Path) -> bytes:
    """The answers of a run without any mishap."""
    respond(pair, prompts, tmp_path / "whole", SAMPLED)
    return (tmp_path / "whole" / FILE).read_bytes()


@pytest.mark.parametrize("n_parallel", [1, 4])
@pytest.mark.parametrize("n", [1, 2, 4, 7])
def test_resumed(
    n: int, n_parallel: int, pair: colm.Pair, prompts: Corpus, whole: bytes, tmp_path: Path, asked: Asked
) -> None:
    folder = tmp_path / "out"
    with pytest.raises(Stop):
        respond(pair, prompts, folder, SAMPLED, n_parallel=n_parallel, on_progress=stop_after(n))
    assert len(rows_of(folder)) == n
    asked.prompts.clear()
    respond(pair, prompts, folder, SAMPLED, n_parallel=n_parallel)
    assert (folder / FILE).read_bytes() == whole
    # Each of those that were not kept, and none of the others; the long one is tried.
    assert len(asked.prompts) == sum(line not in BAD_LINES[:1] for line in range(n + 1, 9))
    respond(pair, prompts, folder, SAMPLED, n_parallel=n_parallel)
    assert (folder / FILE).read_bytes() == whole


def test_a_line_that_was_cut_off_is_written_again(
    pair: colm.Pair, prompts: Corpus, whole: bytes, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    ends = [i for i, byte in enumerate(whole) if byte == ord("\n")]
    for size in (0, 1, ends[0], ends[0] + 1, ends[0] + 2, ends[2], ends[2] + 1, ends[5] - 1, len(whole) - 1):
        (folder / FILE).write_bytes(whole[:size])
        respond(pair, prompts, folder, SAMPLED)
        assert (folder / FILE).read_bytes() == whole, size


def test_full_disk(
    pair: colm.Pair, prompts: Corpus, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = itertools.count()

    def fsync(descriptor: int) -> None:
        if next(calls) == 2:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match="No space left"):
            respond(pair, prompts, tmp_path / "out", SAMPLED)
    respond(pair, prompts, tmp_path / "out", SAMPLED)
    assert (tmp_path / "out" / FILE).read_bytes() == whole


def test_a_larger_limit_goes_on(pair: colm.Pair, prompts: Corpus, whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    for limit in (2, 7, 3, 8):
        corpus = respond(pair, select([path], limit=limit, needs_completion=False), tmp_path / "out", SAMPLED)
        assert len(list(corpus.documents())) == limit
    assert (tmp_path / "out" / FILE).read_bytes() == whole


def test_other_options_are_refused(pair: colm.Pair, prompts: Corpus, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    respond(pair, prompts, folder, GREEDY)
    before = (folder / FILE).read_bytes()
    others: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({**GREEDY, "max_tokens": 13}, {}, "options .* 13"),
        ({**GREEDY, "temperature": 0.5}, {}, "options .*0.5"),
        ({**GREEDY, "seed": 1}, {}, "options .*1"),
        (GREEDY, {"chat": False}, "chat true, not false"),
        (GREEDY, {"system": "Be brief"}, 'system null, not "Be brief"'),
    ]
    for options, more, said in others:
        with pytest.raises(CorpusError, match=f"holds answers with {said}"):
            respond(pair, prompts, folder, options, **more)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "another"}\n')
    with pytest.raises(CorpusError, match="corpus"):
        respond(pair, select([tmp_path / "prompts.jsonl"], needs_completion=False), folder, GREEDY)
    assert (folder / FILE).read_bytes() == before


@pytest.mark.parametrize("n_parallel", [1, 4])
def test_refused_options_bind_nobody(n_parallel: int, pair: colm.Pair, prompts: Corpus, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="temperature"):
        respond(pair, prompts, tmp_path / "out", {**GREEDY, "temperature": -1.0}, n_parallel=n_parallel)
    for wrong in (-1, 0, 257):
        with pytest.raises(OptionError, match=rf"n_parallel is {wrong}.* 1 .*256"):
            respond(pair, prompts, tmp_path / "out", GREEDY, n_parallel=wrong)
    respond(pair, prompts, tmp_path / "out", GREEDY)
    assert len(rows_of(tmp_path / "out")) == len(ROWS)


@pytest.mark.parametrize("line", [b"someone's file\n", b'{"format": "other"}\n', b"[]\n", b"[]\n[]\n"])
def test_files_of_others_are_left_alone(line: bytes, pair: colm.Pair, prompts: Corpus, tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_bytes(line)
    with pytest.raises(CorpusError, match=FILE):
        respond(pair, prompts, tmp_path, GREEDY)
    assert path.read_bytes() == line


def test_damaged_answers(pair: colm.Pair, prompts: Corpus, tmp_path: Path) -> None:
    corpus = respond(pair, prompts, tmp_path / "out", GREEDY)
    path = tmp_path / "out" / FILE
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], b"{damaged\n", *lines[4:]]))
    with pytest.raises(CorpusError, match=rf"{FILE}:4 .*delete"):
        list(corpus.documents())
    path.write_bytes(b"".join(lines[:3]))
    respond(pair, prompts, tmp_path / "out", GREEDY)
    assert path.read_bytes() == b"".join(lines)


def test_two_writers(pair: colm.Pair, prompts: Corpus, tmp_path: Path) -> None:
    def second(progress: Progress) -> None:
        with pytest.raises(FolderInUse, match="another process"):
            respond(pair, prompts, tmp_path / "out", GREEDY)

    respond(pair, prompts, tmp_path / "out", GREEDY, on_progress=second)


# -- the command ----------------------------------------------------------------------------------------------


def test_command(pair: colm.Pair, prompts: Corpus, files: tuple[Path, Path], tmp_path: Path, asked: Asked) -> None:
    rows = tmp_path / "prompts.jsonl"
    load = [f"--{name.replace('_', '-')}={value}" for name, value in LOAD.items() if not isinstance(value, bool)]
    models = ["--base", str(files[0]), "--assistant", str(files[1]), "--no-flash-attn", *load]

    def run(*arguments: str) -> Result:
        command = ["score", str(rows), *models, "--respond", *arguments]
        return CliRunner().invoke(main, command, catch_exceptions=False)

    out = tmp_path / "scores"
    result = run("-o", str(out), "--max-tokens", "12", "--temperature", "1", "--seed", "7")
    assert result.exit_code == 0, result.stderr
    # --seed draws the rows too, but all of them.
    expected = tmp_path / "expected"
    options = {"max_tokens": 12, "temperature": 1.0, "seed": 7}
    respond(pair, select([rows], seed=7, needs_completion=False), expected, options)
    assert (out / FILE).read_bytes() == (expected / FILE).read_bytes()
    scores = Scores(out)
    assert scores.meta["respond"] == options
    n = len(scores)
    assert result.stdout.startswith(f"{out}: {n} tokens of 6 texts, 2 rows ")
    warnings = [line for line in result.stderr.splitlines() if line.startswith("colm: warning: ")]
    assert {line.removeprefix(f"colm: warning: {rows}:").partition(":")[0] for line in warnings} == {"4", "6"}
    assert any(line.startswith("answering: 100%, 8 answers, ") for line in result.stderr.splitlines())

    assert set(asked.n_parallel) == {1}
    together = run(
        "-o", str(tmp_path / "together"), "--max-tokens", "12", "--temperature", "1", "--seed", "7", "--parallel", "3"
    )
    assert together.exit_code == 0, together.stderr
    assert asked.n_parallel[-1] == 3
    assert (tmp_path / "together" / FILE).read_bytes() == (expected / FILE).read_bytes()

    refused = run("-o", str(out), "--max-tokens", "13", "--temperature", "1", "--seed", "7")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "holds answers with options " in refused.stderr.splitlines()[-1]
    strict = run("-o", str(tmp_path / "strict"), "--strict", "--quiet")
    assert strict.stderr.startswith(f"colm: error: {rows}:4: ")
    assert "--strict" in strict.stderr
    assert not (tmp_path / "strict" / "meta.json").exists()  # it did not come to scoring


def test_the_command_lets_the_pair_answer(
    prompts: Corpus, files: tuple[Path, Path], head_file: Path, tmp_path: Path, asked: Asked
) -> None:
    def run(*arguments: str) -> Result:
        load = ["--n-ctx", "96", "--n-threads", "1", "--max-tokens", "4"]
        models = ["--base", str(files[0]), "--assistant", str(files[1]), "--out", str(tmp_path / "out"), *load]
        command = ["score", str(tmp_path / "prompts.jsonl"), *models, *arguments]
        return CliRunner().invoke(main, command, catch_exceptions=False)

    result = run("--respond", "--head", str(head_file), "--defer-rate", "0.4")
    assert result.exit_code == 0, result.stderr
    assert {head for _, head in asked.prompts} == {str(head_file)}
    known = Scores(tmp_path / "out").meta["respond"]
    assert (known["head"], known["defer_rate"]) == ("learned.gguf", 0.4)
    for wrong, named in ((("--head", "x"), "--respond"), (("--respond", "--defer-rate", "0.4"), "--head")):
        result = run(*wrong)
        assert result.exit_code == 2
        assert named in result.stderr

"""The models' own answers: that they are their own, token for token, alone and many at once."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import answered_prompts
import pytest
from answered_prompts import BAD_LINES, END, GREEDY, LOAD, ROWS, SAMPLED, rows_of
from conftest import ASSISTANT, BASE, Asked

import colm_cpp as colm
from colm_cpp.corpus.documents import BadRow, Corpus, Document
from colm_cpp.corpus.selection import select
from colm_cpp.errors import ChatTemplateError, CorpusError, HeadError
from colm_cpp.learn.respond import FILE, Progress, respond
from colm_cpp.learn.scores import Scores
from colm_cpp.learn.scoring import Scorer, score

files = answered_prompts.files
pair = answered_prompts.pair
prompts = answered_prompts.prompts
head_file = answered_prompts.head_file


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

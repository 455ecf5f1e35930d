"""`system` and `chat_template` in rows of files, each for all models or by their names.

What a model reads is what `Pair.chat` gives it, whichever command reads the row.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import expert_files
import pytest
from adapter_files import N_EMBD
from commands import ONE_THREAD, error_of, run
from conftest import TINY_LOAD, TinyModels
from test_unlike_oracle import VOCABS
from tiny_models import CHATML

import colm_cpp as colm
from colm_cpp.answers.answering import Arm, answers
from colm_cpp.answers.problems import load_prompts, load_task
from colm_cpp.corpus.documents import BadRow, Corpus, Document, read_documents
from colm_cpp.corpus.selection import select
from colm_cpp.corpus.shared_texts import SharedText, SharedTextMaker
from colm_cpp.corpus.texts import Text, TextMaker
from colm_cpp.engine.own_prompts import chat_prompt
from colm_cpp.learn import Scorer
from colm_cpp.learn.respond import respond
from colm_cpp.learn.segments import maker_of

NAMES = ("base", "math", "code")
OWN = (
    "{% for m in messages %}<{{ m.role[0] }}>{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
)
TALK = [{"role": "user", "content": "What is 2 + 3?"}]
LONG = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi."}, *TALK]
CASES: list[dict[str, Any]] = [
    {},
    {"system": "All."},
    {"system": {"math": "Compute."}},
    {"system": {"base": "Tell.", "math": "Compute."}},
    {"system": {"base": "Tell.", "code": None}},
    {"chat_template": {"math": None}},
    {"chat_template": {"math": OWN}, "system": {"code": "Write."}},
    {"chat_template": OWN},
    {"chat_template": {"base": OWN, "code": CHATML}, "system": "All."},
]


@pytest.fixture(scope="module")
def files(tiny_model: TinyModels) -> dict[str, Path]:
    return expert_files.make_files(tiny_model, CHATML, "Q {{ messages[-1].content }} A")


pair = expert_files.pair


@pytest.fixture(scope="module")
def scorer(files: dict[str, Path]) -> Iterator[Scorer]:
    with Scorer(files["base"], experts={name: files[name] for name in NAMES[1:]}, **TINY_LOAD) as loaded:
        yield loaded


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def maker(scorer: Scorer, **options: Any) -> TextMaker:
    experts = {name: scorer.models[name] for name in scorer.experts}
    return TextMaker(
        scorer, scorer.base, n_shared=scorer.n_shared, n_ctx=scorer.n_ctx, chat=True, experts=experts, **options
    )


def read_by(pair: colm.Pair, messages: list[dict[str, str]], template: dict[str, Any]) -> dict[str, list[int]]:
    """The prompt of each model in `Pair.chat`."""
    prompt = chat_prompt(pair, messages, **template)
    return {name: prompt.get(name, prompt["base"]) if isinstance(prompt, dict) else prompt for name in pair.names}


@pytest.mark.parametrize(("case", "messages"), [*itertools.product(range(len(CASES)), (TALK, LONG))])
def test_texts_are_scored_behind_what_the_pair_reads(
    pair: colm.Pair, scorer: Scorer, tmp_path: Path, case: int, messages: list[dict[str, str]]
) -> None:
    template = CASES[case]
    answer = {"role": "assistant", "content": "It is 5."}
    rows: list[dict[str, Any]] = [{"messages": [*messages, answer], **template}]
    if messages is TALK:
        rows.append({"prompt": messages[0]["content"], "completion": answer["content"], **template})
    expected = read_by(pair, messages, template)
    for document in read_documents([written(tmp_path / "rows.jsonl", rows)]):
        assert isinstance(document, Document)
        (text,) = maker(scorer)(document)
        assert isinstance(text, Text), text
        replies = set()
        for name in NAMES:
            tokens, scored = text.of(name)
            begin = scored.index(True)
            assert list(tokens[:begin]) == expected[name]
            replies.add(tokens[begin:])
        assert len(replies) == 1


def test_unlike_vocabularies_are_scored_behind_what_the_pair_reads(
    tiny_model: TinyModels, files: dict[str, Path], tmp_path: Path
) -> None:
    other = tiny_model(seed=5, n_embd=N_EMBD, vocab=VOCABS["gemma"], chat_template=OWN)
    experts = {"math": files["math"], "code": other}
    cases: list[dict[str, Any]] = [
        {},
        {"system": {"math": "Compute.", "base": "Tell."}},
        {"system": {"code": "Write."}},
        {"chat_template": {"base": OWN, "code": OWN}},
        {"chat_template": {"math": CHATML}},
    ]
    with (
        colm.load(files["base"], experts=experts, **TINY_LOAD) as pair,
        Scorer(files["base"], experts=experts, **TINY_LOAD) as scorer,
    ):
        make = maker_of(scorer, chat=True, system=None)
        assert isinstance(make, SharedTextMaker)
        for template in cases:
            row = {"messages": [*TALK, {"role": "assistant", "content": "It is 5."}], **template}
            (document,) = read_documents([written(tmp_path / "rows.jsonl", [row])])
            assert isinstance(document, Document)
            (text,) = make(document)
            assert isinstance(text, SharedText), text
            expected = read_by(pair, TALK, template)
            for number, name in enumerate(NAMES):
                begin = text.scored(number).index(True)
                assert list(text.tokens_of[name][:begin]) == expected[name], (name, template)


def test_rows_that_cannot_be_scored(scorer: Scorer, tmp_path: Path) -> None:
    answers = [{"role": "assistant", "content": "5."}, *TALK, {"role": "assistant", "content": "6."}]
    rows: list[dict[str, Any]] = [
        {"system": {"law": "x"}},
        {"system": 7},
        {"chat_template": {}},
        {"chat_template": {"math": 7}},
        {"messages": [*TALK, *answers], "chat_template": {"math": OWN}},
        {"messages": [*TALK, *answers], "system": {"math": "Compute."}},
        {"system": None},
    ]
    rows = [{"messages": [*TALK, answers[0]], **row} for row in rows]
    rows.append({"completion": "A text.", "system": "x"})
    made: list[Any] = []
    for document in read_documents([written(tmp_path / "rows.jsonl", rows)]):
        made += [document] if isinstance(document, BadRow) else list(maker(scorer)(document))
    reasons = ["'law', and the models of this pair are base, math, code", "system must be", "chat_template must be"]
    reasons += ["chat_template must be", "chat_template has one for math, and the conversation has 2 answers"]
    for text, reason in zip(made, reasons, strict=False):
        assert isinstance(text, BadRow)
        assert reason in text.reason
    several, plain, last = made[len(reasons) :]
    assert isinstance(several, Text)
    # What stands behind the first answer is the same for all.
    assert several.of("math")[0] == (*several.own_prompts["math"], *several.tokens[several.scored.index(True) :])
    assert sum(b and not a for a, b in itertools.pairwise(several.of("math")[1])) == 2
    assert isinstance(plain, Text)
    assert not plain.own_prompts
    assert "system is for a conversation" in last.reason


def test_problems_are_answered_behind_them(pair: colm.Pair, tmp_path: Path) -> None:
    """By `colm evaluate`, and by `colm calibrate`, which reads problems without answers."""
    rows = [{"prompt": TALK[0]["content"], "answer": "5", **case} for case in CASES]
    file = written(tmp_path / "task.jsonl", rows)
    options = {"temperature": 0.0, "max_tokens": 6, "seed": 0}
    arm = Arm("math", "always:math", 0.5, None, {})
    for problems in (load_task(file).problems, tuple(load_prompts(file))):
        asked = [(problem, arm) for problem in problems]
        texts = {n: record.text for n, record in answers(pair, asked, options, chat=True, n_parallel=3)}
        for number, case in enumerate(CASES):
            alone = pair.chat(TALK, head="always:math", lookahead=0, **case, **options)
            assert texts[number] == alone.text, case
        assert len(set(texts.values())) > 4


def test_problems_that_cannot_be_answered(files: dict[str, Path], tmp_path: Path) -> None:
    """Before the first answer, and with the row."""
    models = ["--base", files["base"], *(part for name in NAMES[1:] for part in ("--expert", f"{name}={files[name]}"))]
    ask = ["--head", "always:math", "--max-tokens", "4", "--rate", "0.5", *ONE_THREAD, "--quiet"]
    rows: list[dict[str, Any]] = [{"prompt": "2 + 3", "answer": "5"}]
    rows.append({**rows[0], "system": {"law": "x"}})
    out = tmp_path / "out"
    file = written(tmp_path / "task.jsonl", rows)
    done = run("evaluate", file, *models, *ask, "--out", out)
    assert "row 2 of the problems: system names 'law', and the models of this pair are base, math" in error_of(done)
    file = written(tmp_path / "task.jsonl", [rows[0], {**rows[0], "system": "x"}])
    done = run("evaluate", file, *models, *ask, "--out", tmp_path / "other", "--no-chat")
    assert "row 2 of the problems has system, which needs a chat template" in error_of(done)


def test_answers_of_the_assistant_keep_them(files: dict[str, Path], tmp_path: Path) -> None:
    """`colm score --respond`: written behind them, and then scored behind them."""
    rows: list[dict[str, Any]] = [
        {"prompt": TALK[0]["content"], "system": {"assistant": "Compute."}},
        {"prompt": {"base": TALK[0]["content"], "assistant": "2 + 3 ="}},
        {"messages": TALK, "system": "All."},
    ]
    corpus = select([written(tmp_path / "rows.jsonl", rows)], needs_completion=False)
    with colm.load(files["base"], files["math"], **TINY_LOAD) as pair:
        made = respond(pair, corpus, tmp_path / "s", {"max_tokens": 6, "temperature": 0, "seed": 0})
        assert isinstance(made, Corpus)
        documents = [document for document in made.documents() if isinstance(document, Document)]
        asked = [
            chat_prompt(pair, TALK, system={"assistant": "Compute."}),
            chat_prompt(pair, TALK, own={"assistant": [{"role": "user", "content": "2 + 3 ="}]}),
            chat_prompt(pair, TALK, system="All."),
        ]
        texts = [pair.generate(p, head="always", lookahead=0, max_tokens=6, temperature=0) for p in asked]
    assert [document.completion for document in documents] == [text.text for text in texts]
    assert [document.template for document in documents] == [{"system": rows[0]["system"]}, {}, {"system": "All."}]
    assert [document.own_prompts for document in documents] == [{}, {"assistant": "2 + 3 ="}, {}]


def test_rows_of_a_batch(pair: colm.Pair, files: dict[str, Path], tmp_path: Path) -> None:
    """With --chat a prompt for each model becomes a message of a user for each, as in the other files."""
    rows: list[dict[str, Any]] = [
        {"prompt": TALK[0]["content"], "system": None},
        {"prompt": TALK[0]["content"], "system": {"math": "Compute."}},
        {"prompt": {"base": TALK[0]["content"], "math": "2 + 3 ="}},
        {"prompt": {"base": TALK[0]["content"], "math": "2 + 3 ="}, "system": {"math": "Compute."}},
        {"prompt": {"math": "2 + 3 ="}},
    ]
    models = ["--base", files["base"], *(part for name in NAMES[1:] for part in ("--expert", f"{name}={files[name]}"))]
    ask = ["--head", "always:math", "--chat", "--max-tokens", "6", "--temperature", "0", "--no-flash-attn", "--quiet"]
    load = ["--n-ctx", "256", "--type-k", "f32", "--type-v", "f32", *ONE_THREAD]
    batch = ["--batch", written(tmp_path / "rows.jsonl", rows), "--out", "-"]
    done = run("generate", *batch, *models, *ask, *load)
    assert done.exit_code == 1
    found = [json.loads(line) for line in done.stdout.splitlines()]
    own = {"math": [{"role": "user", "content": "2 + 3 ="}]}
    prompts = [
        chat_prompt(pair, TALK),
        chat_prompt(pair, TALK, system={"math": "Compute."}),
        chat_prompt(pair, TALK, own=own),
        chat_prompt(pair, TALK, own=own, system={"math": "Compute."}),
    ]
    options: dict[str, Any] = {"head": "always:math", "max_tokens": 6, "temperature": 0}
    assert [row.get("text") for row in found[:4]] == [pair.generate(prompt, **options).text for prompt in prompts]
    assert "give 'base'" in found[4]["error"]

"""Scores of unlike vocabularies: segments, what they hold, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import oracle as o
import pytest
import tiny_models as tm
import unlike_scores
from conftest import TinyModels
from scored_folders import Stop, assert_same, stop_after
from test_unlike_oracle import VOCABS, options_of
from unlike_scores import KINDS, LOAD, data_of, texts_of

from colm_cpp import learn
from colm_cpp.corpus.selection import select
from colm_cpp.learn import Scorer, Scores
from colm_cpp.learn.score_files import columns_of
from colm_cpp.learn.segments import lengths

files = unlike_scores.files
scorer = unlike_scores.scorer
corpus = unlike_scores.corpus
folder = unlike_scores.folder
three = unlike_scores.three


@pytest.fixture(scope="module")
def models(files: dict[str, Path]) -> Iterator[dict[str, o.OracleModel]]:
    made = {name: o.OracleModel(file, n_ctx=128, exact=True) for name, file in files.items()}
    yield made
    for model in made.values():
        model.close()


def logprobs(name: str, logits: o.F32) -> o.F64:
    """Of the ids that a model can choose."""
    vocab = VOCABS[KINDS[name]]
    values = logits.astype(np.float64)
    values[len(vocab.tokens) - vocab.n_padding :] = -math.inf
    return np.asarray(values - np.logaddexp.reduce(values))


@pytest.mark.parametrize("which", ["folder", "three"])
def test_rows_are_what_each_model_finds_of_its_own_tokens(
    which: str, models: dict[str, o.OracleModel], request: pytest.FixtureRequest
) -> None:
    """Every segment of some texts against models that read everything anew for each token."""
    folder: Path = request.getfixturevalue(which)
    scores = Scores(folder)
    names = ("base", "near") if which == "folder" else ("base", "near", "far")
    assert scores.unlike
    row = 0
    for text in texts_of(folder)[:4]:
        own = dict(zip(names, text["tokens_of"].values(), strict=True))
        for k, spans in enumerate(text["segments"]):
            pieces = {name: data_of(name, own[name][a:b]) for name, (a, b) in zip(names, spans, strict=True)}
            assert set(pieces.values()) == {pieces["base"]}, "the same bytes for all"
            pieces["base"].decode()  # whole characters
            assert scores["n_bytes"][row] == len(pieces["base"])
            assert scores["n_base_tokens"][row] == spans[0][1] - spans[0][0]
            assert k == 0 or all(a == b for (_, a), (b, _) in zip(text["segments"][k - 1], spans, strict=True))
            tops = {}
            for i, (name, (a, b)) in enumerate(zip(names, spans, strict=True)):
                ids, total, right = own[name], 0.0, True
                for t in range(a, b):
                    logits, hidden = models[name].logits_and_hidden(ids[:t])
                    known = logprobs(name, logits)
                    total += known[ids[t]]
                    right = right and int(known.argmax()) == ids[t]
                    if t == a:
                        tops[name] = known
                        if i == 0:
                            np.testing.assert_allclose(scores["base_hidden"][row], hidden, atol=2e-2)
                found = scores["base_logprob"][row] if i == 0 else scores.of_experts("logprob")[row, i - 1]
                assert found == pytest.approx(total, abs=2e-3)
                if which == "folder":
                    assert scores[f"{'base' if i == 0 else 'assistant'}_right"][row] == right
            for i, name in enumerate(names[1:]):
                check_tops(scores, row, i, tops["base"], tops[name], name)
            row += 1
    assert row > 20


def check_tops(scores: Scores, row: int, i: int, base: o.F64, other: o.F64, name: str) -> None:
    """The likeliest tokens, whether their texts differ, and what the expert makes of the base's."""
    one, two = int(base.argmax()), int(other.argmax())
    texts = [
        b"\xff" if vocab.tokens[top].text in (vocab.eos, vocab.bos) else vocab.piece(top)
        for vocab, top in ((VOCABS["qwen2"], one), (VOCABS[KINDS[name]], two))
    ]
    differs = not (texts[0].startswith(texts[1]) or texts[1].startswith(texts[0]))
    assert scores["base_top"][row] == one
    assert scores.of_experts("top")[row, i] == two
    who = "assistant_differs" if len(scores.experts) == 1 else "expert_differs"
    assert np.atleast_1d(scores[who][row])[i] == differs
    wanted = other[two]
    if differs and texts[0] != b"\xff":
        vocab = VOCABS[KINDS[name]]
        known = {
            vocab.piece(id_): id_
            for id_, token in reversed(list(enumerate(vocab.tokens)))
            if token.type in (tm.NORMAL, tm.BYTE)
        }
        length = next(n for n in range(len(texts[0]), 0, -1) if texts[0][:n] in known)
        wanted = other[known[texts[0][:length]]]
    if texts[0] != b"\xff":
        assert scores.of_experts("logprob_of_base_top")[row, i] == pytest.approx(wanted, abs=2e-3)


def test_sums_are_each_model_s_own_likelihood_of_the_text(folder: Path, files: dict[str, Path]) -> None:
    """Whatever the segments are: scored with a model of its own vocabulary, a text is as likely."""
    scores = Scores(folder)
    assert set(scores["text"].tolist()) == set(range(24))
    for model, (name, file) in enumerate({"base": files["base"], "assistant": files["near"]}.items()):
        with Scorer(file, file, **LOAD) as alone:
            assert alone.one_vocabulary
            for number, text in enumerate(texts_of(folder)):
                ids = text["tokens_of"][name]
                first, last = text["segments"][0][model][0], text["segments"][-1][model][1]
                marks = [int(first <= t < last) for t in range(len(ids))]
                found = alone.open_core().read(0, [(ids, marks)], 0, False, [])["logprob"].astype(np.float64)
                assert scores[f"{name}_logprob"][scores["text"] == number].sum() == pytest.approx(found.sum(), abs=1e-3)


def test_boundaries_are_where_the_text_may_be_handed_over(
    folder: Path, scorer: Scorer, models: dict[str, o.OracleModel]
) -> None:
    """Decision 0023: the tokens of the text up to there are the first of those of the whole text."""
    n = 0
    for text in texts_of(folder):
        for name, model in (("base", "base"), ("assistant", "near")):
            which = int(name != "base")
            ids = text["tokens_of"][name]
            begin = text["segments"][0][which][0]
            for spans in text["segments"]:
                written = data_of(model, ids[begin : spans[which][1]]).decode()
                again = scorer.tokenize("\x01" + written, False, False, name)
                skipped = len(scorer.tokenize("\x01", False, False, name)) if which else 0
                plain = again[skipped:] if which else scorer.tokenize(written, False, False, name)
                ended = spans[which][1] - spans[which][0] == 1 and not data_of(model, ids[spans[which][0] :])
                assert plain == ids[begin : spans[which][1] - ended]
                n += 1
    assert n > 200


def test_a_boundary_of_three_is_one_of_each_two(
    files: dict[str, Path], folder: Path, three: Path, corpus: Path, tmp_path: Path
) -> None:
    with Scorer(files["base"], files["far"], **LOAD) as scorer:
        learn.score(scorer, select([corpus]), tmp_path / "far")
    ends = [
        [{spans[0][1] for spans in text["segments"]} for text in texts_of(path)]
        for path in (folder, tmp_path / "far", three)
    ]
    for near, far, both in zip(*ends, strict=True):
        assert both == near & far
    assert len(Scores(three)) < len(Scores(tmp_path / "far"))
    assert Scores(three)["expert_right"].shape == (len(Scores(three)), 2)


def test_the_folder(folder: Path, scorer: Scorer, corpus: Path, tmp_path: Path) -> None:
    meta = Scores(folder).meta
    assert meta["version"] == 3
    assert list(meta["vocabularies"]) == ["assistant", "base"]
    assert len(set(meta["vocabularies"].values())) == 2
    assert {path.stem for path in folder.glob("*.npy")} == set(columns_of(meta))
    share, length = lengths(Scores(folder))
    texts = texts_of(folder)
    n_tokens = sum(spans[0][1] - spans[0][0] for text in texts for spans in text["segments"])
    assert share == pytest.approx(100 * len(Scores(folder)) / n_tokens)
    assert 20 < share < 100
    assert length * len(Scores(folder)) == pytest.approx(
        sum(len(json.loads(line)["completion"].encode()) for line in corpus.read_text().splitlines())
    )
    begun = tmp_path / "scores"
    with pytest.raises(Stop):
        learn.score(scorer, select([corpus]), begun, on_progress=stop_after(2))
    learn.score(scorer, select([corpus]), begun)
    assert_same(begun, folder)


def test_one_vocabulary_knows_nothing_of_segments(files: dict[str, Path], corpus: Path, tmp_path: Path) -> None:
    with Scorer(files["base"], files["base"], **LOAD) as alike:
        learn.score(alike, select([corpus]), tmp_path / "alike")
    meta = Scores(tmp_path / "alike").meta
    assert meta["version"] == 1
    assert "vocabularies" not in meta
    assert not (tmp_path / "alike" / "n_bytes.npy").exists()


def test_a_long_text_is_cut_at_boundaries(files: dict[str, Path], tmp_path: Path) -> None:
    """Every byte is in one segment of one part, but for what nothing stands before."""
    text = "The quick brown fox, über 日本 2024.\n  def f(self):\n\n" * 12
    (tmp_path / "long.txt").write_text(text)
    with Scorer(files["base"], files["far"], **{**LOAD, "n_ctx": 96}) as scorer:
        done = learn.score(scorer, select([tmp_path / "long.txt"]), tmp_path / "scores")
    texts = texts_of(tmp_path / "scores")
    assert done.n_texts == len(texts) > 3
    assert all(len(ids) <= 96 for text in texts for ids in text["tokens_of"].values())
    read = b"".join(data_of("base", text["tokens_of"]["base"]) for text in texts)
    assert read.decode() == text
    other = b"".join(data_of("far", text["tokens_of"]["assistant"]).removeprefix(b" " if k == 0 else b"")
                     for k, text in enumerate(texts))  # fmt: skip
    assert other.decode() == text
    # This base has no BOS: the first segment of each part has nothing before it.
    unread = [data_of("base", text["tokens_of"]["base"][: text["segments"][0][0][0]]) for text in texts]
    assert all(unread)
    assert Scores(tmp_path / "scores")["n_bytes"].sum() == len(text.encode()) - len(b"".join(unread))


def test_bad_rows_and_long_ones(scorer: Scorer, tmp_path: Path) -> None:
    rows = [
        {"prompt": "the river", "completion": " seven apples" * 60},
        {"prompt": "the river" * 60, "completion": " seven"},
        {"prompt": {"base": "the river", "assistant": "a city"}, "completion": " seven apples"},
        {"prompt": {"base": "the river", "other": "a city"}, "completion": " seven apples"},
        {"prompt": "x", "completion": " a▁b"},  # SPM makes a space of it
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    reasons: list[str] = []
    done = learn.score(
        scorer, select([path]), tmp_path / "s", on_progress=lambda p: reasons.extend(r.reason for r in p.bad_rows)
    )
    assert (done.n_texts, done.n_truncated, done.n_bad) == (2, 1, 3)
    assert [any(word in reason for reason in reasons) for word in ("fills the context", "'other'", "same text")] == [
        True
    ] * 3
    cut, own = texts_of(tmp_path / "s")
    assert max(len(ids) for ids in cut["tokens_of"].values()) <= 128
    assert data_of("near", own["tokens_of"]["assistant"]).startswith(b"a city seven")
    assert data_of("base", own["tokens_of"]["base"]).startswith(b"the river seven")


def test_each_reads_a_conversation_by_its_own_template(tiny_model: TinyModels, tmp_path: Path) -> None:
    base = tiny_model(**{**options_of("qwen2", 40), "chat_template": tm.CHATML})
    template = (
        "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}" + "{{ eos_token }}{% endfor %}"
    )
    template += "{% if add_generation_prompt %}[assistant]{% endif %}"
    other = tiny_model(**{**options_of("llama", 42), "chat_template": template})
    turns = [{"role": role, "content": f"the {role} {i}"} for i, role in enumerate(("user", "assistant") * 2)]
    path = tmp_path / "chat.jsonl"
    path.write_text(
        json.dumps({"messages": turns}) + "\n" + json.dumps({"prompt": "the", "completion": " river"}) + "\n"
    )
    with Scorer(base, other, **LOAD) as scorer:
        assert learn.score(scorer, select([path]), tmp_path / "s").n_bad == 0
    first, second = texts_of(tmp_path / "s")
    vocab = VOCABS["llama"]
    shown = b"".join(vocab.piece(i) for i in first["tokens_of"]["assistant"]).decode()
    assert shown.startswith("<s>")
    assert "[user]the user 0</s>" in shown.replace(" [", "[")
    ends = [spans for text in (first, second) for spans in text["segments"] if not data_of(
        "base", text["tokens_of"]["base"][spans[0][0] : spans[0][1]])]  # fmt: skip
    assert len(ends) == 3  # of two turns, and of one
    written = [data_of("base", first["tokens_of"]["base"][a:b]).decode() for (a, b), _ in first["segments"]]
    assert "".join(written) == "the assistant 1the assistant 3"
    # Rows of ends have no bytes and one token of each model.
    assert (Scores(tmp_path / "s")["n_bytes"] == 0).sum() == 3


def test_a_model_without_a_template_reads_the_base_s(tiny_model: TinyModels, tmp_path: Path) -> None:
    """What ends the base's turn is text to the other model, and no part of the answer."""
    base = tiny_model(**{**options_of("qwen2", 40), "chat_template": tm.CHATML})
    turns = [{"role": role, "content": f" the {role} {i}"} for i, role in enumerate(("user", "assistant") * 2)]
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps({"messages": turns}) + "\n")
    with Scorer(base, tiny_model(**options_of("gemma", 41)), **{**LOAD, "n_ctx": 256}) as scorer:
        assert learn.score(scorer, select([path]), tmp_path / "s").n_bad == 0
    (text,) = texts_of(tmp_path / "s")
    for number, (name, kind) in enumerate((("base", "base"), ("assistant", "near"))):
        ids = text["tokens_of"][name]
        written = [data_of(kind, ids[spans[number][0] : spans[number][1]]).decode() for spans in text["segments"]]
        assert "".join(written) == " the assistant 1 the assistant 3"
    shown = data_of("near", text["tokens_of"]["assistant"]).decode()
    assert shown.count("<|im_end|>") == 3, "read, and not scored"
    assert (Scores(tmp_path / "s")["n_bytes"] > 0).all()


def test_a_turn_that_ends_with_plain_text_is_scored_to_its_end(tiny_model: TinyModels, tmp_path: Path) -> None:
    """By both models, also by the one that has no template."""
    template = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }};{% endfor %}"
    template += "{% if add_generation_prompt %}[assistant]{% endif %}"
    base = tiny_model(**{**options_of("qwen2", 40), "chat_template": template})
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps({"prompt": "the", "completion": " river"}) + "\n")
    with Scorer(base, tiny_model(**options_of("gemma", 41)), **LOAD) as scorer:
        assert learn.score(scorer, select([path]), tmp_path / "s").n_bad == 0
    (text,) = texts_of(tmp_path / "s")
    for number, (name, kind) in enumerate((("base", "base"), ("assistant", "near"))):
        ids = text["tokens_of"][name]
        assert data_of(kind, ids[text["segments"][0][number][0] :]).decode() == " river;"

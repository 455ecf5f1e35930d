"""BOS, EOS, control tokens as stop strings, and what a tokenizer adds to a text."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import pytest
import tiny_models as tm
from conftest import TinyModels

import colm_cpp as colm
from colm_cpp.corpus.documents import Document
from colm_cpp.corpus.texts import Text, TextMaker
from colm_cpp.learn.scoring import Scorer

USER = [{"role": "user", "content": "the fox"}]
Load = Callable[..., colm.Pair]


@pytest.fixture(scope="module")
def load(tiny_model: TinyModels) -> Iterator[Load]:
    """`load(vocab, **base_options)`: a pair of one vocabulary."""
    pairs: list[colm.Pair] = []

    def get(vocab: tm.Vocab, **base: Any) -> colm.Pair:
        files = tiny_model(vocab=vocab, seed=1, **base), tiny_model(vocab=vocab, seed=2)
        pairs.append(colm.load(*files, "confidence", n_ctx=256, n_threads=1))
        return pairs[-1]

    yield get
    for pair in pairs:
        pair.close()


# -- EOS ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "vocab", [tm.Vocab(add_eos=True, add_bos=True), tm.Vocab.spm(add_eos=True)], ids=["bpe", "spm"]
)
def test_no_text_is_written_behind_eos(vocab: tm.Vocab, load: Load) -> None:
    pair = load(vocab, chat_template=tm.CHATML)
    bos, eos = (vocab.id_of(token) for token in (vocab.bos, vocab.eos) if token is not None)
    for ids in (pair.tokenize("the fox"), pair.tokenize_chat(USER), list(pair.stream("the fox").token_ids)):
        assert ids[0] == bos
        assert ids[-1] != eos
    assert pair.tokenize("the fox")[1:] == pair.tokenize("the fox", add_special=False)
    # An EOS that stands in the text is kept.
    assert pair.tokenize(f"the fox{vocab.eos}")[-1] == eos


def test_eos_that_only_one_model_would_add_does_not_matter(tiny_model: TinyModels) -> None:
    files = tiny_model(seed=1), tiny_model(seed=2, vocab=tm.Vocab(add_eos=True))
    with colm.load(*files, "confidence", n_ctx=64, n_threads=1) as pair:
        assert pair.generate("the fox", max_tokens=3, seed=1).tokens


# -- BOS ------------------------------------------------------------------------------------------------------


def test_a_file_that_names_neither_bos_nor_eos(load: Load) -> None:
    vocab = tm.Vocab(bos=None, eos=None, eot="<|im_end|>")
    pair = load(vocab)
    eleven = vocab.piece(11).decode()
    assert pair.base["bos_token"] is None
    assert pair.base["eos_token"] is None
    assert pair.base["eog_tokens"] == [vocab.id_of("<|endoftext|>"), vocab.id_of("<|im_end|>")]  # not 11
    template = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"
    assert pair.render_chat(USER, chat_template=template) == "the fox"
    assert eleven not in "the fox"
    assert pair.tokenize_chat(USER, chat_template=template) == pair.tokenize("the fox", add_special=False)
    # Not even where the file asks for a BOS that it does not name.
    asking = load(tm.Vocab(bos=None, add_bos=True))
    assert asking.base["add_bos"] is False
    assert asking.tokenize("the fox") == asking.tokenize("the fox", add_special=False)


def test_a_file_that_names_token_11(load: Load) -> None:
    pair = load(tm.Vocab(bos=11, add_bos=True))
    assert pair.tokenize("the fox")[0] == 11


@pytest.mark.parametrize("before", ["", "\n", " \n\t"])
@pytest.mark.parametrize("vocab", [tm.Vocab(add_bos=True), tm.Vocab.spm()], ids=["bpe", "spm"])
def test_a_template_that_writes_bos_gets_no_second(before: str, vocab: tm.Vocab, load: Load) -> None:
    pair = load(vocab)
    bos = vocab.id_of(str(vocab.bos))
    template = before + "{{ bos_token }}{{ messages[0].content }}"
    if before:
        template = "{{ '" + before.encode("unicode_escape").decode() + "' }}" + template.lstrip()
    tokens = pair.tokenize_chat(USER, chat_template=template)
    assert tokens.count(bos) == 1
    assert tokens == pair.tokenize(pair.render_chat(USER, chat_template=template), add_special=False)


# -- windows of long texts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("vocab", [tm.Vocab(add_bos=True), tm.Vocab.spm(), tm.Vocab()], ids=["bpe", "spm", "no bos"])
def test_every_window_of_a_long_text_begins_with_bos(vocab: tm.Vocab, tiny_model: TinyModels) -> None:
    with Scorer(tiny_model(vocab=vocab, seed=1), tiny_model(vocab=vocab, seed=2), n_ctx=16, n_threads=1) as scorer:
        make = TextMaker(scorer, scorer.base, n_shared=scorer.n_shared, n_ctx=16)
        words = "the river and the fox " * 12
        texts = list(make(Document("a.txt", 0, completion=words)))
        bos = [vocab.id_of(str(vocab.bos))] if vocab.add_bos else []
        content: list[int] = []
        assert len(texts) > 2
        for text in texts:
            assert isinstance(text, Text)
            assert list(text.tokens[: len(bos)]) == bos
            # Behind BOS the first token has something before it.
            assert text.scored == (False, *[True] * (len(text.tokens) - 1))
            assert len(text.tokens) == 16 or text is texts[-1]
            content += text.tokens[len(bos) :]
        assert content == scorer.tokenize(words, False, True)
        # And what is scored is what a text that begins so gives.
        last = texts[-2]
        assert isinstance(last, Text)
        alone, _ = scorer.score([last], top_k=1)
        together, _ = scorer.score([last], top_k=1)
        assert alone["base_logprob"].tobytes() == together["base_logprob"].tobytes()


# -- stop strings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vocab", [tm.Vocab(), tm.Vocab.spm()], ids=["bpe", "spm"])
def test_a_control_token_stops_the_text(vocab: tm.Vocab, load: Load) -> None:
    pair = load(vocab)
    control = vocab.id_of("<|im_start|>")
    options: dict[str, Any] = {"max_tokens": 40, "temperature": 0, "logit_bias": {control: 100.0}}
    free = pair.generate("the fox", **options)
    assert free.finish_reason == "length"
    assert {token.id for token in free.tokens} == {control}
    for stop in ("<|im_start|>", ["zzz", "<|im_start|>"]):
        alone = pair.generate("the fox", stop=stop, **options)
        (together,) = pair.generate_batch(["the fox"], stop=stop, **options)
        ahead = pair.generate("the fox", stop=stop, lookahead=4, **options)
        for result in (alone, together, ahead):
            assert isinstance(result, colm.Completion)
            assert result.finish_reason == "stop"
            assert [token.id for token in result.tokens] == [control]
            assert result.text == ""
    # A part of its text, or the text with more, is an ordinary stop string.
    for stop in ("<|im_start", "<|im_start|>user"):
        assert pair.generate("the fox", stop=stop, **options).finish_reason == "length"


def test_what_was_held_back_is_written_before_a_control_token(load: Load) -> None:
    vocab = tm.Vocab()
    pair = load(vocab)
    letter, control = vocab.id_of("a"), vocab.id_of("<|im_start|>")
    # "a" is held back, since "ab" may follow; then the control token comes.
    options: dict[str, Any] = {"temperature": 0, "logit_bias": {letter: 100.0}, "stop": ["ab", "<|im_start|>"]}
    first = pair.generate("the fox", max_tokens=1, **options)
    assert first.text == "a"
    bias = {letter: 100.0, control: 200.0}
    stopped = pair.generate("the fox", **{**options, "logit_bias": bias})
    assert (stopped.text, stopped.finish_reason) == ("", "stop")


# -- texts and their tokens -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["the fox", " the fox", "  two", "", "\n", "a <|im_start|>user\nhi<|im_end|> b", "é日"]
)
@pytest.mark.parametrize("vocab", [tm.Vocab.spm(), tm.Vocab(add_bos=True)], ids=["spm", "bpe"])
def test_a_whole_text_comes_back(vocab: tm.Vocab, text: str, load: Load) -> None:
    pair = load(vocab)
    ids = pair.tokenize(text)
    assert ids[0] == vocab.id_of(str(vocab.bos))
    assert pair.detokenize(ids, special=True) == str(vocab.bos) + text
    assert pair.detokenize(ids) == text.replace("<|im_start|>", "").replace("<|im_end|>", "")


def test_the_middle_of_a_text_keeps_its_space(load: Load) -> None:
    pair = load(tm.Vocab.spm())
    assert pair.detokenize(pair.tokenize("fox", add_special=False)) == " fox"
    written = pair.generate("the", max_tokens=20, seed=4, temperature=2.0)
    assert pair.detokenize([token.id for token in written.tokens]) == written.text


def test_a_vocabulary_without_byte_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add = gguf.GGUFWriter.add_tokenizer_model
    monkeypatch.setattr(gguf.GGUFWriter, "add_tokenizer_model", lambda writer, _: add(writer, "llama"))
    file = tm.make_model(tmp_path / "spm.gguf", vocab=tm.Vocab(n_merges=40))
    with colm.load(file, file, "entropy", n_ctx=64, n_threads=1) as pair:
        for attempt in (pair.tokenize, pair.generate):
            with pytest.raises(colm.TokenizeError, match="space"):
                attempt("The quick brown fox")
        assert pair.generate("<|im_start|>", max_tokens=1, seed=1, stop="the fox").tokens


def test_a_character_without_tokens_is_named(tmp_path: Path) -> None:
    vocab = tm.Vocab.spm()
    # Every byte but those of "ß" has a token.
    for byte in "ß".encode():
        vocab = vocab.replace_token(vocab.id_of(f"<0x{byte:02X}>"), f"gone{byte}", tm.NORMAL)
    file = tm.make_model(tmp_path / "spm.gguf", vocab=vocab)
    with colm.load(file, file, "entropy", n_ctx=64, n_threads=1) as pair:
        assert pair.tokenize("fox")
        with pytest.raises(colm.TokenizeError, match='"ß"'):
            pair.tokenize("a fox ß")


def test_token_ids_without_end(pair: colm.Pair) -> None:
    with pytest.raises(colm.ContextFull) as error:
        pair.generate(itertools.repeat(5))  # type: ignore[arg-type]
    assert (error.value.n_prompt, error.value.n_ctx) == (pair.n_ctx + 1, pair.n_ctx)
    (failed,) = pair.generate_batch([itertools.count()], return_exceptions=True)  # type: ignore[list-item]
    assert isinstance(failed, colm.ContextFull)
    assert pair.generate(iter([5, 6]), max_tokens=1, seed=1).tokens  # type: ignore[arg-type]


def test_no_end_of_ids_to_detokenize(pair: colm.Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("colm_cpp.engine.tokens.MAX_IDS", 100)
    with pytest.raises(colm.TokenizeError, match="100"):
        pair.detokenize(itertools.repeat(5))  # type: ignore[arg-type]
    assert pair.detokenize([ord("a")] * 100) == "a" * 100


# -- what chats may hold --------------------------------------------------------------------------------------


def test_tools_and_documents_reach_the_template(load: Load) -> None:
    template = "{{ tools|tojson }}{{ documents|map(attribute='title')|join }}{{ messages[-1].content is defined }}"
    pair = load(tm.Vocab(), chat_template=template)
    tools, documents = [{"type": "function", "function": {"name": "now"}}], [{"title": "Rivers", "text": "Two."}]
    rendered = '[{"type": "function", "function": {"name": "now"}}]RiversTrue'
    assert pair.render_chat(USER, tools=tools, documents=documents) == rendered
    given: dict[str, Any] = {"tools": tools, "documents": documents}
    assert pair.tokenize_chat(USER, **given) == pair.tokenize(rendered)
    stream = pair.stream_chat(USER, max_tokens=0, **given)
    stream.completion()
    assert list(stream.token_ids) == pair.tokenize(rendered)
    assert pair.chat(USER, max_tokens=1, seed=1, **given).tokens
    assert pair.render_chat(USER) == "nullTrue"
    for wrong in ("now", [print], {"name": "now"}, [1]):
        with pytest.raises(colm.ChatTemplateError, match="tools"):
            pair.chat(USER, tools=wrong)


def test_a_message_without_content(load: Load) -> None:
    pair = load(tm.Vocab(), chat_template="{{ messages[-1].content is defined }}{{ messages[-1].tool_calls|length }}")
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "now", "arguments": {}}}]}
    for message in (call, {**call, "content": None}):
        assert pair.render_chat([*USER, message]) == "False1"
    assert pair.render_chat([{"role": "user", "content": None}]) == "False0"
    with pytest.raises(colm.ChatTemplateError, match="content"):
        pair.render_chat([{"role": "user"}])

"""Which tokens of a text are scored."""

from __future__ import annotations

import math
from typing import Any

import pytest
import scorer_worlds
import tiny_models as tm
from conftest import ASSISTANT, BASE
from scorer_worlds import D, Scorers

from colm_cpp.corpus.documents import BadRow, Document
from colm_cpp.corpus.texts import Text, TextMaker
from colm_cpp.errors import ChatTemplateError
from colm_cpp.learn.scoring import Scorer

scorers = scorer_worlds.scorers


CHAT = {**BASE, "chat_template": tm.CHATML}


class Maker:
    """A text maker whose texts are shown as bytes."""

    def __init__(self, scorer: Scorer, vocab: tm.Vocab | None = None, n_ctx: int | None = None, **options: Any) -> None:
        self.vocab = vocab or tm.Vocab().with_tail(D)
        self.make = TextMaker(scorer, scorer.base, n_shared=scorer.n_shared, n_ctx=n_ctx or scorer.n_ctx, **options)

    def texts(self, **document: Any) -> list[Text | BadRow]:
        return list(self.make(Document("f.jsonl", 3, **document)))

    def text(self, **document: Any) -> Text:
        (text,) = self.texts(**document)
        assert isinstance(text, Text), text
        assert (text.path, text.line) == ("f.jsonl", 3)
        return text

    def parts(self, **document: Any) -> list[tuple[bool, bytes]]:
        """The runs of tokens that are scored and that are not, as text."""
        text = self.text(**document)
        assert len(text.scored) == len(text.tokens)
        assert text.n_scored == sum(text.scored)
        runs: list[tuple[bool, bytes]] = []
        for token, scored in zip(text.tokens, text.scored, strict=True):
            before = runs.pop()[1] if runs and runs[-1][0] == scored else b""
            runs.append((scored, before + self.vocab.piece(token)))
        return runs

    def bad(self, **document: Any) -> str:
        (bad,) = self.texts(**document)
        assert isinstance(bad, BadRow), bad
        assert (bad.path, bad.line) == ("f.jsonl", 3)
        return bad.reason


def test_prompt_and_completion_in_a_chat_template(scorers: Scorers) -> None:
    scorer = scorers(CHAT)
    opened = b"<|im_start|>user\nthe river<|im_end|>\n<|im_start|>assistant\n"
    # What the template writes behind the token that ends the turn is nothing that a model would write.
    expected = [(False, opened), (True, b"it is here<|im_end|>"), (False, b"\n")]
    document = {"prompt": "the river", "completion": "it is here"}
    assert Maker(scorer).parts(**document) == expected
    assert Maker(scorer, chat=True).parts(**document) == expected
    system = b"<|im_start|>system\nBe brief<|im_end|>\n"
    assert Maker(scorer, system="Be brief").parts(**document) == [(False, system + opened), *expected[1:]]
    ids = Maker(scorer).text(**document).tokens
    assert list(ids) == scorer.tokenize(b"".join(part for _, part in expected).decode(), True, True)


def test_prompt_and_completion_without_chat(scorers: Scorers) -> None:
    expected = [(False, b"the river"), (True, b" it is here<|im_end|>")]
    document = {"prompt": "the river", "completion": " it is here"}
    assert Maker(scorers(CHAT), chat=False).parts(**document) == expected
    assert Maker(scorers()).parts(**document) == expected  # the base has no template
    assert Maker(scorers(), system="unused").parts(**document) == expected
    with pytest.raises(ChatTemplateError, match=r"tiny-\d+\.gguf.*chat template"):
        Maker(scorers(), chat=True)


def test_the_token_that_ends_a_completion(scorers: Scorers) -> None:
    def last(**base: Any) -> bytes:
        scorer = scorers({**BASE, **base}, ASSISTANT)
        return Maker(scorer).parts(prompt="a", completion="b")[-1][1]

    assert last() == b"b<|im_end|>"
    assert last(eos="<|endoftext|>") == b"b<|endoftext|>"
    # A file may name as EOS a token that llama.cpp does not take for one, while another ends texts.
    names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    assert last(eos="<|endoftext|>", eot="<|im_end|>") == b"b<|endoftext|>"
    ends = scorers({**BASE, "eos": "<|endoftext|>", "eot": "<|im_end|>"}, ASSISTANT).base["eog_tokens"]
    assert ends == sorted(tm.Vocab().id_of(name) for name in names[::2])


def test_conversations(scorers: Scorers) -> None:
    messages = [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
        {"role": "assistant", "content": "four"},
    ]
    turn = b"<|im_start|>%s\n%s<|im_end|>\n"
    first = turn % (b"system", b"Be brief") + turn % (b"user", b"one") + b"<|im_start|>assistant\n"
    second = b"\n" + turn % (b"user", b"three") + b"<|im_start|>assistant\n"
    expected = [(False, first), (True, b"two<|im_end|>"), (False, second), (True, b"four<|im_end|>"), (False, b"\n")]
    for maker in (Maker(scorers(CHAT)), Maker(scorers(CHAT), chat=False, system="unused")):
        assert maker.parts(messages=tuple(messages)) == expected
    # Behind the last turn of the assistant nothing needs to be read.
    asked = (*messages, {"role": "user", "content": "five"})
    assert Maker(scorers(CHAT)).parts(messages=asked) == expected
    reason = Maker(scorers()).bad(messages=tuple(messages))
    assert "chat template" in reason


def test_a_greeting_is_read_and_not_learned_from(scorers: Scorers) -> None:
    turns = [("assistant", "Hello"), ("assistant", "there"), ("user", "one"), ("assistant", "two")]
    messages = tuple({"role": role, "content": content} for role, content in turns)
    turn = b"<|im_start|>%s\n%s<|im_end|>\n"
    first = turn % (b"assistant", b"Hello") + turn % (b"assistant", b"there") + turn % (b"user", b"one")
    expected = [(False, first + b"<|im_start|>assistant\n"), (True, b"two<|im_end|>"), (False, b"\n")]
    assert Maker(scorers(CHAT)).parts(messages=messages) == expected


def test_conversations_that_a_template_refuses(scorers: Scorers) -> None:
    def reason(template: str, *roles: str) -> str:
        messages = tuple({"role": role, "content": role} for role in roles)
        return Maker(scorers({**BASE, "chat_template": template})).bad(messages=messages)

    refusing = "{{ raise_exception('no system message, please') if messages[0].role == 'system' }}" + tm.CHATML
    assert "no system message, please" in reason(refusing, "system", "user", "assistant")
    assert "assistant" in reason(tm.CHATML, "assistant")
    assert "messages is empty" not in reason(tm.CHATML, "assistant", "assistant")
    # Some templates drop the thoughts of earlier turns, or end in something that the turn does not begin with.
    forgetful = "{% for m in messages[-2:] %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    assert "tokens" in reason(forgetful, "user", "assistant", "user", "assistant")
    thinking = tm.CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
    assert "tokens" in reason(thinking, "user", "assistant")
    messages = ({"role": "user\ud800", "content": "a"}, {"role": "assistant", "content": "b"})
    assert "lone surrogate" in Maker(scorers(CHAT)).bad(messages=messages)


def test_bos_is_not_doubled(scorers: Scorers) -> None:
    vocab = tm.Vocab(add_bos=True)
    bos = vocab.id_of("<|endoftext|>")
    messages = tuple({"role": role, "content": role} for role in ("user", "assistant") * 2)
    for template in (tm.CHATML, "{{ bos_token }}" + tm.CHATML):
        scorer = scorers({"vocab": vocab, "chat_template": template}, {"vocab": vocab})
        tokens = Maker(scorer, vocab).text(messages=messages).tokens
        assert tokens[0] == bos
        assert tokens.count(bos) == 1
    maker = Maker(scorer, vocab, chat=False)
    assert maker.parts(prompt="a", completion="b") == [(False, b"<|endoftext|>a"), (True, b"b<|im_end|>")]
    # With BOS before it, the first token of a text can be scored.
    assert maker.parts(completion="ab") == [(False, b"<|endoftext|>"), (True, b"ab")]


def test_sentencepiece_puts_no_space_before_a_completion(scorers: Scorers) -> None:
    vocab = tm.Vocab.spm()
    scorer = scorers({"vocab": vocab, "chat_template": tm.CHATML}, {"vocab": vocab})
    maker = Maker(scorer, vocab)
    text = maker.text(prompt="a", completion="the river")
    runs = maker.parts(prompt="a", completion="the river")
    assert [run for scored, run in runs if scored] == [b"the river<|im_end|>"]
    whole = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nthe river<|im_end|>\n"
    assert list(text.tokens) == scorer.tokenize(whole, True, True)
    messages = tuple({"role": role, "content": "the river"} for role in ("user", "assistant") * 2)
    runs = maker.parts(messages=messages)
    assert [run for scored, run in runs if scored] == [b"the river<|im_end|>"] * 2
    plain = Maker(scorer, vocab, chat=False)
    assert plain.parts(prompt="2+2=", completion="4") == [(False, b"<s> 2+2="), (True, b"4</s>")]


def test_a_completion_that_shares_a_token_with_its_prompt(scorers: Scorers) -> None:
    scorer = scorers()
    prompt, completion = "the ri", "ver"
    whole = scorer.tokenize(prompt + completion, True, True)
    begun = scorer.tokenize(prompt, True, True)
    assert whole[: len(begun)] != begun
    text = Maker(scorer).text(prompt=prompt, completion=completion)
    assert list(text.tokens) == [*begun, *scorer.tokenize(completion, False, True), tm.Vocab().id_of("<|im_end|>")]


def test_known_ids_are_taken_as_they_are(scorers: Scorers) -> None:
    ids = tuple(b"answer")  # bytes are tokens too, though no tokenizer would cut this word so
    scorer = scorers(CHAT)
    assert scorer.tokenize("answer", False, True) != list(ids)
    for maker in (Maker(scorer), Maker(scorer, chat=False)):
        text = maker.text(prompt="a", completion="answer", completion_ids=ids)
        assert text.tokens[-6:] == ids  # and no end is added that was not written
        assert text.scored == (False,) * (len(text.tokens) - 6) + (True,) * 6
    end = tm.Vocab().id_of("<|im_end|>")
    messages = tuple({"role": role, "content": "answer"} for role in ("user", "assistant") * 2)
    text = Maker(scorer).text(messages=messages, completion_ids=(*ids, end))
    assert text.tokens[-7:] == (*ids, end)
    assert text.scored[-7:] == (True,) * 7
    # Only the last turn is the one whose ids are known.
    assert text.tokens.count(end) == 4
    assert text.n_scored == 7 + len(scorer.tokenize("answer<|im_end|>", False, True))


def test_long_plain_texts_are_read_in_windows(scorers: Scorers) -> None:
    scorer = scorers()
    whole = "The quick brown fox jumps over the lazy dog, and then the other dog runs after the fox. " * 3
    ids = scorer.tokenize(whole, True, True)
    for n_ctx in (16, len(ids) - 1, len(ids), len(ids) + 1):
        texts = Maker(scorer, n_ctx=n_ctx).texts(completion=whole)
        windows = [text for text in texts if isinstance(text, Text)]
        left_over = len(ids) % n_ctx == 1  # one token alone has nothing before it
        assert len(windows) == len(texts) == math.ceil(len(ids) / n_ctx) - left_over
        assert [token for text in windows for token in text.tokens] == (ids[:-1] if left_over else ids)
        assert all(len(text.tokens) == n_ctx for text in windows[:-1])
        assert all(text.scored == (False, *(True,) * (len(text.tokens) - 1)) for text in windows)
        assert not any(text.truncated for text in windows)
    assert math.ceil(len(ids) / 16) > 3
    assert len(ids) % (len(ids) - 1) == 1  # so that the case above is one of them
    assert Maker(scorer).bad(completion="a") == "too short"


def test_completions_are_cut_at_the_end_of_the_context(scorers: Scorers) -> None:
    scorer = scorers()
    prompt, completion = "The quick brown fox", " jumps over the lazy dog"
    whole = Maker(scorer).text(prompt=prompt, completion=completion)
    n_prompt = len(scorer.tokenize(prompt, True, True))
    assert not whole.truncated
    for n_ctx in range(n_prompt + 1, len(whole.tokens) + 2):
        text = Maker(scorer, n_ctx=n_ctx).text(prompt=prompt, completion=completion)
        assert text.tokens == whole.tokens[:n_ctx]
        assert text.scored == whole.scored[:n_ctx]
        assert text.truncated == (n_ctx < len(whole.tokens))
    for n_ctx in (2, n_prompt - 1, n_prompt):
        reason = f"its prompt alone fills the context of {n_ctx} tokens"
        assert Maker(scorer, n_ctx=n_ctx).bad(prompt=prompt, completion=completion) == reason


def test_tokens_that_the_assistant_lacks(scorers: Scorers) -> None:
    maker = Maker(scorers(CHAT))
    reason = f"token {tm.Vocab().with_tail(D).id_of(D)} is one that the assistant lacks"
    assert maker.bad(prompt="a", completion=f"b{D}") == reason
    assert maker.bad(prompt=f"a{D}", completion="b") == reason
    assert maker.bad(completion=f"a{D}b") == reason
    assert maker.bad(messages=({"role": "user", "content": D}, {"role": "assistant", "content": "b"})) == reason

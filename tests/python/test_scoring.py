"""What both models think of each token, against the oracle; and which tokens of a document are scored."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import oracle as o
import pytest
import tiny_models as tm
from conftest import ASSISTANT, BASE, TINY_LOAD, TinyModels

from colm_cpp import _core
from colm_cpp.corpus.documents import BadRow, Document
from colm_cpp.corpus.texts import Text, TextMaker, grouped
from colm_cpp.errors import ChatTemplateError, ContextFull, GenerationError, OptionError, PairClosed, TokenizeError
from colm_cpp.learn.scoring import Scorer

D = tm.DEFER
TOP_K = 5
# Of log-probabilities, and of hidden states, whose float16 has steps of a thousandth of the value. gemma3's GELU is a
# table of float16 values, in which rounding may take the next entry.
TOLERANCE, GEMMA_TOLERANCE = 1e-3, 1e-2

# name -> options of the base, of the assistant, and of loading
PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "tails and padding of their own": (BASE, ASSISTANT, {}),
    "small batches": (BASE, {**ASSISTANT, "n_embd": 64}, {"n_batch": 5}),
    "padding inside": (
        {"vocab": tm.Vocab(n_padding=4, tail=(D,), tail_after_padding=True), "seed": 7},
        {"vocab": tm.Vocab(n_padding=4, tail=(D, "<|x|>"), tail_after_padding=True), "arch": "qwen2"},
        {"n_batch": 16},
    ),
    "recurrent base": ({"arch": "mamba", "extra_tail": (D,)}, {"arch": "llama"}, {}),
    "recurrent assistant": ({"arch": "qwen2"}, {"arch": "mamba", "n_padding": 2}, {"n_batch": 7}),
    "hybrids": ({"arch": "jamba", "seed": 3}, {"arch": "jamba", "seed": 4}, {"n_batch": 9}),
    "sliding window": (
        {"arch": "gemma3", "n_embd": 64},
        {"arch": "gemma3", "seed": 4, "n_padding": 3},
        {"n_ubatch": 3},
    ),
}

Scorers = Callable[..., Scorer]


@pytest.fixture(scope="module")
def scorers(tiny_model: TinyModels) -> Iterator[Scorers]:
    """`scorers(base_options, assistant_options, **load)`; equal arguments give the same one."""
    made: dict[str, Scorer] = {}

    def get(base: Any = BASE, assistant: Any = ASSISTANT, **load: Any) -> Scorer:
        key = repr((sorted(base.items()), sorted(assistant.items()), sorted(load.items())))
        if key not in made:
            made[key] = Scorer(tiny_model(**base), tiny_model(**assistant), **{**TINY_LOAD, **load})
        return made[key]

    yield get
    for scorer in made.values():
        scorer.close()


def text_of(tokens: Sequence[int], scored: Sequence[bool] | None = None, line: int = 1) -> Text:
    """A text with all of its tokens scored but the first, or with the marks given."""
    marks = [i > 0 for i in range(len(tokens))] if scored is None else scored
    return Text("corpus.jsonl", line, tuple(tokens), tuple(marks))


def some_texts(scorer: Scorer) -> list[Text]:
    """A plain text, a prompt with its completion, a long one, two turns, a last token alone, and two tokens."""
    ids = [
        scorer.tokenize(text, True, True)
        for text in (
            "The answer is that there are two rivers in the city.",
            "<|im_start|>user\nWhat is the name of the river?<|im_end|>\n<|im_start|>assistant\nthe answer<|im_end|>",
            "The quick brown fox jumps over the lazy dog, " * 2,
            "caf\u00e9 na\u00efve \u65e5\u672c\u8a9e \U0001f600",
            "def function(self, value):\n    return value",
        )
    ]
    turns = [i % 11 in (3, 4, 5, 9) for i in range(len(ids[3]))]
    return [
        text_of(ids[0]),
        text_of(ids[1], [i >= len(ids[1]) - 6 for i in range(len(ids[1]))], 2),
        text_of(ids[2], line=3),
        text_of(ids[3], turns, 4),
        text_of(ids[4], [i == len(ids[4]) - 1 for i in range(len(ids[4]))], 5),
        text_of(ids[4][:2], line=6),
    ]


def expected_columns(base: Path, assistant: Path, texts: Sequence[Text], allowed: Sequence[int]) -> dict[str, Any]:
    """The columns, each token's text read from its beginning by llama.cpp itself."""
    rows: dict[str, list[Any]] = {}

    def add(**values: Any) -> None:
        for name, value in values.items():
            rows.setdefault(name, []).append(value)

    with o.OracleModel(base, exact=True) as small, o.OracleModel(assistant, exact=True) as large:
        for text in texts:
            for i in (i for i, scored in enumerate(text.scored) if scored):
                token = allowed.index(text.tokens[i])
                logits, hidden = small.logits_and_hidden(text.tokens[:i])
                p = o.log_softmax(logits[list(allowed)])
                q = o.log_softmax(large.logits_and_hidden(text.tokens[:i])[0][list(allowed)])
                add(
                    token=text.tokens[i],
                    base_logprob=p[token],
                    base_top=allowed[int(p.argmax())],
                    base_top_logprob=p.max(),
                    base_log_odds=o.log_odds(p),
                    base_entropy=o.entropy(p),
                    base_top_k_logprobs=np.sort(p)[::-1][:TOP_K],
                    base_hidden=hidden,
                    assistant_logprob=q[token],
                    assistant_top=allowed[int(q.argmax())],
                    assistant_top_logprob=q.max(),
                    assistant_entropy=o.entropy(q),
                    assistant_logprob_of_base_top=q[p.argmax()],
                )
    return {name: np.array(values) for name, values in rows.items()}


# -- the columns ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAIRS)
def test_columns(name: str, scorers: Scorers, tiny_model: TinyModels) -> None:
    base, assistant, load = PAIRS[name]
    scorer = scorers(base, assistant, **load)
    blocked = [i for i, token in enumerate(tm.Vocab(n_padding=4).tokens) if token.type == tm.UNUSED]
    blocked = blocked if name == "padding inside" else []
    allowed = [i for i in range(scorer.n_shared) if i not in blocked]
    texts = some_texts(scorer)
    n = scorer.n_texts
    groups = [scorer.score(texts[i : i + n], top_k=TOP_K) for i in range(0, len(texts), n)]
    together = {column: np.concatenate([columns[column] for columns, _ in groups]) for column in groups[0][0]}
    expected = expected_columns(tiny_model(**base), tiny_model(**assistant), texts, allowed)
    assert n == min(16, load.get("n_batch", 256))
    assert all(seconds > 0 for _, seconds in groups)

    tolerance = GEMMA_TOLERANCE if "gemma3" in (base.get("arch"), assistant.get("arch")) else TOLERANCE
    assert set(together) == set(expected)
    for column, values in expected.items():
        assert together[column].shape == values.shape, column
        if values.dtype.kind == "i":
            np.testing.assert_array_equal(together[column], values, column)
        else:
            np.testing.assert_allclose(
                together[column].astype(np.float64), values, atol=tolerance, rtol=tolerance, err_msg=column
            )
    assert together["base_hidden"].dtype == np.float16
    assert set(together["base_top"]) | set(together["assistant_top"]) <= set(allowed)

    # Alone as in company, in whatever place and after whatever was read before.
    alone = [scorer.score([text], top_k=TOP_K)[0] for text in reversed(texts)][::-1]
    for column in expected:
        joined = np.concatenate([columns[column] for columns in alone])
        np.testing.assert_allclose(
            joined.astype(np.float64), together[column], atol=tolerance, rtol=tolerance, err_msg=column
        )


def test_ids_of_the_tails_are_out_of_the_distribution(scorers: Scorers, tiny_model: TinyModels) -> None:
    # Rows of ids that are not shared are made so likely that they would take nearly all probability.
    vocab = tm.Vocab(n_padding=4, tail=(D,), tail_after_padding=True)
    likely: dict[str | int, float] = dict.fromkeys(range(vocab.id_of("[PAD387]"), vocab.id_of("[PAD387]") + 4), 30.0)
    plain = {"vocab": vocab, "seed": 5}
    base, assistant = {**plain, "extra_tail": ("<|x|>",)}, {**plain, "seed": 6}
    texts = some_texts(scorers(base, assistant))
    columns = scorers(base, assistant).score(texts, top_k=TOP_K)[0]
    loud_base = {**base, "row_scale": {**likely, "<|x|>": 30.0}}
    loud_assistant = {**assistant, "row_scale": likely}
    loud = scorers(loud_base, loud_assistant).score(texts, top_k=TOP_K)[0]
    for column in columns:
        np.testing.assert_allclose(loud[column], columns[column], atol=1e-5, err_msg=column)
    with o.OracleModel(tiny_model(**loud_base), exact=True) as model:
        logits = model.logits_and_hidden(texts[0].tokens[:3])[0]
    assert logits.argmax() >= vocab.id_of("[PAD387]")


def test_texts_that_are_refused(scorers: Scorers) -> None:
    scorer = scorers()
    good = text_of([1, 2, 3])
    assert scorer.n_shared == len(tm.Vocab())
    for token in (-1, scorer.n_shared, scorer.n_shared + 50):
        with pytest.raises(TokenizeError, match=f"token 1 of text 1 is id {token}"):
            scorer.score([good, text_of([1, token])], top_k=1)
    inside = scorers(*PAIRS["padding inside"][:2], **PAIRS["padding inside"][2])
    with pytest.raises(TokenizeError, match="is id 388"):
        inside.score([text_of([1, 388])], top_k=1)
    with pytest.raises(OptionError, match="scored from its first token"):
        scorer.score([text_of([1, 2], [True, True])], top_k=1)
    with pytest.raises(ContextFull, match="17 texts"):
        scorer.score([good] * 17, top_k=1)
    with pytest.raises(ContextFull, match="257 tokens"):
        scorer.score([text_of([1] * 200), text_of([1] * 57)], top_k=1)
    # What was refused leaves no trace.
    columns = scorer.score([text_of([1] * 200), text_of([1] * 56)], top_k=1)[0]
    assert len(columns["token"]) == 254


def test_a_lone_surrogate_is_no_text(scorers: Scorers) -> None:
    with pytest.raises(TokenizeError, match=r"lone surrogate \('\\ud800'\)"):
        scorers().tokenize("a\ud800", True, True)


def test_closed(tiny_model: TinyModels) -> None:
    with Scorer(tiny_model(**BASE), tiny_model(**ASSISTANT), **TINY_LOAD) as scorer:
        scorer.score([text_of([1, 2])], top_k=1)
    with pytest.raises(PairClosed, match="closed"):
        scorer.score([text_of([1, 2])], top_k=1)
    with pytest.raises(PairClosed):
        scorer.tokenize("a", True, True)


def test_lengths(tiny_model: TinyModels) -> None:
    options = {name: value for name, value in TINY_LOAD.items() if name != "n_ctx"}
    trained = {"n_ctx_train": 4096}
    with Scorer(tiny_model(**BASE, **trained), tiny_model(**ASSISTANT, **trained), **options) as scorer:
        assert scorer.n_ctx == 1024
    contexts = {"base_options": {"n_ctx": 64}, "assistant_options": {"n_ctx": 128}}
    with Scorer(tiny_model(**BASE), tiny_model(**ASSISTANT), **options, **contexts) as scorer:  # type: ignore[arg-type]
        assert (scorer.base["n_ctx"], scorer.assistant["n_ctx"], scorer.n_ctx) == (64, 128, 64)
        with pytest.raises(ContextFull, match="65 tokens"):
            scorer.score([text_of([1] * 65)], top_k=1)


class WrongCore:
    """The extension's pair with one value replaced in what it computed."""

    def __init__(self, core: _core.ScoringPair, model: int, name: str, row: int, value: float) -> None:
        self.core, self.model, self.name, self.row, self.value = core, model, name, row, value

    def score(self, texts: Any, top_k: int, own: Any) -> Any:
        scores = self.core.score(texts, top_k, own)
        np.atleast_2d(scores[self.model][self.name].T).T[self.row, -1] = self.value
        return scores


@pytest.mark.parametrize(
    ("model", "name", "value", "said"),
    [
        (0, "logprob", -math.inf, "the base's log-probability is -inf"),
        (1, "logprob", math.nan, "the assistant's log-probability is nan"),
        (0, "hidden", math.nan, "the base's hidden state is nan"),
        (0, "hidden", -65504.0, "the base's hidden state is 65504.0"),  # more has no float16
    ],
)
def test_values_that_cannot_be_kept(
    model: int, name: str, value: float, said: str, scorers: Scorers, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = scorers()
    texts = [text_of([1, 2, 3], line=4), text_of([1, 2, 3, 4], line=8)]
    monkeypatch.setattr(scorer, "_core", WrongCore(scorer.open_core(), model, name, 2, value))
    with pytest.raises(GenerationError, match=rf"^{said} .*token 2\b.*corpus\.jsonl:8$"):
        scorer.score(texts, top_k=1)
    monkeypatch.setattr(scorer, "_core", WrongCore(scorer._core.core, 0, "hidden", 2, 65000.0))  # type: ignore[union-attr]
    assert scorer.score(texts, top_k=1)[0]["base_hidden"][2, -1] == np.float16(65000.0)


# -- which tokens are scored ----------------------------------------------------------------------------------

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


# -- groups ---------------------------------------------------------------------------------------------------


def test_groups() -> None:
    def sizes(items: list[int], **limits: int) -> list[list[int]]:
        """The lengths of the texts in each group; a negative length is a bad row."""
        made: list[Text | BadRow] = [
            BadRow("f", -n, "bad") if n < 0 else Text("f", 0, (1,) * n, (True,) * n) for n in items
        ]
        groups = list(grouped(iter(made), **limits))
        return [[len(text.tokens) for text in texts] + [-row.line for row in bad] for texts, bad in groups]

    limits = {"n_tokens": 10, "n_texts": 3}
    assert sizes([], **limits) == []
    assert sizes([10, 1, 9, 1], **limits) == [[10], [1, 9], [1]]
    assert sizes([1, 1, 1, 1], **limits) == [[1, 1, 1], [1]]
    assert sizes([11, 1], **limits) == [[11], [1]]
    # Whoever goes on behind a group has passed all of its rows and none of the next.
    assert sizes([-1, 4, -2, 4, -3, 4, -4], **limits) == [[4, 4, -1, -2, -3], [4, -4]]
    assert sizes([-1, -2], **limits) == [[-1, -2]]
    for items in ([3, 4, 5, -1, 6, 7, -2, 1, 1, 1, 1, -3], [9, 2, 2, 2, 2, 2, -1, 10]):
        groups = sizes(items, **limits)
        n_first = len(groups[0])
        assert sizes(items[n_first:], **limits) == groups[1:]

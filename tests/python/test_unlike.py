"""Pairs of unlike vocabularies: what they take, refuse and say. What they write is test_unlike_oracle.py's."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tiny_models as tm
from commands import run
from conftest import TINY_LOAD, TinyModels

import colm_cpp as colm
from colm_cpp.engine.own_prompts import chat_prompt
from colm_cpp.evaluate.bench import run_bench
from colm_cpp.server.texts import Text

LLAMA = tm.Vocab.spm(n_merges=100)
BASE: dict[str, Any] = {
    "seed": 61,
    "n_padding": 3,
    "chat_template": "{{ messages[0]['content'] }} is",
    "vocab": tm.Vocab(),
}
SPM: dict[str, Any] = {
    "seed": 62,
    "vocab": LLAMA,
    "chat_template": "<|im_start|>{{ messages[0]['content'] }}<|im_end|>",
}


@pytest.fixture(scope="module")
def unlike(tiny_model: TinyModels) -> Iterator[colm.Pair]:
    """A BPE base and an SPM assistant."""
    with colm.load(tiny_model(**BASE), tiny_model(**SPM), "random", n_parallel=2, **TINY_LOAD) as pair:
        yield pair


def test_what_the_pair_says(unlike: colm.Pair, shared_pairs: Callable[..., colm.Pair]) -> None:
    assert not unlike.one_vocabulary
    assert unlike.n_shared == 0
    alike = shared_pairs()
    assert alike.one_vocabulary
    assert alike.n_shared == len(tm.Vocab())
    text = "the quick"
    ids = unlike.tokenize(text, model="assistant")
    assert ids[0] == LLAMA.id_of("<s>")
    assert unlike.detokenize(ids, model="assistant") == text
    assert ids != unlike.tokenize(text)
    with pytest.raises(colm.OptionError, match="the models of this pair are base, assistant"):
        unlike.tokenize(text, model="other")


def test_both_write_and_tokens_are_of_their_writers(unlike: colm.Pair) -> None:
    out = unlike.generate("The quick", threshold=0.5, max_tokens=40, seed=3, temperature=0.0, logprobs=2)
    assert {token.source for token in out.tokens} == {"base", "assistant"}
    vocabs = {"base": tm.Vocab(), "assistant": LLAMA}
    written = b"".join(
        vocabs[t.source].piece(t.id) for t in out.tokens if vocabs[t.source].tokens[t.id].type in (tm.NORMAL, tm.BYTE)
    )
    assert written.decode(errors="replace") == out.text == "".join(token.text for token in out.tokens)
    for token in out.tokens:
        assert len(token.top_logprobs) == 2
        for top in token.top_logprobs:
            assert top.text == vocabs[token.source].piece(top.id).decode(errors="replace")
    assert out.stats.waited_tokens > 0
    assert out.stats.reread_tokens == sum(of.tokens_reread for of in out.stats.experts.values()) > 0
    assert out.stats.experts["assistant"].calls > out.stats.experts["assistant"].tokens


def test_token_ids_are_the_base_s_and_each_model_may_have_its_own(unlike: colm.Pair) -> None:
    options: dict[str, Any] = {"threshold": 0.4, "max_tokens": 12, "seed": 5, "temperature": 0.0}
    text = unlike.generate("what is the", **options)
    assert unlike.generate(unlike.tokenize("what is the"), **options).text == text.text
    own = {name: unlike.tokenize("what is the", model=name) for name in ("base", "assistant")}
    assert unlike.generate(own, **options).text == text.text
    other = unlike.generate({"base": "what is the", "assistant": "not the same"}, **options)
    assert other.text != text.text
    with pytest.raises(colm.TokenizeError, match="the assistant knows the ids from 0 to"):
        unlike.generate({"base": [1], "assistant": [100_000]}, **options)


def test_a_control_token_of_both_stays_one(unlike: colm.Pair) -> None:
    """<|im_start|> is a control token of both, <s> of one."""
    prompt = "<|im_start|>the"
    options: dict[str, Any] = {"head": "always", "max_tokens": 6, "temperature": 0.0}
    from_text = unlike.generate(prompt, **options)
    ids = [
        LLAMA.id_of("<s>"),
        LLAMA.id_of("<|im_start|>"),
        *unlike.tokenize("the", add_special=False, model="assistant"),
    ]
    assert from_text.text == unlike.generate({"base": prompt, "assistant": ids}, **options).text


def test_each_chats_by_its_own_template(unlike: colm.Pair) -> None:
    messages = [{"role": "user", "content": "the river"}]
    prompt = chat_prompt(unlike, messages)
    assert isinstance(prompt, dict)
    assert unlike.detokenize(prompt["base"], special=True) == "the river is"
    assert unlike.detokenize(prompt["assistant"], special=True, model="assistant").startswith("<s><|im_start|>")
    options: dict[str, Any] = {"threshold": 0.4, "max_tokens": 10, "seed": 1, "temperature": 0.0}
    out = unlike.chat(messages, **options)
    assert out.text == unlike.generate(prompt, **options).text
    assert [out.text] == [c.text for c in unlike.generate_batch([messages], **options)]
    of_server = Text(unlike, prompt, colm.GenerationOptions(**options))
    assert of_server.n_prompt == len(prompt["base"])
    assert of_server._stream.completion().text == out.text
    one = unlike.chat(messages, chat_template="{{ messages[0]['content'] }} is", **options)
    assert one.text == unlike.generate("the river is", **options).text


def test_a_grammar_constrains_both(unlike: colm.Pair) -> None:
    grammar = 'root ::= ("the " | "über "){12}'
    out = unlike.generate("a", threshold=0.5, max_tokens=-1, seed=9, temperature=0.9, grammar=grammar)
    assert {token.source for token in out.tokens} == {"base", "assistant"}
    assert re.fullmatch("(the |über ){12}", out.text)
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string", "maxLength": 5}},
        "required": ["a"],
        "additionalProperties": False,
    }
    made = unlike.generate(
        "a", threshold=0.5, max_tokens=-1, seed=2, response_format={"type": "json_object", "schema": schema}
    )
    assert set(json.loads(made.text)) == {"a"}
    assert {token.source for token in made.tokens} == {"base", "assistant"}


def test_no_hand_over_inside_a_full_stop_and_its_line_break(tiny_model: TinyModels) -> None:
    """The assistant has one token for both, which it never saw as two."""
    lines = tm.Vocab.spm(n_merges=100, tail=((".\n", tm.NORMAL),))
    files = tiny_model(**BASE), tiny_model(seed=62, vocab=lines)
    with colm.load(*files, "random", **TINY_LOAD) as pair:
        text = pair.generate(
            "a", threshold=0.5, max_tokens=-1, seed=9, temperature=0.0, grammar='root ::= ([a-z] "." "\\n"){30}'
        )
    assert text.text.count(".\n") == 30
    behind = [(one.source, two.source) for one, two in pairwise(text.tokens) if (one.text, two.text) == (".", "\n")]
    assert behind.count(("base", "base")) > 5
    assert ("base", "assistant") not in behind


def test_penalties_see_what_both_wrote(tiny_model: TinyModels) -> None:
    """Letter by letter, each in both vocabularies: no model repeats one, whoever wrote it."""
    vocabs = tm.Vocab(n_merges=1), tm.Vocab(n_merges=1, specials=("<a>", "<b>"), bos="<a>", eos="<b>")
    letters = (tiny_model(seed=64 + i, vocab=vocab) for i, vocab in enumerate(vocabs))
    options: dict[str, Any] = {"threshold": 0.5, "temperature": 0.0, "grammar": "root ::= [a-z]{20}", "seed": 4}
    with colm.load(*letters, "random", **TINY_LOAD) as pair:
        strict = pair.generate("1", presence_penalty=50.0, **options)
        assert len(set(strict.text)) == len(strict.text) == 20
        assert {token.source for token in strict.tokens} == {"base", "assistant"}
        assert len(set(pair.generate("1", **options).text)) < 20


def test_stop_strings_and_control_tokens_of_either(unlike: colm.Pair) -> None:
    options: dict[str, Any] = {"threshold": 0.5, "max_tokens": 60, "seed": 3, "temperature": 0.0}
    whole = unlike.generate("The quick", **options)
    stop = whole.text[10:13]
    out = unlike.generate("The quick", stop=[stop], **options)
    assert out.text == whole.text[: whole.text.index(stop)]
    assert out.finish_reason == "stop"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"strategy": "compose"}, "compose"),
        ({"strategy": "contrastive"}, "contrastive"),
        ({"logit_bias": {5: -1.0}}, "logit_bias names token 5"),
        ({"grammar": "root ::= <|im_end|>"}, "the grammar names tokens"),
    ],
)
def test_what_needs_ids_that_all_share_is_refused(unlike: colm.Pair, options: dict[str, Any], says: str) -> None:
    with pytest.raises(colm.OptionError, match="unlike vocabularies") as error:
        unlike.generate("a", **options)
    assert says.replace("|", "\\|") in str(error.value) or says in str(error.value)


def test_a_wrong_draft_is_counted(unlike: colm.Pair) -> None:
    """Two strangers: hardly a draft token is right, and what was read of them counts as read again."""
    options: dict[str, Any] = {"threshold": 0.5, "max_tokens": 30, "temperature": 0.0, "seed": 8}
    plain, ahead = (unlike.generate("The quick", lookahead=n, **options) for n in (0, 6))
    assert [(t.source, t.id) for t in ahead.tokens] == [(t.source, t.id) for t in plain.tokens]
    assert not plain.stats.lookahead
    assert ahead.stats.lookahead
    assert plain.stats.drafted_tokens == 0
    assert ahead.stats.drafted_tokens - ahead.stats.accepted_tokens > 5
    assert ahead.stats.reread_tokens > plain.stats.reread_tokens + 5
    assert ahead.stats.assistant_calls <= plain.stats.assistant_calls


def test_the_text_ends_where_one_context_is_full(tiny_model: TinyModels) -> None:
    """The assistant needs more tokens for the same text: its bytes one by one."""
    bytes_only = tm.Vocab(n_merges=1)
    with colm.load(
        tiny_model(**BASE), tiny_model(seed=5, vocab=bytes_only), "never", **{**TINY_LOAD, "n_ctx": 64}
    ) as pair:
        out = pair.generate("the quick brown fox jumps", max_tokens=-1, temperature=0.0)
        assert out.finish_reason in ("length", "eos")
        n_bytes = len("the quick brown fox jumps") + len(out.text.encode())
        assert out.finish_reason == "eos" or 64 <= n_bytes < 64 + 16


def test_sessions(unlike: colm.Pair, tmp_path: Path) -> None:
    options: dict[str, Any] = {"threshold": 0.5, "max_tokens": 20, "seed": 6, "temperature": 0.0}
    prompt = "one in the north and one in the south" * 2
    first = unlike.generate(prompt, **options)
    unlike.save_session(tmp_path / "session")
    unlike.forget()
    unlike.load_session(tmp_path / "session")
    again = unlike.generate(prompt, **options)
    assert again.text == first.text
    assert again.stats.base_tokens_read < first.stats.base_tokens_read


def test_decodes_are_repeated_for_the_bench(unlike: colm.Pair) -> None:
    unlike.forget()
    stream = unlike.stream("the quick brown", threshold=0.5, max_tokens=20, seed=3, temperature=0.0)
    stream.completion()
    assert len(unlike.replay(stream.token_ids, stream.calls)) == len(stream.calls)
    bench = run_bench(unlike, n_tokens=4, rounds=1, prompt="the")
    assert all(arm.tokens_per_s.median > 0 for arm in bench.arms)


def test_a_vocabulary_that_may_change_text_is_refused(tiny_model: TinyModels, tmp_path: Path) -> None:
    other = tmp_path / "rwkv.gguf"
    other.write_bytes(tiny_model(**BASE).read_bytes().replace(b"gpt2", b"rwkv"))
    for pair in ((tiny_model(**BASE), other), (other, tiny_model(**SPM))):
        with pytest.raises(colm.VocabMismatch, match="RWKV"):
            colm.load(*pair, **TINY_LOAD)


def test_a_vocabulary_without_bytes_is_refused(tiny_model: TinyModels) -> None:
    without = tiny_model(seed=66, vocab=LLAMA.replace_token(LLAMA.id_of("<0x01>"), "no byte", tm.NORMAL))
    with pytest.raises(colm.LoadError, match="no tokens for single bytes"):
        colm.load(tiny_model(**BASE), without, **TINY_LOAD)


def test_the_first_two_of_three_share_a_vocabulary(tiny_model: TinyModels) -> None:
    experts: Any = {"near": tiny_model(seed=63), "far": tiny_model(**SPM)}
    with colm.load(tiny_model(**BASE), experts=experts, **TINY_LOAD) as pair:
        near = pair.generate("the", head="always:near", max_tokens=20, temperature=0.0)
        assert near.stats.waited_tokens == near.stats.reread_tokens == 0
        with colm.load(tiny_model(**BASE), tiny_model(seed=63), "always", **TINY_LOAD) as alike:
            assert alike.generate("the", max_tokens=20, temperature=0.0).text == near.text


def test_inspect_says_how_much_is_alike(tiny_model: TinyModels) -> None:
    arguments = ("inspect", "--base", tiny_model(**BASE), "--assistant", tiny_model(**SPM))
    pair = json.loads(run(*arguments, "--json").stdout)["pair"]
    assert pair["compatible"] is True
    assert pair["one_vocabulary"] is False
    pieces = [
        {v.piece(i) for i, t in enumerate(v.tokens) if t.type in (tm.NORMAL, tm.BYTE)} for v in (tm.Vocab(), LLAMA)
    ]
    both = len(pieces[0] & pieces[1])
    shares = {"of_base": both / len(pieces[0]), "of_expert": both / len(pieces[1])}
    assert pair["overlap"] == {"assistant": {"texts": both, **shares}}
    shown = run(*arguments)
    assert f"{both} ({both / len(pieces[0]):.0%} of the base's" in " ".join(shown.stdout.split())
    alike = json.loads(
        run("inspect", "--base", tiny_model(**BASE), "--assistant", tiny_model(seed=63), "--json").stdout
    )
    assert alike["pair"]["one_vocabulary"] is True
    assert "overlap" not in alike["pair"]

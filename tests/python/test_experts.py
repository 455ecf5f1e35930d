"""Several experts beside the base: how they are named, loaded, asked, counted, and what is refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import expert_files
import numpy as np
import pytest
import tiny_models as tm
from adapter_files import N_EMBD, write_adapter
from conftest import TINY_LOAD, TinyModels, ids
from expert_files import BASE, PROMPT

import colm_cpp as colm
from colm_cpp.engine.loading import prepare
from colm_cpp.engine.memory import ModelMemory, PairMemory
from colm_cpp.options import read_experts
from colm_cpp.traces.trace import read_trace, write_trace

files = expert_files.files
pair = expert_files.pair


def head_for(*names: str, bias: float = 0.0, seed: int = 3) -> colm.Head:
    """A linear head with a row of weights for each name, the same for the same name."""
    rows = [np.random.default_rng([seed, *name.encode()]).normal(0, 0.4, N_EMBD) for name in names]
    return colm.Head.linear(np.array(rows), np.full(len(names), bias), expert_names=names)


def alone(files: dict[str, Path], name: str, **options: Any) -> list[int]:
    """What a model writes by itself."""
    with colm.load(files["base"], files[name], "always", **TINY_LOAD) as pair:
        return [token.id for token in pair.generate(PROMPT, temperature=0, max_tokens=10, **options).tokens]


def test_names_and_counts(pair: colm.Pair) -> None:
    assert pair.names == ("base", "math", "code")
    assert list(pair.experts) == ["math", "code"]
    with pytest.raises(colm.OptionError, match="math and code"):
        _ = pair.assistant
    out = pair.generate(PROMPT, head=head_for("math", "code"), max_tokens=40, seed=5, temperature=1.0)
    names = {0: "base", 1: "math", 2: "code"}
    assert {token.source for token in out.tokens} == set(names.values())
    assert all(token.source == names[token.expert] for token in out.tokens)
    written = [*out.tokens, *([out.end_token] if out.end_token else [])]
    for name, work in out.stats.experts.items():
        assert work.tokens == sum(token.source == name for token in written)
        assert work.calls > 0
        assert work.seconds > 0.0
        assert work.tokens_read > 0
    assert out.stats.assistant_calls == sum(work.calls for name, work in out.stats.experts.items() if name != "base")
    assert json.loads(json.dumps(out.to_dict()))["stats"]["experts"]["code"]["tokens"] > 0


def test_one_that_is_not_needed_reads_nothing(pair: colm.Pair) -> None:
    out = pair.generate(PROMPT, head="random:code", max_tokens=20, seed=1)
    assert out.stats.experts["code"].tokens > 0
    assert out.stats.experts["math"] == colm.ExpertStats(0, 0, 0, 0.0)


@pytest.mark.parametrize("name", ["math", "code"])
def test_an_expert_alone(pair: colm.Pair, files: dict[str, Path], name: str) -> None:
    out = pair.generate(PROMPT, head=f"always:{name}", temperature=0, max_tokens=10)
    assert [token.id for token in out.tokens] == alone(files, name)
    assert {token.source for token in out.tokens} == {name}


def test_assistant_is_short_for_an_expert_of_that_name(files: dict[str, Path]) -> None:
    options: dict[str, Any] = {"max_tokens": 16, "seed": 4}
    with (
        colm.load(files["base"], files["math"], "random", **TINY_LOAD) as one,
        colm.load(files["base"], experts={"assistant": files["math"]}, head="random", **TINY_LOAD) as other,
    ):
        texts = [pair.generate(PROMPT, **options) for pair in (one, other)]
        assert texts[0].tokens == texts[1].tokens
        assert one.names == other.names == ("base", "assistant")
        assert one.assistant == one.experts["assistant"]


def test_one_expert_has_the_name_that_it_was_given(files: dict[str, Path]) -> None:
    with colm.load(files["base"], experts={"math": files["math"]}, head="always", **TINY_LOAD) as pair:
        assert pair.generate(PROMPT, max_tokens=2, temperature=0).tokens[0].source == "math"
        assert pair.assistant["path"] == str(files["math"])


def test_the_heads_order_does_not_matter(pair: colm.Pair) -> None:
    options: dict[str, Any] = {"max_tokens": 20, "seed": 2}
    texts = [pair.generate(PROMPT, head=head_for(*names), **options) for names in (("math", "code"), ("code", "math"))]
    assert ids(texts[0]) == ids(texts[1])


def test_training_free_heads_need_a_name(pair: colm.Pair, tmp_path: Path) -> None:
    for head in ("confidence", "entropy", "random", "always", tm.DEFER, colm.Head.confidence(N_EMBD)):
        with pytest.raises(colm.HeadError, match=r"math and code.*:math"):
            pair.generate(PROMPT, head=head, max_tokens=1)
    assert {t.source for t in pair.generate(PROMPT, head="never", max_tokens=4, temperature=0).tokens} == {"base"}
    named = colm.Head.confidence(N_EMBD, expert_names=("code",))
    texts = [pair.generate(PROMPT, head=head, max_tokens=12, seed=1) for head in (named, "confidence:code")]
    assert [token.source for token in texts[0].tokens] == [token.source for token in texts[1].tokens]
    head_for("math", "code").save(tmp_path / "two.gguf")
    with pytest.raises(colm.HeadError, match="leave out ':code'"):
        pair.generate(PROMPT, head=f"{tmp_path / 'two.gguf'}:code")


def test_heads_of_other_experts_are_refused(pair: colm.Pair, files: dict[str, Path]) -> None:
    with pytest.raises(colm.HeadMismatch, match=r"math and law.*math and code"):
        pair.generate(PROMPT, head=head_for("math", "law"), max_tokens=1)
    with (
        colm.load(files["base"], files["math"], **TINY_LOAD) as two,
        pytest.raises(colm.HeadMismatch, match="math and code"),
    ):
        two.generate(PROMPT, head=head_for("math", "code"), max_tokens=1)


def test_head_files(tmp_path: Path) -> None:
    """New ones carry the names; those of one number are written as before."""
    head = head_for("math", "code")
    head.save(tmp_path / "two.gguf")
    again = colm.Head.load(tmp_path / "two.gguf")
    assert again.expert_names == ("math", "code")
    assert np.array_equal(again.weights[0], head.weights[0])
    assert np.array_equal(again.biases[0], head.biases[0])
    colm.Head.confidence(N_EMBD).save(tmp_path / "one.gguf")
    data = (tmp_path / "one.gguf").read_bytes()
    assert b"expert_names" not in data
    assert colm.Head.load(tmp_path / "one.gguf").expert_names == ()
    inputs = np.random.default_rng(1).normal(size=(4, N_EMBD))
    z = head.scores(inputs)
    assert z.shape == (4, 2)
    assert head.defer_logits(inputs) == pytest.approx(np.log(np.exp(z).sum(axis=1)))


@pytest.mark.parametrize("names", [("base", "math"), ("math", "math"), ("1", "2"), "ab", tuple("abcdefghij")])
def test_names_of_a_head_that_cannot_be(names: Any) -> None:
    with pytest.raises(colm.HeadError, match="expert_names"):
        colm.Head.linear(np.zeros((len(names), 4)), expert_names=names)


@pytest.mark.parametrize(
    "experts",
    [{}, [], {"base": "x"}, {"a b": "x"}, {"": "x"}, {str(i) + "a": "x" for i in range(3)}, {"a": {"n_ctx": 3}}],
)
def test_experts_that_cannot_be(files: dict[str, Path], experts: Any) -> None:
    with pytest.raises(colm.OptionError, match=r"experts? "):
        colm.load(files["base"], experts=experts)


def test_what_stands_in_place_of_what(files: dict[str, Path]) -> None:
    for more in ({"assistant": files["math"]}, {"assistant_options": {}}, {"pair": "demo"}):
        with pytest.raises(colm.OptionError, match="experts="):
            colm.load(files["base"], experts={"math": files["math"]}, **more)  # type: ignore[arg-type]


def test_errors_name_the_expert(files: dict[str, Path], tiny_model: TinyModels, tmp_path: Path) -> None:
    other = tmp_path / "rwkv.gguf"  # a tokenizer that may change a text
    other.write_bytes(tiny_model().read_bytes().replace(b"gpt2", b"rwkv"))
    with pytest.raises(colm.VocabMismatch, match="the expert code") as error:
        colm.load(files["base"], experts={"math": files["math"], "code": other}, **TINY_LOAD)
    assert error.value.expert == "code"
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(files["code"].read_bytes()[:-1000])
    with pytest.raises(colm.LoadError, match="the expert code"):
        colm.load(files["base"], experts={"math": files["math"], "code": broken}, **TINY_LOAD)
    model = ModelMemory.of(str(files["code"]), colm.LoadOptions())
    memory = PairMemory((model,) * 3, (10**9,) * 3, 512, ("base", "math", "code"), (0, 1, 2))
    with pytest.raises(colm.NotEnoughMemory, match=r"base .*, math .*, code "):
        memory.check_load([1, 1, 1], 1)


def test_options_of_one_expert(files: dict[str, Path]) -> None:
    experts = {"math": {"model": files["math"], "n_batch": 7}, "code": files["code"]}
    with colm.load(files["base"], experts=experts, **TINY_LOAD) as pair:
        assert [facts["n_batch"] for facts in pair.experts.values()] == [7, 256]


def test_adapters_share_the_weights(files: dict[str, Path], tmp_path: Path) -> None:
    """Two experts of the base's file, each with an adapter, write what they write with a file of their own."""
    adapters = [write_adapter(tmp_path / f"{seed}.gguf", seed) for seed in (1, 2)]
    experts = {
        name: {"model": files["base"], "lora": adapter} for name, adapter in zip(("law", "tax"), adapters, strict=True)
    }
    texts = []
    with colm.load(files["base"], experts=experts, **TINY_LOAD) as pair:
        for name in ("law", "tax"):
            texts.append(pair.generate(PROMPT, head=f"always:{name}", temperature=0, max_tokens=10))
        texts.append(pair.generate(PROMPT, head="never", temperature=0, max_tokens=10))
        assert [facts["adapters"][0]["path"] for facts in pair.experts.values()] == [str(a) for a in adapters]
        # A wider batch has contexts of its own, with the same adapters.
        batch = pair.generate_batch([PROMPT] * 2, head="always:tax", temperature=0, max_tokens=10, n_parallel=2)
        assert [t.id for t in batch[0].tokens] == [t.id for t in texts[1].tokens]
    own = []
    for adapter in adapters:
        options: Any = {"lora": adapter}
        with colm.load(files["base"], files["base"], "always", assistant_options=options, **TINY_LOAD) as one:
            own.append(one.generate(PROMPT, temperature=0, max_tokens=10))
    assert [[t.id for t in text.tokens] for text in texts[:2]] == [[t.id for t in text.tokens] for text in own]
    assert len({tuple(t.id for t in text.tokens) for text in texts}) == 3


def test_a_shared_file_is_loaded_once(files: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    experts = {
        "law": {"model": files["base"], "lora": write_adapter(tmp_path / "1.gguf", 1)},
        "plain": files["base"],
        "code": files["code"],
        "copied": {"model": files["base"], "use_mmap": False},
    }
    caplog.set_level(logging.DEBUG, "colm_cpp.llama")
    with colm.load(files["base"], experts=experts, **TINY_LOAD):
        pass
    loaded = [record.message for record in caplog.records if "loaded meta data" in record.message]
    assert [str(files["base"]) in line for line in loaded] == [True, False, True]
    names = ["base", *experts]
    options = [colm.LoadOptions(), *(colm.LoadOptions.merge({}, e.options) for e in read_experts(experts))]
    paths = {name: files["code"] if name == "code" else files["base"] for name in names}
    memory = prepare(paths, options, check_memory=True)[1]
    assert memory is not None
    assert memory.shares == (0, 0, 0, 3, 4)


def test_a_session_keeps_all_models(pair: colm.Pair, files: dict[str, Path], tmp_path: Path) -> None:
    head = head_for("math", "code", bias=1.0)
    options: dict[str, Any] = {"head": head, "temperature": 0, "max_tokens": 24}
    pair.forget()
    first = pair.generate(PROMPT, **options)
    pair.save_session(tmp_path / "session")
    experts = {"math": files["math"], "code": files["code"]}
    with colm.load(files["base"], experts=experts, **TINY_LOAD) as other:
        other.load_session(tmp_path / "session")
        again = other.generate(PROMPT, **options)
        assert [t.id for t in again.tokens] == [t.id for t in first.tokens]
        assert all(
            work.tokens_read < first.stats.experts[name].tokens_read for name, work in again.stats.experts.items()
        )
    swapped = {"code": files["code"], "math": files["math"]}
    with colm.load(files["base"], experts=swapped, **TINY_LOAD) as other, pytest.raises(colm.SessionMismatch):
        other.load_session(tmp_path / "session")
    with colm.load(files["base"], files["math"], **TINY_LOAD) as two, pytest.raises(colm.SessionMismatch):
        two.load_session(tmp_path / "session")


def test_traces_have_names_and_numbers(pair: colm.Pair, tmp_path: Path) -> None:
    out = pair.generate(PROMPT, head=head_for("math", "code"), max_tokens=20, seed=5)
    write_trace(tmp_path / "trace", out)
    trace = read_trace(tmp_path / "trace")[0]
    assert [(t.source, t.expert) for t in trace.tokens] == [(t.source, t.expert) for t in out.tokens]
    line = json.loads((tmp_path / "trace").read_text().splitlines()[1])
    for wrong in ({"expert": 0, "source": "math"}, {"expert": 2, "source": "base"}, {"expert": 1, "source": ""}):
        (tmp_path / "wrong").write_text('{"format": "colm-trace", "version": 1}\n' + json.dumps({**line, **wrong}))
        with pytest.raises(colm.CorpusError, match="source"):
            read_trace(tmp_path / "wrong")


# -- prompts of their own


def test_each_reads_its_own_prompt(pair: colm.Pair, files: dict[str, Path]) -> None:
    """The chosen expert writes behind its own prompt what it writes behind that prompt alone."""
    prompts = {"base": "Once", "code": PROMPT}
    out = pair.generate(prompts, head="always:code", temperature=0, max_tokens=10)
    assert [token.id for token in out.tokens] == alone(files, "code")
    others = pair.generate(prompts, head="always:math", temperature=0, max_tokens=10)
    plain = pair.generate("Once", head="always:math", temperature=0, max_tokens=10)
    assert [token.id for token in others.tokens] == [token.id for token in plain.tokens]
    assert out.stats.prompt_tokens == len(pair.tokenize("Once"))
    batch = pair.generate_batch([prompts, "Once"], head="always:code", temperature=0, max_tokens=10, n_parallel=2)
    assert [token.id for token in batch[0].tokens] == [token.id for token in out.tokens]


def test_prompts_that_cannot_be(pair: colm.Pair) -> None:
    for prompts, kind, words in (
        ({"base": "a", "law": "b"}, colm.OptionError, "law.*base, math, code"),
        ({"base": "a", "code": ""}, colm.TokenizeError, "prompt of code"),
        ({"base": "a", "code": 3}, colm.TokenizeError, "prompt of code"),
        ({"code": "a"}, colm.TokenizeError, "prompt"),
        ({"base": "a", "code": [1] * 300}, colm.ContextFull, "prompt of code has 300"),
    ):
        with pytest.raises(kind, match=words):
            pair.generate(prompts, head="never", max_tokens=1)  # type: ignore[arg-type]


def test_chat_with_templates_of_their_own(tiny_model: TinyModels) -> None:
    plain = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    base = tiny_model(**BASE, chat_template=plain)
    own = tiny_model(seed=3, n_embd=N_EMBD, chat_template="Q {{ messages[-1].content }} A")
    messages: list[Any] = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    with colm.load(base, experts={"math": own, "code": own}, **TINY_LOAD) as pair:
        options: dict[str, Any] = {"temperature": 0, "max_tokens": 8}

        def written(who: str, prompt: Any = None, **template: Any) -> list[int]:
            head = f"always:{who}"
            if prompt is not None:
                return [t.id for t in pair.generate(prompt, head=head, **options).tokens]
            return [t.id for t in pair.chat(messages, head=head, **template, **options).tokens]

        rendered = pair.render_chat(messages)
        assert rendered == "system: Be kind.\nuser: Hi\n"
        assert written("math") == written("math", rendered)
        # None is the template in that model's own file, for that model alone.
        assert written("math", chat_template={"math": None}) == written("math", "Q Hi A")
        assert written("code", chat_template={"math": None}) == written("code", rendered)
        assert written("code", chat_template={"code": "X{{ messages[0].content }}"}) == written("code", "XBe kind.")
        system = {"math": "Compute.", "code": None}
        assert written("math", system=system) == written("math", "system: Compute.\nuser: Hi\n")
        assert written("code", system=system) == written("code", "user: Hi\n")
        assert pair.render_chat(messages, system="Other.") == "system: Other.\nuser: Hi\n"
        with pytest.raises(colm.OptionError, match="system names"):
            pair.chat(messages, system={"law": "x"}, head="never")

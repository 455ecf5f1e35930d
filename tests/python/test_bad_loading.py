"""What load() and head= refuse, and how they say it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import bad_input
import numpy as np
import pytest
import tiny_models as tm
from bad_input import FAST, INF, NAN, VOCAB, load, says

import colm_cpp as colm
from colm_cpp import _core, errors

folder = bad_input.folder
pair = bad_input.pair
still_usable = bad_input.still_usable


# -- loading --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["base", "assistant"])
@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("missing.gguf", None, ["no file"]),
        ("empty.gguf", b"", ["GGUF"]),
        ("text.gguf", b"Once upon a time there was no model here.", ["not a GGUF file"]),
        ("magic.gguf", b"GGUF", ["damaged"]),
        ("pickle.gguf", b"\x80\x04\x95", ["not a GGUF file"]),
    ],
)
def test_file_that_is_no_model(
    folder: Path, tmp_path: Path, role: str, name: str, content: bytes | None, parts: list[str]
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(errors.LoadError) as error:
        load(folder, **{role: path})
    says(error, path, *parts)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (".", ["folder", ".gguf"]),
        ("head.gguf", ["deferral head", "head="]),
        ("adapter.gguf", ["LoRA adapter", "lora="]),
    ],
)
@pytest.mark.parametrize("role", ["base", "assistant"])
def test_another_thing_in_place_of_a_model(folder: Path, role: str, name: str, parts: list[str]) -> None:
    with pytest.raises(errors.LoadError) as error:
        load(folder, **{role: folder / name})
    says(error, folder / name if name != "." else folder, *parts)


def test_truncated_model_names_both_sizes(folder: Path, tmp_path: Path) -> None:
    data = (folder / "base.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(data[:-1000])
    with pytest.raises(errors.LoadError) as error:
        load(folder, base=tmp_path / "cut.gguf")
    says(error, tmp_path / "cut.gguf", len(data) - 1000, len(data), "download it again")


@pytest.mark.parametrize("value", [None, 5, b"base.gguf", ["base.gguf"]])
def test_model_path_of_a_wrong_type(folder: Path, value: object) -> None:
    with pytest.raises(TypeError, match=f"base.*{type(value).__name__}"):
        load(folder, base=value)


@pytest.mark.parametrize("path", ["", "\0", "base.gguf\0", "\ud800.gguf", "x" * 5000])
@pytest.mark.parametrize("where", ["base", "assistant", "lora", "head"])
def test_path_that_no_file_has(folder: Path, where: str, path: str) -> None:
    given = str(folder / path) if path else path
    wanted = (errors.LoadError, errors.HeadError) if where == "head" else errors.LoadError
    with pytest.raises(wanted) as error:
        load(folder, **{where: given})
    assert len(str(error.value)) > 10


@pytest.mark.parametrize("path", ["head.gguf\0", "\ud800.gguf", "", "."])
def test_head_path_that_no_file_has(folder: Path, path: str) -> None:
    with pytest.raises(errors.LoadError):
        colm.Head.load(str(folder / path) if path else "")


def mismatch(folder: Path, base: Path, assistant: Path) -> errors.VocabMismatch:
    """How two vocabularies differ. The pair can be loaded; what needs shared ids says this."""
    with load(folder, base=base, assistant=assistant) as pair:
        assert not pair.one_vocabulary
    vocabularies = [_core.Vocabulary.loaded(str(file)) for file in (base, assistant)]
    with pytest.raises(errors.VocabMismatch) as error:
        vocabularies[0].shared_with(vocabularies[1])
    return error.value


@pytest.mark.parametrize("swap", [False, True])
def test_vocabularies_that_differ_in_a_token(folder: Path, tmp_path: Path, swap: bool) -> None:
    other = tm.make_model(tmp_path / "other.gguf", vocab=VOCAB.replace_token(100, "zzz").replace_token(200, "yyy"))
    pair = (other, folder / "assistant.gguf")
    error = mismatch(folder, *(pair[::-1] if swap else pair))
    texts = ["zzz", "d"]
    assert error.token_id == 100
    assert [error.base_text, error.assistant_text] == (texts[::-1] if swap else texts)
    for part in ("token 100", '"zzz"', '"d"', "one tokenizer"):
        assert part in str(error)


@pytest.mark.parametrize(
    ("vocab", "part"),
    [
        (tm.Vocab.spm(), "SPM"),
        (dataclasses.replace(VOCAB, add_bos=True), "adds token 384"),
    ],
    ids=["type", "bos"],
)
@pytest.mark.parametrize("swap", [False, True])
def test_vocabularies_that_behave_differently(
    folder: Path, tmp_path: Path, vocab: tm.Vocab, part: str, swap: bool
) -> None:
    other = tm.make_model(tmp_path / "other.gguf", vocab=vocab)
    pair = (other, folder / "assistant.gguf")
    error = mismatch(folder, *(pair[::-1] if swap else pair))
    assert error.token_id == -1
    assert error.base_text != error.assistant_text
    assert part in str(error)


@pytest.mark.parametrize(
    "options",
    [
        {"n_padding": 13},
        {"extra_tail": ("<|more|>", ("tuned", tm.USER_DEFINED))},
        {"extra_tail": ("<|more|>",), "n_padding": 5},
        {"vocab": tm.Vocab(n_padding=5, tail=("<|late|>",), tail_after_padding=True)},
    ],
    ids=["padding", "tail", "tail and padding", "tail behind padding"],
)
@pytest.mark.parametrize("swap", [False, True])
def test_tails_are_allowed(folder: Path, tmp_path: Path, options: dict[str, Any], swap: bool) -> None:
    other = tm.make_model(tmp_path / "other.gguf", seed=5, **options)
    files = (other, folder / "assistant.gguf")
    with load(folder, **dict(zip(("base", "assistant"), files[::-1] if swap else files, strict=True))) as pair:
        assert pair.n_shared == len(VOCAB)
        result = pair.generate("the fox", max_tokens=30, seed=1, threshold=0.9)
        assert all(token.id < len(VOCAB) for token in result.tokens)
        with pytest.raises(errors.TokenizeError) as error:
            pair.generate([len(VOCAB)])
        says(error, len(VOCAB), len(VOCAB) - 1)


LOAD_OPTIONS: list[tuple[str, object, type[Exception], list[object]]] = [
    ("n_ctx", 1, errors.OptionError, ["n_ctx", 1, 2, 2**28]),
    ("n_ctx", -1, errors.OptionError, ["n_ctx", -1]),
    ("n_ctx", 2**28 + 1, errors.OptionError, ["n_ctx", 2**28 + 1, 2**28]),
    ("n_ctx", 2.5, errors.OptionError, ["n_ctx", 2.5]),
    ("n_ctx", "many", errors.OptionError, ["n_ctx", "many"]),
    ("n_ctx", True, errors.OptionError, ["n_ctx", True]),
    ("n_batch", 0, errors.OptionError, ["n_batch", 0, 2**20]),
    ("n_batch", -5, errors.OptionError, ["n_batch", -5]),
    ("n_batch", 2**20 + 1, errors.OptionError, ["n_batch", 2**20 + 1, 2**20]),
    ("n_batch", None, errors.OptionError, ["n_batch", None]),
    ("n_ubatch", 0, errors.OptionError, ["n_ubatch", 0]),
    ("n_threads", 0, errors.OptionError, ["n_threads", 0, 512]),
    ("n_threads", -1, errors.OptionError, ["n_threads", -1]),
    ("n_threads", 100_000, errors.OptionError, ["n_threads", 100_000, 512]),
    ("n_threads_batch", 100_000, errors.OptionError, ["n_threads_batch", 100_000, 512]),
    ("n_gpu_layers", -2, errors.OptionError, ["n_gpu_layers", -2]),
    ("main_gpu", -1, errors.OptionError, ["main_gpu", -1]),
    ("main_gpu", 2**40, errors.OptionError, ["main_gpu", 2**40]),
    ("split_mode", "both", errors.OptionError, ["split_mode", "both", "layer"]),
    ("tensor_split", [1.0] * 100, errors.OptionError, ["tensor_split", 100, "at most"]),
    ("tensor_split", [1, -0.5], errors.OptionError, ["tensor_split", -0.5]),
    ("tensor_split", [NAN], errors.OptionError, ["tensor_split", "NaN"]),
    ("tensor_split", [INF], errors.OptionError, ["tensor_split", "inf"]),
    ("tensor_split", ["a"], errors.OptionError, ["tensor_split", "a"]),
    ("tensor_split", [10**400], errors.OptionError, ["tensor_split"]),
    ("tensor_split", 0.5, errors.OptionError, ["tensor_split", 0.5]),
    ("type_k", "q7", errors.OptionError, ["type_k", "q7", "q8_0"]),
    ("type_k", 8, errors.OptionError, ["type_k", 8, "q8_0"]),
    ("rope_freq_base", -1, errors.OptionError, ["rope_freq_base"]),
    ("rope_freq_base", NAN, errors.OptionError, ["rope_freq_base", "NaN"]),
    ("rope_freq_base", INF, errors.OptionError, ["rope_freq_base"]),
    ("rope_freq_scale", "x", errors.OptionError, ["rope_freq_scale", "x"]),
    ("rope_freq_scale", 10**400, errors.OptionError, ["rope_freq_scale"]),
    ("lora", 5, errors.OptionError, ["lora", 5]),
    ("lora", [5], errors.OptionError, ["lora", 5]),
    ("lora", [(5, 1.0)], errors.OptionError, ["lora", 5]),
    ("lora", [("a.gguf", NAN)], errors.OptionError, ["scale", "NaN"]),
    ("lora", [("a.gguf", "x")], errors.OptionError, ["scale", "x"]),
    ("lora", "missing.gguf", errors.LoadError, ["missing.gguf"]),
    ("lora", ["missing.gguf"], errors.LoadError, ["missing.gguf"]),
    ("n_ctxx", 5, TypeError, ["n_ctxx", "did you mean 'n_ctx'"]),
    ("zzz", 5, TypeError, ["zzz", "n_ctx"]),
    ("base_options", {"n_threadz": 1}, TypeError, ["n_threadz", "n_threads"]),
    ("assistant_options", {"n_batch": 0}, errors.OptionError, ["n_batch", 0]),
]


@pytest.mark.parametrize(
    ("name", "value", "wanted", "parts"), LOAD_OPTIONS, ids=[f"{o[0]}={str(o[1])[:20]}" for o in LOAD_OPTIONS]
)
def test_load_option(folder: Path, name: str, value: object, wanted: type[Exception], parts: list[object]) -> None:
    with pytest.raises(wanted) as error:
        load(folder, **{name: value})
    assert error.type is wanted
    says(error, *parts)


@pytest.mark.parametrize(
    "options",
    [
        {"n_ctx": 2},
        {"n_ctx": 0},
        {"n_ctx": None},
        {"n_batch": 2**20},
        {"n_batch": 16, "n_ubatch": 512},
        {"n_batch": 1, "n_ubatch": 1},
        {"main_gpu": 99},
        {"main_gpu": 99, "split_mode": "none"},
        {"tensor_split": [0, 0]},
        {"tensor_split": []},
        {"type_k": "bf16", "type_v": "f32"},
        {"use_mlock": True, "use_mmap": False},
        {"lora": []},
    ],
    ids=str,
)
def test_unusual_load_options_work_or_are_refused(folder: Path, options: dict[str, Any]) -> None:
    try:
        pair = load(folder, **options)
    except colm.ColmError:
        assert "main_gpu" in options  # depends on the machine
        return
    with pair:
        assert pair.generate("a", max_tokens=1, seed=1).stats.generated_tokens == 1


@pytest.mark.parametrize("flash_attn", [True, False, None])
@pytest.mark.parametrize("name", ["type_k", "type_v"])
def test_quantised_cache_of_heads_that_are_no_blocks(folder: Path, name: str, flash_attn: bool | None) -> None:
    with pytest.raises(errors.OptionError) as error:
        load(folder, **{name: "q8_0", "flash_attn": flash_attn})
    says(error, name, 32, folder / "base.gguf", 8, "f16")


def test_quantised_cache_of_values_needs_flash_attention(tmp_path: Path) -> None:
    path = tm.make_model(tmp_path / "wide.gguf", n_embd=128)
    for flash_attn in (True, None):
        with colm.load(path, path, "confidence", type_v="q8_0", type_k="q4_0", flash_attn=flash_attn, **FAST) as pair:
            assert pair.generate("the fox", max_tokens=3, seed=1).tokens
    with pytest.raises(errors.OptionError) as error:
        colm.load(path, path, "confidence", type_v="q8_0", flash_attn=False, **FAST)
    says(error, "type_v", "flash")


def test_context_beyond_the_memory(folder: Path) -> None:
    with pytest.raises(errors.NotEnoughMemory) as error:
        load(folder, n_ctx=2**28)
    assert isinstance(error.value, MemoryError)
    assert error.value.needed > error.value.available > 0
    says(error, f"{error.value.needed / 1e9:.1f} GB", f"{error.value.available / 1e9:.1f} GB", "n_ctx", "check_memory")


def test_progress_that_raises(folder: Path) -> None:
    class Mine(Exception):
        pass

    raised = Mine("in the callback")

    def progress(done: float) -> None:
        if done > 0.5:
            raise raised

    with pytest.raises(Mine) as error:
        load(folder, progress=progress)
    assert error.value is raised
    with load(folder) as pair:
        assert pair.generate("a", max_tokens=1, seed=1).tokens


@pytest.mark.parametrize("stop_at", [0.0, 0.5, 1.0])
def test_progress_that_says_stop(folder: Path, stop_at: float) -> None:
    calls: list[float] = []

    def progress(done: float) -> bool:
        calls.append(done)
        return done < stop_at

    with pytest.raises(errors.LoadError) as error:
        load(folder, progress=progress)
    says(error, "progress", "False")
    assert calls == sorted(calls)
    assert calls[-1] >= stop_at > max(calls[:-1], default=-1.0)


# -- heads ----------------------------------------------------------------------------------------------------


def test_no_head_lists_the_choices(folder: Path) -> None:
    with load(folder, head=None) as pair, pytest.raises(errors.HeadError) as error:
        pair.generate("the")
    says(error, "no deferral head", ".gguf", "colm_cpp.Head", "'confidence'", "'entropy'", "'random'", "<|defer|>")
    with pytest.raises(errors.HeadError) as error:
        colm.generate("the", base=folder / "base.gguf", assistant=folder / "assistant.gguf")
    says(error, "head", "'confidence'")


@pytest.mark.parametrize("head", [5, 0.5, [1.0], b"confidence", np.zeros(3), True], ids=repr)
def test_head_of_a_wrong_type(folder: Path, pair: colm.Pair, head: Any) -> None:
    for attempt in (lambda: load(folder, head=head), lambda: pair.generate("the", head=head)):
        with pytest.raises(errors.HeadError) as error:
            attempt()
        says(error, type(head).__name__, "'confidence'")


@pytest.mark.parametrize("head", ["<|nope|>", "nope", "Confidence", "", "\0", "a\ud800", "<\ud800>"])
@pytest.mark.usefixtures("still_usable")
def test_head_that_names_nothing(folder: Path, pair: colm.Pair, head: str) -> None:
    for attempt in (lambda: load(folder, head=head), lambda: pair.generate("the", head=head)):
        with pytest.raises(errors.HeadError):
            attempt()
    if "\ud800" not in head and "\0" not in head:
        with pytest.raises(errors.HeadError) as error:
            pair.generate("the", head=head)
        says(error, head)


@pytest.mark.parametrize("name", ["base.gguf", "adapter.gguf"])
def test_model_in_place_of_a_head(folder: Path, pair: colm.Pair, name: str) -> None:
    for attempt in (
        lambda: colm.Head.load(folder / name),
        lambda: load(folder, head=folder / name),
        lambda: pair.generate("the", head=folder / name),
    ):
        with pytest.raises(errors.HeadError) as error:
            attempt()
        says(error, folder / name, "llama", "colm-head")


def test_missing_head_file(folder: Path, pair: colm.Pair) -> None:
    for attempt in (lambda: load(folder, head="no.gguf"), lambda: pair.generate("the", head=Path("no.gguf"))):
        with pytest.raises(errors.LoadError) as error:
            attempt()
        says(error, "no.gguf")


@pytest.mark.usefixtures("still_usable")
def test_head_of_another_width(folder: Path, pair: colm.Pair) -> None:
    head = colm.Head.linear(np.ones(33))
    for attempt in (lambda: load(folder, head=head), lambda: pair.generate("the", head=head)):
        with pytest.raises(errors.HeadMismatch) as error:
            attempt()
        says(error, 33, 32, folder / "base.gguf")


@pytest.mark.usefixtures("still_usable")
def test_head_of_another_vocabulary(folder: Path, pair: colm.Pair) -> None:
    head = colm.Head.linear(np.ones(32), vocab_fingerprint="0123456789abcdef")
    for attempt in (lambda: load(folder, head=head), lambda: pair.generate("the", head=head)):
        with pytest.raises(errors.HeadMismatch) as error:
            attempt()
        says(error, "0123456789abcdef", pair.vocab_fingerprint)
    fitting = head.replace(vocab_fingerprint=pair.vocab_fingerprint)
    assert pair.generate("the", head=fitting, max_tokens=1, seed=1).tokens

"""Tiny random GGUF models, made on the fly, for tests that need a real llama.cpp model.

A model is float32, about 200 KB, and takes some milliseconds to write. Its weights are random, but scaled so
that next-token distributions are neither uniform nor one-hot and so that they depend on the whole text, not
on the last token only. The same seed and shape give the same weights; the first rows of the embedding and of
the output matrix do not depend on the size of the vocabulary, so a model with a padded tail agrees with the
same one without it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Literal

import gguf
import numpy as np
from tiny_weights import F32, _Shape, _Weights

ARCHS = ("llama", "qwen2", "qwen3", "gemma3", "mamba", "jamba")
"""Attention; with QKV biases; with Q and K norms; sliding window; recurrent; recurrent and attention layers in turn."""

NORMAL = int(gguf.TokenType.NORMAL)
UNKNOWN = int(gguf.TokenType.UNKNOWN)
CONTROL = int(gguf.TokenType.CONTROL)
USER_DEFINED = int(gguf.TokenType.USER_DEFINED)
UNUSED = int(gguf.TokenType.UNUSED)
BYTE = int(gguf.TokenType.BYTE)

DEFER = "<|defer|>"

CHATML = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""A chat template in a form that llama.cpp recognises as ChatML."""

# What the merges are learnt from. Words with letters of two and three bytes give merges inside a character
# and across characters, so that a token can hold a part of a character, one character or several.
_CORPUS = """\
The quick brown fox jumps over the lazy dog, and then the other dog runs after the fox. What is the name of
the river that flows through the city? The answer is that there are two rivers: one in the north and one in
the south. She said that he was in the house with the children, but they were not there when the doctor came
to see them. Translate the following sentence into French and German: the weather is nice today. Question:
how many apples are in the basket? Answer: there are seven apples and three pears in the basket. The patient
was given a new medicine for the treatment of the infection. def function(self, value): return value if
value is not None else self.default. for item in the list: print(item). We have been waiting here for the
train to arrive, and it will be here in ten minutes. This is what they think about it, and those who know
the other part of the story would say the same thing again and again.
"""
_CORPUS += "é café naïve über garçon für 日 日本 日本語 " * 6

_MAX_MERGES = 200


@lru_cache(maxsize=1)
def byte_to_char() -> tuple[str, ...]:
    """GPT-2's printable stand-in for each of the 256 bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {b: chr(b) for b in printable}
    for b in range(256):
        if b not in table:
            table[b] = chr(256 + len(table) - len(printable))
    return tuple(table[b] for b in range(256))


@lru_cache(maxsize=1)
def char_to_byte() -> dict[str, int]:
    """The inverse of `byte_to_char`."""
    return {c: b for b, c in enumerate(byte_to_char())}


@lru_cache(maxsize=1)
def _learn_merges() -> tuple[tuple[str, str], ...]:
    """Byte-pair merges of the corpus, most frequent first (ties in alphabetical order)."""
    stand_in = byte_to_char()
    words: Counter[tuple[str, ...]] = Counter(
        tuple(stand_in[b] for b in word.encode())
        # Digits stay alone, as in most pre-tokenizers.
        for word in re.findall(r" ?[^\W\d_]+|\d| ?[^\s\w]+", _CORPUS.replace("\n", " "))
    )
    merges: list[tuple[str, str]] = []
    while len(merges) < _MAX_MERGES:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for pair in pairwise(word):
                pairs[pair] += count
        best = min(pairs, key=lambda p: (-pairs[p], p))
        merges.append(best)
        merged: Counter[tuple[str, ...]] = Counter()
        for word, count in words.items():
            out: list[str] = []
            i = 0
            while i < len(word):
                if word[i : i + 2] == best:
                    out.append(word[i] + word[i + 1])
                    i += 2
                else:
                    out.append(word[i])
                    i += 1
            merged[tuple(out)] += count
        words = merged
    return tuple(merges)


@dataclass(frozen=True)
class Token:
    """One entry of a vocabulary."""

    text: str
    type: int = NORMAL
    score: float = 0.0


@dataclass(frozen=True)
class Vocab:
    """A vocabulary, made from a description. Equal descriptions give equal vocabularies.

    Layout of the ids, `bpe`: the 256 bytes, the merges, the specials, the tail, the padding (or the padding
    before the tail with `tail_after_padding`). `spm` has `<unk> <s> </s>` first, and characters before the
    merges.
    Padding tokens are `[PAD{id}]` of type UNUSED, which is what llama.cpp's converter writes.
    """

    kind: Literal["bpe", "spm"] = "bpe"
    pre: str = "qwen2"
    n_merges: int = 128
    specials: tuple[str, ...] = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    tail: tuple[str | tuple[str, int], ...] = ()
    """Extra tokens: a text (type CONTROL) or a text and a type."""
    n_padding: int = 0
    tail_after_padding: bool = False
    # None writes no key. llama.cpp then takes 11 for both in a bpe vocabulary, 1 and 2 in an spm one.
    bos: str | int | None = "<|endoftext|>"
    eos: str | int | None = "<|im_end|>"
    eot: str | int | None = None
    eom: str | int | None = None
    add_bos: bool | None = False
    add_eos: bool | None = None
    space_prefix: bool | None = None  # of spm; None writes no key, which means a space
    replaced: tuple[tuple[int, Token], ...] = ()

    @classmethod
    def spm(cls, **changes: object) -> Vocab:
        """A SentencePiece-like vocabulary (tokenizer.ggml.model = "llama")."""
        vocab = cls(kind="spm", specials=("<|im_start|>", "<|im_end|>"), bos="<s>", eos="</s>", add_bos=True)
        return replace(vocab, **changes)  # type: ignore[arg-type]

    def replace_token(self, token_id: int, text: str, token_type: int | None = None) -> Vocab:
        """The same vocabulary with another text (and type) at one id."""
        old = self.tokens[token_id]
        new = Token(text, old.type if token_type is None else token_type, old.score)
        return replace(self, replaced=(*self.replaced, (token_id, new)))

    def permuted(self, order: Sequence[int]) -> Vocab:
        """The same tokens under other ids: the i-th is the `order[i]`-th of this one."""
        return replace(self, replaced=tuple((i, self.tokens[old]) for i, old in enumerate(order)))

    def with_tail(self, *tail: str | tuple[str, int], n_padding: int = 0) -> Vocab:
        """The same vocabulary with more tokens and more padding after the specials."""
        return replace(self, tail=(*self.tail, *tail), n_padding=self.n_padding + n_padding)

    def padded_to(self, n_vocab: int) -> Vocab:
        """The same vocabulary with as much padding as makes `n_vocab` tokens."""
        missing = n_vocab - len(self.tokens)
        if missing < 0:
            raise ValueError(f"the vocabulary has {len(self.tokens)} tokens, more than {n_vocab}")
        return replace(self, n_padding=self.n_padding + missing)

    @property
    def merges(self) -> tuple[tuple[str, str], ...]:
        """The byte-pair merges in order of rank (in GPT-2's stand-in characters)."""
        if not 0 <= self.n_merges <= _MAX_MERGES:
            raise ValueError(f"n_merges must be between 0 and {_MAX_MERGES}")
        return _learn_merges()[: self.n_merges]

    @cached_property
    def tokens(self) -> tuple[Token, ...]:
        """All entries, by id."""
        tokens = self._bpe_tokens() if self.kind == "bpe" else self._spm_tokens()
        tokens += [Token(text, CONTROL) for text in self.specials]
        tail = [Token(t, CONTROL) if isinstance(t, str) else Token(*t) for t in self.tail]
        if not self.tail_after_padding:
            tokens += tail
        tokens += [Token(f"[PAD{len(tokens) + i}]", UNUSED) for i in range(self.n_padding)]
        if self.tail_after_padding:
            tokens += tail
        for token_id, token in self.replaced:
            tokens[token_id] = token
        twice = [text for text, n in Counter(t.text for t in tokens).items() if n > 1]
        if twice:
            # llama.cpp would abort the whole process at load.
            raise ValueError(f"tokens that occur twice: {twice}")
        return tuple(tokens)

    def _bpe_tokens(self) -> list[Token]:
        return [Token(c) for c in byte_to_char()] + [Token(a + b) for a, b in self.merges]

    def _spm_tokens(self) -> list[Token]:
        tokens = [Token("<unk>", UNKNOWN), Token("<s>", CONTROL), Token("</s>", CONTROL)]
        tokens += [Token(f"<0x{b:02X}>", BYTE) for b in range(256)]
        pieces = ["\u2581", *(chr(c) for c in range(0x21, 0x7F))]
        for a, b in self.merges:
            try:
                piece = bytes(char_to_byte()[c] for c in a + b).decode()
            except UnicodeDecodeError:
                continue  # a part of a character is no SentencePiece
            pieces.append(piece.replace(" ", "\u2581"))
        # A higher score is merged first; the single characters are never the result of a merge.
        return tokens + [Token(piece, NORMAL, -float(i)) for i, piece in enumerate(pieces)]

    def id_of(self, token: str | int) -> int:
        """The id of a token given by its stored text (or an id, which is returned as it is)."""
        if isinstance(token, int):
            return token
        ids = [i for i, t in enumerate(self.tokens) if t.text == token]
        if not ids:
            raise KeyError(token)
        return ids[0]

    def piece(self, token_id: int) -> bytes:
        """The bytes that a token stands for; special and unused tokens give their own text."""
        token = self.tokens[token_id]
        if token.type == BYTE:
            return bytes([int(token.text[3:5], 16)])
        if token.type != NORMAL:
            return token.text.encode()
        if self.kind == "spm":
            return token.text.replace("\u2581", " ").encode()
        return bytes(char_to_byte()[c] for c in token.text)

    def __len__(self) -> int:
        return len(self.tokens)

    def write(self, writer: gguf.GGUFWriter) -> None:
        """Add the tokenizer's keys."""
        writer.add_tokenizer_model("gpt2" if self.kind == "bpe" else "llama")
        writer.add_token_list([t.text for t in self.tokens])
        writer.add_token_types([t.type for t in self.tokens])
        if self.kind == "bpe":
            writer.add_tokenizer_pre(self.pre)
            writer.add_token_merges([f"{a} {b}" for a, b in self.merges])
        else:
            writer.add_token_scores([t.score for t in self.tokens])
            if self.space_prefix is not None:
                writer.add_add_space_prefix(self.space_prefix)
        for token, add_id in (
            (self.bos, writer.add_bos_token_id),
            (self.eos, writer.add_eos_token_id),
            (self.eot, writer.add_eot_token_id),
            (self.eom, writer.add_eom_token_id),
        ):
            if token is not None:
                add_id(self.id_of(token))
        if self.add_bos is not None:
            writer.add_add_bos_token(self.add_bos)
        if self.add_eos is not None:
            writer.add_add_eos_token(self.add_eos)


def finish(writer: gguf.GGUFWriter) -> None:
    """Writes what the writer was given, and closes its file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make_model(
    path: str | Path,
    *,
    arch: str = "llama",
    seed: int = 0,
    n_vocab: int | None = None,
    n_embd: int = 32,
    n_layer: int = 2,
    n_head: int = 4,
    n_head_kv: int = 2,
    n_ctx_train: int = 512,
    vocab: Vocab | None = None,
    scale: float = 3.3,
    tied: bool = False,
    chat_template: str | None = None,
    extra_tail: Sequence[str | tuple[str, int]] = (),
    n_padding: int = 0,
    bos: str | int | None = None,
    eos: str | int | None = None,
    eot: str | int | None = None,
    add_bos: bool | None = None,
    row_scale: Mapping[str | int, float] | None = None,
    row_order: Sequence[int] | None = None,
    sliding_window: int = 16,
    sliding_pattern: bool = True,
    rope_factors: Sequence[float] | None = None,
    extra_keys: Mapping[str, str | int | float] | None = None,
    name: str = "tiny",
) -> Path:
    """Write a random model and return its path.

    `extra_tail` and `n_padding` are added to the vocabulary's own, and `n_vocab` pads it to that many tokens.
    `bos`, `eos`, `eot` and `add_bos`, when given, take the place of the vocabulary's. `scale` is the standard
    deviation of the logits. `row_scale` multiplies the output row of a token (untied models only): 0 makes
    its logit 0, which hardly ever is the largest and is rarely drawn; a large factor makes it likely in about
    half of the contexts.
    `row_order` puts the rows of tokens in another order: with `Vocab.permuted` it is the same model under other ids.
    `sliding_window` is gemma3's; its even layers have it, or with `sliding_pattern=False` those that llama.cpp gives
    it: all but every sixth. `rope_factors` (n_embd / n_head / 2 of them) divide the
    rotary frequencies, as in Llama 3. `extra_keys` are written behind the architecture's name.
    """
    if arch not in ARCHS:
        raise ValueError(f"unknown architecture {arch!r}")
    if n_embd % 32 or n_embd % n_head or n_head % n_head_kv:
        raise ValueError("n_embd must be a multiple of 32 and of n_head, and n_head one of n_head_kv")
    if tied and row_scale:
        raise ValueError("the output rows of a tied model are its embeddings")
    vocab = (vocab or Vocab()).with_tail(*extra_tail, n_padding=n_padding)
    if n_vocab is not None:
        vocab = vocab.padded_to(n_vocab)
    given = {"bos": bos, "eos": eos, "eot": eot, "add_bos": add_bos}
    vocab = replace(vocab, **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]

    shape = _Shape(arch, len(vocab), n_embd, n_layer, n_head, n_head_kv, scale, tied, seed)
    tensors = _Weights(shape).draw()
    for token, factor in (row_scale or {}).items():
        tensors["output.weight"][vocab.id_of(token)] *= np.float32(factor)
    if row_order is not None:
        for rows in ("token_embd.weight", "output.weight"):
            tensors[rows] = np.ascontiguousarray(tensors[rows][list(row_order)])

    path = Path(path)
    writer = gguf.GGUFWriter(path, arch)
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(n_ctx_train)
    writer.add_embedding_length(n_embd)
    writer.add_block_count(n_layer)
    writer.add_layer_norm_rms_eps(1e-6)
    if arch == "mamba":
        writer.add_feed_forward_length(0)
        writer.add_head_count(0)
    else:
        writer.add_feed_forward_length(shape.n_ff)
        writer.add_head_count(n_head)
        # A hybrid's recurrent layers are those without heads.
        writer.add_head_count_kv(
            [0 if shape.recurrent(i) else n_head_kv for i in range(n_layer)] if arch == "jamba" else n_head_kv
        )
        if arch != "jamba":
            writer.add_rope_dimension_count(shape.d_head)
            writer.add_rope_freq_base(10000.0)
    if arch in ("mamba", "jamba"):
        writer.add_ssm_conv_kernel(shape.d_conv)
        writer.add_ssm_inner_size(shape.d_inner)
        writer.add_ssm_state_size(shape.d_state)
        writer.add_ssm_time_step_rank(shape.dt_rank)
    if arch in ("qwen3", "gemma3"):
        writer.add_key_length(shape.d_head)
        writer.add_value_length(shape.d_head)
    if arch == "gemma3":
        writer.add_sliding_window(sliding_window)
        if sliding_pattern:
            writer.add_sliding_window_pattern([i % 2 == 0 for i in range(n_layer)])
    if rope_factors is not None:
        tensors["rope_freqs.weight"] = np.array(rope_factors, np.float32)
    for key, value in (extra_keys or {}).items():
        add = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}[type(value)]
        add(f"{arch}.{key}", value)
    vocab.write(writer)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    for tensor_name, values in tensors.items():
        writer.add_tensor(tensor_name, values)
    finish(writer)
    return path


def read_tensor(path: str | Path, name: str) -> F32:
    """One float32 tensor of a GGUF file in numpy's order."""
    for tensor in gguf.GGUFReader(path).tensors:
        if tensor.name == name:
            return np.array(tensor.data, dtype=np.float32)
    raise KeyError(name)


def output_matrix(path: str | Path) -> F32:
    """What the final hidden state is multiplied by: `output.weight`, or the embeddings of a tied model."""
    try:
        return read_tensor(path, "output.weight")
    except KeyError:
        return read_tensor(path, "token_embd.weight")

"""The vocabulary that both models share: byte-level BPE whose digits stay alone."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import gguf
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

__all__ = ["END", "Vocabulary"]

END = "<|endoftext|>"
"""Begins and ends every text."""

# What llama.cpp does for tokenizer.ggml.pre = "qwen2".
_PRE = "qwen2"
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


# The form of a problem as a chat template: a user's message is a problem, the reply its solution.
_CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}
{{ 'Problem: ' + message['content'] + '\\nSolution:' }}
{%- elif message['role'] == 'assistant' -%}
{{ ' ' + message['content'] | trim + eos_token }}
{%- endif -%}
{%- endfor -%}
"""


@dataclass(frozen=True)
class Vocabulary:
    """A trained tokenizer."""

    tokenizer: Tokenizer

    @classmethod
    def learn(cls, texts: Iterable[str], size: int) -> Vocabulary:
        """``size`` tokens: the end of text, the 256 bytes, and the merges that are most frequent in ``texts``."""
        tokenizer = _tokenizer(models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=[END],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    @classmethod
    def read(cls, path: Path) -> Vocabulary:
        """The tokenizer of a GGUF file that :meth:`write` wrote."""
        fields = gguf.GGUFReader(path).fields
        tokens, merges = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "merges"))
        pairs = [tuple(merge.split(" ")) for merge in merges]
        return cls(_tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, pairs)))

    def __len__(self) -> int:
        return int(self.tokenizer.get_vocab_size())

    @property
    def end(self) -> int:
        """The id of the end of text."""
        return int(self.tokenizer.token_to_id(END))

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without its ends."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: list[int]) -> str:
        """The text of ids."""
        return str(self.tokenizer.decode(ids))

    def write(self, writer: gguf.GGUFWriter) -> None:
        """Adds the keys of the tokenizer to a GGUF file."""
        merges = json.loads(self.tokenizer.to_str())["model"]["merges"]
        tokens = [self.tokenizer.id_to_token(i) for i in range(len(self))]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_PRE)
        writer.add_token_list(tokens)
        writer.add_token_types([int(gguf.TokenType.CONTROL if t == END else gguf.TokenType.NORMAL) for t in tokens])
        writer.add_token_merges([" ".join(merge) if isinstance(merge, list) else merge for merge in merges])
        writer.add_bos_token_id(self.end)
        writer.add_eos_token_id(self.end)
        writer.add_add_bos_token(True)
        writer.add_chat_template(_CHAT_TEMPLATE)


def _tokenizer(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer

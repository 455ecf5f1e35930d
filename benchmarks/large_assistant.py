"""Look-ahead with a small base and a much larger assistant, which is made up: its shape and its speed are a model's.

    python benchmarks/large_assistant.py BASE.gguf [--size 7B] [--folder /tmp] [--rate 0.09] [--tokens 96] [--texts 4]

The file has the base's vocabulary and the tensor shapes of a Qwen2.5, in Q4_0, filled with random numbers. So the two
models hardly ever agree, which is the worst that can happen to look-ahead. Each text is written without look-ahead
and with "auto" in turns, with the head ``random``. With one thread the process's own time counts.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gguf
import numpy as np
from fresh import Spread, clock

import colm_cpp as colm
from colm_cpp.evaluate.steps import PROMPT
from colm_cpp.machine.cores import usable_cores

_BLOCK = 18  # bytes of 32 weights in Q4_0: a float16 scale and four bits each


@dataclass(frozen=True)
class Shape:
    n_embd: int
    n_layer: int
    n_head: int
    n_head_kv: int
    n_ff: int
    tied: bool


SHAPES = {"3B": Shape(2048, 36, 16, 2, 11008, True), "7B": Shape(3584, 28, 28, 4, 18944, False)}


def make(path: Path, like: Path, shape: Shape) -> None:
    """Writes the model, with the vocabulary of ``like``, a Qwen2.5 too."""
    reader = gguf.GGUFReader(like)
    writer = gguf.GGUFWriter(path, "qwen2")
    for field in reader.fields.values():
        if field.name.startswith("tokenizer."):
            sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type)
    writer.add_block_count(shape.n_layer)
    writer.add_context_length(32768)
    writer.add_embedding_length(shape.n_embd)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_head_kv)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    rng = np.random.default_rng(0)

    def matrix(name: str, n_out: int, n_in: int) -> None:
        blocks = np.frombuffer(rng.bytes(n_out * n_in // 32 * _BLOCK), np.uint8).reshape(-1, _BLOCK).copy()
        blocks[:, :2] = np.frombuffer(np.float16(0.2 / np.sqrt(n_in)).tobytes(), np.uint8)
        writer.add_tensor(f"{name}.weight", blocks.reshape(n_out, -1), raw_dtype=gguf.GGMLQuantizationType.Q4_0)

    def vector(name: str, n: int, value: float) -> None:
        writer.add_tensor(name, np.full(n, value, np.float32))

    n_vocab = len(reader.fields["tokenizer.ggml.tokens"].data)
    n_kv = shape.n_embd // shape.n_head * shape.n_head_kv
    matrix("token_embd", n_vocab, shape.n_embd)
    vector("output_norm.weight", shape.n_embd, 1.0)
    if not shape.tied:
        matrix("output", n_vocab, shape.n_embd)
    for i in range(shape.n_layer):
        for norm in ("attn_norm", "ffn_norm"):
            vector(f"blk.{i}.{norm}.weight", shape.n_embd, 1.0)
        for part, n_out in (("q", shape.n_embd), ("k", n_kv), ("v", n_kv)):
            matrix(f"blk.{i}.attn_{part}", n_out, shape.n_embd)
            vector(f"blk.{i}.attn_{part}.bias", n_out, 0.0)
        matrix(f"blk.{i}.attn_output", shape.n_embd, shape.n_embd)
        matrix(f"blk.{i}.ffn_gate", shape.n_ff, shape.n_embd)
        matrix(f"blk.{i}.ffn_up", shape.n_ff, shape.n_embd)
        matrix(f"blk.{i}.ffn_down", shape.n_embd, shape.n_ff)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def ends(model: Path) -> dict[int, float]:
    """A bias that forbids the tokens that may end a text: what a made-up model writes would soon end it."""
    fields = gguf.GGUFReader(model).fields
    types, texts = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("token_type", "tokens"))
    control = int(gguf.TokenType.CONTROL)
    forbidden = [
        i for i, (kind, text) in enumerate(zip(types, texts, strict=True)) if kind == control or text == "</s>"
    ]
    return dict.fromkeys(forbidden, -math.inf)


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("--size", choices=SHAPES, default="7B")
    parser.add_argument("--folder", type=Path, help="where the made-up file lies while this runs")
    parser.add_argument("--rate", type=float, default=0.09)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--texts", type=int, default=4)
    parser.add_argument("--n-threads", type=int, default=usable_cores())
    args = parser.parse_args()
    now = clock(args.n_threads)
    lookaheads: tuple[int | Literal["auto"], ...] = (0, "auto")
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        made_up = Path(folder) / f"made-up-{args.size}.gguf"
        make(made_up, args.base, SHAPES[args.size])
        print(
            f"a base of {args.base.stat().st_size / 1e9:.1f} GB, an assistant of {made_up.stat().st_size / 1e9:.1f} GB"
        )
        ratios = []
        bias = ends(made_up)
        with colm.load(args.base, made_up, "random", n_ctx=512, n_threads=args.n_threads, n_gpu_layers=0) as pair:
            for seed in range(-1, args.texts):
                seconds: dict[int | str, float] = {}
                for lookahead in lookaheads if seed % 2 == 0 else lookaheads[::-1]:
                    pair.forget()
                    start = now()
                    out = pair.generate(
                        PROMPT,
                        threshold=1.0 - args.rate,
                        seed=max(seed, 0),
                        temperature=0.0,
                        logit_bias=bias,
                        max_tokens=args.tokens if seed >= 0 else 8,
                        lookahead=lookahead,
                    )
                    seconds[lookahead] = now() - start
                    stats = out.stats
                    speed = stats.generated_tokens / seconds[lookahead]
                    print(
                        f"seed {seed}, look-ahead {lookahead}: {speed:.2f} tokens/s, "
                        f"{stats.deferral_rate:.1%} deferred, {stats.assistant_calls} calls, "
                        f"{stats.accepted_tokens} of {stats.drafted_tokens} draft tokens accepted",
                        flush=True,
                    )
                if seed >= 0:
                    ratios.append(seconds["auto"] / seconds[0])
        print(f"time with auto over time without look-ahead: {Spread(ratios).show()}")


if __name__ == "__main__":
    main()

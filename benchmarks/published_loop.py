"""Against the published decoding loop, written with PyTorch and transformers: the same tokens, and how much faster.

    pip install torch transformers accelerate
    python benchmarks/published_loop.py [--width 256] [--layers 8] [--tokens 128] [--rounds 5]

Both run the same pair of random float32 models, as GGUF files that transformers reads too, on the same number of
threads. The loop is that of Co-LLM (arXiv 2403.03870, section 3.1) as one would write it today: the base's last hidden
state gives the defer probability at every token, the assistant is asked where it is above the threshold, and each model
keeps its cache. (The published code asks three services by HTTP and keeps none.)
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import colm_cpp as colm

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "python"))

from tiny_models import NORMAL, Vocab, make_model

PROMPT = "The quick brown fox jumps over the lazy dog. Question: how many apples are in the basket? Answer:"


class Cached:
    """A model of transformers and what it has read."""

    def __init__(self, path: Path) -> None:
        self._model = transformers.LlamaForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32
        ).eval()
        self._cache = transformers.DynamicCache()

    def forget(self) -> None:
        """Begins anew."""
        self._cache = transformers.DynamicCache()

    def read(self, tokens: list[int], *, hidden: bool = False) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits behind the last token, and its hidden state; reads what is new."""
        ids = torch.tensor([tokens[self._cache.get_seq_length() :]])
        out = self._model.model(ids, cache=self._cache, use_cache=True)
        last = out.last_hidden_state[0, -1]
        return self._model.lm_head(last), last if hidden else None


class PublishedLoop:
    """Greedy token-level deferral."""

    def __init__(self, base: Path, assistant: Path, weights: torch.Tensor, bias: float) -> None:
        self._base, self._assistant = Cached(base), Cached(assistant)
        self._weights, self._bias = weights, bias

    @torch.inference_mode()
    def generate(self, prompt: list[int], threshold: float, max_tokens: int) -> tuple[list[int], list[str]]:
        """Tokens, and who wrote each."""
        self._base.forget()
        self._assistant.forget()
        tokens, sources = list(prompt), []
        for _ in range(max_tokens):
            logits, hidden = self._base.read(tokens, hidden=True)
            p_defer = torch.sigmoid(self._weights @ hidden + self._bias).item()
            defers = p_defer > threshold
            if defers:
                logits, _ = self._assistant.read(tokens)
            tokens.append(int(logits.argmax()))
            sources.append("assistant" if defers else "base")
        return tokens[len(prompt) :], sources


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=256, help="of the base; the assistant has twice that")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    with tempfile.TemporaryDirectory() as folder:
        # Real tokens, not padding: that is never chosen here, and transformers knows no such thing.
        n_more = args.vocab - len(Vocab())
        vocab = Vocab(tail=tuple((f"<|{i}|>", NORMAL) for i in range(n_more)))
        base, assistant = (
            # Folders of their own: transformers takes a file's neighbours for its configuration.
            _model(Path(folder) / name, vocab, width, args.layers, seed)
            for seed, (name, width) in enumerate((("base", args.width), ("assistant", 2 * args.width)))
        )
        rng = np.random.default_rng(0)
        theta = rng.normal(0, 2 / np.sqrt(args.width), args.width).astype(np.float32)
        loop = PublishedLoop(base, assistant, torch.from_numpy(theta), 0.0)
        options: Any = {"n_ctx": 512, "n_threads": args.threads, "type_k": "f32", "type_v": "f32", "flash_attn": False}
        with colm.load(base, assistant, colm.Head.linear(theta), **options) as pair:
            print(f"torch {torch.__version__}, transformers {transformers.__version__}, {args.threads} threads")
            print("| deferred | transformers, tokens/s | colm-cpp, tokens/s | ratio (least, most) | same tokens |")
            print("|---|---|---|---|---|")
            for threshold in _thresholds(pair, args.tokens):
                print(_row(pair, loop, threshold, args.tokens, args.rounds), flush=True)


def _model(folder: Path, vocab: Vocab, width: int, n_layer: int, seed: int) -> Path:
    folder.mkdir()
    return make_model(
        folder / "model.gguf",
        seed=seed,
        vocab=vocab,
        n_embd=width,
        n_layer=n_layer,
        n_head=8,
        n_head_kv=4,
        # A row of zeros is never the largest: no text ends early.
        row_scale=dict.fromkeys(("<|endoftext|>", "<|im_end|>"), 0.0),
    )


def _thresholds(pair: colm.Pair, n_tokens: int) -> list[float]:
    """Those of about 0, 20, 40 and 100%."""
    out = pair.generate(PROMPT, temperature=0.0, max_tokens=n_tokens, threshold=0.5)
    p = [token.defer_prob for token in out.tokens]
    return [1.0, *(float(np.quantile(p, 1 - rate)) for rate in (0.2, 0.4)), 0.0]


def _row(pair: colm.Pair, loop: PublishedLoop, threshold: float, n_tokens: int, rounds: int) -> str:
    prompt = pair.tokenize(PROMPT)
    theirs, ours = [], []
    same = True
    for number in range(-1, rounds):
        pair.forget()
        start = time.perf_counter()
        out = pair.generate(prompt, temperature=0.0, max_tokens=n_tokens, threshold=threshold)
        middle = time.perf_counter()
        tokens, sources = loop.generate(prompt, threshold, n_tokens)
        end = time.perf_counter()
        same = same and tokens == [t.id for t in out.tokens] and sources == [t.source for t in out.tokens]
        if number >= 0:
            ours.append(n_tokens / (middle - start))
            theirs.append(n_tokens / (end - middle))
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return (
        f"| {out.stats.deferral_rate:.0%} | {statistics.median(theirs):.1f} | {statistics.median(ours):.1f} "
        f"| {statistics.median(ratios):.2f} ({min(ratios):.2f}, {max(ratios):.2f}) | {'yes' if same else 'no'} |"
    )


if __name__ == "__main__":
    main()

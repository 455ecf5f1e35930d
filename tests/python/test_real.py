"""The real pair: what only real weights can show. Run with COLM_MODELS set."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import RealModels

import colm_cpp as colm

pytestmark = pytest.mark.real_models
QUESTION = [{"role": "user", "content": "What is 17 * 23? Answer with the number."}]


def test_both_ends_of_the_threshold(real_models: RealModels) -> None:
    with colm.load(real_models["base"], real_models["assistant"], "confidence", n_ctx=512) as pair:
        alone = pair.chat(QUESTION, threshold=1.0, temperature=0, max_tokens=16)
        asked = pair.chat(QUESTION, threshold=0.0, temperature=0, max_tokens=16, lookahead=0)
        assert all(token.source == "base" for token in alone.tokens)
        assert alone.stats.assistant_calls == 0
        assert all(token.source == "assistant" for token in asked.tokens)
        assert "391" in asked.text
        assert asked.stats.deferral_rate == 1.0
        # The second question shares its prompt with the first: the base re-reads the last token only.
        assert asked.stats.base_tokens_read == asked.stats.base_steps


def test_json_schema(real_models: RealModels) -> None:
    schema = {"type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"]}
    with colm.load(real_models["base"], real_models["assistant"], "confidence", n_ctx=512) as pair:
        out = pair.chat(QUESTION, threshold=0.0, temperature=0, max_tokens=32, grammar=schema)
        assert out.text.replace(" ", "") == '{"answer":391}'
        assert out.finish_reason == "eos"


@pytest.mark.parametrize(("base", "other"), [("base", "smollm2"), ("base", "gemma3"), ("gemma3", "base")])
def test_other_vocabularies(real_models: RealModels, base: str, other: str) -> None:
    options: dict[str, Any] = {"threshold": 0.6, "seed": 1, "temperature": 0.0, "max_tokens": 24}
    with colm.load(real_models[base], real_models[other], "random", n_ctx=256, batch_invariant=True) as pair:
        assert not pair.one_vocabulary
        out = pair.generate("# A list of cities: Zürich, 東京, ", **options)
        assert {token.source for token in out.tokens} == {"base", "assistant"}
        assert "\ufffd" not in out.text.removesuffix("\ufffd")  # max_tokens may end the text inside a character
        text = ""
        for token in pair.stream("# A list of cities: Zürich, 東京, ", **options):
            text += token.text
            pair.forget()
        assert text == out.text


def test_estimated_memory_is_near_what_is_taken(real_models: RealModels) -> None:
    from colm_cpp.engine.memory import estimate

    for name, size in (("base", 491_400_064), ("assistant", 1_117_320_768)):
        estimated = estimate(str(real_models[name]), 4096, colm.LoadOptions())
        assert estimated.weights == pytest.approx(size, rel=0.02)
    # 24 layers of 2 KV heads of 64 values, keys and values, two bytes each.
    assert estimate(str(real_models["base"]), 4096, colm.LoadOptions()).kv_cache == 4096 * 24 * 2 * 64 * 2 * 2


def test_scores_are_what_the_engine_saw(real_models: RealModels) -> None:
    from colm_cpp.corpus.texts import Text
    from colm_cpp.learn import Scorer

    with colm.load(real_models["base"], real_models["assistant"], "confidence", n_ctx=512) as pair:
        prompt = pair.tokenize(pair.render_chat(QUESTION))
        out = pair.generate(prompt, threshold=1.0, temperature=0, max_tokens=24)
    ids = [token.id for token in out.tokens]
    text = Text("", 0, (*prompt, *ids), (*[False] * len(prompt), *[True] * len(ids)))
    with Scorer(real_models["base"], real_models["assistant"], n_ctx=512) as scorer:
        columns, _ = scorer.score([text], top_k=2)
    # Batches of one and of many differ in the last bits (flash attention reads float16), never in what is likeliest.
    # With AVX-512, whose kernels differ more, a log-probability was off by 0.12.
    assert columns["base_top"].tolist() == ids
    assert columns["base_logprob"] == pytest.approx([token.logprob for token in out.tokens], abs=0.2)
    assert (-columns["base_log_odds"]) == pytest.approx([token.defer_logit for token in out.tokens], abs=0.3)


def test_a_target_rate_is_kept(real_models: RealModels) -> None:
    with colm.load(real_models["base"], real_models["assistant"], "confidence", n_ctx=1024) as pair:
        question = [{"role": "user", "content": "Write a story of at least eight long paragraphs about a fisherman."}]
        out = pair.chat(question, target_rate=0.2, temperature=0, max_tokens=256)
        assert out.stats.generated_tokens >= 200
        assert out.stats.deferral_rate == pytest.approx(0.2, abs=0.03)


def test_look_ahead(real_models: RealModels) -> None:
    """A third of the calls, or less; the same text up to where two tokens were nearly equally likely."""
    question = [
        {"role": "user", "content": "How many seconds are there in 3 hours and 20 minutes? Think step by step."}
    ]
    with colm.load(real_models["base"], real_models["assistant"], "confidence", n_ctx=512) as pair:
        options: dict[str, Any] = {"threshold": 0.0, "temperature": 0, "max_tokens": 64, "logprobs": 2}
        plain = pair.chat(question, lookahead=0, **options)
        ahead = pair.chat(question, lookahead=8, **options)
        for one, other in zip(ahead.tokens, plain.tokens, strict=False):
            if one.id != other.id:
                first, second = other.top_logprobs
                assert first.logprob - second.logprob < 0.3
                assert one.id == second.id
                break
        assert plain.stats.assistant_calls == plain.stats.generated_tokens
        assert ahead.stats.assistant_calls < plain.stats.assistant_calls / 3
        assert ahead.stats.acceptance_rate > 0.7


def test_peak_memory(real_models: RealModels) -> None:
    """Both files, both caches and 200 MB, a long prompt read by both models included."""
    benchmark = Path(__file__).parents[2] / "benchmarks" / "memory.py"
    files = [str(real_models["base"]), str(real_models["assistant"])]
    done = subprocess.run([sys.executable, str(benchmark), *files], capture_output=True, text=True, check=True)
    rows = dict(line.strip("| ").split(" | ") for line in done.stdout.splitlines()[2:])
    assert float(rows["peak after 2048 + 64 tokens"]) > 1500
    assert float(rows["peak beyond files and caches"]) <= 200


def test_look_ahead_is_the_same_bit_for_bit(real_models: RealModels) -> None:
    with colm.load(
        real_models["base"],
        real_models["assistant"],
        "confidence",
        n_ctx=512,
        assistant_options={"batch_invariant": True},
    ) as pair:
        written = []
        for lookahead in (0, 8):
            pair.forget()
            written.append(
                pair.chat(QUESTION, threshold=0.05, temperature=0, max_tokens=48, lookahead=lookahead, logprobs=2)
            )
        plain, ahead = written
        assert ahead.stats.drafted_tokens > 0
        assert ahead.stats.assistant_calls < plain.stats.assistant_calls
        assert ahead.tokens == plain.tokens

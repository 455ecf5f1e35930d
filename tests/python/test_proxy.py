"""The strategies `add` and `proxy`: what they refuse. What they write is compared in test_expert_oracle.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import expert_files
import pytest
from adapter_files import write_adapter
from commands import run
from conftest import TINY_LOAD
from expert_files import PROMPT

import colm_cpp as colm

files = expert_files.files
PROXY: dict[str, Any] = {"strategy": "proxy", "proxy_tuned": "math", "proxy_untuned": "code"}


@pytest.fixture(scope="module")
def pair(files: dict[str, Path]) -> Iterator[colm.Pair]:
    experts = {"math": files["math"], "code": files["code"], "again": files["math"]}
    with colm.load(files["base"], experts=experts, **TINY_LOAD) as loaded:
        yield loaded


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"strategy": "proxy"}, "proxy_tuned and proxy_untuned"),
        ({**PROXY, "proxy_untuned": None}, "proxy_tuned and proxy_untuned"),
        ({**PROXY, "proxy_untuned": "math"}, "both math"),
        ({**PROXY, "proxy_tuned": "law"}, 'proxy_tuned is "law"; the experts of this pair are math, code and again'),
        ({**PROXY, "proxy_untuned": "base"}, 'proxy_untuned is "base"'),
        ({**PROXY, "proxy_tuned": 3}, "proxy_tuned is 3"),
        ({**PROXY, "proxy_tuned": "a\ud800"}, "proxy_tuned is"),
        ({**PROXY, "proxy_weight": -1}, "proxy_weight is -1"),
        ({**PROXY, "proxy_untuned": "again"}, "math and again are the same model with the same prompt"),
    ],
)
def test_what_does_not_fit(pair: colm.Pair, options: dict[str, Any], words: str) -> None:
    with pytest.raises(colm.OptionError, match=words):
        pair.generate(PROMPT, head="always:math", max_tokens=1, **options)


def test_a_pair_with_one_expert(files: dict[str, Path]) -> None:
    with (
        colm.load(files["base"], files["math"], "always", **TINY_LOAD) as two,
        pytest.raises(colm.OptionError, match="compares two experts, and this pair has one, assistant"),
    ):
        two.generate(PROMPT, max_tokens=1, **PROXY)


def test_one_model_behind_two_prompts_is_no_waste(pair: colm.Pair) -> None:
    """The difference is then that of the prompts."""
    prompts = {"base": PROMPT, "again": "Once"}
    options: dict[str, Any] = {**PROXY, "proxy_untuned": "again", "temperature": 0, "max_tokens": 8}
    out = pair.generate(prompts, head="always:math", **options)
    assert {token.source for token in out.tokens} == {"math"}
    assert out.stats.experts["again"].calls == out.stats.experts["math"].calls > 0


def test_adapters_make_two_models(files: dict[str, Path], tmp_path: Path) -> None:
    """Of one file: the tuned one has an adapter."""
    tuned = {"model": files["code"], "lora": write_adapter(tmp_path / "tuned.gguf")}
    with colm.load(files["base"], experts={"math": tuned, "code": files["code"]}, **TINY_LOAD) as pair:
        pair.generate(PROMPT, head="always:math", max_tokens=4, **PROXY)


def test_weight_zero_is_the_base(pair: colm.Pair) -> None:
    """Whoever's turn it is: all tokens count as the tuned expert's, and the head may name another one."""
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 10}
    base = pair.generate(PROMPT, head="never", **options)
    out = pair.generate(PROMPT, head="always:again", proxy_weight=0.0, **PROXY, **options)
    assert [token.id for token in out.tokens] == [token.id for token in base.tokens]
    assert {token.source for token in out.tokens} == {"math"}
    assert out.stats.experts["again"].calls == 0
    steered = pair.generate(PROMPT, head="always:math", **PROXY, **options)
    assert [token.id for token in steered.tokens] != [token.id for token in base.tokens]


def test_flags(files: dict[str, Path]) -> None:
    models = ["--base", str(files["base"]), "--expert", f"math={files['math']}", "--expert", f"code={files['code']}"]
    args = ["generate", PROMPT, *models, "--head", "always:math", "--max-tokens", "4", "--strategy", "proxy", "-q"]
    done = run(*args, "--proxy-tuned", "math", "--proxy-untuned", "code", "--proxy-weight", "0.5")
    assert done.exit_code == 0, done.stderr
    failed = run(*args, "--proxy-tuned", "math", "--proxy-untuned", "law")
    assert failed.exit_code == 1
    assert '--proxy-untuned is "law"; the experts of this pair are math and code' in failed.stderr

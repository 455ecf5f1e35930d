"""The strategies `add` and `proxy`: what they refuse. What they write is compared in test_expert_oracle.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import expert_files
import pytest
from adapter_files import write_adapter
from commands import fail, succeed
from conftest import TINY_LOAD
from expert_files import PROMPT

import colm_cpp as colm
from colm_cpp.answers.answering import Arm, answers
from colm_cpp.answers.problems import Problem

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
    succeed(*args, "--proxy-tuned", "math", "--proxy-untuned", "code", "--proxy-weight", "0.5")
    assert '--proxy-untuned is "law"; the experts of this pair are math and code' in fail(
        *args, "--proxy-tuned", "math", "--proxy-untuned", "law"
    )


@pytest.mark.parametrize("name", ["proxy_tuned", "proxy_untuned", "proxy_weight"])
def test_options_of_proxy_belong_to_it(name: str) -> None:
    own = {**PROXY, "proxy_weight": 0.5}
    with pytest.raises(colm.OptionError, match=f"{name} is .*strategy is defer"):
        colm.GenerationOptions.of({name: own[name]})
    with pytest.raises(colm.OptionError, match=f"{name} is .*strategy is compose"):
        colm.GenerationOptions.of({name: own[name], "strategy": "compose"})
    # A text of a batch with another strategy leaves them aside; what it names itself is refused.
    shared = colm.GenerationOptions.of(own)
    assert shared.replaced({"hold": 2}).proxy_tuned == "math"
    other = shared.replaced({"strategy": "defer"})
    assert (other.proxy_tuned, other.proxy_untuned, other.proxy_weight) == (None, None, 1.0)
    with pytest.raises(colm.OptionError, match=name):
        shared.replaced({"strategy": "defer", name: own[name]})


def test_on_the_command_line(files: dict[str, Path]) -> None:
    models = [f"--base={files['base']}", f"--expert=math={files['math']}", f"--expert=code={files['code']}"]
    failed = fail("generate", PROMPT, *models, "--head", "always:math", "--proxy-tuned", "math")
    assert "--proxy-tuned is" in failed
    assert '--strategy "proxy"' in failed


def test_arms_with_other_strategies_are_not_given_them(pair: colm.Pair) -> None:
    problem = Problem(0, (), "", PROMPT)
    arms = [Arm("base", "never", 0.5, None, {}), Arm("proxy", "always:math", 0.5, None, {}, strategy="proxy")]
    options = {"proxy_tuned": "math", "proxy_untuned": "code", "max_tokens": 4}
    records = [record for _, record in answers(pair, [(problem, arm) for arm in arms], options, chat=False)]
    assert [record.n_deferred > 0 for record in records] == [False, True]
    with pytest.raises(colm.OptionError, match="proxy_tuned"):
        list(answers(pair, [(problem, arms[0])], options, chat=False))

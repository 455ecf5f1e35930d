"""The demo's three models: what they can do that no two of them can, and the command that shows it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import commands
import pytest
from click.testing import Result
from conftest import Asked

import colm_cpp as colm
from colm_cpp.errors import HeadError
from colm_cpp.evaluate.demo import THREE_PROBLEMS, Answer, answer_arms, demo_problems, tally
from colm_cpp.evaluate.demo_three import arms_of_several, shares
from colm_cpp.sources.preset import DEMO_FOLDER, DEMO_THREE_FOLDER

ALONE = ("base", "sums", "almanac")
PAIRS = ("base+sums", "base+almanac")
ARMS = (*ALONE, *PAIRS, "together")
FEW = 10


@pytest.fixture(scope="module")
def three() -> Iterator[colm.Pair]:
    with colm.load("demo-three") as pair:
        yield pair


def solved(pair: colm.Pair, skip: int, limit: int) -> dict[str, list[Answer]]:
    arms = arms_of_several(pair)
    found = answer_arms(pair, demo_problems(skip=skip, limit=limit, file=THREE_PROBLEMS), arms, n_parallel=32)
    return {arm.name: [answer for answer in found if answer.arm == arm.name] for arm in arms}


def check(answered: dict[str, list[Answer]], *, together: float, pairs: float, alone: float) -> None:
    assert tuple(answered) == ARMS
    right = {arm: tally(answers).accuracy for arm, answers in answered.items()}
    assert right["together"] >= together, right
    assert max(right[arm] for arm in PAIRS) <= pairs, right
    assert max(right[arm] for arm in ALONE) <= alone, right
    for arm, wrote in (("base", "0"), ("sums", "1"), ("almanac", "2")):
        assert {digit for answer in answered[arm] for digit in answer.record.experts} == {wrote}
    for arm, wrote in (("base+sums", "01"), ("base+almanac", "02"), ("together", "012")):
        assert {digit for answer in answered[arm] for digit in answer.record.experts} == set(wrote)


class TestFiles:
    def test_size(self) -> None:
        files = sorted(path.name for path in DEMO_THREE_FOLDER.iterdir())
        assert files == ["README.md", "adapter.gguf", "almanac.gguf", "head.gguf", "problems.jsonl"]
        assert sum((DEMO_THREE_FOLDER / name).stat().st_size for name in files) <= 1_300_000

    def test_problems(self) -> None:
        rows = [json.loads(line) for line in THREE_PROBLEMS.read_text(encoding="utf-8").splitlines()]
        assert len(rows) == len({row["prompt"] for row in rows}) == 300
        assert all(re.fullmatch(r"\d+", row["answer"]) for row in rows)
        assert len({row["situation"] for row in rows}) == 29  # goods in plots
        assert sum(row["answer"] in re.findall(r"\d+", row["prompt"]) for row in rows) < 10

    def test_head(self, three: colm.Pair) -> None:
        head = colm.Head.load(DEMO_THREE_FOLDER / "head.gguf")
        assert head.expert_names == three.names[1:] == ("sums", "almanac")
        assert head.default_threshold is None  # the base writes what is likelier its own
        assert head.rates

    def test_the_pair_is_in_it(self, three: colm.Pair) -> None:
        assert three.base["path"] == str(DEMO_FOLDER / "base.gguf")
        assert three.experts["sums"]["path"] == str(DEMO_FOLDER / "assistant.gguf")


def test_a_few_problems(three: colm.Pair) -> None:
    answered = solved(three, 0, FEW)
    check(answered, together=0.7, pairs=0.35, alone=0.2)
    # Nobody told the head what a fact is, or a sum.
    wrote = {"1": 0, "2": 0}
    elsewhere = 0
    for answer in answered["together"]:
        text = ""
        for piece, expert in zip(answer.record.pieces, answer.record.experts, strict=True):
            if expert == "1" and re.search(r"= ?\d*$", text):
                wrote["1"] += 1
            elif expert == "2" and re.search(r"(weighs|costs|holds|takes) ?\d*$", text):
                wrote["2"] += 1
            else:
                elsewhere += expert != "0"
            text += piece
    assert min(wrote.values()) > 2 * elsewhere
    assert sum(shares(answered["together"], 2)) == pytest.approx(tally(answered["together"]).deferral_rate)


@pytest.mark.slow
def test_all_problems(three: colm.Pair) -> None:
    """The table of docs/demo.md."""
    answered = solved(three, 0, 300)
    assert {len(answers) for answers in answered.values()} == {300}
    check(answered, together=0.85, pairs=0.25, alone=0.10)


def test_a_head_for_other_experts(three: colm.Pair) -> None:
    head = colm.Head.confidence(three.n_embd, expert_names=("sums",))
    with pytest.raises(HeadError, match="sums and almanac"):
        arms_of_several(colm.Pair(three.open_core(), head))


class TestCommand:
    def run(self, *arguments: str) -> Result:
        return commands.run("demo", "--three", *arguments)

    def test_without_colours(self, asked: Asked) -> None:
        result = self.run("--sample", "4")
        assert result.exit_code == 0, result.stderr
        out = result.stdout
        assert "\x1b" not in out
        for number, problem in enumerate(demo_problems(limit=3, file=THREE_PROBLEMS), start=1):
            assert f"Problem {number}\n{problem.prompt}\n" in out
        assert len(asked.prompts) == 3 * 4 + 4 * 6
        for arm in ("base alone", "sums alone", "almanac alone", "base and sums", "base and almanac", "all three"):
            assert re.search(rf"^{arm} +\d+ of 4 ", out, re.MULTILINE), arm
        assert "[like this]: written by sums. {like this}: written by the almanac." in out
        whole = out[out.index("all three:") : out.index("Problem 2")]
        assert re.search(r"= ?\[ ?\d+\]", whole)
        assert re.search(r"(weighs|costs|holds|takes) ?\{ ?\d+", whole)
        assert "colm demo --three --prompt" in out

    def test_colours(self) -> None:
        result = self.run("--color", "always", "--sample", "0")
        assert result.exit_code == 0
        # By more than colour: bold, and underlined.
        assert "\x1b[1;36m" in result.stdout
        assert "\x1b[4;35m" in result.stdout

    def test_a_prompt_of_ones_own(self, asked: Asked) -> None:
        prompt = "Ada buys 3 trays of eggs at the camp and pays with 700 cents. How many cents does Ada get back?"
        result = self.run("--prompt", prompt)
        assert result.exit_code == 0
        assert f"Your problem\n{prompt}\n" in result.stdout
        assert "all three:" in result.stdout
        assert len(asked.prompts) == 4

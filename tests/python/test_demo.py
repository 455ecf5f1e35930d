"""The pair in the package: what it can do that neither of its models can, and the command that shows it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import commands
import pytest
from click.testing import Result
from conftest import Asked

import colm_cpp as colm
from colm_cpp.evaluate.demo import ANSWER_PATTERN, ARMS, PROBLEMS, Answer, answer_all, demo_problems, tally
from colm_cpp.sources.preset import DEMO_FOLDER

MIB = 2**20


@pytest.fixture(scope="module")
def demo_pair() -> Iterator[colm.Pair]:
    with colm.load("demo") as pair:
        yield pair


@pytest.fixture(scope="module", params=[24, pytest.param(500, marks=pytest.mark.slow)])
def answered(request: pytest.FixtureRequest, demo_pair: colm.Pair) -> dict[str, list[Answer]]:
    """Some or all problems, solved by every arm."""
    found = answer_all(demo_pair, demo_problems(limit=request.param), n_parallel=24)
    return {arm: [answer for answer in found if answer.arm == arm] for arm in ARMS}


class TestFiles:
    def test_size(self) -> None:
        files = sorted(path.name for path in DEMO_FOLDER.iterdir())
        assert files == ["README.md", "assistant.gguf", "base.gguf", "head.gguf", "problems.jsonl"]
        assert sum((DEMO_FOLDER / name).stat().st_size for name in files) < 8 * MIB

    def test_problems(self) -> None:
        rows = [json.loads(line) for line in PROBLEMS.read_text(encoding="utf-8").splitlines()]
        assert len(rows) == len({row["prompt"] for row in rows}) == 500
        assert all(re.fullmatch(r"\d+", row["answer"]) for row in rows)
        assert len({row["situation"] for row in rows}) > 50
        # What comes out is not in the question, or copying would do.
        assert sum(row["answer"] in re.findall(r"\d+", row["prompt"]) for row in rows) < 10

    def test_head(self) -> None:
        head = colm.Head.load(DEMO_FOLDER / "head.gguf")
        assert head.default_threshold is None  # the fair coin of the likelihood that it was fitted to
        assert head.rates


class TestPair:
    """The table of docs/demo.md."""

    def test_the_base_alone_cannot(self, answered: dict[str, list[Answer]]) -> None:
        count = tally(answered["base"])
        assert (count.n_problems, count.deferral_rate) in ((24, 0), (500, 0))
        assert count.accuracy <= 0.35

    def test_the_assistant_alone_cannot(self, answered: dict[str, list[Answer]]) -> None:
        count = tally(answered["assistant"])
        assert count.deferral_rate == 1
        assert count.accuracy <= 0.10

    def test_random_deferral_cannot(self, answered: dict[str, list[Answer]]) -> None:
        count = tally(answered["random"])
        assert count.accuracy <= 0.50
        assert count.deferral_rate == pytest.approx(tally(answered["together"]).deferral_rate, abs=0.03)

    def test_together_they_can(self, answered: dict[str, list[Answer]]) -> None:
        count = tally(answered["together"])
        assert count.accuracy >= 0.90
        assert 0.05 <= count.deferral_rate <= 0.40

    def test_it_hands_over_the_sums(self, answered: dict[str, list[Answer]]) -> None:
        """Nobody told the head what a digit is."""
        results = others = 0
        for answer in answered["together"]:
            text = ""
            for piece, expert in zip(answer.record.pieces, answer.record.experts, strict=True):
                if expert == "1":
                    # behind an equals sign, or within the number behind it
                    if re.search(r"= ?\d*$", text) and re.fullmatch(r" ?\d?", piece):
                        results += 1
                    else:
                        others += 1
                text += piece
        assert results > 2 * others


def test_random_needs_the_rate_of_together(demo_pair: colm.Pair) -> None:
    problems = demo_problems(skip=3, limit=4)
    assert [problem.index for problem in problems] == [3, 4, 5, 6]
    told: list[Answer] = []
    answered = answer_all(demo_pair, problems, arms=("random", "together"), n_parallel=3, on_answer=told.append)
    assert [(answer.arm, answer.problem.index) for answer in answered] == [
        (arm, problem.index) for arm in ("random", "together") for problem in problems
    ]
    assert [answer.arm for answer in told] == ["together"] * 4 + ["random"] * 4
    assert {id(answer) for answer in told} == {id(answer) for answer in answered}
    for answer in answered:
        found = re.findall(ANSWER_PATTERN, answer.record.text)
        assert answer.found == (found[-1] if found else "")
        assert answer.right == (answer.found == answer.problem.answer)


class TestCommand:
    def run(self, *arguments: str) -> Result:
        return commands.run("demo", *arguments)

    @pytest.mark.parametrize(
        ("arguments", "n"), [(["--sample", "10"], 10), pytest.param([], 50, id="none", marks=pytest.mark.slow)]
    )
    def test_problems_and_a_sample(self, arguments: list[str], n: int, asked: Asked) -> None:
        result = self.run(*arguments)
        assert result.exit_code == 0, result.stderr
        out = result.stdout
        assert "\x1b" not in out
        for number, problem in enumerate(demo_problems(limit=3), start=1):
            assert f"Problem {number}\n{problem.prompt}\n" in out
        assert out.count("base alone:") == out.count("assistant alone:") == out.count("together:") == 3
        # Three problems by three arms, then the sample by four.
        assert len(asked.prompts) == 9 + 4 * n
        for arm in ("base alone", "assistant alone", "both, at random", "together"):
            assert re.search(rf"^{arm} +\d+ of {n} ", out, re.MULTILINE), arm
        assert re.search(r"right: \d+", out)
        assert re.search(r"wrong: \d+ .*\b\d+|no answer; .*\b\d+", out)
        assert re.search(r"= ?\[ ?\d+\]", out)  # who wrote what, without colours
        assert "colm demo --prompt" in out
        assert f"solving: 100%, {4 * n} of {4 * n} solutions" in result.stderr

    def test_colours(self) -> None:
        result = self.run("--color", "always", "--sample", "0")
        assert result.exit_code == 0
        assert "\x1b[1;36m" in result.stdout
        assert "50 problems" not in result.stdout

    def test_a_prompt_of_ones_own(self, asked: Asked) -> None:
        prompt = "Ada has 9 boxes of 132 pencils and 77 loose ones. How many pencils does she have?"
        result = self.run("--prompt", prompt)
        assert result.exit_code == 0
        assert f"Your problem\n{prompt}\n" in result.stdout
        assert "together:" in result.stdout
        assert "right" not in result.stdout
        assert len(asked.prompts) == 3

    @pytest.mark.parametrize("prompt", ["", " \n"])
    def test_an_empty_prompt(self, prompt: str) -> None:
        result = self.run("--prompt", prompt)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == "colm: error: the prompt is empty; give a word problem\n"

    def test_an_odd_prompt(self) -> None:
        """Whatever it makes the models write is shown, with nothing that drives a terminal."""
        result = self.run("--prompt", "\x1b[2J [bold]x[/bold] 猫 \u202e")
        assert result.exit_code == 0
        assert "\x1b" not in result.stdout
        assert "[bold]x[/bold] 猫" in result.stdout

    def test_a_long_prompt(self) -> None:
        result = self.run("--prompt", "many words " * 400)
        assert result.exit_code == 1
        assert re.match(r"colm: error: .*512", result.stderr)

"""The shop of docs/private-domain.md: its files, their answers, and the checker that judges them."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from programs import load_program

from colm_cpp.learn import load_prompts, load_task, make_checker

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "private-domain"
PROMPT = re.compile(r"An? (\w+) customer in (\w+) wants an? (\w+)(?: and an? (\w+))?\.(?: Deposit: (\d+)\.)?")
PATTERN = r"(?m)^Bill (.+)$"
EXTRA = {"guild": 100, "island": 200, "quay": 0}


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FOLDER / "shop" / name).read_text(encoding="utf-8").splitlines()]


def read(prompt: str) -> tuple[str, str, list[str], int]:
    """Customer, country, items and deposit of a ticket."""
    found = PROMPT.fullmatch(prompt)
    assert found is not None, prompt
    return found[1], found[2], [item for item in found.group(3, 4) if item], int(found[5] or 0)


@pytest.fixture(scope="module")
def shop() -> ModuleType:
    return load_program(FOLDER / "make_shop.py")


def test_the_files_are_those_of_the_script(shop: ModuleType) -> None:
    made = shop.make_files(14)
    assert set(made) == {path.name for path in (FOLDER / "shop").iterdir()}
    for name, content in made.items():
        assert (FOLDER / "shop" / name).read_text(encoding="utf-8") == content
    assert shop.make_files(15)["tickets.jsonl"] != made["tickets.jsonl"]


def test_held_out_tickets_ask_for_sums_and_countries_of_no_text() -> None:
    asked = {name: [read(row["prompt"]) for row in rows(name)] for name in ("texts.jsonl", "tickets.jsonl")}
    calibration = [read(problem.prompt) for problem in load_prompts(FOLDER / "shop" / "calibration.jsonl")]
    texts, held_out = asked["texts.jsonl"], asked["tickets.jsonl"]
    assert (len(texts), len(calibration), len(held_out)) == (600, 40, 200)
    sums = [(*sorted(items), deposit) for _, _, items, deposit in [*texts, *calibration, *held_out]]
    assert len(set(sums)) == len(sums)
    new = {country for _, country, _, _ in [*held_out, *calibration]}
    assert len(new) == 28
    assert new.isdisjoint(country for _, country, _, _ in texts)
    # What the base has to learn is in the texts, often enough.
    seen = Counter(item for _, _, items, _ in texts for item in items)
    assert set(seen) == {item for _, _, items, _ in held_out for item in items}
    assert min(seen.values()) >= 20
    assert {customer for customer, _, _, _ in texts} == set(EXTRA)


def bill(prompt: str) -> str:
    """The answer to a ticket, from its words and the two files that say what its words stand for."""
    catalogue = {item["name"]: item for item in json.loads((FOLDER / "shop" / "catalogue.json").read_text())}
    customer, country, items, deposit = read(prompt)
    total = sum(catalogue[item]["price"] for item in items) + deposit + EXTRA[customer]
    return f"{' '.join(catalogue[item]['code'] for item in items)} {total}, country calling code of {country} is +"


def test_answers_follow_from_catalogue_and_rules(shop: ModuleType) -> None:
    for row in rows("tickets.jsonl"):
        _, country, _, _ = read(row["prompt"])
        assert row["answer"] == bill(row["prompt"]) + shop.COUNTRIES[country]
    for row in rows("texts.jsonl"):
        *lines, last = row["completion"].splitlines()
        assert last.startswith("Bill " + bill(row["prompt"]))
        for first, second, result in re.findall(r"(\d+) \+ (\d+) = (\d+)", row["completion"]):
            assert int(first) + int(second) == int(result) <= 999
        assert len(lines) <= 4
    with_rules = rows("tickets-with-rules.jsonl")
    assert [row["messages"][-1]["content"] for row in with_rules] == [row["prompt"] for row in rows("tickets.jsonl")]
    assert all(row["messages"][0] == {"role": "system", "content": shop.RULES} for row in with_rules)


def test_the_rules_hold_no_secret(shop: ModuleType) -> None:
    """The example in the rules uses no item, code or country of the shop."""
    words = set(re.findall(r"\w+", shop.RULES.partition("Example:")[2]))
    secret = {value for row in rows("texts.jsonl") for value in row["completion"].splitlines()[0].split()[:2]}
    assert len(secret) == 80
    assert words.isdisjoint(secret | set(shop.COUNTRIES))


def test_the_checker_tells_right_from_wrong() -> None:
    checker = make_checker("regex", pattern=PATTERN)
    problems = {problem.prompt: problem for problem in load_task(FOLDER / "shop" / "tickets.jsonl").problems}
    problem = next(iter(problems.values()))
    right = f"lantern AA1 300\nBill {problem.answer}"
    assert checker.check(right, problem.answer, problem.prompt).correct
    assert checker.check(right + "\n", problem.answer, problem.prompt).correct
    code, rest = problem.answer.split(" ", 1)
    assert not checker.check(f"Bill {rest}", problem.answer, problem.prompt).correct
    assert not checker.check(f"Bill {code}", problem.answer, problem.prompt).correct
    assert not checker.check(right + "0", problem.answer, problem.prompt).correct
    assert not checker.check(right.replace("Bill ", ""), problem.answer, problem.prompt).correct

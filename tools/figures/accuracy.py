"""Right answers over the time of an answer, with the chord, from recorded reports."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .drawing import Picture

WIDTH, HEIGHT = 284.0, 390.0
LEFT, TOP, RIGHT, BOTTOM = 48.0, 62.0, 10.0, 48.0

# By the name of an arm before "@": series, shape.
SERIES = {
    "base": ("base", "circle"),
    "tunedbase": ("base", "circle"),
    "assistant": ("assistant", "circle"),
    "regret": ("learned", "square"),
    "learned": ("learned", "square"),
    "confidence": ("confidence", "triangle"),
    "random": ("random", "diamond"),
    "tuned": ("tuned", "square"),
}
LEGEND = (
    ("circle", "base", "base alone"),
    ("square", "learned", "pair, learned head"),
    ("triangle", "confidence", "pair, plain confidence"),
    ("circle", "assistant", "assistant alone"),
    ("square", "tuned", "pair, tuned base"),
    ("diamond", "random", "pair, random tokens"),
)

LEGEND_WIDTH = 210.0


@dataclass(frozen=True)
class Point:
    """One arm of a report.

    Attributes:
        arm: its name.
        seconds: for each problem.
        accuracy, low, high: share of right answers and its 95% interval, 0 to 1.
    """

    arm: str
    seconds: float
    accuracy: float
    low: float
    high: float


def points(report: dict[str, Any]) -> list[Point]:
    """The arms that answered every problem, with their seconds for each: by steps, or else by the clock."""
    arms = report["arms"]
    full = [arm for arm in arms if arm["n_problems"] == max(arm["n_problems"] for arm in arms)]
    if all(arm["s_per_problem"] is not None for arm in full):
        seconds = {arm["name"]: arm["s_per_problem"] for arm in full}
    else:
        seconds = _by_the_clock(report)
    return [Point(a["name"], seconds[a["name"]], a["accuracy"], a["low"], a["high"]) for a in full]


def _by_the_clock(report: dict[str, Any]) -> dict[str, float]:
    """Seconds of each arm, and of both models: the chord is a line of cost over its share of the problems."""
    rows = [
        row for row in report["above"] if row["measure"] == "clock per problem" and 0 < row["share_of_problems"] < 1
    ]
    first, last = (choose(rows, key=lambda row: row["cost"]) for choose in (min, max))
    slope = (last["cost"] - first["cost"]) / (last["share_of_problems"] - first["share_of_problems"])
    base = first["cost"] - slope * first["share_of_problems"]
    return {"base": base, "assistant": base + slope} | {row["arm"]: row["cost"] for row in rows}


def _ticks(most: float) -> Iterator[float]:
    step = next(s for s in (0.5, 1, 2, 5, 10, 20) if most / s <= 6)
    for number in range(int(most / step) + 1):
        yield number * step


def _panel(picture: Picture, left: float, title: str, below: str, shown: list[Point], labels: dict[str, str]) -> None:
    most = 1.12 * max(point.seconds for point in shown)
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(seconds: float) -> float:
        return left + LEFT + width * seconds / most

    def y(accuracy: float) -> float:
        return TOP + height * (1 - accuracy / 0.85)

    picture.text(left + LEFT, 28, title, "ink strong")
    picture.text(left + LEFT, 46, below, "soft small")
    for share in (0, 0.2, 0.4, 0.6, 0.8):
        picture.path(f"M{x(0):.1f} {y(share):.1f}H{x(most):.1f}", "rule-line")
        picture.text(x(0) - 6, y(share) + 4, f"{share:.0%}", "soft small", "end")
    for seconds in _ticks(most):
        picture.text(x(seconds), y(0) + 18, f"{seconds:g}", "soft small", "middle")
    picture.text(x(most / 2), y(0) + 38, "seconds for a problem", "soft small", "middle")
    alone = {point.arm: point for point in shown if point.arm in ("base", "assistant")}
    base, assistant = alone["base"], alone["assistant"]
    chord = f"M{x(base.seconds):.1f} {y(base.accuracy):.1f}L{x(assistant.seconds):.1f} {y(assistant.accuracy):.1f}"
    picture.path(chord, "ink-line dashed")
    for point in shown:
        series, _ = SERIES[point.arm.split("@")[0]]
        picture.path(f"M{x(point.seconds):.1f} {y(point.low):.1f}V{y(point.high):.1f}", f"{series}-line")
    for point in shown:
        series, shape = SERIES[point.arm.split("@")[0]]
        picture.mark(x(point.seconds), y(point.accuracy), shape, f"{series} paper-line")
        if point.arm in labels:
            side, _, text = labels[point.arm].partition(" ")
            dx, dy, anchor = {
                "left": (-9, 4, "end"),
                "right": (9, 4, "start"),
                "above": (-8, -10, "end"),
                "below": (9, 17, "start"),
            }[side]
            picture.text(x(point.seconds) + dx, y(point.accuracy) + dy, text, f"{series} small", anchor)


# Folder, title, the line below it, and labels with their side.
PANELS = (
    (
        "csqa",
        "CommonsenseQA",
        "104 problems",
        {"base": "left base", "regret@10": "above learned head", "random@20": "right random"},
    ),
    (
        "gsm8k",
        "GSM8K",
        "100 problems",
        {
            "base": "left base",
            "tunedbase": "right tuned base",
            "regret@20": "left learned head",
            "tuned@25": "left tuned base, head",
            "assistant": "above assistant",
        },
    ),
    (
        "csqa-tuned",
        "CommonsenseQA, tuned base",
        "240 problems",
        {"base": "below tuned base", "learned@10+compose": "above both mixed", "assistant": "above assistant"},
    ),
)


def accuracy(results: Path) -> Picture:
    """The recorded evaluations of the Qwen pair, beside each other."""
    picture = Picture(
        3 * WIDTH + 10,
        HEIGHT + 60,
        "Right answers over the time of an answer",
        "Three plots of right answers over seconds for each problem. A dashed line, the chord, joins base and "
        "assistant. CommonsenseQA: the pair with a learned head has nearly the assistant's accuracy in three quarters "
        "of its time, far above the chord; with random tokens it is below the chord. GSM8K: all pairs but the random "
        "one lie close to the chord. CommonsenseQA with a tuned base: the pair is above both models, at little more "
        "than half of the assistant's time.",
    )
    for number, (folder, title, below, labels) in enumerate(PANELS):
        report = json.loads((results / folder / "report.json").read_text(encoding="utf-8"))
        _panel(picture, number * WIDTH, title, below, points(report), labels)
    row, at = HEIGHT + 16, 24.0
    for number, (shape, series, name) in enumerate(LEGEND):
        if number == len(LEGEND) // 2:
            row, at = row + 24, 24.0
        picture.mark(at, row, shape, f"{series} paper-line")
        picture.text(at + 11, row + 5, name, "ink small")
        at += LEGEND_WIDTH
    picture.path(f"M{at - 8:.1f} {HEIGHT + 28:.1f}h30", "ink-line dashed")
    picture.text(at + 28, HEIGHT + 33, "chord", "ink small")
    return picture

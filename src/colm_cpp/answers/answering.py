"""Answering: these problems, each by this way of writing, with these options; one after another or many at once.

Everybody who has problems answered does it here: evaluations, calibration, responses, the demo.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..chat.own import unknown_model
from ..engine.own_prompts import chat_prompt
from ..errors import ColmError, ContextFull, GenerationError, OptionError, TokenizeError
from ..heads.head import Head
from ..heads.tables import PLAIN, Runs
from ..options import ANSWER_OPTIONS, BASE, STRATEGIES, GenerationOptions, seed_of
from ..traces.record import Record
from .problems import Problem

if TYPE_CHECKING:
    from ..engine.pair import Pair
    from ..results import Completion

__all__ = ["Arm", "Counts", "answers", "check_heads", "texts"]


@dataclass(frozen=True, slots=True)
class Arm:
    """One configuration that answers the problems.

    Attributes:
        name: ``base``, ``assistant``, the name of another model, or a head's or another pair's name with a rate, such
            as ``learned@20`` or ``learned@20+hold4``.
        head: the head that decides.
        threshold: eta.
        rate: the wanted deferral rate; None for a model alone.
        facts: the head and the options that its answers depend on, for ``meta.json``.
        expert: the name of another model or pair that answers, see
            :func:`colm_cpp.evaluate.arms.make_arms`. None: the pair answers.
        runs: how long the assistant keeps its turn.
        strategy: what a deferred position means, as for :meth:`colm_cpp.Pair.generate`.
    """

    name: str
    head: Head | str
    threshold: float
    rate: float | None
    facts: Mapping[str, Any]
    expert: str | None = None
    runs: Runs = PLAIN
    strategy: str = STRATEGIES[0]

    def options(self) -> dict[str, Any]:
        """What it adds to the options of a text."""
        decided = {"strategy": self.strategy, "head": self.head, "threshold": self.threshold}
        return {**self.runs.facts(), **decided}


def check_heads(pair: Pair, arms: Sequence[Arm], experts: Mapping[str, Pair] | None = None) -> None:
    """Says before the first answer whether the pair of every arm can ask its head, and write with its strategy.

    Raises:
        HeadError: a head for another base (HeadMismatch), or one that is no file and no token of the base.
        OptionError: the pair cannot have the strategy.
    """
    for arm in {(id(arm.head), arm.expert, arm.strategy): arm for arm in arms}.values():
        of = _pair_of(arm, pair, experts)
        of.prepared_head(arm.head)
        if arm.strategy not in (STRATEGIES[0], "proxy"):  # proxy has options of its own
            # Beginning a text checks the strategy; nothing is computed before its first token is asked for.
            options: dict[str, Any] = {"head": arm.head, "strategy": arm.strategy}
            of.stream([0], **options).close()


def _pair_of(arm: Arm, pair: Pair, experts: Mapping[str, Pair] | None) -> Pair:
    return pair if arm.expert is None else (experts or {})[arm.expert]


def texts(
    pair: Pair, asked: Iterable[tuple[Any, Mapping[str, Any]]], n_parallel: int
) -> Generator[tuple[int, Completion | ColmError], None, None]:
    """Writes a text for each prompt with its options. Yields its number, and the text or why there is none.

    Args:
        pair: the loaded pair.
        asked: prompts as token ids (of each model, where they differ), each with its options. An iterator is read as
            texts end.
        n_parallel: texts that are written at a time. One at a time, each begins with empty caches, so that it does not
            depend on those before it.
    """
    if n_parallel == 1:
        for number, (prompt, own) in enumerate(asked):
            pair.forget()
            try:
                yield number, pair.generate(prompt, **own)
            except (ContextFull, GenerationError, TokenizeError) as error:
                yield number, error
        return
    first, second = itertools.tee(asked)
    prompts, each = (prompt for prompt, _ in first), (own for _, own in second)
    with pair.stream_batch(prompts, each=each, n_parallel=n_parallel) as stream:  # type: ignore[arg-type]
        yield from stream


def answers(
    pair: Pair,
    asked: Sequence[tuple[Problem, Arm]],
    options: Mapping[str, Any],
    *,
    chat: bool,
    n_parallel: int = 1,
    experts: Mapping[str, Pair] | None = None,
) -> Generator[tuple[int, Record], None, None]:
    """Answers each problem with its arm. Yields the place in ``asked`` and the answer, when an answer ends.

    Args:
        pair: the loaded pair.
        asked: problems, each with the arm that answers it.
        options: generation options; ``seed`` is the seed of problem 0, and each later problem adds 1.
        chat: apply the base's chat template.
        n_parallel: answers that are written at a time. The experts answer one after the other.
        experts: the pairs of arms that have an ``expert``.
    """
    # Arms with another strategy are not given what they would refuse.
    of_proxy: dict[str, Any] = {}
    if any(arm.strategy == "proxy" for _, arm in asked):
        of_proxy = {name: value for name, value in options.items() if name.startswith("proxy_")}
    options = {name: value for name, value in options.items() if name not in of_proxy}
    # Without look-ahead, so that it does not depend on the machine what is asked, and in which batches.
    given = {"lookahead": 0, **GenerationOptions.checked({**ANSWER_OPTIONS, **options})}

    def asking(places: list[int], of: Pair) -> Iterator[tuple[Any, dict[str, Any]]]:
        for problem, arm in (asked[place] for place in places):
            prompt = _prompt(problem, of, chat, others=of is not pair)
            own = {**arm.options(), **(of_proxy if arm.strategy == "proxy" else {})}
            yield prompt, {**given, **own, "seed": seed_of(given["seed"], problem.index)}

    for problem, arm in asked:
        _check_names(problem, _pair_of(arm, pair, experts), chat, others=arm.expert is not None)
    places = list(range(len(asked)))
    if n_parallel > 1:
        # Texts of one arm side by side: llama.cpp reads in one pass what lies in adjoining slots.
        experts_in_order = list(dict.fromkeys(arm.expert for _, arm in asked))
        arms_in_order = list(dict.fromkeys(arm.name for _, arm in asked))
        places.sort(key=lambda i: (experts_in_order.index(asked[i][1].expert), arms_in_order.index(asked[i][1].name)))
    for _, run in itertools.groupby(places, key=lambda place: asked[place][1].expert):
        group = list(run)
        of = _pair_of(asked[group[0]][1], pair, experts)
        with closing(texts(of, asking(group, of), n_parallel)) as written:
            for number, result in written:
                if isinstance(result, ColmError):
                    raise result
                yield group[number], Record.of(asked[group[number]][0].index, result, n_parallel)


def _check_names(problem: Problem, pair: Pair, chat: bool, *, others: bool) -> None:
    """Says before the first answer what none could be written to."""
    row = f"row {problem.index + 1} of the problems"
    if problem.template and not chat:
        raise OptionError(f"{row} has {next(iter(problem.template))}, which needs a chat template; use --chat")
    wrong = None if others else unknown_model(problem.own_prompts, problem.template, pair.names)
    if wrong is not None:
        raise OptionError(f"{row}: {wrong}; correct the row, or load the models under those names")


def _prompt(problem: Problem, pair: Pair, chat: bool, *, others: bool) -> Any:
    """What the models read. ``others``: the pair need not have the models for which the problem has prompts."""
    own = {name: text for name, text in problem.own_prompts.items() if not others or name in pair.names}
    if not chat:
        return {BASE: problem.prompt, **own} if own else pair.tokenize(problem.prompt)
    asked = {name: [{"role": "user", "content": text}] for name, text in own.items()}
    template: dict[str, Any] = {
        key: {name: text for name, text in value.items() if name in pair.names} if isinstance(value, Mapping) else value
        for key, value in problem.template.items()
    }
    return chat_prompt(pair, problem.messages, own=asked, **template)


@dataclass(frozen=True, slots=True)
class Counts:
    """Sums over answers.

    Attributes:
        n_tokens: tokens written.
        n_deferred: of these, on the assistant's turn.
        n_runs: times that the turn went from the base to the assistant.
        base_steps: positions at which the base gave a distribution.
        assistant_calls: positions at which the assistant was asked.
    """

    n_tokens: int
    n_deferred: int
    n_runs: int
    base_steps: int
    assistant_calls: int

    @classmethod
    def of(cls, records: Iterable[Record]) -> Counts:
        """Of any number of answers."""
        rows = [(r.n_tokens, r.n_deferred, r.n_runs, r.base_steps, r.assistant_calls) for r in records]
        return cls(*map(sum, zip(*rows, strict=True))) if rows else cls(0, 0, 0, 0, 0)

    @property
    def deferral_rate(self) -> float:
        """Share of the tokens on the assistant's turn, 0 to 1."""
        return self.per_token(self.n_deferred)

    def per_token(self, n: float) -> float:
        """``n`` for each token written."""
        return n / max(self.n_tokens, 1)

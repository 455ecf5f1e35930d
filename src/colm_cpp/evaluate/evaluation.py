"""Is the pair better than either model? Every arm answers every problem; :mod:`.summary` compares them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..engine.pair import DEFAULT_THRESHOLD
from ..errors import ColmError, HeadError, OptionError
from ..files.lock import lock_folder
from ..heads.adapters import adapter_digest, in_effect
from ..heads.head import Head
from ..heads.tables import PLAIN, Runs, threshold_for
from ..options import ANSWER_OPTIONS, STRATEGIES, choice
from ..sources.hub import resolve
from ..sources.identity import adapters_identity, head_identity, model_identity
from ..sources.names import find_head
from ..sources.pair_file import Preset
from .bench import STEPS_N_CTX, time_steps
from .costs import StepTimes
from .records import SINGLE_ARMS, Record, RecordFolder
from .tasks import Problem, Task

if TYPE_CHECKING:
    from ..engine.pair import Pair

__all__ = ["Arm", "Progress", "answers", "check_heads", "evaluate", "make_arms", "named_heads"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


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
        expert: the name of another model or pair that answers, see :func:`make_arms`. None: the pair answers.
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


@dataclass(frozen=True, slots=True)
class Progress:
    """Sent after every answer.

    Attributes:
        done: answers made so far, by earlier runs too.
        total: answers in all.
        made: answers made by this run.
        arm: the arm that answered last.
        record: its answer.
    """

    done: int
    total: int
    made: int
    arm: str
    record: Record


def make_arms(
    names: Sequence[str],
    heads: Mapping[str, str | os.PathLike[str]],
    rates: Sequence[float],
    *,
    random: bool = True,
    experts: Mapping[str, str | os.PathLike[str] | Preset] | None = None,
    runs: Sequence[Runs] = (PLAIN,),
    strategies: Sequence[str] = STRATEGIES[:1],
) -> list[Arm]:
    """The arms of an evaluation.

    Args:
        names: models that answer alone: ``base``, ``assistant``, both or neither.
        heads: name -> head, see :mod:`colm_cpp.sources.names`. A calibrated head, and ``random``, answers at every
            rate. Other training-free heads and tokens have no rates and answer once, with threshold 0.5.
        rates: deferral rates in (0, 1).
        random: also defer at random, at the same rates.
        experts: name -> file of another model that answers alone with its own chat template, such as a fine-tuned
            base; or another pair, whose own head decides at every rate. A pair without a head stands for its base,
            which answers alone with its adapter. :func:`evaluate` needs all of them loaded.
        runs: heads, other pairs and ``random`` answer with each of these.
        strategies: heads and other pairs answer with each of these, see :meth:`colm_cpp.Pair.generate`.

    Raises:
        OptionError: an unknown or unusable name or strategy, a rate outside (0, 1), or no arm at all.
        HeadError: a head file without a calibration table for the runs.
        LoadError: a head file that cannot be read.
    """
    for strategy in strategies:
        choice("strategy", strategy, STRATEGIES)
    arms = []
    for name in names:
        if name not in SINGLE_ARMS:
            raise OptionError(
                f"arm {name!r} is unknown; give {', '.join(SINGLE_ARMS)}, random, NAME=MODEL for another model, "
                "NAME=PAIR for another pair, or --head for a head"
            )
        head = "never" if name == "base" else "always"
        arms.append(Arm(name, head, 0.5, None, {"head": head, "threshold": 0.5, "rate": None}))
    for rate in rates:
        if not 0.0 < rate < 1.0:
            hint = f". Did you mean {rate / 100:g}?" if 1.0 < rate < 100.0 else "; for a model alone, give its arm"
            raise OptionError(f"rate is {rate}; it must lie in (0, 1){hint}")
    for name, model in (experts or {}).items():
        _check_name("a model", name)
        if name in heads:
            raise OptionError(f"a model and a head are both named {name!r}; give one of them another name")
        arms += _in_each(strategies, _of_expert(name, model, rates, runs))
    for name, path in heads.items():
        _check_name("a head", name)
        arms += _in_each(strategies, [arm for its in runs for arm in _of_head(name, path, rates, its)])
    if random:
        arms += [arm for its in runs for arm in _of_head("random", "random", rates, its)]
    if not arms:
        raise OptionError("no arm was given; give --arm, --head with --rate, or both")
    return arms


def _in_each(strategies: Sequence[str], arms: Sequence[Arm]) -> list[Arm]:
    """The arms with each strategy. A model alone has none, so it stays as it is."""
    given = []
    for arm in arms:
        alone = isinstance(arm.head, str) and arm.head in ("always", "never")
        for strategy in STRATEGIES[:1] if alone else strategies:
            if strategy == STRATEGIES[0]:
                given.append(arm)
            else:
                facts = {**arm.facts, "strategy": strategy}
                given.append(replace(arm, name=f"{arm.name}+{strategy}", facts=facts, strategy=strategy))
    return given


def _check_name(what: str, name: str) -> None:
    if not _NAME.fullmatch(name) or name in (*SINGLE_ARMS, "random", "chord", "router"):
        raise OptionError(
            f"{what} cannot be named {name!r}; use letters, digits, '.', '_' and '-', and not the name of an arm"
        )


def _of_expert(
    name: str, expert: str | os.PathLike[str] | Preset, rates: Sequence[float], runs: Sequence[Runs]
) -> list[Arm]:
    if not isinstance(expert, Preset):
        expert = Preset("", os.fspath(expert), os.fspath(expert), None)
    base = model_identity(resolve(expert.base))
    adapters = expert.load_options({})[1].get("lora", [])
    if adapters:
        base["adapters"] = adapters_identity(
            in_effect((adapter_digest(resolve(path)), scale) for path, scale in adapters)
        )
    if expert.head is None:
        return [Arm(name, "never", 0.5, None, {"head": "never", "threshold": 0.5, "rate": None, "expert": base}, name)]
    pair = {"base": base, "assistant": model_identity(resolve(expert.assistant)), "system": expert.system}
    arms = [arm for its in runs for arm in _of_head(name, expert.head, rates, its)]
    return [replace(arm, facts={**arm.facts, "pair": pair}, expert=name) for arm in arms]


def _of_head(name: str, head: str | os.PathLike[str], rates: Sequence[float], runs: Runs) -> list[Arm]:
    file = find_head(head).file()
    loaded = os.fspath(head) if file is None else Head.load(file)
    identity = head_identity(head)
    if isinstance(loaded, str) and loaded != "random":
        facts = {**identity, "threshold": DEFAULT_THRESHOLD, "rate": None, **runs.facts()}
        return [Arm(_arm_name(name, None, runs), loaded, DEFAULT_THRESHOLD, None, facts, runs=runs)]
    if isinstance(loaded, Head) and not loaded.rates and runs == PLAIN:
        raise HeadError(f"head {os.fspath(head)} has no calibration table; run colm calibrate on it first")
    arms = []
    for rate in rates:
        eta = threshold_for(loaded, runs, rate) if isinstance(loaded, Head) else runs.random_threshold(rate)
        facts = {**identity, "threshold": eta, "rate": rate, **runs.facts()}
        arms.append(Arm(_arm_name(name, rate, runs), loaded, eta, rate, facts, runs=runs))
    return arms


def named_head(text: str) -> tuple[str, str]:
    """Splits ``NAME=HEAD``, or names a head that has no NAME: the name of its arms, and the head.

    A head without a NAME is named after its file, or after the letters of its token: ``<|defer|>`` is ``defer``.

    Raises:
        OptionError: the head has no letters to name it after.
    """
    name, equals, head = text.partition("=")
    if equals and head and _NAME.fullmatch(name):
        return name, head
    stem = os.path.basename(text).removesuffix(".gguf") if find_head(text).kind == "file" else text
    name = re.sub(r"^[^A-Za-z0-9]+|[^A-Za-z0-9._-]+", "", stem)
    if not name:
        raise OptionError(f"head {text!a} has no letters to name it after; put a name before it, such as mine={text}")
    return name, text


def named_heads(texts: Sequence[str]) -> dict[str, str]:
    """Heads by their names; see :func:`named_head`.

    Raises:
        OptionError: two have one name.
    """
    heads: dict[str, str] = {}
    for text in texts:
        name, head = named_head(text)
        if name in heads:
            raise OptionError(
                f"two heads are named {name}: {heads[name]} and {head}; give one another name, such as other={head}"
            )
        heads[name] = head
    return heads


def _arm_name(head: str, rate: float | None, runs: Runs) -> str:
    at = "" if rate is None else f"@{rate * 100:g}"
    hold = "" if runs.hold == 1 else f"+hold{runs.hold}"
    leave = "" if runs.leave_threshold is None else f"+leave{runs.leave_threshold:g}"
    return f"{head}{at}{hold}{leave}"


def check_heads(pair: Pair, arms: Sequence[Arm], experts: Mapping[str, Pair] | None = None) -> None:
    """Says before the first answer whether the pair of every arm can ask its head.

    Raises:
        HeadError: a head for another base (HeadMismatch), or one that is no file and no token of the base.
    """
    for arm in {(id(arm.head), arm.expert): arm for arm in arms}.values():
        _pair_of(arm, pair, experts)._prepare(arm.head)


def _pair_of(arm: Arm, pair: Pair, experts: Mapping[str, Pair] | None) -> Pair:
    return pair if arm.expert is None else (experts or {})[arm.expert]


def evaluate(
    pair: Pair,
    task: Task,
    folder: RecordFolder,
    arms: Sequence[Arm],
    options: Mapping[str, Any],
    *,
    chat: bool = True,
    n_parallel: int = 1,
    on_progress: Callable[[Progress], None] | None = None,
    experts: Mapping[str, Pair] | None = None,
) -> None:
    """Answers all problems that are not answered yet.

    A new folder begins with timing bare decodes of both models, if the context has room for it; costs by counts need
    these step times. Then every arm answers the first problem, then the second, and so on. A change in the machine's
    speed thus affects all arms alike. With one answer at a time, the KV caches are cleared between answers, so an
    interrupted run gives the same answers as an uninterrupted one.

    Args:
        pair: the loaded pair.
        task: the problems.
        folder: the folder that keeps the answers.
        arms: the arms that answer.
        options: generation options; the defaults are :data:`colm_cpp.options.ANSWER_OPTIONS`. ``seed`` is the seed of
            the first problem; each later problem adds 1.
        chat: apply the base's chat template. False: continue the text of the last message.
        n_parallel: answers that are written at a time, see :meth:`colm_cpp.Pair.stream_batch`. More than 1 is several
            times as fast, but does not show an arm's speed; the summary leaves such answers out of tokens/s.
        on_progress: called after every answer.
        experts: name of an expert -> the loaded pair, or a pair whose base it is, for every arm with an ``expert``.

    Raises:
        FolderInUse: another process is writing to the folder.
        OptionError: ``n_parallel`` outside its range.
        Everything that :meth:`colm_cpp.Pair.chat` raises.
    """
    check_heads(pair, arms, experts)
    with lock_folder(folder.path):
        _evaluate(pair, task, folder, arms, options, chat, n_parallel, on_progress, experts or {})


def _evaluate(
    pair: Pair,
    task: Task,
    folder: RecordFolder,
    arms: Sequence[Arm],
    options: Mapping[str, Any],
    chat: bool,
    n_parallel: int,
    on_progress: Callable[[Progress], None] | None,
    experts: Mapping[str, Pair],
) -> None:
    if "steps" not in folder.meta and pair.n_ctx >= STEPS_N_CTX:
        folder.set_steps(StepTimes.of(time_steps(pair)).to_dict())
    for name, expert in experts.items():
        if name not in folder.meta.get("expert_steps", {}) and expert.n_ctx >= STEPS_N_CTX:
            folder.set_steps(StepTimes.of(time_steps(expert)).to_dict(), expert=name)
    known = {}
    for arm in arms:
        folder.set_arm(arm.name, arm.facts)
        known[arm.name] = set(folder.read(arm.name))
    total = len(arms) * len(task.problems)
    todo = [(p, a) for p in task.problems for a in arms if p.index not in known[a.name]]
    # closed here, so that an error does not keep the batch's contexts for as long as its traceback lives
    with closing(answers(pair, todo, options, chat=chat, n_parallel=n_parallel, experts=experts)) as written:
        for made, (number, record) in enumerate(written, start=1):
            arm = todo[number][1]
            folder.append(arm.name, record)
            if on_progress is not None:
                on_progress(Progress(total - len(todo) + made, total, made, arm.name, record))


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

    def own(problem: Problem, arm: Arm) -> dict[str, Any]:
        given = {**ANSWER_OPTIONS, **options}
        seed = (int(given["seed"]) + problem.index) % (2**32 - 1)
        # Without look-ahead, so that it does not depend on the machine what is asked, and in which batches.
        decided = {
            **arm.runs.facts(),
            "strategy": arm.strategy,
            "head": arm.head,
            "threshold": arm.threshold,
            "seed": seed,
        }
        return {"lookahead": 0, **given, **decided}

    def prompt(asking: Pair, problem: Problem) -> list[int]:
        return asking.tokenize_chat(problem.messages) if chat else asking.tokenize(problem.prompt)

    if n_parallel == 1:
        for number, (problem, arm) in enumerate(asked):
            asking = _pair_of(arm, pair, experts)
            asking.forget()
            yield number, Record.of(problem.index, asking.generate(prompt(asking, problem), **own(problem, arm)))
        return
    for expert in dict.fromkeys(arm.expert for _, arm in asked):
        numbers = [number for number, (_, arm) in enumerate(asked) if arm.expert == expert]
        asking = _pair_of(asked[numbers[0]][1], pair, experts)
        prompts = [prompt(asking, asked[number][0]) for number in numbers]
        each = [own(*asked[number]) for number in numbers]
        with asking.stream_batch(prompts, each=each, n_parallel=n_parallel) as stream:  # type: ignore[arg-type]
            for at, result in stream:
                if isinstance(result, ColmError):
                    raise result
                number = numbers[at]
                yield number, Record.of(asked[number][0].index, result, n_parallel)

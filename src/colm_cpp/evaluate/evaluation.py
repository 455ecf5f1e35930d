"""Is the pair better than either model? Every arm answers every problem; :mod:`.summary` compares them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..answers.answering import Arm, answers, check_heads
from ..answers.problems import Task
from ..files.folder import lock_folder
from ..traces.record import Record
from .costs import StepTimes
from .records import RecordFolder
from .steps import can_time, time_steps

if TYPE_CHECKING:
    from ..engine.pair import Pair

__all__ = ["Progress", "evaluate"]


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
    compute: Callable[..., Generator[tuple[int, Record], None, None]] | None = None,
) -> None:
    """Answers all problems that are not answered yet.

    A new folder begins with timing bare decodes of all models, if the context has room for it; costs by counts need
    these step times. Then every arm answers the first problem, then the second, and so on. A change in the machine's
    speed thus affects all arms alike. With one answer at a time, the KV caches are cleared between answers, so an
    interrupted run gives the same answers as an uninterrupted one. Several at a time are written arm after arm.

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
        compute: gives the place and the answer of each problem with its arm. It is called with these, and ``options``,
            ``chat`` and ``n_parallel``; by default ``pair`` and ``experts`` answer.

    Raises:
        FolderInUse: another process is writing to the folder.
        OptionError: ``n_parallel`` outside its range.
        ColmError: whatever :meth:`colm_cpp.Pair.chat` raises.
    """
    check_heads(pair, arms, experts)
    experts = experts or {}
    with lock_folder(folder.path):
        _time_steps(pair, folder, experts)
        known = {}
        for arm in arms:
            folder.set_arm(arm.name, arm.facts)
            known[arm.name] = set(folder.read(arm.name))
        total = len(arms) * len(task.problems)
        todo = [(p, a) for p in task.problems for a in arms if p.index not in known[a.name]]
        if compute is not None:
            written = compute(todo, options, chat, n_parallel)
        else:
            written = answers(pair, todo, options, chat=chat, n_parallel=n_parallel, experts=experts)
        # closed here, so that an error does not keep the batch's contexts for as long as its traceback lives
        with closing(written):
            for made, (number, record) in enumerate(written, start=1):
                arm = todo[number][1]
                folder.append(arm.name, record)
                if on_progress is not None:
                    on_progress(Progress(total - len(todo) + made, total, made, arm.name, record))


def _time_steps(pair: Pair, folder: RecordFolder, experts: Mapping[str, Pair]) -> None:
    """Times the pairs that the folder has no step times of. The folder's own pair is timed beside them each time."""
    if not can_time(pair):
        return
    known = folder.meta.get("expert_steps", {})
    others = {name: expert for name, expert in experts.items() if name not in known and can_time(expert)}
    if "steps" in folder.meta and not others:
        return
    now, *of_others = map(StepTimes.of, time_steps(pair, *others.values()))
    if "steps" not in folder.meta:
        folder.set_steps(now.to_dict())
    then = StepTimes.from_dict(folder.meta["steps"], pair.names[1:])
    for name, times in zip(others, of_others, strict=True):
        folder.set_steps(times.scaled(now, then).to_dict(), expert=name)

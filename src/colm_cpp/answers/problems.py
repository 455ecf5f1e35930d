"""Tasks: problems with known answers, on which a pair is evaluated."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .._shown import shortened
from ..chat.messages import is_message
from ..chat.own import row_template
from ..corpus.documents import BadRow, json_rows
from ..errors import CorpusError
from ..files.paths import digest_of
from ..files.reading import why
from ..files.shards import Shard
from ..options import BASE

__all__ = ["Problem", "Task", "load_prompts", "load_task"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of a task.

    Attributes:
        index: its row in the file, counted from 0.
        messages: the prompt as chat messages.
        answer: the reference: a text, or for the ``python`` checker the tests to run.
        prompt: the content of the last message. Choices and code stubs are read from it.
        own_prompts: what models read in place of the prompt, by their names.
        template: ``system`` and ``chat_template`` of its own, each for all models or by their names.
    """

    index: int
    messages: tuple[dict[str, str], ...]
    answer: str
    prompt: str
    own_prompts: Mapping[str, str] = field(default_factory=dict, hash=False)
    template: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Task:
    """The problems of one file.

    Attributes:
        path: the file.
        digest: SHA-256 of its bytes; results of another file are never mixed in.
        problems: in the order of the file.
        bad_rows: rows that cannot be used, with the reason.
        facts: for ``meta.json``: which part of the task these problems are, where they are not all.
    """

    path: str
    digest: str
    problems: tuple[Problem, ...]
    bad_rows: tuple[BadRow, ...]
    facts: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def shard(self, shard: Shard) -> Task:
        """The part of one of several machines.

        Raises:
            OptionError: there are fewer problems than shards.
        """
        part = shard.part(len(self.problems), "problems")
        rows = [self.problems[0].index, self.problems[-1].index]
        facts = shard.facts(part, {"problems": len(self.problems), "rows": rows})
        return replace(self, problems=self.problems[part.start : part.stop], facts=facts)


def load_task(
    path: str | os.PathLike[str], *, skip: int = 0, limit: int | None = None, shard: str | None = None
) -> Task:
    """Reads a task: JSON lines with ``prompt`` (or ``messages``) and ``answer``.

    ``prompt`` may be an object with a prompt for each model by its name. Models that it does not name read the base's.
    ``system`` and ``chat_template`` are a text for all models, or such an object; they need a chat template.

    Args:
        path: the file.
        skip: rows to skip at the beginning.
        limit: the most problems to read. None: all.
        shard: ``i/n``: of these problems the i-th of n parts, for one of n machines. None: all.

    Raises:
        CorpusError: the file cannot be read, or holds no problem.
        OptionError: ``shard`` is not ``i/n``, or there are fewer problems than n.
    """
    part = None if shard is None else Shard.parse(shard)
    try:
        digest = digest_of(Path(path))
    except (OSError, ValueError) as error:
        raise CorpusError(
            f"the task {shortened(os.fspath(path))} cannot be read ({why(error)}); check its name"
        ) from error
    problems: list[Problem] = []
    bad: list[BadRow] = []
    for index, row in enumerate(json_rows(path)):
        if isinstance(row, BadRow):
            bad.append(row)
        elif index >= skip and (limit is None or len(problems) < limit):
            problem = _problem(index, row.value)
            if isinstance(problem, str):
                bad.append(BadRow(row.path, row.line, problem))
            else:
                problems.append(problem)
    if not problems:
        reason = f"; {bad[0]}" if bad else ""
        raise CorpusError(
            f"{os.fspath(path)} holds no problem{reason}; each line is a JSON object with prompt and answer"
        )
    task = Task(os.fspath(path), digest, tuple(problems), tuple(bad))
    return task if part is None else task.shard(part)


def load_prompts(path: str | os.PathLike[str], *, skip: int = 0, limit: int | None = None) -> list[Problem]:
    """The prompts of a file: JSON lines with ``prompt`` or ``messages``. Answers are not needed.

    A conversation that ends with the assistant's turn is taken up to that turn.

    Raises:
        CorpusError: the file cannot be read, or holds no prompt.
    """
    problems: list[Problem] = []
    reason = ""
    for index, row in enumerate(json_rows(path)):
        if limit is not None and len(problems) == limit:
            break
        if index < skip:
            continue
        value = None if isinstance(row, BadRow) else dict(row.value)
        if value is not None:
            value["answer"] = "-"
            messages = value.get("messages")
            while isinstance(messages, list) and messages and _role(messages[-1]) == "assistant":
                messages = value["messages"] = messages[:-1]
        problem = str(row) if value is None else _problem(index, value)
        if isinstance(problem, str):
            reason = reason or problem
        else:
            problems.append(problem)
    if not problems:
        raise CorpusError(
            f"{os.fspath(path)} holds no prompt after row {skip}{'; ' + reason if reason else ''}; each line is a "
            "JSON object with prompt or messages"
        )
    return problems


def _role(message: object) -> object:
    return message.get("role") if isinstance(message, dict) else None


def _problem(index: int, row: Any) -> Problem | str:
    answer = row.get("answer", row.get("tests"))
    if isinstance(answer, (int, float)) and not isinstance(answer, bool):
        answer = str(answer)
    if not isinstance(answer, str) or not answer.strip():
        return "it has no answer"
    template = row_template(row)
    if isinstance(template, str):
        return template
    messages = row.get("messages")
    own: dict[str, str] = {}
    if messages is None:
        prompt = row.get("prompt")
        if isinstance(prompt, dict):
            own = {name: text for name, text in prompt.items() if name != BASE}
            prompt = prompt.get(BASE)
            if not all(isinstance(text, str) and text for text in (prompt, *own.values())):
                return "its prompts are not each a text, with one for the base"
        if not isinstance(prompt, str) or not prompt:
            return "it has neither prompt nor messages"
        messages = [{"role": "user", "content": prompt}]
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        return "its messages are no list"
    for message in messages:
        if not (isinstance(message, dict) and isinstance(message.get("role"), str)):
            return "a message has no role"
        if not is_message(message) or not isinstance(message.get("content"), (str, type(None))):
            return "a message has no text"
    if messages[-1]["role"] == "assistant":
        return "its messages end with the assistant's, which is what the models are to write"
    return Problem(index, tuple(messages), answer, messages[-1].get("content") or "", own, template)

"""Writing what follows either model's token, wherever their likeliest tokens differ in scored texts.

The assistant writes both paths (:mod:`.forks`), many at a time. The paths of a text are begun from its end to its
beginning: each then begins with tokens that another has read, and a text is read about once. What the text itself says
of a path is not written again: where the text goes on with the assistant's likeliest tokens, as its own answers do, the
scores hold the path. Paths are written in groups of whole texts, which depend on the scores alone. So an interrupted
run goes on with the same batches and ends in the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._numbers import integer
from .._shown import shown
from ..errors import ColmError, CorpusError
from ..files.folder import lock_folder
from ..files.rows import add_row, begin_rows
from ..options import MAX_PARALLEL
from ..sources.identity import pair_identity
from .forks import FILE, FORMAT, MAX_TOKENS, VERSION, Fork, Path, differing_rows, parse_group
from .scored import ScoredText, scored_texts
from .scores import Scores

if TYPE_CHECKING:
    from ..engine.pair import Pair
    from ..results import Completion

__all__ = ["Plan", "Progress", "Written", "continue_paths", "plan"]

GROUP = 64  # paths that are begun together, with empty caches


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be written.

    Attributes:
        n_texts: texts left to do.
        n_positions: positions in them where the likeliest tokens differ.
        n_scored: scored positions in them.
        n_to_write: tokens that their paths may need at most.
        n_known: tokens of their paths that the scores already hold.
        n_to_read: tokens of the texts, each read about once.
        n_ctx: tokens of the longest text with its longest path.
    """

    n_texts: int
    n_positions: int
    n_scored: int
    n_to_write: int
    n_known: int
    n_to_read: int
    n_ctx: int


@dataclass(frozen=True, slots=True)
class Progress:
    """Sent after every path that was written, and after every group of texts.

    Attributes:
        n_texts: texts saved, by earlier runs too.
        share: share of this run that is done, 0 to 1, by the tokens that its paths may need.
        n_written: tokens written in this run.
    """

    n_texts: int
    share: float
    n_written: int


@dataclass(slots=True)
class Written:
    """What a run came to.

    Attributes:
        n_positions: positions done in this run.
        n_written: tokens written in this run.
        n_read: tokens that the assistant read in this run, those written included.
    """

    n_positions: int = 0
    n_written: int = 0
    n_read: int = 0


@dataclass
class _Begun:
    """A path as far as the scores hold it."""

    ids: list[int]
    logprobs: list[float]
    ended: bool


@dataclass(frozen=True)
class _Group:
    texts: list[ScoredText]
    # (text, index among its scored tokens, the assistant's path, the base's), in the order of the rows.
    forks: list[tuple[ScoredText, int, _Begun, _Begun]]


def plan(pair: Pair, scores: Scores, n_tokens: int) -> Plan:
    """What :func:`continue_paths` with these arguments would do in a folder of which nothing is done."""
    return _planned(list(_groups(pair, scores, n_tokens)), n_tokens)


def _planned(groups: Sequence[_Group], n_tokens: int) -> Plan:
    paths = [(text, at, path) for group in groups for text, at, *both in group.forks for path in both]
    texts = [text for group in groups for text in group.texts]
    open_paths = [(text, at, path) for text, at, path in paths if not path.ended]
    return Plan(
        n_texts=len(texts),
        n_positions=sum(len(group.forks) for group in groups),
        n_scored=sum(len(text.positions) for text in texts),
        n_to_write=sum(n_tokens - len(path.ids) for _, _, path in open_paths),
        n_known=sum(len(path.ids) for _, _, path in paths),
        n_to_read=sum({text.number: int(text.positions[at]) for text, at, _ in open_paths}.values()),
        n_ctx=max((int(text.positions[at]) + n_tokens for text, at, _ in open_paths), default=0),
    )


def continue_paths(
    pair: Pair,
    scores: Scores,
    *,
    n_tokens: int = 32,
    n_parallel: int = 16,
    on_plan: Callable[[Plan], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Written:
    """Writes both paths of every position where the likeliest tokens differ into the folder's ``continuations.jsonl``.

    An interrupted run is continued, and so is a folder that has more texts since.

    Args:
        pair: the pair that was scored, loaded with room for ``n_tokens`` behind the longest text.
        scores: the folder.
        n_tokens: the most tokens of a path, its first included, 2 to 1024.
        n_parallel: paths that are written at a time.
        on_plan: called before the first group with what is left to do.
        on_progress: called after every path and every group.

    Raises:
        OptionError: ``n_tokens`` or ``n_parallel`` outside its range.
        CorpusError: another pair was scored; the folder holds continuations made with other options; the texts are too
            long for the pair's context.
        OSError: the disk is full. What was saved before stays.
    """
    integer("n_tokens", n_tokens, 2, MAX_TOKENS)
    integer("n_parallel", n_parallel, 1, MAX_PARALLEL)
    _check_pair(pair, scores)
    header = {
        "format": FORMAT,
        "version": VERSION,
        "n_tokens": n_tokens,
        "n_parallel": n_parallel,
        "n_ctx": pair.assistant["n_ctx"],
        "n_batch": pair.assistant["n_batch"],
    }
    path = scores.path / FILE
    done = Written()
    with lock_folder(scores.path):
        n_saved = 0

        def group_of(line: bytes) -> None:
            nonlocal n_saved
            n_saved, _ = parse_group(line, n_saved)

        begin_rows(path, header, group_of, "continuations")
        groups = list(_groups(pair, scores, n_tokens, n_saved))
        left = _planned(groups, n_tokens)
        if left.n_ctx > min(pair.base["n_ctx"], pair.assistant["n_ctx"]):
            raise CorpusError(
                f"the longest text of {scores.path} with its path has {left.n_ctx} tokens, but the pair's context "
                f"holds {min(pair.base['n_ctx'], pair.assistant['n_ctx'])}; load it with n_ctx={left.n_ctx}"
            )
        if on_plan is not None:
            on_plan(left)
        n_due = 0

        def report(n: int) -> None:
            nonlocal n_due
            n_due += n
            if on_progress is not None:
                share = n_due / left.n_to_write if left.n_to_write else 1.0
                on_progress(Progress(n_saved, share, done.n_written))

        for group in groups:
            forks = _write(pair, group, n_tokens, n_parallel, done, report)
            end = group.texts[-1].number + 1
            add_row(path, json.dumps({"texts": [group.texts[0].number, end], "forks": forks}))
            done.n_positions += len(forks)
            n_saved = end
            report(0)
    return done


def _check_pair(pair: Pair, scores: Scores) -> None:
    """Raises CorpusError where the scores are of other models or adapters, or of several experts."""
    scores.require_one("colm paths")
    loaded = pair_identity(pair.base, pair.assistant, pair.base["vocab_fingerprint"])
    for key, value in loaded.items():
        if scores.meta.get(key) != value:
            raise CorpusError(
                f"{scores.path} was scored with {key} {shown(scores.meta.get(key))}, and the loaded pair has "
                f"{shown(value)}; load the models and adapters that were scored"
            )


def _groups(pair: Pair, scores: Scores, n_tokens: int, first: int = 0) -> Iterator[_Group]:
    """The texts from ``first`` on, in groups of :data:`GROUP` paths or a little more."""
    ends = frozenset(pair.base["eog_tokens"]) | frozenset(pair.assistant["eog_tokens"])
    group = _Group([], [])
    for text in scored_texts(scores):
        if text.number < first:
            continue
        group.texts.append(text)
        for at in differing_rows(scores, text.rows):
            group.forks.append(
                (
                    text,
                    int(at),
                    _known(scores, text, int(at), "assistant", n_tokens, ends),
                    _known(scores, text, int(at), "base", n_tokens, ends),
                )
            )
        if 2 * len(group.forks) >= GROUP:
            yield group
            group = _Group([], [])
    if group.texts:
        yield group


def _known(scores: Scores, text: ScoredText, at: int, source: str, n_tokens: int, ends: frozenset[int]) -> _Begun:
    """The path that begins with the likeliest token of ``source``, as far as the text follows it."""
    row = text.rows.start + at
    own = source == "assistant"
    token = int(scores["assistant_top" if own else "base_top"][row])
    path = _Begun([], [], False)
    logprob = float(scores["assistant_top_logprob" if own else "assistant_logprob_of_base_top"][row])
    while True:
        path.ids.append(token)
        path.logprobs.append(round(logprob, 5))
        path.ended = token in ends or len(path.ids) == n_tokens
        follows = token == int(scores["token"][row])
        row, at = row + 1, at + 1
        if path.ended or not follows or at == len(text.positions) or text.positions[at] != text.positions[at - 1] + 1:
            return path
        token = int(scores["assistant_top"][row])
        logprob = float(scores["assistant_top_logprob"][row])


def _write(
    pair: Pair, group: _Group, n_tokens: int, n_parallel: int, done: Written, report: Callable[[int], None]
) -> list[dict[str, Any]]:
    """The group's forks as rows. Counts what is written, and reports for each path how many tokens it was due."""
    # From the end of each text to its beginning: every path then begins with what another has read.
    asked = [
        (text, at, path)
        for text, at, *both in sorted(group.forks, key=lambda fork: (fork[0].number, -fork[1]))
        for path in both
        if not path.ended
    ]
    if asked:
        prompts = [[*text.tokens[: text.positions[at]].tolist(), *path.ids] for text, at, path in asked]
        due = [n_tokens - len(path.ids) for _, _, path in asked]
        pair.forget()  # what earlier groups left in the caches would round the log-probabilities differently
        with pair.stream_batch(
            prompts, n_parallel=n_parallel, each=[{"max_tokens": n} for n in due], head="always", temperature=0.0
        ) as stream:
            for number, result in stream:
                if isinstance(result, ColmError):
                    raise result
                _append(asked[number][2], result)
                done.n_written += result.stats.generated_tokens
                done.n_read += result.stats.assistant_tokens_read
                report(due[number])
    rows = []
    for text, at, own, other in group.forks:
        same = pair.detokenize(own.ids) == pair.detokenize(other.ids)
        fork = Fork(text.rows.start + at, Path(own.ids, own.logprobs), Path(other.ids, other.logprobs), same)
        rows.append(fork.to_row())
    return rows


def _append(path: _Begun, completion: Completion) -> None:
    tokens = [*completion.tokens, *([] if completion.end_token is None else [completion.end_token])]
    path.ids += [token.id for token in tokens]
    path.logprobs += [round(token.logprob, 5) for token in tokens]

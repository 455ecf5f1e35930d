"""Which rows of which files make a corpus."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator, Sequence

from .._shown import shown
from ..errors import CorpusError, OptionError
from ..files.paths import digest_of
from ..files.shards import Shard
from .documents import BadRow, Corpus, Document, blocks, read_documents, unreadable

__all__ = ["select"]

PathLike = str | os.PathLike[str]


def select(
    paths: Sequence[PathLike],
    *,
    limit: int | None = None,
    seed: int | None = None,
    needs_completion: bool = True,
    shard: str | None = None,
) -> Corpus:
    """The rows of ``paths``.

    Args:
        paths: JSON-lines and plain text files.
        limit: the most rows to use. None: all.
        seed: draw the rows at random with this seed, in the order of the files. None: take the first rows.
        needs_completion: see :func:`.documents.read_documents`.
        shard: ``i/n``: of these rows the i-th of n parts, for one of n machines; :func:`colm_cpp.learn.merge_shards`
            joins what they wrote. None: all.

    Raises:
        CorpusError: a file cannot be read.
        OptionError: ``limit`` below 1, or ``shard`` is not ``i/n``, or there are too few rows for n parts.
    """
    part = None if shard is None else Shard.parse(shard)
    if limit is not None and limit < 1:
        raise OptionError(f"limit is {shown(limit)}; it must be a whole number, 1 or more")
    if not paths:
        raise CorpusError("no corpus was given; name at least one file")
    files = [_described(path) for path in paths]

    def all_documents() -> Iterator[Document | BadRow]:
        return read_documents(paths, needs_completion=needs_completion)

    if seed is None:
        # Without the limit in the facts: a larger one goes on with the same folder.
        starts, n = blocks(itertools.islice(all_documents(), limit))
        corpus = Corpus(lambda: itertools.islice(all_documents(), n), n, {"corpus": files, "sample": None}, starts)
    else:
        n_rows = sum(1 for _ in all_documents())
        drawn = frozenset(random.Random(seed).sample(range(n_rows), n_rows if limit is None else min(limit, n_rows)))

        def documents() -> Iterator[Document | BadRow]:
            return (row for i, row in enumerate(all_documents()) if i in drawn)

        starts, n = blocks(documents())
        corpus = Corpus(documents, n, {"corpus": files, "sample": {"seed": seed, "limit": n}}, starts)
    return corpus if part is None else corpus.shard(part)


def _described(path: PathLike) -> dict[str, str]:
    name = os.fspath(path)
    try:
        return {"file": os.path.basename(name), "sha256": digest_of(path)}
    except OSError as error:
        raise unreadable(name, error) from error

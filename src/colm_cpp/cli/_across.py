"""``--shard`` and ``--ray``: the work of a command on more machines than one."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from ..extras import require
from ._help import Command, option

if TYPE_CHECKING:
    from ..cluster.ray_cluster import Cluster
    from ..engine.pair import Pair
    from ..learn.scoring import Scorer

__all__ = ["across_options", "check_across", "cluster_of"]

HERE = "here"  # --ray without an address


def across_options(section: str, things: str) -> Callable[[Command], Command]:
    """Adds ``--shard`` and ``--ray``."""
    shard = option(
        section,
        "--shard",
        metavar="I/N",
        help=f"Do only part I of N of the {things}. Each of N machines does another part, into a folder --out of its "
        "own, and 'colm merge' joins the folders.",
    )
    ray = option(
        section,
        "--ray",
        metavar="[ADDRESS]",
        is_flag=False,
        flag_value=HERE,
        help="Share the work among the machines of a Ray cluster: HOST:PORT, ray://HOST:PORT or auto. Each worker "
        "loads the models and has as many cores as --n-threads says, or all cores of its machine. Without ADDRESS: the "
        "cluster that RAY_ADDRESS names, or workers on this machine. Needs pip install 'colm-cpp[ray]'.",
    )
    return lambda command: shard(ray(command))


def check_across(values: Mapping[str, Any]) -> None:
    """Says before anything is loaded whether ``--ray`` can be used.

    Raises:
        click.UsageError: the address is none, or --shard is given, too.
        MissingDependency: Ray is not installed.
    """
    address = values["ray"]
    if address is None:
        return
    if values["shard"] is not None:
        raise click.UsageError("--ray and --shard both share the work; give only one of them")
    if not re.fullmatch(r"here|auto|local|(ray://)?[\w.\[\]:-]+:[0-9]{1,5}", address):
        raise click.UsageError(
            f"--ray: {address!r} is no address; give HOST:PORT, ray://HOST:PORT or auto, and write --ray without an "
            "address last"
        )
    require("ray", "--ray")


@contextlib.contextmanager
def cluster_of(values: Mapping[str, Any], loaded: Pair | Scorer, **recipe: Any) -> Iterator[Cluster | None]:
    """The cluster of ``--ray`` while it lasts; None without the option.

    Args:
        values: of the command's options.
        loaded: the models here, which are those of every worker.
        recipe: see :class:`.worker.Recipe`.
    """
    if values["ray"] is None:
        yield None
        return
    from ..cluster.ray_cluster import Cluster
    from ..cluster.worker import Recipe, facts_of

    threads = [n for n in (values["n_threads"], values["n_threads_batch"]) if n is not None]
    with Cluster(
        Recipe(**recipe),
        facts_of(loaded),
        address=None if values["ray"] == HERE else values["ray"],
        n_threads=max(threads, default=None),
        gpu=values["n_gpu_layers"] != 0,
    ) as cluster:
        yield cluster

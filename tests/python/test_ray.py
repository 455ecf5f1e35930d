"""Work on a Ray cluster of two machines with one core each: the same bytes, whoever is killed."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import scored_folders
from commands import succeed
from scored_folders import ARGUMENTS, LOAD, Stop, assert_same, contents, progress_of
from test_shards import untimed

from colm_cpp.cluster.ray_cluster import MAX_TRIES, Cluster
from colm_cpp.cluster.worker import Recipe, facts_of
from colm_cpp.corpus.selection import select
from colm_cpp.errors import ClusterError, LoadError
from colm_cpp.learn.scoring import Progress, Scorer, score

if importlib.util.find_spec("ray") is None:
    pytest.skip("needs Ray: pip install 'colm-cpp[ray]'", allow_module_level=True)

# Ray leaves sockets and processes for the end of the process to close.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

pair_files = scored_folders.pair_files
scorer = scored_folders.scorer


@pytest.fixture(scope="module")
def machines() -> Iterator[Any]:
    """Two machines of one core, as Ray sees them."""
    cluster = importlib.import_module("ray.cluster_utils").Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    path = tmp_path_factory.mktemp("corpus") / "rows.jsonl"
    rows: list[Any] = [{"prompt": f"river {i}", "completion": "there are " * (4 + i % 7)} for i in range(150)]
    rows[7] = ["no object"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [path]


@pytest.fixture(scope="module")
def whole(scorer: Scorer, corpus: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "scores"
    score(scorer, select(corpus), folder)
    return folder


@pytest.fixture
def recipe(pair_files: tuple[Path, Path]) -> Recipe:
    return Recipe(scorer=partial(Scorer, *pair_files, **LOAD))


@pytest.fixture
def cluster(machines: Any, recipe: Recipe, scorer: Scorer) -> Iterator[Cluster]:
    with Cluster(recipe, facts_of(scorer), address=machines.address, n_threads=1) as cluster:
        assert cluster.n_workers == 2
        yield cluster


def test_a_worker_is_killed(cluster: Cluster, scorer: Scorer, corpus: list[Path], whole: Path, tmp_path: Path) -> None:
    before = list(cluster.processes())
    assert len(set(before)) == 2
    told: list[Progress] = []

    def on_progress(progress: Progress) -> None:
        told.append(progress)
        if len(told) == 3:
            os.kill(before[0], signal.SIGKILL)

    folder = tmp_path / "scores"
    score(scorer, select(corpus), folder, on_progress=on_progress, compute=cluster.score)
    assert_same(folder, whole)
    assert len(told) > 20
    assert not psutil.pid_exists(before[0])
    deadline = time.monotonic() + 60  # Ray starts it again, whether or not there is still something to do
    while True:
        try:
            after = list(cluster.processes())
            break
        except importlib.import_module("ray.exceptions").RayActorError:
            assert time.monotonic() < deadline
            time.sleep(0.5)
    assert before[1] in after
    assert before[0] not in after


def test_results_come_in_order_and_not_all_at_once(cluster: Cluster) -> None:
    read: list[int] = []

    def tasks() -> Iterator[tuple[list[Any], int]]:
        for number in range(50):
            read.append(number)
            yield [], 5

    for number, result in enumerate(cluster.in_order("score", tasks())):
        assert result == ({}, [], [], 0.0)
        assert len(read) <= number + 1 + 4 * 2  # four for each worker


def test_what_ends_every_worker_ends_the_work(cluster: Cluster) -> None:
    class Deadly:
        def __reduce__(self) -> Any:
            return os._exit, (1,)

    with pytest.raises(ClusterError, match=f"a task ended {MAX_TRIES} workers"):
        list(cluster.in_order("score", [([], 5), (Deadly(), 5)]))


def test_errors_of_workers_arrive_as_they_are(machines: Any, scorer: Scorer, tmp_path: Path) -> None:
    recipe = Recipe(scorer=partial(Scorer, tmp_path / "none.gguf", tmp_path / "none.gguf", **LOAD))
    with (
        Cluster(recipe, facts_of(scorer), address=machines.address, n_threads=1) as cluster,
        pytest.raises(LoadError, match=r"none\.gguf"),
    ):
        list(cluster.score([[]], 5))


def test_a_machine_with_other_models_is_refused(machines: Any, recipe: Recipe, scorer: Scorer) -> None:
    for name in ("base_model", "llama-cpp-python"):
        facts = {**facts_of(scorer), name: "another"}
        with (
            Cluster(recipe, facts, address=machines.address, n_threads=1) as cluster,
            pytest.raises(ClusterError, match=f"a machine of the cluster has {name} "),
        ):
            list(cluster.score([[]], 5))


def test_no_room_and_no_cluster(machines: Any, recipe: Recipe) -> None:
    with pytest.raises(ClusterError, match="no machine of the cluster has 64 cores"):
        Cluster(recipe, {}, address=machines.address, n_threads=64)
    assert not importlib.import_module("ray").is_initialized()
    with pytest.raises(ClusterError, match=r"127\.0\.0\.1:9.* cannot be reached"):
        Cluster(recipe, {}, address="127.0.0.1:9")


def test_the_driver_stops_and_goes_on(
    machines: Any, recipe: Recipe, scorer: Scorer, corpus: list[Path], whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "scores"

    def stop(progress: Progress) -> None:
        if progress.done.n_texts > 20:
            raise Stop

    for on_progress in (stop, None):
        with Cluster(recipe, facts_of(scorer), address=machines.address, n_threads=1) as cluster:
            try:
                score(scorer, select(corpus), folder, on_progress=on_progress, compute=cluster.score)
            except Stop:
                assert 20 < progress_of(folder).n_texts < progress_of(whole).n_texts
    assert_same(folder, whole)


def test_the_command_is_killed_and_goes_on(
    machines: Any, pair_files: tuple[Path, Path], corpus: list[Path], whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "scores"
    models = ("--base", str(pair_files[0]), "--assistant", str(pair_files[1]))
    arguments = ["score", *map(str, corpus), *models, *ARGUMENTS, "-o", str(folder), "--ray", machines.address]
    with subprocess.Popen(
        [sys.executable, "-m", "colm_cpp.cli", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        deadline = time.monotonic() + 120
        while not (folder / "progress.json").exists() or not progress_of(folder).n_texts:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
    n_texts = progress_of(folder).n_texts
    assert 0 < n_texts < progress_of(whole).n_texts
    succeed(*arguments)
    assert_same(folder, whole)


def without_steps(path: Path) -> str:
    """``meta.json`` without the step times that were measured."""
    meta = json.loads(path.read_text())
    assert meta.pop("steps")
    meta.pop("expert_steps", None)
    return json.dumps(meta, indent=2)


def test_answers_and_an_evaluation(
    machines: Any, pair_files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", machines.address)
    monkeypatch.chdir(tmp_path)
    rows: list[Any] = [{"prompt": f"the river {i}", "answer": "1"} for i in range(12)]
    rows[3] = {"completion": "no prompt"}
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    models = ("--base", os.path.relpath(pair_files[0]), "--assistant", os.path.relpath(pair_files[1]), *ARGUMENTS)
    answering = ("--max-tokens", "5", "--temperature", "1", "--quiet")
    scoring = ("score", "rows.jsonl", *models, *answering, "--respond", "--head", "random", "--defer-rate", "0.5")
    succeed(*scoring, "-o", "whole")
    succeed(*scoring, "-o", "shared", "--ray")
    assert_same(Path("shared"), Path("whole"))
    assert "responses.jsonl" in contents(Path("whole"))
    evaluating = ("evaluate", "rows.jsonl", *models, *answering, "--rate", "0.5", "--arm", "random", "--arm", "base")
    other = ("--arm", f"other={models[1]}")
    succeed(*evaluating, *other, "-o", "e-whole")
    succeed(*evaluating, *other, "-o", "e-shared", "--ray")
    assert without_steps(Path("e-shared/meta.json")) == without_steps(Path("e-whole/meta.json"))
    for name in ("base", "random@50", "other"):
        shared = untimed(Path(f"e-shared/records/{name}.jsonl"))
        assert shared == untimed(Path(f"e-whole/records/{name}.jsonl"))
        assert len(shared) == 11


def test_a_machine_is_lost(
    machines: Any, recipe: Recipe, scorer: Scorer, corpus: list[Path], whole: Path, tmp_path: Path
) -> None:
    """The last test: the machine stays away."""
    with Cluster(recipe, facts_of(scorer), address=machines.address, n_threads=1) as cluster:
        told: list[Progress] = []

        def on_progress(progress: Progress) -> None:
            told.append(progress)
            if len(told) == 3:
                machines.remove_node(next(iter(machines.worker_nodes)), allow_graceful=False)

        score(scorer, select(corpus), tmp_path / "scores", on_progress=on_progress, compute=cluster.score)
    assert_same(tmp_path / "scores", whole)

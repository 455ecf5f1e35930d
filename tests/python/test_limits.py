"""What control groups, resource limits and the processor quota leave of the machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from colm_cpp.machine import cores, limits
from colm_cpp.machine.limits import cpu_quota, free_memory

MACHINE = 64 * 2**30
V2 = "35 31 0:41 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits.psutil, "virtual_memory", lambda: type("Memory", (), {"available": MACHINE})())


def tree(root: Path, groups: str, mounts: str, files: dict[str, str]) -> Path:
    """A folder with ``proc`` and ``sys`` as the kernel would show them."""
    for name, text in {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def v2(folder: str, **files: str) -> dict[str, str]:
    return {f"sys/fs/cgroup/{folder}{name.replace('__', '.')}": text for name, text in files.items()}


def test_no_groups(tmp_path: Path) -> None:
    assert free_memory(tmp_path).bytes == MACHINE
    assert free_memory(tmp_path).limited_by == ""
    assert cpu_quota(tmp_path) is None


def test_version_2(tmp_path: Path) -> None:
    stat = "anon 100\nactive_file 300\ninactive_file 200\nslab_reclaimable 50\nfile 900\n"
    root = tree(
        tmp_path,
        "0::/work/one\n",
        V2,
        v2("work/one/", memory__max="10000\n", memory__current="4000\n", memory__stat=stat, cpu__max="150000 100000\n"),
    )
    free = free_memory(root)
    assert free.bytes == 10000 - (4000 - 550)  # page cache can be dropped
    assert "work/one" in free.limited_by
    assert "10000" in free.limited_by
    assert cpu_quota(root) == 1.5


def test_the_tightest_of_all_levels_counts(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        "0::/work/one\n",
        V2,
        {
            **v2("work/one/", memory__max="max\n", memory__current="10\n", memory__stat="", cpu__max="max 100000\n"),
            **v2("work/", memory__max="5000\n", memory__current="4900\n", memory__stat="", cpu__max="300000 100000\n"),
            **v2("", memory__max="9000\n", memory__current="5000\n", memory__stat="", cpu__max="100000 50000\n"),
        },
    )
    assert free_memory(root).bytes == 100
    assert cpu_quota(root) == 2.0


def test_memory_high_slows_down_and_counts(tmp_path: Path) -> None:
    files = v2("", memory__max="9000\n", memory__high="6000\n", memory__current="1000\n", memory__stat="")
    assert free_memory(tree(tmp_path, "0::/\n", V2, files)).bytes == 5000


def test_more_used_than_allowed(tmp_path: Path) -> None:
    files = v2("", memory__max="1000\n", memory__current="3000\n", memory__stat="")
    assert free_memory(tree(tmp_path, "0::/\n", V2, files)).bytes == 0


@pytest.mark.parametrize(("quota", "expected"), [("-1\n", None), ("50000\n", 0.5), ("400000\n", 4.0)])
def test_version_1(tmp_path: Path, quota: str, expected: float | None) -> None:
    stat = "active_file 1\ninactive_file 1\ntotal_active_file 300\ntotal_inactive_file 200\n"
    root = tree(
        tmp_path,
        "9:name=systemd:/\n4:memory:/a/b\n1:cpu,cpuacct:/a\n0::/\n",
        V1,
        {
            "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes": "8000\n",
            "sys/fs/cgroup/memory/a/b/memory.usage_in_bytes": "6000\n",
            "sys/fs/cgroup/memory/a/b/memory.stat": stat,
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2**63 - 4096}\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "9000\n",
            "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": quota,
            "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    )
    assert free_memory(root).bytes == 8000 - (6000 - 500)
    assert cpu_quota(root) == expected


def test_both_versions_at_once(tmp_path: Path) -> None:
    """The usual hybrid: the second version is mounted without controllers."""
    mounts = V1 + "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
    files = {
        "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "8000\n",
        "sys/fs/cgroup/memory/a/memory.usage_in_bytes": "6000\n",
        "sys/fs/cgroup/unified/a/cgroup.procs": "1\n",
    }
    assert free_memory(tree(tmp_path, "4:memory:/a\n0::/a\n", mounts, files)).bytes == 2000


@pytest.mark.parametrize("own", ["/docker/1234", "/docker/1234/inner", "/", "/../../elsewhere", "/gone"])
def test_in_a_container(tmp_path: Path, own: str) -> None:
    """The mount shows the container's own group, whatever path the process is told."""
    mounts = V1.replace(":32 / ", ":32 /docker/1234 ")
    files = {
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "8000\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "1000\n",
        "elsewhere/memory.limit_in_bytes": "1\n",
        "elsewhere/memory.usage_in_bytes": "0\n",
    }
    assert free_memory(tree(tmp_path, f"4:memory:{own}\n", mounts, files)).bytes == 7000


def test_a_mount_with_a_blank_in_its_name(tmp_path: Path) -> None:
    files = {"my groups/memory.max": "800\n", "my groups/memory.current": "100\n"}
    mounts = V2.replace("/sys/fs/cgroup", r"/my\040groups")
    assert free_memory(tree(tmp_path, "0::/\n", mounts, files)).bytes == 700


@pytest.mark.parametrize("text", ["", "what\n", "1 2 3\n", "-\n", "0 0\n", "100000 0\n", "\n\n"])
def test_files_that_say_nothing(tmp_path: Path, text: str) -> None:
    files = v2("", memory__max=text, memory__current=text, memory__stat=text, cpu__max=text)
    root = tree(tmp_path, "0::/\n", V2, files)
    assert free_memory(root).bytes == MACHINE
    assert cpu_quota(root) is None
    for name in ("cgroup", "mountinfo"):
        (root / "proc/self" / name).write_text(text)
        assert free_memory(root).bytes == MACHINE


@pytest.mark.parametrize(
    ("quota", "n_cores"), [(None, 8), (0.25, 1), (1.0, 1), (1.9, 1), (2.0, 2), (3.5, 3), (8.0, 8), (200.0, 8)]
)
def test_cores_within_the_quota(monkeypatch: pytest.MonkeyPatch, quota: float | None, n_cores: int) -> None:
    monkeypatch.setattr(cores, "cpu_quota", lambda: quota)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 16 if logical else 8)
    if sys.platform == "linux":
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(12)))
    assert cores.usable_cores() == n_cores


@pytest.fixture
def little_address_space() -> Iterator[int]:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = psutil.Process().memory_info().vms + 3 * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    yield limit
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.skipif(sys.platform != "linux", reason="others do not hold processes to it")
def test_address_space(tmp_path: Path, little_address_space: int) -> None:
    free = free_memory(tmp_path)
    assert free.bytes == pytest.approx(3 * 2**30, rel=0.1)
    assert str(little_address_space) in free.limited_by
    assert "ulimit -v" in free.limited_by


@pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")
def test_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    free = free_memory()
    assert 0 < free.bytes <= psutil.virtual_memory().total
    assert cores.usable_cores() <= len(os.sched_getaffinity(0))

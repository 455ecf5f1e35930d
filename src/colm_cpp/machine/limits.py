"""What this process may use of the machine: memory and processors, less what control groups and limits take away."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

__all__ = ["FreeMemory", "cpu_quota", "free_memory"]


@dataclass(frozen=True, slots=True)
class FreeMemory:
    """Memory that can still be taken.

    Attributes:
        bytes: how much.
        limited_by: the limit that leaves no more, in words; "" where it is the machine.
    """

    bytes: int
    limited_by: str = ""


def free_memory(root: Path = Path("/")) -> FreeMemory:
    """The least of what the machine, the process's control groups and ``ulimit -v`` leave.

    Page cache counts as free: the kernel drops it when memory is asked for.

    Args:
        root: the folder that holds ``proc`` and ``sys``.
    """
    limits = [FreeMemory(int(psutil.virtual_memory().available))]
    for version, folder in _groups("memory", root):
        free = (_free_v2 if version == 2 else _free_v1)(folder)
        if free is not None:
            limits.append(free)
    address_space = _free_address_space()
    if address_space is not None:
        limits.append(address_space)
    return min(limits, key=lambda limit: limit.bytes)


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Processors whose time the process's control groups grant it, such as 1.5. None: as many as there are.

    Args:
        root: the folder that holds ``proc`` and ``sys``.
    """
    quotas = []
    for version, folder in _groups("cpu", root):
        if version == 2:
            words = (_text(folder / "cpu.max") or "").split()
            quota, period = (_number(words[0]), _number(words[1])) if len(words) == 2 else (None, None)
        else:
            quota, period = (_number(_text(folder / f"cpu.cfs_{name}_us")) for name in ("quota", "period"))
        if quota is not None and period is not None and quota > 0 and period > 0:  # v1 says -1 for no quota
            quotas.append(quota / period)
    return min(quotas, default=None)


def _free_v2(folder: Path) -> FreeMemory | None:
    # Above memory.high the kernel slows the group down until it has freed enough.
    limits = [_number(_text(folder / name)) for name in ("memory.max", "memory.high")]
    given = [limit for limit in limits if limit is not None]
    names = ("active_file", "inactive_file", "slab_reclaimable")
    return _free_in_group(folder, min(given, default=None), "memory.current", names)


def _free_v1(folder: Path) -> FreeMemory | None:
    limit = _number(_text(folder / "memory.limit_in_bytes"))
    return _free_in_group(folder, limit, "memory.usage_in_bytes", ("total_active_file", "total_inactive_file"))


def _free_in_group(folder: Path, limit: int | None, usage: str, reclaimable: tuple[str, ...]) -> FreeMemory | None:
    used = _number(_text(folder / usage))
    if limit is None or used is None:
        return None
    stat = dict(line.split(maxsplit=1) for line in (_text(folder / "memory.stat") or "").splitlines() if " " in line)
    cached = sum(_number(stat.get(name)) or 0 for name in reclaimable)
    free = min(limit, max(0, limit - max(0, used - cached)))
    return FreeMemory(free, f"the control group {folder} may use {limit} bytes")


def _free_address_space() -> FreeMemory | None:
    if sys.platform != "linux":
        return None
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    free = max(0, limit - psutil.Process().memory_info().vms)
    return FreeMemory(free, f"ulimit -v allows an address space of {limit} bytes")


def _groups(controller: str, root: Path) -> Iterator[tuple[int, Path]]:
    """The control groups that this process is in, its own and those around it, with the version of their files."""
    own: dict[int, str] = {}
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            own[2] = path
        elif controller in controllers.split(","):
            own[1] = path
    is_ours: dict[str, tuple[int, Callable[[str], bool]]] = {
        "cgroup2": (2, lambda options: True),
        "cgroup": (1, lambda options: controller in options.split(",")),
    }
    for line in (_text(root / "proc/self/mountinfo") or "").splitlines():
        left, _, right = line.partition(" - ")
        fields, what = left.split(), right.split()
        if len(fields) < 5 or len(what) < 3 or what[0] not in is_ours:
            continue
        version, has_controller = is_ours[what[0]]
        if version not in own or not has_controller(what[2]):
            continue
        mount = root / _unescaped(fields[4]).lstrip("/")
        folder = mount / _below(own[version], _unescaped(fields[3]))
        yield version, folder
        while folder != mount:
            folder = folder.parent
            yield version, folder


def _below(path: str, mounted: str) -> str:
    """A group's path, seen from the group that is mounted; "" where it is another's, as in some containers."""
    top = mounted.rstrip("/")
    inside = path == top or path.startswith(top + "/")
    relative = path[len(top) :].strip("/") if inside else ""
    return "" if ".." in relative.split("/") else relative


def _unescaped(path: str) -> str:
    """A path of mountinfo, which writes blanks and backslashes as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), path)


def _text(path: Path) -> str | None:
    """A small file's text; None where there is none, or it may not be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _number(text: str | None) -> int | None:
    """None where it is no number, such as "max"."""
    try:
        return None if text is None else int(text)
    except ValueError:
        return None

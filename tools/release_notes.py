"""Prints what CHANGELOG.md says about a version: the notes of its release.

python tools/release_notes.py v0.1.0 > notes.md

Exits with 1 where the tag is not the version in pyproject.toml, or the changelog has no dated section for it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

try:
    import tomllib
except ModuleNotFoundError:  # before Python 3.11
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
_HEADING = re.compile(r"^## (?P<version>\S+) \((?P<date>[^)]*)\)\n", re.MULTILINE)
_DATE = re.compile(r"\d{4}-\d\d-\d\d")


def settings(root: Path) -> dict[str, Any]:
    """What pyproject.toml says; the version of the project stands nowhere else."""
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))


def sections(root: Path) -> dict[str, tuple[str, str]]:
    """The date, or "unreleased", and the text of each version in the changelog, the newest first."""
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    found = list(_HEADING.finditer(text))
    ends = [*(one.start() for one in found[1:]), len(text)]
    return {one["version"]: (one["date"], text[one.end() : end].strip()) for one, end in zip(found, ends, strict=True)}


def notes(root: Path, tag: str) -> str:
    """The notes of the release with this tag.

    Raises:
        ValueError: the tag is not the version, or the changelog has no dated section for it.
    """
    version = settings(root)["project"]["version"]
    if tag != f"v{version}":
        raise ValueError(
            f"the tag is {tag!r} and the version in pyproject.toml {version!r}; the tag must be 'v{version}'"
        )
    known = sections(root)
    if version not in known:
        raise ValueError(f"CHANGELOG.md has no section '## {version} (date)'; it has {', '.join(known) or 'none'}")
    date, text = known[version]
    if not _DATE.fullmatch(date):
        raise ValueError(
            f"CHANGELOG.md says '## {version} ({date})'; put the day of the release there, such as 2026-01-31"
        )
    return f"{text}\n"


def main() -> int:
    """Prints the notes of the release whose tag is the argument."""
    if len(sys.argv) != 2:
        print("usage: release_notes.py TAG", file=sys.stderr)
        return 2
    try:
        print(notes(ROOT, sys.argv[1]), end="")
    except ValueError as error:
        print(f"release_notes.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

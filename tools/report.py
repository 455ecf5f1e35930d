"""Lines of code by language and room, files that are too long, and public names without a docstring.

python tools/report.py

Exits with 1 where a file is too long or a docstring is missing. Blank lines are not counted as code. A public name is
a function or a class in the `__all__` of a module without an underscore, or a method of such a class.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[1]
MOST_LINES = 400
LANGUAGES = {
    ".py": "Python",
    ".pyi": "Python",
    ".h": "C++",
    ".cpp": "C++",
    ".js": "JavaScript",
    ".html": "HTML, CSS",
    ".css": "HTML, CSS",
    ".cmake": "build",
    ".toml": "build",
    ".yml": "build",
    ".txt": "build",
    "": "build",
    ".md": "Markdown",
}
NAMES_WITHOUT_SUFFIX = {"run", "lint"}
# What a program wrote is as long as it is.
WRITTEN = {"docs/commands.md", "docs/options.md", "docs/transcript.md"}
# Folders whose subfolders are rooms.
HALLS = ("src/colm_cpp", "src", "csrc", "tests", "docs")


def language_of(path: str) -> str | None:
    """The column of a file; None for data, pictures and reports as HTML."""
    file = PurePosixPath(path)
    if file.suffix == "" and file.name not in NAMES_WITHOUT_SUFFIX:
        return None
    if file.suffix == ".html" and file.parts[0] == "docs":
        return None
    return LANGUAGES.get(file.suffix)


def room_of(path: str) -> str:
    """The folder that a file is counted with; "." for those at the top."""
    folder = PurePosixPath(path).parent.as_posix()
    for hall in HALLS:
        if folder.startswith(f"{hall}/"):
            return "/".join(folder.split("/")[: hall.count("/") + 2])
        if folder == hall:
            return hall
    return folder.split("/")[0]


def read(root: Path, files: list[str]) -> dict[str, list[str]]:
    """The lines of each file that is in some language."""
    return {path: (root / path).read_text(encoding="utf-8").splitlines() for path in files if language_of(path)}


def table(lines: dict[str, list[str]]) -> str:
    """Lines that are not blank, by room and language."""
    counts: Counter[tuple[str, str]] = Counter()
    for path, text in lines.items():
        language = language_of(path)
        assert language is not None
        counts[room_of(path), language] += sum(bool(line.strip()) for line in text)
    languages = list(dict.fromkeys(LANGUAGES.values()))
    rooms = sorted({room for room, _ in counts})
    rows = [["room", *languages]]
    rows += [[room, *(str(counts[room, language] or "") for language in languages)] for room in rooms]
    rows.append(["all", *(str(sum(counts[room, language] for room in rooms)) for language in languages)])
    return "\n".join(f"{row[0]:<24}" + "".join(f"{cell:>12}" for cell in row[1:]) for row in rows)


def too_long(lines: dict[str, list[str]]) -> list[str]:
    """Files of more than `MOST_LINES` lines that somebody wrote by hand."""
    return [
        f"{path}: {len(text)} lines, {MOST_LINES} at most"
        for path, text in lines.items()
        if len(text) > MOST_LINES and path not in WRITTEN
    ]


def is_overload(node: ast.AST) -> bool:
    """Whether it is a signature only."""
    decorators = getattr(node, "decorator_list", [])
    return any(ast.unparse(one).split(".")[-1] == "overload" for one in decorators)


def without_docstring(path: str, source: str) -> Iterator[str]:
    """The public names of a module that no docstring explains."""
    body = ast.parse(source).body
    public: set[str] = set()
    for node in body:
        if isinstance(node, ast.Assign) and any(ast.unparse(target) == "__all__" for target in node.targets):
            public |= {one.value for one in ast.walk(node.value) if isinstance(one, ast.Constant)}  # type: ignore[misc]
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for node in body:
        if not isinstance(node, kinds) or node.name not in public:
            continue
        members = node.body if isinstance(node, ast.ClassDef) else []
        for one in (node, *members):
            if not isinstance(one, kinds) or (one is not node and one.name.startswith("_")) or is_overload(one):
                continue
            if not ast.get_docstring(one):
                name = node.name if one is node else f"{node.name}.{one.name}"
                yield f"{path}:{one.lineno}: {name} has no docstring"


def undocumented(lines: dict[str, list[str]]) -> list[str]:
    """The public names of the packages that no docstring explains."""
    found: list[str] = []
    for path, text in lines.items():
        private = any(part.startswith("_") for part in path.removesuffix("__init__.py").split("/"))
        if path.startswith("src/") and path.endswith(".py") and not private:
            found += without_docstring(path, "\n".join(text))
    return found


def report(root: Path, files: list[str]) -> tuple[str, list[str]]:
    """What is printed, and what is wrong."""
    lines = read(root, files)
    wrong = [*too_long(lines), *undocumented(lines)]
    return "\n".join(["Lines that are not blank", "", table(lines), "", *wrong]), wrong


def main() -> int:
    """Prints the report on the files that git knows, or would take."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "--deduplicate"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    text, wrong = report(ROOT, [path for path in sorted(listed.stdout.splitlines()) if (ROOT / path).is_file()])
    print(text.rstrip())
    print(f"\n{len(wrong)} files too long or names without docstring")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

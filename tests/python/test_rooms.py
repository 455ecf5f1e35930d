"""The rooms of the Python package: who may import whom (docs/architecture.md)."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

import colm_cpp as colm

PACKAGE = Path(colm.__file__).parent
# Plain values and messages, and the version, which every room may import.
PLAIN = {"__version__", "_core", "_numbers", "_shown", "errors", "extras", "results"}
# Each room and the rooms that it may import. All of them stand above it.
MAY_IMPORT = {
    "llama": set(),
    "machine": set(),
    "files": set(),
    "remote": set(),
    "traces": {"files"},
    "grammar": set(),
    "heads": {"files"},
    "options": {"files", "grammar", "heads"},
    "chat": {"options"},
    "sources": {"files", "heads", "options", "remote"},
    "corpus": {"chat", "files", "options"},
    "engine": {"chat", "files", "heads", "llama", "machine", "options", "remote", "sources"},
    "answers": {"chat", "corpus", "engine", "files", "heads", "options", "traces"},
    "evaluate": {"answers", "corpus", "engine", "files", "heads", "llama", "options", "sources", "traces"},
    "learn": {
        *("answers", "corpus", "engine", "evaluate", "files", "heads", "llama", "machine", "options", "sources"),
        "traces",
    },
    "tune": {"corpus", "engine", "files", "heads", "learn", "llama", "machine", "options", "sources"},
    "report": {"evaluate", "files", "traces"},
    "server": {"chat", "engine", "files", "grammar", "heads", "learn", "options", "remote", "sources"},
    "cluster": {"answers", "corpus", "engine", "learn", "options", "sources", "traces"},
    "cli": {
        *(
            "answers",
            "chat",
            "cluster",
            "corpus",
            "engine",
            "evaluate",
            "files",
            "heads",
            "learn",
            "llama",
            "machine",
            "options",
        ),
        *("remote", "report", "server", "sources", "traces", "tune"),
    },
}
# Inside a function, because it goes against the order: a head is also loaded by its name.
LATE = {("heads.head", "sources.names")}


@functools.cache
def modules() -> tuple[tuple[str, ast.Module], ...]:
    """Name below the package, and syntax, of every module."""
    return tuple(
        (".".join(path.relative_to(PACKAGE).with_suffix("").parts), ast.parse(path.read_text(encoding="utf-8")))
        for path in sorted(PACKAGE.rglob("*.py"))
    )


def imported(name: str, tree: ast.AST) -> set[str]:
    """What a module imports of the package: modules, or names in them, below the package."""
    found = set()
    package = ["colm_cpp", *name.split(".")[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            found |= {f"{source}.{alias.name}" for alias in node.names}
    return {module.removeprefix("colm_cpp.") for module in found if module.startswith("colm_cpp.")}


def refused(name: str, tree: ast.AST) -> list[str]:
    """The imports of a module that the rules do not allow."""
    room = name.split(".")[0]
    may = {room, *MAY_IMPORT.get(room, set()), *PLAIN}
    wrong = []
    for module in imported(name, tree):
        other, _, inside = module.partition(".")
        late = any(name == user and module.startswith(f"{used}.") for user, used in LATE)
        private = other != room and any(part.startswith("_") for part in inside.split("."))
        if private or not (other in may or late):
            wrong.append(module)
    return sorted(wrong)


def test_rooms_import_only_what_they_may() -> None:
    found = {name: refused(name, tree) for name, tree in modules() if "." in name or name in {*MAY_IMPORT, *PLAIN}}
    assert len(found) > 100
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


def private_names(tree: ast.AST) -> set[str]:
    """Names with an underscore that a module gives to its functions, methods, classes and attributes."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Attribute, ast.Name)) and isinstance(node.ctx, ast.Store):
            found.add(node.attr if isinstance(node, ast.Attribute) else node.id)
    return {name for name in found if name.startswith("_") and not name.endswith("__")}


def test_no_room_uses_private_names_of_another() -> None:
    of_room: dict[str, set[str]] = {}
    for name, tree in modules():
        of_room.setdefault(name.split(".")[0], set()).update(private_names(tree))
    assert "_streams" in of_room["engine"]
    wrong = []
    for name, tree in modules():
        own = of_room[name.split(".")[0]]
        others = set().union(*of_room.values()) - own
        wrong += [
            f"{name}: {ast.unparse(node)}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and node.attr in others
        ]
    assert wrong == []


def test_every_module_has_a_room() -> None:
    assert {name.split(".")[0] for name, _ in modules()} == {*MAY_IMPORT, *PLAIN, "__init__"} - {"__version__", "_core"}


def test_the_rules_have_no_circle() -> None:
    rooms = list(MAY_IMPORT)
    for i, room in enumerate(rooms):
        assert MAY_IMPORT[room] <= set(rooms[:i])


def test_what_goes_against_the_order_is_imported_late() -> None:
    trees = dict(modules())
    for user, used in LATE:
        at_once = ast.Module([node for node in trees[user].body if isinstance(node, (ast.Import, ast.ImportFrom))], [])
        assert any(module.startswith(f"{used}.") for module in imported(user, trees[user]))
        assert not any(module.startswith(f"{used}.") for module in imported(user, at_once))


@pytest.mark.parametrize(
    ("name", "statement", "wrong"),
    [
        ("engine.pair", "from ..learn import train", ["learn.train"]),
        ("engine.pair", "def f():\n    from .. import cli", ["cli"]),
        ("learn.scoring", "from colm_cpp.cli import main", ["cli.main"]),
        ("chat.messages", "import colm_cpp.engine.pair", ["engine.pair"]),
        ("cli.evaluate", "from ..heads._math import product", ["heads._math.product"]),
        ("errors", "from .options import LoadOptions", ["options.LoadOptions"]),
        ("heads.__init__", "from ._math import product\nfrom ..errors import HeadError", []),
    ],
)
def test_a_wrong_import_is_found(name: str, statement: str, wrong: list[str]) -> None:
    assert refused(name, ast.parse(statement)) == wrong


LATER = {"answers", "cluster", "corpus", "evaluate", "learn", "server", "tune"}


@pytest.mark.parametrize(
    ("code", "not_loaded"),
    [
        ("import colm_cpp", LATER | {"cli", "report"}),
        # What --help of each command loads.
        ("from colm_cpp.cli import main; [main.commands[name] for name in main.commands]", LATER),
    ],
    ids=["package", "commands"],
)
def test_no_room_of_later_work_is_loaded(code: str, not_loaded: set[str]) -> None:
    code = f"import sys; {code}; print(*{{m.split('.')[1] for m in sys.modules if m.startswith('colm_cpp.')}})"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    loaded = set(output.split())
    assert "engine" in loaded
    assert loaded.isdisjoint(not_loaded)

"""The code in a text, joined to the stub that the prompt may end in."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["program"]

_MAX_SOURCE = 1_000_000
_FENCE = re.compile(r"(?P<indent>[ \t]*)(?P<marks>`{3,}|~{3,})[ \t]*(?P<language>[\w+#.-]*)[^`]*")
_PYTHON = frozenset({"python", "python3", "py", "py3"})


@dataclass(frozen=True, slots=True)
class _Block:
    """A fenced block: its language in lower case, its text, and whether its fence was closed."""

    language: str
    text: str
    closed: bool


def _blocks(text: str) -> list[_Block]:
    blocks: list[_Block] = []
    opening: re.Match[str] | None = None
    lines: list[str] = []
    for line in text.replace("\r\n", "\n").split("\n"):
        fence = _FENCE.fullmatch(line)
        if opening is not None and fence is not None:
            closing = fence["marks"] == line.strip() and fence["marks"].startswith(opening["marks"])
            if closing or fence["language"]:  # a fence that names a language opens a block, whatever is open
                blocks.append(_Block(opening["language"].lower(), "\n".join([*lines, ""]), closing))
                opening, lines = None if closing else fence, []
                continue
        if opening is None:
            opening, lines = fence, []
        else:  # in a list the whole block is indented
            indent = opening["indent"]
            lines.append(line[len(indent) :] if line.startswith(indent) else line.lstrip())
    if opening is not None:
        blocks.append(_Block(opening["language"].lower(), "\n".join(lines), False))
    return blocks


def _tree(source: str) -> ast.Module | None:
    if len(source) > _MAX_SOURCE:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in generated code
            tree = ast.parse(source)
            compile(tree, "solution.py", "exec", dont_inherit=True)  # finds more, such as "return" outside a function
            return tree
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _unfinished(source: str) -> str | None:
    """The name of the function that ends a source and has no body yet, docstring apart."""
    source = source.rstrip()
    last_line = source.rpartition("\n")[2]
    own = last_line[: len(last_line) - len(last_line.lstrip())]
    for indent in dict.fromkeys((own, "    ", "  ", "\t")):  # a docstring need not end at the indentation of the body
        tree = _tree(f"{source}\n{indent}pass\n") if indent else None
        if tree is not None:
            last = tree.body[-1]
            if isinstance(last, (ast.FunctionDef, ast.AsyncFunctionDef)) and not _has_body(last):
                return last.name
            break
    return None


def _has_body(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return not all(
        isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        for node in function.body
    )


def _stub(prompt: str) -> tuple[str, str] | None:
    """(source, function) of the unfinished function that a prompt ends in, or that its last code block ends in."""
    blocks = _blocks(prompt)
    if blocks:
        source = blocks[-1].text
        name = _unfinished(source)
        return (source, name) if name else None
    lines = prompt.splitlines(keepends=True)
    starts = [0] + [
        number for number, line in enumerate(lines) if re.match(r"(?:async\s+def|def|class|import|from)\b|@", line)
    ]
    for start in starts[:1] + starts[1:][-100:]:  # prose before the code does not parse
        source = "".join(lines[start:])
        name = _unfinished(source)
        if name:
            return source, name
    return None


def _defines(source: str, name: str) -> bool:
    # By text, so that code with an error in it does not become a function within the stub.
    return (
        re.search(rf"^(?:async\s+)?def\s+{re.escape(name)}\s*\(|^{re.escape(name)}\s*=", source, re.MULTILINE)
        is not None
    )


def _joined(stub: str, name: str, code: str) -> str:
    """A stub and its continuation, the indentation repaired that a chat template or a tokeniser took from it."""
    if stub.rpartition("\n")[2].strip() and not code.startswith("\n"):
        stub += "\n"
    first, newline, rest = code.partition("\n")
    body = first + newline + "".join(_until_unindented(rest))
    indented = "".join("    " + line if line.strip() else line for line in code.splitlines(keepends=True))
    for candidate in (code, "    " + code.lstrip(" "), indented, body, "    " + body.lstrip(" ")):
        tree = _tree(stub + candidate)
        functions = (
            [node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))] if tree else []
        )
        # "return x" without its indentation would stand after a function that has a docstring alone.
        if any(function.name == name and _has_body(function) for function in functions):
            return stub + candidate
    return stub + code


def _until_unindented(text: str) -> Iterator[str]:
    for line in text.splitlines(keepends=True):
        if line.strip() and not line[0].isspace():
            return  # prose after the function, or another one that was cut off
        yield line


def program(text: str, prompt: str) -> str | None:
    """The code to run, or None where the text has none."""
    stub = _stub(prompt)
    prompt_blocks = _blocks(prompt)
    if prompt_blocks and not prompt_blocks[-1].closed:
        text = "```python\n" + text
    blocks = [block for block in _blocks(text) if block.text.strip()]
    blocks = [block for block in blocks if block.language in _PYTHON] or blocks
    if blocks:
        # After the solution many models show how to call it, in a block of its own.
        defining = [block for block in blocks if stub and _defines(block.text, stub[1])]
        code = (defining or blocks)[-1].text
    else:
        code = "\n".join(line for line in text.split("\n") if not _FENCE.fullmatch(line.rstrip("\r")))
    if not code.strip():
        return None
    if stub is None:
        return code
    if not _defines(code, stub[1]):
        return _joined(*stub, code)
    # The solution may use what precedes its stub: imports and other functions.
    if re.search(r"^from\s+__future__\b", code, re.MULTILINE):
        return code  # that import has to come first
    return f"{_before_last_function(stub[0])}\n{code}"


def _before_last_function(stub: str) -> str:
    start = max(match.start() for match in re.finditer(r"^(?:async\s+)?def\b", stub, re.MULTILINE))
    before = stub[:start].rstrip()
    while before.rpartition("\n")[2].startswith("@"):  # decorators
        before = before.rpartition("\n")[0].rstrip()
    return before

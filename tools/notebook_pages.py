"""Writes a page of the site from each notebook in docs/notebooks: runs it, and keeps what its cells show.

python tools/notebook_pages.py

The notebooks themselves are kept without outputs. A cell that shows a picture says what is to be seen in its metadata,
under "alt".
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "notebooks"


def run(path: Path) -> Any:
    """The notebook with the outputs of all its cells.

    Raises:
        CellExecutionError: a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    return notebook


def page(notebook: Any, name: str) -> tuple[str, dict[str, bytes]]:
    """The page, and its pictures by the names of their files.

    Args:
        notebook: with outputs.
        name: of its file, without the suffix.
    """
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source.replace(".ipynb)", ".md)"))
            continue
        parts.append(f"```python\n{cell.source}\n```")
        said = "".join(output.text for output in cell.outputs if output.get("name") == "stdout").rstrip()
        if said:
            parts.append(f"```text\n{said}\n```")
        for output in cell.outputs:
            data = output.get("data", {})
            if "image/png" in data:
                file = f"{name}-{len(pictures) + 1}.png"
                pictures[file] = base64.b64decode(data["image/png"])
                parts.append(f"![{cell.metadata['alt']}]({file})")
            elif "text/html" in data:
                parts.append(data["text/html"].strip())
            elif output.get("name") != "stdout":
                raise ValueError(f"{name} shows something that no page can show: {output}")
    title, *others = parts
    source = f"This page is a notebook that was run: [{name}.ipynb]({name}.ipynb)."
    return "\n\n".join([*title.split("\n\n", 1)[:1], source, *title.split("\n\n", 1)[1:], *others]) + "\n", pictures


if __name__ == "__main__":
    for path in sorted(FOLDER.glob("*.ipynb")):
        text, pictures = page(run(path), path.stem)
        for old in FOLDER.glob(f"{path.stem}-*.png"):
            old.unlink()
        path.with_suffix(".md").write_text(text, encoding="utf-8")
        for file, data in pictures.items():
            (FOLDER / file).write_bytes(data)

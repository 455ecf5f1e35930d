"""An SVG picture with a paper of its own, in light and in dark colours."""

from __future__ import annotations

from xml.sax.saxutils import escape

# Class: (colour in light, colour in dark). Text is in ink, soft or one of the series.
COLOURS = {
    "paper": ("#ffffff", "#14161a"),
    "ink": ("#1c1e22", "#e9e7e2"),
    "soft": ("#5a5f69", "#a5abb6"),
    "rule": ("#dedbd5", "#343943"),
    "base": ("#8a5a00", "#e0b050"),
    "assistant": ("#0b5d70", "#7fdcf0"),
    "learned": ("#0b6e4f", "#5fd6a0"),
    "confidence": ("#b3261e", "#ffb4ab"),
    "random": ("#6a42a5", "#c3a6f0"),
    "tuned": ("#1f5fbf", "#8ab8ff"),
    "base-box": ("#fdf3df", "#3a2e14"),
    "assistant-box": ("#dff3f7", "#0d3540"),
}


def _rules(dark: bool) -> str:
    fills = "".join(
        f".{name}{{fill:{pair[dark]}}}.{name}-line{{stroke:{pair[dark]}}}" for name, pair in COLOURS.items()
    )
    return fills + f"marker path{{fill:{COLOURS['ink'][dark]}}}"


class Picture:
    """Shapes and texts, added one by one.

    Args:
        width, height: of the picture, in its own units.
        title: what it shows, in a few words.
        description: the same for readers who cannot see it, in sentences.
    """

    def __init__(self, width: float, height: float, title: str, description: str) -> None:
        self._head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
            f'height="{height:g}" role="img" aria-labelledby="title description">\n'
            f'<title id="title">{escape(title)}</title>\n<desc id="description">{escape(description)}</desc>\n'
            "<style>text{font:14px system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif}"
            ".small{font-size:13.5px}.strong{font-weight:600}"
            "path{fill:none;stroke-width:1.5}rect,circle,polygon{stroke-width:1.5}.dashed{stroke-dasharray:4 3}"
            f"{_rules(False)}@media (prefers-color-scheme:dark){{{_rules(True)}}}</style>\n"
            '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
            'orient="auto"><path d="M0 0 8 4 0 8z"/></marker></defs>\n'
            f'<rect class="paper" width="{width:g}" height="{height:g}" rx="8"/>\n'
        )
        self._shapes: list[str] = []

    def text(self, x: float, y: float, text: str, classes: str = "ink", anchor: str = "start") -> None:
        """One line of text; ``anchor`` is start, middle or end."""
        place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
        self._add(f'<text {place} class="{classes}">{escape(text)}</text>')

    def box(self, x: float, y: float, width: float, height: float, classes: str) -> None:
        """A rectangle with round corners."""
        self._add(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="5" class="{classes}"/>')

    def path(self, d: str, classes: str = "ink-line", arrow: bool = False) -> None:
        """A line, or several; with an arrow at its end if wanted."""
        end = ' marker-end="url(#arrow)"' if arrow else ""
        self._add(f'<path d="{d}" class="{classes}"{end}/>')

    def mark(self, x: float, y: float, shape: str, classes: str) -> None:
        """A point of a plot: circle, square, triangle or diamond."""
        if shape == "circle":
            self._add(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5.5" class="{classes}"/>')
            return
        corners = {
            "square": ((-5, -5), (5, -5), (5, 5), (-5, 5)),
            "triangle": ((0, -6.5), (6, 5), (-6, 5)),
            "diamond": ((0, -7), (6.5, 0), (0, 7), (-6.5, 0)),
        }[shape]
        points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
        self._add(f'<polygon points="{points}" class="{classes}"/>')

    def svg(self) -> str:
        """The whole file."""
        return self._head + "\n".join(self._shapes) + "\n</svg>\n"

    def _add(self, shape: str) -> None:
        self._shapes.append(shape)

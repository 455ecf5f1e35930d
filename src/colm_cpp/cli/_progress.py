"""Progress of long work: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from ._output import echo, is_terminal, one_line

__all__ = ["Meter", "meter"]

LINE_EVERY_S = 30.0


class Meter:
    """Where the state of long work is shown. This one shows nothing but lines that stay."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    def update(self, share: float, note: str) -> None:
        """Shows the share that is done, 0 to 1, and a few words. A smaller share than before begins another part."""

    def say(self, text: str) -> None:
        """Prints a line that stays."""
        echo(one_line(text), err=True)

    def speed(self, n_tokens: int) -> str:
        """Tokens per second since the work began, such as ``12.3 tokens/s``."""
        return f"{n_tokens / max(self.seconds(), 1e-9):.1f} tokens/s"

    def seconds(self) -> float:
        """Seconds since the work began."""
        return time.monotonic() - self._begun


class _Lines(Meter):
    """For logs: a line every half minute, and the last."""

    def __init__(self, title: str) -> None:
        super().__init__()
        self._title = title
        self._start = self._last = self._begun
        self._first_share: float | None = None
        self._share = 0.0

    def update(self, share: float, note: str) -> None:
        now = time.monotonic()
        if self._first_share is None or share < self._share:
            self._start, self._first_share = now if self._share else self._start, share
        self._share = share
        if now - self._last < LINE_EVERY_S and share < 1.0:
            return
        self._last = now
        gained = share - self._first_share
        left = (1.0 - share) * (now - self._start) / gained if gained > 0 else None
        eta = "" if left is None else f", {_duration(left)} left"
        echo(one_line(f"{self._title}: {share:.0%}, {note}{eta}"), err=True)


@contextlib.contextmanager
def meter(title: str, *, shown: bool = True) -> Iterator[Meter]:
    """Shows progress on stderr while it lasts."""
    if not shown:
        yield Meter()
    elif not is_terminal("stderr"):
        yield _Lines(title)
    else:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task(title, total=1.0, note="")

            class Bar(Meter):
                def update(self, share: float, note: str) -> None:
                    if share < progress.tasks[task].completed:
                        progress.reset(task)
                    progress.update(task, completed=share, note=one_line(note))

                def say(self, text: str) -> None:
                    progress.console.print(one_line(text), markup=False, highlight=False, soft_wrap=True)

            yield Bar()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

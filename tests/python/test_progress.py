"""Progress of long work where there is no terminal."""

from __future__ import annotations

import pytest

from colm_cpp.cli import _progress


def test_another_part_of_the_work_has_its_own_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(_progress.time, "monotonic", lambda: clock[0])
    with _progress.meter("tuning") as bar:
        for clock[0], share in ((0.0, 0.0), (1000.0, 0.5), (2000.0, 1.0), (2000.0, 0.0), (2040.0, 0.5)):
            bar.update(share, "")
    lines = capsys.readouterr().err.splitlines()
    assert [line.rpartition(", ")[2] for line in lines] == ["16:40 left", "0:00 left", "0:40 left"]

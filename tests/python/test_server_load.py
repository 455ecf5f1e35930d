"""``benchmarks/serve_load.py``, for a minute: clients that leave, on few slots."""

from __future__ import annotations

from pathlib import Path

import pytest
from programs import load_program

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "serve_load.py"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # sockets of clients that leave
def test_load(tmp_path: Path) -> None:
    found = load_program(SCRIPT).run(16, 4, 30.0, tmp_path)
    assert found["wrong"] == []
    assert found["finished"] > 20
    assert found["left"] > 5
    assert found["slots_in_use"] == 0
    before, after = found["before"], found["after"]
    assert after["files"] <= before["files"] + 2
    assert after["threads"] <= before["threads"] + 8  # asyncio keeps some for later
    assert after["rss_mb"] <= before["rss_mb"] + 30

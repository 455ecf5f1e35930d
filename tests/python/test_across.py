"""``--ray``: what is said before any work, with and without Ray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import run


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("work began")


@pytest.fixture(params=["score", "evaluate"])
def command(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    for place in ("engine.loading.load", "learn.scoring.Scorer"):
        monkeypatch.setattr(f"colm_cpp.{place}", never)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b", "answer": "c"}\n')
    return [request.param, str(rows), "--base", "b", "--assistant", "a", "-o", str(tmp_path / "out")]


def test_ray_is_asked_for_first(command: list[str], without: Callable[[str], None], tmp_path: Path) -> None:
    without("ray")
    result = run(*command, "--ray")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("colm: error: --ray needs Ray, ")
    assert "pip install 'colm-cpp[ray]'" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "address", ["rows.jsonl", "", "host", "host:port", "http://host:1", "host:1/x", "ray://", "a b:1"]
)
def test_what_is_no_address(address: str, command: list[str], tmp_path: Path) -> None:
    result = run(*command, "--ray", address)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"--ray: {address!r} is no address" in result.stderr
    assert not (tmp_path / "out").exists()


def test_one_of_both_shares_the_work(command: list[str]) -> None:
    result = run(*command, "--ray", "--shard", "1/2")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "only one of them" in result.stderr

"""Models, heads and adapters with wrong bytes: a typed error, or they load."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import gguf
import pytest
from bad_cases import ANY, Cases, changed_bytes, use_model

import colm_cpp as colm

N_FUZZ, N_CUT = 200, 60
CASES = Cases()


@lru_cache
def data_offset(path: Path) -> int:
    """Where a GGUF file's header ends."""
    return int(gguf.GGUFReader(path).tensors[0].data_offset)


def flip(seed: int, end: int) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        rng = random.Random(seed)
        at = rng.randrange(4, end)
        data[at] = rng.choice([data[at] ^ (1 << rng.randrange(8)), rng.randrange(256), 0, 255])

    return change


def register_damaged_files() -> None:
    for seed in range(N_FUZZ):
        CASES.add(
            f"fuzz model {seed}",
            ANY,
            lambda d, s=seed: use_model(changed_bytes(d, "base.gguf", flip(s, data_offset(d / "base.gguf")))),
        )
        CASES.add(
            f"fuzz head {seed}",
            ANY,
            lambda d, s=seed: colm.Head.load(changed_bytes(d, "head.gguf", flip(s, data_offset(d / "head.gguf")))),
        )
    for i in range(N_CUT):
        # Shares of the file: its first bytes, its header (about 5 %) and its data.
        share = i / 4000 if i < 20 else (i - 19) / 400 if i < 40 else (i - 39) / 21
        for name, use in (("base", use_model), ("head", colm.Head.load)):
            CASES.add(
                f"cut {name} {i}",
                "LoadError: .*damaged.gguf",
                lambda d, share=share, name=name, use=use: use(
                    changed_bytes(d, f"{name}.gguf", lambda data: data[: int(share * (len(data) - 64))])
                ),
            )
    CASES.add(
        "cut adapter",
        "LoadError: .*damaged.gguf",
        lambda d: use_model(
            d / "base.gguf", lora=changed_bytes(d, "adapter.gguf", lambda data: data[: len(data) - 300])
        ),
    )
    for length in (0, 3, 4, 5, 8, 20, 24):
        CASES.add(
            f"first {length} bytes",
            "LoadError: .*damaged.gguf",
            lambda d, n=length: use_model(changed_bytes(d, "base.gguf", lambda data: data[:n])),
        )
    for seed in range(10):
        CASES.add(
            f"noise after the magic {seed}",
            "LoadError: .*damaged.gguf",
            lambda d, s=seed: use_model(
                changed_bytes(d, "base.gguf", lambda _: bytearray(b"GGUF" + random.Random(s).randbytes(3000)))
            ),
        )


register_damaged_files()


SWEEPS = re.compile(r"(fuzz|cut) (model|base|head) (\d+)$")


def is_quick(name: str) -> bool:
    """Whether it runs by default: of the sweeps every fourth."""
    found = SWEEPS.match(name)
    return found is None or int(found[3]) % 4 == 0


def check(outcomes: dict[str, str], share: int) -> None:
    """Those of sweeps, of which there is one in ``share``."""
    assert CASES.wrong(outcomes) == {}
    for kind in ("model", "head"):
        of_kind = [result for name, result in outcomes.items() if name.startswith(f"fuzz {kind}")]
        assert len(of_kind) == N_FUZZ // share
        # The damage was real and did not always end at the first check.
        assert len({result.split(":")[0] for result in of_kind}) >= (3 if share == 1 else 2)
    for name in ("base", "head"):
        cut = [result for case, result in outcomes.items() if case.startswith(f"cut {name} ")]
        assert len(cut) == N_CUT // share
        assert any("cut short" in result for result in cut)


outcomes = CASES.fixture(__file__, is_quick)
test_in_a_child = CASES.test(lambda name: not SWEEPS.match(name))


def test_flipped_and_missing_bytes_give_a_typed_error_or_load(outcomes: dict[str, str]) -> None:
    check({name: result for name, result in outcomes.items() if SWEEPS.match(name)}, 4)


@pytest.mark.slow
def test_more_flipped_and_missing_bytes(tmp_path: Path) -> None:
    check(CASES.outcomes(__file__, tmp_path, filter(SWEEPS.match, CASES.expected)), 1)


if __name__ == "__main__":
    CASES.main()

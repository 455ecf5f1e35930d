"""Sessions: what the models have read, in a file, and in another process."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import run, succeed
from conftest import BASE, TinyModels, TinyPairs, ids

import colm_cpp as colm
from colm_cpp.engine.mismatch import difference
from colm_cpp.files.output_file import OutputFile

LOAD: dict[str, Any] = {"n_ctx": 1024, "n_batch": 256}
OPTIONS: dict[str, Any] = {"temperature": 0, "head": "random", "threshold": 0.5, "max_tokens": 12, "seed": 1}
PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "attention": ({"arch": "llama"}, {"arch": "qwen2"}),
    "hybrid and recurrent": ({"arch": "jamba"}, {"arch": "mamba"}),
    "windowed": ({"arch": "gemma3"}, {"arch": "gemma3", "seed": 3}),
}
CONTINUE = """
import json, sys
import colm_cpp as colm
base, assistant, session, load, prompts, options = json.loads(sys.stdin.read())
with colm.load(base, assistant, **load) as pair:
    pair.load_session(session)
    written = [pair.generate(prompt, **options) for prompt in prompts]
stats = [w.stats for w in written]
print(json.dumps([[[t.id, t.source] for t in w.tokens] for w in written]))
print(json.dumps([[s.base_tokens_read, s.assistant_tokens_read] for s in stats]))
"""


def text(first: int, n: int = 300) -> list[int]:
    return [(first * 31 + 7 * i + i * i % 11) % 200 for i in range(n)]


def two_chats(pair: colm.Pair) -> list[list[int]]:
    """Both are written, one after the other, and go on with a message of ten tokens."""
    chats = []
    for first in (1, 2):
        stream = pair.stream(text(first), **OPTIONS)
        ended = stream.completion().end_token is not None
        written = stream.token_ids
        chats.append([*(written[:-1] if ended else written), *text(9, 10)])
    return chats


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind == "hybrid and recurrent" else pytest.mark.slow) for kind in PAIRS]
)
def test_another_process_reads_only_what_is_new(
    tiny_pair: TinyPairs, tiny_model: TinyModels, tmp_path: Path, kind: str
) -> None:
    base, assistant = PAIRS[kind]
    load = {**LOAD, "swa_full": kind != "windowed", "n_threads": 1}
    pair = colm.load(tiny_model(**base), tiny_model(**assistant), **load)
    with pair:
        chats = two_chats(pair)
        pair.save_session(tmp_path / "session")
        here = [pair.generate(chat, **OPTIONS) for chat in chats]
    given = [*(os.fspath(tiny_model(**model)) for model in (base, assistant)), os.fspath(tmp_path / "session")]
    output = subprocess.run(
        [sys.executable, "-c", CONTINUE],
        input=json.dumps([*given, load, chats, OPTIONS]),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout.splitlines()
    written, read = (json.loads(line) for line in output)
    for one, other, n in zip(here, written, read, strict=True):
        assert [list(token) for token in ids(one)] == other
        assert n == [one.stats.base_tokens_read, one.stats.assistant_tokens_read]
        assert n[0] <= 10 + OPTIONS["max_tokens"]
        assert n[1] <= 10 + 2 * OPTIONS["max_tokens"]


@pytest.fixture
def saved(tiny_pair: TinyPairs, tmp_path: Path) -> tuple[colm.Pair, Path]:
    """A pair, and a session of it."""
    pair = tiny_pair(**LOAD)
    two_chats(pair)
    pair.save_session(tmp_path / "saved")
    return pair, tmp_path / "saved"


def refused(pair: colm.Pair, path: Path, kind: type[Exception] = colm.SessionError) -> str:
    with pytest.raises(kind) as caught:
        pair.load_session(path)
    return str(caught.value)


def test_a_damaged_file_is_refused_and_changes_nothing(saved: tuple[colm.Pair, Path]) -> None:
    pair, path = saved
    chat = [*text(2), 7]
    pair.generate(chat, **OPTIONS)
    data = path.read_bytes()
    header = int.from_bytes(data[15:23], "little")
    chosen = random.Random(1)
    places = [0, 12, 13, 14, 15, 22, 23, 54, 55, *(chosen.randrange(header) + 55 for _ in range(15))]
    places += [chosen.randrange(len(data)) for _ in range(15)]
    for place in places:
        flipped = bytearray(data)
        flipped[place] ^= 1 << chosen.randrange(8)
        path.write_bytes(flipped)
        refused(pair, path)
    for size in (0, 5, 14, 20, 30, 100, header, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        refused(pair, path)
    path.write_bytes(data + b"x")
    assert "1 bytes too many" in refused(pair, path)
    assert pair.generate(chat, **OPTIONS).stats.base_tokens_read < 30  # it still knows the text


def test_what_is_no_session_is_refused(saved: tuple[colm.Pair, Path], tiny_model: TinyModels, tmp_path: Path) -> None:
    pair, path = saved
    refused(pair, tmp_path / "missing")
    refused(pair, tmp_path)
    refused(pair, tiny_model())
    refused(pair, Path("/dev/zero"))
    path.write_bytes(b"colm-session 2\n" + path.read_bytes()[15:])
    assert "format '2'" in refused(pair, path, colm.SessionMismatch)


@pytest.mark.parametrize(
    ("models", "load", "named"),
    [
        ({"seed": 7}, {}, ["base", " bytes"]),
        ({}, {"type_k": "bf16"}, ["base", "type_k='f32'", "type_k='bf16'"]),
        ({}, {"assistant_options": {"rope_freq_base": 5000.0}}, ["assistant", "rope_freq_base=5000.0"]),
        ({}, {"n_parallel": 2}, ["pair", "n_parallel=1", "n_parallel=2"]),
        ({}, {"batch_invariant": True}, ["base"]),
    ],
)
def test_another_pair_s_session_is_refused(
    saved: tuple[colm.Pair, Path], tiny_pair: TinyPairs, models: dict[str, Any], load: dict[str, Any], named: list[str]
) -> None:
    other = tiny_pair({**BASE, **models}, **{**LOAD, **load})
    message = refused(other, saved[1], colm.SessionMismatch)
    assert [words for words in named if words not in message] == []


@pytest.mark.parametrize(
    ("name", "before", "now", "named"),
    [
        ("base.file", [1234567, "a" * 64], [5, "b" * 64], ["base", "1,234,567 bytes", "aaaaaaaaaaaa", "bbbbbbbbbbbb"]),
        ("assistant.adapters", [["c" * 64, 0.5]], [], ["assistant", "cccccccccccc with scale 0.5", "no adapter"]),
        ("llama.cpp", ["0.1.2", "b1", "big"], ["0.3.4", "b2", "little"], ["0.1.2", "big", "0.3.4", "little"]),
        ("base.file", "damaged", [5, "b" * 64], ["'damaged'"]),
        ("base.type_k", None, 1, ["type_k=None", "type_k='f16'"]),
        ("llama.cpp", None, ["0.3.4", "b2", "little"], ["None", "0.3.4"]),
    ],
)
def test_what_differs_is_said_with_both_values(name: str, before: Any, now: Any, named: list[str]) -> None:
    message = difference(name, before, now)
    assert [words for words in named if words not in message] == []


def test_texts_must_fit_the_context(saved: tuple[colm.Pair, Path], tiny_pair: TinyPairs) -> None:
    assert "n_ctx 256" in refused(tiny_pair(n_ctx=256), saved[1])
    larger = tiny_pair(n_ctx=2048)
    larger.load_session(saved[1])
    assert larger.generate([*text(1), 7], **OPTIONS).stats.base_tokens_read < 30


def rewritten(path: Path, change: Callable[[dict[str, Any], list[bytearray]], None]) -> None:
    """Changes what a session holds, with checksums that are right."""
    data = path.read_bytes()
    begin = 15 + 8 + 32
    end = begin + int.from_bytes(data[15:23], "little")
    header = json.loads(data[begin:end])
    blobs, at = [], end
    parts = [part for entry in header["texts"] for part in entry["models"] if part is not None]
    for part in parts:
        for size, _ in part["blobs"]:
            blobs.append(bytearray(data[at : at + size]))
            at += size
    change(header, blobs)
    rest = iter(blobs)
    for part in parts:
        part["blobs"] = [[len(blob), hashlib.sha256(blob).hexdigest()] for blob in (next(rest) for _ in part["blobs"])]
    head = json.dumps(header).encode()
    beginning = data[:15] + len(head).to_bytes(8, "little") + hashlib.sha256(head).digest()
    path.write_bytes(beginning + head + b"".join(blobs))


@pytest.mark.parametrize("rounds", [8, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", PAIRS)
def test_what_was_made_up_never_ends_the_process(tiny_pair: TinyPairs, tmp_path: Path, kind: str, rounds: int) -> None:
    """States of another shape with right checksums: refused, or read as values. The pair writes on."""
    base, assistant = PAIRS[kind]
    pair = tiny_pair(base, assistant, **LOAD, swa_full=kind != "windowed")
    two_chats(pair)
    path = tmp_path / "session"
    pair.save_session(path)
    whole = path.read_bytes()
    chosen = random.Random(2)
    n_refused = 0
    for round_ in range(rounds):

        def change(header: dict[str, Any], blobs: list[bytearray], round_: int = round_) -> None:
            blob = chosen.choice(blobs)
            if round_ % 4 == 0:
                del blob[chosen.randrange(len(blob)) :]
            elif round_ % 4 == 1:
                blob.extend(b"\0" * chosen.randrange(1, 50))
            else:  # the beginning says how much of what follows
                for _ in range(4):
                    blob[chosen.randrange(min(len(blob), 200))] = chosen.randrange(256)

        path.write_bytes(whole)
        rewritten(path, change)
        try:
            pair.load_session(path)
        except colm.SessionError:
            n_refused += 1
        pair.generate([*text(1), 7], **OPTIONS)
    assert n_refused >= rounds // 4
    path.write_bytes(whole)
    pair.load_session(path)
    for first in (1, 2):
        assert pair.generate([*text(first), 7], **OPTIONS).stats.base_tokens_read < 30


@pytest.mark.parametrize(
    "change",
    [
        lambda header, blobs: header.pop("texts"),
        lambda header, blobs: header.update(texts=3),
        lambda header, blobs: header["texts"][0].update(slot=-1),
        lambda header, blobs: header["texts"][0].update(slot="0"),
        lambda header, blobs: header["texts"][0]["models"].pop(),
        lambda header, blobs: header["texts"][0]["models"][0].update(checkpoints=[5]),
        lambda header, blobs: header["texts"][0]["models"][0].update(checkpoints=None),
        lambda header, blobs: header["texts"][0]["models"][0].update(goes_back=[]),
        lambda header, blobs: blobs[0].__setitem__(slice(0, 4), b"\xff\xff\xff\x7f"),
        lambda header, blobs: blobs[1].__setitem__(slice(0, 4), b"abcd"),
        lambda header, blobs: blobs[0].clear(),
    ],
)
def test_a_header_of_another_shape_is_refused(
    saved: tuple[colm.Pair, Path], change: Callable[[dict[str, Any], list[bytearray]], None]
) -> None:
    pair, path = saved
    try:
        rewritten(path, change)
    except (KeyError, TypeError):
        pytest.fail("the test cannot make this file")
    refused(pair, path)


def test_what_was_there_stays_if_writing_fails(
    saved: tuple[colm.Pair, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pair, path = saved
    before = path.read_bytes()

    def full(self: OutputFile, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(OutputFile, "write", full)
        with pytest.raises(OSError, match="No space"):
            pair.save_session(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(colm.OptionError):
        pair.save_session(tmp_path / "link")


def test_without_a_cache_the_slots_are_saved(tiny_pair: TinyPairs, tmp_path: Path) -> None:
    pair = tiny_pair(**LOAD, n_parallel=2, cache_mb=0)
    two_chats(pair)
    pair.save_session(tmp_path / "session")
    other = tiny_pair(**LOAD, n_parallel=2, cache_mb=0)
    other.load_session(tmp_path / "session")
    for first in (1, 2):
        assert other.generate([*text(first), 7], **OPTIONS).stats.base_tokens_read < 30


def test_loading_forgets_what_was_read_before(saved: tuple[colm.Pair, Path]) -> None:
    pair, path = saved
    pair.generate(text(3), **OPTIONS)
    pair.load_session(path)
    assert pair.generate([*text(1), 7], **OPTIONS).stats.base_tokens_read < 30
    assert pair.generate(text(3), **OPTIONS).stats.base_tokens_read >= 300


def test_an_empty_session(tiny_pair: TinyPairs, tmp_path: Path) -> None:
    pair = tiny_pair(**LOAD)
    pair.save_session(tmp_path / "session")
    pair.load_session(tmp_path / "session")
    assert pair.generate(text(1), **OPTIONS).stats.base_tokens_read >= 300


def test_texts_in_progress_go_on(saved: tuple[colm.Pair, Path], tmp_path: Path) -> None:
    pair, path = saved
    expected = pair.generate(text(4), **OPTIONS)
    stream = pair.stream(text(4), **OPTIONS)
    first = [next(stream) for _ in range(3)]
    pair.save_session(tmp_path / "middle")
    first.append(next(stream))
    pair.load_session(path)
    assert [(token.id, token.source) for token in [*first, *stream]] == ids(expected)
    pair.load_session(tmp_path / "middle")
    assert pair.generate(text(4), **OPTIONS).stats.base_tokens_read < 30


def test_async_forms(saved: tuple[colm.Pair, Path], tmp_path: Path) -> None:
    pair, _ = saved

    async def both() -> None:
        await pair.asave_session(tmp_path / "other")
        pair.forget()
        await pair.aload_session(tmp_path / "other")
        with pytest.raises(colm.SessionError):
            await pair.aload_session(tmp_path / "missing")

    asyncio.run(both())
    assert pair.generate([*text(1), 7], **OPTIONS).stats.base_tokens_read < 30


def test_a_closed_pair_has_no_session(saved: tuple[colm.Pair, Path]) -> None:
    pair, path = saved
    pair.close()
    with pytest.raises(colm.PairClosed):
        pair.save_session(path)
    with pytest.raises(colm.PairClosed):
        pair.load_session(path)


def test_the_command_goes_on_from_a_session(tiny_model: TinyModels, tmp_path: Path) -> None:
    prompt, more = "the patient was given a new medicine " * 12, "and then"
    models = ["--base", str(tiny_model(arch="llama")), "--assistant", str(tiny_model(arch="qwen2"))]
    session = tmp_path / "session"
    common = [
        *models,
        *["--head", "random", "--max-tokens", "5", "--temperature", "0", "--json", "--session"],
        str(session),
    ]
    read = []
    for given in (prompt, prompt, prompt + more):
        done = succeed("generate", given, *common)
        read.append(json.loads(done.stdout)["stats"]["base_tokens_read"])
    assert read[0] > 100
    assert read[1] <= 5
    assert read[2] <= 15
    session.write_bytes(b"something else")
    done = run("generate", prompt, *common)
    assert done.exit_code != 0
    assert session.read_bytes() == b"something else"
    refused = run("generate", "--batch", "-", *common, stdin="")
    assert refused.exit_code == 2
    assert "--session cannot be used with --batch" in refused.output

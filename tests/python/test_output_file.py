"""Writing a file in one piece."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import colm_cpp as colm
from colm_cpp.files.output_file import OutputFile, check_output, refuse_inputs, write_file

resource = pytest.importorskip("resource")
POSIX = pytest.mark.skipif(os.name != "posix", reason="needs POSIX files")


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """A limit on the size of files stands for it: both fail in write()."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


class TestOutputFile:
    def test_the_name_comes_last(self, tmp_path: Path) -> None:
        path = tmp_path / "out"
        with OutputFile(path) as file:
            file.write(b"one\n")
            assert not path.exists()
            file.write(b"two\n")
        assert path.read_bytes() == b"one\ntwo\n"
        assert names(tmp_path) == {"out"}

    @pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
    @pytest.mark.parametrize("keep", [False, True])
    def test_what_an_exception_leaves(self, error: type[BaseException], keep: bool, tmp_path: Path) -> None:
        path = tmp_path / "out"
        path.write_bytes(b"old")

        def write() -> None:
            with OutputFile(path) as file:
                file.write(b"new")
                if keep:
                    file.keep()
                raise error

        with pytest.raises(error):
            write()
        assert path.read_bytes() == (b"new" if keep else b"old")
        assert names(tmp_path) == {"out"}

    @POSIX
    @pytest.mark.parametrize("keep", [False, True])
    def test_a_full_disk_leaves_the_old_file(self, keep: bool, tmp_path: Path) -> None:
        """A limit on the size of files stands for it: both fail in write()."""
        path = tmp_path / "out"
        path.write_bytes(b"old")

        def write() -> None:
            with OutputFile(path) as file:
                file.write(b"a line\n")
                if keep:
                    file.keep()
                file.write(b"x" * 5000)

        with full_disk(), pytest.raises(OSError, match="large"):
            write()
        assert path.read_bytes() == b"old"
        assert names(tmp_path) == {"out"}

    @pytest.mark.parametrize(
        ("refused", "winerror", "kept"), [(3, 5, b"new"), (3, 32, b"new"), (3, 13, b"old"), (3, None, b"old")]
    )
    def test_windows_refuses_while_somebody_reads(
        self, refused: int, winerror: int | None, kept: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "out"
        path.write_bytes(b"old")
        replace, left = os.replace, [refused]

        def rename(source: Path, target: Path) -> None:
            if left[0] == 0:
                return replace(source, target)
            left[0] -= 1
            error = PermissionError(13, "in use")
            error.winerror = winerror  # type: ignore[attr-defined]
            raise error

        monkeypatch.setattr(os, "replace", rename)
        with contextlib.nullcontext() if kept == b"new" else pytest.raises(PermissionError):
            write_file(path, b"new")
        assert path.read_bytes() == kept
        assert names(tmp_path) == {"out"}

    def test_windows_refuses_for_long(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def rename(source: Path, target: Path) -> None:
            error = PermissionError(13, "in use")
            error.winerror = 5  # type: ignore[attr-defined]
            raise error

        monkeypatch.setattr(os, "replace", rename)
        started = time.monotonic()
        with pytest.raises(PermissionError):
            write_file(tmp_path / "out", b"new")
        assert 0.5 < time.monotonic() - started < 10
        assert names(tmp_path) == set()

    @POSIX
    def test_rights_are_kept(self, tmp_path: Path) -> None:
        path = tmp_path / "secret"
        path.write_bytes(b"old")
        path.chmod(0o600)
        write_file(path, b"new")
        assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"new", 0o600)

    @POSIX
    @pytest.mark.parametrize("to", ["target", "missing"])
    def test_links_are_refused(self, to: str, tmp_path: Path) -> None:
        (tmp_path / "target").write_bytes(b"old")
        link = tmp_path / "link"
        link.symlink_to(tmp_path / to)
        for write in (lambda: write_file(link, b"new"), lambda: check_output(link, force=True)):
            with pytest.raises(colm.OptionError) as error:
                write()
            assert str(tmp_path / to) in str(error.value)
        with pytest.raises(colm.OptionError):
            colm.Head.linear([0.5]).save(link)
        assert link.is_symlink()
        assert (tmp_path / "target").read_bytes() == b"old"
        assert names(tmp_path) == {"link", "target"}

    @POSIX
    def test_what_is_no_file_is_written_to(self, tmp_path: Path) -> None:
        """As root a rename would replace the device itself."""
        before = os.stat(os.devnull)
        write_file(os.devnull, b"nothing")
        colm.Head.linear([0.5]).save(os.devnull)
        assert os.stat(os.devnull).st_rdev == before.st_rdev
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        check_output(fifo, force=False)
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        try:
            write_file(fifo, b"through the pipe")
            assert os.read(reader, 100) == b"through the pipe"
        finally:
            os.close(reader)
        assert names(tmp_path) == {"fifo"}

    def test_inputs_under_other_names(self, tmp_path: Path) -> None:
        model = tmp_path / "m-00001-of-00002.gguf"
        model.write_bytes(b"1")
        second = tmp_path / "m-00002-of-00002.gguf"
        second.write_bytes(b"2")
        hard = tmp_path / "hard"
        os.link(model, hard)
        folder = tmp_path / "folder"
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "rows.jsonl").write_text("{}")
        (folder / "page.html").write_text("made from it")
        for output in (model, second, hard, tmp_path / "folder" / ".." / model.name, folder / "deep" / "rows.jsonl"):
            with pytest.raises(colm.OptionError) as error:
                refuse_inputs([output], [None, "hf:org/repo/x.gguf", "\0", model, folder])
            assert str(output) in str(error.value)
        refuse_inputs([folder / "page.html", tmp_path / "new"], [model, folder])

    @pytest.mark.parametrize("name", ["no/such/folder", ".", "nul\0"])
    def test_what_cannot_be_written(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(colm.OptionError, match=re.escape(str(tmp_path))):
            check_output(f"{tmp_path}/{name}", force=True)

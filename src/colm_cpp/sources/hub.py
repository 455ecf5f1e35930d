"""Model files named by their place on the Hugging Face hub.

Every path of a model or head file may instead be ``hf:org/repo/file-pattern.gguf``. ``@revision`` (a branch, tag or
commit) may follow::

    >>> HubFile.parse("hf:org/repo/quants/*q4_k_m.gguf@v2")
    HubFile(repo_id='org/repo', pattern='quants/*q4_k_m.gguf', revision='v2')

:func:`resolve` turns such a name into a local path. The official client, ``huggingface_hub``, does the downloading, so
its cache, its tokens and its environment variables (``HF_HOME``, ``HF_TOKEN``, ``HF_HUB_OFFLINE``, ``HF_ENDPOINT``...)
have their usual meaning. It is imported only when a hub name is resolved.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DownloadError, MissingDependency, OptionError

__all__ = ["HubFile", "explained", "files_of", "is_hub_spec", "matching", "require_client", "resolve"]

_PREFIX = "hf:"
_FORM = "hf:org/repo/file-pattern.gguf, optionally with folders before the file and @revision after it"
_OLDEST_CLIENT = (1, 1)  # the first whose hf_hub_download takes tqdm_class
_MOST_MATCHES = 10
_MOST_FILES = 20

# What the hub allows in the name of an organisation or a repository, less "--" and "..", which the
# client refuses because its cache folders are named with "--".
_REPO_NAME = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?", re.ASCII)
# What git forbids in a ref. Some would also leave the cache folder: the client joins the revision to a path.
_NOT_IN_REVISION = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]")
# The only spelling from which llama.cpp finds the other parts; letter case matters to it.
_PART = re.compile(r"(.*)-[0-9]{5}-of-(?!00000)([0-9]{5})\.gguf", re.DOTALL)

_LOGIN = "run `hf auth login`, or set HF_TOKEN to a token that may read it"


@dataclass(frozen=True)
class HubFile:
    """One file of a hub repository, or the parts of one split model.

    Attributes:
        repo_id: ``org/repo``.
        pattern: glob over the paths of the repository's files. ``*`` also matches ``/``, so
            ``*q4_k_m.gguf`` finds the file in any folder. A path equal to the pattern wins over other
            matches. Letter case is ignored only if nothing matches otherwise.
        revision: branch, tag or commit; None means the repository's main branch.
    """

    repo_id: str
    pattern: str
    revision: str | None

    @classmethod
    def parse(cls, spec: str) -> HubFile:
        """Parses ``hf:org/repo/pattern`` or ``hf:org/repo/pattern@revision``.

        The revision starts after the last ``@``. Write ``?`` for an ``@`` in the name of a file.

        Raises:
            OptionError: ``spec`` has another form.
        """
        if not spec.startswith(_PREFIX):
            raise _malformed(spec, f"it does not start with {_PREFIX!r}")
        rest, at, revision = spec[len(_PREFIX) :].rpartition("@")
        if not at:
            # Without an "@", rpartition leaves everything in the last piece.
            rest, revision = revision, ""
        elif not revision:
            raise _malformed(spec, "nothing follows the '@'")
        elif _NOT_IN_REVISION.search(revision) or not _is_plain_path(revision) or ".." in revision:
            raise _malformed(spec, f"{revision!r} cannot be a revision")

        pieces = rest.split("/", 2)
        if len(pieces) < 3 or not pieces[2]:  # org, repo, all the rest
            raise _malformed(spec, "it names no file")
        org, repo, pattern = pieces
        for name in (org, repo):
            if not _REPO_NAME.fullmatch(name) or name.endswith(".git"):
                raise _malformed(spec, f"{name!r} cannot be the name of an organisation or a repository")
        if not _is_plain_path(pattern):
            raise _malformed(spec, f"{pattern!r} is not a plain path inside a repository")
        return cls(f"{org}/{repo}", pattern, revision or None)

    def __str__(self) -> str:
        """The name as a user would write it."""
        return f"{_PREFIX}{self.repo_id}/{self.pattern}" + (f"@{self.revision}" if self.revision else "")

    @property
    def _place(self) -> str:
        return f"{self.repo_id} (revision {self.revision or 'main'})"


def is_hub_spec(value: str | os.PathLike[str]) -> bool:
    """Whether `value` names a file on the hub: a string that starts with ``hf:``.

    A path object is always a local path, so ``Path("hf:...")`` or ``"./hf:..."`` names a local file.
    """
    return isinstance(value, str) and value.startswith(_PREFIX)


def resolve(value: str | os.PathLike[str], *, progress: bool | None = None) -> str:
    """Gives the local path of a model file. A file on the hub is downloaded first.

    Downloads stay in the hub client's cache; a later call only asks the hub whether the file has changed.
    With ``HF_HUB_OFFLINE`` set, the pattern is matched against the cached files and the hub is not asked.
    If the pattern matches the first part of a split model (``name-00001-of-00003.gguf``), or only parts of
    one model, all its parts are downloaded and the path is that of the first.

    Args:
        value: a local path, which is returned unchanged, or ``hf:org/repo/file-pattern.gguf``. ``@revision``
            may follow (see :class:`HubFile`).
        progress: whether to draw the client's progress bar on stderr. None: only on a terminal.
            ``HF_HUB_DISABLE_PROGRESS_BARS=1`` overrides it.

    Raises:
        OptionError: `value` starts with ``hf:`` but has another form.
        DownloadError: there is no such repository, revision or file; several files match; access is
            refused; the hub cannot be reached; the download failed; offline mode, and the file is
            not cached.
        MissingDependency: huggingface-hub is not installed, or is too old.
    """
    if not isinstance(value, str) or not is_hub_spec(value):
        return os.fspath(value)
    wanted = HubFile.parse(value)
    require_client()

    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return _from_cache(wanted)
    return _from_hub(wanted, progress)


# --- the two ways to a file ---------------------------------------------------------------------------


def _from_hub(wanted: HubFile, progress: bool | None) -> str:
    from huggingface_hub import hf_hub_download

    names = files_of(wanted)
    bar = _progress_bar(progress)
    paths: list[str] = []
    for name in names:
        try:
            # By the revision's name, not by the commit that was just listed: only so does the client
            # note which commit the name stands for, without which offline mode would not find the file.
            paths.append(
                hf_hub_download(
                    wanted.repo_id,
                    name,
                    revision=wanted.revision,
                    library_name="colm_cpp",
                    tqdm_class=bar,
                )
            )
        except Exception as error:
            raise explained(wanted, error, name) from error
    if len({os.path.dirname(path) for path in paths}) > 1:
        # The client keeps one folder per commit. Parts of two commits need not fit together.
        raise DownloadError(f"{wanted}: the repository changed during the download; call again")
    return paths[0]


def files_of(wanted: HubFile) -> list[str]:
    """The files to fetch, as the hub lists them: one, or all parts of a split model. Errors are those of `resolve`."""
    from huggingface_hub import HfApi, constants

    try:
        # The client sets no time limit of its own here, and a network that drops packets would hang it.
        info = HfApi(library_name="colm_cpp").model_info(
            wanted.repo_id, revision=wanted.revision, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
    except Exception as error:
        raise explained(wanted, error) from error
    # Git has no such names as ../file; a hub that lists them is not to be trusted with a path.
    names = [sibling.rfilename for sibling in info.siblings or ()]
    return select(wanted, [name for name in names if _is_plain_path(name)], "there")


def _from_cache(wanted: HubFile) -> str:
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        snapshot = _snapshot(wanted)
    except LocalEntryNotFoundError as error:
        raise DownloadError(
            f"{wanted}: HF_HUB_OFFLINE is set and no file of {wanted._place} is cached in"
            f" {constants.HF_HUB_CACHE}; unset HF_HUB_OFFLINE to download it"
        ) from error
    names = select(wanted, _files_below(snapshot), "in the cache (HF_HUB_OFFLINE is set)")
    return os.path.join(snapshot, *names[0].split("/"))


def _snapshot(wanted: HubFile) -> str:
    """The cache folder of the revision; LocalEntryNotFoundError if there is none."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return snapshot_download(wanted.repo_id, revision=wanted.revision, local_files_only=True)
    except LocalEntryNotFoundError as error:
        # A client of 2026 or later may know the repository's full list of files, and then refuses a
        # folder that lacks some. Lacking some is the normal case here, where one quantisation of many was
        # downloaded; the exception tells the folder.
        incomplete: str | os.PathLike[str] | None = getattr(error, "snapshot_path", None)
        if incomplete is None:
            raise
        return os.fspath(incomplete)


def _files_below(folder: str) -> list[str]:
    # is_file() follows the cache's symlinks, so a link whose target was deleted does not count.
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


# --- choosing files -----------------------------------------------------------------------------------


def select(wanted: HubFile, files: Sequence[str], where: str) -> list[str]:
    """The files to fetch, in the order of their parts: one file, or all parts of one split model."""
    matches = matching(wanted.pattern, files)
    if not matches:
        ggufs = [name for name in files if name.lower().endswith(".gguf")]
        listing = f"the .gguf files {where}: {_listed(ggufs, _MOST_FILES)}"
        raise DownloadError(
            f"{wanted}: no file of {wanted._place} matches {wanted.pattern!r};"
            f" {listing if ggufs else f'no .gguf file is {where}'}"
        )

    parts = [_PART.fullmatch(name) for name in matches]
    models = {part.groups() for part in parts if part is not None}
    if None in parts or len(models) > 1:
        if len(matches) == 1:
            return matches
        raise DownloadError(
            f"{wanted}: {len(matches)} files of {wanted._place} match {wanted.pattern!r};"
            f" narrow the pattern to one of {_listed(matches, _MOST_MATCHES)}"
        )

    # All matches are parts of one split model. llama.cpp loads it by its first part and needs all others,
    # so the first part stands for all of them.
    ((stem, total),) = models
    names = [f"{stem}-{number:05d}-of-{total}.gguf" for number in range(1, int(total) + 1)]
    missing = sorted(set(names) - set(files))
    if missing:
        raise DownloadError(
            f"{wanted}: {len(missing)} of the {len(names)} parts of {stem}.gguf are not {where}:"
            f" {_listed(missing, _MOST_MATCHES)}"
        )
    if names[0] not in matches:
        raise DownloadError(
            f"{wanted}: {wanted.pattern!r} matches only later parts of a split model,"
            f" {_listed(matches, _MOST_MATCHES)}; name its first part, {names[0]}, to get all {len(names)}"
        )
    return names


def matching(pattern: str, files: Sequence[str]) -> list[str]:
    """The files that a pattern names; letter case counts only where it decides."""
    if pattern in files:
        return [pattern]
    exact = sorted(name for name in files if fnmatch.fnmatchcase(name, pattern))
    if exact:
        return exact
    return sorted(name for name in files if fnmatch.fnmatchcase(name.lower(), pattern.lower()))


def _listed(names: Iterable[str], most: int) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


# --- the client: presence, progress bar, errors -------------------------------------------------------


def require_client() -> None:
    """Raises MissingDependency where huggingface_hub is missing or too old."""
    needed = "{}.{}".format(*_OLDEST_CLIENT)
    remedy = f"pip install -U 'huggingface-hub>={needed}'"
    try:
        import huggingface_hub
    except ImportError as error:
        raise MissingDependency(f"{_PREFIX} names need the huggingface-hub package: {remedy}") from error
    version = huggingface_hub.__version__
    release = re.match(r"(\d+)\.(\d+)", version)
    if release is None or (int(release[1]), int(release[2])) < _OLDEST_CLIENT:
        raise MissingDependency(f"{_PREFIX} names need huggingface-hub {needed} or later, this is {version}: {remedy}")


def _progress_bar(progress: bool | None) -> type[Any] | None:
    """The class of the progress bar. None: the client's own, which shows on a terminal only."""
    if progress is None:
        return None
    from huggingface_hub.utils.tqdm import tqdm

    base: Any = tqdm  # without types

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # The client passes its own choice (None: terminals only), so it must be replaced here.
            # Its own class, one up, still turns the bar off where the environment says so.
            kwargs["disable"] = not progress
            base.__init__(self, *args, **kwargs)

    return Bar


def explained(wanted: HubFile, error: BaseException, name: str | None = None) -> DownloadError:
    """The client's exception as a DownloadError. `name`: the file, if one was being downloaded."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        DisabledRepoError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        # "Not in the cache, and I could not ask either": the cause says why it could not. No byte of the
        # file was on its way yet, hence no name.
        return explained(wanted, error.__cause__)
    if isinstance(error, GatedRepoError):
        return DownloadError(
            f"{wanted}: access to {wanted.repo_id} is gated; ask for it at"
            f" {constants.ENDPOINT}/{wanted.repo_id}, then {_LOGIN}"
        )
    if isinstance(error, RepositoryNotFoundError):
        # The hub gives the same answer for both, so that it does not give private names away.
        return DownloadError(
            f"{wanted}: there is no repository {wanted.repo_id}, or it is private; if it is private, {_LOGIN}"
        )
    if isinstance(error, RevisionNotFoundError):
        return DownloadError(
            f"{wanted}: {wanted.repo_id} has no revision {wanted.revision or 'main'} (branch, tag or commit)"
        )
    if isinstance(error, DisabledRepoError):
        return DownloadError(f"{wanted}: the hub has disabled access to {wanted.repo_id}")
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        said = f" ({error.server_message})" if error.server_message else ""
        if status in (401, 403):
            return DownloadError(
                f"{wanted}: the hub refused access to {wanted.repo_id}, HTTP status {status}{said}; {_LOGIN}"
            )
        return DownloadError(f"{wanted}: the hub answered with HTTP status {status}{said}")

    # Further lines of the client advise arguments of its own functions.
    reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    # The client exports no base class of its transport errors; HfHubHTTPError derives from the right one.
    if name is None and isinstance(error, (*HfHubHTTPError.__bases__[:1], OfflineModeIsEnabled)):
        return DownloadError(
            f"{wanted}: the hub at {constants.ENDPOINT} cannot be reached; this machine may be offline"
            f" ({reason}); {_what_is_cached(wanted)}"
        )
    if isinstance(error, OSError) and error.errno is not None:
        return DownloadError(f"{wanted}: the cache {constants.HF_HUB_CACHE} cannot be used ({reason})")
    if name is not None:
        # Early 1.x clients keep the part that arrived and go on from there in the next call; later ones
        # resume several times within the call, and drop the part when they give up.
        return DownloadError(
            f"{wanted}: the download of {name} failed ({reason}); call again. Complete files are"
            " kept; this file resumes if the client kept its part, and restarts otherwise"
        )
    # For example a proxy's or a hotel network's own page in the place of the hub's answer.
    return DownloadError(f"{wanted}: the answer of {constants.ENDPOINT} cannot be used ({reason})")


def _what_is_cached(wanted: HubFile) -> str:
    try:
        ggufs = [name for name in _files_below(_snapshot(wanted)) if name.lower().endswith(".gguf")]
    except OSError:
        # Not cached, or not readable. Either way there is nothing to offer, and the error that is being
        # explained matters more than this one.
        ggufs = []
    if not ggufs:
        return f"no .gguf of {wanted._place} is cached"
    cached = f"cached of {wanted._place}: {_listed(ggufs, _MOST_FILES)}"
    return f"{cached}; set HF_HUB_OFFLINE=1 to use the cached files"


def _is_plain_path(path: str) -> bool:
    """Whether `path` stays below the folder that it is joined to: no empty, ``.`` or ``..`` step, no backslash."""
    return "\\" not in path and not any(step in ("", ".", "..") for step in path.split("/"))


def _malformed(spec: str, why: str) -> OptionError:
    return OptionError(f"{spec!r} is not a file on the hub: {why}; the form is {_FORM}")

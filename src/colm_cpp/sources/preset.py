"""Presets: pairs that go by a name, for ``colm.load(name)`` and ``--pair name``.

Some are in the package. The user's own lie in :func:`own_folder`, as ``NAME.toml`` or ``NAME/pair.toml``.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from ..errors import OptionError
from .pair_file import FILE, PACKAGED, Preset, read

__all__ = [
    "DEMO_FOLDER",
    "DEMO_THREE_FOLDER",
    "Preset",
    "files_in",
    "is_preset",
    "own_folder",
    "packaged_names",
    "preset",
    "preset_files",
    "presets",
]

DEMO_FOLDER = Path(__file__).parents[1] / "data" / "demo"
DEMO_THREE_FOLDER = DEMO_FOLDER.with_name("demo3")  # what three models have beyond the two
VARIABLE = "COLM_PAIRS"


def packaged_names() -> list[str]:
    """The names of the presets in the package, in alphabetical order."""
    return sorted(file.stem for file in PACKAGED.glob("*.toml"))


def own_folder() -> Path:
    """The folder of the user's own presets: ``$COLM_PAIRS``, or ``pairs`` in colm-cpp's configuration folder."""
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given).expanduser()
    import click  # it knows where this platform keeps configuration

    return Path(click.get_app_dir("colm-cpp"), "pairs")


def preset_files() -> dict[str, Path]:
    """The file of each preset by its name. A name in the package stands for that, ``NAME.toml`` before ``NAME/``."""
    files = {name: PACKAGED / f"{name}.toml" for name in packaged_names()}
    with contextlib.suppress(OSError, ValueError):  # most users have no such folder
        for name, file in files_in(own_folder()):
            if not name.startswith("."):
                files.setdefault(name, file)
    return files


def files_in(folder: Path) -> list[tuple[str, Path]]:
    """The pairs of a folder with their names: each ``NAME.toml``, then each ``NAME/pair.toml``. Raises OSError."""
    found = sorted(folder.iterdir())
    files = [(path.stem, path) for path in found if path.suffix == ".toml" and path.is_file()]
    return files + [(path.name, path / FILE) for path in found if (path / FILE).is_file()]


def presets() -> tuple[Preset, ...]:
    """The presets that :func:`colm_cpp.load` accepts by name: those in the package, then the user's own.

    Raises:
        LoadError, OptionError: one of the user's files cannot be used; see :func:`preset`.
    """
    return tuple(read(file, name) for name, file in preset_files().items())


def is_preset(given: object) -> bool:
    """Whether a str stands for a pair rather than for a single model: a name, a folder with a pair.toml, a .toml file.

    A file of that name is a model.
    """
    if not isinstance(given, str) or not given:
        return False
    if given.lower().endswith(".toml"):
        return True
    return not os.path.isfile(given) and (given in preset_files() or os.path.isfile(_folder_file(given)))


def preset(given: object) -> Preset:
    """The preset of that name, or the pair in that folder or file.

    Args:
        given: the name of a preset, a folder with a ``pair.toml``, or such a file. A path object, or a str such as
            ``./demo``, is never a name. A :class:`Preset` is returned as it is.

    Raises:
        TypeError: ``given`` is none of these.
        OptionError: no preset has this name, and no such folder or file exists; the message lists all presets. Or a key
            of the file cannot be used.
        LoadError: the file is missing, is not TOML, or is of another version.
    """
    if isinstance(given, Preset):
        return given
    if not isinstance(given, (str, os.PathLike)):
        raise TypeError(
            f"the name of a preset is of type {type(given).__name__}; give a str such as {packaged_names()[0]!r}, or "
            f"the path of a folder with a {FILE}"
        )
    place = os.fspath(given)
    files = preset_files()
    if isinstance(given, str) and given in files:
        return read(files[given], given)
    if place and os.path.isdir(os.path.expanduser(place)):
        return read(_folder_file(place))
    if place.lower().endswith(".toml"):
        return read(Path(os.path.expanduser(place)))
    names = " and ".join(repr(name) for name in files)
    raise OptionError(
        f"there is no preset {place!a}, and no such folder with a {FILE}; the presets are {names}. For your own models "
        "give both base= and assistant="
    )


def _folder_file(folder: str) -> Path:
    return Path(os.path.expanduser(folder), FILE)

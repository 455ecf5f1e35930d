"""What a release publishes: sdist and wheel, and the wheel in environments of its own."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from programs import load_program

import colm_cpp as colm

if any(importlib.util.find_spec(package) is None for package in ("build", "auditwheel")):
    pytest.skip("a release needs pip install 'colm-cpp[test]'", allow_module_level=True)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="auditwheel is for Linux")]
ROOT = Path(__file__).parents[2]
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
MOST_BYTES = 6_000_000
MOST_IMPORT_SECONDS = 0.5
SETTINGS = load_program(ROOT / "tools" / "release_notes.py").settings(ROOT)
PYTHONS = re.findall(r"cp3(\d+)", SETTINGS["tool"]["cibuildwheel"]["build"])
COMMANDS = SETTINGS["tool"]["cibuildwheel"]["test-command"]
REPAIR = SETTINGS["tool"]["cibuildwheel"]["linux"]["repair-wheel-command"]
_LLAMA = """
import re, colm_cpp
for line in open("/proc/self/maps"):
    if found := re.search(r"(/.*)/lib(?:llama|ggml)[^/]*$", line.strip()):
        print(found[1])
"""


def run(*command: str | Path, **more: str) -> str:
    """What a command prints. `more`: variables of its environment."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
    done = subprocess.run(
        command, env={**inherited, **more}, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


@pytest.fixture(scope="module")
def links(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where pip finds the llama-cpp-python of this environment as a wheel, for environments that did not compile it."""
    folder = tmp_path_factory.mktemp("links")
    installed = importlib.metadata.distribution("llama-cpp-python")
    tag = re.search(r"^Tag: (\S+)$", installed.read_text("WHEEL") or "", re.MULTILINE)
    assert tag is not None
    with zipfile.ZipFile(folder / f"llama_cpp_python-{installed.version}-{tag[1]}.whl", "w") as wheel:
        for file in installed.files or ():
            if ".." not in file.parts and file.suffix != ".pyc":
                wheel.write(str(installed.locate_file(file)), str(file))
    return " ".join([*os.environ.get("PIP_FIND_LINKS", "").split(), str(folder)])


@pytest.fixture(scope="module")
def dist(links: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the sdist, and the wheel that is built of it; COLM_DIST names one with both."""
    if "COLM_DIST" in os.environ:
        return Path(os.environ["COLM_DIST"]).resolve()
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT, PIP_FIND_LINKS=links)
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as it is published, repaired by the command of the release."""
    (built,) = dist.glob("*.whl")
    to = tmp_path_factory.mktemp("repaired")
    run(sys.executable, "-m", *shlex.split(REPAIR.format(dest_dir=to, wheel=built)), PATH=PATH)
    (repaired,) = to.iterdir()
    return repaired


@pytest.fixture(scope="module")
def clean(wheel: Path, links: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a new environment with the wheel."""
    bin = tmp_path_factory.mktemp("clean") / "bin"
    run(sys.executable, "-m", "venv", bin.parent)
    run(bin / "pip", "install", "--quiet", wheel, PIP_FIND_LINKS=links)
    return bin


def kept_files(folder: str) -> set[str]:
    """The files in a folder that git knows, relative to it."""
    listed = subprocess.run(["git", "ls-files", "."], cwd=ROOT / folder, stdout=subprocess.PIPE, text=True, check=True)
    return set(listed.stdout.splitlines())


def test_the_sdist_holds_what_a_build_needs(dist: Path) -> None:
    (archive,) = dist.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.split("/", 1)[1] for name in opened.getnames() if "/" in name}
    wanted = {f"{folder}/{name}" for folder in ("src", "csrc", "python", "cmake") for name in kept_files(folder)}
    wanted |= {"CHANGELOG.md", "CMakeLists.txt", "LICENSE", "PKG-INFO", "README.md", "pyproject.toml", ".gitignore"}
    assert names == wanted


def test_the_wheel_holds_the_packages_and_the_extension(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        names = {name for name in opened.namelist() if not name.endswith("/")}
    information = {name for name in names if name.startswith(f"colm_cpp-{colm.__version__}.dist-info/")}
    extension = {name for name in names if re.fullmatch(r"colm_cpp/_core\.cpython-\S+\.so", name)}
    assert len(extension) == 1
    assert names - information - extension == kept_files("src")
    assert {name.split("/", 1)[1] for name in information} == {
        "METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE",
    }  # fmt: skip


def test_the_size_of_the_wheel(wheel: Path) -> None:
    assert wheel.stat().st_size <= MOST_BYTES


def test_other_systems_take_the_wheel(wheel: Path, tmp_path: Path) -> None:
    """auditwheel has found nothing that only this system has; llama.cpp is looked for by name, at no place."""
    assert re.search(r"-manylinux_2_\d+_\w+\.whl$", wheel.name)
    with zipfile.ZipFile(wheel) as opened:
        (name,) = (name for name in opened.namelist() if name.endswith(".so"))
        extension = opened.extract(name, tmp_path)
    patchelf = shutil.which("patchelf", path=PATH)
    assert patchelf is not None
    assert run(patchelf, "--print-rpath", extension).strip() == ""
    needed = run(patchelf, "--print-needed", extension).split()
    assert any(name.startswith("libllama.so") for name in needed)
    assert all("/" not in name for name in needed)


def test_a_clean_environment(clean: Path) -> None:
    assert run(clean / "colm", "--version").startswith(f"colm {colm.__version__} ")
    assert run(clean / "pip", "check").strip() == "No broken requirements found."
    folders = set(run(clean / "python", "-c", _LLAMA).splitlines())
    assert len(folders) == 1
    assert Path(folders.pop()).is_relative_to(clean.parent)


def test_the_demo(clean: Path) -> None:
    assert re.search(r"together", run(clean / "colm", "demo", "--sample", "10"))


def test_the_time_of_the_import(clean: Path) -> None:
    """Of the processor, and the least of several: whatever else the machine does can only add to it."""
    code = "import time; begin = time.process_time(); import colm_cpp; print(time.process_time() - begin)"
    times = [float(run(clean / "python", "-c", code)) for _ in range(7)]
    assert min(times) <= MOST_IMPORT_SECONDS, times


@pytest.mark.parametrize("minor", PYTHONS)
def test_each_python(minor: str, dist: Path, links: str, tmp_path: Path) -> None:
    """Installed of the sdist, what the workflow of the release asks of a wheel."""
    if f"3.{minor}" not in os.environ.get("COLM_PYTHONS", "").split():
        pytest.skip(f"COLM_PYTHONS does not name 3.{minor}; with COLM_PYTHONS='3.10 3.13' these two are tried")
    program = shutil.which(f"python3.{minor}")
    if program is None or subprocess.run([program, "--version"], capture_output=True).returncode != 0:
        pytest.skip(f"there is no python3.{minor}")
    (archive,) = dist.glob("*.tar.gz")
    bin = tmp_path / "env" / "bin"
    run(program, "-m", "venv", bin.parent)
    run(bin / "pip", "install", "--quiet", archive, "pytest", PIP_FIND_LINKS=links)
    assert f"3.{minor}." in run(bin / "python", "--version")
    for command in COMMANDS:
        run(*(bin / "python" if word == "python" else word for word in command.format(project=ROOT).split()),
            PATH=f"{bin}:{os.environ['PATH']}")  # fmt: skip

"""``colm models``: what is on the disk, which models fit together, and what the hub says of presets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import commands
import numpy as np
import pytest
from click.testing import Result
from commands import succeed
from hub_server import HubServer, Repo, client_of
from tiny_models import CHATML, UNUSED, Vocab, make_model

import colm_cpp as colm
from colm_cpp import _core
from colm_cpp.sources import hub_header
from colm_cpp.sources.disk import Place, files_below, look
from colm_cpp.sources.hub import HubFile
from colm_cpp.sources.names import TRAINING_FREE_HEADS
from colm_cpp.sources.pair_file import to_toml


def run(*arguments: object) -> Result:
    return commands.run("models", *arguments)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer() as running, client_of(running, tmp_path / "hf", monkeypatch):
        yield running


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of two vocabularies, a head, and files that are neither."""
    folder = tmp_path_factory.mktemp("shelf")
    make_model(folder / "small.gguf", seed=1, name="small", chat_template=CHATML)
    make_model(folder / "large.gguf", seed=2, name="large", n_embd=64, n_padding=7)
    (folder / "other").mkdir()
    make_model(
        folder / "other" / "huge.gguf", seed=3, name="a \x1b[31mhuge", n_embd=96, vocab=Vocab().replace_token(40, "?!")
    )
    fingerprint = _core.Vocabulary.of_header(str(folder / "small.gguf")).fingerprint
    head = colm.Head.linear(np.zeros(32, dtype=np.float32), name="mine")
    head.replace(vocab_fingerprint=fingerprint, base_name="small").save(folder / "mine.gguf")
    head.replace(vocab_fingerprint="0" * 16).save(folder / "strange.gguf")
    (folder / "broken.gguf").write_bytes(b"GGUF")
    (folder / "cut.gguf").write_bytes((folder / "small.gguf").read_bytes()[:-100])
    (folder / "notes.txt").write_text("no model")
    return folder


@pytest.fixture
def nothing_cached(server: HubServer) -> None:
    """Whoever runs the tests may have models in the hub client's cache."""


@pytest.mark.usefixtures("nothing_cached")
def test_what_is_on_the_disk(shelf: Path) -> None:
    result = run("--dir", shelf, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    facts = json.loads(result.stdout)
    models = {Path(model["path"]).name: model for model in facts["models"]}
    assert list(models) == ["small.gguf", "large.gguf", "huge.gguf"]  # by size
    small = models["small.gguf"]
    assert small["bytes"] == (shelf / "small.gguf").stat().st_size
    assert (small["architecture"], small["n_embd"], small["chat_template"]) == ("llama", 32, True)
    assert small["n_vocab"] == _core.Vocabulary.loaded(str(shelf / "small.gguf")).size
    assert set(facts["unreadable"]) == {str(shelf / "broken.gguf"), str(shelf / "cut.gguf")}
    assert {str(shelf / "mine.gguf"), str(shelf / "strange.gguf")} <= {head["name"] for head in facts["heads"]}


@pytest.mark.usefixtures("nothing_cached")
def test_which_models_fit_together(shelf: Path) -> None:
    facts = json.loads(run("--dir", shelf, "--json").stdout)
    names = [(Path(fit["base"]).name, Path(fit["assistant"]).name) for fit in facts["fits"]]
    assert names == [("small.gguf", "large.gguf")]
    assert facts["fits"][0]["heads"] == [str(shelf / "mine.gguf")]
    with colm.load(shelf / "small.gguf", shelf / "large.gguf", n_threads=1) as pair:
        assert facts["fits"][0]["n_shared"] == pair.n_shared
    assert {(Path(pair["base"]).name, pair["differing_token"]) for pair in facts["differ"]} == {
        ("small.gguf", 40),
        ("large.gguf", 40),
    }
    files = (shelf / "small.gguf", shelf / "other" / "huge.gguf")
    small, huge = (_core.Vocabulary.of_header(str(file)) for file in files)
    with pytest.raises(colm.VocabMismatch) as error:
        small.shared_with(huge)
    assert facts["differ"][0]["reason"] == str(error.value)
    with colm.load(*files, n_threads=1) as pair:
        assert not pair.one_vocabulary


@pytest.mark.usefixtures("nothing_cached")
def test_the_list_for_people(shelf: Path) -> None:
    result = succeed("models", "--dir", shelf)
    assert "\x1b" not in result.stdout
    fits, differ = result.stdout.split("Pairs that fit together")[1].split("Pairs that do not")
    assert "small.gguf + large.gguf" in fits
    assert str(shelf / "mine.gguf") in fits
    assert "token 40" in differ
    assert differ.count("huge.gguf") == 1  # one line for all models of the same two vocabularies
    assert "broken.gguf" in result.stdout
    assert "colm pull" in run().stdout  # nothing is here, and it says how to get something


@pytest.mark.usefixtures("nothing_cached")
def test_a_folder_that_is_none(tmp_path: Path) -> None:
    result = run("--dir", tmp_path / "none")
    assert result.exit_code == 1
    assert str(tmp_path / "none") in result.stderr


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"n_padding": 5},
        {"extra_tail": ("<unused0>", "<unused1>")},
        {"extra_tail": (("<x>", UNUSED), "<|defer|>")},
        {"vocab": Vocab(kind="spm")},
        {"arch": "gemma3", "vocab": Vocab(kind="spm"), "add_bos": False},
        {"add_bos": True, "bos": "<|im_start|>"},
    ],
)
def test_a_header_says_what_llama_cpp_reads(options: dict[str, Any], tmp_path: Path) -> None:
    file = str(make_model(tmp_path / "model.gguf", **options))
    header, known = _core.Vocabulary.of_header(file), _core.Vocabulary.loaded(file)
    assert (header.fingerprint, header.size, header.type) == (known.fingerprint, known.size, known.type)
    assert header.shared_with(header) == known.shared_with(known)


def test_headers_that_do_not_say_whether_bos_is_added(tmp_path: Path) -> None:
    """llama.cpp is asked then, and says what loading the pair says."""
    spm = Vocab(kind="spm")
    silent = make_model(tmp_path / "silent.gguf", vocab=spm, seed=1)
    adds = make_model(tmp_path / "adds.gguf", vocab=spm, seed=2, n_embd=64, add_bos=True)
    leaves = make_model(tmp_path / "leaves.gguf", vocab=spm, seed=3, n_embd=64, add_bos=False)
    headers = [_core.Vocabulary.of_header(str(file)) for file in (silent, adds, leaves)]
    assert headers[0].shared_with(headers[0]) is not None
    library = look([Place(file) for file in (silent, adds, leaves)], {})
    for fit in library.pairs():
        base, assistant = fit.base.place.path, fit.assistant.place.path
        with colm.load(base, assistant, n_threads=1) as pair:
            assert pair.one_vocabulary is not bool(fit.why_not)
            assert fit.n_shared == pair.n_shared
    with pytest.raises(colm.VocabMismatch):
        headers[1].shared_with(headers[2])


def test_parts_of_a_split_model_count_as_one(tmp_path: Path) -> None:
    whole = make_model(tmp_path / "whole.gguf")
    for number in (1, 2):
        (tmp_path / f"split-0000{number}-of-00002.gguf").write_bytes(whole.read_bytes())
    found = look(files_below([tmp_path]), {}).models
    sizes = {model.place.path.name: model.bytes for model in found}
    assert sizes == {"whole.gguf": whole.stat().st_size, "split-00001-of-00002.gguf": 2 * whole.stat().st_size}


def test_models_in_the_cache_go_by_their_place(server: HubServer, shelf: Path) -> None:
    server.repos["org/repo"] = Repo.of({"quants/small.gguf": (shelf / "small.gguf").read_bytes()})
    succeed("pull", "hf:org/repo/*small.gguf")
    asked = len(server.requests)
    facts = json.loads(run("--json").stdout)
    assert [model["hub"] for model in facts["models"]] == ["hf:org/repo/quants/small.gguf"]
    assert len(server.requests) == asked


# -- presets --------------------------------------------------------------------------------------------------


def test_the_presets_of_families_name_files_and_say_that_nobody_tried_them() -> None:
    families = dict.fromkeys(("Qwen3", "Llama 3", "Gemma 3", "SmolLM2", "Qwen2.5-Instruct"))
    for known in colm.presets():
        if known.name in ("demo", "demo-three", "qwen2.5-coder-0.5b-1.5b"):
            assert "not tried" not in known.about
            continue
        assert "not tried" in known.about
        assert known.head in TRAINING_FREE_HEADS
        for model in (known.base, known.assistant):
            assert "*" not in HubFile.parse(model).pattern
        families = {family: known.name if family in known.about else name for family, name in families.items()}
    assert None not in families.values()


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the user's own presets, with those in the package out of the way."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    monkeypatch.setenv("COLM_PAIRS", str(folder))
    files = lambda: {file.stem: file for file in sorted(folder.glob("*.toml"))}  # noqa: E731
    monkeypatch.setattr("colm_cpp.sources.preset.preset_files", files)
    return folder


def preset(folder: Path, name: str, base: str, assistant: str) -> None:
    (folder / f"{name}.toml").write_text(to_toml({"base": base, "assistant": assistant, "head": "confidence"}))


def test_check_reads_headers_only(
    server: HubServer, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_model(tmp_path / "base.gguf", seed=1).read_bytes()
    assistant = make_model(tmp_path / "assistant.gguf", seed=2, n_embd=256, n_padding=3).read_bytes()
    monkeypatch.setattr(hub_header, "_FIRST", 2048)  # so that a header takes several requests
    server.repos["org/repo"] = Repo.of({"base.gguf": base, "assistant.gguf": assistant})
    preset(own, "fits", "hf:org/repo/base.gguf", "hf:org/repo/assist*.gguf")
    result = succeed("models", "--check", "--json")
    (pair,) = json.loads(result.stdout)["pairs"]
    with colm.load(tmp_path / "base.gguf", tmp_path / "assistant.gguf", n_threads=1) as loaded:
        assert pair["n_shared"] == loaded.n_shared
    assert [model["bytes"] for model in pair["models"]] == [len(base), len(assistant)]
    assert pair["models"][1]["bytes_read"] < len(assistant) / 10
    assert server.bytes_sent() == sum(model["bytes_read"] for model in pair["models"])
    assert len(server.seen("GET", "assistant.gguf")) > 2
    assert all(request.headers["range"].startswith("bytes=") for request in server.seen("GET", "/resolve/"))
    assert json.loads(run("--json").stdout)["models"] == []  # nothing was kept


def test_check_says_what_is_wrong(server: HubServer, own: Path, shelf: Path) -> None:
    files = {name: (shelf / name).read_bytes() for name in ("small.gguf", "large.gguf", "broken.gguf")}
    files["other.gguf"] = (shelf / "other" / "huge.gguf").read_bytes()
    server.repos["org/repo"] = Repo.of({**files, "page.gguf": b"<html>" * 100})
    server.repos["org/gated"] = Repo.of(files, gated=True)
    small = "hf:org/repo/small.gguf"
    problems = {
        "vocabulary": ("hf:org/repo/other.gguf", "token 40"),
        "no-repo": ("hf:org/none/x.gguf", "org/none"),
        "no-file": ("hf:org/repo/none.gguf", "none.gguf"),
        "gated": ("hf:org/gated/small.gguf", "gated"),
        "broken": ("hf:org/repo/broken.gguf", "broken.gguf"),
        "page": ("hf:org/repo/page.gguf", "page.gguf"),
        "here": (str(shelf / "none.gguf"), "none.gguf"),
    }
    for name, (assistant, _) in problems.items():
        preset(own, name, small, assistant)
    preset(own, "good", small, str(shelf / "large.gguf"))
    result = run("--check", "--json")
    assert result.exit_code == 1
    found = {pair["name"]: pair.get("problem") for pair in json.loads(result.stdout)["pairs"]}
    assert found.pop("good") is None
    assert set(found) == set(problems)
    for name, (_, fact) in problems.items():
        assert fact in found[name]
    shown = run("--check")
    assert shown.exit_code == 1
    assert "token 40" in shown.stdout


def test_check_where_the_hub_sends_whole_files_only(server: HubServer, own: Path, shelf: Path) -> None:
    server.repos["org/repo"] = Repo.of({"small.gguf": (shelf / "small.gguf").read_bytes()})
    server.ranges = False
    preset(own, "pair", "hf:org/repo/small.gguf", str(shelf / "large.gguf"))
    (pair,) = json.loads(run("--check", "--json").stdout)["pairs"]
    assert "colm pull" in pair["problem"]


def test_check_of_a_hub_that_cannot_be_reached(server: HubServer, own: Path, shelf: Path) -> None:
    server.failing["GET"] = 503
    preset(own, "pair", "hf:org/repo/small.gguf", str(shelf / "large.gguf"))
    result = run("--check", "--json")
    assert result.exit_code == 1
    assert "503" in json.loads(result.stdout)["pairs"][0]["problem"]

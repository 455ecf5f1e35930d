"""A pair in a file: what pair.toml may say, where pairs are found, and what loading one gives."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapter_files import N_EMBD, write_adapter
from commands import fail, run, succeed
from conftest import TINY_LOAD
from tiny_models import CHATML, make_model

import colm_cpp as colm
from colm_cpp.heads.adapters import adapter_digest
from colm_cpp.sources.pair_file import read, to_toml
from colm_cpp.sources.preset import is_preset, own_folder, packaged_names, preset, preset_files

MODELS = {"base": "models/base.gguf", "assistant": "models/assistant.gguf"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tuned pair: models, adapter, a calibrated head that belongs to it, and pair.toml."""
    folder = tmp_path_factory.mktemp("pairs") / "mine"
    (folder / "models").mkdir(parents=True)
    make_model(folder / MODELS["base"], seed=1, n_embd=N_EMBD, chat_template=CHATML)
    make_model(folder / MODELS["assistant"], seed=2, n_embd=N_EMBD)
    adapter = write_adapter(folder / "adapter.gguf")
    colm.Head.linear(
        np.zeros(N_EMBD), base_adapters=((adapter_digest(adapter), 0.5),), rates=(0.0, 1.0), thresholds=(1.0, 0.0)
    ).save(folder / "head.gguf")
    values = {**MODELS, "adapter": "adapter.gguf", "adapter_scale": 0.5, "head": "head.gguf", "system": "Be brief."}
    text = to_toml({"about": "mine", **values})
    text += '[options]\nn_ctx = 128\nn_threads = 1\ntype_k = "f32"\n[base_options]\nn_batch = 32\n'
    (folder / "pair.toml").write_text(text)
    return folder


def written(path: Path, text: str, **values: Any) -> Path:
    path.write_text(to_toml(values) + text)
    return path


# -- the file -----------------------------------------------------------------------------------------------------


def test_paths_are_relative_to_the_file(folder: Path, tmp_path: Path) -> None:
    known = read(folder / "pair.toml")
    assert (known.name, known.about, known.system) == ("mine", "mine", "Be brief.")
    assert [known.base, known.assistant] == [str(folder / MODELS[model]) for model in ("base", "assistant")]
    assert known.adapter == (str(folder / "adapter.gguf"), 0.5)
    assert known.head == str(folder / "head.gguf")
    assert known.options == {"n_ctx": 128, "n_threads": 1, "type_k": "f32"}
    assert known.base_options == {"n_batch": 32}
    link = tmp_path / "other.toml"
    link.symlink_to(folder / "pair.toml")  # the paths are those of the file that it leads to
    assert (read(link).base, read(link).name) == (known.base, "other")


def test_models_of_a_preset_and_places_on_the_hub(tmp_path: Path) -> None:
    known = read(written(tmp_path / "a.toml", "", models="demo", head="confidence"))
    assert (known.base, known.assistant) == (preset("demo").base, preset("demo").assistant)
    assert known.head == "confidence"
    hub = {
        "base": "hf:a/b/base.gguf",
        "assistant": "hf:a/b/c.gguf",
        "adapter": "hf:a/b/x.gguf",
        "head": "hf:a/b/h.gguf",
    }
    known = read(written(tmp_path / "b.toml", "", **hub))
    assert [known.base, known.assistant, known.head] == [hub[key] for key in ("base", "assistant", "head")]
    assert known.adapter == (hub["adapter"], 1.0)


@pytest.mark.parametrize("text", ['quote " and \\ back', "line\nbreak\ttab", "del \x7f and \x01", "snow ☃ 𝄞"])
def test_what_is_written_is_read_again(text: str, tmp_path: Path) -> None:
    file = written(tmp_path / "a.toml", "", models="demo", about=text, system=text)
    assert (read(file).about, read(file).system) == (text, text)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("assistantt = 'x.gguf'", "'assistantt'.*'assistant'"),
        ("colour = 1", "'colour'.*adapter_scale"),
        ("assistant = 3", "assistant is 3"),
        ("assistant = ' '", "assistant is ' '"),
        ('assistant = "a\\u0000"', "assistant"),
        ("about = 'no assistant'", "assistant is missing"),
        ("models = 'demo'", "both models and base"),
        ("assistant = 'x'\nadapter_scale = 2.0", "adapter_scale is 2"),
        ("assistant = 'x'\nadapter = 'a'\nadapter_scale = nan", "adapter_scale"),
        ("assistant = 'x'\nadapter = 'a'\nadapter_scale = true", "adapter_scale"),
        ("assistant = 'x'\nhead = 'h.gguf'\ndefer_rate = 20", r"defer_rate is 20.*0\.2"),
        ("assistant = 'x'\nhead = 'random'\ndefer_rate = 0.2", "defer_rate"),
        ("assistant = 'x'\ndefer_rate = 0.2", "defer_rate"),
        ("assistant = 'x'\noptions = 3", "options is 3"),
        ("assistant = 'x'\n[options]\nn_ctxx = 3", "'n_ctxx'.*'n_ctx'"),
        ("assistant = 'x'\n[options]\nn_ctx = 1", "n_ctx is 1"),
        ("assistant = 'x'\n[base_options]\nlora = 'a.gguf'", "base_options has lora.*adapter"),
    ],
)
def test_an_invalid_key_is_named_with_its_file(text: str, named: str, tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text(f"version = 1\nbase = 'b.gguf'\n{text}\n")
    with pytest.raises(colm.OptionError, match=f"(?s){file}: .*{named}"):
        read(file)


def test_models_are_those_of_the_package(tmp_path: Path) -> None:
    with pytest.raises(colm.OptionError, match=r"models is 'mine'.*demo"):
        read(written(tmp_path / "a.toml", "", models="mine"))


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"version = 2\n", colm.LoadError),
        (b"version = true\n", colm.LoadError),
        (b"models = 'demo'\n", colm.OptionError),
        (b"version = = 1", colm.LoadError),
        (b"\xff\xfe", colm.LoadError),
        (b"GGUF" + bytes(100), colm.LoadError),
        (b"#" * (2**20 + 1), colm.LoadError),
        (b"a = " + b"[" * 10000, colm.LoadError),
    ],
)
def test_a_file_that_is_no_pair(data: bytes, error: type[Exception], tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_bytes(data)
    with pytest.raises(error, match=r"a\.toml"):
        colm.load(str(file))
    with pytest.raises(colm.LoadError, match=r"none\.toml"):
        colm.load(tmp_path / "none.toml")
    with pytest.raises(colm.LoadError, match=r"pair\.toml"):
        colm.load(tmp_path)


# -- where pairs are found ----------------------------------------------------------------------------------------


def test_ones_own_pairs_go_by_a_name(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLM_PAIRS", str(tmp_path))
    (tmp_path / "tuned").symlink_to(folder)
    written(tmp_path / "short.toml", "", models="demo", head="always")
    written(tmp_path / "demo.toml", "", models="demo", head="never")  # the package's stays
    written(tmp_path / ".hidden.toml", "", models="demo")
    (tmp_path / "empty").mkdir()
    assert list(preset_files()) == [*packaged_names(), "short", "tuned"]
    assert {known.name: known.head for known in colm.presets()}["demo"] != "never"
    with colm.load("tuned") as pair:
        assert pair.base["path"] == str(folder / MODELS["base"])
        assert pair.n_ctx == 128
    with colm.load("short", **TINY_LOAD) as pair:
        assert pair.head == "always"
    assert colm.generate("x", pair="tuned", max_tokens=2, defer_rate=1.0).stats.deferral_rate == 1.0
    assert preset("short").packaged is False
    (tmp_path / "broken.toml").write_text("version = 1\nbase = 3")
    with pytest.raises(colm.OptionError, match=r"broken\.toml"):
        colm.presets()
    listed = json.loads(run("models", "--json").stdout)
    assert listed["folder"] == str(tmp_path)
    pairs = {pair["name"]: pair for pair in listed["pairs"]}
    assert "base is 3" in pairs["broken"]["error"]
    assert pairs["tuned"]["adapter"] == {"path": str(folder / "adapter.gguf"), "scale": 0.5}
    shown = run("models").stdout
    assert "  tuned " in shown
    assert str(tmp_path) in shown


def test_the_users_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("COLM_PAIRS")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("APPDATA", str(tmp_path))
    assert own_folder().parts[-2:] == ("colm-cpp", "pairs")
    if os.name == "posix" and os.uname().sysname == "Linux":
        assert own_folder() == tmp_path / "colm-cpp" / "pairs"


def test_what_stands_for_a_pair(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [is_preset(given) for given in ("demo", str(folder), "x.toml", "x.gguf", "", str(tmp_path), 3)] == [
        True, True, True, False, False, False, False,
    ]  # fmt: skip
    (tmp_path / "demo").write_bytes(b"")
    assert not is_preset("demo")
    assert preset(preset("demo")) == preset("demo")
    with pytest.raises(colm.OptionError, match="preset"):
        preset(Path("qwen"))  # a path is no name
    with pytest.raises(colm.OptionError, match=f"pair='{folder}'"):
        colm.load(folder / MODELS["base"], str(folder))


# -- loading ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_file", [False, True])
@pytest.mark.parametrize("kind", [str, Path])
def test_load_applies_the_adapter_to_the_base(folder: Path, as_file: bool, kind: type) -> None:
    with colm.load(kind(folder / "pair.toml" if as_file else folder)) as pair:
        assert [known["scale"] for known in pair.base["adapters"]] == [0.5]
        assert pair.assistant["adapters"] == []
        assert (pair.base["n_batch"], pair.n_ctx) == (32, 128)
        assert pair.generate("x", max_tokens=4, defer_rate=1.0).stats.deferral_rate == 1.0


def test_what_is_given_replaces_what_the_file_says(folder: Path) -> None:
    with colm.load(folder, n_ctx=64, n_batch=16) as pair:
        assert (pair.n_ctx, pair.base["n_batch"], pair.assistant["n_batch"]) == (64, 16, 16)
    with colm.load(folder, base_options={"n_batch": 64}) as pair:
        assert pair.base["n_batch"] == 64
        assert len(pair.base["adapters"]) == 1
    for own in ({"base_options": {"lora": ()}}, {"lora": [(folder / "adapter.gguf", 1.0)]}):
        with pytest.raises(colm.HeadMismatch):
            colm.load(folder, **own)
        colm.load(folder, head="confidence", **own).close()
    with pytest.raises(colm.OptionError, match="base_options"):
        colm.load(folder, base_options=3)  # type: ignore[arg-type]
    out = colm.generate("x", pair=folder, load_options={"n_ctx": 32}, max_tokens=-1, threshold=0.0)
    assert out.stats.prompt_tokens + len(out.tokens) <= 33
    colm.unload()


def test_a_default_rate(folder: Path) -> None:
    text = (folder / "pair.toml").read_text()
    for rate in (0.0, 1.0):
        other = folder / f"rate{rate:g}.toml"
        other.write_text(text.replace("head = ", f"defer_rate = {rate}\nhead = "))
        with colm.load(other) as pair:
            assert pair.generate("x", max_tokens=4).stats.deferral_rate == rate
            assert pair.generate("x", max_tokens=4, defer_rate=1 - rate).stats.deferral_rate == 1 - rate
        assert colm.generate("x", pair=other, max_tokens=4).stats.deferral_rate == rate
        colm.unload()
    colm.Head.load(folder / "head.gguf").replace(rates=(), thresholds=()).save(folder / "new.gguf")
    other.write_text(other.read_text().replace("head.gguf", "new.gguf"))
    with pytest.raises(colm.HeadError, match=f"{other}.*calibrate"):
        colm.load(other)
    colm.load(other, head="confidence").close()


def test_the_system_message_comes_first_in_a_chat(folder: Path) -> None:
    said = [{"role": "user", "content": "Hi"}]
    with colm.load(folder) as pair:
        rendered = pair.render_chat(said)
        assert rendered == pair.render_chat([{"role": "system", "content": "Be brief."}, *said])
        assert "Be brief." in rendered
        assert "Be brief." not in pair.render_chat([{"role": "system", "content": "Be long."}, *said])
        assert said == [{"role": "user", "content": "Hi"}]


# -- the commands -------------------------------------------------------------------------------------------------


def test_generate_inspect_and_score_take_the_folder(folder: Path, tmp_path: Path) -> None:
    writing = ("generate", "Hi", "--pair", folder, "--max-tokens", 3, "--json", "--quiet")
    done = succeed(*writing, "--defer-rate", 1, "--chat")
    out = json.loads(done.stdout)
    assert {token["source"] for token in out["tokens"]} == {"assistant"}
    assert "Be brief." in out["prompt"]
    assert out["adapter"] == {"path": str(folder / "adapter.gguf"), "scale": 0.5}
    assert "Be long." in json.loads(run(*writing, "--system", "Be long.").stdout)["prompt"]
    known = json.loads(run("inspect", folder, "--json").stdout)["pair"]
    assert known["compatible"] is True
    assert known["base_model"]["adapters"][0]["scale"] == 0.5
    assert "adapters" in run("inspect", "--pair", folder / "pair.toml").stdout
    texts = tmp_path / "t.jsonl"
    texts.write_text('{"prompt": "a", "completion": "b c"}\n')
    succeed("score", texts, "--pair", folder, "--out", tmp_path / "scores", "--quiet")
    meta = json.loads((tmp_path / "scores" / "meta.json").read_text())
    assert meta["base_adapters"] == [[adapter_digest(folder / "adapter.gguf"), 0.5]]
    assert meta["system"] == "Be brief."


def test_nothing_that_the_pair_reads_is_written_over(folder: Path) -> None:
    for name in ("pair.toml", "adapter.gguf", "head.gguf"):
        before = (folder / name).read_bytes()
        assert name in fail("generate", "Hi", "--pair", folder, "--trace", folder / name, "--force")
        assert (folder / name).read_bytes() == before


def test_calibrate_takes_the_pairs_own_head(folder: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"say {i}"}) + "\n" for i in range(3)))
    short = ("--pair", folder, "--max-tokens", 6, "--quiet", "--no-chat")
    before = (folder / "head.gguf").read_bytes()
    assert "--force" in fail("calibrate", *short, prompts)
    assert (folder / "head.gguf").read_bytes() == before
    other = tmp_path / "other.gguf"
    done = succeed("calibrate", *short, prompts, prompts, "--out", other)
    assert len(colm.Head.load(other).rates) == 21
    done = succeed("calibrate", *short, prompts, "--force")
    assert f"--pair {folder} --defer-rate" in done.stdout
    made = colm.Head.load(folder / "head.gguf")
    assert len(made.rates) == 21
    assert made.base_adapters == ((adapter_digest(folder / "adapter.gguf"), 0.5),)
    with colm.load(folder) as pair:
        assert pair.generate("x", max_tokens=4, defer_rate=1.0).stats.deferral_rate == 1.0
    (folder / "head.gguf").write_bytes(before)
    # A head that is named is calibrated as ever; the package is never written to.
    succeed("calibrate", "confidence", prompts, *short, "--out", tmp_path / "c.gguf")
    assert run("calibrate", other, *short).exit_code == 2
    packaged = run("calibrate", "--pair", "demo", prompts)
    assert packaged.exit_code == 2
    assert "--out" in packaged.stderr

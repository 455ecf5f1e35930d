"""A tuned pair is one folder: tune writes it, calibrate completes it, the other commands take it by its name."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_models as tm
import tuned_pairs
from commands import fail, run, succeed

import colm_cpp as colm
from colm_cpp import learn, tune
from colm_cpp.errors import CorpusError, OptionError
from colm_cpp.heads.adapters import adapter_digest
from colm_cpp.sources.pair_file import read, to_toml
from colm_cpp.sources.preset import preset
from colm_cpp.tune.pair_folder import models_of

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

QUICK = replace(tuned_pairs.QUICK, epochs=1)
SHORT = ("--n-threads", 1, "--quiet")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A tiny pair, texts, and their scores with a system message."""
    folder = tmp_path_factory.mktemp("models")
    base = tm.make_model(folder / "base.gguf", seed=1, chat_template=tm.CHATML)
    assistant = tm.make_model(folder / "assistant.gguf", seed=2, chat_template=tm.CHATML)
    texts = folder / "texts.jsonl"
    rows = [{"prompt": f"The quick {i}", "completion": " brown fox jumps"[: 6 + i % 10]} for i in range(24)]
    texts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    scores = folder / "scores"
    with learn.Scorer(base, assistant, n_threads=1) as scorer:
        learn.score(scorer, learn.select([texts]), scores, system="Be brief.")
    prompts = folder / "prompts.jsonl"
    rows = [{"prompt": f"The slow {i}", "answer": str(i)} for i in range(2)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return SimpleNamespace(folder=folder, base=base, assistant=assistant, texts=texts, scores=scores, prompts=prompts)


@pytest.fixture(scope="module")
def tuned(models: SimpleNamespace) -> Path:
    """The folder that the command writes."""
    out: Path = models.folder / "tuned"
    done = succeed(
        "tune", models.scores, "--base", models.base, "--out", out, "--json", "--quiet", "--epochs", 1, "--rank", 4,
        "--learning-rate", 0.01, "--dtype", "float32",
    )  # fmt: skip
    assert "warning" not in done.stderr
    printed = json.loads(done.stdout)
    assert (printed["pair"], printed["card"]) == (str(out / "pair.toml"), str(out / "card.md"))
    assert sorted(path.name for path in out.iterdir()) == [
        ".lock", "adapter.gguf", "card.md", "checkpoint.pt", "head.gguf", "pair.toml", "scores", "tuning.json",
    ]  # fmt: skip
    return out


@pytest.mark.slow
def test_the_folder_names_its_parts(models: SimpleNamespace, tuned: Path) -> None:
    known = read(tuned / "pair.toml")
    assert (known.base, known.assistant) == (str(models.base), str(models.assistant))  # found beside the base
    assert 'base = "../base.gguf"' in (tuned / "pair.toml").read_text()
    assert known.adapter == (str(tuned / "adapter.gguf"), 1.0)
    assert known.head == str(tuned / "head.gguf")
    assert known.system == "Be brief."


@pytest.mark.slow
def test_the_head_belongs_to_the_adapter(models: SimpleNamespace, tuned: Path) -> None:
    adapter = tuned / "adapter.gguf"
    head = colm.Head.load(tuned / "head.gguf")
    assert head.base_adapters == ((adapter_digest(adapter), 1.0),)
    with pytest.raises(colm.HeadMismatch):
        colm.load(models.base, models.assistant, head)
    with pytest.raises(colm.HeadMismatch):
        colm.load(models.base, models.assistant, head, base_options={"lora": [(adapter, 0.5)]})
    with colm.load(tuned) as pair:
        assert pair.generate("The quick 3", max_tokens=4, threshold=0.0).stats.deferral_rate == 1.0


@pytest.mark.slow
def test_the_card_says_how_it_was_made(models: SimpleNamespace, tuned: Path) -> None:
    card = (tuned / "card.md").read_text()
    tuning = json.loads((tuned / "tuning.json").read_text())
    command = f"colm tune {models.scores} --base {models.base} --out {tuned} --rank 4 --epochs 1 --learning-rate 0.01"
    assert f"\n{command} --dtype float32\n" in card
    meta = json.loads((models.scores / "meta.json").read_text())
    for fact in (
        meta["base_model"]["digest"],
        meta["assistant_model"]["digest"],
        meta["corpus"][0]["sha256"],
        adapter_digest(tuned / "adapter.gguf"),
        adapter_digest(models.scores / "texts.jsonl"),
        f"torch {importlib.metadata.version('torch')}",
        f"{tuning['texts'][0]} texts for training, {tuning['texts'][1]} held out",
    ):
        assert fact in card
    for name in ("base_nll", "joint_nll", "mean_defer_prob"):
        assert f"| {tuning['before'][name]:.4f} | {tuning['best'][name]:.4f} |" in card


@pytest.mark.slow
def test_from_calibration_to_evaluation(models: SimpleNamespace, tuned: Path, tmp_path: Path) -> None:
    folder = models.folder / "calibrated"
    shutil.copytree(tuned, folder)
    short = ("--pair", folder, "--max-tokens", 6, *SHORT)
    assert "colm calibrate" in fail("generate", "x", *short, "--defer-rate", 0.2)
    done = succeed("calibrate", *short, models.prompts, "--default-rate", 0.2)
    head = colm.Head.load(folder / "head.gguf")
    assert len(head.rates) == 21
    assert head.base_adapters == colm.Head.load(tuned / "head.gguf").base_adapters
    with colm.load(folder) as pair:
        assert pair.generate("x", max_tokens=4, defer_rate=1.0).stats.deferral_rate == 1.0
        assert pair.generate("x", max_tokens=4, defer_rate=0.2).stats.generated_tokens == 4
    succeed("generate", "x", *short, "--defer-rate", 0.2)
    out = tmp_path / "eval"
    # The tuned pair, and in the same report the pair before tuning, and each model of either by itself.
    plain = models.folder / "plain.toml"
    values = {"base": "base.gguf", "assistant": "assistant.gguf", "head": "plain.gguf"}
    plain.write_text(to_toml(values))
    head.replace(base_adapters=()).save(models.folder / "plain.gguf")
    asked: list[object] = ["evaluate", models.prompts, *short, "--out", out, "--rate", 0.5, "--json"]
    for arm in ("base", "assistant", f"plain={plain}", f"plain-base=base:{plain}", f"big=assistant:{folder}"):
        asked += ["--arm", arm]
    done = succeed(*asked)
    arms = json.loads(done.stdout)["meta"]["arms"]
    answered = [file.read_bytes() for file in sorted((out / "records").iterdir())]
    succeed(*asked)  # goes on where all is done
    assert [file.read_bytes() for file in sorted((out / "records").iterdir())] == answered
    assert set(arms) == {"base", "assistant", "plain@50", "plain-base", "big", "learned@50"}
    meta = json.loads((out / "meta.json").read_text())
    assert meta["base_adapters"] == [[adapter_digest(folder / "adapter.gguf"), 1.0]]
    assert "adapters" not in arms["plain@50"]["pair"]["base"]
    assert arms["plain@50"]["pair"]["base"] == arms["plain-base"]["expert"]
    records = learn.RecordFolder.open(out)
    texts = {name: [record.ids for record in records.read(name).values()] for name in arms}
    # The plain base is another model than the tuned one, and the big one is the pair's assistant.
    with colm.load(plain, n_threads=1) as pair:
        for name, threshold in (("plain-base", 1.0), ("plain@50", arms["plain@50"]["threshold"])):
            messages = [[{"role": "user", "content": f"The slow {i}"}] for i in range(2)]
            for i, said in enumerate(messages):
                made = pair.chat(said, threshold=threshold, temperature=0, max_tokens=6, seed=i)
                assert texts[name][i][:6] == tuple(token.id for token in made.tokens)
    report = (out / "report.md").read_text()
    assert f"base tiny with adapter {adapter_digest(folder / 'adapter.gguf')[:12]} at scale 1" in report
    assert "plain is another pair: base base.gguf, assistant assistant.gguf, head plain.gguf." in report
    assert "plain-base is the model base.gguf alone." in report
    # Another pair with this assistant is compared with the chord as the pair itself is.
    above = {row["arm"] for row in json.loads((out / "report.json").read_text())["above"]}
    assert above == {"learned@50", "plain@50"}


@pytest.mark.slow
def test_tuning_again_keeps_the_calibration(models: SimpleNamespace, tuned: Path) -> None:
    out = models.folder / "again"
    shutil.copytree(tuned, out)
    made = colm.Head.load(out / "head.gguf")
    table: dict[str, Any] = {"rates": (0.0, 1.0), "thresholds": (1.0, 0.0), "default_threshold": 0.3}
    made.replace(**table).save(out / "head.gguf")
    before = (out / "head.gguf").read_bytes()
    options = replace(QUICK, batch_texts=16)  # those of the command
    tune.tune(models.base, [models.scores], out, options)
    assert (out / "head.gguf").read_bytes() == before
    other = made.replace(weights=tuple(-weight for weight in made.weights), **table)
    other.save(out / "head.gguf")  # the table of another head is not kept
    tune.tune(models.base, [models.scores], out, options)
    assert (out / "head.gguf").read_bytes() == (tuned / "head.gguf").read_bytes()


@pytest.mark.slow
def test_the_assistant_must_be_the_one_that_was_scored(models: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"assistant 'assistant\.gguf'.*base\.gguf"):
        tune.tune(models.base, [models.scores], tmp_path, QUICK, assistant=models.base)
    assert not list(tmp_path.glob("*.gguf"))


def test_where_the_assistant_is(models: SimpleNamespace, tmp_path: Path) -> None:
    scores = [learn.Scores(models.scores)]
    base, out = tmp_path / "base.gguf", tmp_path / "out"
    shutil.copy(models.base, base)
    (tmp_path / "assistant.gguf").write_bytes(b"another file of that name")
    found = models_of(None, base, None, scores, out)
    assert found.missing == "assistant.gguf"
    assert found.names == {"base": "../base.gguf", "assistant": "assistant.gguf"}
    shutil.copy(models.assistant, tmp_path / "assistant.gguf")
    assert models_of(None, base, None, scores, out).names["assistant"] == "../assistant.gguf"
    elsewhere = tmp_path / "elsewhere" / "big.gguf"  # a name is no part of what the file is
    elsewhere.parent.mkdir()
    shutil.copy(models.assistant, elsewhere)
    found = models_of(None, base, elsewhere, scores, out)
    assert (found.names["assistant"], found.missing) == ("../elsewhere/big.gguf", None)
    # A pair in the package is named, so that the folder can go to another machine.
    known = replace(preset("demo"), base=str(base), assistant=str(elsewhere))
    assert models_of(known, known.base, known.assistant, scores, out).names == {"models": "demo"}


@pytest.mark.slow
def test_a_pair_may_be_tuned_by_its_name(models: SimpleNamespace, tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(to_toml({"base": str(models.base), "assistant": str(models.assistant), "head": "confidence"}))
    out = tmp_path / "out"
    options = ("--epochs", 1, "--rank", 2, "--objective", "sft", "--head-share", 0, "--json", "--quiet")
    succeed("tune", models.scores, "--pair", own, "--out", out, *options)
    known = read(out / "pair.toml")
    assert (known.base, known.assistant, known.head) == (str(models.base), str(models.assistant), None)
    with colm.load(out, head="never") as pair:
        assert len(pair.base["adapters"]) == 1
    merged = succeed("merge", out, "--type", "f16", "--json", "--quiet")  # pair.toml names the base
    assert json.loads(merged.stdout)["path"] == str(out / "merged-f16.gguf")
    assert run("merge", out / "adapter.gguf").exit_code == 2
    assert f"x=base:{out}" in fail(
        "evaluate", models.prompts, "--pair", own, "--arm", f"x={out}", "--out", tmp_path / "e"
    )
    for wrong in (("--pair", own, "--base", models.base), ()):
        assert run("tune", models.scores, *wrong, "--out", out).exit_code == 2


@pytest.mark.parametrize("name", ["rank", "learning_rate", "held_out", "warm_up", "cost"])
@pytest.mark.parametrize("value", ["1", None, np.zeros(2)])
def test_options_of_another_type_are_refused(name: str, value: Any) -> None:
    with pytest.raises(OptionError, match=name):
        replace(QUICK, **{name: value})

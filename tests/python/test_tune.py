"""Tuning the base with the head: the loss and its gradient, the adapter's file, the loop and its checkpoints."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_models as tm
from click.testing import CliRunner

from colm_cpp import learn, tune
from colm_cpp.cli import main
from colm_cpp.errors import CorpusError, LoadError, OptionError
from colm_cpp.learn.objective import MarginalLoss, RegretLoss
from colm_cpp.learn.parts import text_split
from colm_cpp.learn.score_files import COLUMNS
from colm_cpp.tune.data import read_texts

if any(importlib.util.find_spec(name) is None for name in ("torch", "transformers", "peft")):
    pytest.skip("tuning needs torch, transformers and peft: pip install 'colm-cpp[tune]'", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")

QUICK = tune.TuneOptions(epochs=2, dtype="float32", learning_rate=1e-2, rank=4, batch_texts=8)
N_TEXTS = 40
EXACT: Any = {"type_k": "f32", "type_v": "f32"}  # the caches lose nothing either


def scored(folder: Path, arch: str = "llama", **shape: Any) -> SimpleNamespace:
    """A tiny pair, and a folder of its scores."""
    base = tm.make_model(folder / "base.gguf", arch=arch, seed=1, **shape)
    assistant = tm.make_model(folder / "assistant.gguf", arch=arch, seed=2)
    texts = folder / "texts.jsonl"
    rows = [
        {"prompt": f"The quick {i}", "completion": " brown fox jumps over the lazy dog"[: 10 + i % 20]}
        for i in range(N_TEXTS)
    ]
    texts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with learn.Scorer(base, assistant, **EXACT) as scorer:
        learn.score(scorer, learn.select([texts]), folder / "scores")
    return SimpleNamespace(base=base, assistant=assistant, texts=texts, scores=folder / "scores")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    return scored(tmp_path_factory.mktemp("tune"))


@pytest.fixture(scope="module")
def tuned(pair: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> tune.Tuned:
    return tune.tune(pair.base, [pair.scores], tmp_path_factory.mktemp("tuned"), QUICK)


def held_out_logprobs(pair: SimpleNamespace, adapter: Path | None, out: Path) -> np.ndarray[Any, Any]:
    """log P_base of the held-out tokens, by llama.cpp."""
    lora = {} if adapter is None else {"base_options": {"lora": [(str(adapter), 1.0)]}}
    with learn.Scorer(pair.base, pair.assistant, **EXACT, **lora) as scorer:
        learn.score(scorer, learn.select([pair.texts]), out)
    scores = learn.Scores(out)
    return scores["base_logprob"][np.isin(scores["text"], text_split(scores, QUICK.held_out, QUICK.seed).held_out)]


def test_the_held_out_loss_falls_and_the_best_measurement_is_kept(tuned: tune.Tuned) -> None:
    assert tuned.n_texts == (28, 4)
    assert tuned.best.joint_nll < 0.8 * tuned.before.joint_nll
    assert tuned.best.base_nll < 0.8 * tuned.before.base_nll
    assert tuned.best.assistant_nll == pytest.approx(tuned.before.assistant_nll)
    assert tuned.best.oracle_nll <= min(tuned.best.base_nll, tuned.best.assistant_nll)
    kept = min(tuned.history, key=lambda measured: measured.loss)
    assert replace(tuned.best, joint_nll=0, mean_defer_prob=0) == replace(kept, joint_nll=0, mean_defer_prob=0)
    assert tuned.best.joint_nll < kept.joint_nll  # here the head that is fitted afterwards is better


@pytest.mark.parametrize("arch", tune.ARCHITECTURES)  # llama.cpp stores q and k of the first permuted
def test_llama_cpp_with_the_adapter_computes_what_torch_does(
    arch: str, pair: SimpleNamespace, tuned: tune.Tuned, tmp_path: Path
) -> None:
    if arch != "llama":
        pair = scored(tmp_path, arch)
        tuned = tune.tune(pair.base, [pair.scores], tmp_path / "tuned", replace(QUICK, epochs=1))
    theirs = held_out_logprobs(pair, tuned.adapter, tmp_path / "again")
    assert -float(theirs.mean()) == pytest.approx(tuned.best.base_nll, abs=1e-3)
    assert -float(theirs.mean()) < 0.9 * tuned.before.base_nll  # the adapter does something


def test_the_head_is_for_this_base_and_loads(pair: SimpleNamespace, tuned: tune.Tuned) -> None:
    import colm_cpp as colm

    assert tuned.head is not None
    head = colm.Head.load(tuned.head)
    with colm.load(pair.base, pair.assistant, head, base_options={"lora": [(str(tuned.adapter), 1.0)]}) as loaded:
        assert loaded.generate("The quick 3", max_tokens=4, temperature=0).stats.generated_tokens == 4


def test_the_tuned_base_scores_the_texts_that_it_has_not_seen(
    pair: SimpleNamespace, tuned: tune.Tuned, tmp_path: Path
) -> None:
    held_out_logprobs(pair, tuned.adapter, tmp_path / "again")
    ours, all_of_them = learn.Scores(tuned.adapter.parent / "scores" / "1-scores"), learn.Scores(tmp_path / "again")
    plain = learn.Scores(pair.scores)
    training, _, (unseen,) = read_texts([plain], held_out=0.1, head_share=0.2, seed=0)
    assert len(training) + len(unseen.texts) == N_TEXTS
    assert ours.progress.n_texts == len(unseen.texts) == 12
    for places, n in ((unseen.split.training, 8), (unseen.split.held_out, 4)):
        assert len(places) == n
    assert set(unseen.texts[unseen.split.held_out]) == set(text_split(plain, 0.1, 0).held_out)
    assert ours.meta["base_adapters"] == all_of_them.meta["base_adapters"]
    rows = np.isin(all_of_them["text"], unseen.texts)
    theirs = {column: all_of_them[column][rows] for column in COLUMNS}
    for column in ("token", "base_top", "assistant_top", "assistant_logprob", "assistant_top_logprob"):
        assert np.array_equal(ours[column], theirs[column]), column
    for column in ("base_logprob", "base_top_k_logprobs", "base_entropy", "base_log_odds", "base_hidden"):
        assert np.abs(ours[column] - theirs[column]).max() < 0.02, column
    # The assistant's log-probability of the base's token is exact where it was known, and else the least possible.
    known = (ours["base_top"] == ours["token"]) | (ours["base_top"] == ours["assistant_top"])
    known |= ours["base_top"] == plain["base_top"][rows]
    of_top, exact = ours["assistant_logprob_of_base_top"], theirs["assistant_logprob_of_base_top"]
    assert 0 < known.sum() < len(known)
    assert of_top[known] == pytest.approx(exact[known], abs=1e-4)
    assert (of_top[~known] >= exact[~known] - 1e-4).all()


def test_training_goes_on_from_an_adapter(pair: SimpleNamespace, tmp_path: Path) -> None:
    first = tune.tune(pair.base, [pair.scores], tmp_path / "sft", replace(QUICK, objective="sft", epochs=1))
    options = replace(QUICK, epochs=1, rank=7, learning_rate=1e-3)
    then = tune.tune(pair.base, [pair.scores], tmp_path / "joint", options, adapter=first.adapter.parent)
    assert then.before.base_nll == pytest.approx(first.best.base_nll, abs=1e-3)  # the file is float16
    assert first.best.base_nll < 0.9 * first.before.base_nll
    assert json.loads((tmp_path / "joint" / "tuning.json").read_text())["options"]["rank"] == QUICK.rank
    with pytest.raises(CorpusError, match="adapter"):
        tune.tune(pair.base, [pair.scores], tmp_path / "joint", replace(options, rank=QUICK.rank))


def test_two_texts_leave_none_for_the_head(pair: SimpleNamespace, tmp_path: Path) -> None:
    with learn.Scorer(pair.base, pair.assistant, **EXACT) as scorer:
        learn.score(scorer, learn.select([pair.texts], limit=2), tmp_path / "two")
    tuned = tune.tune(pair.base, [tmp_path / "two"], tmp_path / "out", replace(QUICK, epochs=1))
    assert tuned.n_texts == (1, 1)
    assert tuned.head is not None


def test_the_adapter_learns_from_texts_that_nothing_has_scored(pair: SimpleNamespace, tmp_path: Path) -> None:
    options = replace(QUICK, objective="sft", epochs=1)
    lines = pair.texts.read_text().splitlines(keepends=True)
    # Two of the file's rows are new: the scored ones must not be read again, least of all those held out.
    new = [{"prompt": "Where?", "completion": f" Behind the {n} blue doors."} for n in ("six", "seven")]
    more = tmp_path / "more.jsonl"
    more.write_text("".join([*lines, *(json.dumps(row) + "\n" for row in new)]))
    plain = tune.tune(pair.base, [pair.scores], tmp_path / "plain", options)
    tuned = tune.tune(pair.base, [pair.scores], tmp_path / "tuned", options, texts=learn.select([more]))
    assert (plain.n_texts, tuned.n_texts) == ((28, 4), (30, 4))
    assert tuned.adapter.read_bytes() != plain.adapter.read_bytes()
    with pytest.raises(CorpusError, match="training with more texts"):
        tune.tune(pair.base, [pair.scores], tmp_path / "tuned", options)
    with pytest.raises(CorpusError, match="already"):
        tune.tune(pair.base, [pair.scores], tmp_path / "none", options, texts=learn.select([pair.texts]))
    with pytest.raises(OptionError, match="sft"):
        tune.tune(pair.base, [pair.scores], tmp_path / "none", QUICK, texts=learn.select([more]))


def test_an_adapter_of_another_base_is_no_start(pair: SimpleNamespace, tuned: tune.Tuned, tmp_path: Path) -> None:
    other = scored(tmp_path)
    other.base = tm.make_model(tmp_path / "other.gguf", seed=5)
    with learn.Scorer(other.base, other.assistant, **EXACT) as scorer:
        learn.score(scorer, learn.select([other.texts]), tmp_path / "other")
    with pytest.raises(LoadError, match=r"adapter\.gguf"):
        tune.tune(other.base, [tmp_path / "other"], tmp_path / "out", QUICK, adapter=tuned.adapter)
    with pytest.raises(LoadError, match="head"):
        tune.tune(pair.base, [pair.scores], tmp_path / "out", QUICK, adapter=tuned.head)


def test_torch_and_llama_cpp_agree_before_training(tuned: tune.Tuned) -> None:
    assert tuned.agreement.logprob < tuned.agreement.limit == 0.01
    assert tuned.agreement.top == 1.0


def test_another_model_behind_the_scores_is_refused(pair: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"assistant\.gguf"):
        tune.tune(pair.assistant, [pair.scores], tmp_path / "out", QUICK)


def test_a_torch_model_that_differs_from_llama_cpp_is_refused(
    pair: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from colm_cpp.tune import tuning

    load = tuning.load_base

    def wrong(*args: Any) -> Any:
        model = load(*args)
        weight = model.model.layers[0].self_attn.q_proj.weight
        weight.data = weight.data.flip(0)  # the rows in another order, as a wrong permutation leaves them
        return model

    monkeypatch.setattr(tuning, "load_base", wrong)
    with pytest.raises(LoadError, match="nats a token"):
        tune.tune(pair.base, [pair.scores], tmp_path / "out", QUICK)


def test_an_unsupported_architecture_is_refused_by_name(tmp_path: Path) -> None:
    pair = scored(tmp_path, "mamba")
    with pytest.raises(LoadError, match="mamba"):
        tune.tune(pair.base, [pair.scores], tmp_path / "out", QUICK)


def test_scores_with_an_adapter_are_refused(pair: SimpleNamespace, tuned: tune.Tuned, tmp_path: Path) -> None:
    held_out_logprobs(pair, tuned.adapter, tmp_path / "again")
    with pytest.raises(CorpusError, match="adapter"):
        tune.tune(pair.base, [tmp_path / "again"], tmp_path / "out", QUICK)


def test_scores_of_an_earlier_version_lack_tokens(pair: SimpleNamespace, tmp_path: Path) -> None:
    folder = tmp_path / "scores"
    shutil.copytree(pair.scores, folder)
    lines = [json.loads(line) for line in (folder / "texts.jsonl").read_text().splitlines()]
    for line in lines:
        del line["tokens"], line["scored"]
    (folder / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(CorpusError, match="again"):
        tune.tune(pair.base, [folder], tmp_path / "out", QUICK)


@pytest.mark.parametrize(
    "wrong",
    [{"rank": 0}, {"learning_rate": float("nan")}, {"held_out": 1.0}, {"objective": "x"}, {"objective": "regret"}],
)
def test_options_outside_their_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="cost" if wrong == {"objective": "regret"} else next(iter(wrong))):
        tune.TuneOptions(**wrong)


@pytest.mark.parametrize("objective", ["sft", "regret"])
def test_the_other_objectives_train_too(objective: str, pair: SimpleNamespace, tmp_path: Path) -> None:
    tuned = tune.tune(pair.base, [pair.scores], tmp_path, replace(QUICK, objective=objective, cost=0.1, epochs=1))
    assert tuned.best.base_nll < 0.9 * tuned.before.base_nll
    assert tuned.head is not None  # after sft one is fitted to the texts that the adapter has not seen


# -- the loss ---------------------------------------------------------------------------------------------------


class Batch(SimpleNamespace):
    """What :func:`losses` reads of a batch."""


def random_batch(torch: Any, n: int) -> tuple[Any, Batch]:
    generator = np.random.default_rng(3)

    def logprobs() -> Any:
        return torch.from_numpy(-generator.exponential(1.5, n))

    top = torch.from_numpy(-generator.exponential(0.3, n))
    lower = top - torch.from_numpy(generator.exponential(1.0, n))
    batch = Batch(
        targets=torch.from_numpy(generator.integers(0, 4, n)),
        assistant_logprob=lower,
        assistant_top=torch.from_numpy(generator.integers(0, 4, n)),
        assistant_top_logprob=top,
        base_top=torch.from_numpy(generator.integers(0, 4, n)),
        assistant_logprob_of_base_top=lower - 0.5,
    )
    outputs = SimpleNamespace(logprob=logprobs(), top=torch.from_numpy(generator.integers(0, 4, n)))
    return outputs, batch


def test_the_losses_are_those_of_the_head_fit(tmp_path: Path) -> None:
    torch = importlib.import_module("torch")
    from colm_cpp.tune.loss import _regret, losses

    outputs, batch = random_batch(torch, 50)
    z = torch.linspace(-4, 4, 50, dtype=torch.float64)
    ours = losses(torch, "marginal", outputs, z, batch, 0.2).mean()
    theirs, _ = MarginalLoss(outputs.logprob.numpy(), batch.assistant_logprob.numpy(), 0.2)(z.numpy(), slice(None))
    assert float(ours) == pytest.approx(theirs)
    regret = _regret(torch, outputs.top, batch)
    ours = (losses(torch, "regret", outputs, z, batch, 0.2) + outputs.logprob).mean()
    theirs, _ = RegretLoss(regret.numpy(), 0.2)(z.numpy(), slice(None))
    assert float(ours) == pytest.approx(theirs)
    assert float(regret.min()) >= 0.0
    assert not regret[outputs.top == batch.assistant_top].any()


@pytest.mark.parametrize("objective", ["marginal", "sft", "regret"])
def test_the_gradient_of_adapter_and_head_is_that_of_finite_differences(objective: str, pair: SimpleNamespace) -> None:
    from colm_cpp.tune._libraries import libraries
    from colm_cpp.tune.base import load_base, with_adapter
    from colm_cpp.tune.loss import Batch as Texts
    from colm_cpp.tune.loss import losses, read

    found = libraries()
    torch = found.torch
    texts, *_ = read_texts([learn.Scores(pair.scores)], held_out=0.1, seed=0)
    torch.manual_seed(0)
    model = with_adapter(found, load_base(found, pair.base, torch.float32), 2, 4.0, checkpointing=False).double()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)  # with zeros there A has no gradient
    head = torch.nn.Linear(int(learn.Scores(pair.scores).meta["n_embd"]), 1).double()
    batch = Texts(torch, texts[:3], "cpu")
    for name in ("assistant_logprob", "assistant_top_logprob", "assistant_logprob_of_base_top"):
        setattr(batch, name, getattr(batch, name).double())

    def value() -> Any:
        outputs = read(torch, model, batch, (), 0)
        z = head(outputs.hidden.double())[:, 0]
        return losses(torch, objective, outputs, z, batch, 0.1).mean()

    value().backward()
    checked = [p for p in [*model.parameters(), *head.parameters()] if p.requires_grad]
    generator = np.random.default_rng(0)
    for parameter in [checked[i] for i in generator.permutation(len(checked) - 2)[:6]] + checked[-2:]:
        if parameter.grad is None:
            assert objective == "sft"
            continue
        at = int(parameter.grad.abs().argmax())
        flat, expected = parameter.data.view(-1), float(parameter.grad.view(-1)[at])
        results = []
        for step in (1e-3, -1e-3):
            flat[at] += step
            with torch.no_grad():
                results.append(float(value()))
            flat[at] -= step
        # The logits are float32: so are the differences.
        assert (results[0] - results[1]) / 2e-3 == pytest.approx(expected, rel=2e-2, abs=2e-4)


def test_short_and_long_texts_have_the_same_attention(pair: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    from colm_cpp.tune import loss
    from colm_cpp.tune._libraries import libraries
    from colm_cpp.tune.base import load_base

    torch = libraries().torch
    texts, *_ = read_texts([learn.Scores(pair.scores)], held_out=0.1, seed=0)
    model = load_base(libraries(), pair.base, torch.float32)
    used, outputs = [], []
    for limit in (2, 256):  # of two or more tokens: as a long text, as a short one
        monkeypatch.setattr(loss, "_PLAIN_ATTENTION", limit)
        outputs.append(loss.read(torch, model, loss.Batch(torch, texts[:3], "cpu"), (), 0).logprob)
        used.append(model.config._attn_implementation)
    assert used == ["sdpa", "eager"]
    assert torch.allclose(*outputs, atol=1e-4)


def test_texts_of_like_length_share_passes() -> None:
    from colm_cpp.tune.data import passes, steps

    generator = np.random.default_rng(1)
    texts: list[Any] = [SimpleNamespace(tokens=np.zeros(n)) for n in generator.integers(5, 200, 300)]
    groups = passes(texts, 400)
    assert sum(map(len, groups)) == len(texts)
    assert all(len(group) == 1 or len(group) * max(len(t.tokens) for t in group) <= 400 for group in groups)
    order = steps(texts, 16, 0, 1)
    assert sorted(id(text) for step in order for text in step) == sorted(map(id, texts))
    padded = sum(len(step) * max(len(t.tokens) for t in step) for step in order)
    assert padded < 1.25 * sum(len(t.tokens) for t in texts)


# -- going on ---------------------------------------------------------------------------------------------------


def test_a_run_killed_in_the_middle_ends_in_the_same_bytes(
    pair: SimpleNamespace, tuned: tune.Tuned, tmp_path: Path
) -> None:
    script = (
        "import sys; from colm_cpp import tune; from dataclasses import replace\n"
        f"options = tune.TuneOptions(**{ {name: getattr(QUICK, name) for name in QUICK.__slots__}!r})\n"
        f"tune.tune({str(pair.base)!r}, [{str(pair.scores)!r}], {str(tmp_path)!r}, options,\n"
        "    on_progress=lambda p: print(p.step, flush=True))\n"
    )
    child = subprocess.Popen([sys.executable, "-W", "ignore", "-c", script], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for line in child.stdout:
        if int(line) >= 4:
            break
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert (tmp_path / "checkpoint.pt").exists()
    assert not (tmp_path / "adapter.gguf").exists()
    seen: list[int] = []
    again = tune.tune(pair.base, [pair.scores], tmp_path, QUICK, on_progress=lambda p: seen.append(p.step))
    assert seen[0] > 1  # not from the start
    assert again.adapter.read_bytes() == tuned.adapter.read_bytes()
    assert again.head is not None
    assert tuned.head is not None
    assert again.head.read_bytes() == tuned.head.read_bytes()
    assert again.history == tuned.history


def test_a_checkpoint_of_another_training_is_refused(pair: SimpleNamespace, tuned: tune.Tuned) -> None:
    with pytest.raises(CorpusError, match="rank"):
        tune.tune(pair.base, [pair.scores], tuned.adapter.parent, replace(QUICK, rank=2))


def test_a_damaged_checkpoint_is_reported(pair: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"PK\3\4 not a checkpoint")
    with pytest.raises(CorpusError, match="checkpoint"):
        tune.tune(pair.base, [pair.scores], tmp_path, QUICK)


def test_the_command_trains_and_reports(pair: SimpleNamespace, tmp_path: Path) -> None:
    started = time.monotonic()
    done = CliRunner().invoke(
        main,
        f"tune {pair.scores} --base {pair.base} --out {tmp_path} --json -q --epochs 1 --rank 2 --learning-rate 0.01 "
        "--dtype float32",
    )
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert os.path.exists(report["adapter"])
    assert report["best"]["base_nll"] < report["before"]["base_nll"]
    assert report["options"]["rank"] == 2
    assert time.monotonic() - started < 120

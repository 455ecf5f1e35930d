"""Tuning with less memory, with other number types, on several folders, and what --merge writes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from commands import succeed
from tuned_pairs import QUICK, held_out_logprobs, scored

from colm_cpp import tune
from colm_cpp.errors import CorpusError
from colm_cpp.learn import Scores
from colm_cpp.tune._libraries import libraries
from colm_cpp.tune.base import load_base, with_adapter
from colm_cpp.tune.data import TuneText, read_texts
from colm_cpp.tune.loop import Loop

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning"),
]

ONCE = replace(QUICK, epochs=1)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    return scored(tmp_path_factory.mktemp("paths"))


@pytest.fixture(scope="module")
def plain(pair: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> tune.Tuned:
    return tune.tune(pair.base, [pair.scores], tmp_path_factory.mktemp("plain"), ONCE)


def test_checkpointing_computes_the_same(pair: SimpleNamespace, plain: tune.Tuned, tmp_path: Path) -> None:
    tuned = tune.tune(pair.base, [pair.scores], tmp_path, replace(ONCE, checkpointing=True))
    assert [m.loss for m in tuned.history] == pytest.approx([m.loss for m in plain.history], rel=1e-4)


def test_checkpointing_keeps_fewer_activations(pair: SimpleNamespace) -> None:
    """Bytes that the forward pass leaves for the backward pass."""
    found = libraries()
    torch = found.torch
    kept = {}
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = with_adapter(found, load_base(found, pair.base, torch.float32), 4, 8.0, checkpointing=checkpointing)
        model.train()
        sizes: list[int] = []

        def pack(tensor: Any, sizes: list[int] = sizes) -> Any:
            sizes.append(tensor.numel() * tensor.element_size())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model.get_base_model().model(input_ids=torch.ones((4, 64), dtype=torch.long), use_cache=False)
        kept[checkpointing] = sum(sizes)
    assert kept[True] < 0.5 * kept[False]


def test_bfloat16_is_for_the_frozen_weights_alone(pair: SimpleNamespace, plain: tune.Tuned, tmp_path: Path) -> None:
    seen: dict[str, set[str]] = {}
    loop = Loop.__init__

    def look(self: Loop, torch: Any, model: Any, *args: Any, **kwargs: Any) -> None:
        for frozen in (True, False):
            chosen = [p for p in model.parameters() if p.requires_grad != frozen]
            seen["frozen" if frozen else "trained"] = {str(p.dtype) for p in chosen}
        loop(self, torch, model, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "__init__", look)
        tuned = tune.tune(pair.base, [pair.scores], tmp_path, replace(ONCE, dtype="bfloat16"))
    assert seen == {"frozen": {"torch.bfloat16"}, "trained": {"torch.float32"}}
    assert tuned.dtype == "bfloat16"
    assert tuned.best.base_nll == pytest.approx(plain.best.base_nll, abs=0.1)
    assert tuned.best.base_nll < 0.9 * tuned.before.base_nll


def test_several_folders_are_read_in_turn(pair: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = scored(tmp_path / "other")
    both = [Scores(pair.scores), Scores(other.scores)]
    training, held_out, _ = read_texts(both, held_out=0.1, seed=0)
    alone = [read_texts([folder], held_out=0.1, seed=0) for folder in both]
    assert list(map(key, training)) == [key(text) for texts, *_ in alone for text in texts]
    assert list(map(key, held_out)) == [key(text) for _, texts, _ in alone for text in texts]
    tuned = tune.tune(pair.base, [pair.scores, other.scores], tmp_path / "out", ONCE)
    assert tuned.n_texts == (56, 8)
    with pytest.raises(CorpusError, match="training with scores"):  # one folder fewer is another training
        tune.tune(pair.base, [pair.scores], tmp_path / "out", ONCE)


def key(text: TuneText) -> tuple[Any, ...]:
    """What tells one text from another."""
    return (text.tokens.tolist(), text.assistant_logprob.tolist())


def test_tune_merges_what_it_trained(pair: SimpleNamespace, plain: tune.Tuned, tmp_path: Path) -> None:
    command = f"tune {pair.scores} --base {pair.base} --out {plain.adapter.parent} --json -q --epochs 1 --rank 4"
    command += " --learning-rate 0.01 --dtype float32 --batch-texts 8 --merge f32"
    done = succeed(*command.split())  # the training is done; it is not done again
    report = json.loads(done.stdout)
    assert report["merged"] == str(plain.adapter.parent / "merged-f32.gguf")
    merged = SimpleNamespace(base=report["merged"], assistant=pair.assistant, texts=pair.texts)
    nll = -float(held_out_logprobs(merged, None, tmp_path / "scores").mean())
    assert nll == pytest.approx(plain.best.base_nll, abs=2e-3)  # the adapter's file is float16
    assert nll < 0.9 * plain.before.base_nll

"""Tuning's loss, its gradient, and the passes that it is computed in."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tuned_pairs

from colm_cpp import learn
from colm_cpp.learn.objective import MarginalLoss, RegretLoss
from colm_cpp.tune.data import read_texts

pair = tuned_pairs.pair


pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning"),
]


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

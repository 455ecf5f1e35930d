"""The training loop: steps, measurements, checkpoints. What it did before a kill, it does not do again."""

from __future__ import annotations

import ctypes
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import CorpusError, GenerationError
from ..files.folder import refuse_other_facts
from ..files.output_file import OutputFile
from ..options.tuning import TuneOptions
from .data import TuneText, passes, steps
from .loss import Batch, losses, read

__all__ = ["HeldOut", "Loop", "Progress"]

CHECKPOINT = "checkpoint.pt"
_SECONDS = 120.0  # between checkpoints


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Worth on the held-out texts, in nats per token.

    Attributes:
        step: of the optimizer, at which it was measured.
        loss: what the objective minimises.
        base_nll: of the base with the adapter.
        assistant_nll: of the assistant.
        joint_nll: of the mixture by the head.
        oracle_nll: of the better one at each token.
        mean_defer_prob: mean of sigmoid(z).
    """

    step: int
    loss: float
    base_nll: float
    assistant_nll: float
    joint_nll: float
    oracle_nll: float
    mean_defer_prob: float


@dataclass(frozen=True, slots=True)
class Progress:
    """How far training is.

    Attributes:
        step: steps done.
        n_steps: all of them.
        loss: of this step's texts, in nats per token.
        tokens_per_s: tokens read a second in this process, forth and back.
        held_out: the measurement after this step; None where there was none.
    """

    step: int
    n_steps: int
    loss: float
    tokens_per_s: float
    held_out: HeldOut | None


@dataclass
class _State:
    step: int = 0
    history: list[HeldOut] = field(default_factory=list)
    best: HeldOut | None = None


def _return_free_memory() -> None:
    """Gives the memory of the last pass back to the system.

    glibc keeps it. The next pass has other sizes, so that its tensors do not fit into the gaps, and the process grows:
    with a 0.5B base from 4 GB to 9 GB in an hour.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


class Loop:
    """Trains the LoRA matrices of a peft model and a head.

    Attributes:
        history: every measurement on the held-out texts.
        best: the one with the least loss, whose weights :meth:`run` leaves in model and head.
    """

    def __init__(
        self,
        torch: Any,
        model: Any,
        head: Any,
        training: Sequence[TuneText],
        held_out: Sequence[TuneText],
        options: TuneOptions,
        *,
        features: Sequence[str],
        top_k: int,
        facts: dict[str, Any],
        folder: Path,
    ) -> None:
        """Args:
        torch: the library.
        model: see :func:`.base.with_adapter`.
        head: a torch module, ``[n, n_embd + n_features]`` -> ``[n, 1]``, in float32.
        training: texts.
        held_out: likewise.
        options: see there.
        features: names of the head's features.
        top_k: of the feature top_k_logprobs.
        facts: what the training depends on; a checkpoint with others is refused.
        folder: where the checkpoint lies.

        Raises:
            CorpusError: the folder has a checkpoint of another training.
        """
        self._torch, self._model, self._head = torch, model, head
        self._training, self._held_out, self._options = training, held_out, options
        self._features, self._top_k = features, top_k
        self._device = next(model.parameters()).device
        self._adapter = [p for p in model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(
            [
                {"params": self._adapter, "lr": options.learning_rate, "weight_decay": options.weight_decay},
                {"params": list(head.parameters()), "lr": options.head_learning_rate, "weight_decay": 0.0},
            ],
            betas=(0.9, 0.999),
        )
        self._rates = [group["lr"] for group in self._optimizer.param_groups]
        self.steps_per_epoch = len(steps(training, options.batch_texts, options.seed, 0))
        self.n_steps = self.steps_per_epoch * options.epochs
        # Measured so often in each epoch, and at its end.
        self._every = max(1, math.ceil(self.steps_per_epoch / options.evaluations))
        self._state = _State()
        self._best_weights = self._weights()
        self._file = folder / CHECKPOINT
        self._facts = facts
        if self._file.exists():
            self._restore()

    @property
    def history(self) -> list[HeldOut]:
        """Every measurement."""
        return self._state.history

    @property
    def best(self) -> HeldOut:
        """The measurement with the least loss."""
        assert self._state.best is not None
        return self._state.best

    def run(self, on_progress: Callable[[Progress], None] | None = None) -> None:
        """Trains to the end, or until the held-out loss no longer falls; then takes back the best weights.

        Raises:
            GenerationError: the loss is not finite.
            OSError: the disk is full.
        """
        state, options = self._state, self._options
        if state.best is None:
            self._measure()
        started, n_read = time.monotonic(), 0
        saved = time.monotonic()
        order: list[list[TuneText]] = []
        epoch = -1
        while state.step < self.n_steps and not self._tired():
            if state.step // self.steps_per_epoch != epoch:
                epoch = state.step // self.steps_per_epoch
                order = steps(self._training, options.batch_texts, options.seed, epoch)
            within = state.step % self.steps_per_epoch
            loss = self._step(order[within])
            n_read += sum(len(text.tokens) for text in order[within])
            state.step += 1
            measured = None
            if (within + 1) % self._every == 0 or within + 1 == self.steps_per_epoch:
                measured = self._measure()
            if measured is not None or time.monotonic() - saved > _SECONDS:
                self._save()
                saved = time.monotonic()
            if on_progress is not None:
                seconds = time.monotonic() - started
                on_progress(Progress(state.step, self.n_steps, loss, n_read / max(seconds, 1e-9), measured))
        self._load(self._best_weights)

    def _tired(self) -> bool:
        best = self._state.best
        assert best is not None
        worse = sum(1 for measured in self._state.history if measured.step > best.step)
        return worse >= self._options.patience

    def _rate(self, step: int) -> float:
        """Share of the highest learning rate: a linear rise, then a linear fall to 0."""
        rise = max(1, round(self._options.warm_up * self.n_steps))
        return (step + 1) / rise if step < rise else (self.n_steps - step) / max(1, self.n_steps - rise)

    def _step(self, texts: Sequence[TuneText]) -> float:
        torch, options = self._torch, self._options
        n = sum(len(text.positions) for text in texts)
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * self._rate(self._state.step)
        self._model.train()
        self._optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for group in passes(texts, options.pass_tokens):
            batch = Batch(torch, group, self._device)
            has_head = options.objective != "sft"  # else its features need not be computed
            outputs = read(torch, self._model, batch, self._features if has_head else (), self._top_k)
            z = self._z(outputs) if has_head else None
            loss = losses(torch, options.objective, outputs, z, batch, options.cost).sum() / n
            loss.backward()
            total += float(loss.detach())
            _return_free_memory()
        if not math.isfinite(total):
            raise GenerationError(
                f"the loss is {total} at step {self._state.step}; give a learning rate below {options.learning_rate}"
            )
        torch.nn.utils.clip_grad_norm_(
            [p for group in self._optimizer.param_groups for p in group["params"]], options.max_grad_norm
        )
        self._optimizer.step()
        return total

    def _z(self, outputs: Any) -> Any:
        return self._head(self._torch.cat([outputs.hidden, outputs.features], 1))[:, 0]

    def _measure(self) -> HeldOut:
        torch, state = self._torch, self._state
        sums = dict.fromkeys(("loss", "base", "assistant", "joint", "oracle", "p"), 0.0)
        n = 0
        self._model.eval()
        with torch.no_grad():
            for group in passes(self._held_out, self._options.pass_tokens):
                batch = Batch(torch, group, self._device)
                outputs = read(torch, self._model, batch, self._features, self._top_k)
                z = self._z(outputs)
                sums["loss"] += float(
                    losses(torch, self._options.objective, outputs, z, batch, self._options.cost).sum()
                )
                sums["base"] -= float(outputs.logprob.sum())
                sums["assistant"] -= float(batch.assistant_logprob.sum())
                sums["joint"] += float(losses(torch, "marginal", outputs, z, batch, 0.0).sum())
                sums["oracle"] -= float(torch.maximum(outputs.logprob, batch.assistant_logprob).sum())
                sums["p"] += float(torch.sigmoid(z).sum())
                n += batch.n
        mean = {name: value / n for name, value in sums.items()}
        measured = HeldOut(
            state.step, mean["loss"], mean["base"], mean["assistant"], mean["joint"], mean["oracle"], mean["p"]
        )
        state.history.append(measured)
        if state.best is None or measured.loss < state.best.loss:
            state.best = measured
            self._best_weights = self._weights()
        return measured

    def _weights(self) -> list[Any]:
        return [p.detach().clone() for p in [*self._adapter, *self._head.parameters()]]

    def _load(self, weights: Sequence[Any]) -> None:
        with self._torch.no_grad():
            for parameter, value in zip([*self._adapter, *self._head.parameters()], weights, strict=True):
                parameter.copy_(value)

    def _save(self) -> None:
        state = self._state
        value = {
            "facts": self._facts,
            "step": state.step,
            "history": [asdict(measured) for measured in state.history],
            "best": None if state.best is None else asdict(state.best),
            "best_weights": self._best_weights,
            "weights": self._weights(),
            "optimizer": self._optimizer.state_dict(),
        }
        with OutputFile(self._file) as file:
            self._torch.save(value, file)

    def _restore(self) -> None:
        try:
            value = self._torch.load(self._file, map_location=self._device, weights_only=True)
            facts = value["facts"]
        except Exception as error:  # torch raises many kinds for a damaged file
            raise CorpusError(f"{self._file} is damaged ({error}); remove it to train from the start") from error
        refuse_other_facts(self._file.parent, "a training", facts, self._facts)
        self._load(value["weights"])
        self._optimizer.load_state_dict(value["optimizer"])
        self._best_weights = value["best_weights"]
        best = value["best"]
        self._state = _State(
            value["step"],
            [HeldOut(**measured) for measured in value["history"]],
            None if best is None else HeldOut(**best),
        )

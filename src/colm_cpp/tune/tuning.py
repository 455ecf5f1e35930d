"""From scored texts to an adapter for the base and a head that belongs to it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..corpus.documents import Corpus
from ..engine.model_files import metadata, quantised
from ..errors import ColmError, CorpusError, OptionError
from ..files.folder import lock_folder
from ..files.output_file import write_file
from ..heads.adapters import adapter_digest
from ..heads.head import Head
from ..learn.parts import Split
from ..learn.scores import Scores
from ..learn.training import train as fit_head
from ..options.training import TrainingOptions
from ..options.tuning import TuneOptions
from ..sources.hub import resolve
from ..sources.pair_file import Preset
from ._libraries import libraries
from .adapter_file import adapter_tensors, read_adapter, write_adapter
from .base import LIMIT_FLOAT, LIMIT_QUANTISED, Agreement, agreement, load_base, require_agreement, with_adapter
from .data import read_texts, texts_of
from .loop import HeldOut, Loop, Progress
from .pair_folder import models_of, write_card, write_pair
from .plain_texts import plain_texts
from .rescoring import rescore

__all__ = ["Tuned", "tune"]

PathLike = str | os.PathLike[str]
TOP_K = 5


@dataclass(frozen=True)
class Tuned:
    """What tuning came to.

    Attributes:
        adapter: the adapter's file.
        head: the head's file; None for ``objective="sft"`` without ``head_share``.
        pair: ``pair.toml``, which loads base, adapter, assistant and head.
        card: ``card.md``, which says how they were made.
        agreement: of the torch model and llama.cpp's, before training.
        before: worth on the held-out texts before the first step.
        best: worth with the weights that were kept.
        history: every measurement.
        n_texts: texts that the adapter was trained on, and held-out texts.
        dtype: of the frozen weights.
        notes: warnings for the user.
    """

    adapter: Path
    head: Path | None
    pair: Path
    card: Path
    agreement: Agreement
    before: HeldOut
    best: HeldOut
    history: tuple[HeldOut, ...]
    n_texts: tuple[int, int]
    dtype: str
    notes: tuple[str, ...] = ()


def tune(
    base: PathLike | Preset,
    scores: Sequence[PathLike],
    out: PathLike,
    options: TuneOptions,
    *,
    assistant: PathLike | None = None,
    adapter: PathLike | None = None,
    texts: Corpus | None = None,
    command: str | None = None,
    on_agreement: Callable[[Agreement], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_rescored: Callable[[float], None] | None = None,
) -> Tuned:
    """Trains a LoRA adapter of the base, and a head with it. A run that was killed goes on when it is called again.

    Then the tuned base reads the texts that the adapter has not seen. These scores stay in ``out/scores``, for ``colm
    train``. A head is fitted to them; it replaces the one that was trained with the adapter if the held-out texts say
    that it is better.

    Args:
        base: the base that was scored: its GGUF file, its place on the hub, or a pair, whose base it is.
        scores: folders made by ``colm score`` with the plain base.
        out: the folder for ``adapter.gguf``, ``head.gguf``, ``pair.toml``, ``card.md``, ``tuning.json`` and the
            checkpoint.
        options: see :class:`TuneOptions`.
        assistant: the assistant that was scored, for ``pair.toml``; it is not loaded. None: that of the pair, or else
            the file of its name beside the base.
        adapter: start from this adapter, a file or a folder made by ``colm tune``. Rank and alpha are then its own.
        texts: more texts for the adapter, with ``objective="sft"``; see :func:`colm_cpp.learn.select`. No model has to
            score them. Those that ``scores`` hold are left out.
        command: the command that is being run, for ``card.md``.
        on_agreement: called once the torch model was compared with llama.cpp's.
        on_progress: called after each step.
        on_rescored: called with the share of the texts that the tuned base has read once more.

    Raises:
        MissingDependency: torch, transformers, peft or SciPy is not installed.
        CorpusError: scores of another base or assistant, with an adapter, or without their tokens; or ``out`` holds
            another training, or is being written to.
        LoadError: the base's architecture is not supported, torch computes something else than llama.cpp, or the
            adapter to start from is of another base.
        GenerationError: the loss became infinite.
        OptionError: ``texts`` with an objective that needs their scores.
    """
    if texts is not None and options.objective != "sft":
        raise OptionError(
            f"objective {options.objective!r} needs scores of all texts; score these too, or give objective 'sft'"
        )
    found = libraries()
    torch = found.torch
    folders = [Scores(folder) for folder in scores]
    if not folders:
        raise CorpusError("there are no scores to tune on; name a folder made by colm score")
    for folder in folders:
        folder.require_one("colm tune")
    pair: Preset | None = None
    if isinstance(base, Preset):
        pair = base
        base = pair.base
        assistant = pair.assistant if assistant is None else assistant
    path = Path(out)
    models = models_of(pair, base, assistant, folders, path)
    base = resolve(base)
    first = None if adapter is None else read_adapter(adapter, models.base["digest"])
    if first is not None:
        options = replace(options, rank=first.rank, alpha=first.alpha)
    training, held_out, unseen = read_texts(
        folders,
        held_out=options.held_out,
        seed=options.seed,
        head_share=options.head_share,
        label=options.label,
    )
    if texts is not None:
        scored = [text for folder in folders for text in texts_of(folder)]
        training += plain_texts(base, texts, folders[0], scored)
    start = _first_head(folders, options)
    path.mkdir(parents=True, exist_ok=True)
    with lock_folder(path):
        model = load_base(found, base, torch.float32)
        header = metadata(base)
        limit = LIMIT_QUANTISED if quantised(header) else LIMIT_FLOAT
        compared = agreement(found, model, held_out, limit)
        require_agreement(compared, base)
        if on_agreement is not None:
            on_agreement(compared)
        dtype = _dtype(torch, options.dtype)
        model = model.to(device="cuda" if torch.cuda.is_available() else "cpu", dtype=dtype)
        torch.manual_seed(options.seed)
        model = with_adapter(found, model, options.rank, options.alpha, checkpointing=options.checkpointing)
        if first is not None:
            first.load_into(torch, model, header["general.architecture"])
        head = _to_torch(torch, start).to(next(model.parameters()).device)
        loop = Loop(
            torch,
            model,
            head,
            training,
            held_out,
            options,
            features=start.features,
            top_k=start.top_k,
            facts={
                "base": models.base,
                "scores": [_digest(folder) for folder in folders],
                "more texts": None if texts is None else dict(texts.facts),
                "texts": [len(training), len(held_out)],
                "dtype": str(dtype),
                "adapter": None if first is None else adapter_digest(first.path),
                **asdict(options),
            },
            folder=path,
        )
        loop.run(on_progress)
        file = path / "adapter.gguf"
        write_adapter(
            file,
            adapter_tensors(model),
            architecture=header["general.architecture"],
            config=model.config,
            alpha=options.alpha,
            base_digest=models.base["digest"],
        )
        adapters = ((adapter_digest(file), 1.0),)
        rescored = []
        for i, folder in enumerate(folders if options.head_share else ()):

            def report(share: float, i: int = i) -> None:
                if on_rescored is not None:
                    on_rescored((i + share) / len(folders))

            place = path / "scores" / f"{i + 1}-{folder.path.resolve().name}"
            rescored.append(
                rescore(
                    torch,
                    model,
                    folder,
                    unseen[i],
                    place,
                    adapters,
                    pass_tokens=options.pass_tokens,
                    on_progress=report,
                )
            )
        best = loop.best
        made = None if options.objective == "sft" else _from_torch(start, head)
        if rescored and any(len(of.split.training) for of in unseen) and options.label != "continuation":
            made, best = _better(made, best, rescored, [of.split for of in unseen], options)
        facts = {
            "options": asdict(options),
            "agreement": asdict(compared),
            "before": asdict(loop.history[0]),
            "best": asdict(best),
            "history": [asdict(measured) for measured in loop.history],
            "texts": (len(training), len(held_out)),
            "dtype": str(dtype).removeprefix("torch."),
        }
        head_file = None
        if made is not None:
            head_file = path / "head.gguf"
            made = replace(made, base_adapters=adapters, training=json.dumps(facts, sort_keys=True))
            _with_table_of(head_file, made).save(head_file)
        write_file(path / "tuning.json", (json.dumps(facts, indent=2, sort_keys=True) + "\n").encode())
        n_texts = len(training), len(held_out)
        card = write_card(
            path,
            models,
            folders,
            command=command,
            options=asdict(options),
            n_texts=n_texts,
            adapter=file,
            head=head_file,
            before=loop.history[0],
            best=best,
        )
        systems = {folder.meta.get("system") for folder in folders}
        notes = []
        if len(systems) > 1:
            notes.append(
                "the scores have different system messages, so pair.toml has none; write the one that you want"
            )
        if models.missing is not None:
            notes.append(
                f"pair.toml names the assistant {models.missing}, but the file is not in {path}; put it there, write "
                "its path into pair.toml, or give --assistant (assistant=)"
            )
        system = systems.pop() if len(systems) == 1 else None
        return Tuned(
            adapter=file,
            head=head_file,
            pair=write_pair(path, models, head=head_file, n_texts=n_texts[0], system=system),
            card=card,
            agreement=compared,
            before=loop.history[0],
            best=best,
            history=tuple(loop.history),
            n_texts=n_texts,
            dtype=str(facts["dtype"]),
            notes=tuple(notes),
        )


def _digest(folder: Scores) -> list[Any]:
    """What names a folder's content."""
    return [folder.meta.get("corpus"), folder.progress.n_texts, folder.progress.n_tokens]


def _dtype(torch: Any, name: str) -> Any:
    if name != "auto":
        return getattr(torch, name)
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    # Without instructions for it, a CPU computes bfloat16 more slowly than float32.
    capabilities = torch.backends.cpu.get_cpu_capability()
    fast = capabilities.startswith(("AVX512", "AMX")) and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def _first_head(folders: Sequence[Scores], options: TuneOptions) -> Head:
    """The head fitted to the weak labels, or where these are all the same, one that hardly ever defers."""
    fitting = TrainingOptions(
        objective="weak",
        label=options.label,
        features=options.features,
        top_k=TOP_K,
        held_out=options.held_out,
        seed=options.seed,
    )
    try:
        return fit_head(folders, fitting).head
    except CorpusError:
        meta = folders[0].meta
        names = fitting.feature_names()
        width = folders[0].n_embd + sum(TOP_K if name == "top_k_logprobs" else 1 for name in names)
        return Head(
            weights=(np.zeros((1, width), np.float32),),
            biases=(np.full(1, -2.0, np.float32),),
            n_embd=folders[0].n_embd,
            kind="linear",
            features=names,
            top_k=TOP_K if "top_k_logprobs" in names else 0,
            base_name=meta["base"] or None,
            assistant_name=meta["assistant"] or None,
            vocab_fingerprint=meta["vocab_fingerprint"],
        )


def _to_torch(torch: Any, head: Head) -> Any:
    weight, bias = head.weights[0], head.biases[0]
    module = torch.nn.Linear(weight.shape[1], 1)
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(weight.copy()))
        module.bias.copy_(torch.from_numpy(bias.copy()))
    return module


def _from_torch(start: Head, head: Any) -> Head:
    return replace(start, weights=(head.weight.detach().cpu().numpy(),), biases=(head.bias.detach().cpu().numpy(),))


def _better(
    trained: Head | None, measured: HeldOut, folders: Sequence[Scores], splits: Sequence[Split], options: TuneOptions
) -> tuple[Head, HeldOut]:
    """The head that was trained with the adapter, if any, or one fitted to what the base is now; and its worth.

    The likelihood decides. Regret is measured only by the fit itself, so the fitted head is taken. Continuations start
    from what the plain base would write, so that no head is fitted with that label.
    """
    fitting = TrainingOptions(
        objective="regret" if options.objective == "regret" else "marginal",
        label=options.label,
        cost=options.cost,
        features=options.features,
        top_k=TOP_K,
        seed=options.seed,
    )
    fitted = fit_head(folders, fitting, splits=splits)
    found = fitted.held_out
    price = options.cost * (found.mean_defer_prob - measured.mean_defer_prob)
    if trained is not None and options.objective == "marginal" and found.joint_nll + price >= measured.joint_nll:
        return trained, measured
    return fitted.head, replace(measured, joint_nll=found.joint_nll, mean_defer_prob=found.mean_defer_prob)


def _with_table_of(file: Path, made: Head) -> Head:
    """``made``, with the calibration table of the same head in ``file``: tuning again does not lose it."""
    try:
        before = Head.load(file)
    except ColmError:  # there is none, or it is damaged and will be replaced
        return made
    weights = [[array.tobytes() for array in head.weights + head.biases] for head in (before, made)]
    if weights[0] != weights[1] or before.base_adapters != made.base_adapters:
        return made
    names = ("default_threshold", "rates", "thresholds", "calibration")
    return replace(made, **{name: getattr(before, name) for name in names})

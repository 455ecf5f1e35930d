"""Fitting a head to scored texts, with metrics on held-out texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from .._shown import shown
from ..errors import CorpusError, OptionError
from ..extras import require
from ..heads.head import Head
from ..options import ASSISTANT
from ..options.training import TrainingOptions
from ..sources.identity import base_adapters
from .choice import LABELS_OF_SEVERAL
from .choice_report import ChoiceReport, choice_report, freed_bytes
from .fitting import Fit, LinearModel, MlpModel, Model, deferral_logits, fit
from .forks import Continuations
from .metrics import Metrics, doubts, measure
from .objective import Loss, RegretLoss
from .parts import Part, Split, input_bytes, part_of, some, text_split
from .scores import Scores

__all__ = ["Segments", "Trained", "train"]

FEW_TOKENS = 1000


@dataclass(frozen=True)
class Trained:
    """A fitted head.

    Attributes:
        head: the head, which holds its metrics.
        held_out: metrics on the held-out texts.
        by_folder: held-out metrics for each folder of scores, by its name, or by its path if two names are equal.
        training: metrics on the texts that the head was fitted to.
        weak_fit: the fit to the labels; None if it was not needed or possible.
        main_fit: the fit to the objective, which follows; None for ``objective="weak"``.
        experts: whom a head for several experts names on the held-out texts; None for one expert.
        segments: what the rows are where the vocabularies are unlike; None where they are tokens.
        notes: warnings for the user, such as too few tokens, or a head that is no better than plain confidence. With
            ``objective="marginal"`` label a and the joint NLL decide this, otherwise the tokens that differ.
    """

    head: Head
    held_out: Metrics
    by_folder: dict[str, Metrics]
    training: Metrics
    weak_fit: Fit | None
    main_fit: Fit | None
    notes: tuple[str, ...]
    experts: ChoiceReport | None = None
    segments: Segments | None = None


@dataclass(frozen=True, slots=True)
class Segments:
    """Texts of models with unlike vocabularies: metrics are for each segment between two boundaries that all share.

    Attributes:
        n_segments: of the held-out texts.
        n_bytes: of their text.
        base_nll: NLL of the base alone in nats per byte.
        assistant_nll: of the assistant, or of the expert that the head names.
        joint_nll: of the head's mixture.
        oracle_nll: of the best model at each segment.
    """

    n_segments: int
    n_bytes: int
    base_nll: float
    assistant_nll: float
    joint_nll: float
    oracle_nll: float

    @classmethod
    def of(cls, part: Part, metrics: Metrics) -> Segments | None:
        """Of a part with its metrics; None where its rows are tokens."""
        if "n_bytes" not in part.columns:
            return None
        n, n_bytes = metrics.n_tokens, int(part.columns["n_bytes"].sum())
        losses = (metrics.base_nll, metrics.assistant_nll, metrics.joint_nll, metrics.oracle_nll)
        return cls(n, n_bytes, *(loss * n / max(n_bytes, 1) for loss in losses))


def train(
    folders: Sequence[Scores],
    options: TrainingOptions,
    *,
    name: str | None = None,
    splits: Sequence[Split] | None = None,
    on_iteration: Callable[[str, int, float, float], None] | None = None,
) -> Trained:
    """Fits a head.

    Args:
        folders: scored texts of one pair.
        options: see :class:`TrainingOptions`.
        name: the head's name, for display.
        splits: for each folder, which texts the head is fitted to and which are held out. None: by :func:`text_split`.
        on_iteration: called with what is fitted, iteration, training loss and held-out loss.

    Raises:
        CorpusError: the folders are of different pairs, a value is not finite, there are too few texts to hold some
            out, or all labels are equal although the objective needs both.
        OptionError: the folders are of several experts and the objective or the label is one that only an assistant
            has; or a price is for an expert that is not there.
        MissingDependency: SciPy is not installed.
    """
    require("scipy.optimize", "the fit of a head")  # before minutes of reading
    _check_folders(folders)
    experts = folders[0].experts
    _check_options(options, experts)
    costs = options.costs(experts)
    notes: list[str] = []
    if folders[0].meta.get("base_lora") and base_adapters(folders[0].meta) is None:
        notes.append(
            f"{folders[0].path} does not say which adapters the base had, because an earlier version made it; the head "
            "will not be compared with the adapters of the base"
        )
    continued = _continuations(folders, required=options.label == "continuation")
    if splits is None:
        splits = [text_split(folder, options.held_out, options.seed) for folder in folders]
    fits = options.memory_limit / input_bytes(folders, options)  # above 1: everything can be in memory
    training = part_of(folders, [split.training for split in splits], options, continued, in_memory=fits >= 1)
    held_out = part_of(folders, [split.held_out for split in splits], options, continued, in_memory=fits >= 1)
    # Of more than fits, some texts are kept in memory for what can do with them: they end the fits, and the weak
    # labels, where they are only a place to start from, are fitted to them. A pass from disk takes ten times as long.
    stopping = held_out
    starting = training
    if fits < 1:
        stopping = part_of(folders, [some(split.held_out, 0.5 * fits, split) for split in splits], options, continued)
        if options.objective != "weak":
            starting = part_of(
                folders, [some(split.training, 0.5 * fits, split) for split in splits], options, continued
            )
    own = [folder.path.name for folder in folders if "head" in (folder.meta.get("respond") or {})]
    if own and (options.objective == "marginal" or options.label in ("a", "b")):
        what = "objective marginal" if options.objective == "marginal" else f"label {options.label}"
        notes.append(
            f"{what} takes the tokens of the texts as right, but the pair itself wrote those of {', '.join(own)}; use "
            "objective weak or regret with label differ or continuation, which ask the assistant"
        )
    if training.inputs.n < FEW_TOKENS:
        notes.append(
            f"there are {training.inputs.n} training {'segments' if folders[0].unlike else 'tokens'}; with fewer than "
            f"{FEW_TOKENS} a head learns little but noise"
        )
    mean, scale = training.inputs.moments()
    for inputs in {id(part.inputs): part.inputs for part in (training, held_out, stopping, starting)}.values():
        inputs.standardise(mean, scale)

    model: Model
    n_in = training.inputs.n_in
    if options.kind == "mlp":
        model = MlpModel(n_in, options.n_units, len(experts))
        parameters = model.start(np.random.default_rng(options.seed))
    else:
        model = LinearModel(n_in, len(experts))
        parameters = np.zeros(model.n_parameters)

    n_features = n_in - (folders[0].n_embd if options.use_hidden else 0)
    of_inputs = np.repeat([options.l2, options.feature_l2], [n_in - n_features, n_features])
    penalties = model.penalties(of_inputs)

    def reporter(what: str) -> Callable[[int, float, float], None]:
        return lambda *values: None if on_iteration is None else on_iteration(what, *values)

    def run(what: str, start: npt.NDArray[np.float64], part: Part, loss: Callable[[Part], Loss]) -> Fit:
        return fit(
            model,
            start,
            part.inputs,
            loss(part),
            stopping.inputs,
            loss(stopping),
            penalties=penalties,
            max_iterations=options.max_iterations,
            patience=options.patience,
            on_iteration=reporter(what),
        )

    weak_fit = main_fit = None
    labels = [np.unique(part.who(options.label)) for part in (starting, stopping)]
    if all(len(label) > 1 for label in labels):
        weak_fit = run("weak", parameters, starting, lambda part: part.weak(options.label))
        parameters = weak_fit.parameters
        notes += _unnamed(experts, labels[0], options)
    else:
        reason = f"label {options.label} is the same at every token of the training or of the held-out texts"
        if options.objective == "weak":
            raise CorpusError(f"{reason}, so there is nothing to learn; use more texts or another label")
        notes.append(f"{reason}: the fit starts without it")
    del starting  # its memory, where it has some of its own
    if options.objective == "marginal":
        main_fit = run("marginal", parameters, training, lambda part: part.marginal(costs))
        parameters = main_fit.parameters
    elif options.objective == "regret":
        main_fit = run("regret", parameters, training, lambda part: RegretLoss(part.regret_by(options.label), costs[0]))
        parameters = main_fit.parameters

    z = deferral_logits(model, parameters, held_out.inputs)
    metrics = measure(z, held_out, slice(None), held_out.n_texts)
    by_folder = {}
    names = [folder.path.name for folder in folders]
    for i, folder in enumerate(folders):
        at = np.flatnonzero(held_out.folder == i)
        title = names[i] if names.count(names[i]) == 1 else str(folder.path)
        by_folder[title] = measure(z[at], held_out, at, len(splits[i].held_out))
    fitted = measure(deferral_logits(model, parameters, training.inputs), training, slice(None), training.n_texts)
    report = choice_report(z, held_out, experts, freed_bytes(folders[0].meta)) if len(experts) > 1 else None
    alone = None if report is None else {name: model.nll for name, model in report.models.items()}
    notes += doubts(options.objective, metrics, options.label, alone)
    segments = Segments.of(held_out, metrics)
    head = _to_head(model, parameters, mean, scale, folders, options, name, metrics, by_folder, report, segments)
    return Trained(head, metrics, by_folder, fitted, weak_fit, main_fit, tuple(notes), report, segments)


def _check_options(options: TrainingOptions, experts: Sequence[str]) -> None:
    """Raises OptionError for what has no meaning where several experts know different things."""
    if len(experts) == 1:
        return
    if options.objective == "regret":
        raise OptionError(
            f"objective is 'regret', which takes the one assistant as right, and there are {len(experts)} experts; use "
            "'marginal' or 'weak', which take the texts as right"
        )
    if options.label not in LABELS_OF_SEVERAL:
        raise OptionError(
            f"label is {options.label!r}, which takes the one assistant as right, and there are {len(experts)} "
            "experts; use 'a' or 'b', which take the texts as right"
        )


def _unnamed(experts: Sequence[str], labelled: npt.NDArray[np.int64], options: TrainingOptions) -> list[str]:
    """A note about experts that no token is labelled with."""
    missing = [name for k, name in enumerate(experts, start=1) if k not in labelled]
    if not missing or len(experts) == 1:
        return []
    return [
        f"label {options.label} names no token of the training texts for {' or '.join(missing)}: use texts that need "
        "that expert, or leave it out"
    ]


def _check_folders(folders: Sequence[Scores]) -> None:
    if not folders:
        raise CorpusError("there are no scores to train on; name a folder made by colm score")
    first = folders[0]
    for folder in folders:
        for key in (
            "vocab_fingerprint",
            "n_embd",
            "base",
            "assistant",
            "base_model",
            "assistant_model",
            "base_lora",
            "assistant_lora",
            "base_adapters",
            "assistant_adapters",
            "experts",
            "expert_models",
            "expert_lora",
            "vocabularies",
        ):
            if (folder.meta.get(key) or None) != (first.meta.get(key) or None):
                raise CorpusError(
                    f"{folder.path} has {key} {shown(folder.meta.get(key))} and {first.path} has "
                    f"{shown(first.meta.get(key))}; train a head on scores of one pair"
                )
        wrong = folder.bad_values()
        if wrong is not None:
            raise CorpusError(f"{folder.path}: {wrong}; a model is damaged, or the scores are. Score the texts again")


def _continuations(folders: Sequence[Scores], *, required: bool) -> list[Continuations] | None:
    """The continuations of all folders; None where one has none, unless they are required."""
    if required:
        return [Continuations(folder) for folder in folders]
    found = [known for folder in folders if (known := Continuations.if_whole(folder)) is not None]
    return found if len(found) == len(folders) else None


def _to_head(
    model: Model,
    parameters: npt.NDArray[np.float64],
    mean: npt.NDArray[np.float64],
    scale: npt.NDArray[np.float64],
    folders: Sequence[Scores],
    options: TrainingOptions,
    name: str | None,
    metrics: Metrics,
    by_folder: dict[str, Metrics],
    report: ChoiceReport | None,
    segments: Segments | None,
) -> Head:
    weights, biases = model.layers(parameters, mean, scale)
    n_embd = folders[0].n_embd
    if not options.use_hidden:
        weights[0] = np.concatenate([np.zeros((len(weights[0]), n_embd)), weights[0]], axis=1)
    features = options.feature_names()
    meta = folders[0].meta
    facts = {
        "options": {key: value for key, value in asdict(options).items() if key != "memory_limit"},
        "held_out": asdict(metrics),
        "by_folder": {folder: asdict(value) for folder, value in by_folder.items()},
    }
    if report is not None:
        facts["experts"] = asdict(report)
    if segments is not None:
        facts["segments"] = asdict(segments)
    experts = folders[0].experts
    return Head(
        weights=tuple(layer.astype(np.float32) for layer in weights),
        biases=tuple(bias.astype(np.float32) for bias in biases),
        n_embd=n_embd,
        kind=options.kind,
        activation=MlpModel.activation if options.kind == "mlp" else "relu",
        features=features,
        top_k=options.top_k if "top_k_logprobs" in features else 0,
        name=name,
        base_name=meta["base"] or None,
        assistant_name=meta.get("assistant") or None,
        expert_names=() if experts == (ASSISTANT,) else experts,
        base_adapters=base_adapters(meta),
        vocab_fingerprint=meta["vocab_fingerprint"],
        training=json.dumps(facts, sort_keys=True),
    )

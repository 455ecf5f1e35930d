"""Fitting a head to scored texts, with metrics on held-out texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .._numbers import integer
from .._shown import shown
from ..errors import CorpusError, OptionError
from ..evaluate.statistics import roc_auc
from ..extras import require
from ..heads.head import FEATURES, Head
from ..sources.identity import base_adapters
from .fitting import Fit, LinearModel, MlpModel, Model, deferral_logits, fit
from .forks import Continuations
from .inputs import Inputs
from .objective import LABELS, Loss, MarginalLoss, RegretLoss, WeakLoss, make_label, sigmoid
from .parting import Parting, caught, finite, parting
from .scores import Scores

__all__ = ["FEATURE_SETS", "Metrics", "Trained", "TrainingOptions", "text_split", "train"]

FEATURE_SETS: dict[str, tuple[str, ...]] = {"none": (), "logits": ("log_odds", "entropy", "margin", "top_k_logprobs")}
FEW_TOKENS = 1000
MAX_REGRET = 10.0  # nats: beyond it a token is as wrong as can be


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """How a head is fitted.

    Attributes:
        kind: ``"linear"`` (theta of the paper) or ``"mlp"`` (one hidden layer of silu units).
        features: ``"none"``, ``"logits"`` (all features), or names of :data:`colm_cpp.heads.FEATURES`
            joined by commas. They are inputs beside the hidden state.
        top_k: how many log-probabilities ``top_k_logprobs`` stands for.
        use_hidden: False sets the weights of the hidden state to 0, for comparison.
        objective: ``"marginal"`` (the paper's, started from the weak labels), ``"weak"`` (the labels alone) or
            ``"regret"`` (the assistant's likelihood that is lost where the base writes); see :mod:`.objective`.
        label: the weak label: ``"a"``, ``"b"`` or ``"differ"``, see :func:`.objective.make_label`; or
            ``"continuation"``: the paths part (:class:`.forks.Continuations`), which also gives ``"regret"`` its cost.
        cost: price of a deferred token in nats, for ``"marginal"`` and ``"regret"``.
        l2: L2 penalty on the weights of the standardised hidden state.
        feature_l2: L2 penalty on the weights of the standardised features.
        n_units: width of the mlp.
        held_out: share of the texts that are held out, in (0, 1). They stop the fit and give the metrics.
        seed: seed of the choice of held-out texts and of the mlp's first weights.
        max_iterations: the most iterations of L-BFGS in each of the two fits.
        patience: iterations without a better held-out loss before a fit stops.
        memory_limit: the most bytes of the inputs in memory, as float32. Beyond it, hidden states are read from disk.
    """

    kind: str = "linear"
    features: str = "logits"
    top_k: int = 5
    use_hidden: bool = True
    objective: str = "marginal"
    label: str = "a"
    cost: float = 0.1
    l2: float = 0.3
    feature_l2: float = 1e-3
    n_units: int = 32
    held_out: float = 0.15
    seed: int = 0
    max_iterations: int = 200
    patience: int = 30
    memory_limit: int = 2**30

    def __post_init__(self) -> None:
        for name, known in (
            ("kind", ("linear", "mlp")),
            ("objective", ("marginal", "weak", "regret")),
            ("label", LABELS),
        ):
            if getattr(self, name) not in known:
                raise OptionError(f"{name} is {shown(getattr(self, name))}; it must be one of {', '.join(known)}")
        self.feature_names()
        for name, low, high in (("cost", 0.0, 1e300), ("l2", 0.0, 1e300), ("feature_l2", 0.0, 1e300)):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not low <= value <= high:  # also refuses NaN
                raise OptionError(f"{name} is {shown(value)}; it must be a finite number, 0 or more")
        if not isinstance(self.held_out, (int, float)) or not 0.0 < self.held_out < 1.0:
            raise OptionError(f"held_out is {shown(self.held_out)}; it must be between 0 and 1, a share of the texts")
        for name in ("max_iterations", "patience", "n_units", "top_k", "memory_limit"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**63:
                raise OptionError(f"{name} is {shown(value)}; it must be a whole number, 1 or more")
        integer("seed", self.seed, 0, 2**63 - 1)
        if not self.use_hidden and not self.feature_names():
            raise OptionError("use_hidden=False and features='none' leave the head without inputs; choose features")

    def feature_names(self) -> tuple[str, ...]:
        """``features`` as names."""
        if not isinstance(self.features, str):
            raise OptionError(f"features is {shown(self.features)}; it must be a text")
        if self.features in FEATURE_SETS:
            return FEATURE_SETS[self.features]
        names = tuple(name.strip() for name in self.features.split(",") if name.strip())
        for name in names:
            if name not in FEATURES:
                raise OptionError(
                    f"feature {shown(name)} is unknown; give none, logits, or any of {', '.join(FEATURES)}, joined "
                    "by commas"
                )
        if not names or len(set(names)) != len(names):
            raise OptionError(f"features is {shown(self.features)}; name each feature once")
        return names


@dataclass(frozen=True, slots=True)
class Metrics:
    """Metrics of a head on tokens. NLL is in nats per token.

    Attributes:
        n_texts: number of texts.
        n_tokens: number of their scored tokens.
        base_nll: NLL of the base alone.
        assistant_nll: NLL of the assistant alone.
        joint_nll: NLL of the head's mixture of both.
        oracle_nll: NLL of the better model at each token.
        mean_defer_prob: mean of sigmoid(z).
        auc_a: area under the ROC curve of z for label a; None if the label is the same everywhere.
        auc_differ: area under the ROC curve for "the models' likeliest tokens differ"; None in the same case.
        confidence_auc_a: ``auc_a`` of plain confidence, which defers where the base's top probability is low.
        confidence_auc_differ: ``auc_differ`` of plain confidence.
        differ_rate: share of the tokens at which the likeliest tokens differ.
        caught: deferral rate -> share of these differing tokens that defer, if the tokens with the largest z do.
        confidence_caught: ``caught`` of plain confidence.
        regret: mean loss of the assistant's likelihood if the base writes; see :class:`.objective.RegretLoss`.
        saved: deferral rate -> share of the regret that is avoided, if the tokens with the largest z are deferred.
        confidence_saved: ``saved`` of plain confidence.
        parting: the metrics of what follows; None where a folder has no continuations of all its texts.
    """

    n_texts: int
    n_tokens: int
    base_nll: float
    assistant_nll: float
    joint_nll: float
    oracle_nll: float
    mean_defer_prob: float
    auc_a: float | None
    auc_differ: float | None
    confidence_auc_a: float | None
    confidence_auc_differ: float | None
    differ_rate: float
    caught: dict[str, float]
    confidence_caught: dict[str, float]
    regret: float
    saved: dict[str, float]
    confidence_saved: dict[str, float]
    parting: Parting | None = None


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


@dataclass(frozen=True)
class _Part:
    """Training or held-out tokens of all folders."""

    inputs: Inputs
    columns: dict[str, npt.NDArray[Any]]
    folder: npt.NDArray[np.int32]
    n_texts: int

    def label(self, name: str) -> npt.NDArray[np.bool_]:
        """A weak label."""
        if name == "continuation":
            return self.columns["divergent"]
        return make_label(name, self.columns["token"], self.columns["base_top"], self.columns["assistant_top"])

    def regret_by(self, label: str) -> npt.NDArray[np.float64]:
        """What staying costs at each token in nats; with label continuation, over what follows."""
        return np.minimum(self.columns["path_cost"], MAX_REGRET) if label == "continuation" else self.regret

    @property
    def regret(self) -> npt.NDArray[np.float64]:
        """What staying costs at each token, in nats."""
        lost = self.columns["assistant_top_logprob"] - self.columns["assistant_logprob_of_base_top"]
        regret: npt.NDArray[np.float64] = np.clip(lost.astype(np.float64), 0.0, MAX_REGRET)
        return regret

    def marginal(self, cost: float) -> Loss:
        """The marginal loss."""
        return MarginalLoss(
            self.columns["base_logprob"].astype(np.float64),
            self.columns["assistant_logprob"].astype(np.float64),
            cost,
        )


_COLUMNS = (
    "token",
    "base_top",
    "assistant_top",
    "base_logprob",
    "assistant_logprob",
    "base_log_odds",
    "assistant_top_logprob",
    "assistant_logprob_of_base_top",
)


def train(
    folders: Sequence[Scores],
    options: TrainingOptions,
    *,
    name: str | None = None,
    on_iteration: Callable[[str, int, float, float], None] | None = None,
) -> Trained:
    """Fits a head.

    Args:
        folders: scored texts of one pair.
        options: see :class:`TrainingOptions`.
        name: the head's name, for display.
        on_iteration: called with what is fitted, iteration, training loss and held-out loss.

    Raises:
        CorpusError: the folders are of different pairs, a value is not finite, there are too few texts to hold some
            out, or all labels are equal although the objective needs both.
        MissingDependency: SciPy is not installed.
    """
    require("scipy.optimize", "the fit of a head")  # before minutes of reading
    _check_folders(folders)
    notes: list[str] = []
    if folders[0].meta.get("base_lora") and base_adapters(folders[0].meta) is None:
        notes.append(
            f"{folders[0].path} does not say which adapters the base had, because an earlier version made it; the head "
            "will not be compared with the adapters of the base"
        )
    continued = _continuations(folders, required=options.label == "continuation")
    splits = [text_split(folder, options.held_out, options.seed) for folder in folders]
    fits = options.memory_limit / _size(folders, options)  # above 1: everything can be in memory
    training = _part(folders, [split.training for split in splits], options, continued, in_memory=fits >= 1)
    held_out = _part(folders, [split.held_out for split in splits], options, continued, in_memory=fits >= 1)
    # Of more than fits, some texts are kept in memory for what can do with them: they end the fits, and the weak
    # labels, where they are only a place to start from, are fitted to them. A pass from disk takes ten times as long.
    stopping = held_out
    starting = training
    if fits < 1:
        stopping = _part(folders, [_some(split.held_out, 0.5 * fits, split) for split in splits], options, continued)
        if options.objective != "weak":
            starting = _part(
                folders, [_some(split.training, 0.5 * fits, split) for split in splits], options, continued
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
            f"there are {training.inputs.n} training tokens; with fewer than {FEW_TOKENS} a head learns little but "
            "noise"
        )
    mean, scale = training.inputs.moments()
    for inputs in {id(part.inputs): part.inputs for part in (training, held_out, stopping, starting)}.values():
        inputs.standardise(mean, scale)

    model: Model
    n_in = training.inputs.n_in
    if options.kind == "mlp":
        model = MlpModel(n_in, options.n_units)
        parameters = model.start(np.random.default_rng(options.seed))
    else:
        model = LinearModel(n_in)
        parameters = np.zeros(n_in + 1)

    n_features = n_in - (folders[0].n_embd if options.use_hidden else 0)
    of_inputs = np.repeat([options.l2, options.feature_l2], [n_in - n_features, n_features])
    penalties = model.penalties(of_inputs)

    def reporter(what: str) -> Callable[[int, float, float], None]:
        return lambda *values: None if on_iteration is None else on_iteration(what, *values)

    def run(what: str, start: npt.NDArray[np.float64], part: _Part, loss: Callable[[_Part], Loss]) -> Fit:
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
    labels = starting.label(options.label), stopping.label(options.label)
    if all(0 < label.sum() < len(label) for label in labels):
        weak_fit = run("weak", parameters, starting, lambda part: WeakLoss(part.label(options.label)))
        parameters = weak_fit.parameters
    else:
        reason = f"label {options.label} is the same at every token of the training or of the held-out texts"
        if options.objective == "weak":
            raise CorpusError(f"{reason}, so there is nothing to learn; use more texts or another label")
        notes.append(f"{reason}: the fit starts without it")
    del starting  # its memory, where it has some of its own
    if options.objective == "marginal":
        main_fit = run("marginal", parameters, training, lambda part: part.marginal(options.cost))
        parameters = main_fit.parameters
    elif options.objective == "regret":
        main_fit = run(
            "regret", parameters, training, lambda part: RegretLoss(part.regret_by(options.label), options.cost)
        )
        parameters = main_fit.parameters

    z = deferral_logits(model, parameters, held_out.inputs)
    metrics = _metrics(z, held_out, slice(None), held_out.n_texts)
    by_folder = {}
    names = [folder.path.name for folder in folders]
    for i, folder in enumerate(folders):
        at = np.flatnonzero(held_out.folder == i)
        title = names[i] if names.count(names[i]) == 1 else str(folder.path)
        by_folder[title] = _metrics(z[at], held_out, at, len(splits[i].held_out))
    fitted = _metrics(deferral_logits(model, parameters, training.inputs), training, slice(None), training.n_texts)
    notes += _doubts(options.objective, metrics, options.label)
    head = _to_head(model, parameters, mean, scale, folders, options, name, metrics, by_folder)
    return Trained(head, metrics, by_folder, fitted, weak_fit, main_fit, tuple(notes))


def _doubts(objective: str, metrics: Metrics, label: str = "differ") -> list[str]:
    """What speaks against a head, measured by what it was fitted for.

    ``marginal`` takes the text as the truth: the head should find label a better than plain confidence does, and make
    the text likelier than either model alone. Whether the likeliest tokens differ says nothing there: where they do,
    the base may be right. The other objectives are judged by the differing tokens, or with label continuation by those
    where the paths part.
    """
    found = []
    if objective == "marginal":
        what, ours, plain = "the tokens of label a", metrics.auc_a, metrics.confidence_auc_a
        best = min(metrics.base_nll, metrics.assistant_nll)
        if metrics.joint_nll >= best:
            name = "base" if metrics.base_nll == best else "assistant"
            found.append(
                f"on the held-out texts both models with this head (NLL {metrics.joint_nll:.3f}) are no better than "
                f"the {name} alone ({best:.3f})"
            )
    elif label == "continuation" and metrics.parting is not None:
        what, ours, plain = "parting tokens", metrics.parting.auc, metrics.parting.confidence_auc
    else:
        what, ours, plain = "differing tokens", metrics.auc_differ, metrics.confidence_auc_differ
    if ours is not None and plain is not None and ours <= plain:
        found.append(
            f"on the held-out texts this head finds {what} no better (AUC {ours:.3f}) than plain confidence "
            f"({plain:.3f})"
        )
    return found


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


@dataclass(frozen=True)
class Split:
    """The texts of a folder, shuffled.

    Attributes:
        training: those that a head is fitted to.
        held_out: the others.
    """

    training: npt.NDArray[np.int64]
    held_out: npt.NDArray[np.int64]


def text_split(scores: Scores, share: float, seed: int) -> Split:
    """Chooses the held-out texts of a folder: ``share`` of them, at least one. A ``seed`` always gives the same.

    Raises:
        CorpusError: the folder holds a single text.
    """
    n_texts = scores.progress.n_texts
    if n_texts < 2:
        raise CorpusError(
            f"{scores.path} holds {n_texts} text; give at least 2, because one is held out to stop the fit"
        )
    n_held_out = min(max(1, round(share * n_texts)), n_texts - 1)
    texts = np.random.default_rng([seed, n_texts]).permutation(n_texts)
    return Split(texts[n_held_out:], texts[:n_held_out])


def _size(folders: Sequence[Scores], options: TrainingOptions) -> int:
    """Bytes of all inputs as float32."""
    width = sum(options.top_k if name == "top_k_logprobs" else 1 for name in options.feature_names())
    width += folders[0].n_embd if options.use_hidden else 0
    return 4 * width * sum(map(len, folders))


def _some(texts: npt.NDArray[np.int64], share: float, split: Split) -> npt.NDArray[np.int64]:
    """So many of ``texts``, which stand in random order, that they are ``share`` of the whole folder; one at least."""
    n_all = len(split.training) + len(split.held_out)
    return texts[: max(1, int(share * n_all))]


def _part(
    folders: Sequence[Scores],
    texts: Sequence[npt.NDArray[np.int64]],
    options: TrainingOptions,
    continued: Sequence[Continuations] | None = None,
    *,
    in_memory: bool = True,
) -> _Part:
    rows = []
    for folder, chosen in zip(folders, texts, strict=True):
        taken = np.zeros(folder.progress.n_texts, bool)
        taken[chosen] = True
        rows.append(np.flatnonzero(taken[folder["text"]]))
    inputs = Inputs(
        folders,
        rows,
        options.feature_names(),
        options.top_k,
        use_hidden=options.use_hidden,
        in_memory=in_memory,
    )
    columns = {
        name: np.concatenate([folder[name][r] for folder, r in zip(folders, rows, strict=True)]) for name in _COLUMNS
    }
    if continued is not None:
        for name, values in (
            ("divergent", [c.divergent for c in continued]),
            ("path_cost", [c.cost for c in continued]),
        ):
            columns[name] = np.concatenate([value[r] for value, r in zip(values, rows, strict=True)])
    of_folder = np.repeat(np.arange(len(folders), dtype=np.int32), [len(r) for r in rows])
    return _Part(inputs, columns, of_folder, sum(len(chosen) for chosen in texts))


def _metrics(z: npt.NDArray[np.float64], part: _Part, at: slice | npt.NDArray[np.int64], n_texts: int) -> Metrics:
    base = part.columns["base_logprob"][at].astype(np.float64)
    assistant = part.columns["assistant_logprob"][at].astype(np.float64)
    value, _ = MarginalLoss(base, assistant)(z, slice(None))
    label_a, differ = part.label("a")[at], part.label("differ")[at]
    regret = part.regret[at]
    doubt = -part.columns["base_log_odds"][at].astype(np.float64)
    return Metrics(
        n_texts=n_texts,
        n_tokens=len(z),
        base_nll=-float(base.mean()),
        assistant_nll=-float(assistant.mean()),
        joint_nll=value,
        oracle_nll=-float(np.maximum(base, assistant).mean()),
        mean_defer_prob=float(sigmoid(z).mean()),
        auc_a=finite(roc_auc(z, label_a)),
        auc_differ=finite(roc_auc(z, differ)),
        confidence_auc_a=finite(roc_auc(doubt, label_a)),
        confidence_auc_differ=finite(roc_auc(doubt, differ)),
        differ_rate=float(differ.mean()),
        caught=caught(z, differ.astype(np.float64)),
        confidence_caught=caught(doubt, differ.astype(np.float64)),
        regret=float(regret.mean()),
        saved=caught(z, regret),
        confidence_saved=caught(doubt, regret),
        parting=None
        if "divergent" not in part.columns
        else parting(z, doubt, differ, part.columns["divergent"][at], part.columns["path_cost"][at]),
    )


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
        assistant_name=meta["assistant"] or None,
        base_adapters=base_adapters(meta),
        vocab_fingerprint=meta["vocab_fingerprint"],
        training=json.dumps(facts, sort_keys=True),
    )

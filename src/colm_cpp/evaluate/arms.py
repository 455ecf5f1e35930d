"""The arms of an evaluation, and their names."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..answers.answering import Arm
from ..engine.pair import DEFAULT_THRESHOLD
from ..errors import HeadError, OptionError
from ..heads.adapters import adapter_digest, in_effect
from ..heads.head import Head
from ..heads.restricted import for_one
from ..heads.tables import PLAIN, Runs, threshold_for
from ..options import ASSISTANT, BASE, STRATEGIES, choice, split_head
from ..sources.hub import resolve
from ..sources.identity import adapters_identity, head_identity, model_identity, named_identity
from ..sources.names import find_head, find_model
from ..sources.pair_file import Preset
from .records import PAIRS, SINGLE_ARMS

__all__ = ["make_arms", "named_head", "named_heads"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def make_arms(
    names: Sequence[str],
    heads: Mapping[str, str | os.PathLike[str]],
    rates: Sequence[float],
    *,
    of_pair: Sequence[str] = (ASSISTANT,),
    random: bool = True,
    experts: Mapping[str, str | os.PathLike[str] | Preset] | None = None,
    runs: Sequence[Runs] = (PLAIN,),
    strategies: Sequence[str] = STRATEGIES[:1],
) -> list[Arm]:
    """The arms of an evaluation.

    Args:
        names: models that answer alone: ``base`` and those of ``of_pair``. With several experts also ``pairs``: each
            head that chooses among them also answers with the base and each one of them, without the scores of the
            others and at the same threshold.
        heads: name -> head, see :mod:`colm_cpp.sources.names`. A calibrated head, and ``random``, answers at every
            rate. Other training-free heads and tokens have no rates and answer once, with threshold 0.5. With several
            experts a head that says only when names one: ``confidence:math``.
        rates: deferral rates in (0, 1).
        of_pair: the pair's experts, in its order.
        random: also defer at random, at the same rates; with several experts to each of them.
        experts: name -> file of another model that answers alone with its own chat template, such as a fine-tuned
            base; or another pair, whose own head decides at every rate. A pair without a head stands for its base,
            which answers alone with its adapter. :func:`evaluate` needs all of them loaded.
        runs: heads, other pairs and ``random`` answer with each of these.
        strategies: heads and other pairs answer with each of these, see :meth:`colm_cpp.Pair.generate`.

    Raises:
        OptionError: an unknown or unusable name or strategy, a rate outside (0, 1), or no arm at all.
        HeadError: a head file without a calibration table for the runs.
        LoadError: a head file that cannot be read.
    """
    for strategy in strategies:
        choice("strategy", strategy, STRATEGIES)
    arms = []
    several = len(of_pair) > 1
    pairs = several and PAIRS in names
    for name in of_pair:
        if name in (PAIRS, "random"):
            raise OptionError(f"an expert is called {name!r}, which names arms of other kinds; give it another name")
    for name in names:
        if name == PAIRS and several:
            continue
        if name not in (BASE, *of_pair):
            known = ", ".join((BASE, *of_pair, *([PAIRS] if several else [])))
            raise OptionError(
                f"arm {name!r} is unknown; give {known}, random, NAME=MODEL for another model, "
                "NAME=PAIR for another pair, or --head for a head"
            )
        head = "never" if name == BASE else _directed("always", name if several else None)
        arms.append(Arm(name, head, 0.5, None, {"head": head, "threshold": 0.5, "rate": None}))
    for rate in rates:
        if not 0.0 < rate < 1.0:
            hint = f". Did you mean {rate / 100:g}?" if 1.0 < rate < 100.0 else "; for a model alone, give its arm"
            raise OptionError(f"rate is {rate}; it must lie in (0, 1){hint}")
    for name, model in (experts or {}).items():
        _check_name("a model", name, of_pair)
        if name in heads:
            raise OptionError(f"a model and a head are both named {name!r}; give one of them another name")
        arms += _in_each(strategies, _of_expert(name, model, rates, runs))
    for name, path in heads.items():
        _check_name("a head", name, of_pair)
        arms += _in_each(strategies, [arm for its in runs for arm in _of_head(name, path, rates, its, of_pair, pairs)])
    for expert in of_pair if random else ():
        name, head = (f"random+{expert}", f"random:{expert}") if several else ("random", "random")
        arms += [arm for its in runs for arm in _of_head(name, head, rates, its, of_pair)]
    if not arms:
        raise OptionError("no arm was given; give --arm, --head with --rate, or both")
    return arms


def _in_each(strategies: Sequence[str], arms: Sequence[Arm]) -> list[Arm]:
    """The arms with each strategy. A model alone has none, so it stays as it is."""
    given = []
    for arm in arms:
        alone = isinstance(arm.head, str) and arm.head.partition(":")[0] in ("always", "never")
        for strategy in STRATEGIES[:1] if alone else strategies:
            if strategy == STRATEGIES[0]:
                given.append(arm)
            else:
                facts = {**arm.facts, "strategy": strategy}
                given.append(replace(arm, name=f"{arm.name}+{strategy}", facts=facts, strategy=strategy))
    return given


def _check_name(what: str, name: str, of_pair: Sequence[str]) -> None:
    if not _NAME.fullmatch(name) or name in (*SINGLE_ARMS, *of_pair, PAIRS, "random", "chord", "router"):
        raise OptionError(
            f"{what} cannot be named {name!r}; use letters, digits, '.', '_' and '-', and not the name of an arm"
        )


def _of_expert(
    name: str, expert: str | os.PathLike[str] | Preset, rates: Sequence[float], runs: Sequence[Runs]
) -> list[Arm]:
    if not isinstance(expert, Preset):
        expert = Preset("", os.fspath(expert), os.fspath(expert), None)
    base = model_identity(find_model(name, expert.base))
    adapters = expert.load_options({})[1].get("lora", [])
    if adapters:
        base["adapters"] = adapters_identity(
            in_effect((adapter_digest(resolve(path)), scale) for path, scale in adapters)
        )
    if expert.head is None:
        return [Arm(name, "never", 0.5, None, {"head": "never", "threshold": 0.5, "rate": None, "expert": base}, name)]
    pair = {"base": base, "assistant": named_identity(expert.assistant), "system": expert.system}
    arms = [arm for its in runs for arm in _of_head(name, expert.head, rates, its)]
    return [replace(arm, facts={**arm.facts, "pair": pair}, expert=name) for arm in arms]


def _of_head(
    name: str,
    given: str | os.PathLike[str],
    rates: Sequence[float],
    runs: Runs,
    of_pair: Sequence[str] = (),
    pairs: bool = False,
) -> list[Arm]:
    head, who = split_head(os.fspath(given), of_pair)
    file = find_head(head).file()
    loaded = head if file is None else Head.load(file)
    identity = head_identity(head)
    if who is not None:
        identity["head"] = _directed(identity["head"], who)
    if isinstance(loaded, Head) and who is not None:
        if len(loaded.expert_names) > 1:
            raise HeadError(f"the head {head} chooses the expert by itself; leave out ':{who}'")
        loaded = loaded.replace(expert_names=(who,))
    if isinstance(loaded, str) and loaded != "random":
        facts = {**identity, "threshold": DEFAULT_THRESHOLD, "rate": None, **runs.facts()}
        directed = _directed(loaded, who)
        return [Arm(_arm_name(name, None, runs), directed, DEFAULT_THRESHOLD, None, facts, runs=runs)]
    if isinstance(loaded, Head) and not loaded.rates and runs == PLAIN:
        raise HeadError(f"head {head} has no calibration table; run colm calibrate on it first")
    arms = []
    for rate in rates:
        eta = threshold_for(loaded, runs, rate) if isinstance(loaded, Head) else runs.random_threshold(rate)
        facts = {**identity, "threshold": eta, "rate": rate, **runs.facts()}
        own = loaded if isinstance(loaded, Head) else _directed(loaded, who)
        arms.append(Arm(_arm_name(name, rate, runs), own, eta, rate, facts, runs=runs))
        if pairs and isinstance(loaded, Head) and len(loaded.expert_names) > 1:
            for expert in loaded.expert_names:
                arm = _arm_name(f"{name}+{expert}", rate, runs)
                arms.append(Arm(arm, for_one(loaded, expert), eta, rate, {**facts, "only": expert}, runs=runs))
    return arms


def _directed(head: str, expert: str | None) -> str:
    return head if expert is None else f"{head}:{expert}"


def named_head(text: str, of_pair: Sequence[str] = ()) -> tuple[str, str]:
    """Splits ``NAME=HEAD``, or names a head that has no NAME: the name of its arms, and the head.

    A head without a NAME is named after its file, or after the letters of its token: ``<|defer|>`` is ``defer``.
    ``HEAD:EXPERT``, with several experts in ``of_pair``, is ``HEAD-EXPERT``.

    Raises:
        OptionError: the head has no letters to name it after.
    """
    name, equals, head = text.partition("=")
    if equals and head and _NAME.fullmatch(name):
        return name, head
    own, who = split_head(text, of_pair)
    stem = os.path.basename(own).removesuffix(".gguf") if find_head(own).kind == "file" else own
    name = re.sub(r"^[^A-Za-z0-9]+|[^A-Za-z0-9._-]+", "", stem)
    if name and who is not None:
        name = f"{name}-{who}"
    if not name:
        raise OptionError(f"head {text!a} has no letters to name it after; put a name before it, such as mine={text}")
    return name, text


def named_heads(texts: Sequence[str], of_pair: Sequence[str] = ()) -> dict[str, str]:
    """Heads by their names; see :func:`named_head`.

    Raises:
        OptionError: two have one name.
    """
    heads: dict[str, str] = {}
    for text in texts:
        name, head = named_head(text, of_pair)
        if name in heads:
            raise OptionError(
                f"two heads are named {name}: {heads[name]} and {head}; give one another name, such as other={head}"
            )
        heads[name] = head
    return heads


def _arm_name(head: str, rate: float | None, runs: Runs) -> str:
    at = "" if rate is None else f"@{rate * 100:g}"
    hold = "" if runs.hold == 1 else f"+hold{runs.hold}"
    leave = "" if runs.leave_threshold is None else f"+leave{runs.leave_threshold:g}"
    return f"{head}{at}{hold}{leave}"

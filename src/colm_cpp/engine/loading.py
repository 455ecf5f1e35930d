"""Loading a pair: the checks before it and their order."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from .. import _core
from .._numbers import flag
from ..errors import HeadError, OptionError
from ..heads.head import Head
from ..llama.busy import busy
from ..llama.log import forward_log, set_up_log
from ..llama.rpc import connect
from ..machine.cores import usable_cores
from ..options import (
    ASSISTANT,
    BASE,
    LONG_N_UBATCH,
    ExpertModel,
    Experts,
    GenerationOptions,
    LoadOptions,
    SlotOptions,
    option_dict,
    read_experts,
    split_head,
)
from ..results import Completion
from ..sources.hub import resolve
from ..sources.names import HEAD_CHOICES, find_head, find_model, find_models
from ..sources.preset import Preset, preset
from . import kept
from .memory import ModelMemory, PairMemory, rows_of, weights_of
from .model_files import metadata, naming, quantised, trained_n_ctx
from .own_prompts import is_by_model, prompts_tokens
from .pair import Pair
from .prompts import refuse_messages
from .remotes import Remotes

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..options import LoadOptionsDict, WritingOptionsDict

__all__ = ["generate", "load", "options_of", "prepare", "threads_for"]

PathLike = str | os.PathLike[str]

# Parameters of load() that are no model options.
_NO_LOAD_OPTIONS = ("base_options", "assistant_options", "progress", "check_memory", "n_parallel", "cache_mb")
_DEFAULT_SLOTS = SlotOptions()
_TWO_FORMS = (
    "experts= replaces assistant= and assistant_options=, and pair= has its own experts; leave out one, and "
    "give options of an expert as {'model': ..., 'n_ctx': ...}"
)
_TINY_FILE = 16 * 2**20


def load(
    base: PathLike | None = None,
    assistant: PathLike | None = None,
    head: PathLike | Head | None = None,
    *,
    pair: PathLike | Preset | None = None,
    experts: Experts | None = None,
    base_options: LoadOptionsDict | None = None,
    assistant_options: LoadOptionsDict | None = None,
    progress: Callable[[float], object] | None = None,
    check_memory: bool = True,
    n_parallel: int = _DEFAULT_SLOTS.n_parallel,
    cache_mb: int = _DEFAULT_SLOTS.cache_mb,
    **options: Unpack[LoadOptionsDict],
) -> Pair:
    """Loads models that write together: a base, and one or more experts.

    The models may have unlike vocabularies. Then they share the text as bytes (``docs/vocabularies.md``).

    Args:
        base: the base's GGUF file, or its place on the hub: ``hf:org/repo/file-pattern.gguf``, with ``@revision`` after
            it for a branch, tag or commit. Without ``assistant``, ``base`` stands for a pair, see ``pair``.
        assistant: the assistant's GGUF file, its place on the hub, or the URL of a model on another machine
            (``docs/remote.md``): short for ``experts={"assistant": ...}``.
        head: the deferral head. One of: the path of a head file, or its place on the hub; a :class:`Head`; the name of
            a head in the package (:func:`colm_cpp.shipped_heads`) or of a preset; the name of a training-free head
            (``"confidence"``, ``"entropy"``, ``"random"``, ``"always"``, ``"never"``); a token of the base's
            vocabulary whose logit decides (``"<|defer|>"``). A head can also be given with each text. With several
            experts, a head that says only when to defer needs the name of an expert after it: ``"confidence:math"``.
        pair: the name of a preset (:func:`colm_cpp.presets`), a folder with a
            ``pair.toml``, such a file (``docs/pairs.md``), or a :class:`Preset`. It loads both models, the adapter, and
            the head unless ``head`` is given. Options that are given here replace those of the pair, and so do ``base``
            and ``assistant``, for example with files on this disk.
        experts: instead of ``assistant``: 1 to 9 experts by their names, ``{"math": "math.gguf", "code": "code.gguf"}``
            (``docs/experts.md``). A dict in place of a file has options of its own:
            ``{"law": {"model": "small.gguf", "lora": "law.gguf"}}``. Models that load the same file in the same
            way share its weights.
        base_options: options for the base alone. They replace ``options`` of the same name.
        assistant_options: options for the assistant alone. They replace ``options`` of the same name.
        progress: called with the loaded fraction, 0 to 1. Loading stops if it returns False.
        check_memory: compare estimated with free memory before loading, and before a batch
            (:meth:`Pair.stream_batch`). Free memory is the least that the machine, the process's control groups and
            ``ulimit -v`` allow.
        n_parallel: slots, 1 to 256: texts that the pair writes at a time; see :class:`.options.SlotOptions`.
        cache_mb: the most megabytes of memory for texts that were read and have lost their slot. 0: none are kept.
        **options: options for both models; see :class:`LoadOptions`.

    Raises:
        TypeError: an unknown option.
        OptionError: an option outside its range, an unknown preset, or an invalid key in a pair's file.
        LoadError: a file is missing, damaged, not a model, or llama.cpp refused it.
        RpcError: a machine in ``rpc_servers`` does not answer.
        MissingDependency: ``rpc_servers`` is given, and the installed llama.cpp has no RPC backend.
        NotEnoughMemory: the estimate exceeds what is free.
        VocabMismatch: the vocabularies differ, and one is of a kind that may change a text (neither BPE nor SPM); the
            message names expert and token.
        HeadError: ``head`` cannot be used as a head; HeadMismatch if it was made for another base, or for the base with
            other adapters.
        DownloadError: a file cannot be downloaded from the hub.
        RemoteError: a model on another machine does not answer, or has another vocabulary (``docs/remote.md``).
    """
    check_memory = flag("check_memory", check_memory)
    if experts is not None and (assistant is not None or assistant_options is not None or pair is not None):
        raise OptionError(_TWO_FORMS)
    others = () if experts is None else read_experts(experts)
    if base is None and assistant is None and pair is None:
        raise OptionError("load() needs base= and assistant=, or pair= with a name that colm.presets() lists")
    if assistant is None and pair is None and not others:
        base, pair = None, preset(base)
    known = None if pair is None else preset(pair).with_models(base, assistant)
    if known is not None:
        base, assistant, others = known.base, known.assistant, known.experts
    if base is None or (assistant is None and not others):
        raise TypeError("base= is of type NoneType; give a GGUF file's path, hf:org/repo/file or the name of a preset")
    if head is not None and not isinstance(head, (str, os.PathLike, Head)):
        raise HeadError(f"head is of type {type(head).__name__}; {HEAD_CHOICES}")
    models: dict[str, Any] = {
        BASE: base,
        **({expert.name: expert.model for expert in others} or {ASSISTANT: assistant}),
    }
    chosen = options_of(known, others, options, base_options, assistant_options)
    slots = SlotOptions(n_parallel=n_parallel, cache_mb=cache_mb)
    if head is None and known is not None:
        head = _head_of(known)
    with busy():
        loaded = _load(models, head, chosen, progress, check_memory, slots)
        return Pair(*loaded, system=None if known is None else known.system)


def options_of(
    known: Preset | None,
    experts: Sequence[ExpertModel],
    options: Mapping[str, Any],
    base_options: object,
    assistant_options: object,
) -> tuple[LoadOptions, ...]:
    """The options of loading of each model, the base first. Arguments are those of :func:`load`.

    Raises:
        OptionError: an option outside its range, or options for an assistant that is not there.
    """
    shared, of_base, of_assistant = options, base_options, assistant_options
    if known is not None:
        shared, of_base, of_assistant = known.load_options(options, base_options, assistant_options)
    if not experts:
        return LoadOptions.of_both(shared, of_base, of_assistant)
    if assistant_options:
        raise OptionError("assistant_options= is for the assistant; this pair has experts with options of their own")
    base = LoadOptions.merge(shared, option_dict("base_options", of_base))
    # What the caller gives for all replaces what a pair's file says of one.
    given = options if known is not None and known.file is not None else {}
    return (base, *(_of_expert(expert, shared, given) for expert in experts))


def _of_expert(expert: ExpertModel, shared: Mapping[str, Any], given: Mapping[str, Any]) -> LoadOptions:
    try:
        return LoadOptions.merge(shared, {name: value for name, value in expert.options.items() if name not in given})
    except (OptionError, TypeError) as error:
        raise type(error)(f"the expert {expert.name}: {error}") from error


def _head_of(known: Preset) -> str | Head | None:
    """The preset's head; where the preset has a rate, with the threshold of that rate as its default.

    Raises:
        HeadError: the head has no calibration table for the rate.
    """
    if known.head is None or known.defer_rate is None:
        return known.head
    name, who = split_head(known.head, known.names[1:])
    try:
        head = Head.load(name)
        head = head if who is None else head.replace(expert_names=(who,))
        return head.replace(default_threshold=head.threshold_for_rate(known.defer_rate))
    except HeadError as error:
        raise HeadError(f"{known.file}: {error}") from error


def _load(
    models: Mapping[str, PathLike],
    head: PathLike | Head | None,
    chosen: Sequence[LoadOptions],
    progress: Callable[[float], object] | None,
    check_memory: bool,
    slots: SlotOptions,
) -> tuple[_core.Pair, PathLike | Head | None, PairMemory, Remotes]:
    if isinstance(head, (str, os.PathLike)):
        name = split_head(head, list(models))[0] if isinstance(head, str) else head
        if (named := find_head(name)).kind == "file":
            loaded = Head.load(str(named.file()))  # a bad head file is reported before minutes of loading
            head = loaded if len(models) == 2 and name == head else head  # else messages need what was given
    servers = connect(server for options in chosen for server in options.servers())
    remotes = Remotes(models, chosen)
    try:
        files, own = remotes.local_models, remotes.local_options
        core_options, memory = prepare(files, own, check_memory=check_memory, n_slots=slots.n_parallel)
        remotes.check(core_options[0])  # before minutes of loading
        members = list(zip(files, core_options, strict=True))
        room = remotes.room(memory.check_turn)
        core = _core.Pair(members, progress, slots.n_parallel, slots.cache_mb << 20, room, remotes.members())
    except BaseException:
        remotes.close()
        raise
    finally:
        servers.clear()  # the models hold the connections now
        forward_log()
    return core, head, memory, remotes


def prepare(
    models: Mapping[str, PathLike],
    chosen: Sequence[LoadOptions],
    *,
    check_memory: bool,
    n_sequences: int = 1,
    n_outputs: int = 1,
    n_slots: int = 1,
    loaded: bool = False,
) -> tuple[list[_core.ModelOptions], PairMemory]:
    """Checks files and memory. Returns the extension's options for each model, and the memory that they take.

    ``models``: by what they are called, the base first. ``loaded``: the weights are in memory. Errors are those of
    load().
    """
    set_up_log()
    if n_sequences > 1:
        # All batches are long here, and a longer pass is some percent faster.
        chosen = [_with_long_passes(options) for options in chosen]
    paths, headers = [], []
    for name, model in models.items():
        with naming(name):
            paths.append(find_model(name, model))
            headers.append(metadata(paths[-1]))
    trained = [trained_n_ctx(header) for header in headers]
    # By default all get the context that all were trained for.
    common = min((n for n in trained if n), default=0)
    sizes = [o.context_size(common if o.n_ctx is None else n) for o, n in zip(chosen, trained, strict=True)]
    needs = [ModelMemory.of(path, o) for path, o in zip(paths, chosen, strict=True)]
    memory = PairMemory(
        tuple(needs),
        tuple(sizes),
        min(o.n_batch for o in chosen),
        tuple(models),
        weights_of(paths, chosen),
        check_memory,
    )
    if check_memory:
        # Texts that are scored share one cache, those that are written have a slot each.
        scores = n_sequences > 1
        rows = [n_outputs] * len(paths)
        if not scores:
            own, *others = rows_of(len(paths), n_slots)
            rows = [own, *(max(n_outputs, n) for n in others)]
        most = [min(row, o.n_batch) for row, o in zip(rows, chosen, strict=True)]
        memory.check_load(most, n_sequences if scores else n_slots, shared=scores, loaded=loaded)
    # llama.cpp makes no context with fewer outputs than sequences.
    n_sequences = min(n_sequences, n_outputs, *(o.n_batch for o in chosen))
    prepared = []
    for name, o, path, n_ctx, header in zip(models, chosen, paths, sizes, headers, strict=True):
        with naming(name):
            prepared.append(
                o.to_core(
                    path,
                    n_ctx,
                    threads_for(path),
                    [(resolve(adapter), scale) for adapter, scale in o.adapters()],
                    quantised=quantised(header),
                    n_sequences=n_sequences,
                    n_outputs=n_outputs,
                )
            )
    return prepared, memory


def _with_long_passes(options: LoadOptions) -> LoadOptions:
    return replace(options, n_ubatch=LONG_N_UBATCH) if options.n_ubatch is None else options


def threads_for(path: str) -> int:
    """How many threads a model gets where nobody says it."""
    return 1 if os.path.getsize(path) < _TINY_FILE else usable_cores()


def generate(
    prompt: str | Sequence[int] | Mapping[str, str | Sequence[int]],
    *,
    pair: PathLike | Preset | None = None,
    base: PathLike | None = None,
    assistant: PathLike | None = None,
    experts: Experts | None = None,
    head: PathLike | Head | None = None,
    load_options: LoadOptionsDict | None = None,
    keep: bool = True,
    queue_timeout: float | None = None,
    **options: Unpack[WritingOptionsDict],
) -> Completion:
    """Loads a pair, continues ``prompt``, and keeps the pair for the next call.

    The next call loads nothing if it names the same models with the same ``load_options`` and their files have not
    changed (device, inode, size, time of change). The head may differ. The hub is not asked again for a kept model. A
    call for another pair frees the kept one. :func:`colm_cpp.unload` and the end of the process free it too. Several
    threads may call this function; their texts queue.

    Args:
        prompt: text or token ids, or a dict of them by the names of models, as for :meth:`Pair.generate`.
        pair: as for :func:`load`.
        base: as for :func:`load`, but no preset.
        assistant: as for :func:`load`.
        experts: as for :func:`load`, instead of ``assistant``.
        head: as for :func:`load`. It is required unless ``pair`` is given and has a head.
        load_options: options of :class:`LoadOptions`, and ``base_options``, ``assistant_options``, ``check_memory``,
            ``n_parallel``, ``cache_mb`` and ``progress`` of :func:`load`.
        keep: keep the pair for the next call. False: free a pair that this call loads.
        queue_timeout: the longest wait, in seconds, while the pair writes other threads' texts. None: no limit.
        **options: see :class:`GenerationOptions`.

    Raises:
        ColmError: whatever :func:`load` and :meth:`Pair.generate` raise.
    """
    given = dict(option_dict("load_options", load_options))
    if experts is not None and (assistant is not None or "assistant_options" in given or pair is not None):
        raise OptionError(_TWO_FORMS)
    known = None if pair is None else preset(pair).with_models(base, assistant)
    if known is not None:
        head = _head_of(known) if head is None else head
    elif base is None or (assistant is None and experts is None):
        raise OptionError("generate() needs base= and assistant=, or pair= with a name that colm.presets() lists")
    else:
        others = () if experts is None else read_experts(experts)
        known = Preset("", base, assistant or "", None, experts=others)  # type: ignore[arg-type]  # or paths
    if "check_memory" in given:
        given["check_memory"] = flag("check_memory", given["check_memory"])
    keep = flag("keep", keep)
    if head is None:
        raise HeadError(f"generate() needs a deferral head; {HEAD_CHOICES}")
    checked = GenerationOptions.of({**options, "head": head})  # before minutes of loading
    if not is_by_model(prompt):
        refuse_messages(prompt)
    if not isinstance(head, (str, os.PathLike, Head)):
        raise HeadError(f"head is of type {type(head).__name__}; {HEAD_CHOICES}")
    named = None if isinstance(head, Head) else find_head(head)
    if named is not None and named.expert is None and (file := named.file()) is not None:
        checked = replace(checked, head=Head.load(file))  # before minutes of loading, too
    loaded, is_kept = _loaded_or_kept(known, given, keep)
    with contextlib.nullcontext() if is_kept else loaded, busy():
        tokens, own = prompts_tokens(loaded, prompt)
        return loaded.begin(tokens, checked, queue_timeout, own).completion()


def _loaded_or_kept(wished: Preset, given: dict[str, Any], keep: bool) -> tuple[Pair, bool]:
    """The kept pair if it fits, else a newly loaded one; and whether the result is kept."""
    shared = {name: value for name, value in given.items() if name not in _NO_LOAD_OPTIONS}
    chosen = options_of(wished, wished.experts, shared, given.get("base_options"), given.get("assistant_options"))
    slots = SlotOptions(**{field.name: given[field.name] for field in fields(SlotOptions) if field.name in given})
    wanted = kept.Wanted.of(dict(zip(wished.names, wished.models, strict=True)), chosen, slots)
    with kept.loading:
        known = kept.kept(wanted)
        if known is not None:
            return known, True
        if keep:
            kept.unload()  # both may not fit into memory
        found = find_models(wished, remote=True)
        stamps = kept.stamps_of(found.models, chosen)
        pair = load(pair=found.without_head(), **given)
        if keep:
            kept.keep(wanted, stamps, pair)
        return pair, keep

"""What ``colm inspect`` knows of a file and of a pair: plain values, ready for JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .. import _core
from ..engine.memory import estimate
from ..errors import CorpusError, HeadError, RemoteVocabularyMismatch, VocabMismatch
from ..files.paths import to_native
from ..heads.head import Head
from ..heads.tables import known_runs
from ..options import ASSISTANT, BASE, LoadOptions
from ..sources.names import TRAINING_FREE_HEADS, find_head, find_model
from ..sources.shipped import shipped_heads

if TYPE_CHECKING:
    from ..engine.pair import Pair
    from ..sources.pair_file import Preset

__all__ = ["ABOUT_HEADS", "file_facts", "head_facts", "model_facts", "pair_facts", "quantisation"]

HEAD_ARCHITECTURE = "colm-head"
ABOUT_HEADS = {
    "confidence": "defers when the base's most likely token has a low probability",
    "entropy": "defers when the base's distribution has a high entropy",
    "random": "defers at random",
    "always": "the assistant writes every token",
    "never": "the base writes every token",
}


def file_facts(spec: str, options: LoadOptions) -> dict[str, Any]:
    """Facts about a model or a head, whichever ``spec`` is: a file, a place on the hub, or the name of a head.

    Raises:
        LoadError: the file is missing or not GGUF.
        HeadError: a head that is not well-formed.
        DownloadError: a hub file cannot be had.
    """
    if spec in TRAINING_FREE_HEADS:
        return {"type": "training-free", "path": spec, "name": spec, "about": ABOUT_HEADS[spec]}
    if spec in shipped_heads():
        return head_facts(str(find_head(spec).file()))
    path = find_model("file", spec)
    info = _core.inspect_gguf(to_native(path))
    if info["metadata"].get("general.architecture") == HEAD_ARCHITECTURE:
        return head_facts(path)
    return model_facts(path, info, options)


def head_facts(path: str) -> dict[str, Any]:
    """Facts about a head file."""
    head = Head.load(path)
    return {
        "type": "head",
        "path": path,
        "name": head.name,
        "kind": head.kind,
        "n_embd": head.n_embd,
        "layers": [list(weight.shape) for weight in head.weights],
        "activation": head.activation if head.kind == "mlp" else None,
        "features": list(head.features),
        "top_k": head.top_k or None,
        "base_name": head.base_name,
        "assistant_name": head.assistant_name,
        "expert_names": list(head.expert_names),
        "vocab_fingerprint": head.vocab_fingerprint,
        "base_adapters": None
        if head.base_adapters is None
        else [{"sha256": digest, "scale": scale} for digest, scale in head.base_adapters],
        "default_threshold": head.default_threshold,
        "calibration": [{"rate": r, "threshold": t} for r, t in zip(head.rates, head.thresholds, strict=True)],
        "tables": _tables(head),
        "training": _json(head.training),
        "calibrated_on": _json(head.calibration),
        "file_bytes": os.path.getsize(path),
    }


def _tables(head: Head) -> list[str]:
    """What the head has calibration tables for, in words."""
    try:
        return [str(runs) for runs in known_runs(head)]
    except HeadError as error:
        return [str(error)]


def _json(text: str | None) -> Any:
    """What a head says of its making; as text where it is no JSON."""
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return text


def model_facts(path: str, info: Mapping[str, Any], options: LoadOptions) -> dict[str, Any]:
    """Facts out of a model's header; nothing is loaded."""
    metadata = info["metadata"]
    arch = metadata.get("general.architecture")

    def of_arch(key: str) -> Any:
        return metadata.get(f"{arch}.{key}")

    trained = of_arch("context_length")
    n_ctx = options.context_size(trained if isinstance(trained, int) else 0)
    memory = estimate(path, n_ctx, options)
    return {
        "type": "model",
        "path": path,
        "name": metadata.get("general.name"),
        "architecture": arch,
        "size_label": metadata.get("general.size_label"),
        "parameters": info["n_parameters"],
        "quantisation": quantisation(metadata.get("general.file_type")),
        "file_bytes": info["file_bytes"],
        "expected_bytes": info["expected_bytes"],
        "truncated": info["truncated"],
        "n_ctx_train": trained,
        "n_layer": of_arch("block_count"),
        "n_embd": of_arch("embedding_length"),
        "n_vocab": info["array_lengths"].get("tokenizer.ggml.tokens"),
        "vocab_type": metadata.get("tokenizer.ggml.model"),
        "pre_tokenizer": metadata.get("tokenizer.ggml.pre"),
        "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": metadata.get("tokenizer.ggml.eos_token_id"),
        "chat_template": bool(metadata.get("tokenizer.chat_template")),
        "memory": {
            "n_ctx": n_ctx,
            "weights": memory.weights,
            "kv_cache": memory.kv_cache,
            "compute": memory.compute,
            "total": memory.total,
        },
    }


def quantisation(file_type: Any) -> str | None:
    """The name of llama.cpp's number for it."""
    from gguf import LlamaFileType

    if not isinstance(file_type, int):
        return None
    try:
        return LlamaFileType(file_type).name.removeprefix("MOSTLY_").removeprefix("ALL_")
    except ValueError:
        return f"file type {file_type}"


def pair_facts(known: Preset, head: str | None, options: Mapping[str, Any], text: str | None = None) -> dict[str, Any]:
    """Loads all models and says whether they, and the head, go together.

    ``compatible`` is False where they do not, with the ``reason``. ``waits`` says how tokens of unlike vocabularies
    meet in the file ``text``.

    Raises:
        CorpusError: the file cannot be read, or holds no usable text.
        LoadError: a model cannot be loaded for another reason.
        HeadError: ``head`` is nothing that can serve as one.
    """
    from ._loading import load_pair

    experts = {"experts": {expert.name: str(expert.model) for expert in known.experts}}
    facts: dict[str, Any] = {"base": known.base, **(experts if known.experts else {"assistant": known.assistant})}
    facts |= {"head": head, "compatible": False, "reason": None}
    try:
        pair = load_pair(known.without_head(), options=options, base_options={}, assistant_options={})
    except VocabMismatch as error:
        return {**facts, "reason": str(error), "differing_token": error.token_id if error.token_id >= 0 else None}
    except RemoteVocabularyMismatch as error:
        return {**facts, "reason": str(error)}
    with pair:
        facts.update(_vocabularies(pair))
        facts["compatible"] = True
        if text is not None:
            facts["waits"] = {} if pair.one_vocabulary else _waits(known, pair, options, text)
        if head is not None:
            try:
                # Starting a text checks the head; nothing is computed before its first token is asked for.
                pair.stream([0], head=head).close()
            except HeadError as error:
                facts.update(compatible=False, reason=str(error))
    return facts


def _waits(known: Preset, pair: Pair, options: Mapping[str, Any], file: str) -> dict[str, Any]:
    from ..corpus.documents import BadRow, read_documents
    from ..learn.segments import waits
    from ._loading import load_scorer

    texts = []
    for document in read_documents([file]):
        if isinstance(document, BadRow):
            raise CorpusError(f"{document}; give a text, or rows with completions")
        turns = [message["content"] or "" for message in document.messages if message["role"] == "assistant"]
        texts += turns or [document.completion]
    with load_scorer(
        known.without_head(), options=options, base_options={}, assistant_options={}, weights_of=pair
    ) as scorer:
        return {name: found.facts() for name, found in waits(scorer, texts).items()}


def _vocabularies(pair: Pair) -> dict[str, Any]:
    core = pair.open_core()
    loaded = zip({BASE: pair.base, **pair.experts}.items(), core.n_ids, strict=True)
    models = {name: _vocabulary(model, n_ids, remote=name in pair.remote) for (name, model), n_ids in loaded}
    facts: dict[str, Any] = {"n_shared": pair.n_shared, "one_vocabulary": pair.one_vocabulary}
    if not pair.one_vocabulary:
        facts["overlap"] = {name: _overlap(*core.overlap(i)) for i, name in enumerate(pair.experts, start=1)}
    facts["base_model"] = models.pop(BASE)
    if list(models) == [ASSISTANT]:
        return {**facts, "assistant_model": models[ASSISTANT]}
    return {**facts, "expert_models": models}


def _overlap(both: int, of_base: int, of_expert: int) -> dict[str, Any]:
    """Texts of tokens that the base and an expert have, and the share of each one's."""
    return {"texts": both, "of_base": both / of_base, "of_expert": both / of_expert}


def _vocabulary(model: Mapping[str, Any], n_ids: int, *, remote: bool) -> dict[str, Any]:
    elsewhere = {key: model[key] for key in ("url", "protocol", "top_k", "n_ctx")} if remote else {}
    return {
        **elsewhere,
        "n_vocab": model["n_vocab"],
        "tail": None if model["n_vocab"] is None else model["n_vocab"] - n_ids,
        **{key: model[key] for key in ("n_embd", "vocab_type", "bos_token", "eos_token", "add_bos", "adapters")},
        "eog_tokens": list(model["eog_tokens"]),
        "vocab_fingerprint": model["vocab_fingerprint"],
        "can_rewind": model["can_rewind"],
    }

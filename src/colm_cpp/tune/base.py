"""The base as a torch model, with the weights that its GGUF file holds."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CorpusError, LoadError
from ..machine.cores import usable_cores
from .architecture import GgufFacts
from .data import TuneText
from .loss import Batch, read

__all__ = ["Agreement", "agreement", "load_base", "require_agreement", "with_adapter"]

# Mean difference of log-probabilities, in nats. A quantised file differs, since llama.cpp rounds activations too.
LIMIT_FLOAT = 0.01
LIMIT_QUANTISED = 0.25
_COMPARED = 256  # scored tokens, about


@dataclass(frozen=True, slots=True)
class Agreement:
    """How the torch model compares with llama.cpp, on scored tokens of one text or a few.

    Attributes:
        n_tokens: compared.
        logprob: mean absolute difference of log P(x_t), in nats.
        hidden: relative difference of the hidden states, |torch - llama.cpp| / |llama.cpp|.
        top: share of the tokens at which the likeliest token is the same.
        limit: of ``logprob``, beyond which tuning is refused.
    """

    n_tokens: int
    logprob: float
    hidden: float
    top: float
    limit: float


def load_base(libraries: Any, path: str | os.PathLike[str], dtype: Any) -> Any:
    """The torch model of a GGUF file, its weights dequantised and frozen.

    Args:
        libraries: see :func:`._libraries.libraries`.
        path: the base's file.
        dtype: a torch type.

    Raises:
        LoadError: the architecture is not supported, or transformers cannot read the file.
    """
    file = Path(path)
    facts = GgufFacts(file)
    libraries.transformers.logging.set_verbosity_error()
    libraries.transformers.utils.logging.disable_progress_bar()
    libraries.torch.set_num_threads(usable_cores())
    try:
        where = {"gguf_file": file.name, "local_files_only": True}
        config = libraries.transformers.AutoConfig.from_pretrained(str(file.parent), **where)
        for name, value in facts.corrections().items():
            setattr(config, name, value)
        model = libraries.transformers.AutoModelForCausalLM.from_pretrained(
            str(file.parent), config=config, dtype=dtype, **where
        )
    except (ValueError, KeyError, OSError, RuntimeError, NotImplementedError) as error:
        raise LoadError(
            f"{file} cannot be read by transformers {libraries.transformers.__version__}: {error}"
        ) from error
    facts.correct(model)
    model.requires_grad_(False)
    return model.eval()


def agreement(libraries: Any, model: Any, texts: list[TuneText], limit: float) -> Agreement:
    """Compares the torch model with what llama.cpp said of the same tokens when they were scored."""
    torch = libraries.torch
    chosen: list[TuneText] = []
    for text in texts:
        chosen.append(text)
        if sum(len(text.positions) for text in chosen) >= _COMPARED:
            break
    if not chosen:
        raise CorpusError("there is no text to compare the torch model with llama.cpp on; score more texts")
    logprobs, tops, hidden = [], [], []
    with torch.no_grad():
        for text in chosen:
            outputs = read(torch, model, Batch(torch, [text], _device(model)), (), 0)
            logprobs.append(outputs.logprob.cpu().numpy())
            tops.append(outputs.top.cpu().numpy())
            hidden.append(outputs.hidden.cpu().numpy())
    theirs = np.concatenate([text.base_hidden for text in chosen]).astype(np.float64)
    difference = np.linalg.norm(np.concatenate(hidden) - theirs) / np.linalg.norm(theirs)
    top = np.concatenate([text.base_top for text in chosen])
    logprob = np.concatenate([text.base_logprob for text in chosen])
    return Agreement(
        n_tokens=len(logprob),
        logprob=float(np.abs(np.concatenate(logprobs) - logprob).mean()),
        hidden=float(difference),
        top=float((np.concatenate(tops) == top).mean()),
        limit=limit,
    )


def require_agreement(found: Agreement, path: str | os.PathLike[str]) -> None:
    """Refuses a torch model that differs from the model in the file.

    Raises:
        LoadError: the log-probabilities differ by more than the limit.
    """
    if not found.logprob <= found.limit:  # also refuses NaN
        raise LoadError(
            f"the torch model of {os.fspath(path)} differs from llama.cpp's by {found.logprob:.3f} nats a token; up to "
            f"{found.limit} is rounding (hidden states differ by {found.hidden:.0%}, likeliest tokens are equal at "
            f"{found.top:.0%}). Either transformers reads this file wrongly, or the scores are of another base: score "
            "the texts with this file"
        )


def with_adapter(libraries: Any, model: Any, rank: int, alpha: float, *, checkpointing: bool) -> Any:
    """The model with LoRA matrices on all its linear layers but the vocabulary product, in float32."""
    head = model.get_output_embeddings()
    names = sorted(
        {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if isinstance(module, libraries.torch.nn.Linear) and module is not head
        }
    )
    config = libraries.peft.LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=names, task_type="CAUSAL_LM"
    )
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    adapted = libraries.peft.get_peft_model(model, config)
    for module in adapted.modules():
        if hasattr(module, "lora_A"):
            module.cast_input_dtype_enabled = False  # to float32; see .loss.read
    return adapted


def _device(model: Any) -> Any:
    return next(model.parameters()).device

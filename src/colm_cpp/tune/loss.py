"""What is minimised, in torch: the marginal likelihood through both the base and the head.

With P_b and z from the tuned base and P_a read once beforehand, ``marginal`` is the paper's objective (Shen et al.,
arXiv 2403.03870, section 2.2, equation 3), here with a price c for each deferred token:

    -1/n sum_t log[(1 - sigmoid(z_t)) P_b(x_t) + sigmoid(z_t) P_a(x_t)] + c/n sum_t sigmoid(z_t)

``sft`` is cross-entropy, -1/n sum_t log P_b(x_t). ``regret`` adds to it the loss of
:class:`colm_cpp.learn.objective.RegretLoss` for z. There r_t is of the token that the tuned base would write now. Where
scoring did not keep the assistant's log-probability of that token, r_t is the least that it can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..learn.inputs import MAX_LOG_ODDS
from ..learn.parts import MAX_REGRET
from .data import TuneText

__all__ = ["BaseOutputs", "Batch", "assistant_logprob_of", "losses", "read"]

CHUNK = 256  # scored tokens whose logits exist at a time
# On a CPU, plain attention is faster up to this length; it keeps the weights of all pairs of tokens.
_PLAIN_ATTENTION = 256
_PAD = 0


class Batch:
    """The texts of one pass as tensors. N scored tokens in B texts, padded on the right to L tokens.

    Causal attention lets no token see the padding behind it, so no mask is needed.
    """

    def __init__(self, torch: Any, texts: Sequence[TuneText], device: Any) -> None:
        length = max(len(text.tokens) for text in texts)
        ids = np.full((len(texts), length), _PAD, np.int64)
        for row, text in enumerate(texts):
            ids[row, : len(text.tokens)] = text.tokens

        def joined(name: str) -> Any:
            return torch.from_numpy(np.concatenate([getattr(text, name) for text in texts])).to(device)

        self.ids = torch.from_numpy(ids).to(device)  # [B, L]
        # The output before a token predicts it.
        before = np.concatenate([row * length + text.positions - 1 for row, text in enumerate(texts)])
        self.before = torch.from_numpy(before).to(device)  # [N], in the flattened [B * L]
        self.targets = torch.from_numpy(np.concatenate([text.tokens[text.positions] for text in texts])).to(device)
        self.assistant_logprob = joined("assistant_logprob")
        self.assistant_top = joined("assistant_top")
        self.assistant_top_logprob = joined("assistant_top_logprob")
        self.base_top = joined("base_top")
        self.assistant_logprob_of_base_top = joined("assistant_logprob_of_base_top")
        self.n = len(before)


class BaseOutputs:
    """What the base says of N scored tokens.

    Attributes:
        hidden: after the final norm, ``[N, n_embd]``, float32.
        logprob: log P_b of the targets, ``[N]``, with gradient.
        top: likeliest tokens, ``[N]``.
        features: of the head, ``[N, n_features]``, without gradient.
    """

    def __init__(self, hidden: Any, logprob: Any, top: Any, features: Any) -> None:
        self.hidden, self.logprob, self.top, self.features = hidden, logprob, top, features


def read(torch: Any, model: Any, batch: Batch, features: Sequence[str], top_k: int) -> BaseOutputs:
    """Runs the base over a batch.

    The vocabulary product is made at scored tokens only, in chunks; the backward pass computes their logits again.
    """
    plain = batch.ids.device.type == "cpu" and batch.ids.shape[1] <= _PLAIN_ATTENTION
    model.set_attn_implementation("eager" if plain else "sdpa")
    with _products(torch, model, batch.ids.device.type):
        states = _body(model)(input_ids=batch.ids, use_cache=False).last_hidden_state  # [B, L, n_embd]
    hidden = states.flatten(0, 1)[batch.before]
    head = model.get_output_embeddings()
    scale = _logit_scale(model)

    def chunk(h: Any, targets: Any) -> tuple[Any, Any, Any]:
        logits = scale(head(h).float())
        logprobs = logits.log_softmax(-1)
        top_logprobs, top = logprobs.detach().topk(max(top_k, 2))
        return (
            logprobs.gather(1, targets[:, None])[:, 0],
            top[:, 0],
            _features(torch, logprobs, top_logprobs, features, top_k),
        )

    parts = []
    for begin in range(0, batch.n, CHUNK):
        at = slice(begin, begin + CHUNK)
        if torch.is_grad_enabled():
            parts.append(torch.utils.checkpoint.checkpoint(chunk, hidden[at], batch.targets[at], use_reentrant=False))
        else:
            parts.append(chunk(hidden[at], batch.targets[at]))
    logprob, top, values = (torch.cat(part) for part in zip(*parts, strict=True))
    return BaseOutputs(hidden.float(), logprob, top, values)


def _products(torch: Any, model: Any, device: str) -> Any:
    """Has the adapter's products made in the type of the frozen weights, although it is kept in float32.

    Else each of its layers would keep a float32 copy of its input, and multiply without the instructions for bfloat16.
    """
    dtype = model.get_output_embeddings().weight.dtype
    return torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)


def _body(model: Any) -> Any:
    """The transformer without its vocabulary product."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return inner.model


def _logit_scale(model: Any) -> Any:
    """What some architectures do to their logits."""
    cap = getattr(model.config, "final_logit_softcapping", None)
    return (lambda logits: logits) if not cap else lambda logits: cap * (logits / cap).tanh()


def _features(torch: Any, logprobs: Any, top: Any, features: Sequence[str], top_k: int) -> Any:
    """The features of :mod:`colm_cpp.learn.inputs`, from log-probabilities ``[n, n_vocab]`` and their largest."""
    with torch.no_grad():
        logprobs = logprobs.detach()
        columns = []
        for feature in features:
            if feature == "log_odds":
                # 1 - p1 as a sum over the others keeps its digits where p1 is nearly 1.
                rest = logprobs.scatter(1, logprobs.argmax(1, keepdim=True), float("-inf")).logsumexp(1)
                columns.append((top[:, 0] - rest).clamp(-MAX_LOG_ODDS, MAX_LOG_ODDS)[:, None])
            elif feature == "entropy":
                columns.append(-(logprobs.exp() * logprobs).nan_to_num().sum(1, keepdim=True))
            elif feature == "margin":
                columns.append((top[:, 0] - top[:, 1])[:, None])
            else:
                columns.append(top[:, :top_k])
        return torch.cat(columns, 1) if columns else logprobs.new_zeros((len(logprobs), 0))


def losses(torch: Any, objective: str, outputs: BaseOutputs, z: Any, batch: Batch, cost: float) -> Any:
    """The loss of each scored token, ``[N]``; its mean is what is minimised.

    Args:
        torch: the library.
        objective: see :class:`.options.TuneOptions`.
        outputs: of the base.
        z: deferral logits, ``[N]``.
        batch: the texts.
        cost: price of a deferred token in nats.
    """
    log_sigmoid = torch.nn.functional.logsigmoid
    if objective == "sft":
        return -outputs.logprob
    if objective == "marginal":
        joint = torch.logaddexp(log_sigmoid(-z) + outputs.logprob, log_sigmoid(z) + batch.assistant_logprob)
        return cost * torch.sigmoid(z) - joint
    regret = _regret(torch, outputs.top, batch)
    return -outputs.logprob - regret * log_sigmoid(z) - cost * log_sigmoid(-z)


def assistant_logprob_of(torch: Any, top: Any, batch: Batch) -> Any:
    """log P_assistant of the tokens ``top``, ``[N]``; where it is not known, the least that it can be."""
    # No other token can be likelier than what the assistant's likeliest leaves.
    least = (-torch.expm1(batch.assistant_top_logprob)).clamp_min(1e-30).log()
    found = torch.minimum(least, batch.assistant_top_logprob)
    found = torch.where(top == batch.targets, batch.assistant_logprob, found)
    found = torch.where(top == batch.base_top, batch.assistant_logprob_of_base_top, found)
    return torch.where(top == batch.assistant_top, batch.assistant_top_logprob, found)


def _regret(torch: Any, top: Any, batch: Batch) -> Any:
    """What staying costs in the assistant's likelihood where the base would write ``top``, ``[N]`` nats."""
    return (batch.assistant_top_logprob - assistant_logprob_of(torch, top, batch)).clamp(0.0, MAX_REGRET)

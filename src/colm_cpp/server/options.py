"""Options of a request in the words of the house, which checks them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .._shown import shown
from ..errors import OptionError
from ..options import CHAT_TEMPERATURE, DEFERRAL, GenerationOptions, seed_of
from ..sources.names import TRAINING_FREE_HEADS
from .errors import ApiError
from .names import Way
from .refused import PUBLISHED
from .schemas import ChatRequest, CompletionRequest, ResponsesRequest

__all__ = ["TEMPLATE_VARIABLES", "options_for", "own_fields"]

TEMPLATE_VARIABLES = "template_variables"


def own_fields(given: Mapping[str, Any] | None, experts: Sequence[str], *, chat: bool) -> dict[str, Any]:
    """The fields under ``colm``, by the names of the house's options. ApiError 400: one that is not there.

    ``experts``: the names of those that a head may be for.
    """
    heads = [*TRAINING_FREE_HEADS]
    if len(experts) > 1:
        heads = ["never", *(f"{head}:{name}" for head in TRAINING_FREE_HEADS for name in experts)]
    own = {name: value for name, value in (given or {}).items() if value is not None}
    for name, value in own.items():
        if name in PUBLISHED:
            raise _refused(name, f"colm.{name} has a name of its own in the request; give it as {name}")
        if name == "head" and value not in heads:
            raise _refused(name, f"colm.head is {shown(value)}; a request may choose {', '.join(heads)}")
    if not chat and TEMPLATE_VARIABLES in own:
        raise _refused(TEMPLATE_VARIABLES, f"colm.{TEMPLATE_VARIABLES} is for conversations only; leave it out")
    return own


def options_for(
    way: Way,
    body: ChatRequest | CompletionRequest | ResponsesRequest,
    own: Mapping[str, Any],
    *,
    max_tokens: int | None,
    logprobs: int | None,
    grammar: Any = None,
    response_format: Any = None,
    n_ctx: int,
    number: int = 0,
) -> GenerationOptions:
    """The options of text ``number`` of a request.

    Raises:
        OptionError, GrammarError: a value that its option cannot have.
        ApiError: 400, an unknown option under ``colm``; or one that the model's name decides.
    """
    given: dict[str, Any] = {"max_tokens": max_tokens, "logprobs": logprobs}
    names = ("temperature", "top_p", "frequency_penalty", "presence_penalty", "logit_bias", "seed", "stop")
    given |= {name: value for name in names if (value := getattr(body, name, None)) is not None}
    if not isinstance(body, CompletionRequest):
        given.setdefault("temperature", CHAT_TEMPERATURE)
    if "seed" in given and number and isinstance(given["seed"], int):
        given["seed"] = seed_of(given["seed"], number)
    if "frequency_penalty" in given or "presence_penalty" in given:
        given["penalty_last_n"] = n_ctx  # the published API looks at the whole text
    own = {name: value for name, value in own.items() if name != TEMPLATE_VARIABLES}
    # A name such as demo:base says who writes.
    if way.suffix.startswith(":") and (decided := sorted({"head", *DEFERRAL} & own.keys())):
        raise _refused(decided[0], f"colm.{decided[0]} cannot be combined with the model {way.name}, which decides it")
    form = response_format if response_format is not None else getattr(body, "response_format", None)
    if grammar is not None:
        if "grammar" in own or form is not None:
            field = "colm.grammar" if "grammar" in own else "response_format"
            raise ApiError(400, f"{field} cannot be combined with tools; leave one of them out", param=field)
        given["grammar"] = grammar
    elif form is not None:
        given["response_format"] = form
    try:
        return GenerationOptions.of({**given, **way.options, **own})
    except TypeError as error:
        raise ApiError(400, f"colm: {error}", param="colm", code="unknown_field") from None
    except OptionError as error:
        first = str(error).partition(" ")[0]
        if first in own:
            error.args = (f"colm.{error}",)
        raise


def _refused(name: str, message: str) -> ApiError:
    return ApiError(400, message, param=f"colm.{name}")

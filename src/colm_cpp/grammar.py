"""What may be given as ``grammar=``, turned into GBNF."""

from __future__ import annotations

import json
from typing import Any

from .errors import GrammarError

__all__ = ["to_gbnf"]


def to_gbnf(grammar: Any) -> str:
    """GBNF for a grammar, a JSON schema or a ``llama_cpp.LlamaGrammar``; ``""`` for None.

    A dict, or text that begins with ``{`` (no GBNF does), is a JSON schema; llama-cpp-python's converter turns it
    into GBNF.

    Raises:
        GrammarError: another type, an empty grammar, or a schema that the converter refuses.
    """
    if grammar is None:
        return ""
    if isinstance(grammar, dict):
        return _from_schema(json.dumps(grammar))
    text = grammar if isinstance(grammar, str) else getattr(grammar, "_grammar", None)
    if not isinstance(text, str):
        raise GrammarError(
            f"grammar is of type {type(grammar).__name__}; give GBNF text, a JSON schema or a LlamaGrammar"
        )
    if not text.strip():
        raise GrammarError("the grammar is empty; leave grammar out, or give GBNF with a rule named root")
    if "\0" in text:
        raise GrammarError("the grammar holds a NUL character; GBNF is plain text")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise GrammarError("the grammar holds a lone surrogate; GBNF is UTF-8 text") from None
    return _from_schema(text) if text.lstrip().startswith("{") else text


def _from_schema(schema: str) -> str:
    # Imported here: it brings in the whole of llama_cpp, which only schemas need.
    from llama_cpp.llama_grammar import json_schema_to_gbnf

    from ._log import set_up_log

    try:
        gbnf = json_schema_to_gbnf(schema)
    except Exception as error:  # the converter raises whatever its walk over the schema runs into
        raise GrammarError(f"the JSON schema cannot be turned into a grammar: {error!r}") from error
    finally:
        set_up_log()  # importing llama_cpp claims llama.cpp's log
    return str(gbnf)

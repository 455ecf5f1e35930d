"""What may be given as ``grammar=``, turned into GBNF."""

from __future__ import annotations

import json
import re
from typing import Any

from .errors import GrammarError

__all__ = ["to_gbnf"]

_MAX_LENGTH = 2**20
_MAX_DEPTH = 500
_MAX_RULES = 10_000
# llama.cpp refuses more repetitions than this.
_MAX_COUNT = 2000
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems")
# Literals, classes and comments are passed over; what else matters is named.
_TOKEN = re.compile(
    r'"(?:[^"\\\n]|\\.)*"|\[(?:[^\]\\\n]|\\.)*\]|#[^\n]*|::=|[()]|\{\s*(?P<low>\d+)\s*,\s*(?P<high>\d+)\s*\}'
)


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
        try:
            schema = json.dumps(grammar)
        except (TypeError, ValueError, RecursionError) as error:
            raise GrammarError(f"the JSON schema is no JSON: {error}") from error
        return _from_schema(schema)
    given = grammar if isinstance(grammar, str) else getattr(grammar, "_grammar", None)
    if not isinstance(given, str):
        raise GrammarError(
            f"grammar is of type {type(grammar).__name__}; give GBNF text, a JSON schema or a LlamaGrammar"
        )
    text: str = given
    if not text.strip():
        raise GrammarError("the grammar is empty; leave grammar out, or give GBNF with a rule named root")
    if "\0" in text:
        raise GrammarError("the grammar holds a NUL character; GBNF is plain text")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise GrammarError("the grammar holds a lone surrogate; GBNF is UTF-8 text") from None
    if text.lstrip().startswith("{"):
        return _from_schema(text)
    _check_gbnf(text)
    return text


def _check_gbnf(text: str) -> None:
    """Refuses what llama.cpp's parser would work on for minutes."""
    if len(text) > _MAX_LENGTH:
        raise GrammarError(f"the grammar has {len(text)} characters; at most {_MAX_LENGTH} are read")
    depth = 0
    n_rules = 0
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token == "(":
            depth += 1
            if depth > _MAX_DEPTH:
                raise GrammarError(f"the grammar nests more than {_MAX_DEPTH} groups; name some of them as rules")
        elif token == ")":
            depth -= 1
        elif token == "::=":
            n_rules += 1
            if n_rules > _MAX_RULES:
                raise GrammarError(f"the grammar has more than {_MAX_RULES} rules")
        elif match.group("low") and match.group("high"):
            low, high = match.group("low"), match.group("high")
            # By length first: int() refuses numbers of thousands of digits.
            if (len(low.lstrip("0")), low.lstrip("0")) > (len(high.lstrip("0")), high.lstrip("0")):
                raise GrammarError(f"the grammar repeats {token}; the maximum is below the minimum")


def _check_schema(schema: Any) -> None:
    """Refuses counts that the converter would write out one by one."""
    pending = [schema]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            for key in _COUNTS:
                count = part.get(key)
                if isinstance(count, (int, float)) and count > _MAX_COUNT:
                    raise GrammarError(f"the JSON schema has {key} {count}; at most {_MAX_COUNT} is possible")
            pending += part.values()
        elif isinstance(part, list):
            pending += part


def _from_schema(text: str) -> str:
    try:
        _check_schema(json.loads(text))
    except (json.JSONDecodeError, RecursionError) as error:
        raise GrammarError(f"the JSON schema is no JSON: {error}") from error
    # Imported here: it brings in the whole of llama_cpp, which only schemas need.
    from llama_cpp.llama_grammar import json_schema_to_gbnf

    from ._log import set_up_log

    try:
        gbnf = json_schema_to_gbnf(text)
    except Exception as error:  # the converter raises whatever its walk over the schema runs into
        raise GrammarError(f"the JSON schema cannot be turned into a grammar: {error!r}") from error
    finally:
        set_up_log()  # importing llama_cpp claims llama.cpp's log
    return str(gbnf)

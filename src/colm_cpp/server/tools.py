"""Calls of functions: how a template writes them, and the grammar that a model follows.

How a call looks is learnt from the template itself: it renders a conversation with a call in it. So every template
works whose calls are JSON objects with a name and arguments, whatever stands around them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .._shown import shown
from ..engine.pair import Pair
from ..errors import ChatTemplateError
from ..grammar import to_gbnf
from .errors import ApiError
from .schemas import FlatChoice, Tool, ToolChoice

__all__ = ["Form", "form_of", "tools_of"]

_NAME, _KEY, _VALUE, _SAID = "colm_probe_name", "colm_probe_key", "colm_probe_value", "colm_probe_said"


@dataclass(frozen=True)
class Form:
    """How a template writes calls, and what may be written with these tools.

    Attributes:
        opening: what stands before a call's JSON object; "" where nothing does.
        closing: what stands behind it.
        between: what stands between the closing of a call and the opening of the next; None: there is one at most.
        keys: what the template calls the name and the arguments.
        grammar: GBNF of what may be written.
        bare: beginnings of a text that is one call without opening and closing. Small models leave them out.
    """

    opening: str
    closing: str
    between: str | None
    keys: tuple[str, str]
    grammar: str
    bare: tuple[str, ...] = ()

    @property
    def trigger(self) -> str:
        """The text with which a call begins."""
        return self.opening.strip() or f'{{"{self.keys[0]}"'


def tools_of(tools: Sequence[Tool] | None) -> list[dict[str, Any]]:
    """Tools as templates take them."""
    made = []
    for tool in tools or ():
        function = tool.function.model_dump(exclude_none=True, exclude={"strict"})
        # Templates read both without looking whether they are there.
        function.setdefault("description", "")
        function.setdefault("parameters", {"type": "object", "properties": {}})
        made.append({"type": "function", "function": function})
    return made


def form_of(
    pair: Pair,
    tools: Sequence[Mapping[str, Any]],
    choice: str | ToolChoice | FlatChoice | None,
    *,
    parallel: bool,
    variables: Mapping[str, Any] | None = None,
) -> Form | None:
    """How calls are written with these tools; None where the model may not call any.

    Raises:
        ApiError: 400, a choice without tools, an unknown name, or a template that knows no tools.
        GrammarError: parameters that are no JSON schema.
    """
    if not tools:
        if choice not in (None, "none"):
            raise ApiError(400, "tool_choice needs tools; give them, or leave it out", param="tool_choice")
        return None
    names = [tool["function"]["name"] for tool in tools]
    if len(set(names)) < len(names):
        raise ApiError(400, "two tools have the same name; give each a name of its own", param="tools")
    opening, closing, between, keys = _probed(pair, tools, variables)
    if choice == "none":
        return None
    wanted = choice.function.name if isinstance(choice, ToolChoice) else getattr(choice, "name", None)
    if wanted is not None:
        if wanted not in names:
            raise ApiError(
                400, f"tool_choice names {shown(wanted)}; the tools are {', '.join(names)}", param="tool_choice"
            )
        tools = [tool for tool in tools if tool["function"]["name"] == wanted]
    must_call = wanted is not None or choice == "required"
    form = Form(opening, closing, between if parallel and wanted is None else None, keys, "")
    if not must_call:
        bare = tuple(f'{{"{keys[0]}":{space}{json.dumps(name)}' for name in names for space in (" ", ""))
        # Text that begins like a bare call must not be the beginning of an opening, too.
        if opening.strip() and not any(opening.strip()[0] in begin for begin in bare):
            form = replace(form, bare=bare)
    return replace(form, grammar=_grammar(form, tools, must_call=must_call))


# -- what a template writes ------------------------------------------------------------------------------------------


def _probed(
    pair: Pair, tools: Sequence[Mapping[str, Any]], variables: Mapping[str, Any] | None
) -> tuple[str, str, str | None, tuple[str, str]]:
    """Opening, closing, what stands between two calls, and the keys."""
    asked = {"role": "user", "content": "?"}

    def call(number: int) -> dict[str, Any]:
        function = {"name": f"{_NAME}{number}", "arguments": {_KEY: _VALUE}}
        return {"id": f"call0000{number}", "type": "function", "function": function}

    def rendered(*answer: dict[str, Any]) -> str:
        return pair.render_chat([asked, *answer], tools=tools, template_variables=variables)

    try:
        bare = pair.render_chat([asked], template_variables=variables)
        before = rendered()
        said = rendered({"role": "assistant", "content": _SAID})
        once = rendered({"role": "assistant", "content": "", "tool_calls": [call(1)]})
    except ChatTemplateError as error:
        raise _no_tools(pair, str(error)) from error
    if before == bare or f"{_NAME}1" not in once:
        raise _no_tools(pair, "its chat template does not write them")
    # The turn of the assistant stands between what stands before and behind something that it said.
    start, _, end = said.partition(_SAID)
    begin = next((len(text) for text in (start, before) if once.startswith(text)), None)
    if begin is None or not once.endswith(end):
        raise _no_tools(pair, "its chat template does not say where calls begin and end")
    turn = once[begin : len(once) - len(end)]
    found = _objects(turn)
    if len(found) != 1:
        raise _no_tools(pair, "its calls are no JSON objects with a name and arguments")
    at, stop, value = found[0]
    opening, closing = turn[:at], turn[stop:]
    name = next(key for key, inner in value.items() if inner == f"{_NAME}1")
    arguments = next(key for key, inner in value.items() if inner == {_KEY: _VALUE})
    between = None
    try:
        twice = rendered({"role": "assistant", "content": "", "tool_calls": [call(1), call(2)]})
        (_, stop, _), (at, _, _) = _objects(twice[begin:])
        gap = twice[begin + stop : begin + at]
        if gap.startswith(closing) and gap.endswith(opening):
            between = gap[len(closing) : len(gap) - len(opening)] if opening or closing else gap
    except (ChatTemplateError, ValueError):
        pass  # it writes one call only
    return opening, closing, between, (name, arguments)


def _no_tools(pair: Pair, why: str) -> ApiError:
    return ApiError(400, f"this pair cannot call tools: {why}", param="tools", code="tools_unsupported")


def _objects(text: str) -> list[tuple[int, int, dict[str, Any]]]:
    """The calls of the probe in a text: where their JSON objects begin and end, and their values."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while (at := text.find("{", at)) >= 0:
        try:
            value, end = decoder.raw_decode(text, at)
        except ValueError:
            at += 1
            continue
        if {_KEY: _VALUE} in value.values() and any(str(v).startswith(_NAME) for v in value.values()):
            found.append((at, end, value))
            at = end
        else:
            at += 1
    return found


# -- the grammar -----------------------------------------------------------------------------------------------------


def _grammar(form: Form, tools: Sequence[Mapping[str, Any]], *, must_call: bool) -> str:
    name, arguments = form.keys
    calls = [
        {
            "type": "object",
            "properties": {name: {"const": tool["function"]["name"]}, arguments: _parameters(number, arguments, tool)},
            "required": [name, arguments],
            "additionalProperties": False,
        }
        for number, tool in enumerate(tools)
    ]
    gbnf = to_gbnf({"anyOf": calls})
    rules = [
        line.replace("root ::=", "colm-call ::=", 1) if line.startswith("root ::=") else line
        for line in gbnf.splitlines()
    ]
    closing = _literal(form.closing)
    rules.append(f"colm-first ::= colm-call {closing}")
    more = ""
    if form.between is not None:
        rules.append(f"colm-next ::= {_literal(form.between + form.opening)} colm-call {closing}")
        more = " colm-next*"
    if must_call:
        rules.append(f"root ::= {_literal(form.opening)} colm-first{more}")
    else:
        # The trigger has been written when the call begins; of the JSON object itself it may have written a part.
        rest = form.opening[len(form.opening.rstrip()) :] if form.opening.strip() else None
        body = f"{_literal(rest)} colm-first{more}" if rest is not None else f"colm-first{more}"
        rules += _until(form.trigger, body) if rest is not None else _unless_first(form.trigger, body)
        if form.bare:
            rules[rules.index("root ::= colm-text0")] = "root ::= colm-call | colm-bare0"
            rules += _bare(form.bare, form.trigger[0], "colm-text1" if len(form.trigger) > 1 else body)
    return "\n".join(rules) + "\n"


def _parameters(number: int, key: str, tool: Mapping[str, Any]) -> Any:
    """A tool's schema at its place in the schema of all calls: references to its root now have further to go."""
    escaped = key.replace("~", "~0").replace("/", "~1")
    root = f"#/anyOf/{number}/properties/{escaped}"

    def moved(schema: Any) -> Any:
        if isinstance(schema, list):
            return [moved(part) for part in schema]
        if not isinstance(schema, dict):
            return schema
        return {
            key: root + value[1:]
            if key == "$ref" and isinstance(value, str) and value.startswith("#")
            else value
            if key in ("const", "enum", "default", "examples")
            else moved(value)
            for key, value in schema.items()
        }

    return moved(dict(tool["function"]["parameters"]))


def _until(trigger: str, body: str) -> list[str]:
    """Rules of any text, in which ``body`` follows the trigger, and only it (Knuth, Morris and Pratt)."""
    states = [f"colm-text{i}" for i in range(len(trigger))]
    chars = sorted(set(trigger))

    def after(matched: str) -> int:
        return next(n for n in range(len(matched), -1, -1) if matched.endswith(trigger[:n]))

    rules = ["root ::= colm-text0"]
    for i, state in enumerate(states):
        branches = ['""', f"[^{''.join(map(_in_class, chars))}] colm-text0"]
        for char in chars:
            n = after(trigger[:i] + char)
            branches.append(f"{_literal(char)} " + (body if n == len(trigger) else states[n]))
        rules.append(f"{state} ::= " + " | ".join(branches))
    return rules


def _bare(begins: Sequence[str], first: str, then: str) -> list[str]:
    """Rules of any text that begins with none of these; without what stands in :func:`_until`.

    ``first``: the first character of the trigger, which is in none of them; ``then``: the rule that follows it.
    """
    prefixes = sorted({begin[:n] for begin in begins for n in range(len(begin))})
    names = {prefix: f"colm-bare{i}" for i, prefix in enumerate(prefixes)}
    rules = []
    for prefix, name in names.items():
        following = sorted({begin[len(prefix)] for begin in begins if begin.startswith(prefix)})
        others = "".join(map(_in_class, [first, *following]))
        branches = ['""', f"[^{others}] colm-text0", f"{_literal(first)} {then}"]
        branches += [f"{_literal(char)} {names[prefix + char]}" for char in following if prefix + char in names]
        rules.append(f"{name} ::= " + " | ".join(branches))
    return rules


def _unless_first(trigger: str, body: str) -> list[str]:
    """Rules of a text that is ``body``, or any that does not begin with the trigger."""
    rules = [f"root ::= {body} | colm-text0", 'colm-any ::= [^\\x00] colm-any | [\\x00] colm-any | ""']
    for i, char in enumerate(trigger):
        branches = ['""', f"[^{_in_class(char)}] colm-any"]
        if i + 1 < len(trigger):
            branches.append(f"{_literal(char)} colm-text{i + 1}")
        rules.append(f"colm-text{i} ::= " + " | ".join(branches))
    return rules


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\\b", "\\x08").replace("\\f", "\\x0C")


def _in_class(char: str) -> str:
    special = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\", "]": "\\]", "^": "\\^", "-": "\\-", '"': '\\"'}
    return special.get(char, char)

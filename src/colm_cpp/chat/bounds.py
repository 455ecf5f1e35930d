"""Chat templates with looks at the time and at sizes in them, put there when they are parsed and compiled."""

from __future__ import annotations

from typing import Any, TypeVar

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator
from jinja2.runtime import Context, markup_join, str_join
from jinja2.visitor import NodeTransformer

from .limits import LimitError, current

__all__ = ["BOUNDS_FILTERS", "Bounds", "Generator", "written"]

MAX_NODES = 20_000
"""Parts of a parsed template; the largest in use have some 1,300."""

T = TypeVar("T")


def _unchanged(value: T) -> T:
    current().tick()
    return value


def _made(value: T) -> T:
    return current().made(value)


def _slice(value: Any, start: Any, stop: Any, step: Any) -> Any:
    current().tick()
    return current().made(value[start:stop:step])


@jinja2.pass_eval_context
def _concat(context: nodes.EvalContext, parts: tuple[Any, ...]) -> str:
    budget = current()
    budget.tick()
    budget.room(budget.weigh(parts) - 16 * len(parts))
    return budget.made(markup_join(parts) if context.autoescape else str_join(parts))


BOUNDS_FILTERS = {"_unchanged": _unchanged, "_made": _made, "_slice": _slice, "_concat": _concat}
"""The filters that :class:`Bounds` puts into a template."""


@jinja2.pass_context
def written(_: Context, value: Any) -> str:
    """What ``{{ value }}`` and the text between tags become."""
    budget = current()
    budget.tick()
    # The context's argument is not used, but with it Jinja computes no output while it compiles.
    return budget.made(value if isinstance(value, str) else str(value))


class Bounds(NodeTransformer):
    """Adds to a parsed template what keeps it within its budget."""

    _n_nodes = 0

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        """One node, and all below it."""
        self._n_nodes += 1
        if self._n_nodes > MAX_NODES:
            raise LimitError(f"it has more than {MAX_NODES} parts")
        current().tick()
        return super().visit(node, *args, **kwargs)

    @staticmethod
    def _filter(name: str, value: Any, *args: nodes.Expr) -> nodes.Filter:
        return nodes.Filter(value, name, list(args), [], None, None, lineno=value.lineno)

    def _looking_at_the_time(self, node: nodes.Node) -> nodes.Node:
        # A property, whose look costs less than a call through the sandbox.
        self.generic_visit(node)
        look = nodes.ExprStmt(nodes.EnvironmentAttribute("tick"), lineno=node.lineno)
        node.body.insert(0, look)  # type: ignore[attr-defined]
        return node

    def visit_For(self, node: nodes.For) -> nodes.Node:
        """A loop: before each round, and before each test of an item."""
        self._looking_at_the_time(node)
        if node.test is not None:
            node.test = self._filter("_unchanged", node.test)
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        """A macro: at each call."""
        return self._looking_at_the_time(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        """A block given to a macro: at each call."""
        return self._looking_at_the_time(node)

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        """Text between tags: counted as output each time it is written."""
        return nodes.MarkSafeIfAutoescape(nodes.Const(node.data, lineno=node.lineno), lineno=node.lineno)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        """``a ~ b``"""
        self.generic_visit(node)
        return self._filter("_concat", nodes.Tuple(node.nodes, "load", lineno=node.lineno))

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        """Comparisons go through all of both values."""
        self.generic_visit(node)
        for operand in node.ops:
            operand.expr = self._filter("_unchanged", operand.expr)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        """``a[b:c]``, which Jinja does not ask the sandbox about."""
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        none = nodes.Const(None, lineno=node.lineno)
        part = node.arg
        return self._filter("_slice", node.node, part.start or none, part.stop or none, part.step or none)

    def visit_List(self, node: nodes.List) -> nodes.Node:
        """``[a, b]``"""
        self.generic_visit(node)
        return self._filter("_made", node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        """``{a: b}``"""
        self.generic_visit(node)
        return self._filter("_made", node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        """``(a, b)``, but not the names that are assigned to."""
        self.generic_visit(node)
        return self._filter("_made", node) if node.ctx == "load" else node


class Generator(CodeGenerator):
    """Compiles a template within its budget."""

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        """One node; compiling takes time too."""
        current().tick()
        return super().visit(node, *args, **kwargs)

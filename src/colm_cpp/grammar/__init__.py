"""What a text may be: JSON schemas and grammars, as GBNF."""

from .gbnf import response_grammar, to_gbnf

__all__ = ["response_grammar", "to_gbnf"]

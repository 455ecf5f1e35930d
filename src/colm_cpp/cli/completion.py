"""``colm completion``: commands, options and names with the Tab key."""

from __future__ import annotations

import click

from ._output import echo

__all__ = ["completion"]

_SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what SHELL needs to complete this command with the Tab key.

    \b
    bash: eval "$(colm completion bash)"                  in ~/.bashrc
    zsh:  eval "$(colm completion zsh)"                   in ~/.zshrc
    fish: colm completion fish > ~/.config/fish/completions/colm.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    root = ctx.find_root()
    echo(kind(root.command, {}, "colm", "_COLM_COMPLETE").source())

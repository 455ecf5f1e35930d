"""What every command that loads a pair has in common."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from shlex import quote
from typing import Any

import click
from click.shell_completion import CompletionItem

from ..options import ANSWER_OPTIONS, MAX_PARALLEL
from ..sources.pair_file import Preset
from ..sources.preset import is_preset, packaged_names, preset, preset_files
from ._experts import chosen_experts, refuse_experts
from ._help import Command, option
from ._inputs import read_grammar, read_text
from ._options import GENERATION, LOAD, SLOTS, collect, from_table, model_options, read_model_options

__all__ = [
    "HEAD_HELP",
    "answer_options",
    "chosen_models",
    "color_option",
    "complete_pairs",
    "loading",
    "loading_arguments",
    "model_arguments",
    "models_again",
    "pair_arguments",
    "parallel_option",
    "slots",
    "writing_options",
]

HEAD_HELP = (
    "The deferral head: a head file, hf:org/repo/file.gguf, the name of a head in the package (see 'colm models'), "
    "confidence, entropy, random, always, never, or a token of the base such as '<|defer|>'."
)


def color_option(help: str) -> Callable[[Command], Command]:
    """Adds ``--color``: always, never or auto."""
    return option(
        "Output",
        "--color",
        type=click.Choice(["auto", "always", "never"]),
        default="auto",
        show_default=False,
        help=f"{help} auto: only on a terminal, and only if NO_COLOR is not set.",
    )


def parallel_option(section: str, help: str, default: int = 1) -> Callable[[Command], Command]:
    """Adds ``--parallel``."""
    return option(
        section,
        "--parallel",
        "n_parallel",
        type=click.IntRange(1, MAX_PARALLEL),
        default=default,
        help=help,
    )


def loading_arguments(command: Command) -> Command:
    """Adds the options of loading."""
    command = option("Loading", "--no-check-memory", is_flag=True, help="Load even if memory seems too small.")(command)
    return from_table(LOAD, "Loading")(from_table(SLOTS, "Loading", ["cache_mb"])(model_options(command)))


def pair_arguments(command: Command) -> Command:
    """Adds ``--base``, ``--assistant`` and the options of loading."""
    command = loading_arguments(command)
    command = option("Output", "--verbose", "-v", is_flag=True, help="Show llama.cpp's log on stderr.")(command)
    command = option("Output", "--quiet", "-q", is_flag=True, help="Do not show progress.")(command)
    return model_arguments(command)


def model_arguments(command: Command) -> Command:
    """Adds ``--pair``, and ``--base`` and ``--assistant``, which replace its files or stand alone."""
    command = option(
        "Models",
        "--pair",
        metavar="PAIR",
        shell_complete=complete_pairs,
        help=f"A pair: the name of a preset ({', '.join(packaged_names())}, or one of your own, see 'colm models'), a "
        "folder with a pair.toml, or such a file. --base and --assistant replace its models.",
    )(command)
    given: dict[str, Any] = {"metavar": "MODEL", "shell_complete": complete_files}
    command = option("Models", "--assistant", help="The assistant model, or http://host:port.", **given)(command)
    help = "The base model: a GGUF file or hf:org/repo/file.gguf."
    return option("Models", "--base", help=help, **given)(command)


def answer_options(section: str, seed: str | None) -> Callable[[Command], Command]:
    """Adds ``--max-tokens``, ``--temperature`` and, with that help, ``--seed``. Defaults are those of ``learn``."""
    options = [
        ("temperature", float, "Sampling temperature of the answers; 0 is greedy."),
        ("max_tokens", int, "Maximum tokens per answer; -1: no limit."),
    ]
    if seed is not None:
        options.insert(0, ("seed", int, seed))

    def decorate(command: Command) -> Command:
        for name, type_, help in options:
            flag, default = f"--{name.replace('_', '-')}", ANSWER_OPTIONS[name]
            command = option(section, flag, type=type_, default=default, help=help)(command)
        return command

    return decorate


def complete_pairs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """For a shell: the names of presets, and files."""
    names = [name for name in preset_files() if name.startswith(incomplete)]
    return [CompletionItem(name) for name in names] or [CompletionItem(incomplete, type="file")]


def complete_files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """For a shell: files."""
    return [CompletionItem(incomplete, type="file")]


def chosen_models(values: Mapping[str, Any]) -> Preset:
    """The pair of ``--pair`` with the models that were given in place of its own, or these alone, which have no head.

    Raises:
        click.UsageError: neither a preset nor both models were given, or --expert beside --pair.
        OptionError: there is no preset of that name, or its file has an invalid key.
        LoadError: the pair's file cannot be read.
    """
    base, assistant, name = values["base"], values["assistant"], values["pair"]
    experts = chosen_experts(values)
    if name is not None:
        if experts:
            raise click.UsageError("--pair already gives all models; remove --expert, or give --base instead of --pair")
        chosen = preset(name).with_models(base, assistant)
        refuse_experts(chosen, values)
        return chosen
    if experts and assistant is not None:
        raise click.UsageError("--expert replaces --assistant; give the assistant as --expert assistant=MODEL")
    given = [("--base", base)] if experts else [("--base", base), ("--assistant", assistant)]
    for option_name, model in given:
        if is_preset(model):
            raise click.UsageError(
                f"{model} is a preset of two models, not one model; give --pair {model} instead of {option_name}"
            )
        if model is None:
            raise click.UsageError(
                f"Missing option '{option_name}'; give both models, or a preset such as --pair {packaged_names()[0]}."
            )
    return Preset("", base, assistant or "", None, experts=experts)


def models_again(values: Mapping[str, Any]) -> str:
    """The options that chose the models, as they can be typed in a shell."""
    given = [(name, values[name]) for name in ("pair", "base", "assistant") if values[name] is not None]
    given += [("expert", f"{name}={model}") for name, model in values.get("expert") or ()]
    given += [("expert-option", f"{name}:{own.text}") for name, own in values.get("expert_option") or ()]
    given += [
        (f"{name}-option", own.text) for name in ("base", "assistant") for own in values.get(f"{name}_option") or ()
    ]
    return " ".join(f"--{name} {quote(os.fspath(value))}" for name, value in given)


def writing_options(models: Preset, values: Mapping[str, Any]) -> tuple[str, dict[str, Any], str | None]:
    """What ``generate`` and ``chat`` write with: the head, options of generation, the template in place of the base's.

    Raises:
        click.UsageError: there is no head, or more than one grammar.
        OptionError: a file that cannot be read.
    """
    head = models.head if values["head"] is None else values["head"]
    if head is None:
        raise click.UsageError("Missing option '--head'; give a head, or a pair that has one (--pair).")
    options = collect(GENERATION, values)
    grammar = read_grammar(values["grammar"], values["grammar_file"], values["json_schema"])
    if grammar is not None:
        options["grammar"] = grammar
    template = values["chat_template"]
    return head, options, None if template is None else read_text(template, "chat template")


def loading(values: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of :func:`._loading.load_pair` behind the pair and the head."""
    return {
        "options": collect(LOAD, values),
        "base_options": read_model_options(values["base_option"]),
        "assistant_options": read_model_options(values["assistant_option"]),
        "check_memory": not values["no_check_memory"],
        "show_progress": not (values["quiet"] or values["verbose"]),
    }


def slots(values: Mapping[str, Any], n_parallel: int | None = None) -> dict[str, Any]:
    """The keyword arguments of :func:`._loading.load_pair` for the pair's slots, by default those of ``--parallel``."""
    return {
        "n_parallel": n_parallel or values.get("n_parallel") or 1,
        **collect(SLOTS, {"cache_mb": values["cache_mb"]}),
    }

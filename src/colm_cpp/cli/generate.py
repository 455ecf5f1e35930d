"""``colm generate``: one text, streamed; or many at once."""

from __future__ import annotations

import math
from contextlib import ExitStack, closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from ..engine.pair import DEFAULT_PARALLEL
from ..options import MAX_PARALLEL
from ._batch import read_batch, write_batch
from ._experts import expert_arguments
from ._files import Sink, check, check_stdout, force_option, open_sink, read_by
from ._help import SectionedCommand, option, path_option
from ._inputs import read_prompt, user_messages
from ._options import GENERATION, from_table
from ._own_prompts import OwnPrompts, own_prompt_arguments, own_prompt_files, read_own_prompts
from ._pair import (
    HEAD_HELP,
    chosen_models,
    color_option,
    loading,
    loading_arguments,
    model_arguments,
    slots,
    writing_options,
)

if TYPE_CHECKING:
    from ..engine.pair import Pair
    from ..engine.stream import TokenStream
    from ..results import Completion
    from ..traces.trace import TraceWriter

__all__ = ["generate"]

_INTERRUPTED = "interrupted"


@click.command(cls=SectionedCommand)
@click.argument("prompt", required=False)
@model_arguments
@expert_arguments
@option("Models", "--head", metavar="HEAD", help=HEAD_HELP)
@option(
    "Prompt",
    "--file",
    metavar="FILE",
    help="Read the prompt from FILE (- is stdin). One newline at the end is removed.",
)
@option(
    "Prompt",
    "--batch",
    metavar="FILE",
    help="Write many texts. FILE (- is stdin) has one JSON object per line, with 'prompt' or 'messages', and "
    "optionally 'id' and options such as max_tokens (docs/batch-format.md).",
)
@option("Prompt", "--chat", is_flag=True, help="PROMPT is a user's message: apply the base's chat template.")
@option("Prompt", "--system", metavar="TEXT", help="System message before the user's message; implies --chat.")
@option(
    "Prompt", "--chat-template", metavar="FILE", help="Jinja template to use instead of the base's; implies --chat."
)
@own_prompt_arguments
@from_table(GENERATION)
@option("Text", "--grammar", metavar="TEXT", help="GBNF grammar that the text must follow.")
@option("Text", "--grammar-file", metavar="FILE", help="File with a GBNF grammar that the text must follow.")
@option("Text", "--json-schema", metavar="FILE", help="File with a JSON schema that the text must follow.")
@option("Output", "--json", "as_json", is_flag=True, help="Print JSON with every token instead of the text.")
@path_option(
    "Output",
    "--out",
    metavar="FILE",
    help="With --batch: write the results to FILE in the order of the rows (- is stdout). Unset: print each result to "
    "stdout when its text ends.",
)
@path_option(
    "Output",
    "--trace",
    metavar="FILE",
    help="Write every token to FILE as JSON lines (- is stdout). After Ctrl-C, FILE has the tokens so far.",
)
@path_option(
    "Output",
    "--session",
    metavar="FILE",
    help="Load what the models have read before from FILE, if it exists, and save what they have read to FILE at the "
    "end. If a prompt begins like an earlier one, only the rest is read (docs/sessions.md). Not with --batch.",
)
@force_option("Replace the file of --out or --trace if it exists.")
@color_option("Colour the tokens of the assistant, or of each expert.")
@option("Output", "--quiet", "-q", is_flag=True, help="Show no progress and no summary line.")
@option("Output", "--verbose", "-v", is_flag=True, help="Show llama.cpp's log on stderr.")
@option(
    "Loading",
    "--parallel",
    "n_parallel",
    type=click.IntRange(1, MAX_PARALLEL),
    help="With --batch: number of texts to write at the same time. Each needs a KV cache of --n-ctx tokens. "
    f"[default: {DEFAULT_PARALLEL}]",
)
@loading_arguments
def generate(prompt: str | None, **values: Any) -> None:
    """Continue PROMPT, or answer it with --chat.

    With --batch FILE, many prompts are continued at the same time. Each gives one JSON line with its number. If a text
    fails, its line has an 'error' field.
    """
    from ..options import CHAT_TEMPERATURE, GenerationOptions
    from ..traces.trace import TraceWriter
    from ._loading import load_pair
    from ._output import is_terminal, log_to_stderr, open_writer, print_json, print_legend

    models = chosen_models(values)
    head, options, template = writing_options(models, values)
    chat = values["chat"] or values["system"] is not None or values["chat_template"] is not None
    chat = chat or bool(values["system_for"] or values["template_for"])
    if chat:
        options.setdefault("temperature", CHAT_TEMPERATURE)
    many = values["batch"] is not None
    own_prompts = read_own_prompts(values, models.names)
    if chat and own_prompts.prompts:
        raise click.UsageError("--prompt-for is a finished prompt, and --chat makes one; remove one of the two")
    _check_batch(many, prompt, values)
    text = "" if many else read_prompt(prompt, values["file"], may_be_empty=chat)
    effective = GenerationOptions.of(options)  # raises for a bad value now, not after minutes of loading
    given = loading(values)
    rows = read_batch(values["batch"], options) if many else []
    n_parallel = min(values["n_parallel"] or DEFAULT_PARALLEL, len(rows)) if many else 1
    texts = (values["file"] or (None if prompt is not None or many else "-"), values["batch"])
    others = (values["grammar_file"], values["json_schema"], values["chat_template"], *own_prompt_files(values))
    inputs = read_by({**values, "head": head}, *models.files(), *texts, *others)
    for name in ("out", "trace"):
        others_too = [*inputs, values["session"]]
        check(f"--{name}", values[name], force=values["force"], inputs=others_too, may_be_stdout=True)
    check("--session", values["session"], force=True, inputs=inputs)
    if values["session"] is not None:
        models.refuse_remote("--session")
    # A text may be appended to its own prompt, which has been read. Results of a batch would become rows.
    check_stdout(inputs if many else read_by({**values, "head": head}, *models.files(), *others))

    writer = open_writer(values["color"], silent=values["as_json"])
    with ExitStack() as stack:
        stack.enter_context(log_to_stderr(values["verbose"]))
        pair = stack.enter_context(load_pair(models, values["head"], **given, **slots(values, n_parallel)))
        if many:
            write_batch(
                pair,
                rows,
                options,
                chat=chat,
                system=values["system"],
                template=template,
                own_prompts=own_prompts,
                n_parallel=n_parallel,
                out=values["out"],
                every_token=values["as_json"],
                show_progress=not values["quiet"],
            )
            return
        session = values["session"]
        if session is not None and session.exists():
            pair.load_session(session)
        stream, read = _start(pair, text, chat, values["system"], template, own_prompts, options)
        experts: dict[str, Any] = {"assistant": models.assistant}
        if models.experts:
            experts = {"experts": {expert.name: str(expert.model) for expert in models.experts}}
        names: dict[str, Any] = {"base": models.base, **experts, "head": head, **own_prompts.facts()}
        if models.adapter is not None:
            names["adapter"] = dict(zip(("path", "scale"), models.adapter, strict=True))
        trace = sink = None
        if values["trace"] is not None:
            sink = stack.enter_context(open_sink("--trace", values["trace"]))
            trace = TraceWriter(sink.write)
            # The head stands among the names, in the words of the command line.
            recorded = {name: value for name, value in asdict(effective).items() if name != "head"}
            # JSON has no infinities, and a banned token must stay one.
            recorded["logit_bias"] = {
                token: bias if math.isfinite(float(bias)) else str(bias)
                for token, bias in (effective.logit_bias or {}).items()
            }
            load_options = {"both": given["options"]}
            load_options |= {name: given[f"{name}_options"] for name in ("base", "assistant")}
            load_options |= {expert.name: dict(expert.options) for expert in models.experts}
            trace.begin(
                {
                    "prompt": read,
                    "prompt_tokens": stream.stats.prompt_tokens,
                    **names,
                    "options": recorded,
                    "load_options": load_options,
                    "seed": stream.seed,
                }
            )
        finished = _run(stream, writer, trace, sink)
        if session is not None:
            pair.save_session(session)
        if finished is not None and values["as_json"]:
            print_json({"prompt": read, **names, **finished.to_dict()})
        if not values["quiet"] and (is_terminal("stdout") or is_terminal("stderr")) and not values["as_json"]:
            print_legend(stream.stats, stream.finish_reason or _INTERRUPTED, values["color"])
        if finished is None:
            raise KeyboardInterrupt


def _check_batch(many: bool, prompt: str | None, values: dict[str, Any]) -> None:
    if not many:
        for name in ("out", "n_parallel"):
            if values[name] is not None:
                raise click.UsageError(
                    f"--{name.removeprefix('n_')} needs --batch; remove it, or give a file of prompts with --batch"
                )
        return
    if values["prompt_for"]:
        raise click.UsageError("--prompt-for cannot be used with --batch; write the prompts of models into the rows")
    for what, given in (("PROMPT", prompt), *((f"--{name}", values[name]) for name in ("file", "trace", "session"))):
        if given is not None:
            raise click.UsageError(f"{what} cannot be used with --batch; remove one of the two")


def _start(
    pair: Pair,
    text: str,
    chat: bool,
    system: str | None,
    template: str | None,
    own_prompts: OwnPrompts,
    options: dict[str, Any],
) -> tuple[TokenStream, str]:
    """The stream, and the prompt of the base that it continues."""
    if not chat:
        prompt = own_prompts.prompt(text)
        return pair.stream(prompt, **options), text if isinstance(prompt, str) else prompt["base"]
    messages = user_messages(text, system)
    of_base = own_prompts.systems.get("base")
    rendered = pair.render_chat(messages, chat_template=own_prompts.templates.get("base", template), system=of_base)
    return pair.stream_chat(messages, **own_prompts.template(template), **options), rendered


def _run(stream: TokenStream, writer: Any, trace: TraceWriter | None, sink: Sink | None) -> Completion | None:
    """Shows and records the text as it comes; None where Ctrl-C ended it. A trace is kept from its first token on."""
    with closing(stream):
        try:
            with writer:
                for token in stream:
                    writer.write(token)
                    if trace is not None and sink is not None:
                        trace.token(token)
                        sink.keep()
            finished = stream.completion()
        except KeyboardInterrupt:
            finished = None
        if trace is not None:
            reason = _INTERRUPTED if finished is None else finished.finish_reason
            trace.end(reason, stream.stats, None if finished is None else finished.end_token)
    return finished

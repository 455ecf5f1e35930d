"""``colm serve``: a pair behind OpenAI's HTTP API."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .._numbers import share
from ..options import SlotOptions
from ._experts import expert_arguments
from ._help import SectionedCommand, option, path_option
from ._options import LOAD, collect, read_model_options
from ._pair import HEAD_HELP, chosen_models, pair_arguments, parallel_option, slots

if TYPE_CHECKING:
    from ..server.registry import Registry
    from ..server.settings import Settings

__all__ = ["serve"]

KEY_VARIABLE = "COLM_API_KEY"


@click.command(cls=SectionedCommand)
@pair_arguments
@expert_arguments
@option("Models", "--head", metavar="HEAD", help=HEAD_HELP)
@option("Models", "--defer-rate", type=float, metavar="RATE", help="Deferral rate for requests that set none.")
@option("Models", "--name", help="The pair's name in requests. Unset: that of --pair, or the base's file.")
@path_option(
    "Models",
    "--model-dir",
    metavar="DIR",
    help="Serve every pair of a folder: NAME.toml or NAME/pair.toml. Its colm.toml is read, if there is one.",
)
@path_option("Models", "--config", metavar="FILE", help="Serve the pairs of a colm.toml (docs/server.md).")
@option(
    "Models",
    "--idle",
    type=float,
    metavar="SECONDS",
    help="Free a pair after so many seconds without a request. Unset: pairs stay loaded.",
)
@option(
    "Models", "--memory-mb", type=click.IntRange(1), metavar="MB", help="Memory for loaded pairs. Unset: what is free."
)
@option("Models", "--load-now", is_flag=True, help="Load the first pair before the server answers.")
@parallel_option("Texts", "Number of texts to write at the same time. Each needs a KV cache of --n-ctx tokens.", 4)
@option(
    "Texts",
    "--queue",
    type=click.IntRange(0, 100_000),
    default=64,
    help="Number of texts that may wait for a slot. Further requests get 503 with Retry-After.",
)
@option("Texts", "--max-tokens", type=click.IntRange(1), metavar="N", help="Maximum tokens of any answer.")
@option("Network", "--host", default="127.0.0.1", help="Address to listen to; 0.0.0.0 is all.")
@option("Network", "--port", type=click.IntRange(0, 65535), default=8080, help="Port; 0: a free one.")
@option(
    "Network",
    "--api-key",
    metavar="KEY",
    help=f"Key that every route but /health needs. Lists of processes show it; the variable {KEY_VARIABLE} hides it.",
)
@option(
    "Network",
    "--cors-origin",
    multiple=True,
    metavar="URL",
    help="Origin whose pages may use the server, such as https://example.org; * is all. Repeatable.",
)
@option("Network", "--max-body-mb", type=click.IntRange(1, 1024), default=16, help="Maximum size of a request in MB.")
@option(
    "Network",
    "--keep-alive",
    type=click.FloatRange(0.1, 3600),
    default=5.0,
    help="Seconds of silence after which a stream gets a comment.",
)
@option(
    "Network",
    "--grace",
    type=click.FloatRange(0, 86400),
    default=10.0,
    help="Seconds to finish texts after SIGTERM.",
)
def serve(**values: Any) -> None:
    """Serve pairs over OpenAI's HTTP API: chat completions, completions and responses.

    The model name in a request says who writes: demo is a pair, demo@20% defers a fifth of its tokens, demo:base and
    demo:assistant are its models alone. A pair loads at the first request for it. This command needs
    pip install 'colm-cpp[server]'.
    """
    from ..server import create_app, require_packages

    require_packages()  # before anything is loaded

    from ..server.run import listen, run
    from ._output import echo, log_to_stderr, one_line

    settings, registry = _settings(values), _registry(values)
    listening = listen(values["host"], values["port"])
    if not settings.local_only and settings.api_key is None:
        warning = f"whoever reaches {values['host']} can use this server; --api-key KEY asks for a key"
        echo(one_line(f"colm serve: {warning}"), err=True)
    host, port = listening.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def ready() -> None:
        served = f"{', '.join(registry.entries)} at {address}/v1 and as a chat page at {address}/"
        echo(one_line(f"colm serve: {served} (Ctrl-C ends it)"), err=True)

    with log_to_stderr(values["verbose"]):
        _log_to_stderr(quiet=values["quiet"])
        stopped_by = run(
            create_app(registry, settings),
            listening,
            grace=values["grace"],
            ready=None if values["quiet"] else ready,
            load_now=values["load_now"],
        )
    if stopped_by == signal.SIGINT:
        raise KeyboardInterrupt


def _settings(values: dict[str, Any]) -> Settings:
    from ..server.settings import Settings

    key = values["api_key"]
    if key is None:
        key = os.environ.get(KEY_VARIABLE) or None
    local = values["host"] in ("127.0.0.1", "localhost", "::1")
    return Settings(
        api_key=key,
        cors_origins=tuple(values["cors_origin"]),
        max_tokens=values["max_tokens"],
        max_body=values["max_body_mb"] * 2**20,
        keep_alive=values["keep_alive"],
        local_only=local and key is None,
    )


def _registry(values: dict[str, Any]) -> Registry:
    from dataclasses import replace

    from ..server.registry import Registry
    from ..server.sources import CONFIG, Served, entry, read_config, read_folder

    how = Served(
        options=collect(LOAD, values),
        base_options=read_model_options(values["base_option"]),
        assistant_options=read_model_options(values["assistant_option"]),
        slots=SlotOptions(**slots(values)),
        check_memory=not values["no_check_memory"],
    )
    entries, limits = [], {"idle_s": values["idle"], "memory_mb": values["memory_mb"]}
    given = bool(values["expert"]) or any(values[name] is not None for name in ("pair", "base", "assistant"))
    folder, config = values["model_dir"], values["config"]
    if given or (folder is None and config is None):
        chosen = chosen_models(values)
        head = values["head"]
        name = values["name"] or chosen.name or Path(chosen.base).name.removesuffix(".gguf")
        if values["defer_rate"] is not None:
            rate = share("defer_rate", values["defer_rate"])
            chosen = replace(chosen, defer_rate=rate, head=head or chosen.head)
            head = None  # a head that is given by itself would keep its own threshold
        entries.append(entry(name, chosen, head, how))
    if config is None and folder is not None and (folder / CONFIG).is_file():
        config = folder / CONFIG
    if config is not None:
        configured, own = read_config(config, how)
        entries += configured
        limits = {name: own.get(name) if value is None else value for name, value in limits.items()}
    if folder is not None:
        names = {known.name for known in entries}
        entries += [known for known in read_folder(folder, how) if known.name not in names]
    memory = limits["memory_mb"]
    return Registry(
        entries,
        idle_s=limits["idle_s"],
        memory=None if memory is None else int(memory * 2**20),
        queue=values["queue"],
    )


def _log_to_stderr(*, quiet: bool) -> None:
    from ._output import OneLine

    handler = logging.StreamHandler()
    handler.setFormatter(OneLine("colm serve: %(message)s"))
    for name in ("colm_cpp.server", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.propagate = False
        logger.setLevel(logging.WARNING if quiet or name.startswith("uvicorn") else logging.INFO)

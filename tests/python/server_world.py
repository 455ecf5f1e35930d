"""Servers for the tests of ``colm serve``: a real uvicorn on loopback, with pairs that load in no time."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from conftest import ASSISTANT, BASE, TINY_LOAD, TinyModels

import colm_cpp as colm
from colm_cpp.options import SlotOptions
from colm_cpp.server import Settings, create_app
from colm_cpp.server.registry import Entry, Registry
from colm_cpp.server.run import listen, make_server
from colm_cpp.server.service import Service
from colm_cpp.server.sources import Served, entry
from colm_cpp.sources.pair_file import Preset
from colm_cpp.sources.preset import preset

# As Qwen2.5's: the tools come first, and a call stands between two tags.
TOOLS_TEMPLATE = (
    "{% if tools %}<|im_start|>system\nTools: {{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.content %}{{ m.content }}{% endif %}"
    "{% for call in m.tool_calls or [] %}{% if not loop.first or m.content %}\n{% endif %}"
    '<tool_call>\n{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}'
    "\n</tool_call>"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
F32: dict[str, Any] = {"type_k": "f32", "type_v": "f32", "flash_attn": False}


def served(name: str, pair: Preset, head: str | None = None, *, n_parallel: int = 4, **options: Any) -> Entry:
    """A pair of a registry."""
    how = Served(options=options, base_options={}, assistant_options={}, slots=SlotOptions(n_parallel=n_parallel))
    return entry(name, pair, head, how)


def demo(n_parallel: int = 4, name: str = "demo") -> Entry:
    """The pair in the package."""
    return served(name, preset("demo"), n_parallel=n_parallel, **F32)


def tiny(
    models: TinyModels, name: str = "tiny", *, n_parallel: int = 4, n_ctx: int = 256, endless: bool = False, **load: Any
) -> Entry:
    """A pair of random float32 models whose template knows tools; ``endless``: its texts do not end by themselves."""
    more: dict[str, Any] = {"n_ctx_train": n_ctx, "chat_template": TOOLS_TEMPLATE}
    if endless:
        more["row_scale"] = dict.fromkeys(("<|im_end|>", "<|endoftext|>"), 0.0)
    files = models(**BASE, **more), models(**ASSISTANT, **more)
    pair = Preset(name, str(files[0]), str(files[1]), "confidence")
    return served(name, pair, n_parallel=n_parallel, **{**TINY_LOAD, "n_ctx": n_ctx, **load})


@dataclass
class World:
    """A running server.

    Attributes:
        address: its URL.
        registry: its pairs.
        service: what it does now.
        server: uvicorn's.
    """

    address: str
    registry: Registry
    service: Service
    server: Any

    def pair(self, name: str) -> colm.Pair:
        """A loaded pair."""
        pair = self.registry.entries[name].pair
        assert pair is not None
        return pair


@contextlib.contextmanager
def running(registry: Registry, settings: Settings | None = None, *, grace: float = 2.0) -> Iterator[World]:
    """A server in a thread, on a free port of loopback."""
    app = create_app(registry, settings)
    listening = listen("127.0.0.1", 0)
    server = make_server(app, grace=grace)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
    thread.start()
    try:
        yield World(f"http://127.0.0.1:{listening.getsockname()[1]}", registry, app.state.service, server)
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()
        assert not thread.is_alive()

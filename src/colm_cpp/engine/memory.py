"""Estimates of the memory that models and contexts need, made from the files' headers before anything is allocated."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import _core
from ..errors import NotEnoughMemory
from ..files.paths import parts_of, to_native
from ..machine.limits import FreeMemory, free_memory
from ..options import ASSISTANT, BASE, MAX_LOOKAHEAD, MOST_RUN_OUTPUTS

if TYPE_CHECKING:
    from ..options import LoadOptions

__all__ = [
    "MemoryEstimate",
    "ModelMemory",
    "PairMemory",
    "assistant_rows",
    "base_rows",
    "estimate",
    "rows_of",
    "weights_of",
]

# Bytes per value of a KV cache, block scales included.
_KV_BYTES = {
    "f32": 4.0,
    "f16": 2.0,
    "bf16": 2.0,
    "q8_0": 34 / 32,
    "q4_0": 18 / 32,
    "q4_1": 20 / 32,
    "q5_0": 22 / 32,
    "q5_1": 24 / 32,
    "iq4_nl": 18 / 32,
}
# Context, scheduler and graph of an empty model.
_FIXED = 16 * 2**20
# llama.cpp's bookkeeping of one cell of a cache: its position, and a bit for each text that it may belong to.
_CELL = 58
_CELLS = 256  # each text has a multiple of so many
# Models that load one file with the same values of these share its weights.
_OF_WEIGHTS = (
    "n_gpu_layers", "main_gpu", "split_mode", "tensor_split", "rpc_servers", "repack", "batch_invariant", "use_mmap",
    "use_mlock",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes that one model, or one context of it, is expected to take.

    Attributes:
        weights: the tensors of the file and of all its parts; 0 for a further context on loaded weights.
        kv_cache: keys and values of all tokens, or the states of a recurrent model.
        compute: activations of one pass of the graph, logits, and llama.cpp's bookkeeping of the cache's cells.
        on_gpu: the bytes of the total that are on the GPUs, and on ``servers``.
        servers: other machines that hold part of the model.
    """

    weights: int
    kv_cache: int
    compute: int
    on_gpu: int
    servers: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """``weights + kv_cache + compute``."""
        return self.weights + self.kv_cache + self.compute


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """The memory needs of one model, from its header and its options.

    Attributes:
        weights: bytes of the tensors.
        per_token: bytes of the keys and values of a token.
        per_text: bytes of a recurrent model's state.
        n_caches: KV caches of a context; sliding-window models have two.
        n_heads: attention heads of a layer whose scores are kept for a whole pass; 0 with flash attention.
        per_row: bytes of the activations of a token.
        n_vocab: logits of a token.
        n_ubatch: the most tokens in one pass.
        weights_on_gpu: share of the weights on the GPUs, 0 to 1.
        cache_on_gpu: share of the cache on the GPUs, 0 to 1.
        servers: other machines that hold part of the model. They count as GPUs.
    """

    weights: int
    per_token: float
    per_text: int
    n_caches: int
    n_heads: int
    per_row: int
    n_vocab: int
    n_ubatch: int
    weights_on_gpu: float
    cache_on_gpu: float
    servers: tuple[str, ...] = ()

    @classmethod
    def of(cls, path: str, options: LoadOptions) -> ModelMemory:
        """Reads the header of ``path``, and of the other parts of a split model.

        Raises:
            LoadError: the file is missing or not GGUF.
        """
        info = _core.inspect_gguf(to_native(path))
        weights = sum(_core.inspect_gguf(to_native(part))["tensor_bytes"] for part in parts_of(Path(path)))
        metadata: dict[str, Any] = info["metadata"]
        arch = metadata.get("general.architecture", "")

        def number(key: str, default: int) -> int:
            value = metadata.get(f"{arch}.{key}", default)
            return value if isinstance(value, int) and value >= 0 else default

        n_layer = number("block_count", 0)
        n_embd = number("embedding_length", 0)
        n_head = max(1, number("attention.head_count", 1))
        key_length = number("attention.key_length", n_embd // n_head)
        value_length = number("attention.value_length", n_embd // n_head)
        # Some models have another number of KV heads in each layer: an array.
        per_layer = info["small_int_arrays"].get(f"{arch}.attention.head_count_kv")
        has_attention = f"{arch}.attention.head_count" in metadata or per_layer is not None
        n_kv_heads = (
            sum(per_layer) if per_layer else n_layer * number("attention.head_count_kv", n_head) * has_attention
        )
        per_head = key_length * _KV_BYTES[options.type_k] + value_length * _KV_BYTES[options.type_v]
        inner, state, conv = number("ssm.inner_size", 0), number("ssm.state_size", 0), number("ssm.conv_kernel", 0)

        layers_on_gpu = n_layer + 1 if options.n_gpu_layers < 0 else min(options.n_gpu_layers, n_layer + 1)
        servers = tuple(options.servers())
        has_gpu = bool(servers) or any(device["gpu"] for device in _core.devices())
        on_gpu = layers_on_gpu / (n_layer + 1) if has_gpu else 0.0
        return cls(
            weights=int(weights),
            per_token=n_kv_heads * per_head,
            per_text=4 * n_layer * (inner * state + inner * max(conv - 1, 0)),
            n_caches=1 + (number("attention.sliding_window", 0) > 0),
            n_heads=0 if options.uses_flash_attention() else n_head * has_attention,
            per_row=4 * (6 * n_embd + 3 * number("feed_forward_length", 4 * n_embd)),
            n_vocab=info["array_lengths"].get("tokenizer.ggml.tokens", 0),
            n_ubatch=min(options.pass_size(), options.n_batch),
            weights_on_gpu=on_gpu,
            cache_on_gpu=on_gpu if options.offload_kqv else 0.0,
            servers=servers,
        )

    def context(self, n_ctx: int, *, n_outputs: int = 1, n_texts: int = 1, shared: bool = False) -> MemoryEstimate:
        """One more context on the weights.

        Args:
            n_ctx: the most tokens of a text.
            n_outputs: rows of logits in a batch.
            n_texts: texts at a time.
            shared: True: all texts share ``n_ctx`` tokens. False: each text has ``n_ctx`` tokens.
        """
        cells = -(-n_ctx // _CELLS) * _CELLS
        all_cells = cells if shared else cells * n_texts
        n_ubatch = min(self.n_ubatch, n_ctx)
        # A pass sees all cells of its texts: a mask for each cache, and the scores of one layer's heads.
        attention = 4 * n_ubatch * cells * (self.n_caches + self.n_heads)
        compute = n_ubatch * self.per_row + attention + 8 * self.n_vocab * n_outputs + _FIXED
        if self.per_token:
            compute += _CELL * all_cells * self.n_caches
        cache = int(self.per_token * all_cells) + self.per_text * n_texts
        return MemoryEstimate(0, cache, compute, int(cache * self.cache_on_gpu), self.servers)

    def loaded(self, n_ctx: int, *, n_outputs: int = 1, n_texts: int = 1, shared: bool = True) -> MemoryEstimate:
        """The weights, and the context that they are loaded with. Arguments are those of :meth:`context`."""
        context = self.context(n_ctx, n_outputs=n_outputs, n_texts=n_texts, shared=shared)
        on_gpu = context.on_gpu + int(self.weights * self.weights_on_gpu)
        return MemoryEstimate(self.weights, context.kv_cache, context.compute, on_gpu, self.servers)


def estimate(path: str, n_ctx: int, options: LoadOptions) -> MemoryEstimate:
    """One model, loaded to write one text at a time.

    Raises:
        LoadError: the file is missing or not GGUF.
    """
    return ModelMemory.of(path, options).loaded(n_ctx)


def base_rows(n_slots: int) -> int:
    """Rows of logits that a base with ``n_slots`` slots keeps: of each text, or of a run that it reads at once."""
    return max(MOST_RUN_OUTPUTS, n_slots)


def assistant_rows(n_slots: int) -> int:
    """Rows of logits that an assistant with ``n_slots`` slots keeps, to verify draft tokens."""
    return max(MAX_LOOKAHEAD + 1, n_slots, min(4 * n_slots, 64))


def rows_of(n_models: int, n_slots: int) -> list[int]:
    """Rows of logits of each model of a pair with ``n_slots`` slots."""
    return [base_rows(n_slots), *[assistant_rows(n_slots)] * (n_models - 1)]


@dataclass(frozen=True, slots=True)
class PairMemory:
    """The memory needs of all models, compared with free memory before anything is allocated.

    Attributes:
        models: the needs of each model, the base first.
        sizes: ``n_ctx`` of each.
        n_batch: the smallest ``n_batch``.
        names: what messages call them.
        shares: for each model the number of the first one that loads the same file, whose weights it uses.
        checked: whether later contexts are compared with what is free. False: they are only estimated.
    """

    models: tuple[ModelMemory, ...]
    sizes: tuple[int, ...]
    n_batch: int
    names: tuple[str, ...] = (BASE, ASSISTANT)
    shares: tuple[int, ...] = (0, 1)
    checked: bool = True

    def check_load(self, n_outputs: Sequence[int], n_texts: int, *, shared: bool = True, loaded: bool = False) -> None:
        """Checks all models, each with a context for ``n_texts`` texts and ``n_outputs`` rows of logits.

        ``shared``: see :meth:`ModelMemory.context`. ``loaded``: the weights are in memory, and only contexts are made.

        Raises:
            NotEnoughMemory: names needed and free memory, and the options that need less.
        """
        needs = []
        for i, (model, n_ctx, n) in enumerate(zip(self.models, self.sizes, n_outputs, strict=True)):
            has_weights = loaded or self.shares[i] != i
            need = model.context if has_weights else model.loaded
            needs.append(need(n_ctx, n_outputs=n, n_texts=n_texts, shared=shared))
        what = "a context of this pair" if loaded else "loading this pair"
        self._check(self._by_name(needs), what, "a smaller n_ctx, a smaller KV type or smaller files need less")

    def check_batch(self, n_parallel: int) -> None:
        """Checks a further context of each model, for ``n_parallel`` texts of ``n_ctx`` tokens each.

        Raises:
            NotEnoughMemory: names needed and free memory, and the largest ``n_parallel`` that fits.
        """
        if not self.checked or n_parallel > self.n_batch:
            return  # of too many the extension refuses them, whatever is free
        needs = self._batch(n_parallel)
        free = _Free.now(needs)
        if free.holds(needs):
            return
        most = next((n for n in range(n_parallel - 1, 0, -1) if free.holds(self._batch(n))), 0)
        room = f"the most that fits is n_parallel={most}" if most else "not even n_parallel=1 fits"
        self._check(
            self._by_name(needs),
            f"writing {n_parallel} texts of {min(self.sizes)} tokens at a time",
            f"{room}; a smaller n_ctx or a smaller KV type needs less for each text",
            free,
        )

    def check_turn(self, expert: int, n_slots: int) -> int:
        """Checks the context that an expert makes at its first turn; see ``csrc/llama/pair.h``.

        Args:
            expert: its number, 1 for the first behind the base.
            n_slots: texts at a time.

        Returns:
            The bytes that the context is estimated to take.

        Raises:
            NotEnoughMemory: they are not free. ``expert`` of the error names the expert.
        """
        rows = min(assistant_rows(n_slots), self.n_batch)
        need = self.models[expert].context(self.sizes[expert], n_outputs=rows, n_texts=n_slots)
        name = self.names[expert]
        if not self.checked:
            return need.total  # for the message, should there be no room
        try:
            self._check(
                {name: need},
                f"the first turn of {name} in a text, which makes its context,",
                "a smaller n_ctx or a smaller KV type needs less",
            )
        except NotEnoughMemory as error:
            error.expert = name
            raise
        return need.total

    def _batch(self, n_parallel: int) -> list[MemoryEstimate]:
        return [
            model.context(n_ctx, n_outputs=min(rows, self.n_batch), n_texts=n_parallel)
            for model, n_ctx, rows in zip(self.models, self.sizes, rows_of(len(self.models), n_parallel), strict=True)
        ]

    def _by_name(self, needs: Sequence[MemoryEstimate]) -> dict[str, MemoryEstimate]:
        return dict(zip(self.names, needs, strict=True))

    @staticmethod
    def _check(
        needs: Mapping[str, MemoryEstimate],
        what: str,
        advice: str,
        free: _Free | None = None,
    ) -> None:
        """Compares the estimates with what is free in each place."""
        free = _Free.now(needs.values()) if free is None else free
        each = ", ".join(f"{name} {_gigabytes(need.total)}" for name, need in needs.items())
        for needed, available, place, more in free.places(needs.values()):
            if needed > available.bytes:
                limit = f" ({available.limited_by})" if available.limited_by else ""
                error = NotEnoughMemory(
                    f"{what} is estimated to need {_gigabytes(needed)} {place} ({each} in all), but "
                    f"{_gigabytes(available.bytes)} is free{limit}; {more}{advice}, and load(check_memory=False) "
                    "skips this check"
                )
                error.needed, error.available = needed, available.bytes
                raise error


@dataclass(frozen=True, slots=True)
class _Free:
    """Free memory of this machine, of its GPUs, and of the other machines by their addresses."""

    ram: FreeMemory
    gpu: FreeMemory
    others: Mapping[str, int]

    @classmethod
    def now(cls, needs: Collection[MemoryEstimate]) -> _Free:
        """Asks the servers of these models, too."""
        gpu = sum(device["free_bytes"] for device in _core.devices() if device["gpu"])
        servers = dict.fromkeys(server for need in needs for server in need.servers)
        return cls(free_memory(), FreeMemory(gpu), {server: _core.RpcServer(server).free_bytes for server in servers})

    def places(self, needs: Collection[MemoryEstimate]) -> Iterator[tuple[int, FreeMemory, str, str]]:
        """Of each place: bytes needed, what is free, its name, and what needs less of it."""
        yield sum(need.total - need.on_gpu for need in needs), self.ram, "of memory", ""
        for servers in dict.fromkeys([(), *(need.servers for need in needs)]):
            on_gpu = sum(need.on_gpu for need in needs if need.servers == servers)
            if not servers:
                yield on_gpu, self.gpu, "of GPU memory", "fewer n_gpu_layers need less, "
                continue
            free = FreeMemory(self.gpu.bytes + sum(self.others[server] for server in servers))
            place = f"of memory on {', '.join(servers)} and the GPUs of this machine"
            yield on_gpu, free, place, "fewer n_gpu_layers or more rpc_servers help, "

    def holds(self, needs: Collection[MemoryEstimate]) -> bool:
        """Whether no place is too small."""
        return all(needed <= available.bytes for needed, available, _, _ in self.places(needs))


def _gigabytes(n: float) -> str:
    return f"{n / 1e9:.1f} GB" if n >= 1e8 else f"{n / 1e6:.0f} MB"


def weights_of(paths: Sequence[str], chosen: Sequence[LoadOptions]) -> tuple[int, ...]:
    """For each model the number of the first one whose weights it can use, see ``same_file`` in the extension."""
    keys = [(path, *(repr(getattr(o, name)) for name in _OF_WEIGHTS)) for path, o in zip(paths, chosen, strict=True)]
    return tuple(keys.index(key) for key in keys)

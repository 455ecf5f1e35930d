"""What models of unlike vocabularies write, by the plainest code: docs/decisions/0023 once more, without caches.

Every model reads all of its own tokens at each step. It stands on `oracle.py` and `expert_oracle.py` and, like them,
imports nothing of the package under test.
"""

from __future__ import annotations

import codecs
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import expert_oracle as eo
import numpy as np
import oracle as o
import tiny_models as tm

SPACE = b" \n\t\r"
MOST_ENCODED = 32


@dataclass(frozen=True)
class Step:
    """One token. `margin`: how near another outcome was."""

    token: int
    expert: int
    defer_logit: float | None
    logprob: float
    waited: bool
    margin: float


@dataclass(frozen=True)
class Text:
    """A whole text. `reread`: by model."""

    steps: list[Step]
    text: str
    waited: int
    reread: list[int]


@dataclass
class Reader:
    """A model, and its own tokens of the text: ids, and where each ends in it (None: in a character)."""

    model: o.OracleModel
    vocab: tm.Vocab
    n_ids: int
    prompt: list[int]
    tokens: list[int] = field(default_factory=list)
    ends: list[int | None] = field(default_factory=list)
    n_asked: int = 0
    n_reread: int = 0

    def piece(self, token: int) -> bytes:
        return self.model.token_bytes(token)

    def encode(self, text: bytes) -> list[int]:
        """From the middle of a text."""
        return self._bpe(text) if self.vocab.kind == "bpe" else self._spm(text.decode())

    def _bpe(self, text: bytes) -> list[int]:
        return self.model.tokenize(text, add_special=False, parse_special=False)

    def _spm(self, text: str) -> list[int]:
        """The pair with the best score first, the first of equals; what is in no token is bytes."""
        known = self._texts
        parts = list(text.replace(" ", "\u2581"))
        while True:
            pairs = [(known[a + b][0], -i) for i, (a, b) in enumerate(itertools.pairwise(parts)) if a + b in known]
            if not pairs:
                break
            i = -max(pairs)[1]
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        ids: list[int] = []
        for part in parts:
            ids += [known[part][1]] if part in known else [3 + byte for byte in part.encode()]
        return ids

    @cached_property
    def _texts(self) -> dict[str, tuple[float, int]]:
        return {t.text: (t.score, i) for i, t in enumerate(self.vocab.tokens) if t.type == tm.NORMAL}

    def kept(self, text: bytes) -> int:
        """How many tokens stay when `text` is encoded."""
        begins: list[int | None] = [0, *self.ends]
        for i in range(len(self.tokens), 0, -1):
            at = begins[i]
            if at is None:
                continue
            silent = begins[i - 1] == at
            word = 0 < at < len(text) and text[at] in SPACE and text[at - 1] not in SPACE
            if silent or (word and text[at - 1 : at + 1] not in self._joined) or len(self.tokens) - i >= MOST_ENCODED:
                return i
        return 0

    @cached_property
    def _joined(self) -> set[bytes]:
        """Two bytes that stand one behind the other in a token."""
        pieces = (self.piece(i) for i in range(len(self.vocab.tokens)))
        return {piece[at : at + 2] for piece in pieces for at in range(len(piece) - 1)}

    def read(self, text: bytes) -> None:
        """The tail of `text` once more."""
        n = self.kept(text)
        at = 0 if n == 0 else self.ends[n - 1]
        assert at is not None
        fresh = self.encode(text[at:])
        same = n
        while same < len(self.tokens) and same - n < len(fresh) and self.tokens[same] == fresh[same - n]:
            same += 1
        if self.n_asked > same:
            self.n_reread += self.n_asked - same
            self.n_asked = same
        self.tokens[n:] = fresh
        del self.ends[n:]
        for token in fresh:
            at += len(self.piece(token))
            inside = at < len(text) and text[at] & 0xC0 == 0x80
            self.ends.append(None if inside else at)
        assert at == len(text), "these vocabularies spell every text"

    def begins(self, text: bytes) -> bool:
        """Whether the tokens of `text` begin with those that are here."""
        n = self.kept(text)
        at = 0 if n == 0 else self.ends[n - 1]
        tail = self.tokens[n:]
        return self.encode(text[at:])[: len(tail)] == tail

    def allowed(self, raw: o.F32) -> o.F64:
        """The logits of ids that can be chosen; those of padding inside are out of reach."""
        scores = np.asarray(raw[: self.n_ids], dtype=np.float64).copy()
        scores[self._unused] = -math.inf
        return scores

    @cached_property
    def _unused(self) -> list[int]:
        return [i for i, token in enumerate(self.vocab.tokens[: self.n_ids]) if token.type == tm.UNUSED]

    def ask(self) -> tuple[o.F32, o.F32]:
        self.n_asked = len(self.tokens)
        return self.model.logits_and_hidden([*self.prompt, *self.tokens])


class Shared:
    """The text of all readers. Readers with the same `Vocab` object have one vocabulary."""

    def __init__(self, readers: Sequence[Reader]) -> None:
        self.readers = readers
        self.text = b""
        self.written = b""
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.writer = 0

    def alike(self, a: int, b: int) -> bool:
        return self.readers[a].vocab is self.readers[b].vocab

    def add(self, token: int, writer: int) -> None:
        piece = self.readers[writer].piece(token)
        self.written += piece
        new = self.decoder.decode(piece).encode()
        self.text += new
        for i, reader in enumerate(self.readers):
            if self.alike(i, writer):
                reader.tokens.append(token)
                reader.ends.append(None if self.decoder.getstate()[0] else len(self.text))
            elif new:
                reader.read(self.text)
        self.writer = writer

    def may_take_over(self, reader: int, following: int) -> bool:
        if self.alike(reader, self.writer) or not self.readers[self.writer].tokens:
            return True
        if self.decoder.getstate()[0]:
            return False
        piece = self.readers[self.writer].piece(following)
        new = codecs.getincrementaldecoder("utf-8")("replace").decode(piece).encode()
        return not new or self.readers[reader].begins(self.text + new)


def gumbel(seed: int, position: int, n: int) -> o.F64:
    """The noise of each of the first ``n`` ids, as in `oracle.gumbel_max`."""
    x = np.uint64(o.splitmix64((seed << 32) ^ position)) ^ np.arange(n, dtype=np.uint64)
    with np.errstate(over="ignore"):  # modulo 2^64
        x += np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    u = ((x >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return np.asarray(-np.log(-np.log(u)), dtype=np.float64)


def write(
    readers: Sequence[Reader],
    *,
    head: eo.Head,
    threshold: float,
    hold: int = 1,
    leave_threshold: float | None = None,
    schedule: str = "constant",
    schedule_tokens: int = 0,
    max_tokens: int = 12,
    seed: int = 0,
    temperature: float = 0.0,
) -> Text:
    """A text by `readers`, the base first. A temperature draws from the whole distribution."""
    shared = Shared(readers)
    steps: list[Step] = []
    holder, n_held = 0, 0
    leave = threshold if leave_threshold is None else min(leave_threshold, threshold)
    needs_base = head[2] != "always"

    def choose(expert: int, raw: o.F32, waited: bool, z: float | None) -> Step:
        reader = readers[expert]
        scores = reader.allowed(raw)
        ranked = scores if temperature == 0.0 else scores / temperature + gumbel(seed, position, reader.n_ids)
        token = int(np.argmax(ranked))
        second, first = np.partition(ranked, -2)[-2:]
        logprob = float(o.log_softmax(scores)[token])
        return Step(token, expert, z, logprob, waited, min(margin, float(first - second)))

    while len(steps) < max_tokens:
        position = len(readers[0].prompt) + len(steps)
        margin = math.inf
        last = shared.writer
        eta = leave if steps and steps[-1].expert != 0 else threshold
        eta = o.threshold_at(eta, schedule, schedule_tokens, len(steps))
        # z, and who writes by it; None: the base has to be asked.
        known = None if needs_base else (math.inf, head[1] if o.defers(math.inf, eta) else 0)
        step: Step | None = None
        proposed: Step | None = None
        if n_held > 0:
            step = choose(holder, readers[holder].ask()[0], False, None if known is None else known[0])
        elif not shared.alike(0, last) and (known is None or known[1] != last):
            proposed = choose(last, readers[last].ask()[0], False, None if known is None else known[0])
            margin = min(margin, proposed.margin)
            if not shared.may_take_over(0, proposed.token):
                step = Step(proposed.token, last, proposed.defer_logit, proposed.logprob, True, margin)
        if step is None:
            reads_base = known is None or known[1] == 0
            # The base is a witness where one of its vocabulary wrote last.
            witness = bool(steps) and proposed is None and not reads_base and not shared.alike(last, known[1])  # type: ignore[index]
            evidence = None if proposed is None else proposed.token
            base_step = None
            if reads_base or witness:
                raw, hidden = readers[0].ask()
                base_step = choose(0, raw, False, None)
                if known is None:
                    log_p = o.log_softmax(readers[0].allowed(raw))
                    seen = {"hidden": hidden, "logits": raw, "log_p": log_p, "seed": seed, "position": position}
                    scores = eo.scores_of(head, len(readers) - 1, **seen)
                    any_z = o.logsumexp(np.array(scores))
                    known = (any_z, 1 + int(np.argmax(scores)) if o.defers(any_z, eta) else 0)
                    if len(scores) > 1 and known[1] > 0:
                        margin = min(margin, eo.gap(scores))
                    if 0.0 < eta < 1.0:
                        margin = min(margin, abs(known[0] - math.log(eta) + math.log1p(-eta)))
                if evidence is None:
                    evidence = base_step.token
            assert known is not None
            z, wanted = known
            waited = False
            if wanted not in (0, last) and evidence is not None and steps:
                waited = not shared.may_take_over(wanted, evidence)
                if not shared.alike(wanted, last) and proposed is None and base_step is not None:
                    margin = min(margin, base_step.margin)
            who = last if waited else wanted
            if proposed is not None and who == last:
                step = Step(proposed.token, last, z, proposed.logprob, waited, margin)
            elif who == 0:
                assert base_step is not None
                step = Step(base_step.token, 0, z, base_step.logprob, waited, min(margin, base_step.margin))
            else:
                step = choose(who, readers[who].ask()[0], waited, z)
        if step.expert == 0 or step.waited:
            n_held = 0
        elif n_held > 0:
            n_held -= 1
        else:
            holder, n_held = step.expert, hold - 1
        steps.append(step)
        shared.add(step.token, step.expert)
        if readers[step.expert].model.is_eog(step.token):
            break
    return Text(
        steps,
        shared.written.decode(errors="replace"),
        sum(step.waited for step in steps),
        [reader.n_reread for reader in readers],
    )

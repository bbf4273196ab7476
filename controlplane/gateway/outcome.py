"""What came of an admitted call: filled while the reply streams, sealed exactly once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from msgspec import Struct, field

from inference.backend import BackendReply, Usage

HTTP_ERROR = 400
SAVED_RUNGS = frozenset({"cached", "cache"})


class Outcome(Struct):
    """``status``: ``ok`` (the backend finished; nothing here can say that the agent read it), ``error``, ``timeout``,
    ``cancelled`` (the agent hung up, or the gateway ended, before the backend finished). ``error`` is a stable word, ""
    when there was none. Times are monotonic seconds. ``digest`` is the SHA-256 of the reply that was released to the
    agent, before a door put it into its protocol's shape where that is another; ``kept`` are the chunks themselves, up
    to ``keep_bytes`` in all and not copied, for those who observe.
    """

    started_s: float
    status: str = "cancelled"
    error: str = ""
    http_status: int = 0
    served_by: str = ""
    rung: str = "primary"
    usage: Usage = field(default_factory=Usage)
    cost: Mapping[str, int] = field(default_factory=dict)  # e.g. micro_usd; whole numbers, as the ledger wants them
    first_byte_s: float | None = None
    ended_s: float = 0.0
    byte_count: int = 0
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)
    kept: list[bytes] = field(default_factory=list)
    kept_bytes: int = 0
    keep_bytes: int = 65_536

    @property
    def is_saved(self) -> bool:
        """Whether the answer had been given before: nothing was computed for this call."""
        return self.rung in SAVED_RUNGS

    def answers(self, reply: BackendReply) -> None:
        self.http_status, self.served_by, self.rung, self.usage = (
            reply.status,
            reply.served_by,
            reply.rung,
            reply.usage,
        )

    def saw(self, chunk: bytes, now_s: float) -> None:
        if self.first_byte_s is None:
            self.first_byte_s = now_s
        self.byte_count += len(chunk)
        self.digest.update(chunk)
        if self.kept_bytes + len(chunk) <= self.keep_bytes:
            self.kept.append(chunk)
            self.kept_bytes += len(chunk)

    @property
    def body(self) -> bytes:
        """What was kept of the reply: all of it when it is ``byte_count`` long."""
        return b"".join(self.kept)

    def completes(self) -> None:
        if self.http_status >= HTTP_ERROR:
            self.fails("error", f"upstream_{self.http_status}")
        else:
            self.status = "ok"

    def fails(self, status: str, error: str) -> None:
        self.status, self.error = status, error

"""Copies of predictions for a version that nobody depends on yet: asked, compared, thrown away.

The caller has its whole answer before its copy goes anywhere; only where the version that should answer is held or its
breaker open, a copy for a version on trial goes while a fallback answers. A copy is dropped when too many are under way
or the model has much to do: copies are the first that go. What came of them is counted, and goes into the ledger as
sums from time to time; a copy is nobody's call and has no outcome of its own. What a version on trial answered is shown
to the monitor as well. Fails open: nothing in here can fail a call.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import anyio.abc
import numpy as np
from msgspec import structs
from pydantic import BaseModel, Field

from controlplane.drift.observed import Copied
from inference.backend import Backend, BackendRequest
from inference.errors import BackendError, BackendUnavailable
from inference.tfserving.predict import decode_predict
from inference.tfserving.tensors import Array, TensorError
from inference.tfserving.wire import WireError

KIND = "shadow.summary"
LEAST_URGENT = 9
NEAR_RELATIVE, NEAR_ABSOLUTE = 0.01, 0.001
log = logging.getLogger(__name__)

Append = Callable[[str, Mapping[str, Any]], Awaitable[Any]]


class ShadowSettings(BaseModel, frozen=True, extra="forbid"):
    """Shadow traffic. Which version is copied to, and how much, is an operator's change and not a setting."""

    workers: int = Field(default=4, ge=1, le=64, description="Copies that may be under way at once (count).")
    busy_calls: int = Field(default=32, ge=1, description="Calls under way to a model from which copies are dropped.")
    timeout_s: float = Field(default=5.0, gt=0, description="Longest time for one copy, seconds.")
    compared_bytes: int = Field(default=1024 * 1024, ge=0, description="Answers longer than this are not compared.")
    summary_s: float = Field(default=60.0, gt=0, description="Seconds between summaries in the ledger.")


@dataclass(frozen=True, slots=True)
class Copy:
    """``version`` should answer the caller, and answered ``answer``; None where it was not asked."""

    backend: Backend
    request: BackendRequest
    version: int
    answer: bytes | None
    on_trial: bool = False


@dataclass(slots=True)
class Tally:
    """What came of the copies since ``from_ms``. A row is one prediction of a batch."""

    from_ms: int
    answered: int = 0
    failed: int = 0
    dropped: int = 0
    rows: int = 0
    agreed: int = 0
    difference_micro: int = 0  # sum over rows of the mean absolute difference, in millionths


@dataclass(frozen=True, slots=True)
class Agreement:
    rows: int
    agreed: int
    difference_micro: int


Pair = tuple[str, int, int]  # model, version that answered, version that was asked on the side
Observe = Callable[[str, str, int, int], None]  # model, outcome, rows, rows that agree


def unobserved(model: str, outcome: str, rows: int, agreed: int) -> None: ...


def unkept(copied: Copied) -> None:
    """Nobody watches."""


@dataclass
class Shadows:
    """``run`` must be running for copies to go anywhere. ``keep`` is told what versions on trial answered."""

    settings: ShadowSettings = field(default_factory=ShadowSettings)
    observe: Observe = unobserved
    wall_clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    keep: Callable[[Copied], None] = unkept
    tallies: dict[Pair, Tally] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._tasks: anyio.abc.TaskGroup | None = None
        self._under_way = 0

    async def copying(self, chunks: AsyncGenerator[bytes], copy: Copy, busy: int) -> AsyncGenerator[bytes]:
        """``chunks`` as they are; after the last one the copy is offered. An answer that breaks off is not copied."""
        kept = bytearray()
        async with aclosing(chunks):
            async for chunk in chunks:
                if len(kept) <= self.settings.compared_bytes:
                    kept += chunk
                yield chunk
        self.offer(replace(copy, answer=bytes(kept)), busy)

    async def run(self, append: Append) -> None:
        """Until cancelled; what is not in the ledger then is written at the end."""
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                while True:
                    await anyio.sleep(self.settings.summary_s)
                    await self.record(append)
        finally:
            self._tasks = None
            with anyio.move_on_after(self.settings.timeout_s, shield=True):
                await self.record(append)

    async def record(self, append: Append) -> None:
        """One record for each pair of versions; what could not be recorded is in the next."""
        for pair, tally in list(self.tallies.items()):
            del self.tallies[pair]
            try:
                await append(KIND, {"shadow": self._facts(pair, tally)})
            except Exception:
                log.exception("a shadow summary could not be recorded; it stays for the next", extra={"model": pair[0]})
                self._put_back(pair, tally)

    def _facts(self, pair: Pair, tally: Tally) -> dict[str, int | str]:
        facts: dict[str, int | str] = {"model": pair[0], "version": pair[1], "shadow_version": pair[2]}
        facts |= {"from_ms": tally.from_ms, "to_ms": self._now_ms()}
        counted = {"answered", "failed", "dropped", "rows", "agreed", "difference_micro"}
        return facts | {name: getattr(tally, name) for name in sorted(counted)}

    def _put_back(self, pair: Pair, old: Tally) -> None:
        new = self.tallies.setdefault(pair, Tally(old.from_ms))
        new.from_ms = old.from_ms
        for name in ("answered", "failed", "dropped", "rows", "agreed", "difference_micro"):
            setattr(new, name, getattr(new, name) + getattr(old, name))

    def offer(self, copy: Copy, busy: int) -> None:
        if self._tasks is None or self._under_way >= self.settings.workers or busy >= self.settings.busy_calls:
            self._note(copy, "dropped")
            return
        self._under_way += 1
        self._tasks.start_soon(self._work, copy)

    async def _work(self, copy: Copy) -> None:
        try:
            await self._compare(copy)
        except Exception:
            log.exception("a shadow copy broke", extra={"model": copy.request.target})
            self._note(copy, "failed")
        finally:
            self._under_way -= 1

    async def _compare(self, copy: Copy) -> None:
        timeout_s = min(self.settings.timeout_s, copy.request.timeout_s)
        asked = structs.replace(copy.request, priority=LEAST_URGENT, timeout_s=timeout_s, scope="")
        began_s = self.monotonic()
        try:
            async with copy.backend.send(asked) as reply, aclosing(reply.chunks) as chunks:
                answer = b"".join([chunk async for chunk in chunks])
        except BackendError as error:
            self._note(copy, "failed")
            if not isinstance(error, BackendUnavailable):  # that one never reached a server: no word on the version
                self._show(copy, began_s, failed=error.reason)
            return
        self._show(copy, began_s, answer)
        is_alike = copy.answer is not None and max(len(answer), len(copy.answer)) <= self.settings.compared_bytes
        self._note(copy, "answered", agreement(copy.answer, answer) if is_alike and copy.answer is not None else None)

    def _show(self, copy: Copy, began_s: float, answer: bytes = b"", failed: str = "") -> None:
        if not copy.on_trial:
            return
        request, took_us = copy.request, int((self.monotonic() - began_s) * 1e6)
        version = request.version or 0
        said = request.call_id, self._now_ms(), request.target, version, took_us, failed, request.body, answer
        self.keep(Copied(*said))

    def _note(self, copy: Copy, outcome: str, found: Agreement | None = None) -> None:
        pair = (copy.request.target, copy.version, copy.request.version or 0)
        tally = self.tallies.setdefault(pair, Tally(self._now_ms()))
        setattr(tally, outcome, getattr(tally, outcome) + 1)
        if found is not None:
            tally.rows += found.rows
            tally.agreed += found.agreed
            tally.difference_micro += found.difference_micro
        self.observe(pair[0], outcome, found.rows if found else 0, found.agreed if found else 0)

    def _now_ms(self) -> int:
        return int(self.wall_clock() * 1000)


def agreement(ours: bytes, theirs: bytes) -> Agreement:
    """How far two ``PredictResponse`` say the same, row by row. A shape or an output that differs agrees nowhere."""
    try:
        left, right = decode_predict(ours), decode_predict(theirs)
    except (TensorError, WireError):
        return Agreement(1, 0, 0)
    rows = max((array.shape[0] for array in left.values() if array.ndim), default=1)
    if not rows:
        return Agreement(0, 0, 0)
    same, differences = np.ones(rows, bool), np.zeros(rows)
    if left.keys() != right.keys():
        same[:] = False
    for name in left.keys() & right.keys():
        agree, difference = _compared(left[name], right[name], rows)
        same &= agree
        differences += difference
    return Agreement(rows, int(same.sum()), int(min(differences.sum() * 1e6, 2**53 - 1)))


def _compared(left: Array, right: Array, rows: int) -> tuple[Array, Array]:
    """For each row: whether it says the same, and the mean absolute difference of its numbers.

    Several numbers in a row are scores: the highest one is what it says. A single number says itself, about.
    """
    none = np.zeros(rows)
    if left.shape != right.shape or left.dtype.kind != right.dtype.kind:
        return np.zeros(rows, bool), none
    batch = left.shape[0] if left.ndim else 1
    if batch != rows:
        return np.full(rows, bool(np.array_equal(left, right))), none
    flat, other = left.reshape(rows, -1), right.reshape(rows, -1)
    if left.dtype.kind != "f" or not flat.size:
        return np.array([bool(row) for row in (flat == other).all(axis=1)]), none
    differences = np.nan_to_num(np.abs(flat.astype(float) - other.astype(float))).mean(axis=1)
    if flat.shape[1] > 1:
        return np.equal(flat.argmax(axis=1), other.argmax(axis=1)), differences
    near = np.isclose(flat, other, NEAR_RELATIVE, NEAR_ABSOLUTE, equal_nan=True)
    return near[:, 0], differences

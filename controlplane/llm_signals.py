"""Answers of language models as numbers, made off the call path: a sample waits in a short line, a task takes it apart.

Text stays in this process and is let go as soon as it has been counted: what goes to the monitor are the numbers of
``drift/signals.py``. The line is bounded in length and in bytes, and the task in how much it does at once, so that
calls do not wait for it. Under more load than it may look at, each call has the same chance to be looked at.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import anyio
import anyio.lowlevel

from controlplane.drift.signals import text_signals
from controlplane.gateway.gateway import Admission
from controlplane.gateway.outcome import Outcome
from controlplane.gateway.spoken import (
    BLOCKED,
    CUT_OFF,
    SPEAKING,
    read_asked,
    read_spoken,
    structured_output_failed,
    tool_use_failed,
)
from controlplane.observations import Observations

TURN_S = 0.1
TURN_CPU_S = 0.005  # a twentieth of the time at most; an answer of the largest size takes a millisecond
LONGEST_REQUEST = 256 * 1024  # of a larger one only the answer is read
MICRO = 1_000_000
log = logging.getLogger(__name__)


class Heard(NamedTuple):
    admission: Admission
    outcome: Outcome


@dataclass
class LanguageSignals:
    """``offer`` is called on the call path; ``run`` must be running for anything to come of it."""

    observations: Observations
    per_s: int
    text_bytes: int
    chance: Callable[[], float] = random.random
    cpu_clock: Callable[[], float] = time.thread_time
    skipped: int = 0  # by chance, under load
    broken: int = 0
    _waiting: list[Heard] = field(default_factory=list)
    _offered: int = 0  # since the last turn
    _room: int = field(init=False)

    def __post_init__(self) -> None:
        self._room = -(-self.per_s // round(1 / TURN_S))

    def offer(self, admission: Admission, outcome: Outcome) -> None:
        """Reservoir sampling: of all that are offered in a turn, ``per_s`` of a second's, each as likely as another."""
        if admission.call.operation not in SPEAKING or outcome.status == "cancelled":
            return
        self._offered += 1
        if len(self._waiting) < self._room:
            self._waiting.append(Heard(admission, outcome))
            return
        self.skipped += 1
        place = int(self.chance() * self._offered)
        if place < self._room:
            self._waiting[place] = Heard(admission, outcome)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await anyio.sleep(TURN_S)
            await self.turn()

    async def turn(self) -> None:
        """Make signals of what waits, as long as that takes no more than its part of the time; the rest is let go."""
        waiting, self._waiting, self._offered = self._waiting, [], 0
        spent_s = 0.0
        for done, heard in enumerate(waiting):
            if spent_s > TURN_CPU_S:
                self.skipped += len(waiting) - done
                return
            start_s = self.cpu_clock()
            self._take(*heard)
            spent_s += self.cpu_clock() - start_s
            await anyio.lowlevel.checkpoint()

    def _take(self, admission: Admission, outcome: Outcome) -> None:
        """An answer that cannot be taken apart, whatever the reason, costs its own signals and nobody else's."""
        try:
            values = signals_of(admission, outcome, self.text_bytes)
            self.observations.keep(self.observations.signals(admission, outcome, values))
        except Exception:
            self.broken += 1
            if self.broken == 1:
                log.exception("an answer could not be made into signals; calls go on")


def signals_of(admission: Admission, outcome: Outcome, text_bytes: int) -> dict[str, float]:
    """Everything that one call says about its model. An answer that was given before says nothing of today's model."""
    values = {"timeout": float(outcome.status == "timeout")}
    if outcome.is_saved or outcome.status != "ok":
        return values
    values["latency"] = outcome.ended_s - outcome.started_s
    if admission.call.streams and outcome.first_byte_s is not None:
        values["first_token"] = outcome.first_byte_s - outcome.started_s
    if "micro_usd" in outcome.cost:
        values["cost"] = outcome.cost["micro_usd"] / MICRO
    if outcome.usage.output_tokens is not None:
        values["output_tokens"] = float(outcome.usage.output_tokens)
    return values | _said(admission, outcome, text_bytes)


def _said(admission: Admission, outcome: Outcome, text_bytes: int) -> dict[str, float]:
    call = admission.call
    if outcome.kept_bytes != outcome.byte_count:
        return {}  # a part of an answer is another answer
    is_stream = outcome.body.lstrip()[:1] != b"{"
    spoken = read_spoken(call.operation, outcome.body, is_stream=is_stream)
    if spoken is None:
        return {}
    text = spoken.text
    values = text_signals(text[:text_bytes]) if text or not spoken.tool_calls else {}
    if values:
        values["text_chars"] = float(len(text))
        values["refusal"] = float(bool(values["refusal"]) or spoken.refused)
    values["truncated"] = float(any(ending in CUT_OFF for ending in spoken.endings))
    values["safety_block"] = float(any(ending in BLOCKED for ending in spoken.endings))
    if len(call.body) <= LONGEST_REQUEST:
        asked = read_asked(call.operation, call.body)
        for name, failed in (
            ("structured_output", structured_output_failed(asked, spoken)),
            ("tool_error", tool_use_failed(asked, spoken)),
        ):
            if failed is not None:
                values[name] = float(failed)
    return values

"""What may be asked twice: never after the first byte, never what may have had an effect, never beyond the budget."""

from __future__ import annotations

import asyncio

from inference.errors import BackendError, BackendRejected, BackendUnavailable
from inference.routing.budget import Budget
from inference.routing.choice import Choice
from inference.routing.health import Event
from inference.routing.hedging import HEDGED
from inference.routing.replica import STALLED, TOO_MUCH, Attempt, Call
from inference.routing.settings import RetrySettings

REPEATABLE = HEDGED | {
    "GetModelMetadata",
    "GetModelStatus",
    "chat",
    "completions",
    "count_tokens",
    "embeddings",
    "messages",
    "models",
    "rerank",
    "score",
}
"""Operations that leave nothing behind when they are done twice. ``responses`` may store what it answers."""


class Again:
    """The one layer of retries. Every yes is one token of the budget, spent."""

    def __init__(self, settings: RetrySettings, choice: Choice) -> None:
        self._settings, self._choice = settings, choice
        self.budget = Budget(settings.ratio, settings.per_s, settings.burst)

    def after(self, error: BackendError, call: Call, now_s: float) -> bool:
        """Whether another replica may be asked after ``error``. Where nothing was done, nothing can be done twice."""
        if isinstance(error, BackendRejected) or error.reason in TOO_MUCH:
            return False
        if call.request.operation not in REPEATABLE and not isinstance(error, BackendUnavailable):
            return False
        return self.permits(call, now_s)

    def permits(self, call: Call, now_s: float) -> bool:
        return (
            call.attempts < self._settings.attempts
            and now_s < call.deadline_s
            and self._choice.has_other(call, now_s)
            and self.budget.take(now_s)
        )

    def first_byte_due_s(self, attempt: Attempt) -> float | None:
        """When the head of a reply that begins early is late; None where the head comes with the end, as for a plain
        chat: only its replica's standing still can then tell that something is wrong."""
        request = attempt.call.request
        if request.operation not in REPEATABLE or not (request.streams or request.operation in HEDGED):
            return None
        due_s = attempt.started_s + self._settings.first_byte_s
        return due_s if due_s < attempt.call.deadline_s else None

    def overdue(self, attempt: Attempt) -> None:
        """Its first byte is late: the replica stands still, or merely has too much to do."""
        replica, now_s = attempt.replica, asyncio.get_running_loop().time()
        if attempt.lease:
            replica.settle(attempt.lease, Event.PROBE_FAILED, now_s, "first_byte_timeout")
        elif replica.has_stalled_since(attempt.started_s, now_s):
            replica.health.eject(STALLED, now_s)
        else:
            replica.note_busy(None, now_s)
        self.move(attempt, now_s)

    def move(self, attempt: Attempt, now_s: float) -> None:
        """Take a waiting call from its replica if another one can have it; else leave it where it may yet succeed."""
        if attempt.was_moved or attempt.hedge is not None or attempt.call.request.operation not in REPEATABLE:
            return
        if attempt in attempt.replica.waiting and self.permits(attempt.call, now_s):
            attempt.was_moved = True
            attempt.interrupt()

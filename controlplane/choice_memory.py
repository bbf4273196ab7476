"""What the choice of models has learnt, beyond the life of this process.

The ledger is the memory of what people and agents said: feedback, models under review, models that were let back. A
file keeps the sum of it, so that a start learns only what came after; without the file everything is read again, and
only latencies are lost. A model leaves the choice at once and the record follows: leaving is the safe side. It comes
back only when that is recorded.
"""

from __future__ import annotations

import json
import logging
import os
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import anyio
from anyio import to_thread

from audit import AuditUnavailable, LedgerReceipt, ReadableLedger, Record
from audit.entry import event_time_ms
from controlplane.calls import Principal
from controlplane.telemetry.metrics import Metrics
from inference.selection import Candidate, Review, SelectionSettings, Selector

FEEDBACK, REVIEW, CLEARED = "feedback", "selection.review", "selection.cleared"
KINDS = (FEEDBACK, REVIEW, CLEARED)
FORMAT, PAGE, PPM = 1, 1000, 1_000_000
RETRY_S = 1.0
log = logging.getLogger(__name__)


class NotUnderReview(Exception):
    """Nobody has to look at this model for this task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One judgement as the ledger keeps it. ``comment_commit`` is a keyed commitment; the words are kept nowhere."""

    call: str
    by: str
    tenant: str
    task: str
    model: str
    score_ppm: int
    comment_chars: int = 0
    comment_commit: str = ""

    @property
    def key(self) -> str:
        return given_by(self.call, self.by)


def given_by(call: str, subject: str) -> str:
    return f"{call} {subject}"


class Given:
    """Whose feedback on which call was taken. Bounded: beyond it, calls as old as a forgotten one are refused."""

    def __init__(self, limit: int) -> None:
        self._limit, self._floor_ms = limit, 0
        self._keys: OrderedDict[str, None] = OrderedDict()

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def is_forgotten(self, call: str) -> bool:
        return event_time_ms(call) <= self._floor_ms

    def add(self, key: str) -> None:
        self._keys[key] = None
        if len(self._keys) > self._limit:
            oldest, _ = self._keys.popitem(last=False)
            self._floor_ms = max(self._floor_ms, event_time_ms(oldest.partition(" ")[0]))

    def discard(self, key: str) -> None:
        self._keys.pop(key, None)


class ChoiceMemory:
    """Make it, ``resume`` before serving, ``keep`` until the end, ``save`` once more after it."""

    def __init__(
        self,
        settings: SelectionSettings,
        selector: Selector,
        ledger: ReadableLedger,
        file: Path,
        *,
        candidate: Callable[[str], Candidate | None],
        wall_clock: Callable[[], float],
        metrics: Metrics | None = None,
    ) -> None:
        self._settings, self._selector, self._ledger, self._file = settings, selector, ledger, file
        self._candidate, self._wall_clock, self._metrics = candidate, wall_clock, metrics
        self.given = Given(settings.max_feedback)
        self._pending: deque[Review] = deque()
        self._wake, self._writing = anyio.Event(), anyio.Lock()
        self._index = -1  # what the ledger says up to here is known

    def review(self, review: Review) -> None:
        """``Selector``'s word that a model has left the choice; ``keep`` records it."""
        log.warning("a model is under review", extra={"model": review.model, "task": review.task})
        self._pending.append(review)
        self._wake.set()
        self._show_reviews()

    def resume(self) -> None:
        """Blocking; reads the file and what the ledger has after it."""
        self._restore()
        known, since_ms = self._index, (self._wall_clock() - self._settings.feedback_window_s) * 1000
        at = -1
        while records := self._ledger.read(at, PAGE, kinds=KINDS):
            for record in records:
                if record.index > known:
                    self._take(record)
                elif record.kind == FEEDBACK and record.time_ms >= since_ms:
                    self.given.add(said_in(record.body).key)
            at = records[-1].index
        self._show_reviews()

    async def keep(self) -> None:
        """Until cancelled: reviews are recorded as they come, what was learnt is written now and then."""
        while True:
            with anyio.move_on_after(self._settings.snapshot_s):
                await self._wake.wait()
            self._wake = anyio.Event()
            try:
                await self._record_reviews()
                await self.save()
            except AuditUnavailable as error:
                log.warning("a review waits to be recorded", extra={"cause": error.reason})
                self._wake.set()
                await anyio.sleep(RETRY_S)
            except Exception:
                log.exception("what the choice has learnt could not be kept; trying again")
                await anyio.sleep(RETRY_S)

    async def record(self, said: Said) -> LedgerReceipt:
        """Durable, then learnt. Raises ``AuditUnavailable``: not recorded, therefore not learnt."""
        receipt = await self._ledger.append(FEEDBACK, {"feedback": _facts(said)})
        self._learn(said, self._wall_clock())
        if self._metrics:
            self._metrics.observe_feedback(model=said.model, score=said.score_ppm / PPM)
        self._index = max(self._index, receipt.index)
        return receipt

    async def clear(self, tenant: str, task: str, model: str, by: Principal, reason: str) -> LedgerReceipt:
        """Let a model back into the choice; its accuracy now is what a loss is measured against from here on.

        Raises:
            NotUnderReview: there is nothing to clear.
            AuditUnavailable: not recorded, therefore not done.
        """
        key = self._selector.evidence.key(tenant, task, model)
        if key not in self._selector.reviews:
            raise NotUnderReview(model)
        facts = {"tenant": key[0], "task": task, "model": model, "by": by.subject, "reason": reason}
        receipt = await self._ledger.append(CLEARED, {"selection": facts})
        self._clear(*key)
        self._show_reviews()
        self._index = max(self._index, receipt.index)
        return receipt

    async def save(self) -> None:
        document = {"format": FORMAT, "index": self._index, "evidence": self._selector.evidence.as_json()}
        reviews = self._selector.reviews.values()  # what is not recorded yet is no fact that a start may believe
        document["reviews"] = [asdict(review) for review in reviews if review not in self._pending]
        async with self._writing:
            await to_thread.run_sync(write, self._file, json.dumps(document))

    async def end(self) -> None:
        """Once more at the end. What cannot be written is read from the ledger again."""
        try:
            await self.save()
        except OSError:
            log.exception("what the choice has learnt could not be kept")

    def _restore(self) -> None:
        """A file that cannot be read is as good as none: the ledger has it all."""
        try:
            document = json.loads(self._file.read_text("utf-8"))
            is_ours = document["format"] == FORMAT
            reviews = [Review(**said) for said in document["reviews"]] if is_ours else []
            index = int(document["index"]) if is_ours else -1
            if is_ours:
                self._selector.evidence.restore(document["evidence"])
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.warning("what the choice had learnt cannot be read; reading the ledger", extra={"cause": str(error)})
            return
        self._selector.reviews = {review.key: review for review in reviews}
        self._index = index

    def _take(self, record: Record) -> None:
        body = record.body
        if record.kind == FEEDBACK:
            said = said_in(body)
            if said.key not in self.given:  # a late landing may have been said twice
                self.given.add(said.key)
                self._learn(said, record.time_ms / 1000)
        elif record.kind == REVIEW:
            review = Review(**body["selection"])
            self._selector.reviews[review.key] = review
        else:
            self._clear(*(body["selection"][name] for name in ("tenant", "task", "model")))
        self._index = record.index

    def _learn(self, said: Said, at_s: float) -> None:
        """Of what has left the catalogue, or does another task by now, nothing is learnt."""
        candidate = self._candidate(said.model)
        if candidate is not None and candidate.task == said.task:
            self._selector.evidence.learn_quality(said.tenant, candidate, said.score_ppm / PPM, at_s)

    def _clear(self, tenant: str, task: str, model: str) -> None:
        self._selector.reviews.pop((tenant, task, model), None)
        self._selector.evidence.accept(tenant, task, model)

    def _show_reviews(self) -> None:
        if self._metrics:
            self._metrics.observe_selection_reviews(len(self._selector.reviews))

    async def _record_reviews(self) -> None:
        while self._pending:
            review = self._pending[0]
            receipt = await self._ledger.append(REVIEW, {"selection": asdict(review)})
            self._pending.popleft()
            self._index = max(self._index, receipt.index)


def said_in(body: Mapping[str, Any]) -> Said:
    return Said(**body["feedback"])


def _facts(said: Said) -> dict[str, Any]:
    facts = asdict(said)
    if not said.comment_chars:
        del facts["comment_chars"], facts["comment_commit"]
    return facts


def write(file: Path, text: str) -> None:
    """Whole or not at all, also when the machine stops in the middle."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(file.name + ".new")
    with beside.open("w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    beside.replace(file)

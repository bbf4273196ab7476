"""Behind the door of feedback: whose call was it, which model answered, and was this said before?

Nobody judges another tenant's calls, and nobody judges a call twice. What cannot be told refuses.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from anyio import to_thread

from audit import Record
from audit.entry import event_time_ms
from controlplane.calls import Principal
from controlplane.choice_memory import PPM, ChoiceMemory, Said, given_by
from controlplane.gateway.doors.feedback import Feedback, read_feedback
from controlplane.gateway.gateway import Admission
from inference.backend import BackendReply
from inference.errors import BackendRejected
from inference.selection import Candidate

JSON = (("content-type", "application/json"),)
MODEL = "/model/"
NOT_THEIRS = ("not_found", "no such call of yours")


class Reader(Protocol):
    """``audit.LedgerReader``. Methods block and may be called from any thread."""

    def find(self, event_id: str) -> Record | None: ...
    def outcome_of(self, event_id: str) -> Record | None: ...


@dataclass(frozen=True, slots=True)
class FeedbackDesk:
    """The dispatch of everything below ``/feedback``. ``commit`` is the ledger's keyed commitment to bytes."""

    memory: ChoiceMemory
    reader: Reader
    candidate: Callable[[str], Candidate | None]
    commit: Callable[[bytes], str]
    window_s: float
    wall_clock: Callable[[], float]

    def send(self, admission: Admission) -> AbstractAsyncContextManager[BackendReply]:
        return self._taken(admission)

    @asynccontextmanager
    async def _taken(self, admission: Admission) -> AsyncGenerator[BackendReply]:
        said, by = read_feedback(admission.call.body), admission.principal
        self._require_recent(said.call_id)
        given, key = self.memory.given, given_by(said.call_id, by.subject)
        if key in given:
            raise BackendRejected("feedback_given", "this call has your feedback already")
        given.add(key)  # before anything is waited for, so that two at once are not both the first
        try:
            model = await to_thread.run_sync(self._model_that_answered, said.call_id, by)
            judged = self._said(said, by, model)
            receipt = await self.memory.record(judged)
        except BaseException:
            given.discard(key)
            raise
        answer: dict[str, Any] = {"call_id": said.call_id, "model": judged.model, "score": said.score}
        answer |= {"event_id": receipt.event_id, "ledger_index": receipt.index}

        async def body() -> AsyncGenerator[bytes]:
            yield json.dumps(answer).encode()

        yield BackendReply(200, JSON, body(), served_by="feedback")

    def _require_recent(self, call_id: str) -> None:
        age_s = self.wall_clock() - event_time_ms(call_id) / 1000
        if age_s > self.window_s or self.memory.given.is_forgotten(call_id):
            raise BackendRejected("feedback_late", "this call is too old to be judged")

    def _model_that_answered(self, call_id: str, by: Principal) -> str:
        """Blocking. On a lower rung of the ladder another model answers than was asked: that one is judged."""
        intent = self.reader.find(call_id)
        if intent is None or intent.kind != "intent" or intent.body["principal"]["tenant"] != by.tenant:
            raise BackendRejected(*NOT_THEIRS)
        asked = str(intent.body["action"]["name"])
        if not asked.startswith(MODEL) or intent.body["action"]["kind"] != "infer":
            raise BackendRejected("not_a_model_call", "only answers of models can be judged")
        closing = self.reader.outcome_of(call_id)
        outcome = {} if closing is None else closing.body["outcome"]
        if outcome.get("status") != "ok":
            raise BackendRejected("call_unfinished", "this call has no whole answer to judge")
        if outcome.get("rung") in ("primary", "cache"):
            return asked.removeprefix(MODEL)
        return str(outcome.get("served_by", "")).partition("/")[0]

    def _said(self, said: Feedback, by: Principal, model: str) -> Said:
        candidate = self.candidate(model)
        return Said(
            call=said.call_id,
            by=by.subject,
            tenant=by.tenant,
            task=candidate.task if candidate else "",
            model=model,
            score_ppm=round(said.score * PPM),
            comment_chars=len(said.comment),
            comment_commit=self.commit(said.comment.encode()) if said.comment else "",
        )

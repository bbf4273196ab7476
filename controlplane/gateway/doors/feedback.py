"""``POST /v1/feedback``: what an answer was worth, ``{"call_id": …, "score" or "correct": …, "comment": …}``.

A call like any other: proven, decided by policy (action ``write`` on ``/feedback``), recorded. The comment is committed
to and counted, and kept nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from audit.entry import is_event_id
from controlplane.calls import Call, new_call_id
from controlplane.gateway.gateway import Admission
from controlplane.gateway.problems import BadRequest, Problem
from controlplane.strict_json import Ambiguous, parse_object
from inference.backend import BackendReply

RESOURCE = "/feedback"
MAX_COMMENT_CHARS = 4000
FIELDS = frozenset({"call_id", "score", "correct", "comment"})


@dataclass(frozen=True, slots=True)
class Feedback:
    """``score`` is between 0 (wrong) and 1 (right)."""

    call_id: str
    score: float
    comment: str = ""


class FeedbackDoor:
    name = "feedback"
    paths: Sequence[tuple[str, str]] = [("POST", "/v1/feedback")]

    async def read_call(self, request: Request) -> Call:
        body = await request.body()
        said = read_feedback(body)
        return Call(
            id=new_call_id(),
            door=self.name,
            action="write",
            resource=RESOURCE,
            body=body,
            arguments={"call_id": said.call_id, "score": said.score, "comment_chars": len(said.comment)},
            operation="feedback",
            traceparent=request.headers.get("traceparent", ""),
        )

    def translate(self, admission: Admission, reply: BackendReply) -> BackendReply:  # noqa: ARG002  protocol
        return reply

    def refusal(self, request: Request, problem: Problem) -> Response:  # noqa: ARG002  protocol
        return JSONResponse(problem.as_json(), problem.status, media_type="application/problem+json")

    def broken(self, problem: Problem) -> bytes:  # noqa: ARG002  one small answer, sent whole or not at all
        return b""


def read_feedback(body: bytes) -> Feedback:
    """Raises ``BadRequest``."""
    try:
        said = parse_object(body)
    except Ambiguous as fault:
        raise BadRequest(fault.reason, fault.detail) from None
    unknown = sorted(said.keys() - FIELDS)
    if unknown:
        raise _invalid(f"there is no field {unknown[0][:64]!r}; there are {', '.join(sorted(FIELDS))}")
    call_id, comment = said.get("call_id"), said.get("comment", "")
    if not isinstance(call_id, str) or not is_event_id(call_id):
        raise _invalid("call_id must be the id of a call, as in the x-call-id header of its answer")
    if not isinstance(comment, str) or len(comment) > MAX_COMMENT_CHARS:
        raise _invalid(f"comment must be a text of at most {MAX_COMMENT_CHARS} characters")
    return Feedback(call_id, _score(said), comment)


def _score(said: dict[str, Any]) -> float:
    if ("score" in said) == ("correct" in said):
        raise _invalid("give either score, between 0 and 1, or correct, true or false")
    given = said["score"] if "score" in said else said["correct"]
    is_right_kind = isinstance(given, bool) == ("correct" in said)
    if not is_right_kind or not isinstance(given, int | float) or not 0 <= given <= 1:
        raise _invalid("score is a number between 0 and 1, correct is true or false")
    return float(given)


def _invalid(detail: str) -> BadRequest:
    return BadRequest("invalid_body", detail)

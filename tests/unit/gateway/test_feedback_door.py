"""What the door of feedback reads, and what it refuses before anybody decides."""

from __future__ import annotations

import json
from typing import Any

import pytest

from controlplane.calls import new_call_id
from controlplane.gateway.doors.feedback import MAX_COMMENT_CHARS, Feedback, read_feedback
from controlplane.gateway.problems import BadRequest

CALL = new_call_id()


@pytest.mark.parametrize(
    ("said", "score"),
    [
        ({"score": 0.25}, 0.25),
        ({"score": 0}, 0.0),
        ({"score": 1}, 1.0),
        ({"correct": True}, 1.0),
        ({"correct": False}, 0.0),
    ],
)
def test_a_judgement_is_a_score(said: dict[str, Any], score: float) -> None:
    assert read_feedback(json.dumps({"call_id": CALL, **said}).encode()) == Feedback(CALL, score)


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"score": 0.5, "correct": True},
        {"score": 1.01},
        {"score": -0.1},
        {"score": True},
        {"score": "1"},
        {"score": None},
        {"correct": 1},
        {"correct": "true"},
        {"score": 1, "call_id": "x"},
        {"score": 1, "call_id": 7},
        {"score": 1, "call_id": CALL.upper() + "-"},
        {"score": 1, "comment": 5},
        {"score": 1, "comment": "x" * (MAX_COMMENT_CHARS + 1)},
        {"score": 1, "model": "good"},
    ],
)
def test_what_is_no_judgement_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as caught:
        read_feedback(json.dumps({"call_id": CALL, **said}).encode())
    assert caught.value.reason == "invalid_body"


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"call_id": NaN}', b'{"score": 1, "score": 0}', b"\xff", b'{"score": Infinity}']
)
def test_what_two_parsers_may_read_differently_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        read_feedback(body)

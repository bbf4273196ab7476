"""What a caller may ask of a model that it leaves to us."""

from __future__ import annotations

import pytest

from inference.selection import Candidate, ConstraintError, read_wish
from tests.unit.selection.models import a_candidate


def met(text: str, candidate: Candidate, quality: float = 0.8, latency_ms: float | None = 100.0) -> bool:
    constraints = read_wish(f"auto:chat?{text}").constraints
    return constraints.admits(candidate) and constraints.met_by(quality, latency_ms, 0.002)


NORWEGIAN = a_candidate(
    "m", languages=["nb-NO", "en"], licence="Apache-2.0", tier="small", tags=["law"], context_tokens=4096
)
SILENT = a_candidate("m")


@pytest.mark.parametrize(
    ("text", "is_met"),
    [
        ("language=nb", True),
        ("language=NB-no", True),
        ("language=n", False),
        ("language=fr|en", True),
        ("licence=apache-2.0", True),
        ("licence=MIT|BSD-3-Clause", False),
        ("tier=small", True),
        ("tier=large|builtin", False),
        ("tag=law", True),
        ("min_context_tokens=4096", True),
        ("min_context_tokens=4097", False),
        ("max_latency_ms=100", True),
        ("max_latency_ms=99.9", False),
        ("max_price_usd=0.002", True),
        ("max_price_usd=0.0019", False),
        ("min_quality=0.8", True),
        ("min_quality=0.81", False),
        ("language=nb&tier=large", False),
    ],
)
def test_a_constraint_holds_or_not(text: str, is_met: bool) -> None:
    assert met(text, NORWEGIAN) is is_met


@pytest.mark.parametrize("text", ["language=en", "licence=MIT", "tier=small", "tag=law", "min_context_tokens=1"])
def test_what_a_card_does_not_say_does_not_meet_a_constraint(text: str) -> None:
    assert not met(text, SILENT)


def test_an_unknown_latency_does_not_meet_a_limit() -> None:
    assert not met("max_latency_ms=1e9", SILENT, latency_ms=None)


def test_header_and_name_say_the_same_in_one_way_of_writing() -> None:
    by_name = read_wish("auto:chat?max_latency_ms=200&language=nb")
    by_header = read_wish("auto:chat", "language=nb, max_latency_ms=200")
    assert by_name.constraints.text == by_header.constraints.text == "language=nb&max_latency_ms=200"
    assert by_name.task == "chat"


@pytest.mark.parametrize(
    ("name", "header", "reason"),
    [
        ("auto:", "", "auto_task_unreadable"),
        ("auto:../tiny", "", "auto_task_unreadable"),
        ("auto:chat/completions", "", "auto_task_unreadable"),
        ("auto:chat?max_latency=200", "", "auto_constraint_unknown"),
        ("auto:chat", "cheap", "auto_constraint_unknown"),
        ("auto:chat?max_latency_ms=soon", "", "auto_constraint_unreadable"),
        ("auto:chat?max_latency_ms=nan", "", "auto_constraint_unreadable"),
        ("auto:chat?max_latency_ms=-1", "", "auto_constraint_unreadable"),
        ("auto:chat?language=", "", "auto_constraint_unreadable"),
        ("auto:chat?language=nb", "language=en", "auto_constraint_unreadable"),
        ("auto:chat?tag=" + "x" * 600, "", "auto_constraint_unreadable"),
    ],
)
def test_what_is_not_understood_is_refused_and_never_dropped(name: str, header: str, reason: str) -> None:
    with pytest.raises(ConstraintError) as caught:
        read_wish(name, header)
    assert caught.value.reason == reason

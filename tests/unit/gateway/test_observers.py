"""An observer that breaks hurts neither the call nor the other observers, and says so once."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from controlplane.calls import Receipt
from controlplane.gateway.gateway import Admission
from controlplane.gateway.observers import Bystander, Observers
from controlplane.gateway.outcome import Outcome
from tests.unit.gateway.conftest import AGENT, ALLOW, DENY, Rig, Watcher, a_call

RECEIPT = Receipt("e1", 0, "")


class Broken:
    def refused(self, *_: Any) -> None:
        raise RuntimeError("refused")

    def admitted(self, *_: Any) -> None:
        raise RuntimeError("admitted")

    def observe(self, *_: Any, recorded: bool) -> None:
        raise RuntimeError("observe")


def test_the_others_see_every_call_and_the_log_one_line(caplog: pytest.LogCaptureFixture) -> None:
    before, after = Watcher(), Watcher()
    observers = Observers([before, Broken(), after])
    admission = Admission(a_call(), AGENT, ALLOW, RECEIPT, 0.0, 0.0)
    with caplog.at_level(logging.ERROR):
        observers.refused(a_call(), AGENT, DENY, RECEIPT)
        observers.admitted(admission)
        observers.observe(admission, Outcome(0.0, status="ok"), recorded=True)
    assert before.seen == after.seen == [("refused", "no_matching_rule"), ("admitted",), ("observed", "ok", True)]
    assert [record.getMessage() for record in caplog.records] == ["an observer broke; calls go on"]


def test_who_watches_only_the_end_of_calls_is_told_of_that() -> None:
    class Ends(Bystander):
        def observe(self, admission: Admission, outcome: Outcome, *, recorded: bool) -> None:
            seen.append((outcome.status, recorded))

    seen: list[tuple[str, bool]] = []
    observers, admission = Observers([Bystander(), Ends()]), Admission(a_call(), AGENT, ALLOW, RECEIPT, 0.0, 0.0)
    observers.refused(a_call(), AGENT, DENY, RECEIPT)
    observers.admitted(admission)
    observers.observe(admission, Outcome(0.0, status="ok"), recorded=False)
    assert seen == [("ok", False)]


async def test_a_call_goes_through_while_an_observer_is_broken(rig: Rig) -> None:
    rig.watcher = Observers([Broken()])  # type: ignore[assignment]  # any observer will do
    assert b"".join(await rig.relay(await rig.admit())) == b"abc"
    assert rig.ledger.entries[-1][:2] == ("outcome", "ok")

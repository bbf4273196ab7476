"""The exact bytes that records say of calls: one line of the golden file for each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

import pytest

from audit import Commitments, LedgerReceipt, Pairing
from audit.entry import canonical, is_event_id
from controlplane.calls import Call, Decision, Effect, Obligation, Principal, Receipt, RuleRef
from controlplane.gateway.gateway import Admission
from controlplane.gateway.outcome import Outcome
from controlplane.gateway.recorder import LedgerRecorder
from inference.backend import Usage

GOLDEN = (Path(__file__).parents[2] / "golden/ledger/calls.jsonl").read_bytes().splitlines()

PLAIN = Call(
    id="c1",
    door="openai.chat",
    action="infer",
    resource="/model/tiny",
    operation="chat",
    body=b'{"model": "tiny", "messages": []}',
)
FULL = Call(
    id="c2",
    door="tfserving.rest",
    action="infer",
    resource="/model/risk",
    operation="Predict",
    version=0,
    label="stable",
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    selection={"asked": "auto:risk", "candidates": [{"model": "risk", "score_ppm": 812_000}]},
)
AGENT = Principal(subject="agent:seven", tenant="acme", issuer="urn:i", token_id="t1")
CHAIN = Principal(subject="användare", tenant="acme", kind="user", chain=("agent:one", "agent:two"))
ALLOW = Decision(
    effect=Effect.ALLOW,
    reason="granted",
    revision="r1",
    rules=(RuleRef("chat.all", "roles/a.yaml:3"), RuleRef("chat.more", "roles/a.yaml:9")),
    obligations=(Obligation("max_tokens", {"max": 5}), Obligation("mask", {"fields": ["a", "b"]})),
    eval_us=12,
)
DENY = Decision(effect=Effect.DENY, reason="no_matching_rule", revision="")


class Written:
    """A ledger that keeps what it was given."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, bytes, dict[str, Any]]] = []

    async def append(self, kind: str, body: Mapping[str, Any], **pairing: Unpack[Pairing]) -> LedgerReceipt:
        self.entries.append((kind, canonical(body), dict(pairing)))
        return LedgerReceipt("e1", 3, b"", "head")


@pytest.fixture
def ledger() -> Written:
    return Written()


@pytest.fixture
def recorder(ledger: Written) -> LedgerRecorder:
    return LedgerRecorder(ledger, Commitments(b"k" * 32))  # type: ignore[arg-type]  # it only appends


@pytest.mark.parametrize(
    ("line", "asked"),
    [(0, (PLAIN, AGENT, ALLOW)), (1, (FULL, CHAIN, ALLOW)), (2, (FULL, CHAIN, DENY)), (3, (PLAIN, AGENT, DENY))],
)
async def test_what_was_decided(
    ledger: Written, recorder: LedgerRecorder, line: int, asked: tuple[Call, Principal, Decision]
) -> None:
    call, _, decision = asked
    receipt = await recorder.record_intent(*asked)
    kind = "intent" if decision.permits else "deny"
    assert ledger.entries == [(kind, GOLDEN[line], {"event_id": call.id, "opens": decision.permits})]
    assert receipt == Receipt("e1", 3, "head")


def answered() -> Outcome:
    outcome = Outcome(started_s=1.0, ended_s=1.5, status="ok", http_status=200, served_by="tiny/1")
    outcome.usage, outcome.cost = Usage(9, 5, 0), {"micro_usd": 3, "energy_uwh": 7}
    outcome.saw(b"abc", 1.25)
    return outcome


def hung_up() -> Outcome:
    return Outcome(started_s=1.0, ended_s=1.0000004)


def failed() -> Outcome:
    outcome = Outcome(started_s=1.0, ended_s=3.0, http_status=503, served_by="light", rung="lighter")
    outcome.usage = Usage(None, -1, 2**53)
    outcome.fails("error", "upstream_503")
    return outcome


@pytest.mark.parametrize(("line", "outcome"), [(4, answered()), (5, hung_up()), (6, failed())])
async def test_what_came_of_it(ledger: Written, recorder: LedgerRecorder, line: int, outcome: Outcome) -> None:
    admission = Admission(PLAIN, AGENT, ALLOW, Receipt("e0", 0, ""), 1.0, 1.0)
    receipt = await recorder.record_outcome(admission, outcome)
    [(kind, said, pairing)] = ledger.entries
    assert (kind, said, pairing["closes"]) == ("outcome", GOLDEN[line], "e0")
    assert is_event_id(pairing["event_id"])
    assert receipt == Receipt("e1", 3, "head")

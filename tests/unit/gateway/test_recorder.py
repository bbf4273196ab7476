"""What the ledger learns of a call, written by the real recorder into a real ledger."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from audit import AuditSettings, Record, RecordRefused, SqliteLedger, new_event_id
from controlplane.calls import Decision, Effect, Obligation, Principal, RuleRef
from controlplane.gateway.gateway import Admission
from controlplane.gateway.outcome import Outcome
from controlplane.gateway.recorder import NAME_CHARS, LedgerRecorder
from inference.backend import BackendReply, Usage
from tests.unit.gateway.conftest import AGENT, ALLOW, DENY, a_call

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def nothing() -> AsyncIterator[bytes]:
    return
    yield b""


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[SqliteLedger]:
    ledger = SqliteLedger(AuditSettings(path=tmp_path / "l.sqlite", signing_key=tmp_path / "s.key", writer="thread"))
    await ledger.open()
    yield ledger
    await ledger.close()


@pytest.fixture
def recorder(ledger: SqliteLedger) -> LedgerRecorder:
    return LedgerRecorder(ledger, lambda data: f"commit:{len(data)}")


async def admitted(recorder: LedgerRecorder, decision: Decision = ALLOW, principal: Principal = AGENT) -> Admission:
    call = a_call(id=new_event_id(), body=b'{"secret": 1}', version=2, label="stable", traceparent=TRACE)
    receipt = await recorder.record_intent(call, principal, decision)
    return Admission(call, principal, decision, receipt, 1.0, 1.0)


def last(ledger: SqliteLedger) -> Record:
    return ledger.read(limit=1, newest=True)[0]


@pytest.mark.parametrize("named", ["resource", "operation"])
@pytest.mark.parametrize("decision", [ALLOW, DENY])
async def test_a_name_that_would_fill_the_ledger_is_refused(
    ledger: SqliteLedger, recorder: LedgerRecorder, named: str, decision: Decision
) -> None:
    size = ledger.head.size
    with pytest.raises(RecordRefused, match="too_large"):
        await recorder.record_intent(a_call(id=new_event_id(), **{named: "x" * (NAME_CHARS + 1)}), AGENT, decision)
    assert ledger.head.size == size
    await recorder.record_intent(a_call(id=new_event_id(), **{named: "x" * NAME_CHARS}), AGENT, decision)


async def test_an_intent_says_who_what_and_why_without_the_body(ledger: SqliteLedger, recorder: LedgerRecorder) -> None:
    rules = (RuleRef("chat.all", "roles/a.yaml:3"),)
    decision = Decision(
        effect=Effect.ALLOW, reason="granted", revision="r1", rules=rules, obligations=(Obligation("x", {"max": 5}),)
    )
    principal = Principal(subject="agent:seven", tenant="acme", issuer="urn:i", token_id="t1", chain=("agent:one",))
    admission = await admitted(recorder, decision, principal)
    record = last(ledger)
    assert (record.kind, record.event_id, record.index) == ("intent", admission.call.id, admission.receipt.index)
    assert record.body["principal"] == {
        "subject": "agent:seven",
        "type": "agent",
        "tenant": "acme",
        "auth": {"method": "jwt", "issuer": "urn:i", "token_id": "t1"},
        "delegation": [{"agent": "agent:one", "depth": 0}],
    }
    action = record.body["action"]
    assert (action["name"], action["version"], action["label"]) == ("/model/tiny", 2, "stable")
    assert (action["args_commit"], action["bytes"]) == ("commit:13", 13)
    assert record.body["decision"]["rules"] == [{"id": "chat.all", "source": "roles/a.yaml:3"}]
    assert record.body["decision"]["obligations"] == [{"name": "x", "parameters": {"max": 5}}]
    assert record.body["trace"] == {"traceparent": TRACE}
    assert "secret" not in str(record.body)
    assert list(ledger.open_intents()) == [admission.call.id]


async def test_a_denial_is_recorded_and_opens_nothing(ledger: SqliteLedger, recorder: LedgerRecorder) -> None:
    await admitted(recorder, DENY)
    assert last(ledger).kind == "deny"
    assert last(ledger).body["decision"]["gate"] == "blocked"
    assert ledger.open_intents() == {}


async def test_free_text_in_a_trace_header_does_not_reach_the_ledger(
    ledger: SqliteLedger, recorder: LedgerRecorder
) -> None:
    await recorder.record_intent(a_call(id=new_event_id(), traceparent="call me"), AGENT, ALLOW)
    assert "trace" not in last(ledger).body


async def test_an_outcome_closes_its_intent(ledger: SqliteLedger, recorder: LedgerRecorder) -> None:
    admission = await admitted(recorder)
    outcome = Outcome(started_s=1.0)
    outcome.answers(BackendReply(200, (), nothing(), served_by="tiny/1", usage=Usage(3, 4, None)))  # type: ignore[arg-type]  # never read
    outcome.saw(b"abc", 1.25)
    outcome.completes()
    outcome.ended_s, outcome.cost = 1.5, {"micro_usd": 7}
    await recorder.record_outcome(admission, outcome)
    body = last(ledger).body["outcome"]
    assert last(ledger).body["closes"] == admission.call.id
    assert {name: body[name] for name in ("status", "http", "served_by", "rung", "bytes")} == {
        "status": "ok",
        "http": 200,
        "served_by": "tiny/1",
        "rung": "primary",
        "bytes": 3,
    }
    assert (body["latency_us"], body["first_byte_us"], body["tokens"]) == (500_000, 250_000, {"in": 3, "out": 4})
    assert (body["result_commit"], body["cost"]) == ("commit:32", {"micro_usd": 7})
    assert ledger.open_intents() == {}


@pytest.mark.parametrize("nonsense", [2**53, 10**30, -1])
async def test_a_backend_that_counts_nonsense_does_not_keep_its_outcome_out(
    ledger: SqliteLedger, recorder: LedgerRecorder, nonsense: int
) -> None:
    admission = await admitted(recorder)
    outcome = Outcome(started_s=1.0, usage=Usage(nonsense, 4, nonsense), ended_s=2.0)
    outcome.fails("error", "cut")
    await recorder.record_outcome(admission, outcome)
    told = last(ledger).body["outcome"]
    assert (told["tokens"], told["error"]) == ({"out": 4}, "cut")
    assert ledger.open_intents() == {}


async def test_none_counted_is_not_the_same_as_not_counted(ledger: SqliteLedger, recorder: LedgerRecorder) -> None:
    for usage, told in ((Usage(0, 0, 0), {"in": 0, "out": 0, "cached": 0}), (Usage(0, None, None), {"in": 0})):
        outcome = Outcome(started_s=1.0, usage=usage, ended_s=2.0)
        await recorder.record_outcome(await admitted(recorder), outcome)
        assert last(ledger).body["outcome"]["tokens"] == told


async def test_what_cannot_be_recorded_raises(recorder: LedgerRecorder) -> None:
    with pytest.raises(RecordRefused):
        await recorder.record_intent(a_call(id=new_event_id(), resource="/model/" + "x" * 70_000), AGENT, ALLOW)


async def test_a_choice_made_for_the_caller_stands_with_the_decision(
    ledger: SqliteLedger, recorder: LedgerRecorder
) -> None:
    call = a_call(id=new_event_id(), selection={"asked": "auto:chat", "score_ppm": 812_000})
    await recorder.record_intent(call, AGENT, ALLOW)
    assert last(ledger).body["decision"]["selection"] == {"asked": "auto:chat", "score_ppm": 812_000}

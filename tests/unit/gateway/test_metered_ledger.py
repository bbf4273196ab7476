"""The ledger under the meter writes the same records; what it refuses is counted and still refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from audit import AuditSettings, AuditUnavailable, RecordRefused, SqliteLedger, new_event_id
from controlplane.gateway.metered_ledger import MeteredLedger
from controlplane.telemetry.inventory import PREFIX
from controlplane.telemetry.metrics import Metrics


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[SqliteLedger]:
    ledger = SqliteLedger(AuditSettings(path=tmp_path / "l.sqlite", signing_key=tmp_path / "s.key", writer="thread"))
    await ledger.open()
    yield ledger
    await ledger.close()


def counted(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(PREFIX + name, labels) or 0.0


async def test_intent_and_outcome_pass_as_they_are_and_are_counted(ledger: SqliteLedger) -> None:
    metrics = Metrics("test")
    metered, event_id = MeteredLedger(ledger, metrics), new_event_id()
    intent = await metered.append("intent", {"a": 1}, event_id=event_id, opens=True)
    await metered.append("outcome", {"b": 2}, closes=intent.event_id)
    assert [(r.kind, r.event_id == event_id) for r in ledger.read(0)] == [("intent", True), ("outcome", False)]
    assert ledger.open_intents() == {}
    assert counted(metrics, "ledger_appends_total", kind="intent") == 1
    assert counted(metrics, "ledger_append_duration_seconds_count") == 2


async def test_a_failure_is_counted_by_its_reason_and_raised(ledger: SqliteLedger) -> None:
    metrics = Metrics("test")
    metered = MeteredLedger(ledger, metrics)
    with pytest.raises(RecordRefused):
        await metered.append("deny", {"a": 1.5})
    await ledger.close()
    with pytest.raises(AuditUnavailable):
        await metered.append("deny", {"a": 1})
    assert counted(metrics, "ledger_write_failures_total", reason="closed") == 1
    assert counted(metrics, "ledger_appends_total", kind="deny") == 0

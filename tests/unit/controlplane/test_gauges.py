"""What is told of replicas, of those that are ready and of those that are not."""

from __future__ import annotations

from dataclasses import fields
from types import SimpleNamespace
from typing import Any

from controlplane.approvals import ApprovalSettings, Approver, Book, Question, Word
from controlplane.gauges import Gauges
from controlplane.pools import ReplicaView
from controlplane.telemetry.metrics import Metrics
from inference.routing import ReplicaStatus, State


def replica(name: str, state: State, **said: Any) -> ReplicaView:
    unsaid: dict[str, Any] = {field.name: None for field in fields(ReplicaStatus)}
    unsaid |= {"reason": "", "since_s": 0.0, "is_saturated": False, "stalled_s": 0.0, "in_flight": 0}
    return ReplicaView("vllm", ("tiny",), ReplicaStatus(**unsaid | {"name": name, "state": state} | said))


async def reported(*replicas: ReplicaView, approvals: Book | None = None) -> str:
    metrics, nothing = Metrics(), SimpleNamespace()
    never_moves = SimpleNamespace(revision="", error="")

    async def probe() -> None: ...

    gauges = Gauges(
        metrics=metrics,
        policy=SimpleNamespace(status=lambda: never_moves),  # type: ignore[arg-type]
        ledger=SimpleNamespace(probe=probe, head=SimpleNamespace(size=1), waiting=0),  # type: ignore[arg-type]
        fleet=SimpleNamespace(  # type: ignore[arg-type]
            breakers=SimpleNamespace(snapshot=list),
            replicas=lambda: replicas,
            guards=SimpleNamespace(counts=lambda: {"risk/2": {"rows": 10, "violating": 3}}),
        ),
        adapting=SimpleNamespace(report=lambda: nothing),  # type: ignore[arg-type]
        observations=SimpleNamespace(unread_s=2.5, dropped_by_reason={"too_large": 2}),  # type: ignore[arg-type]
        answers=SimpleNamespace(size_bytes=0),  # type: ignore[arg-type]
        approvals=approvals or Book(ApprovalSettings()),
        wall_clock=lambda: 7.0,
    )
    await gauges.report()
    return (await metrics.exposition())[0].decode()


async def test_replicas_are_told_by_name_and_what_they_do_not_say_is_not_made_up() -> None:
    text = await reported(
        replica("a:1", State.READY, in_flight=3, waiting=2, kv_ratio=0.25), replica("b:1", State.EJECTED)
    )
    a, b = (f'{{backend="vllm",replica="{name}"}}' for name in ("a:1", "b:1"))
    for line in (
        f"controlplane_replica_ready{a} 1.0",
        f"controlplane_replica_ready{b} 0.0",
        f"controlplane_replica_in_flight_calls{a} 3.0",
        f"controlplane_replica_waiting_calls{a} 2.0",
        f"controlplane_replica_kv_cache_ratio{a} 0.25",
    ):
        assert line in text
    assert f"controlplane_replica_kv_cache_ratio{b}" not in text


async def test_what_the_monitor_does_not_see_is_told_once() -> None:
    text = await reported()
    for line in (
        'controlplane_drift_observations_dropped_total{reason="too_large"} 2.0',
        "controlplane_observations_gap_seconds 2.5",
        'controlplane_guarded_rows_total{model="risk",verdict="sound"} 7.0',
        'controlplane_guarded_rows_total{model="risk",verdict="violating"} 3.0',
    ):
        assert line in text


def question(name: str, asked_s: float) -> Question:
    return Question(
        id=name,
        statement=name,
        tenant="acme",
        subject="agent:support",
        chain=(),
        action="call",
        resource="/tool/refund",
        operation="call",
        rules=(),
        approvers=(Approver("finance", 1),),
        ttl_s=900,
        asked_s=asked_s,
    )


async def test_calls_that_wait_for_people_are_counted_and_answered_ones_are_not() -> None:
    book = Book(ApprovalSettings())
    for name, asked_s in (("answered", 1.0), ("old", 2.0), ("new", 6.0)):
        book.ask(question(name, asked_s))
    book.hear("answered", Word(by="user:ada", roles=("finance",), approves=True, at_s=3.0, reason="seen", index=1))
    text = await reported(approvals=book)
    assert "controlplane_approvals_waiting 2.0" in text
    assert "controlplane_approvals_oldest_wait_seconds 5.0" in text
    assert "controlplane_approvals_oldest_wait_seconds 0.0" in await reported()

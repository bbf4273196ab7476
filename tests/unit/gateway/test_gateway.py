"""The sentence: what is recorded, what reaches the backend, and what happens when someone leaves early."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from contextlib import suppress
from dataclasses import replace

import pytest
from msgspec import structs

from audit import AuditUnavailable
from controlplane.calls import Call, Decision, Effect, Obligation, Principal
from controlplane.gateway.gateway import Admission, Denied
from controlplane.gateway.obligations import Obligations, ObligationUnmet
from controlplane.gateway.outcome import Outcome
from controlplane.identity.errors import Unauthenticated
from inference.errors import BackendBroke, BackendTimeout, BackendUnavailable
from tests.unit.gateway.conftest import AGENT, a_call

ALLOW = Decision(effect=Effect.ALLOW, reason="granted", revision="r1")
DENY = Decision(effect=Effect.DENY, reason="no_matching_rule", revision="r1")


async def test_allowed_call_is_recorded_before_and_after(rig):
    admission = await rig.admit()
    assert rig.ledger.entries == [("intent", "granted")]
    assert not rig.backend.calls
    assert await rig.relay(admission) == [b"ab", b"c"]
    assert rig.ledger.entries == [("intent", "granted"), ("outcome", "ok", "")]
    assert rig.watcher.seen == [("admitted",), ("observed", "ok", True)]


async def test_stranger_is_not_parsed_not_recorded_and_not_served(rig):
    async def read_call() -> Call:
        raise AssertionError("a stranger's request was parsed")

    with pytest.raises(Unauthenticated):
        await rig.gateway.admit("forged", read_call)
    assert rig.ledger.entries == []


async def test_denied_call_is_recorded_and_never_reaches_the_backend(rig):
    rig.policy.decision = DENY
    with pytest.raises(Denied) as refusal:
        await rig.admit()
    assert rig.ledger.entries == [("deny", "no_matching_rule")]
    assert refusal.value.receipt.index == 0
    assert not rig.backend.calls
    assert rig.watcher.seen == [("refused", "no_matching_rule")]


async def test_call_without_a_durable_intent_never_reaches_the_backend(rig):
    rig.ledger.broken = AuditUnavailable("disk_full")
    with pytest.raises(AuditUnavailable):
        await rig.admit()
    assert not rig.backend.calls


async def test_unknown_obligation_denies_and_the_denial_is_recorded(rig):
    rig.policy.decision = structs.replace(ALLOW, obligations=(Obligation("shred", {}),))
    with pytest.raises(Denied) as refusal:
        await rig.admit()
    assert refusal.value.decision.reason == "unknown_obligation"
    assert rig.ledger.entries == [("deny", "unknown_obligation")]


@pytest.mark.parametrize(
    ("error", "reason"),
    [(ObligationUnmet("rate_limited", retry_after_s=3.0), "rate_limited"), (KeyError("max"), "obligation_failed")],
)
async def test_obligation_that_cannot_be_met_denies(rig, error, reason):
    def unmet(principal: Principal, call: Call, obligation: Obligation) -> Call:
        raise error

    rig.policy.decision = structs.replace(ALLOW, obligations=(Obligation("cap", {}),))
    rig.obligations = Obligations({"cap": unmet})
    with pytest.raises(Denied) as refusal:
        await rig.admit()
    assert refusal.value.decision.reason == reason
    assert rig.ledger.entries == [("deny", reason)]


async def test_denied_call_uses_up_no_obligation(rig):
    met: list[Obligation] = []

    def counting(principal: Principal, call: Call, obligation: Obligation) -> Call:
        met.append(obligation)
        raise ObligationUnmet("rate_limited")

    rig.policy.decision = structs.replace(DENY, obligations=(Obligation("rate", {}),))
    rig.obligations = Obligations({"rate": counting})
    with pytest.raises(Denied):
        await rig.admit()
    assert (met, rig.ledger.entries) == ([], [("deny", "no_matching_rule")])


async def test_obligation_shapes_the_call_that_goes_out(rig):
    rig.policy.decision = structs.replace(ALLOW, obligations=(Obligation("cap", {}),))
    rig.obligations = Obligations({"cap": lambda principal, call, obligation: structs.replace(call, body=b"capped")})
    await rig.relay(await rig.admit())
    assert rig.backend.calls[0].call.body == b"capped"


async def test_reply_that_an_obligation_may_change_says_no_length(rig):
    async def shout(call, obligation, chunks):
        async for chunk in chunks:
            yield chunk.upper() + b"!"

    rig.policy.decision = structs.replace(ALLOW, obligations=(Obligation("shout", {}),))
    rig.obligations = Obligations({"shout": lambda principal, call, obligation: call}, {"shout": shout})
    rig.backend.headers = (("content-length", "3"), ("x-kept", "1"))
    async with rig.gateway.relay(await rig.admit()) as reply:
        assert reply.headers == (("x-kept", "1"),)
        assert [chunk async for chunk in reply.chunks] == [b"AB!", b"C!"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BackendUnavailable("unreachable"), "error"),
        (BackendTimeout("no_answer"), "timeout"),
        (RuntimeError("a bug of ours"), "error"),
    ],
)
async def test_backend_that_fails_before_the_head_leaves_one_outcome(rig, error, status):
    rig.backend.refuses = error
    with pytest.raises(type(error)):
        await rig.relay(await rig.admit())
    assert rig.ledger.entries[1:] == [("outcome", status, getattr(error, "reason", "internal"))]


async def test_backend_that_breaks_in_the_middle_leaves_one_outcome(rig):
    rig.backend.script = [b"ab", BackendBroke("stream_cut")]
    with pytest.raises(BackendBroke):
        await rig.relay(await rig.admit())
    assert rig.ledger.entries[1:] == [("outcome", "error", "stream_cut")]


async def test_error_answer_of_the_backend_is_an_error_outcome(rig):
    rig.backend.status = 404
    assert await rig.relay(await rig.admit()) == [b"ab", b"c"]
    assert rig.ledger.entries[1:] == [("outcome", "error", "upstream_404")]


async def test_agent_that_leaves_before_the_first_byte_still_leaves_one_outcome(rig):
    admission = await rig.admit()
    async with rig.gateway.relay(admission):
        pass
    assert rig.ledger.entries[1:] == [("outcome", "cancelled", "")]
    assert rig.backend.closed == 1


async def test_a_reply_that_is_here_whole_is_recorded_as_ok_before_the_agent_reads_it(rig):
    """Nothing here can say that the agent read it; the backend has finished."""
    rig.backend.whole = b"abc"
    async with rig.gateway.relay(await rig.admit()) as reply:
        assert reply.chunks.take() == b"abc"
    assert rig.ledger.entries[1:] == [("outcome", "ok", "")]


async def test_whole_reply_reads_like_any_other(rig):
    rig.backend.whole = b"abc"
    assert await rig.relay(await rig.admit()) == [b"abc"]


async def test_error_answer_that_is_here_whole_is_an_error_outcome(rig):
    rig.backend.whole, rig.backend.status = b"no", 404
    await rig.relay(await rig.admit())
    assert rig.ledger.entries[1:] == [("outcome", "error", "upstream_404")]


async def relayed_until_cancelled(rig) -> None:
    """One call, whose task ends as a hang-up ends it."""
    with suppress(asyncio.CancelledError):
        await rig.relay(await rig.admit())
        await asyncio.sleep(0)  # the next wait, where a cancellation is raised that came while something was written


async def test_hang_up_stops_the_backend_and_is_recorded_as_cancelled(rig):
    stuck = asyncio.Event()
    rig.backend.script = [b"ab", stuck]
    serving = asyncio.create_task(relayed_until_cancelled(rig))
    await rig.backend.waiting.wait()
    serving.cancel()
    await serving
    assert rig.ledger.entries[1:] == [("outcome", "cancelled", "")]
    assert rig.backend.closed == 1


async def test_hang_up_is_noticed_while_the_backend_never_waits(rig):
    """A backend whose bytes are all there already gives the loop no chance to run; the relay must."""
    rig.backend.script = [b"x"] * 1000
    admission = await rig.admit()
    read = 0

    async def serve() -> None:
        nonlocal read
        asyncio.get_running_loop().call_soon(serving.cancel)
        with suppress(asyncio.CancelledError):
            async with rig.gateway.relay(admission) as reply:
                async for _ in reply.chunks:
                    read += 1

    serving = asyncio.create_task(serve())
    await serving
    assert read < 10
    assert rig.ledger.entries[1:] == [("outcome", "cancelled", "")]


async def test_hang_up_while_the_intent_is_written_still_leaves_one_outcome(rig):
    """The intent may be on disk already; leaving then must not leave it without an outcome."""
    rig.ledger.on_write = lambda: serving.cancel() if not rig.ledger.entries else None
    serving = asyncio.create_task(relayed_until_cancelled(rig))
    await serving
    assert rig.ledger.entries == [("intent", "granted"), ("outcome", "cancelled", "")]
    assert rig.watcher.seen == [("admitted",), ("observed", "cancelled", True)]


async def test_hang_up_while_the_outcome_is_written_leaves_that_outcome_and_is_observed(rig):
    rig.ledger.on_write = lambda: serving.cancel() if rig.ledger.entries else None
    serving = asyncio.create_task(relayed_until_cancelled(rig))
    await serving
    assert rig.ledger.entries == [("intent", "granted"), ("outcome", "ok", "")]
    assert rig.watcher.seen[-1] == ("observed", "ok", True)


async def test_agent_is_served_when_the_outcome_cannot_be_recorded_and_someone_is_told(rig):
    rig.ledger.forgets = AuditUnavailable("stalled")
    admission = await rig.admit()
    assert await rig.relay(admission) == [b"ab", b"c"]
    assert rig.watcher.seen[-1] == ("observed", "ok", False)


async def test_tool_call_whose_outcome_cannot_be_recorded_gives_no_whole_answer(rig):
    rig.ledger.forgets = AuditUnavailable("stalled")
    admission = await rig.admit(a_call(action="call"))
    with pytest.raises(AuditUnavailable, match="outcome_unrecorded"):
        await rig.relay(admission)
    assert rig.watcher.seen[-1] == ("observed", "ok", False)


async def test_tool_s_own_failure_is_not_hidden_by_the_ledger_s(rig):
    rig.ledger.forgets = AuditUnavailable("stalled")
    rig.backend.script = [b"ab", BackendBroke("stream_cut")]
    with pytest.raises(BackendBroke):
        await rig.relay(await rig.admit(a_call(action="call")))


@pytest.mark.parametrize("whole", [b"", b"abc"])
async def test_outcome_tells_what_was_answered_and_when(rig, whole):
    rig.backend.whole = whole
    ticks = itertools.count(10)
    gateway = replace(rig.gateway, monotonic=lambda: float(next(ticks)))
    async with gateway.relay(await gateway.admit_call(AGENT, a_call())) as reply:
        assert b"".join([chunk async for chunk in reply.chunks]) == b"abc"
    (outcome,) = rig.ledger.outcomes
    assert (outcome.byte_count, outcome.digest.digest(), outcome.body) == (3, hashlib.sha256(b"abc").digest(), b"abc")
    assert (outcome.http_status, outcome.served_by) == (200, "tiny/1")
    assert (outcome.started_s, outcome.first_byte_s) == (11.0, 12.0)
    assert outcome.ended_s == (13.0 if whole else 14.0)  # two chunks, or one


async def test_reply_that_cannot_be_released_is_given_back_and_recorded(rig):
    def unreleasable(call, obligation, chunks):
        raise RuntimeError("a bug of ours")

    rig.policy.decision = structs.replace(ALLOW, obligations=(Obligation("shout", {}),))
    rig.obligations = Obligations({"shout": lambda principal, call, obligation: call}, {"shout": unreleasable})
    with pytest.raises(RuntimeError):
        await rig.relay(await rig.admit())
    assert rig.backend.closed == 1
    assert rig.ledger.entries[1:] == [("outcome", "error", "internal")]


async def test_backend_that_breaks_as_it_is_left_leaves_one_outcome(rig):
    rig.backend.breaks_at_the_end = BackendBroke("stream_cut")
    with pytest.raises(BackendBroke):
        await rig.relay(await rig.admit())
    assert rig.ledger.entries[1:] == [("outcome", "error", "stream_cut")]


async def test_budget_that_nobody_counts_denies(rig):
    rig.policy.decision = structs.replace(ALLOW, obligations=(Obligation("budget", {}),))
    rig.obligations = Obligations({"budget": lambda principal, call, obligation: call})
    with pytest.raises(Denied):
        await rig.admit()
    assert rig.ledger.entries == [("deny", "unknown_obligation")]


async def test_policy_decides_on_the_model_that_was_chosen(rig):
    asked: list[str] = []

    class Watching:
        def decide(self, principal: Principal, call: Call, now_s: float) -> Decision:
            asked.append(call.resource)
            return ALLOW

    chosen = replace(
        rig.gateway, policy=Watching(), choose=lambda _who, call: structs.replace(call, resource="/model/chosen")
    )
    admission = await chosen.admit_call(
        Principal(subject="agent:a", tenant="acme"), a_call(resource="/model/auto:chat")
    )
    assert asked == [admission.call.resource] == ["/model/chosen"]


async def test_the_price_is_known_before_the_outcome_is_recorded(rig):
    priced: list[str] = []

    def price(admission: Admission, outcome: Outcome) -> dict[str, int]:
        priced.append(outcome.status)
        return {"micro_usd": 7}

    outcomes = []

    class Keeping:
        async def record_intent(self, call, principal, decision):
            return await rig.ledger.record_intent(call, principal, decision)

        async def record_outcome(self, admission, outcome):
            outcomes.append(dict(outcome.cost))
            return await rig.ledger.record_outcome(admission, outcome)

    gateway = replace(rig.gateway, ledger=Keeping(), price=price)
    admission = await rig.admit()
    async with gateway.relay(admission) as reply:
        _ = [chunk async for chunk in reply.chunks]
    assert (priced, outcomes) == (["ok"], [{"micro_usd": 7}])

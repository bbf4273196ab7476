"""Each kind of resource goes to what serves it, with our trace context and nobody else's."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from controlplane.calls import Obligation, Receipt
from controlplane.gateway.dispatch import ByKind, ByName, reuse_of
from controlplane.gateway.gateway import Admission
from inference.backend import Reuse
from inference.errors import BackendRejected
from tests.unit.gateway.conftest import AGENT, ALLOW, ScriptedBackend, a_call
from tests.unit.gateway.test_models import Backend, answer

THEIRS, OURS = "00-" + "a" * 32 + "-" + "b" * 16 + "-01", "00-" + "a" * 32 + "-" + "c" * 16 + "-01"


def admission(resource: str = "/tool/refund", traceparent: str = "") -> Admission:
    headers = (("accept", "a"), *([("traceparent", traceparent)] if traceparent else []))
    call = a_call(resource=resource, traceparent=traceparent, headers=headers, body=b"x", deadline_s=2.0)
    return Admission(call, AGENT, ALLOW, Receipt("e1", 0, ""), 0.0, 0.0)


async def test_the_first_segment_chooses() -> None:
    tools, models = ScriptedBackend([b"tool"]), ScriptedBackend([b"model"])
    dispatch = ByKind({"tool": tools, "model": models})
    assert await answer(dispatch, admission("/tool/refund")) == b"tool"
    assert await answer(dispatch, admission("/model/tool")) == b"model"


@pytest.mark.parametrize("resource", ["/nothing/x", "/", "", "//tool/x", "/tools/x"])
def test_a_kind_that_nobody_serves_is_not_found(resource: str) -> None:
    with pytest.raises(BackendRejected) as caught:
        ByKind({"tool": ScriptedBackend()}).send(admission(resource))
    assert caught.value.reason == "not_found"


@pytest.mark.parametrize(
    ("received", "ours", "sent"),
    [("", "", None), ("", OURS, OURS), (THEIRS, OURS, OURS), ("malformed", "", None), (THEIRS, THEIRS, THEIRS)],
)
async def test_one_trace_context_goes_upstream(received: str, ours: str, sent: str | None) -> None:
    backend = ScriptedBackend()
    await answer(ByKind({"tool": backend}, lambda _id, _received: ours), admission(traceparent=received))
    headers = backend.calls[0].call.headers
    assert [value for name, value in headers if name == "traceparent"] == ([sent] if sent else [])
    assert ("accept", "a") in headers


async def test_a_named_target_is_all_that_follows_the_kind() -> None:
    backend = Backend()
    await answer(ByName(backend, 30.0), admission("/tool/a/b"))
    (request,) = backend.asked
    assert (request.target, request.timeout_s, request.call_id) == ("a/b", 2.0, "e1")


async def test_the_request_says_who_calls_and_how_urgent_policy_finds_it() -> None:
    backend = Backend()
    urgent = replace(ALLOW, obligations=(Obligation("priority", {"level": 1}),))
    await answer(ByName(backend, 30.0), admission())
    await answer(ByName(backend, 30.0), replace(admission(), decision=urgent))
    assert [(each.tenant, each.agent, each.priority) for each in backend.asked] == [
        (AGENT.tenant, AGENT.subject, 5),
        (AGENT.tenant, AGENT.subject, 1),
    ]


@pytest.mark.parametrize(
    ("duties", "leave"),
    [
        ((), None),
        ((Obligation("cache", {"ttl_s": 0, "any": True}),), None),
        ((Obligation("cache", {"ttl_s": 60, "any": False}),), Reuse(60)),
        (
            (
                Obligation("redact", {"out": ["card", "iban"], "in": []}),
                Obligation("cache", {"ttl_s": 9, "any": True}),
            ),
            Reuse(9, sampled=True, shaping="in=;out=card,iban"),
        ),
    ],
)
def test_policy_alone_gives_leave_to_use_an_answer_again(duties: tuple[Obligation, ...], leave: Reuse | None) -> None:
    assert reuse_of(replace(ALLOW, obligations=duties)) == leave

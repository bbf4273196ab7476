"""TF Serving's gRPC face over a real socket: same gateway, gRPC's own words for every refusal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import pytest
from msgspec.structs import replace

from audit import AuditUnavailable
from controlplane.calls import Effect, RuleRef
from controlplane.gateway.dispatch import ByKind
from controlplane.gateway.doors.tfserving_call import ReloadRefused
from controlplane.gateway.doors.tfserving_grpc import TfServingGrpc
from inference.errors import BackendBroke, BackendRejected, BackendTimeout, BackendUnavailable
from inference.tfserving import wire
from inference.tfserving.predict import encode_predict

X = {"x": np.ones((3, 2), np.float32)}
GOOD = (("authorization", "Bearer good"),)
Code = grpc.StatusCode


@dataclass
class Client:
    channel: Any
    door: Any = None
    strangers: list[tuple[str, str]] = field(default_factory=list)

    def call(self, operation: str, body: bytes, metadata: Any = GOOD, timeout: float | None = 20) -> Any:
        return self.channel.unary_unary(wire.METHODS[operation].path)(body, metadata=metadata, timeout=timeout)

    def restart(self, rig: Any) -> None:
        self.door.gateway = rig.gateway

    async def refused(self, *arguments: Any, **more: Any) -> tuple[grpc.StatusCode, str, list[tuple[str, str]]]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call(*arguments, **more)
        return caught.value.code(), caught.value.details() or "", list(caught.value.trailing_metadata())


@pytest.fixture
async def client(rig) -> AsyncIterator[Client]:
    strangers: list[tuple[str, str]] = []
    door = TfServingGrpc(
        rig.gateway, lambda door, problem: strangers.append((door, problem.reason)), body_limit_bytes=10_000
    )
    port = await door.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Client(channel, door, strangers)
    await door.stop()


async def test_bytes_go_in_and_out_untouched_and_the_receipt_rides_behind(rig, client: Client) -> None:
    rig.backend.script = [b"\x0a\x00", b"anything"]
    body = encode_predict("risk", X, version=7, signature="s")
    call = client.call("Predict", body, (*GOOD, ("traceparent", "00-ab-cd-01")))
    assert await call == b"\x0a\x00anything"
    trailing = dict(await call.trailing_metadata())
    made = rig.backend.calls[0].call
    assert made.body == body
    assert (made.door, made.action, made.resource, made.operation) == (
        "tfserving.grpc",
        "infer",
        "/model/risk",
        "Predict",
    )
    assert made.arguments == {"signature": "s", "rows": 3, "inputs": ["x"]}
    assert (made.version, made.label, made.traceparent) == (7, None, "00-ab-cd-01")
    assert 0 < made.deadline_s < 60  # gRPC rounds a deadline up on its way
    assert (trailing["x-served-by"], trailing["x-audit-receipt"]) == ("tiny/1", f"0 {made.id}")
    assert rig.ledger.entries == [("intent", "granted"), ("outcome", "ok", "")]


async def test_status_and_metadata_are_reads(rig, client: Client) -> None:
    request = wire.GetModelStatusRequest()
    request.model_spec.name, request.model_spec.version_label = "risk", "canary"
    await client.call("GetModelStatus", request.SerializeToString())
    await client.call("GetModelMetadata", request.SerializeToString())
    assert [(c.call.action, c.call.operation, c.call.label) for c in rig.backend.calls] == [
        ("read", "GetModelStatus", "canary"),
        ("read", "GetModelMetadata", "canary"),
    ]


async def test_examples_are_counted_and_their_features_named(rig, client: Client) -> None:
    request = wire.RegressionRequest()
    request.model_spec.name = "risk"
    given = request.input.example_list_with_context
    given.context.features.feature["tenant"].int64_list.value.append(1)
    given.examples.add().features.feature["age"].float_list.value.append(1)
    given.examples.add()
    await client.call("Regress", request.SerializeToString())
    assert rig.backend.calls[0].call.arguments == {
        "signature": "serving_default",
        "rows": 2,
        "inputs": ["age", "tenant"],
    }


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("authorization", "good"),),
        (("authorization", "Bearer bad"),),
        (*GOOD, *GOOD),
        (("authorization", "Basic good"),),
    ],
    ids=["none", "no scheme", "wrong", "twice", "basic"],
)
async def test_a_stranger_is_unauthenticated_and_never_in_the_ledger(rig, client: Client, metadata: Any) -> None:
    code, _, _ = await client.refused("Predict", b"\xff not even a message", metadata=metadata)
    assert code is Code.UNAUTHENTICATED
    assert client.strangers == [("tfserving.grpc", "bad_signature")]
    assert (rig.ledger.entries, rig.backend.calls) == ([], [])


async def test_a_denial_carries_its_rules_and_its_place_in_the_ledger(rig, client: Client) -> None:
    rules = (RuleRef("r.one", "roles/ä.yaml:3"), RuleRef("r.two", "roles/b.yaml:9"))
    rig.policy.decision = replace(rig.policy.decision, effect=Effect.DENY, reason="rule_denied", rules=rules)
    code, detail, trailing = await client.refused("Predict", encode_predict("risk", X))
    assert code is Code.PERMISSION_DENIED
    assert "ledger entry 0" in detail
    assert ("x-reason", "rule_denied") in trailing
    assert ("x-policy-revision", "r1") in trailing
    assert [value for key, value in trailing if key == "x-policy-rule"] == [
        "r.one roles/?.yaml:3",
        "r.two roles/b.yaml:9",
    ]
    assert dict(trailing)["x-audit-receipt"].startswith("0 ")
    assert rig.backend.calls == []


async def test_an_exhausted_rate_says_when_to_come_back(rig, client: Client) -> None:
    busy = replace(rig.policy.decision, effect=Effect.DENY, reason="rate_limited", retry_after_s=1.2)
    rig.policy.decision = busy
    code, _, trailing = await client.refused("Predict", encode_predict("risk", X))
    assert code is Code.RESOURCE_EXHAUSTED
    assert ("retry-after", "2") in trailing


async def test_no_ledger_no_call(rig, client: Client) -> None:
    rig.ledger.broken = AuditUnavailable("not_writable")
    code, detail, _ = await client.refused("Predict", encode_predict("risk", X))
    assert (code, detail) == (Code.UNAVAILABLE, "not recorded, therefore not done")
    assert rig.backend.calls == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BackendRejected("not_found", "Servable not found"), Code.NOT_FOUND),
        (BackendRejected("failed_precondition", "no such signature"), Code.FAILED_PRECONDITION),
        (BackendRejected("unsupported_operation", "no"), Code.INVALID_ARGUMENT),
        (BackendUnavailable("circuit_open", "open"), Code.UNAVAILABLE),
        (BackendUnavailable("unauthenticated", "our credential, not the caller's"), Code.UNAVAILABLE),
        (BackendTimeout("deadline_exceeded", "late"), Code.DEADLINE_EXCEEDED),
        (BackendBroke("internal", "broke"), Code.INTERNAL),
    ],
)
async def test_the_backend_s_trouble_keeps_its_code_and_words(rig, client: Client, error: Any, code: Any) -> None:
    rig.backend.refuses = error
    assert (await client.refused("Predict", encode_predict("risk", X)))[:2] == (code, error.detail)
    assert rig.ledger.entries[-1][0] == "outcome"


@pytest.mark.parametrize("words", ["Missing but required: {" + "a," * 20_000 + "}", "\u00e9" * 20_000])
async def test_a_long_explanation_is_cut_and_not_lost_with_its_code(rig, client: Client, words: str) -> None:
    """Beyond 8 KiB of trailers a client sees RESOURCE_EXHAUSTED, and may try again."""
    rig.backend.refuses = BackendRejected("invalid_argument", words)
    for _ in range(10):  # between 8 and 16 KiB by lot
        code, detail, trailing = await client.refused("Predict", encode_predict("risk", X))
        assert (code, words.startswith(detail), len(detail) >= 1_000) == (Code.INVALID_ARGUMENT, True, True)
        assert ("x-reason", "invalid_argument") in trailing


async def test_an_unforeseen_error_tells_nothing_of_our_insides(rig, client: Client) -> None:
    rig.backend.refuses = RuntimeError("secret path")
    assert (await client.refused("Predict", encode_predict("risk", X)))[:2] == (Code.INTERNAL, "internal error")


@pytest.mark.parametrize("body", [b"\xff", b"", encode_predict("a/b", X), encode_predict("x" * 201, X)])
async def test_what_is_no_request_is_an_invalid_argument(rig, client: Client, body: bytes) -> None:
    assert (await client.refused("Predict", body))[0] is Code.INVALID_ARGUMENT
    assert (rig.ledger.entries, rig.backend.calls) == ([], [])


async def test_a_message_beyond_the_limit_is_refused_unread(rig, client: Client) -> None:
    code, _, _ = await client.refused("Predict", encode_predict("risk", {"x": np.ones(10_000, np.float32)}))
    assert code is Code.RESOURCE_EXHAUSTED
    assert rig.ledger.entries == []


async def test_a_reload_is_decided_by_policy_and_recorded(rig, client: Client) -> None:
    rig.policy.decision = replace(rig.policy.decision, effect=Effect.DENY, reason="no_matching_rule")
    assert (await client.refused(wire.RELOAD, b""))[0] is Code.PERMISSION_DENIED
    assert rig.ledger.entries == [("deny", "no_matching_rule")]
    assert (await client.refused(wire.RELOAD, b"", metadata=()))[0] is Code.UNAUTHENTICATED


async def test_a_reload_by_who_may_is_refused_with_the_way_to_do_it(rig, client: Client) -> None:
    rig.backend = ByKind({"api": ReloadRefused()})
    client.restart(rig)
    code, detail, _ = await client.refused(wire.RELOAD, b"")
    assert code is Code.FAILED_PRECONDITION
    assert "/api/models" in detail
    assert rig.ledger.entries == [("intent", "granted"), ("outcome", "error", "failed_precondition")]


def tasks(*names: str, versions: tuple[int, ...] = (0, 0), signatures: tuple[str, ...] = ("b", "a")) -> bytes:
    request = wire.MultiInferenceRequest()
    for name, version, signature in zip(names, versions, signatures, strict=False):
        spec = request.tasks.add(method_name="tensorflow/serving/regress").model_spec
        spec.name, spec.signature_name, spec.version.value = name, signature, version
    request.input.example_list.examples.add().features.feature["age"].float_list.value.append(1)
    return bytes(request.SerializeToString())


async def test_several_inferences_are_one_call_of_one_model(rig, client: Client) -> None:
    await client.call("MultiInference", tasks("risk", "risk", versions=(3, 3)))
    call = rig.backend.calls[0].call
    assert (call.action, call.resource, call.version) == ("infer", "/model/risk", 3)
    assert call.arguments == {"signatures": ["a", "b"], "rows": 1, "inputs": ["age"]}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (tasks("risk", "secret"), "same model name"),
        (tasks("risk", "risk", versions=(1, 2)), "same version"),
        (tasks("risk", ""), "empty model name"),
        (tasks(), "empty model name"),
    ],
)
async def test_several_inferences_cannot_hide_another_model(rig, client: Client, body: bytes, words: str) -> None:
    code, detail, _ = await client.refused("MultiInference", body)
    assert code is Code.INVALID_ARGUMENT
    assert words in detail
    assert (rig.ledger.entries, rig.backend.calls) == ([], [])


async def _until(condition: Any) -> None:
    async with asyncio.timeout(60):  # never reached unless something is broken
        while not condition():  # noqa: ASYNC110  the doubles remember, they do not signal
            await asyncio.sleep(0)


async def test_a_client_that_cancels_ends_the_call_upstream_and_the_outcome_says_so(rig, client: Client) -> None:
    rig.backend.script = [asyncio.Event()]
    call = client.call("Predict", encode_predict("risk", X))
    asking = asyncio.ensure_future(call.code())
    await _until(lambda: rig.backend.calls)
    call.cancel()
    await asking
    await _until(lambda: len(rig.ledger.entries) == 2)
    assert rig.ledger.entries[-1] == ("outcome", "cancelled", "")
    assert rig.backend.closed == 1


async def test_a_client_s_deadline_bounds_the_call(rig, client: Client) -> None:
    rig.backend.script = [asyncio.Event()]
    code, _, _ = await client.refused("Predict", encode_predict("risk", X), timeout=2.0)
    assert code is Code.DEADLINE_EXCEEDED
    assert rig.backend.calls[0].call.deadline_s < 60
    await _until(lambda: rig.backend.closed == 1)
    await _until(lambda: len(rig.ledger.entries) == 2)


async def test_a_client_without_a_deadline_leaves_it_to_the_gateway(rig, client: Client) -> None:
    await client.call("Predict", encode_predict("risk", X), timeout=None)
    assert rig.backend.calls[0].call.deadline_s is None


async def test_stopping_lets_running_calls_finish(rig) -> None:
    door = TfServingGrpc(rig.gateway, lambda *_: None)
    port = await door.start()
    gate = asyncio.Event()
    rig.backend.script = [gate, b"done"]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = asyncio.ensure_future(_answer(channel))
        await _until(lambda: rig.backend.calls)
        stopping = asyncio.ensure_future(door.stop(30))
        await asyncio.sleep(0)
        gate.set()
        assert await call == b"done"
        await stopping


async def _answer(channel: Any) -> bytes:
    return bytes(await Client(channel).call("Predict", encode_predict("risk", X)))

"""TF Serving's REST face: what reaches policy, ledger and backend is the gRPC message; errors are its own shape."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx2
import numpy as np
import pytest
from msgspec.structs import replace
from starlette.applications import Starlette
from starlette.responses import JSONResponse

from controlplane.calls import Call, Effect, RuleRef
from controlplane.gateway.doors.tfserving_rest import SharedModelPath, TfServingRest
from controlplane.gateway.edge import routes
from inference.errors import BackendRejected, BackendTimeout, BackendUnavailable
from inference.tfserving import tensors, wire
from inference.tfserving.signatures import Signature, TensorSpec


@dataclass
class KnownSignatures:
    learnt: Mapping[str, Signature] | None = field(
        default_factory=lambda: {"serving_default": Signature("", {"x": TensorSpec(2, (-1, 2))}, {})}
    )
    asked: list[tuple[object, ...]] = field(default_factory=list)

    def known(self, model, version=None, label=None):
        self.asked.append((model, version, label))
        return self.learnt


class OtherDoor:
    """Stands for the OpenAI face at the path that both share."""

    name = "other"
    paths = ()

    async def read_call(self, request):
        return Call(id="c1", door=self.name, action="read", resource="/model/gpt")

    def translate(self, admission, reply):
        return reply

    def refusal(self, request, problem):
        return JSONResponse({"error": {"message": problem.detail}}, problem.status)

    def broken(self, problem):
        return b""


def client_of(rig, *doors, token: str = "good") -> httpx2.AsyncClient:
    doors = doors or (TfServingRest(KnownSignatures()),)
    app = Starlette(routes=routes(doors, rig.gateway, lambda problem: "Bearer", lambda door, reason: None))
    headers = {"authorization": f"Bearer {token}"}
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://gateway", headers=headers)


def predicted(*values: float) -> bytes:
    response = wire.PredictResponse()
    tensors.write(np.array(values), response.outputs["y"])
    return bytes(response.SerializeToString())


async def test_predict_reaches_policy_and_backend_as_the_grpc_message(rig) -> None:
    rig.backend.script = [predicted(0.25, 0.5)]
    async with client_of(rig) as client:
        reply = await client.post("/v1/models/risk:predict", json={"instances": [[1, 2], [3, 4]]})
    call = rig.backend.calls[0].call
    assert (call.door, call.action, call.resource, call.operation) == (
        "tfserving.rest",
        "infer",
        "/model/risk",
        "Predict",
    )
    assert call.arguments == {"signature": "serving_default", "rows": 2, "inputs": ["x"], "layout": "row"}
    assert (call.version, call.label) == (None, None)
    assert tensors.read(wire.parse(wire.PredictRequest, call.body).inputs["x"]).dtype == np.float64
    assert (reply.status_code, reply.json()) == (200, {"predictions": [0.25, 0.5]})
    assert reply.headers["content-type"] == "application/json"
    assert rig.ledger.entries[-1] == ("outcome", "ok", "")


@pytest.mark.parametrize(
    "choice",
    [("/versions/7", 7, None), ("/versions/0", None, None), ("/labels/canary", None, "canary"), ("", None, None)],
)
@pytest.mark.parametrize(
    ("verb", "operation", "document"),
    [
        (":predict", "Predict", {"inputs": [[1, 2]]}),
        (":classify", "Classify", {"examples": [{"a": 1.0}]}),
        (":regress", "Regress", {"examples": [{"a": 1.0}]}),
        ("/metadata", "GetModelMetadata", None),
    ],
)
async def test_every_path_says_version_and_label(rig, choice, verb, operation, document) -> None:
    path, version, label = choice
    rig.backend.script = [b""]
    async with client_of(rig) as client:
        await client.request("GET" if document is None else "POST", f"/v1/models/risk{path}{verb}", json=document)
    call = rig.backend.calls[0].call
    assert (call.operation, call.version, call.label, call.resource) == (operation, version, label, "/model/risk")
    assert call.action == ("read" if document is None else "infer")


async def test_status_is_told_as_tf_serving_tells_it(rig) -> None:
    status = wire.GetModelStatusResponse()
    status.model_version_status.add(version=2, state=30).status.SetInParent()
    rig.backend.script = [status.SerializeToString()]
    async with client_of(rig) as client:
        reply = await client.get("/v1/models/risk/versions/2")
    assert reply.json() == {
        "model_version_status": [
            {"version": "2", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        ]
    }


@pytest.mark.parametrize("body", [b"", b"{", b"{}", b'{"instances": ["a"]}', b'{"instances": [[1], [2, 3]]}'])
async def test_a_bad_body_is_told_in_tf_serving_s_shape_and_reaches_nobody(rig, body: bytes) -> None:
    async with client_of(rig) as client:
        reply = await client.post("/v1/models/risk:predict", content=body)
    assert (reply.status_code, reply.json()["reason"]) == (400, "invalid_body")
    assert isinstance(reply.json()["error"], str)
    assert (rig.backend.calls, rig.ledger.entries) == ([], [])


@pytest.mark.parametrize("version", [1 << 63, 1 << 80, "9" * 5000, "1.5", "-1", "one"])
async def test_a_version_that_cannot_be_is_refused(rig, version: int | str) -> None:
    path = f"/versions/{version}:predict"
    async with client_of(rig) as client:
        assert (await client.post(f"/v1/models/risk{path}", json={"inputs": [1]})).status_code == 400


async def test_a_stranger_s_body_is_never_parsed(rig) -> None:
    signatures = KnownSignatures()
    async with client_of(rig, TfServingRest(signatures), token="bad") as client:
        reply = await client.post("/v1/models/risk:predict", content=b"{")
    assert (reply.status_code, reply.json()["reason"], signatures.asked) == (401, "bad_signature", [])


async def test_a_refusal_carries_its_facts_beside_the_error(rig) -> None:
    denied = replace(
        rig.policy.decision, effect=Effect.DENY, reason="rule_denied", rules=(RuleRef("r.one", "roles/a.yaml:3"),)
    )
    rig.policy.decision = denied
    async with client_of(rig) as client:
        reply = await client.post("/v1/models/risk:predict", json={"inputs": [[1, 2]]})
    assert reply.status_code == 403
    assert "r.one at roles/a.yaml:3" in reply.json()["error"]
    assert reply.json()["rules"] == [{"id": "r.one", "source": "roles/a.yaml:3"}]
    assert reply.json()["ledger_index"] == 0
    assert rig.backend.calls == []


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BackendRejected("not_found", "Servable not found for request: Latest(risk)"), 404),
        (BackendRejected("failed_precondition", 'Serving signature key "zz" not found.'), 400),
        (BackendUnavailable("resource_exhausted", "too many requests"), 503),
        (BackendTimeout("deadline_exceeded", "Deadline Exceeded"), 504),
    ],
)
async def test_the_model_server_s_words_reach_the_caller(rig, error: Exception, status: int) -> None:
    rig.backend.refuses = error
    async with client_of(rig) as client:
        reply = await client.post("/v1/models/risk:predict", json={"inputs": [[1, 2]]})
    assert (reply.status_code, reply.json()["error"]) == (status, str(error))


async def test_a_call_is_recorded_even_when_nobody_knows_the_signature(rig) -> None:
    rig.backend.refuses = BackendUnavailable("unavailable")
    async with client_of(rig, TfServingRest(KnownSignatures(learnt=None))) as client:
        reply = await client.post("/v1/models/risk:predict", json={"instances": [[1, 2]]})
    assert reply.status_code == 503
    assert [entry[0] for entry in rig.ledger.entries] == ["intent", "outcome"]


async def test_an_answer_that_cannot_be_rows_says_so_and_the_outcome_is_an_error(rig) -> None:
    response = wire.PredictResponse()
    tensors.write(np.array(1.0), response.outputs["y"])
    rig.backend.script = [response.SerializeToString()]
    async with client_of(rig) as client:
        reply = await client.post("/v1/models/risk:predict", json={"instances": [[1, 2]]})
    assert "ask with 'inputs'" in reply.json()["error"]
    assert rig.ledger.entries[-1] == ("outcome", "error", "untranslatable")


@pytest.mark.parametrize(
    ("model", "token", "shape"), [("risk", "good", str), ("gpt", "good", dict), ("risk", "bad", dict)]
)
async def test_the_bare_path_belongs_to_whoever_serves_the_model(rig, model: str, token: str, shape: type) -> None:
    rig.ledger.broken = BackendUnavailable("any")
    shared = SharedModelPath(TfServingRest(KnownSignatures()), OtherDoor(), {"risk"}.__contains__)
    async with client_of(rig, shared, token=token) as client:
        reply = await client.get(f"/v1/models/{model}")
    assert isinstance(reply.json()["error"], shape)


async def test_the_shared_path_translates_in_the_protocol_of_its_door(rig) -> None:
    rig.backend.script = [wire.GetModelStatusResponse().SerializeToString()]
    shared = SharedModelPath(TfServingRest(KnownSignatures()), OtherDoor(), {"risk"}.__contains__)
    async with client_of(rig, shared) as client:
        assert json.loads((await client.get("/v1/models/risk")).content) == {"model_version_status": []}
        rig.backend.script = [b"as it is"]
        assert (await client.get("/v1/models/gpt")).content == b"as it is"

"""REST, gRPC and a direct call give the same numbers: both doors before one embedded server, over real sockets."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx2
import numpy as np
import pytest
from starlette.applications import Starlette

from controlplane.calls import Call, Decision, Effect, Principal, Receipt
from controlplane.gateway.doors.tfserving_grpc import TfServingGrpc
from controlplane.gateway.doors.tfserving_rest import TfServingRest
from controlplane.gateway.edge import routes
from controlplane.gateway.gateway import Admission, Gateway
from controlplane.gateway.obligations import Obligations
from controlplane.gateway.outcome import Outcome
from inference.backend import BackendReply, BackendRequest
from inference.errors import BackendError, BackendUnavailable
from inference.savedmodel import Model, export_mlp, load
from inference.tfserving import wire
from inference.tfserving.backend import TfServingBackend
from inference.tfserving.deployment import Deployment
from inference.tfserving.predict import decode_predict, encode_predict
from inference.tfserving.settings import DeploymentSettings, TfServingSettings
from inference.tfserving.signatures import DeployedSignatures

X = np.random.default_rng(11).normal(size=(5, 2)).astype(np.float32)
TOKEN = (("authorization", "Bearer any"),)


@dataclass
class Everything:
    """Identity, policy, ledger and observer that agree to all and remember the outcome."""

    outcomes: list[Outcome] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)

    async def authenticate(self, credential: str) -> Principal:
        return Principal(subject="agent:one", tenant="acme")

    def decide(self, principal: Principal, call: Call, now_s: float) -> Decision:
        self.calls.append(call)
        return Decision(effect=Effect.ALLOW, reason="granted", revision="r1")

    async def record_intent(self, call: Call, principal: Principal, decision: Decision) -> Receipt:
        return Receipt(call.id, 0, "")

    async def record_outcome(self, admission: Admission, outcome: Outcome) -> Receipt:
        self.outcomes.append(outcome)
        return Receipt(admission.call.id, 1, "")

    def refused(self, *_: Any) -> None: ...
    def admitted(self, *_: Any) -> None: ...
    def observe(self, *_: Any, recorded: bool) -> None: ...


@dataclass
class ToBackend:
    backend: TfServingBackend
    deployment: Deployment

    def send(self, admission: Admission) -> AbstractAsyncContextManager[BackendReply]:
        call, model = admission.call, admission.call.resource.removeprefix("/model/")
        version = self.deployment.resolve(model, call.version, call.label)
        return self.backend.send(
            BackendRequest(call_id=call.id, target=model, operation=call.operation, body=call.body, version=version)
        )


@dataclass
class Doors:
    http: httpx2.AsyncClient
    grpc: Any
    seen: Everything
    model: Model

    async def rest(self, path: str, document: Any) -> Any:
        reply = await self.http.post(f"/v1/models/risk{path}", json=document)
        assert reply.status_code == 200, reply.text
        return reply.json()

    async def rpc(self, operation: str, body: bytes) -> Any:
        method = wire.METHODS[operation]
        return wire.parse(method.response, await self.grpc.unary_unary(method.path)(body, metadata=TOKEN, timeout=60))

    def direct(self) -> Any:
        return self.model.run("serving_default", {"x": X})["probabilities"]


def _publish(base: Path, version: int) -> Path:
    random = np.random.default_rng(version)
    layers: list[Any] = [(random.normal(size=(2, 3)), random.normal(size=3))]
    return export_mlp(base / str(version), layers, feature_names=["a", "b"], class_names=["x", "y", "z"])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("models") / "risk"
    _publish(base, 1)
    return base


@pytest.fixture(scope="module")
def target(base: Path) -> Iterator[str]:
    server = subprocess.Popen(
        [sys.executable, "-m", "inference.tfserving.server", "--base", str(base.parent), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert server.stdout is not None
    yield server.stdout.readline().split()[1]
    server.terminate()
    server.communicate(timeout=60)


@pytest.fixture
async def doors(target: str, base: Path, tmp_path: Path) -> AsyncIterator[Doors]:
    backend = TfServingBackend(TfServingSettings(target=target))
    deployment = Deployment(DeploymentSettings(file=tmp_path / "d.json", models={"risk": str(base)}), {"a": backend})
    await deployment.start()
    seen = Everything()
    gateway = Gateway(seen, seen, Obligations({}), seen, ToBackend(backend, deployment), seen)
    signatures = DeployedSignatures(deployment)
    await signatures.learn()
    rest = TfServingRest(signatures)
    app = Starlette(routes=routes([rest], gateway, lambda _: "Bearer", lambda *_: None))
    door = TfServingGrpc(gateway, lambda *_: None)
    port = await door.start()
    async with (
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://gateway", headers=dict(TOKEN)) as http,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield Doors(http, channel, seen, load(base / "1"))
    await door.stop()
    await backend.aclose()


async def test_rest_grpc_and_direct_give_the_same_numbers_bit_for_bit(doors: Doors) -> None:
    direct = doors.direct()
    rows = (await doors.rest(":predict", {"instances": X.tolist()}))["predictions"]
    named = (await doors.rest("/versions/1:predict", {"instances": [{"x": row} for row in X.tolist()]}))["predictions"]
    columns = (await doors.rest("/labels/stable:predict", {"inputs": {"x": X.tolist()}}))["outputs"]
    response = await doors.rpc("Predict", encode_predict("risk", {"x": X}))
    over_grpc = decode_predict(response.SerializeToString())["probabilities"]
    assert over_grpc.tobytes() == direct.tobytes()
    assert rows == named == columns == direct.tolist()
    assert [outcome.served_by for outcome in doors.seen.outcomes] == ["risk/1"] * 4


async def test_both_doors_show_policy_and_ledger_the_same_request(doors: Doors) -> None:
    await doors.rest("/versions/1:predict", {"inputs": X.tolist(), "signature_name": "serving_default"})
    await doors.rpc("Predict", encode_predict("risk", {"x": X}, signature="serving_default", version=1))
    over_rest, over_grpc = doors.seen.calls
    assert over_rest.body == over_grpc.body
    assert over_rest.arguments == over_grpc.arguments | {"layout": "columns"}
    assert doors.seen.outcomes[0].digest.digest() == doors.seen.outcomes[1].digest.digest()


async def test_classify_and_regress_agree_through_both_doors(doors: Doors) -> None:
    examples = [{"a": float(a), "b": float(b)} for a, b in X]
    classified = await doors.rest(":classify", {"signature_name": "classify", "examples": examples})
    regressed = await doors.rest(":regress", {"signature_name": "regress", "examples": examples})
    direct = doors.direct().tolist()
    assert classified["results"] == [[[name, p] for name, p in zip("xyz", row, strict=True)] for row in direct]
    assert regressed["results"] == [row[-1] for row in direct]
    request = wire.ClassificationRequest()
    request.model_spec.name, request.model_spec.signature_name = "risk", "classify"
    for example in examples:
        features = request.input.example_list.examples.add().features
        for name, value in example.items():
            features.feature[name].float_list.value.append(value)
    rows = (await doors.rpc("Classify", request.SerializeToString())).result.classifications
    assert [[one.score for one in row.classes] for row in rows] == direct


async def test_metadata_and_status_through_both_doors(doors: Doors) -> None:
    described = (await doors.http.get("/v1/models/risk/metadata")).json()
    request = wire.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "risk"
    assert described["model_spec"] == {"name": "risk", "signature_name": "", "version": "1"}
    serving = described["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert serving["method_name"] == "tensorflow/serving/predict"
    assert serving["inputs"]["x"] == {
        "dtype": "DT_FLOAT",
        "tensor_shape": {"dim": [{"size": "-1", "name": ""}, {"size": "2", "name": ""}], "unknown_rank": False},
        "name": "x:0",
    }
    assert (await doors.rpc("GetModelMetadata", request.SerializeToString())).model_spec.version.value == 1
    told = (await doors.http.get("/v1/models/risk/labels/stable")).json()["model_version_status"]
    assert [(one["version"], one["state"]) for one in told] == [("1", "AVAILABLE")]


async def test_an_unknown_version_is_told_in_each_protocol_s_own_way(doors: Doors) -> None:
    reply = await doors.http.post("/v1/models/risk/versions/9:predict", json={"inputs": X.tolist()})
    assert (reply.status_code, reply.json()["error"]) == (404, "Servable not found for request: Specific(risk, 9)")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await doors.rpc("Predict", encode_predict("risk", {"x": X}, version=9))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert caught.value.details() == "Servable not found for request: Specific(risk, 9)"


async def test_signatures_are_learnt_once_a_version_and_then_known_without_asking(
    doors: Doors, target: str, base: Path, tmp_path: Path
) -> None:
    backend, asked = TfServingBackend(TfServingSettings(target=target)), []

    @dataclass
    class Counting:
        is_gone: bool = False

        async def call(self, operation: str, body: bytes, timeout_s: float) -> bytes:
            if self.is_gone:
                raise BackendUnavailable("unavailable")
            asked.append(operation)
            return await backend.call(operation, body, timeout_s)

    server = Counting()
    deployment = Deployment(DeploymentSettings(file=tmp_path / "e.json", models={"risk": str(base)}), {"a": server})
    await deployment.start()
    signatures = DeployedSignatures(deployment)
    assert signatures.known("risk") is None
    await signatures.learn()
    await signatures.learn()
    first = signatures.known("risk")
    assert first is not None
    assert first["serving_default"].inputs["x"].shape == (-1, 2)
    assert signatures.known("risk", 1) is signatures.known("risk", None, "stable") is first
    assert signatures.known("nope") is None
    assert asked.count("GetModelMetadata") == 1
    await backend.aclose()
    server.is_gone, gone = True, DeployedSignatures(deployment)
    with pytest.raises(BackendError):
        await gone.learn()
    assert gone.known("risk") is None

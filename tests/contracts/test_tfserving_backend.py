"""What every server of the TF Serving wire and our backend owe each other, over real processes and sockets.

The body runs against the embedded server, and against ``tensorflow_model_server`` itself where TENSORFLOW_MODEL_SERVER
names a binary.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from inference.backend import BackendReply, BackendRequest
from inference.errors import BackendBroke, BackendRejected, BackendTimeout, BackendUnavailable
from inference.savedmodel import export_mlp, load
from inference.tfserving import tensors, wire
from inference.tfserving.backend import TfServingBackend
from inference.tfserving.deployment import Deployment, DeploymentError
from inference.tfserving.predict import decode_predict, encode_predict
from inference.tfserving.settings import DeploymentSettings, TfServingSettings
from inference.tfserving.wire import State

X = np.array([[1, 2], [3, 4]], np.float32)
READY_WITHIN_S = 60


def publish(base: Path, version: int) -> Path:
    """A model that answers softmax(version * x)."""
    layers = [(np.eye(2) * version, np.zeros(2))]
    return export_mlp(base / str(version), layers, feature_names=["a", "b"], class_names=["no", "yes"])


def probabilities(version: int) -> Any:
    raised = np.exp(X.astype(np.float64) * version)
    return raised / raised.sum(axis=1, keepdims=True)


@dataclass
class Process:
    process: subprocess.Popen[str]
    target: str

    def stop(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=READY_WITHIN_S)


def start_embedded(base: Path, port: int = 0) -> Process:
    command = [sys.executable, "-m", "inference.tfserving.server", "--model", f"risk={base}"]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--poll-s", "0.05"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    word, _, target = process.stdout.readline().strip().partition(" ")
    assert word == "ready"
    return Process(process, target)


def start_model_server(base: Path) -> Process:
    binary = os.environ.get("TENSORFLOW_MODEL_SERVER")
    if not binary:
        pytest.skip("TENSORFLOW_MODEL_SERVER names no tensorflow_model_server binary")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [binary, f"--port={port}", "--model_name=risk", f"--model_base_path={base}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    target = f"127.0.0.1:{port}"
    with grpc.insecure_channel(target) as channel:
        grpc.channel_ready_future(channel).result(timeout=READY_WITHIN_S)
    return Process(process, target)


STARTERS = {"embedded": start_embedded, "tensorflow_model_server": start_model_server}


EVERY_SERVER = [
    "embedded",
    pytest.param("tensorflow_model_server", marks=pytest.mark.real("tensorflow_model_server")),
]


@pytest.fixture(scope="module", params=EVERY_SERVER)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """One process for all tests that change nothing about what is served."""
    base = tmp_path_factory.mktemp("models") / "risk"
    publish(base, 1)
    started = STARTERS[request.param](base)
    yield started
    started.stop()


@pytest.fixture
async def backend(server: Process) -> AsyncIterator[TfServingBackend]:
    backend = TfServingBackend(TfServingSettings(target=server.target))
    yield backend
    await backend.aclose()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    publish(tmp_path / "risk", 1)
    return tmp_path / "risk"


@pytest.fixture(params=EVERY_SERVER)
def own_server(request: pytest.FixtureRequest, base: Path) -> Iterator[Process]:
    started = STARTERS[request.param](base)
    yield started
    started.stop()


@pytest.fixture
async def own(own_server: Process) -> AsyncIterator[TfServingBackend]:
    """A backend with a server of its own, which the test may change or end."""
    backend = TfServingBackend(TfServingSettings(target=own_server.target))
    yield backend
    await backend.aclose()


def ask(operation: str, body: bytes, **more: Any) -> BackendRequest:
    return BackendRequest(call_id="c", target="risk", operation=operation, body=body, **({"timeout_s": 20.0} | more))


async def sent(backend: TfServingBackend, request: BackendRequest) -> tuple[BackendReply, bytes]:
    async with backend.send(request) as reply, aclosing(reply.chunks) as chunks:
        return reply, b"".join([chunk async for chunk in chunks])


def predict(**more: Any) -> BackendRequest:
    return ask("Predict", encode_predict("risk", {"x": X}), **more)


async def test_predict_gives_the_model_s_numbers_and_says_who_answered(backend: TfServingBackend) -> None:
    reply, body = await sent(backend, predict())
    np.testing.assert_allclose(decode_predict(body)["probabilities"], probabilities(1), atol=1e-6)
    assert (reply.status, reply.served_by, reply.rung) == (200, "risk/1", "primary")


async def test_the_request_s_model_and_version_win_over_the_body_s(backend: TfServingBackend) -> None:
    body = encode_predict("another", {"x": X}, version=99)
    assert (await sent(backend, ask("Predict", body, version=1)))[0].served_by == "risk/1"
    assert (await sent(backend, ask("Predict", body)))[0].served_by == "risk/1"


async def test_version_zero_means_whatever_is_served(backend: TfServingBackend) -> None:
    assert (await sent(backend, ask("Predict", encode_predict("risk", {"x": X}, version=0))))[0].served_by == "risk/1"


def _without_model() -> BackendRequest:
    return BackendRequest(call_id="c", target="nope", operation="Predict", body=predict().body, timeout_s=20)


@pytest.mark.parametrize(
    ("request_", "reason", "words"),
    [
        (predict(version=9), "not_found", "Servable not found for request: Specific(risk, 9)"),
        (_without_model(), "not_found", "Servable not found for request: Latest(nope)"),
        (predict(label="canary"), "invalid_argument", "Unrecognized servable version label: canary"),
        (
            ask("Predict", encode_predict("risk", {"x": X}, signature="zz")),
            "failed_precondition",
            'Serving signature key "zz" not found.',
        ),
        (ask("Predict", encode_predict("risk", {"y": X})), "invalid_argument", "input size does not match signature"),
        (ask("Predict", encode_predict("risk", {"x": X.astype("f8")})), "invalid_argument", "to be float but double"),
        (ask("Predict", encode_predict("risk", {"x": X[:, :1]})), "invalid_argument", ""),
        (ask("Predict", b"\x0a\x7f"), "invalid_argument", ""),
        (ask("Classify", predict().body), "invalid_argument", ""),
        (ask("GetModelMetadata", b""), "invalid_argument", "metadata_field"),
        (ask("GetModelStatus", b"", version=9), "not_found", "Could not find version 9 of model risk"),
        (ask("Fly", b""), "unsupported_operation", "Fly"),
        (ask(wire.RELOAD, b""), "unsupported_operation", wire.RELOAD),
    ],
    ids=lambda value: value if isinstance(value, str) and "_" in value else None,
)
async def test_a_wrong_request_is_rejected_in_the_server_s_words(
    backend: TfServingBackend, request_: BackendRequest, reason: str, words: str
) -> None:
    with pytest.raises(BackendRejected) as caught:
        await sent(backend, request_)
    assert caught.value.reason == reason
    assert words in caught.value.detail


async def test_an_unknown_output_is_rejected(backend: TfServingBackend) -> None:
    request = wire.parse(wire.PredictRequest, predict().body)
    request.output_filter.append("zz")
    with pytest.raises(BackendRejected, match="output tensor alias not found in signature: zz"):
        await sent(backend, ask("Predict", request.SerializeToString()))


def example_request(kind: Any, signature: str) -> Any:
    request = kind()
    request.model_spec.name, request.model_spec.signature_name = "risk", signature
    for row in X.tolist():
        example = request.input.example_list.examples.add()
        for name, value in zip("ab", row, strict=True):
            example.features.feature[name].float_list.value.append(value)
    return request


async def test_classify_and_regress_take_examples(backend: TfServingBackend) -> None:
    request = example_request(wire.ClassificationRequest, "classify").SerializeToString()
    reply, body = await sent(backend, ask("Classify", request))
    rows = wire.parse(wire.ClassificationResponse, body).result.classifications
    assert [[one.label for one in row.classes] for row in rows] == [["no", "yes"]] * 2
    assert reply.served_by == "risk/1"
    np.testing.assert_allclose([[one.score for one in row.classes] for row in rows], probabilities(1), atol=1e-6)
    request = example_request(wire.RegressionRequest, "regress").SerializeToString()
    values = wire.parse(wire.RegressionResponse, (await sent(backend, ask("Regress", request)))[1]).result.regressions
    np.testing.assert_allclose([one.value for one in values], probabilities(1)[:, 1], atol=1e-6)


async def test_a_context_fills_in_what_an_example_leaves_out(backend: TfServingBackend) -> None:
    request = wire.RegressionRequest()
    request.model_spec.signature_name = "regress"
    given = request.input.example_list_with_context
    for name, value in (("a", 1.0), ("b", 100.0)):
        given.context.features.feature[name].float_list.value.append(value)
    given.examples.add().features.feature["b"].float_list.value.append(2.0)
    values = wire.parse(
        wire.RegressionResponse, (await sent(backend, ask("Regress", request.SerializeToString())))[1]
    ).result.regressions
    assert values[0].value == pytest.approx(probabilities(1)[0, 1])


def several(*tasks: tuple[str, str], model: str = "risk") -> bytes:
    request = wire.MultiInferenceRequest()
    request.input.CopyFrom(example_request(wire.RegressionRequest, "").input)
    for signature, method in tasks:
        task = request.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name, task.model_spec.signature_name = model, signature
    return bytes(request.SerializeToString())


async def test_several_inferences_over_one_input_are_those_that_one_by_one_would_give(
    backend: TfServingBackend,
) -> None:
    body = several(("classify", "classify"), ("regress", "regress"), model="another")
    reply, answer = await sent(backend, ask("MultiInference", body, version=1))
    classified, regressed = wire.parse(wire.MultiInferenceResponse, answer).results
    rows = classified.classification_result.classifications
    np.testing.assert_allclose([[one.score for one in row.classes] for row in rows], probabilities(1), atol=1e-6)
    values = [one.value for one in regressed.regression_result.regressions]
    np.testing.assert_allclose(values, probabilities(1)[:, 1], atol=1e-6)
    assert (reply.served_by, regressed.model_spec.signature_name) == ("risk/1", "regress")


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ([("classify", "classify"), ("classify", "classify")], "Duplicate evaluation of signature: classify"),
        ([("classify", "predict")], "Unsupported signature method_name"),
        ([("regress", "classify")], "Expected classification signature method_name"),
    ],
)
async def test_tasks_that_do_not_go_together_are_rejected(
    backend: TfServingBackend, tasks: list[tuple[str, str]], words: str
) -> None:
    with pytest.raises(BackendRejected, match=words):
        await sent(backend, ask("MultiInference", several(*tasks)))


async def test_metadata_tells_the_signatures(backend: TfServingBackend) -> None:
    request = wire.GetModelMetadataRequest(metadata_field=["signature_def"]).SerializeToString()
    reply, body = await sent(backend, ask("GetModelMetadata", request))
    packed = wire.parse(wire.GetModelMetadataResponse, body).metadata["signature_def"].value
    signatures = wire.parse(wire.SignatureDefMap, packed).signature_def
    assert set(signatures) == {"serving_default", "classify", "regress"}
    assert [dim.size for dim in signatures["serving_default"].inputs["x"].tensor_shape.dim] == [-1, 2]
    assert reply.served_by == "risk/1"


async def test_status_tells_the_versions(backend: TfServingBackend) -> None:
    body = (await sent(backend, ask("GetModelStatus", b"")))[1]
    told = wire.parse(wire.GetModelStatusResponse, body).model_version_status
    assert [(one.version, one.state) for one in told] == [(1, State.AVAILABLE)]


async def test_many_calls_share_one_channel(backend: TfServingBackend) -> None:
    replies = await asyncio.gather(*(sent(backend, predict()) for _ in range(50)))
    assert {reply.served_by for reply, _ in replies} == {"risk/1"}


@contextmanager
def frozen(server: Process) -> Iterator[None]:
    """A stopped process stops when its threads hear of it: until then one may still answer."""
    server.process.send_signal(signal.SIGSTOP)
    try:
        threads, until_s = Path(f"/proc/{server.process.pid}/task"), time.monotonic() + READY_WITHIN_S
        while not all("State:\tT" in each.read_text() for each in threads.glob("*/status")):
            assert time.monotonic() < until_s
            time.sleep(0.001)
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


async def test_a_frozen_server_is_a_timeout(server: Process, backend: TfServingBackend) -> None:
    await sent(backend, predict())
    with frozen(server), pytest.raises(BackendTimeout) as caught:
        async with asyncio.timeout(READY_WITHIN_S):  # a backend without a deadline must fail here, not hang
            await sent(backend, predict(timeout_s=0.2))
    assert caught.value.reason == "deadline_exceeded"
    assert (await sent(backend, predict()))[0].served_by == "risk/1"


async def test_a_caller_that_leaves_does_not_wait_for_a_frozen_server(
    server: Process, backend: TfServingBackend
) -> None:
    await sent(backend, predict())
    with frozen(server):
        asked = asyncio.ensure_future(sent(backend, predict(timeout_s=3600)))
        await asyncio.wait([asked], timeout=0.05)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
    assert (await sent(backend, predict()))[0].served_by == "risk/1"


async def test_a_server_that_is_gone_is_unavailable(own_server: Process, own: TfServingBackend) -> None:
    await sent(own, predict())
    own_server.stop()
    with pytest.raises(BackendUnavailable) as caught:
        await sent(own, predict())
    assert caught.value.reason == "unavailable"


async def test_a_message_beyond_the_limit_never_goes_out_whole(server: Process) -> None:
    backend = TfServingBackend(TfServingSettings(target=server.target, max_message_bytes=100))
    with pytest.raises(BackendRejected) as caught:
        await sent(backend, ask("Predict", encode_predict("risk", {"x": np.ones((1000, 2), np.float32)})))
    assert caught.value.reason == "request_too_large"
    await backend.aclose()


async def test_an_answer_that_is_no_message_is_broke(backend: TfServingBackend, monkeypatch: Any) -> None:
    async def nonsense(*_: Any) -> bytes:
        return b"\x12\x7f"

    monkeypatch.setattr(backend, "call", nonsense)
    with pytest.raises(BackendBroke):
        await sent(backend, predict())


@dataclass
class Watched:
    """The backend, remembering each configuration that goes out."""

    backend: TfServingBackend
    sent: list[Any] = field(default_factory=list)

    async def call(self, operation: str, body: bytes, timeout_s: float) -> bytes:
        if operation == wire.RELOAD:
            self.sent.append(wire.parse(wire.ReloadConfigRequest, body).config.model_config_list.config)
        return await self.backend.call(operation, body, timeout_s)


@pytest.fixture
def settings(base: Path, tmp_path: Path) -> DeploymentSettings:
    return DeploymentSettings(
        file=tmp_path / "state" / "deployment.json", models={"risk": str(base)}, poll_s=0.01, timeout_s=20
    )


async def test_first_start_takes_what_the_server_has_and_calls_it_stable(
    own: TfServingBackend, settings: DeploymentSettings
) -> None:
    deployment = Deployment(settings, {"a": own})
    await deployment.start()
    assert (
        deployment.resolve("risk") == deployment.resolve("risk", 1) == deployment.resolve("risk", None, "stable") == 1
    )
    assert (await sent(own, predict(label="stable")))[0].served_by == "risk/1"


async def test_canary_beside_stable_then_promotion_then_the_old_one_goes(
    own: TfServingBackend, base: Path, settings: DeploymentSettings
) -> None:
    deployment = Deployment(settings, {"a": own})
    await deployment.start()
    publish(base, 2)
    await deployment.load("risk", 2)
    assert deployment.resolve("risk") == 1
    await deployment.move_label("risk", "canary", 2)
    assert (await sent(own, predict(label="canary")))[0].served_by == "risk/2"
    assert (await sent(own, predict(label="stable")))[0].served_by == "risk/1"
    await deployment.move_label("risk", "stable", 2)
    assert deployment.resolve("risk") == 2
    await deployment.unload("risk", 1)
    assert [one.version for one in (await deployment.status())["risk"] if one.state is State.AVAILABLE] == [2]
    with pytest.raises(DeploymentError, match="still has a label"):
        await deployment.unload("risk", 2)


async def test_repeating_an_operation_changes_nothing(
    own: TfServingBackend, base: Path, settings: DeploymentSettings
) -> None:
    watched = Watched(own)
    deployment = Deployment(settings, {"a": watched})
    await deployment.start()
    publish(base, 2)
    await deployment.load("risk", 2)
    await deployment.move_label("risk", "canary", 2)
    before, stored = len(watched.sent), settings.file.read_text()
    await deployment.load("risk", 2)
    await deployment.move_label("risk", "canary", 2)
    await deployment.unload("risk", 7)
    assert len(watched.sent) == before
    assert settings.file.read_text() == stored


async def test_every_reload_says_everything(
    own: TfServingBackend, base: Path, tmp_path: Path, settings: DeploymentSettings
) -> None:
    publish(tmp_path / "fraud", 5)
    two = settings.model_copy(update={"models": {"risk": str(base), "fraud": str(tmp_path / "fraud")}})
    settings.file.parent.mkdir()
    settings.file.write_text('{"fraud": {"versions": [5], "labels": {"stable": 5}}}')
    watched = Watched(own)
    deployment = Deployment(two, {"a": watched})
    await deployment.start()
    publish(base, 2)
    await deployment.load("risk", 2)
    assert [config.name for config in watched.sent[-1]] == ["fraud", "risk"]
    assert list(watched.sent[-1][1].model_version_policy.specific.versions) == [1, 2]
    assert dict(watched.sent[-1][0].version_labels) == {"stable": 5}
    assert deployment.resolve("fraud") == 5


async def test_a_version_that_cannot_load_leaves_everything_as_it_was(
    own: TfServingBackend, base: Path, settings: DeploymentSettings
) -> None:
    quick = settings.model_copy(update={"timeout_s": 2.0})
    watched = Watched(own)
    deployment = Deployment(quick, {"a": watched})
    await deployment.start()
    stored = settings.file.read_text()
    (base / "2").mkdir()
    (base / "2" / "saved_model.pb").write_bytes(b"\xff\xff")
    with pytest.raises(DeploymentError) as caught:
        await deployment.load("risk", 2)
    assert caught.value.reason in {"load_failed", "load_timeout"}
    assert list(watched.sent[-1][0].model_version_policy.specific.versions) == [1]
    assert settings.file.read_text() == stored
    with pytest.raises(DeploymentError, match="load it first"):
        await deployment.move_label("risk", "stable", 2)
    assert (await sent(own, predict(label="stable")))[0].served_by == "risk/1"


async def test_a_change_that_cannot_be_remembered_is_undone(
    own: TfServingBackend, base: Path, settings: DeploymentSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = Deployment(settings, {"a": own})
    await deployment.start()
    publish(base, 2)
    await deployment.load("risk", 2)

    def disk_full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", disk_full)
        with pytest.raises(DeploymentError, match="No space left") as caught:
            await deployment.move_label("risk", "stable", 2)
    assert caught.value.reason == "not_remembered"
    assert deployment.resolve("risk") == Deployment(settings, {"a": own}).resolve("risk") == 1
    assert (await sent(own, predict(label="stable")))[0].served_by == "risk/1"


async def test_an_answer_that_is_no_message_stops_a_deployment_with_a_reason(settings: DeploymentSettings) -> None:
    class Nonsense:
        async def call(self, operation: str, body: bytes, timeout_s: float) -> bytes:
            return b"\xff"

    with pytest.raises(DeploymentError) as caught:
        await Deployment(settings, {"a": Nonsense()}).start()
    assert caught.value.reason == "invalid_answer"


async def test_a_version_that_is_not_on_disk_is_refused_at_once(
    own: TfServingBackend, settings: DeploymentSettings
) -> None:
    watched = Watched(own)
    deployment = Deployment(settings, {"a": watched})
    await deployment.start()
    before = len(watched.sent)
    with pytest.raises(DeploymentError) as caught:
        await deployment.load("risk", 9)
    assert caught.value.reason == "no_such_version"
    assert len(watched.sent) == before, "the server was not even told"


@pytest.fixture
def start(base: Path) -> Iterator[Callable[..., Process]]:
    """Starts embedded servers and ends each of them, however the test went."""
    started: list[Process] = []

    def start(port: int = 0) -> Process:
        started.append(start_embedded(base, port))
        return started[-1]

    yield start
    for each in started:
        each.stop()


async def test_a_restarted_server_is_brought_back_to_what_is_remembered(
    base: Path, settings: DeploymentSettings, start: Callable[..., Process]
) -> None:
    first = start()
    backend = TfServingBackend(TfServingSettings(target=first.target))
    deployment = Deployment(settings, {"a": backend})
    await deployment.start()
    publish(base, 2)
    await deployment.load("risk", 2)
    await deployment.move_label("risk", "canary", 2)
    first.process.kill()
    first.process.communicate(timeout=READY_WITHIN_S)
    start(int(first.target.rpartition(":")[2]))
    await backend.aclose()
    again = Deployment(settings, {"a": backend})
    await again.start()
    assert (again.resolve("risk"), again.resolve("risk", None, "canary")) == (1, 2)
    assert (await sent(backend, predict(label="stable")))[0].served_by == "risk/1"
    assert (await sent(backend, predict(label="canary")))[0].served_by == "risk/2"
    await backend.aclose()


def test_embedded_server_follows_new_versions_until_told_otherwise_and_ends_on_sigterm(
    base: Path, start: Callable[..., Process]
) -> None:
    started = start()
    publish(base, 2)
    method = wire.METHODS["Predict"]
    with grpc.insecure_channel(started.target) as channel:
        call: Any = channel.unary_unary(method.path)
        served, tries = 1, 0
        while served == 1 and tries < 100_000:
            served = wire.spec_of(call(predict().body, timeout=READY_WITHIN_S), 2).version.value
            tries += 1
        assert served == 2
        started.process.terminate()
        started.process.communicate(timeout=READY_WITHIN_S)
    assert started.process.returncode == 0


def test_embedded_server_never_imports_tensorflow(base: Path) -> None:
    code = "import sys, inference.tfserving.server; sys.exit(any(m.split('.')[0] == 'tensorflow' for m in sys.modules))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_port_in_use_is_not_shared(base: Path, start: Callable[..., Process]) -> None:
    port = start().target.rpartition(":")[2]
    second = subprocess.run(
        [sys.executable, "-m", "inference.tfserving.server", "--model", f"risk={base}", "--port", port],
        capture_output=True,
        check=False,
        timeout=READY_WITHIN_S,
    )
    assert second.returncode != 0


def test_tensors_are_the_same_when_called_directly(base: Path, start: Callable[..., Process]) -> None:
    """The embedded server adds nothing to the numbers: bit for bit what the graph gives in this process."""
    with grpc.insecure_channel(start().target) as channel:
        call: Any = channel.unary_unary(wire.METHODS["Predict"].path)
        answer = wire.parse(wire.PredictResponse, call(predict().body, timeout=READY_WITHIN_S))
    direct = load(base / "1").run("serving_default", {"x": X})["probabilities"]
    assert tensors.read(answer.outputs["probabilities"]).tobytes() == direct.tobytes()

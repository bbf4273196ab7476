"""Sixteen answers about what is wrong with a request, asked directly and through the gateway: the same, to the byte.

Ten are vLLM's, six are TF Serving's as the embedded server gives them. What differs differs by design and has tests of
its own here: what the gateway itself refuses, and what is no business of the caller's.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import grpc
import numpy as np
import pytest

from inference.savedmodel import export_mlp
from inference.tfserving import wire
from inference.tfserving.predict import encode_predict
from tests.real.conftest import KEY, QUEUE, ROOT, RunningVllm
from tests.real.vllm_gate import Gate, running_before, running_gate

vllm_is_real = pytest.mark.real("vllm")

CHAT, COMPLETIONS, RESPONSES, EMBEDDINGS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
)
HI = [{"role": "user", "content": "hi"}]
TINY = {"model": "tiny", "messages": HI}
OPENAI: dict[str, tuple[str, dict[str, Any], int]] = {
    "more tokens than the model has room for": (CHAT, TINY | {"max_tokens": 5000}, 400),
    "a prompt longer than the model's context": (CHAT, TINY | {"messages": [HI[0] | {"content": "hi " * 3000}]}, 400),
    "a parameter of the wrong type": (CHAT, TINY | {"temperature": "hot"}, 400),
    "a parameter out of its range": (CHAT, TINY | {"top_p": 7}, 400),
    "no choices at all": (COMPLETIONS, {"model": "tiny", "prompt": "hi", "n": 0}, 400),
    "too many logprobs": (CHAT, TINY | {"logprobs": True, "top_logprobs": 500}, 400),
    "two constraints at once": (CHAT, TINY | {"structured_outputs": {"regex": "a", "choice": ["a"]}}, 400),
    "a choice among no tools": (CHAT, TINY | {"tool_choice": "required"}, 400),
    "a model that the server does not have": (RESPONSES, {"model": "absent", "input": "hi"}, 404),
    "a route that this server does not serve": (EMBEDDINGS, {"model": "tiny", "input": "hi"}, 404),
}


@pytest.fixture
async def gate(vllm: RunningVllm, key_file: Path, tmp_path: Path) -> AsyncGenerator[Gate]:
    async with running_gate(vllm, key_file, tmp_path, models=("tiny", "absent")) as gate:
        yield gate


async def asked(url: str, key: str, body: Any, **headers: str) -> tuple[int, str, Any]:
    """Status, kind and document of an answer."""
    sent = {"authorization": f"Bearer {key}", "content-type": "application/json", **headers}
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with aiohttp.ClientSession() as session, session.post(url, data=data, headers=sent) as response:
        is_stream = response.content_type == "text/event-stream"
        told = await response.text()
        return response.status, response.content_type, told if is_stream else json.loads(told)


async def both(gate: Gate, path: str, body: Any) -> list[tuple[int, str, Any]]:
    return [await asked(gate.origin + path, KEY, body), await asked(gate.url + path, gate.tokens["acme"], body)]


@vllm_is_real
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("case", OPENAI)
async def test_vllms_answer_is_the_gateways(gate: Gate, case: str, stream: bool) -> None:
    path, body, status = OPENAI[case]
    direct, through = await both(gate, path, body | ({"stream": True} if stream else {}))
    assert direct[0] == status or direct[1] == "text/event-stream", "vLLM begins some streams before it looks"
    assert through == direct


@vllm_is_real
async def test_a_missing_field_is_missed_in_the_same_words_but_for_what_was_counted(gate: Gate) -> None:
    """vLLM says how many fields it got, and ours is among them."""
    direct, through = await both(gate, CHAT, {"model": "tiny"})
    assert "<dict of 1 items>" in direct[2]["error"]["message"]
    direct[2]["error"]["message"] = direct[2]["error"]["message"].replace("dict of 1", "dict of 2")
    assert through == direct


@vllm_is_real
async def test_a_refused_key_of_ours_is_not_the_agents_business(gate: Gate, tmp_path: Path) -> None:
    """An agent that saw vLLM's 401 would throw away a good token."""
    status, _, document = await asked(gate.origin + CHAT, "wrong", TINY)
    assert (status, document) == (401, {"error": "Unauthorized"})
    wrong = tmp_path / "wrong-key"
    wrong.write_text("wrong")
    server = RunningVllm(gate.origin, 0)
    async with running_gate(server, wrong, tmp_path / "second") as other:
        status, _, document = await asked(other.url + CHAT, other.tokens["acme"], TINY)
    assert (status, document["error"]["code"]) == (503, "credential_refused")


@vllm_is_real
@pytest.mark.parametrize(
    ("body", "code"), [(b"{", "invalid_body"), (b'{"model":"tiny","model":"absent"}', "ambiguous_body")]
)
async def test_what_two_parsers_could_read_differently_is_refused_by_the_gateway(
    gate: Gate, body: bytes, code: str
) -> None:
    direct, through = await both(gate, CHAT, body)
    assert direct[0] == through[0] == 400
    assert through[2]["error"].keys() >= direct[2]["error"].keys() == {"message", "type", "param", "code"}
    assert through[2]["error"]["code"] == code


@vllm_is_real
async def test_who_is_unknown_or_may_not_is_answered_by_the_gateway_in_the_same_shape(gate: Gate) -> None:
    status, _, document = await asked(gate.url + CHAT, "nobody", TINY)
    assert (status, document["error"]["type"]) == (401, "authentication_error")
    status, _, document = await asked(gate.url + CHAT, gate.tokens["acme"], TINY | {"model": "elsewhere"})
    assert (status, document["error"]["code"]) == (404, "not_found")


@vllm_is_real
async def test_a_full_queue_is_told_in_the_servers_words_and_our_code(gate: Gate) -> None:
    endless = {"model": "tiny", "prompt": "a", "max_tokens": 1000, "ignore_eos": True}
    async with filled_queue(gate, endless):
        direct, through = await both(gate, CHAT, TINY | {"max_tokens": 5})
    assert direct[0] == through[0] == 503
    assert direct[2]["error"]["message"] == through[2]["error"]["message"]
    assert (direct[2]["error"]["code"], through[2]["error"]["code"]) == (503, "busy")


@asynccontextmanager
async def filled_queue(gate: Gate, body: dict[str, Any]) -> AsyncGenerator[None]:
    """More calls than the server takes, so that it has refused one; all are left at the end."""
    headers = {"authorization": f"Bearer {KEY}"}
    limit = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=limit, headers=headers) as session:
        asking = [asyncio.ensure_future(session.post(gate.origin + COMPLETIONS, json=body)) for _ in range(QUEUE + 40)]
        with anyio.fail_after(60):
            answered, _ = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
        assert {each.result().status for each in answered} == {503}
        yield
        for each in asking:
            each.cancel()
        await asyncio.wait(asking)
    await gate.until_running(0)


ROW = np.array([[1.0, 2.0]], np.float32)
GOOD = {"x": ROW}
TFSERVING: dict[str, tuple[bytes, str]] = {
    "a version that is not there": (encode_predict("risk", GOOD, version=9), "NOT_FOUND"),
    "a signature that the model does not have": (encode_predict("risk", GOOD, signature="nope"), "FAILED_PRECONDITION"),
    "an input that is missing": (encode_predict("risk", {}), "INVALID_ARGUMENT"),
    "an input that nobody knows": (encode_predict("risk", GOOD | {"y": ROW}), "INVALID_ARGUMENT"),
    "an input of the wrong type": (encode_predict("risk", {"x": ROW.astype(np.int64)}), "INVALID_ARGUMENT"),
    "an input of the wrong shape": (encode_predict("risk", {"x": ROW[:, :1]}), "INVALID_ARGUMENT"),
}


def test_there_are_sixteen_of_them() -> None:
    assert len(OPENAI) + len(TFSERVING) == 16


@dataclass(frozen=True)
class Served:
    target: str
    base: Path
    pid: int


@pytest.fixture(scope="module", params=["numpy", pytest.param("tensorflow", marks=pytest.mark.real("tensorflow"))])
def embedded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The embedded server on either runtime; with TensorFlow's it runs where TensorFlow is installed."""
    python = sys.executable if request.param == "numpy" else python_with_tensorflow()
    base = tmp_path_factory.mktemp("models") / "risk"
    random = np.random.default_rng(1)
    layers: list[Any] = [(random.normal(size=(2, 3)), random.normal(size=3))]
    export_mlp(base / "1", layers, feature_names=["a", "b"], class_names=["x", "y", "z"])
    command = [python, "-m", "inference.tfserving.server", "--model", f"risk={base}", "--port", "0"]
    command += [] if request.param == "numpy" else ["--runtime", request.param]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        try:
            yield Served(server.stdout.readline().split()[1], base, server.pid)
        finally:
            server.terminate()


def python_with_tensorflow() -> str:
    python = ROOT / ".venv-tensorflow/bin/python"
    needed = "import tensorflow, grpc, anyio, msgspec, pydantic"
    if not python.exists() or subprocess.run([python, "-c", needed], capture_output=True, check=False).returncode:
        pytest.skip("no .venv-tensorflow with TensorFlow, grpcio, anyio, msgspec and pydantic in it")
    return str(python)


@pytest.fixture
async def tf_gate(embedded: Served, tmp_path: Path) -> AsyncGenerator[Gate]:
    server = {"kind": "tfserving", "target": embedded.target, "models": {"risk": str(embedded.base)}}
    async with running_before(server, tmp_path, ("risk",)) as gate:
        while not gate.plane.fleet.known("risk"):  # noqa: ASYNC110  another task learns it, and tells nobody
            await asyncio.sleep(0.02)
        yield gate


async def answered(target: str, body: bytes, token: str = "", *, timeout_s: float = 60.0) -> tuple[str, str]:
    """Code and words."""
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    async with grpc.aio.insecure_channel(target) as channel:
        predict: Any = channel.unary_unary(wire.METHODS["Predict"].path)
        try:
            await predict(body, metadata=metadata, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            return error.code().name, error.details() or ""
        return "OK", ""


@pytest.mark.parametrize("case", TFSERVING)
async def test_tf_servings_answer_is_the_gateways(embedded: Served, tf_gate: Gate, case: str) -> None:
    body, code = TFSERVING[case]
    direct = await answered(embedded.target, body)
    through = await answered(f"127.0.0.1:{tf_gate.plane.grpc_port}", body, tf_gate.tokens["acme"])
    assert direct[0] == code
    assert through == direct


async def test_a_deadline_passes_alike_before_a_server_that_is_frozen(embedded: Served, tf_gate: Gate) -> None:
    body, through = encode_predict("risk", GOOD), f"127.0.0.1:{tf_gate.plane.grpc_port}"
    os.kill(embedded.pid, signal.SIGSTOP)
    try:
        for target, token in ((embedded.target, ""), (through, tf_gate.tokens["acme"])):
            assert (await answered(target, body, token, timeout_s=0.3))[0] == "DEADLINE_EXCEEDED"
    finally:
        os.kill(embedded.pid, signal.SIGCONT)
    assert await answered(through, body, tf_gate.tokens["acme"]) == ("OK", "")


async def test_a_model_in_no_catalogue_is_not_found_in_our_words(embedded: Served, tf_gate: Gate) -> None:
    body = encode_predict("elsewhere", GOOD)
    direct = await answered(embedded.target, body)
    through = await answered(f"127.0.0.1:{tf_gate.plane.grpc_port}", body, tf_gate.tokens["acme"])
    assert direct == ("NOT_FOUND", "Servable not found for request: Latest(elsewhere)")
    assert through[0] == "NOT_FOUND"
    assert "elsewhere" in through[1]

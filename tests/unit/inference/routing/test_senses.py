"""How a replica is seen: metrics of both generations, the one-token probe, TF Serving's status."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

import pytest

from inference.backend import BackendReply, BackendRequest
from inference.errors import BackendBroke, BackendRejected, BackendUnavailable
from inference.openai_http.load import VllmLoad, load_in
from inference.openai_http.probe import OneToken
from inference.openai_http.settings import VllmSettings
from inference.routing import Load
from inference.routing.tfserving import StatusProbe

NEW = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="tiny"} 3.0
vllm:num_requests_waiting{engine="0",model_name="tiny"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="tiny",reason="capacity"} 2.0
vllm:engine_sleep_state{engine="0",model_name="tiny",sleep_state="awake"} 1.0
vllm:engine_sleep_state{engine="0",model_name="tiny",sleep_state="discard_all"} 0.0
vllm:kv_cache_usage_perc{engine="0",model_name="tiny"} 0.4375
vllm:prompt_tokens_total{engine="0",model_name="tiny"} 1200.0
vllm:generation_tokens_total{engine="0",model_name="tiny"} 34.0
vllm:generation_tokens_created{engine="0",model_name="tiny"} 1.7e+09
"""
OLD = """\
vllm:num_requests_running{model_name="tiny"} 3.0
vllm:num_requests_waiting{model_name="tiny"} 2.0
vllm:gpu_cache_usage_perc{model_name="tiny"} 0.4375
vllm:prompt_tokens_total{model_name="tiny"} 1200.0
vllm:generation_tokens_total{model_name="tiny"} 34.0
"""


@pytest.mark.parametrize("page", [NEW, OLD], ids=["kv_cache_usage_perc", "gpu_cache_usage_perc"])
def test_both_generations_of_metrics_say_the_same(page: str) -> None:
    assert load_in(page) == Load(waiting=2, running=3, kv_ratio=0.4375, is_asleep=False, worked=1234.0)


def test_server_sleeps_when_none_of_its_engines_is_awake() -> None:
    asleep = NEW.replace('sleep_state="awake"} 1.0', 'sleep_state="awake"} 0.0')
    assert load_in(asleep).is_asleep
    second = NEW.replace('engine="0"', 'engine="1"')
    both = load_in(asleep + second)
    assert (both.is_asleep, both.waiting, both.running, both.kv_ratio) == (False, 4, 6, 0.4375)


@pytest.mark.parametrize("page", ["", "up 1\n", NEW.replace("_waiting{", "_queued{"), "vllm:num_requests_running{} x"])
def test_page_that_does_not_say_how_many_wait_is_no_reading(page: str) -> None:
    with pytest.raises(BackendBroke, match="do not say"):
        load_in(page)


async def test_metrics_that_cannot_be_reached_are_a_backend_error() -> None:
    source = VllmLoad(VllmSettings(base_url="http://127.0.0.1:9/v1"))
    with pytest.raises(BackendUnavailable):
        await source()
    await source.aclose()


class Answering:
    def __init__(self, answers: Mapping[str, tuple[int, bytes]]) -> None:
        self.answers, self.asked = answers, []

    @asynccontextmanager
    async def send(self, request: BackendRequest) -> AsyncGenerator[BackendReply]:
        self.asked.append(request)
        status, body = self.answers[request.operation]

        async def chunks() -> AsyncGenerator[bytes]:
            yield body

        yield BackendReply(status=status, headers=(), chunks=chunks())


async def test_probe_asks_the_first_listed_model_for_one_token() -> None:
    server = Answering({"models": (200, b'{"data": [{"id": "tiny"}, {"id": "adapter"}]}'), "chat": (200, b"{}")})
    probe = OneToken(server)
    await probe()
    await probe()
    assert [one.operation for one in server.asked] == ["models", "chat", "chat"]
    body = json.loads(server.asked[1].body)
    assert (body["model"], body["max_tokens"]) == ("tiny", 1)


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ({"models": (200, b"not json")}, BackendBroke),
        ({"models": (200, b'{"data": []}')}, BackendRejected),
        ({"models": (200, b'{"data": [{"id": "tiny"}]}'), "embeddings": (404, b"{}")}, BackendRejected),
    ],
)
async def test_probe_says_what_it_could_not_do(answers: Mapping[str, tuple[int, bytes]], error: type) -> None:
    with pytest.raises(error):
        await OneToken(Answering(answers), operation="embeddings")()


async def test_status_probe_fails_with_the_server_and_with_its_warm_up() -> None:
    told: list[str] = []

    async def rpc(operation: str, body: bytes, _: float) -> bytes:
        told.append(operation)
        if operation == "Predict" and body == b"broken":
            raise BackendBroke("internal")
        return b""

    async def down(*_: object) -> bytes:
        raise BackendUnavailable("unavailable")

    await StatusProbe(rpc, "risk")()
    await StatusProbe(rpc, "risk", b"warm-up")()
    assert told == ["GetModelStatus", "GetModelStatus", "Predict"]
    with pytest.raises(BackendBroke):
        await StatusProbe(rpc, "risk", b"broken")()
    with pytest.raises(BackendUnavailable):
        await StatusProbe(down, "risk")()

"""How a replica is seen: metrics of both generations, the one-token probe, TF Serving's status."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

import pytest

from inference.backend import BackendReply, BackendRequest
from inference.errors import BackendBroke, BackendError, BackendRejected, BackendUnavailable
from inference.openai_http.load import VllmLoad, load_in
from inference.openai_http.probe import OneToken
from inference.openai_http.settings import VllmSettings
from inference.routing import Load
from inference.routing.tfserving import EveryServer, StatusProbe
from inference.tfserving import wire
from inference.tfserving.wire import State

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


class Servings:
    """Three TF Servings with what each has AVAILABLE; None is one that is down."""

    def __init__(self, **available: set[int] | None) -> None:
        self.available: dict[str, set[int] | None] = dict(available)
        self.told: list[tuple[str, str]] = []
        self.refusing = ""

    def every(self) -> EveryServer:
        return EveryServer({name: self.rpc_of(name) for name in self.available})

    def rpc_of(self, name: str):
        async def rpc(operation: str, body: bytes, _: float) -> bytes:
            self.told.append((name, operation))
            available = self.available[name]
            if available is None:
                raise BackendUnavailable("unavailable")
            if operation == wire.RELOAD:
                answer = wire.ReloadConfigResponse()
                answer.status.error_code = 3 if name == self.refusing else 0
                return answer.SerializeToString()
            if not available:
                raise BackendRejected("not_found")
            status = wire.GetModelStatusResponse()
            for version in sorted(available):
                status.model_version_status.add(version=version, state=int(State.AVAILABLE))
            return status.SerializeToString()

        return rpc


def question(model: str = "risk") -> bytes:
    message = wire.GetModelStatusRequest()
    message.model_spec.name = model
    return message.SerializeToString()


async def available_in(every: EveryServer) -> set[int]:
    answer = wire.parse(wire.GetModelStatusResponse, await every.call("GetModelStatus", question(), 1.0))
    return {one.version for one in answer.model_version_status if one.state == State.AVAILABLE}


async def test_version_is_available_when_every_server_that_can_be_reached_has_it() -> None:
    servings = Servings(a={1, 2}, b={1}, c=None)
    every = servings.every()
    assert await available_in(every) == {1}
    servings.available["b"] = {1, 2}
    assert await available_in(every) == {1, 2}
    servings.available["c"] = set()  # it comes back and knows nothing: the deployment is incomplete again
    assert await available_in(every) == set()


async def test_who_serves_what_is_known_from_the_last_status() -> None:
    every = Servings(a={1, 2}, b={1}, c=None).every()
    assert every.serves("b", "risk", 2)  # nobody has asked yet
    await available_in(every)
    assert [every.serves(name, "risk", 2) for name in "abc"] == [True, False, True]
    assert every.serves("b", "risk", None)


async def test_reload_goes_to_all_and_one_refusal_is_a_refusal() -> None:
    servings = Servings(a={1}, b={1}, c=None)
    every = servings.every()
    assert not wire.parse(wire.ReloadConfigResponse, await every.call(wire.RELOAD, b"", 1.0)).status.error_code
    assert [name for name, _ in servings.told] == ["a", "b", "c"]
    servings.refusing = "b"
    assert wire.parse(wire.ReloadConfigResponse, await every.call(wire.RELOAD, b"", 1.0)).status.error_code == 3


@pytest.mark.parametrize("operation", [wire.RELOAD, "GetModelStatus"])
async def test_deployment_hears_when_no_server_can_be_reached(operation: str) -> None:
    with pytest.raises(BackendError, match="unavailable"):
        await Servings(a=None, b=None).every().call(operation, question(), 1.0)


async def test_status_probe_fails_with_the_server_and_with_its_warm_up() -> None:
    servings = Servings(a={1}, b=None)
    await StatusProbe(servings.rpc_of("a"), "risk", b"warm-up")()
    assert servings.told == [("a", "GetModelStatus"), ("a", "Predict")]
    with pytest.raises(BackendUnavailable):
        await StatusProbe(servings.rpc_of("b"), "risk")()

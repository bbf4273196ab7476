"""The official SDK before the OpenAI doors, over a real socket: refusals are its own exceptions, repeated or not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import openai
import pytest
import uvicorn
from msgspec.structs import replace
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam
from starlette.routing import Router

from audit import AuditUnavailable
from controlplane.calls import Decision, Effect, Obligation, RuleRef
from controlplane.gateway import edge
from controlplane.gateway.doors import openai as door
from controlplane.gateway.obligations import Obligations, ObligationUnmet
from inference.errors import BackendBroke, BackendRejected, BackendTimeout, BackendUnavailable
from tests.unit.gateway.conftest import ALLOW, DENY, Rig

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]
ANSWER = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "tiny",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hello"}}],
}
DELTA = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "tiny"}
CHUNK = {**DELTA, "choices": [{"index": 0, "delta": {"content": "hel"}}]}


@asynccontextmanager
async def listening(rig: Rig) -> AsyncIterator[str]:
    routes = edge.routes(door.doors(lambda *_: True), rig.gateway, lambda problem: f'Bearer error="{problem.reason}"',
                         lambda *_: None)  # fmt: skip
    config = uvicorn.Config(Router(routes), port=0, http="httptools", ws="none", lifespan="off", log_config=None)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
    finally:
        await server.shutdown()


@pytest.fixture
async def client(rig: Rig) -> AsyncIterator[AsyncOpenAI]:
    """Two retries, as by default, but without their pauses."""
    rig.backend.headers = (("content-type", "application/json"),)
    rig.backend.script = [json.dumps(ANSWER).encode()]
    async with listening(rig) as url, AsyncOpenAI(base_url=url, api_key="good", max_retries=2) as client:
        yield client


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.001)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)


async def chat(client: AsyncOpenAI) -> object:
    return await client.chat.completions.create(model="tiny", messages=MESSAGES)


async def test_a_chat_is_answered(client: AsyncOpenAI) -> None:
    completion = await client.chat.completions.create(model="tiny", messages=MESSAGES)
    assert completion.choices[0].message.content == "hello"


async def test_a_stranger_gets_401_once(rig: Rig, client: AsyncOpenAI) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        await chat(client.with_options(api_key="forged"))
    assert (caught.value.code, caught.value.type) == ("bad_signature", "authentication_error")
    assert caught.value.response.headers["www-authenticate"] == 'Bearer error="bad_signature"'
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert rig.ledger.entries == []


async def test_a_denial_is_403_once_and_says_which_rule(rig: Rig, client: AsyncOpenAI) -> None:
    rig.policy.decision = replace(DENY, rules=(RuleRef("chat.none", "roles/a.yaml:3"),))
    with pytest.raises(openai.PermissionDeniedError) as caught:
        await chat(client)
    error = caught.value
    assert (error.code, error.type) == ("no_matching_rule", "permission_error")
    assert "roles/a.yaml:3" in error.message
    assert isinstance(error.body, dict)
    assert error.body["ledger_index"] == 0
    assert error.body["rules"] == [{"id": "chat.none", "source": "roles/a.yaml:3"}]
    assert rig.ledger.entries == [("deny", "no_matching_rule")]


async def test_a_rate_limit_is_429_and_not_repeated(rig: Rig, client: AsyncOpenAI) -> None:
    def spent(*_: object) -> None:
        raise ObligationUnmet("rate_limited", retry_after_s=30.2)

    rig.policy.decision = Decision(
        effect=Effect.ALLOW, reason="granted", revision="r1", obligations=(Obligation("rate_limit", {}),)
    )
    rig.obligations = Obligations({"rate_limit": spent})  # type: ignore[dict-item]  # it returns nothing, ever
    async with listening(rig) as url:
        with pytest.raises(openai.RateLimitError) as caught:
            await chat(client.with_options(base_url=url))
    assert caught.value.code == "rate_limited"
    assert caught.value.response.headers["retry-after"] == "31"
    assert rig.ledger.entries == [("deny", "rate_limited")], "one attempt"


async def test_an_unknown_model_is_404_once(rig: Rig, client: AsyncOpenAI) -> None:
    rig.backend.refuses = BackendRejected("not_found", "no model tiny is served here")
    with pytest.raises(openai.NotFoundError) as caught:
        await chat(client)
    assert (caught.value.code, caught.value.type) == ("not_found", "not_found_error")
    assert len(rig.backend.calls) == 1


async def test_a_body_that_reads_two_ways_is_400_once(rig: Rig, client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model="tiny", messages=MESSAGES, extra_body={"Model": "large"})
    assert (caught.value.code, caught.value.type) == ("ambiguous_body", "invalid_request_error")
    assert rig.ledger.entries == []


async def test_a_ledger_that_is_down_is_503_and_tried_again(rig: Rig, client: AsyncOpenAI) -> None:
    rig.ledger.broken = AuditUnavailable("disk_full")
    with pytest.raises(openai.InternalServerError) as caught:
        await chat(client.with_options(max_retries=0))
    assert (caught.value.status_code, caught.value.code) == (503, "disk_full")
    assert "x-should-retry" not in caught.value.response.headers
    assert rig.backend.calls == []


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (BackendUnavailable("connect_failed", "cannot connect to 10.0.0.7:8000"), 503, "connect_failed"),
        (BackendTimeout("deadline"), 504, "deadline"),
        (BackendBroke("upstream_500"), 502, "upstream_500"),
    ],
)
async def test_a_backend_in_trouble_is_5xx_and_repeated_each_time_with_its_own_record(
    rig: Rig, client: AsyncOpenAI, error: Exception, status: int, code: str
) -> None:
    rig.backend.refuses = error
    with pytest.raises(openai.InternalServerError) as caught:
        await chat(client)
    assert (caught.value.status_code, caught.value.code, caught.value.type) == (status, code, "server_error")
    assert "10.0.0.7" not in str(caught.value.body)
    assert [entry[0] for entry in rig.ledger.entries] == ["intent", "outcome"] * 3


async def test_a_whole_stream_is_read_to_its_end(rig: Rig, client: AsyncOpenAI) -> None:
    rig.backend.headers = (("content-type", "text/event-stream"),)
    rig.backend.script = [b"data: " + json.dumps(CHUNK).encode() + b"\n\n", b"data: [DONE]\n\n"]
    stream = await client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)
    assert [chunk.choices[0].delta.content async for chunk in stream] == ["hel"]


async def test_a_stream_that_breaks_off_raises_after_what_was_read(rig: Rig, client: AsyncOpenAI) -> None:
    rig.backend.headers = (("content-type", "text/event-stream"),)
    rig.backend.script = [b"data: " + json.dumps(CHUNK).encode() + b"\n\n", BackendBroke("cut", "ipv4:10.0.0.7:8000")]
    stream = await client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)
    read: list[str | None] = []
    with pytest.raises(openai.APIError) as caught:
        read.extend([chunk.choices[0].delta.content async for chunk in stream])
    assert isinstance(caught.value.body, dict)
    assert (caught.value.code, caught.value.body["type"]) == ("cut", "server_error")
    assert "10.0.0.7" not in str(caught.value.body)
    assert rig.ledger.entries[-1] == ("outcome", "error", "cut")


async def test_an_agent_that_leaves_a_stream_leaves_one_cancelled_outcome(rig: Rig, client: AsyncOpenAI) -> None:
    rig.backend.headers = (("content-type", "text/event-stream"),)
    rig.backend.script = [b"data: " + json.dumps(CHUNK).encode() + b"\n\n", asyncio.Event()]
    stream = await client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)
    await anext(aiter(stream))
    await stream.close()
    async with asyncio.timeout(60):
        while len(rig.ledger.entries) < 2:  # noqa: ASYNC110  the ledger has no event to give
            await asyncio.sleep(0.005)
    assert rig.ledger.entries[1:] == [("outcome", "cancelled", "")]


async def test_the_model_list_and_one_of_its_entries(rig: Rig, client: AsyncOpenAI) -> None:
    rig.backend.script = [b"risk\n", b"tiny"]
    assert [model.id async for model in client.models.list()] == ["risk", "tiny"]


async def test_a_model_list_is_asked_for_again_while_the_ledger_is_down(rig: Rig, client: AsyncOpenAI) -> None:
    """Refusals of the list follow the same rule as those of calls."""
    rig.ledger.broken = AuditUnavailable("stalled")
    with pytest.raises(openai.InternalServerError) as caught:
        await client.with_options(max_retries=0).models.list()
    assert "x-should-retry" not in caught.value.response.headers
    rig.ledger.broken, rig.policy.decision = None, DENY
    with pytest.raises(openai.PermissionDeniedError) as denied:
        await client.models.list()
    assert denied.value.response.headers["x-should-retry"] == "false"


async def test_an_agent_is_told_its_receipt(rig: Rig, client: AsyncOpenAI) -> None:
    rig.policy.decision = ALLOW
    raw = await client.chat.completions.with_raw_response.create(model="tiny", messages=MESSAGES)
    index, event_id = raw.headers["x-audit-receipt"].split()
    assert (index, event_id) == ("0", raw.headers["x-call-id"])
    assert raw.headers["x-served-by"] == "tiny/1"


async def test_a_plain_reply_that_breaks_before_its_first_byte_is_an_error_and_no_reply(
    rig: Rig, client: AsyncOpenAI
) -> None:
    """As when what must be masked cannot be read: a head with status 200 would promise an answer."""
    rig.backend.script = [BackendBroke("redact_reply_unreadable")]
    with pytest.raises(openai.InternalServerError) as caught:
        await chat(client.with_options(max_retries=0))
    assert (caught.value.status_code, caught.value.code) == (502, "redact_reply_unreadable")
    assert rig.ledger.entries[-1] == ("outcome", "error", "redact_reply_unreadable")


async def test_a_stream_begins_before_its_first_byte_is_there(rig: Rig, client: AsyncOpenAI) -> None:
    """A reader of events must not take a slow first one for a server that does not answer."""
    go = asyncio.Event()
    rig.backend.headers = (("content-type", "text/event-stream"),)
    rig.backend.script = [go, b"data: " + json.dumps(CHUNK).encode() + b"\n\n", b"data: [DONE]\n\n"]
    stream = await client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)
    go.set()
    assert [chunk.choices[0].delta.content async for chunk in stream] == ["hel"]

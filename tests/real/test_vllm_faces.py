"""All of vLLM's faces through the whole gateway, spoken to by the official SDKs; and what the gateway sees to beside:
that a tenant's prefixes stay its own, and that who hangs up stops the model and leaves a count."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import aiohttp
import anthropic
import openai
import pytest

from inference.openai_http import parameters
from tests.real.conftest import RunningVllm
from tests.real.vllm_gate import Gate, running_gate

pytestmark = pytest.mark.real("vllm")

HI = [{"role": "user", "content": "Say something."}]
LONG = [{"role": "user", "content": "def hello(name): return name\n" * 12}]
ENDLESS = {"ignore_eos": True}
STOPS_WITHIN_S = 1.0
REVIEWED = Path(__file__).parent / "vllm_parameters.json"
CITY = {"type": "object", "properties": {"city": {"type": "string", "enum": ["Oslo", "Rome"]}}, "required": ["city"]}


@pytest.fixture
async def gate(vllm: RunningVllm, key_file: Path, tmp_path: Path) -> AsyncGenerator[Gate]:
    async with running_gate(vllm, key_file, tmp_path, schedules_by_priority=True) as gate:
        yield gate


@pytest.fixture
async def client(gate: Gate) -> AsyncGenerator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{gate.url}/v1", api_key=gate.tokens["acme"], max_retries=0) as client:
        yield client


@pytest.fixture
async def claude(gate: Gate) -> AsyncGenerator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=gate.url, api_key=gate.tokens["acme"], max_retries=0) as client:
        yield client


async def test_completions_plain_and_streamed(client: openai.AsyncOpenAI, gate: Gate) -> None:
    answer = await client.completions.create(model="tiny", prompt="import", max_tokens=5, extra_body=ENDLESS)
    stream = await client.completions.create(
        model="tiny", prompt="import", max_tokens=5, stream=True, extra_body=ENDLESS
    )
    chunks = [chunk async for chunk in stream]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    assert [one["tokens"]["out"] for one in await gate.outcomes(2)] == [5, 5]


async def test_responses_plain_and_streamed(client: openai.AsyncOpenAI, gate: Gate) -> None:
    answer = await client.responses.create(model="tiny", input="hi", max_output_tokens=5, extra_body=ENDLESS)
    stream = await client.responses.create(
        model="tiny", input="hi", max_output_tokens=5, stream=True, extra_body=ENDLESS
    )
    events = [event async for event in stream]
    assert answer.usage is not None
    assert answer.usage.output_tokens == 5
    assert events[0].type == "response.created"
    assert events[-1].type in {"response.completed", "response.incomplete"}
    assert [(one["status"], one["tokens"]["out"]) for one in await gate.outcomes(2)] == [("ok", 5), ("ok", 5)]


async def test_an_agent_that_sends_its_own_history_needs_no_state(client: openai.AsyncOpenAI) -> None:
    first = await client.responses.create(model="tiny", input="hi", max_output_tokens=3, extra_body=ENDLESS)
    history: Any = [{"role": "user", "content": "hi"}, *[item.to_dict() for item in first.output]]
    history.append({"role": "user", "content": "and then?"})
    second = await client.responses.create(model="tiny", input=history, max_output_tokens=3)
    assert second.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens  # type: ignore[union-attr]  it was just asserted to be there


@pytest.mark.parametrize(
    "asked",
    [
        {"previous_response_id": "resp_1"},
        {"store": True},
        {"background": True},
        {"conversation": "conv_1"},
        {"prompt": {"id": "pmpt_1"}},
    ],
)
async def test_what_a_server_would_keep_is_refused_and_recorded(
    client: openai.AsyncOpenAI, gate: Gate, asked: dict[str, Any]
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(model="tiny", input="hi", **asked)
    assert refused.value.code == "stateful_request"
    assert next(iter(asked)) in str(refused.value)
    (outcome,) = await gate.outcomes(1)
    assert (outcome["status"], outcome["error"]) == ("error", "stateful_request")


async def test_a_tool_that_the_server_would_run_is_refused(client: openai.AsyncOpenAI) -> None:
    tools: Any = [{"type": "mcp", "server_label": "inside", "server_url": "http://127.0.0.1/mcp"}]
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(model="tiny", input="hi", tools=tools)
    assert refused.value.code == "server_side_tool"


async def test_messages_plain_and_streamed(claude: anthropic.AsyncAnthropic, gate: Gate) -> None:
    asked: Any = {"model": "tiny", "messages": HI, "max_tokens": 5}
    counted = await claude.messages.count_tokens(model="tiny", messages=asked["messages"])
    answer = await claude.messages.create(**asked)
    async with claude.messages.stream(**asked) as stream:
        told = await stream.get_final_message()
    assert answer.usage.input_tokens == counted.input_tokens > 0
    assert told.stop_reason in {"max_tokens", "end_turn"}
    _, plain, streamed = await gate.outcomes(3)
    assert plain["tokens"] == {"in": counted.input_tokens, "out": answer.usage.output_tokens, "cached": 0}
    assert streamed["tokens"]["in"] == counted.input_tokens
    assert streamed["tokens"]["out"] == told.usage.output_tokens


async def test_messages_errors_come_in_their_own_shape(claude: anthropic.AsyncAnthropic, gate: Gate) -> None:
    asked: Any = {"model": "tiny", "messages": HI}
    with pytest.raises(anthropic.BadRequestError) as too_many:
        await claude.messages.create(**asked, max_tokens=5000)
    with pytest.raises(anthropic.BadRequestError) as not_read:
        await claude.messages.create(**asked, max_tokens=5, extra_body={"top_k": "many"})
    with pytest.raises(anthropic.PermissionDeniedError) as refused:
        await claude.messages.create(**asked | {"model": "/../secret"}, max_tokens=5)
    async with anthropic.AsyncAnthropic(base_url=gate.url, api_key="nobody", max_retries=0) as stranger:
        with pytest.raises(anthropic.AuthenticationError) as unknown:
            await stranger.messages.create(**asked, max_tokens=5)
    bodies: list[Any] = [each.value.body for each in (too_many, not_read, refused, unknown)]
    assert [body["type"] for body in bodies] == ["error"] * 4
    kinds = ["invalid_request_error", "invalid_request_error", "permission_error", "authentication_error"]
    assert [body["error"]["type"] for body in bodies] == kinds
    assert "max_model_len" in bodies[0]["error"]["message"]
    assert "top_k" in bodies[1]["error"]["message"]


async def test_a_bearer_token_opens_messages_as_well(gate: Gate) -> None:
    async with anthropic.AsyncAnthropic(
        base_url=gate.url, auth_token=gate.tokens["acme"], api_key=None, max_retries=0
    ) as client:
        answer = await client.messages.create(model="tiny", messages=[{"role": "user", "content": "hi"}], max_tokens=2)
    assert answer.role == "assistant"


async def test_tools_keep_to_their_schema_though_the_caller_left_it_open(client: openai.AsyncOpenAI) -> None:
    """The model knows nothing: only the grammar can make it say Oslo or Rome."""
    tools: Any = [{"type": "function", "function": {"name": "weather", "parameters": CITY}}]
    for seed in range(12):  # it may wander in spaces until it is cut short
        answer = await client.chat.completions.create(
            model="tiny", messages=HI, tools=tools, tool_choice="required", max_tokens=200, seed=seed
        )
        calls: Any = answer.choices[0].message.tool_calls
        if calls:
            break
    assert json.loads(calls[0].function.arguments)["city"] in {"Oslo", "Rome"}


@pytest.mark.parametrize(
    ("old", "said"),
    [
        ({"guided_choice": ["red", "green"]}, {"red", "green"}),
        ({"guided_regex": "(red|green)"}, {"red", "green"}),
        ({"guided_grammar": 'root ::= "red" | "green"'}, {"red", "green"}),
        ({"guided_json": {"type": "boolean"}}, {"true", "false"}),
    ],
)
async def test_old_names_of_constraints_constrain(
    client: openai.AsyncOpenAI, old: dict[str, Any], said: set[str]
) -> None:
    for _ in range(3):
        answer = await client.chat.completions.create(model="tiny", messages=HI, max_tokens=20, extra_body=old)
        assert answer.choices[0].message.content in said


async def test_call_id_is_the_name_that_vllm_works_under(client: openai.AsyncOpenAI, gate: Gate) -> None:
    raw = await client.chat.completions.with_raw_response.create(
        model="tiny", messages=HI, max_tokens=2, extra_body={"request_id": "the-callers"}
    )
    assert raw.parse().id == f"chatcmpl-{raw.headers['x-call-id']}"
    assert raw.headers["x-request-id"] == raw.headers["x-call-id"]


async def cached_tokens(gate: Gate, tenant: str, face: str, text: str, **more: Any) -> int:
    async with openai.AsyncOpenAI(base_url=f"{gate.url}/v1", api_key=gate.tokens[tenant], max_retries=0) as client:
        messages: Any = [{"role": "user", "content": text}]
        match face:
            case "chat":
                await client.chat.completions.create(model="tiny", messages=messages, max_tokens=1, extra_body=more)
            case "chat, streamed":
                stream = await client.chat.completions.create(
                    model="tiny", messages=messages, max_tokens=1, stream=True, extra_body=more
                )
                assert [chunk async for chunk in stream]
            case "completions":
                await client.completions.create(model="tiny", prompt=text, max_tokens=1, extra_body=more)
            case "responses":
                await client.responses.create(model="tiny", input=text, max_output_tokens=1, extra_body=more)
            case _:
                async with anthropic.AsyncAnthropic(base_url=gate.url, api_key=gate.tokens[tenant]) as other:
                    await other.messages.create(model="tiny", messages=messages, max_tokens=1, extra_body=more)
    outcomes = await gate.outcomes(len(COUNTED) + 1)
    COUNTED.append(outcomes[-1])
    return int(outcomes[-1]["tokens"]["cached"])


COUNTED: list[Any] = []


@pytest.mark.parametrize("face", ["chat", "chat, streamed", "completions", "responses", "messages"])
async def test_a_tenant_finds_its_own_prefix_and_never_anothers(gate: Gate, face: str) -> None:
    """By the cached tokens that the real server counts, whatever salt the callers name."""
    COUNTED.clear()
    text = f"# {face}\n" + "def hello(name): return name\n" * 12
    assert await cached_tokens(gate, "acme", face, text) == 0
    assert await cached_tokens(gate, "acme", face, text) > 0
    assert await cached_tokens(gate, "globex", face, text) == 0
    assert await cached_tokens(gate, "globex", face, text, cache_salt="shared") > 0, "its own by now"
    assert await cached_tokens(gate, "acme", face, text + "!", cache_salt="shared") > 0


async def test_a_stream_that_is_left_stops_at_once_and_its_tokens_are_recorded(
    client: openai.AsyncOpenAI, gate: Gate, record_property: Any
) -> None:
    before = await gate.metric("vllm:generation_tokens_total")
    stream = await client.chat.completions.create(
        model="tiny", messages=HI, max_tokens=900, stream=True, extra_body=ENDLESS
    )
    chunks = aiter(stream)
    for _ in range(5):
        await anext(chunks)
    await stream.close()
    stopped_s = await gate.until_running(0)
    generated = await gate.metric("vllm:generation_tokens_total") - before
    (outcome,) = await gate.outcomes(1)
    record_property("stopped_ms", round(stopped_s * 1000))
    record_property("tokens", f"{outcome['tokens']['out']} recorded of {generated:.0f} generated")
    assert stopped_s < STOPS_WITHIN_S
    assert outcome["status"] == "cancelled"
    assert 4 <= outcome["tokens"]["out"] <= generated < 900
    assert outcome["tokens"]["in"] > 0


async def test_a_message_stream_that_is_left_stops_and_says_what_is_known(
    claude: anthropic.AsyncAnthropic, gate: Gate
) -> None:
    """vLLM counts a message's output in its last event alone; what nobody counted is not zero."""
    asked: Any = {"model": "tiny", "messages": HI, "max_tokens": 900, "extra_body": ENDLESS}
    async with claude.messages.stream(**asked) as stream:
        await anext(aiter(stream))
    assert await gate.until_running(0) < STOPS_WITHIN_S
    (outcome,) = await gate.outcomes(1)
    assert outcome["status"] == "cancelled"
    assert outcome["tokens"]["in"] > 0
    assert "out" not in outcome["tokens"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"])
async def test_a_plain_call_that_is_left_stops_at_once(gate: Gate, path: str) -> None:
    """Of a plain reply nothing is counted before its end, and the ledger says so."""
    body = {"model": "tiny", "messages": HI, "prompt": "a", "input": "a", "max_tokens": 900, "max_output_tokens": 900}
    if path in ("/v1/responses", "/v1/messages"):
        del body["prompt"]  # there it names something that a server keeps
    headers = {"authorization": f"Bearer {gate.tokens['acme']}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        asking = asyncio.ensure_future(session.post(gate.url + path, json=body | ENDLESS | {"temperature": 0}))
        await gate.until_running(1)
        asking.cancel()
        await asyncio.wait([asking])
        assert await gate.until_running(0) < STOPS_WITHIN_S
    (outcome,) = await gate.outcomes(1)
    assert outcome["status"] == "cancelled"
    assert "tokens" not in outcome


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_tokens_of_a_plain_call_that_is_left_are_recorded_where_that_was_asked_for(
    vllm: RunningVllm, key_file: Path, tmp_path: Path, path: str
) -> None:
    body = {"model": "tiny", "messages": HI, "prompt": "a", "max_tokens": 900, "temperature": 0} | ENDLESS
    async with running_gate(vllm, key_file, tmp_path, counts_abandoned_calls=True) as gate:
        before = await gate.metric("vllm:generation_tokens_total")
        async with aiohttp.ClientSession(headers={"authorization": f"Bearer {gate.tokens['acme']}"}) as session:
            asking = asyncio.ensure_future(session.post(gate.url + path, json=body))
            await gate.until_generated(before + 10)
            asking.cancel()
            await asyncio.wait([asking])
            assert await gate.until_running(0) < STOPS_WITHIN_S
        generated = await gate.metric("vllm:generation_tokens_total") - before
        (outcome,) = await gate.outcomes(1)
    assert outcome["status"] == "cancelled"
    assert 0 < outcome["tokens"]["out"] <= generated < 900
    assert outcome["tokens"]["in"] > 0


ASKED_BOTH_WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "a chat": ("chat/completions", {"messages": HI, "max_tokens": 12}),
    "log probabilities": ("chat/completions", {"messages": HI, "max_tokens": 5, "logprobs": True, "top_logprobs": 2}),
    "a tool call": (
        "chat/completions",
        {
            "messages": HI,
            "max_tokens": 300,
            "temperature": 1.0,  # the likeliest next token of a model that means nothing is white space, for ever
            "tools": [{"type": "function", "function": {"name": "weather", "parameters": CITY}}],
            "tool_choice": "required",
        },
    ),
    "a completion": ("completions", {"prompt": "hello", "max_tokens": 7, "logprobs": 2}),
    "several prompts": ("completions", {"prompt": ["hello", "you"], "max_tokens": 4}),
    "an echo": ("completions", {"prompt": "hello", "max_tokens": 4, "echo": True}),
    "a wrong parameter": ("completions", {"prompt": "hello", "max_tokens": 4, "temperature": -5}),
}


@pytest.mark.parametrize("case", ASKED_BOTH_WAYS)
async def test_an_answer_that_was_put_together_is_the_plain_one(
    vllm: RunningVllm, key_file: Path, tmp_path: Path, case: str
) -> None:
    path, body = ASKED_BOTH_WAYS[case]
    told = []
    for counts in (False, True):
        folder = tmp_path / str(counts)
        folder.mkdir()
        async with running_gate(vllm, key_file, folder, counts_abandoned_calls=counts) as gate:
            headers = {"authorization": f"Bearer {gate.tokens['acme']}"}
            asked = {"model": "tiny", "temperature": 0, "seed": 1, **body}
            async with (
                aiohttp.ClientSession(headers=headers) as session,
                session.post(f"{gate.url}/v1/{path}", json=asked) as answer,
            ):
                told.append((answer.status, answer.content_type, said_in(await answer.json())))
            (outcome,) = await gate.outcomes(1)
            told[-1] += (outcome.get("tokens", {}).get("out"),)
    assert told[0] == told[1]


def said_in(document: Any) -> Any:
    """Without what differs between any two answers, and without fields that say nothing."""
    if isinstance(document, dict):
        counted = {"cached_tokens", "created_cache_tokens"}
        kept = {name: said_in(value) for name, value in document.items() if name not in {"id", "created"} | counted}
        if "arguments" in kept:
            kept["arguments"] = json.loads(kept["arguments"])  # a stream keeps the white space between its parts
        return {name: value for name, value in kept.items() if value not in (None, [], {}, "")}
    return [said_in(each) for each in document] if isinstance(document, list) else document


async def test_every_parameter_of_this_vllm_has_been_looked_at(gate: Gate) -> None:
    """A new vLLM brings new fields. Whoever updates it reads what they do, and lists or refuses them."""
    reviewed = json.loads(REVIEWED.read_text("utf-8"))
    async with aiohttp.ClientSession() as session, session.get(f"{gate.origin}/openapi.json") as response:
        schemas = (await response.json())["components"]["schemas"]
    for shape, passed in reviewed.items():
        known = set(passed) | parameters.OURS | parameters.REFUSED.keys() | parameters.STATEFUL.keys()
        assert set(schemas[shape]["properties"]) - known == set(), shape

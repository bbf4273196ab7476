"""``python tests/real/mcp_everything.py``: an MCP server of both eras, one of everything a proxy can get wrong.

Built on the official SDK. The names, and what each must answer, are those that the official conformance suite asks
for; what the suite asks beyond them it reports as failed here, directly and through the gateway alike. Prints one line
of JSON with its port and ends when its stdin ends.
"""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import sys
import warnings
from typing import Annotated, Any

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp.shared.exceptions import MCPDeprecationWarning
from mcp_types import (
    AudioContent,
    Completion,
    CompletionArgument,
    CompletionContext,
    ElicitRequest,
    ElicitRequestFormParams,
    EmbeddedResource,
    EmptyResult,
    ImageContent,
    InputRequiredResult,
    JSONRPCMessage,
    PromptReference,
    ResourceTemplateReference,
    SamplingMessage,
    SetLevelRequestParams,
    SubscribeRequestParams,
    TextContent,
    TextResourceContents,
    UnsubscribeRequestParams,
)
from pydantic import BaseModel, Field

warnings.simplefilter("ignore", MCPDeprecationWarning)  # the old era is half of what is served here
PIXEL = (
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\6\0\0\0\x1f\x15\xc4\x89\0\0\0\nIDATx\x9cc\0\1\0\0\5\0\1\r\n-\xb4"
    b"\0\0\0\0IEND\xaeB`\x82"
)
IMAGE = ImageContent(type="image", data=base64.b64encode(PIXEL).decode(), mime_type="image/png")
SILENCE = AudioContent(type="audio", data=base64.b64encode(b"RIFF\x24\0\0\0WAVE").decode(), mime_type="audio/wav")
RETRY_MS = 100


class Replay(EventStore):
    """Remembers every event, so that a client may come back for what it missed; ``called`` says that one did."""

    def __init__(self) -> None:
        self.events: list[tuple[str, JSONRPCMessage | None]] = []
        self.called = asyncio.Event()

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        self.events.append((stream_id, message))
        return str(len(self.events) - 1)

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        if not last_event_id.isdigit() or int(last_event_id) >= len(self.events):
            return None
        stream = self.events[int(last_event_id)][0]
        for number, (owner, message) in enumerate(self.events):
            if owner == stream and number > int(last_event_id) and message is not None:
                await send_callback(EventMessage(message, str(number)))
        self.called.set()
        return stream


replay = Replay()
mcp = MCPServer(name="everything", version="1")


def resource(uri: str, text: str, kind: str = "text/plain") -> EmbeddedResource:
    return EmbeddedResource(type="resource", resource=TextResourceContents(uri=uri, mime_type=kind, text=text))


@mcp.tool()
def test_simple_text() -> str:
    return "This is a simple text response for testing."


@mcp.tool()
def test_image_content() -> list[ImageContent]:
    return [IMAGE]


@mcp.tool()
def test_audio_content() -> list[AudioContent]:
    return [SILENCE]


@mcp.tool()
def test_embedded_resource() -> list[EmbeddedResource]:
    return [resource("test://embedded-resource", "This is an embedded resource content.")]


@mcp.tool()
def test_multiple_content_types() -> list[TextContent | ImageContent | EmbeddedResource]:
    words = TextContent(type="text", text="Multiple content types test:")
    return [words, IMAGE, resource("test://mixed-content-resource", '{"test": "data"}', "application/json")]


@mcp.tool()
async def test_tool_with_logging(ctx: Context) -> str:
    for line in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await ctx.info(line)
    return "logged"


@mcp.tool()
async def test_tool_with_progress(ctx: Context) -> str:
    for done in (0, 50, 100):
        await ctx.report_progress(done, 100)
    return "done"


@mcp.tool()
async def test_sampling(prompt: str, ctx: Context) -> str:
    asked = SamplingMessage(role="user", content=TextContent(type="text", text=prompt))
    answer = await ctx.session.create_message([asked], max_tokens=10, related_request_id=ctx.request_id)
    return f"LLM response: {answer.content}"


class Reply(BaseModel):
    response: str


@mcp.tool()
async def test_elicitation(message: str, ctx: Context) -> str:
    answer = await ctx.elicit(message, Reply)
    return f"User response: action={answer.action}"


@mcp.tool()
async def test_reconnection(ctx: Context) -> str:
    """Hangs up in mid-call; the rest of the story is told to the client that comes back for it."""
    replay.called.clear()
    await ctx.close_sse_stream()
    await replay.called.wait()
    await ctx.info("welcome back")
    return "Reconnection test completed"


@mcp.tool()
def test_error_handling() -> str:
    raise RuntimeError("This tool intentionally returns an error for testing")


@mcp.tool()
def test_x_mcp_header(
    region: Annotated[str, Field(default="nowhere", json_schema_extra={"x-mcp-header": "Region"})],
) -> str:
    return region


def question(message: str, **properties: Any) -> ElicitRequest:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


@mcp.tool()
async def test_input_required_result_elicitation(ctx: Context) -> str | InputRequiredResult:
    if ctx.input_responses and "user_name" in ctx.input_responses:
        return f"Hello: {ctx.input_responses['user_name']}"
    return InputRequiredResult(input_requests={"user_name": question("What is your name?", name={"type": "string"})})


@mcp.tool()
async def test_input_required_result_request_state(ctx: Context) -> str | InputRequiredResult:
    if ctx.input_responses and ctx.request_state == "where we were":
        return "state-ok"
    asked = {"confirm": question("Go on?", ok={"type": "boolean"})}
    return InputRequiredResult(input_requests=asked, request_state="where we were")


@mcp.resource("test://static-text", mime_type="text/plain")
def static_text() -> str:
    return "This is the content of the static text resource."


@mcp.resource("test://static-binary", mime_type="image/png")
def static_binary() -> bytes:
    return PIXEL


@mcp.resource("test://template/{id}/data", mime_type="application/json")
def template(id: str) -> str:  # noqa: A002  the suite's own name
    return json.dumps({"id": id, "data": f"Data for ID: {id}"})


@mcp.resource("test://watched-resource")
def watched() -> str:
    return "watched"


@mcp.prompt()
def test_simple_prompt() -> list[UserMessage]:
    return [UserMessage("This is a simple prompt for testing.")]


@mcp.prompt()
def test_prompt_with_arguments(arg1: str, arg2: str) -> list[UserMessage]:
    return [UserMessage(f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'")]


@mcp.prompt()
def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:  # noqa: N803  the suite's own name
    return [UserMessage(resource(resourceUri, "embedded")), UserMessage("Please process it.")]


@mcp.prompt()
def test_prompt_with_image() -> list[UserMessage]:
    return [UserMessage(IMAGE), UserMessage("Please analyze it.")]


@mcp.completion()
async def complete(
    ref: PromptReference | ResourceTemplateReference, argument: CompletionArgument, context: CompletionContext | None
) -> Completion:
    return Completion(values=["paris", "park"], total=2, has_more=False)


async def accepted(_: Any, __: Any) -> EmptyResult:
    return EmptyResult()


for method, params in (
    ("logging/setLevel", SetLevelRequestParams),
    ("resources/subscribe", SubscribeRequestParams),
    ("resources/unsubscribe", UnsubscribeRequestParams),
):
    mcp._lowlevel_server.add_request_handler(method, params, accepted)


async def main() -> None:
    app = mcp.streamable_http_app(event_store=replay, retry_interval=RETRY_MS)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sys.stdout.write(json.dumps({"port": listener.getsockname()[1]}) + "\n")
        sys.stdout.flush()
        serving = asyncio.create_task(server.serve([listener]))
        await asyncio.to_thread(sys.stdin.read)
        server.should_exit = True
        await serving


if __name__ == "__main__":
    asyncio.run(main())

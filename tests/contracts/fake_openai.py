"""A small OpenAI server with memory and with faults, one model name each. A fake: it must pass the contract, too."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

KEY = "the-servers-own-key"
ENDLESS = 500  # more tokens than this and the fake says five and waits until the caller hangs up
ERROR_400 = {"error": {"message": "max_tokens is too large", "type": "BadRequestError", "param": None, "code": 400}}
ERROR_404 = {"error": {"message": "The model `nope` does not exist.", "type": "NotFoundError", "code": 404}}
ERROR_503 = {"error": {"message": "The engine is busy.", "type": "Service Unavailable", "param": None, "code": 503}}

Fault = Callable[["FakeOpenAI", web.Request, dict], Awaitable[web.StreamResponse]]


class FakeOpenAI:
    def __init__(self) -> None:
        self.origin = ""
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        self.running = 0
        self.connections: set[object] = set()

    async def running_requests(self) -> int:
        return self.running

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.seen.append((request.path, dict(request.headers), body))
        self.connections.add(request.transport)
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        fields = json.loads(body)
        self.running += 1
        try:
            return await FAULTS.get(fields["model"], answer)(self, request, fields)
        finally:
            self.running -= 1


async def answer(fake: FakeOpenAI, request: web.Request, fields: dict) -> web.StreamResponse:
    tokens = fields.get("max_tokens", 4)
    if tokens > 1024:
        return web.json_response(ERROR_400, status=400)
    if not fields.get("stream"):
        if tokens > ENDLESS:
            await asyncio.Event().wait()
        message = {"message": {"role": "assistant", "content": "x" * tokens}, "text": "x" * tokens}
        return web.json_response({"model": "tiny", "choices": [message], "usage": usage(tokens)})
    response = await event_stream(request)
    options = fields.get("stream_options") or {}
    for number in range(min(tokens, 5)):
        chunk = {"choices": [{"index": 0, "delta": {"content": f"{number}"}}]}
        await event(response, chunk | ({"usage": usage(number + 1)} if options.get("continuous_usage_stats") else {}))
    if tokens > ENDLESS:
        await asyncio.Event().wait()
    if options.get("include_usage"):
        await event(response, {"choices": [], "usage": usage(tokens)})
    await response.write(b"data: [DONE]\n\n")
    return response


def usage(tokens: int) -> dict:
    return {"prompt_tokens": 3, "completion_tokens": tokens, "prompt_tokens_details": {"cached_tokens": 2}}


async def event_stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8", "set-cookie": "a=b"})
    await response.prepare(request)
    return response


async def event(response: web.StreamResponse, document: dict) -> None:
    await response.write(b"data: " + json.dumps(document).encode() + b"\n\n")


async def hang_before_head(fake: FakeOpenAI, request: web.Request, fields: dict) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def hang_after_head(fake: FakeOpenAI, request: web.Request, fields: dict) -> web.StreamResponse:
    await event_stream(request)
    await asyncio.Event().wait()
    raise AssertionError


async def stall(fake: FakeOpenAI, request: web.Request, fields: dict) -> web.StreamResponse:
    response = await event_stream(request)
    await event(response, {"choices": [{"delta": {"content": "one"}}]})
    await asyncio.Event().wait()
    raise AssertionError


async def cut(fake: FakeOpenAI, request: web.Request, fields: dict) -> web.StreamResponse:
    response = await event_stream(request)
    await event(response, {"choices": [{"delta": {"content": "one"}}]})
    await response.write(b'data: {"half')
    request.transport.close()
    return response


async def cut_plain(fake: FakeOpenAI, request: web.Request, fields: dict) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-length": "1000", "content-type": "application/json"})
    await response.prepare(request)
    await response.write(b'{"choices": [')
    request.transport.close()
    return response


async def hang_up(fake: FakeOpenAI, request: web.Request, fields: dict) -> web.StreamResponse:
    request.transport.close()
    return web.Response()


async def no_done(fake: FakeOpenAI, request: web.Request, fields: dict) -> web.StreamResponse:
    response = await event_stream(request)
    await event(response, {"choices": [{"delta": {"content": "one"}}]})
    return response


async def error_event(fake: FakeOpenAI, request: web.Request, fields: dict) -> web.StreamResponse:
    response = await event_stream(request)
    await event(response, {"choices": [{"delta": {"content": "one"}}]})
    await event(response, {"error": {"message": "EngineDeadError", "type": "Internal", "code": 500}})
    await response.write(b"data: [DONE]\n\n")
    return response


async def error_first(fake: FakeOpenAI, request: web.Request, fields: dict) -> web.StreamResponse:
    response = await event_stream(request)
    await event(response, {"error": {"message": "EngineDeadError", "type": "Internal", "code": 500}})
    await asyncio.Event().wait()
    raise AssertionError


async def huge_event(fake: FakeOpenAI, request: web.Request, fields: dict) -> web.StreamResponse:
    response = await event_stream(request)
    await event(response, {"choices": [{"delta": {"content": "x" * 300_000}}]})
    await response.write(b"data: [DONE]\n\n")
    return response


def status(code: int, document: dict, **headers: str) -> Fault:
    async def respond(fake: FakeOpenAI, request: web.Request, fields: dict) -> web.StreamResponse:
        return web.json_response(document, status=code, headers=headers)

    return respond


async def rejected_slowly(fake: FakeOpenAI, request: web.Request, fields: dict) -> web.StreamResponse:
    return web.Response(status=500, text="Internal Server Error")


FAULTS: dict[str, Fault] = {
    "nope": status(404, ERROR_404),
    "no-route": status(404, {"detail": "Not Found"}),
    "busy": status(503, ERROR_503, **{"retry-after": "7"}),
    "limited": status(429, ERROR_503, **{"retry-after": "3"}),
    "redirect": status(307, {}, location="http://127.0.0.1:1/elsewhere"),
    "boom": rejected_slowly,
    "hang-before-head": hang_before_head,
    "hang-after-head": hang_after_head,
    "stall": stall,
    "cut": cut,
    "cut-plain": cut_plain,
    "hang-up": hang_up,
    "no-done": no_done,
    "error-event": error_event,
    "error-first": error_first,
    "huge-event": huge_event,
}


@asynccontextmanager
async def running_fake() -> AsyncGenerator[FakeOpenAI]:
    fake = FakeOpenAI()
    application = web.Application(client_max_size=16 * 1024 * 1024)
    application.router.add_post("/v1/{tail:.*}", fake.handle)
    application.router.add_get("/health", healthy)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    fake.origin = f"http://{host}:{port}"
    try:
        yield fake
    finally:
        await runner.cleanup()


async def healthy(_: web.Request) -> web.Response:
    return web.Response()

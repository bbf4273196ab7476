"""How to reach one OpenAI-compatible model server."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, HttpUrl


class VllmSettings(BaseModel, frozen=True, extra="forbid"):
    base_url: HttpUrl = Field(description="Where the API begins, as for an SDK: ends in /v1 for vLLM.")
    api_key_file: Path | None = Field(
        default=None,
        description="File with the gateway's own key for this server; read again after the server has refused it.",
    )
    served_model: str = Field(
        default="",
        description="The name the server knows the model by; empty when it is the name callers use.",
    )
    dialect: Literal["vllm", "openai"] = Field(
        default="vllm",
        description="Whose extensions the server knows. With vllm the gateway salts the prefix cache for each tenant, "
        "asks for running token counts and translates old parameter names; with openai it sends only what is OpenAI's.",
    )
    cache_salt_key_file: Path | None = Field(
        default=None,
        description="File with the secret that tenants' prefix-cache salts are made with. Name one to let several "
        "gateways, or one after a restart, find the same prefixes; without it each process makes its own.",
    )
    schedules_by_priority: bool = Field(
        default=False,
        description="Whether vLLM was started with --scheduling-policy priority and is to be told how urgent calls "
        "are. A caller's own wish for priority is never passed on.",
    )
    strict_tools: bool = Field(
        default=True,
        description="Ask for arguments that keep to a tool's schema wherever the caller left it open. Switch it off "
        "for a server that refuses schemas it cannot enforce. Needs the vllm dialect.",
    )
    counts_abandoned_calls: bool = Field(
        default=False,
        description="Ask for plain chats and completions as streams and put their answers together here: the tokens of "
        "a call that its caller abandons are then known, at about 0.2 ms of processor time a token. Needs vllm.",
    )
    media_hosts: tuple[str, ...] = Field(
        default=(),
        description="Hosts from which the server may fetch the images and other media that a request names. Media "
        "within the request (data: URLs) need none.",
    )
    health_path: str = Field(default="/health", description="Path on the same host that answers 200 when it is up.")
    connect_timeout_s: float = Field(
        default=2.0, gt=0, description="Seconds for a connection, waiting for a free one included."
    )
    first_byte_timeout_s: float = Field(
        default=30.0, gt=0, description="Seconds from the request to the first event of a streamed reply."
    )
    stall_timeout_s: float = Field(
        default=10.0, gt=0, description="Seconds a streamed reply may be silent once it has begun."
    )
    total_timeout_s: float = Field(
        default=600.0, gt=0, description="Seconds for the whole exchange; a caller's own shorter limit wins."
    )
    keepalive_s: float = Field(
        default=4.0,
        gt=0,
        description="Seconds an idle connection is kept. Below the 5 s after which uvicorn, vLLM's server, hangs up: "
        "a request sent into that moment is lost and may not be repeated.",
    )
    max_connections: int = Field(default=256, gt=0, description="Connections to this server at the same time.")
    max_reply_bytes: int = Field(
        default=32 * 1024 * 1024, gt=0, description="Bytes of a reply that is not streamed; a larger one is broken."
    )
    max_event_bytes: int = Field(
        default=8 * 1024 * 1024, gt=0, description="Bytes of one event of a streamed reply; a larger one is broken."
    )

"""How to reach one OpenAI-compatible model server."""

from __future__ import annotations

from pathlib import Path

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

"""What an operator decides about one vLLM server, in the words of the decision and not of the command line."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

OPENS_A_DOOR = frozenset(
    {
        "--allow-credentials",
        "--allowed-local-media-path",
        "--allowed-media-domains",
        "--allowed-origins",
        "--api-key",
        "--config",
        "--enable-prompt-embeds",
        "--host",
        "--hf-token",
        "--io-processor-plugin",
        "--load-format",
        "--logits-processors",
        "--middleware",
        "--model",
        "--port",
        "--reasoning-parser-plugin",
        "--root-path",
        "--scheduler-cls",
        "--served-model-name",
        "--tool-parser-plugin",
        "--trust-remote-code",
        "--uds",
        "--worker-cls",
        "--worker-extension-cls",
    }
)
"""Flags that run others' code, read files of the host, show the key, or move the server to where others reach it."""

_FLAG = re.compile(r"--[a-z0-9][a-z0-9.-]*(=.*)?", re.IGNORECASE)

Quantization = Literal["none", "fp8", "int8", "awq", "gptq", "mxfp4", "compressed-tensors"]


class _Decision(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Lora(_Decision):
    """Low-rank adapters served beside their base. Only what is listed here is ever loaded."""

    adapters: dict[str, str] = Field(
        default_factory=dict, description="Name that callers use, and path as the server sees it."
    )
    at_once: int = Field(default=1, ge=1, description="Different adapters in one batch.")
    max_rank: Literal[8, 16, 32, 64, 128, 256, 320, 512] = Field(default=16, description="Largest rank among them.")
    runtime: bool = Field(
        default=False,
        description="Whether the gateway may load and unload while the server runs. It opens vLLM's `/adapters`, which "
        "asks nobody for a key: the gateway must then be the only one who can reach the server.",
    )


class Launch(_Decision):
    """One server, one model. Nothing here is a secret, and nothing opens the server to anybody but the gateway."""

    model: str = Field(min_length=1, description="A path as the server sees it, or a name on a model hub.")
    device: Literal["cuda", "cpu"] = Field(default="cuda", description="What it runs on.")
    gpus: int = Field(default=1, ge=1, le=64, description="GPUs that share the model (tensor parallel).")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(default="auto", description="Number format.")
    quantization: Quantization = Field(
        default="none", description="`fp8` and `int8` quantise while loading, the others name what the weights are."
    )
    kv_cache: Literal["auto", "fp8"] = Field(default="auto", description="Number format of the KV cache.")
    kv_cache_bytes: str = Field(
        default="", pattern=r"^([0-9]+[KMG]?)?$", description="Size of the KV cache, as in 64M; empty: by memory_share."
    )
    memory_share: float = Field(default=0.9, gt=0, le=1, description="Share of the GPU's memory that it may take.")
    context_tokens: int | None = Field(default=None, ge=1, description="Longest prompt and answer together.")
    batch: int = Field(default=32, ge=1, description="Requests that are computed together at most.")
    batch_tokens: int | None = Field(default=None, ge=1, description="Tokens that one step computes at most.")
    queue: int = Field(default=256, ge=1, description="Requests that may wait; one more is refused with 503.")
    block_size: int | None = Field(default=None, ge=1, description="Tokens in a block of the KV cache.")
    lazy_load: bool = Field(
        default=True,
        description="Map the weights and read what is needed; false: read every file whole (network disks).",
    )
    eager: bool = Field(default=False, description="No compiled graphs: starts sooner, answers more slowly.")
    embeds: bool = Field(default=False, description="Whether it embeds texts instead of writing them.")
    tool_parser: str = Field(default="", pattern=r"^[a-z0-9_]*$", description="How it writes tool calls: hermes, …")
    reasoning_parser: str = Field(default="", pattern=r"^[a-z0-9_]*$", description="How it marks its reasoning.")
    lora: Lora | None = None
    more: list[str] = Field(
        default_factory=list, description="Further flags of vLLM, each as `--name` or `--name=value`."
    )

    @model_validator(mode="after")
    def _sound(self) -> Self:
        for flag in self.more:
            name = flag.partition("=")[0]
            if not _FLAG.fullmatch(flag):
                raise ValueError(f"{flag!r} is no flag; write --name or --name=value")
            if any(door.startswith(name) for door in OPENS_A_DOOR):  # a parser may take the beginning for the whole
                raise ValueError(f"{name} is not for a catalogue: it opens a door, or another field says it")
        if self.device == "cpu" and (self.gpus > 1 or not self.kv_cache_bytes):
            raise ValueError("on a CPU there is no tensor parallelism, and kv_cache_bytes must be said")
        return self

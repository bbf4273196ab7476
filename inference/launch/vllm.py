"""A launch decision in vLLM's own words (0.32): arguments, environment, Helm values.

What every server gets, whatever the catalogue says: scheduling by priority (without it vLLM ignores priorities in
silence), request ids that are ours, counted cached tokens, JSON without runaway whitespace, no page of documentation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from inference.launch.launch import Launch

ALWAYS = (
    "--scheduling-policy=priority",
    "--enable-request-id-headers",
    "--enable-prompt-tokens-details",
    "--structured-outputs-config.backend=xgrammar",  # `auto` refuses the next one
    "--structured-outputs-config.disable_any_whitespace=true",
    "--disable-fastapi-docs",
)
IN_VLLMS_WORDS = {"int8": "int8_per_channel_weight_only"}
QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
ON_CPU = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
"""One thread: with two on two busy cores the mean stayed and the slowest answers took ten times as long."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """``arguments`` follow the model on vLLM's command line; none of them is a secret."""

    name: str
    model: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    gpus: int

    def command(self, python: str, host: str, port: int) -> list[str]:
        """For a host of one's own. ``vllm serve`` says the same, but not where vLLM comes as another distribution."""
        entry = [python, "-m", "vllm.entrypoints.openai.api_server", f"--model={self.model}"]
        return [*entry, f"--served-model-name={self.name}", f"--host={host}", f"--port={port}", *self.arguments]

    def helm_values(self, backend: str) -> dict[str, Any]:
        """The part ``vllm`` of the chart's values that this decides; the rest of it has its defaults."""
        return {
            "vllm": {
                "enabled": True,
                "backend": backend,
                "model": self.model,
                "servedModel": self.name,
                "gpus": self.gpus,
                "args": list(self.arguments),
                "env": dict(self.environment),
            }
        }


def render(name: str, launch: Launch) -> Rendered:
    """``name`` is what the gateway asks for."""
    environment = dict(QUIET)
    if launch.device == "cpu":
        environment |= ON_CPU
    if launch.lora is not None and launch.lora.runtime:
        environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
    gpus = launch.gpus if launch.device == "cuda" else 0
    return Rendered(name, launch.model, (*_arguments(launch), *ALWAYS, *launch.more), environment, gpus)


def _arguments(launch: Launch) -> Iterator[str]:
    yield f"--dtype={launch.dtype}"
    if launch.quantization != "none":
        yield f"--quantization={IN_VLLMS_WORDS.get(launch.quantization, launch.quantization)}"
    yield from _memory(launch)
    yield f"--max-num-seqs={launch.batch}"
    if launch.batch_tokens is not None:
        yield f"--max-num-batched-tokens={launch.batch_tokens}"
    yield f"--max-num-queued-reqs={launch.queue}"
    if launch.gpus > 1:
        yield f"--tensor-parallel-size={launch.gpus}"
    yield f"--safetensors-load-strategy={'lazy' if launch.lazy_load else 'eager'}"
    if launch.eager:
        yield "--enforce-eager"
    if launch.embeds:
        yield from ("--runner=pooling", "--convert=embed")
    if launch.tool_parser:
        yield from ("--enable-auto-tool-choice", f"--tool-call-parser={launch.tool_parser}")
    if launch.reasoning_parser:
        yield f"--reasoning-parser={launch.reasoning_parser}"
    yield from _lora(launch)


def _memory(launch: Launch) -> Iterator[str]:
    if launch.context_tokens is not None:
        yield f"--max-model-len={launch.context_tokens}"
    if launch.kv_cache_bytes:
        yield f"--kv-cache-memory-bytes={launch.kv_cache_bytes}"
    if launch.device == "cuda":
        yield f"--gpu-memory-utilization={launch.memory_share}"
    if launch.kv_cache != "auto":
        yield f"--kv-cache-dtype={launch.kv_cache}"
    if launch.block_size is not None:
        yield f"--block-size={launch.block_size}"


def _lora(launch: Launch) -> Iterator[str]:
    lora = launch.lora
    if lora is None:
        return
    yield from ("--enable-lora", f"--max-loras={lora.at_once}", f"--max-lora-rank={lora.max_rank}")
    if lora.adapters:
        yield "--lora-modules"  # takes what follows up to the next flag
        yield from (f"{name}={path}" for name, path in sorted(lora.adapters.items()))

"""A real vLLM started from a launch decision: flags mean what they should, adapters come and go, bypasses are found."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import anyio
import pytest

from inference.adapters import AdapterRefused, AdapterRegistry
from inference.exposure import Severity, exposure_of
from inference.launch import Launch, Lora, render
from tests.real.conftest import KEY, PYTHON, ROOT, START_LIMIT_S, STOP_LIMIT_S, free_port
from tests.real.lora_adapter import write_adapter

pytestmark = pytest.mark.real("vllm")

PARSES = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
said = vars(make_arg_parser(FlexibleArgumentParser()).parse_args(sys.argv[1:]))
print(json.dumps({name: said[name] for name in json.loads(sys.stdin.read())}))
"""
EVERYTHING = Launch(
    model="/weights/chat",
    gpus=2,
    dtype="bfloat16",
    quantization="int8",
    kv_cache="fp8",
    kv_cache_bytes="2G",
    memory_share=0.8,
    context_tokens=8192,
    batch=32,
    batch_tokens=4096,
    queue=64,
    block_size=32,
    lazy_load=False,
    eager=True,
    tool_parser="hermes",
    reasoning_parser="deepseek_r1",
    lora=Lora(adapters={"a": "/a", "b": "/b"}, at_once=2, max_rank=32),
    more=["--enable-chunked-prefill"],
)
MEANT = {
    "model": "/weights/chat",
    "served_model_name": ["chat"],
    "tensor_parallel_size": 2,
    "dtype": "bfloat16",
    "quantization": "int8_per_channel_weight_only",
    "kv_cache_dtype": "fp8",
    "kv_cache_memory_bytes": 2 * 2**30,
    "gpu_memory_utilization": 0.8,
    "max_model_len": 8192,
    "max_num_seqs": 32,
    "max_num_batched_tokens": 4096,
    "max_num_queued_reqs": 64,
    "block_size": 32,
    "safetensors_load_strategy": "eager",
    "enforce_eager": True,
    "tool_call_parser": "hermes",
    "reasoning_parser": "deepseek_r1",
    "enable_lora": True,
    "max_loras": 2,
    "max_lora_rank": 32,
    "enable_chunked_prefill": True,
    "scheduling_policy": "priority",
    "enable_request_id_headers": True,
    "disable_fastapi_docs": True,
}


def test_every_decision_means_to_vllm_what_it_means_here() -> None:
    if not PYTHON.exists():
        pytest.skip("no .venv-vllm: vLLM for the CPU is not installed")
    arguments = render("chat", EVERYTHING).command("python3", "127.0.0.1", 8000)[3:]
    said = subprocess.run(
        [PYTHON, "-c", PARSES, *arguments], input=json.dumps(list(MEANT)), capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr[-2000:]
    assert json.loads(said.stdout.splitlines()[-1]) == MEANT


@dataclass(frozen=True)
class Server:
    url: str
    lora: Lora


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if not PYTHON.exists():
        pytest.skip("no .venv-vllm: vLLM for the CPU is not installed")
    folder = tmp_path_factory.mktemp("launched")
    base = folder / "tiny"
    subprocess.run([PYTHON, ROOT / "examples/tiny_llm/make.py", base], check=True)
    adapters = {f"tiny-{name}": str(write_adapter(folder / name, base, seed)) for seed, name in enumerate("ab")}
    lora = Lora(adapters=adapters, at_once=2, max_rank=8, runtime=True)
    fixed = lora.model_copy(update={"adapters": {"tiny-a": adapters["tiny-a"]}})  # the other one comes later
    launch = Launch(
        model=str(base), device="cpu", dtype="float32", kv_cache_bytes="64M", block_size=32, context_tokens=1024,
        batch=16, eager=True, lora=fixed,
    )  # fmt: skip
    port, rendered = free_port(), render("tiny", launch)
    environment = os.environ | dict(rendered.environment) | {"HF_HUB_OFFLINE": "1", "VLLM_API_KEY": KEY}
    log = folder / "vllm.log"
    with log.open("wb") as out:
        command = rendered.command(str(PYTHON), "127.0.0.1", port)
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)
    try:
        asyncio.run(until_up(f"http://127.0.0.1:{port}/health", process, log))
        yield Server(f"http://127.0.0.1:{port}/v1", lora)
    finally:
        process.terminate()
        process.wait(STOP_LIMIT_S)


async def until_up(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    limit = time.monotonic() + START_LIMIT_S
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < limit and process.poll() is None:
            try:
                async with session.get(url) as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.5)
    raise AssertionError(await anyio.Path(log).read_text("utf-8", "replace"))


@pytest.fixture
async def registry(server: Server) -> AdapterRegistry:
    registry = AdapterRegistry({"one": server.url}, lambda: server.lora, lambda: KEY)
    await registry.refresh()
    return registry


async def says(server: Server, model: str) -> tuple[int, str]:
    fields = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8, "temperature": 0}
    headers, url = {"authorization": f"Bearer {KEY}"}, f"{server.url}/chat/completions"
    async with aiohttp.ClientSession(headers=headers) as session, session.post(url, json=fields) as answer:
        said = await answer.json()
    return answer.status, said["choices"][0]["message"]["content"] if answer.status == 200 else ""


async def test_an_adapter_named_at_launch_is_there_and_the_other_comes_and_goes(
    server: Server, registry: AdapterRegistry
) -> None:
    assert registry.where() == {"tiny-a": ["one"], "tiny-b": []}
    assert (await says(server, "tiny-b"))[0] == 404
    await registry.load("tiny-b")
    assert registry.where() == {"tiny-a": ["one"], "tiny-b": ["one"]}
    answers = {model: await says(server, model) for model in ("tiny", "tiny-a", "tiny-b")}
    assert {status for status, _ in answers.values()} == {200}
    assert len({text for _, text in answers.values()}) == 3, answers  # three models, and not one under three names
    await registry.unload("tiny-b")
    assert not registry.serves("one", "tiny-b")
    assert (await says(server, "tiny-b"))[0] == 404


async def test_an_adapter_that_cannot_be_read_is_refused_with_the_servers_reason(server: Server) -> None:
    registry = AdapterRegistry(
        {"one": server.url}, lambda: Lora(adapters={"gone": "/nowhere"}, runtime=True), lambda: KEY
    )
    await registry.refresh()
    with pytest.raises(AdapterRefused) as refused:
        await registry.load("gone")
    assert refused.value.reason == "load_failed"


async def test_the_known_ways_around_are_found_on_a_server_that_asks_for_a_key(server: Server) -> None:
    found = {finding.name: finding.severity for finding in await exposure_of(server.url)}
    assert found == {
        "invocations_open": Severity.DANGER,
        "adapters_open": Severity.DANGER,
        "tokenize_open": Severity.WARNING,
    }

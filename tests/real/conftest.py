"""Real components that several files meet, started once."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.real.redis_server import Redis, RedisServer

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
KEY = "the-servers-own-key"
START_LIMIT_S = 300.0
STOP_LIMIT_S = 30.0
QUEUE = 64  # requests that may wait; one more is refused
GENERATES = (
    "--enable-auto-tool-choice",
    "--tool-call-parser=hermes",
    "--structured-outputs-config.backend=xgrammar",
    "--structured-outputs-config.disable_any_whitespace=true",  # else a model without a mind says blanks for ever
    f"--max-num-queued-reqs={QUEUE}",
)
POOLS = ("--runner=pooling", "--convert=embed")


@dataclass(frozen=True)
class RunningVllm:
    origin: str
    pid: int


@pytest.fixture(scope="session")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vllm") / "key"
    path.write_text(f"{KEY}\n")
    return path


@pytest.fixture(scope="session")
def vllm(key_file: Path) -> Iterator[RunningVllm]:
    with running_vllm(key_file, *GENERATES) as server:
        yield server


@contextmanager
def running_vllm(key_file: Path, *flags: str) -> Iterator[RunningVllm]:
    if not PYTHON.exists():
        pytest.skip("no .venv-vllm: vLLM for the CPU is not installed")
    port = free_port()
    command = [PYTHON, ROOT / "examples/tiny_llm/serve.py", f"--port={port}", f"--api-key-file={key_file}"]
    command += [f"--model={key_file.parent / 'tiny'}", f"--log={key_file.parent / f'vllm-{port}.log'}", "--", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        overdue = threading.Timer(START_LIMIT_S, server.terminate)
        overdue.start()
        try:
            lines = list(until_ready(server))
            overdue.cancel()
            assert lines[-1].startswith("ready "), "\n".join(lines)
            yield RunningVllm(f"http://127.0.0.1:{port}", server.pid)
        finally:
            overdue.cancel()
            server.terminate()
            server.wait(STOP_LIMIT_S)


def until_ready(server: subprocess.Popen[str]) -> Iterator[str]:
    for line in server.stdout or ():
        yield line
        if line.startswith("ready "):
            return


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    parts = pytest.importorskip("tests.real.redis_server", reason="the package redis is not installed (extra: redis)")
    with parts.running_redis() as server:
        yield server


@pytest.fixture
async def client(redis: RedisServer) -> AsyncIterator[Redis]:
    """Of a Redis that is empty."""
    async with redis.client() as client:
        await client.flushall()
        yield client

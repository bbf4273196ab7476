"""Redis itself on a free port, with nothing on disk."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import pytest

redis = pytest.importorskip("redis", reason="the package redis is not installed (extra: redis)")
from redis.asyncio import Redis  # noqa: E402  skipped before where there is none

from controlplane.shared_state import RedisSettings  # noqa: E402  as above
from controlplane.shared_state.connection import connect  # noqa: E402  as above

PATIENCE_S = 60.0


@dataclass(frozen=True)
class RedisServer:
    port: int
    process: subprocess.Popen[bytes]

    @asynccontextmanager
    async def client(self) -> AsyncGenerator[Redis]:
        client = connect(RedisSettings(url=f"redis://127.0.0.1:{self.port}"))
        try:
            yield client
        finally:
            await client.aclose()

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@contextmanager
def running_redis() -> Generator[RedisServer]:
    """Skips the test where there is none."""
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("redis-server is not installed (Debian package redis-server)")
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = int(found.getsockname()[1])
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_until_listening(port)
            yield RedisServer(port, process)
        finally:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            process.wait(PATIENCE_S)


def _wait_until_listening(port: int) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)  # a foreign process has no event to wait for
        else:
            return
    pytest.fail("redis-server did not get ready")

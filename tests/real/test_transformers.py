"""The OpenAI contract on ``transformers serve``: an implementation that shares nothing with vLLM.

Needs ``.venv-transformers`` beside the project, and the tiny model, which ``.venv-vllm`` makes.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from msgspec.structs import replace

from inference.backend import BackendReply, BackendRequest
from inference.vllm import VllmBackend
from tests.contracts.openai_contract import OpenAIBackendContract, Served
from tests.real.conftest import KEY, PYTHON, ROOT, START_LIMIT_S, STOP_LIMIT_S, free_port

pytestmark = pytest.mark.real("transformers")

SERVE = ROOT / ".venv-transformers" / "bin" / "transformers"
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
LACKS = frozenset(
    {"cached tokens", "choice of models", "end of plain work", "keys", "limits", "running usage", "usage on demand"}
)
WATCHED_S = 0.1


class WithoutIgnoreEos(VllmBackend):
    """The server knows no ``ignore_eos`` and refuses it; without temperature its model never comes to an end anyway."""

    def send(self, request: BackendRequest) -> AbstractAsyncContextManager[BackendReply]:
        fields = json.loads(request.body)
        fields.pop("ignore_eos", None)
        return super().send(replace(request, body=json.dumps(fields).encode()))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path, int]]:
    """Where it is, the model it serves, and its process."""
    if not SERVE.exists() or not PYTHON.exists():
        pytest.skip("no .venv-transformers, or no .venv-vllm to make the model with")
    folder = tmp_path_factory.mktemp("transformers")
    subprocess.run([PYTHON, ROOT / "examples/tiny_llm/make.py", folder / "tiny"], check=True, capture_output=True)
    port = free_port()
    command = [SERVE, "serve", folder / "tiny", "--device=cpu", "--host=127.0.0.1", f"--port={port}"]
    environment = os.environ | OFFLINE | {"HF_HOME": str(folder / "home")}
    with (folder / "log").open("wb") as log, subprocess.Popen(command, env=environment, stdout=log, stderr=log) as run:
        try:
            wait(f"http://127.0.0.1:{port}", run)
            yield f"http://127.0.0.1:{port}", folder / "tiny", run.pid
        finally:
            run.terminate()
            run.wait(STOP_LIMIT_S)


def wait(origin: str, run: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while run.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{origin}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(f"transformers serve did not start (exit code {run.returncode})")


@pytest.fixture
def served(server: tuple[str, Path, int], tmp_path: Path) -> Served:
    origin, model, pid = server
    key_file = tmp_path / "key"
    key_file.write_text(KEY)

    async def running() -> int:
        """It counts nothing, so its processor time has to tell."""
        before = spent_s(pid)
        await asyncio.sleep(WATCHED_S)
        return int(spent_s(pid) - before > WATCHED_S / 4)

    return Served(origin, key_file, running, {"dialect": "openai", "served_model": str(model)}, LACKS)


def spent_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class TestTransformersServe(OpenAIBackendContract):
    @pytest.fixture
    async def backend(self, served: Served) -> AsyncGenerator[VllmBackend]:
        backend = WithoutIgnoreEos(served.settings())
        yield backend
        await backend.aclose()

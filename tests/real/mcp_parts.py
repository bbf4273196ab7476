"""Real MCP components as processes: each says on stdout or stderr when it serves, and is stopped by its own handle."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NODE_TOOLS = ROOT / ".venv-mcp" / "node_modules" / ".bin"
GATEWAY = Path(__file__).with_name("mcp_gateway.py")
OUR_SERVER = Path(__file__).with_name("mcp_everything.py")
STAMP = re.compile(r"-\d{4}-\d{2}-\d{2}T[\dZ-]+$")
START_LIMIT_S = 180.0
SUITE_LIMIT_S = 600.0


def node_tool(name: str) -> str:
    """Path of an npm program; skips when ``.venv-mcp`` does not have it."""
    path = NODE_TOOLS / name
    if not path.exists():
        pytest.skip(f"no {name} in .venv-mcp: npm install --prefix .venv-mcp")
    return str(path)


@contextlib.contextmanager
def serving(command: list[str], until: str, **environment: str) -> Iterator[str]:
    """Run ``command`` and lend out the first line that holds ``until``; its stdin ends when the block does."""
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        overdue = threading.Timer(START_LIMIT_S, process.kill)
        overdue.start()
        drain = threading.Thread(target=process.stdout.read, daemon=True)
        try:
            line = next((line for line in process.stdout if until in line), None)
            overdue.cancel()
            assert line is not None, f"{command} ended before it served"
            drain.start()
            yield line
        finally:
            overdue.cancel()
            process.stdin.close()
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
            if drain.is_alive():
                drain.join(5)


@dataclass(frozen=True)
class RunningGateway:
    origin: str
    token: str
    folder: Path

    def verify_ledger(self) -> tuple[int, str]:
        """Exit status and words of the offline verifier about the ledger that this gateway wrote."""
        command = [sys.executable, "-m", "controlplane.cli", "audit", "verify"]
        command += ["--ledger", str(self.folder / "ledger.db"), "--key", str(self.folder / "audit/signing.key.pub")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
        return done.returncode, done.stdout + done.stderr


@contextlib.contextmanager
def gateway(registry: Mapping[str, Any], folder: Path, *options: str) -> Iterator[RunningGateway]:
    """A whole gateway in front of ``registry``; what it writes is in ``folder``."""
    path = folder / "registry.yaml"
    path.write_text(json.dumps(registry))  # JSON is YAML
    with serving([sys.executable, str(GATEWAY), str(path), str(folder), *options], until='"port"') as line:
        said = json.loads(line)
        yield RunningGateway(f"http://127.0.0.1:{said['port']}", said["token"], folder)


@contextlib.contextmanager
def our_everything_server() -> Iterator[str]:
    with serving([sys.executable, str(OUR_SERVER)], until='"port"') as line:
        yield f"http://127.0.0.1:{json.loads(line)['port']}/mcp"


@contextlib.contextmanager
def sdk_everything_server() -> Iterator[str]:
    """The Python SDK's own example; ``MCP_EVERYTHING_SERVER`` names the folder that holds its package."""
    folder = os.environ.get("MCP_EVERYTHING_SERVER", "")
    if not (Path(folder) / "mcp_everything_server").is_dir():
        pytest.skip("MCP_EVERYTHING_SERVER does not name the SDK's everything-server")
    port = free_port()
    command = [sys.executable, "-m", "mcp_everything_server", "--port", str(port)]
    with serving(command, until="Uvicorn running", PYTHONPATH=folder):
        yield f"http://127.0.0.1:{port}/mcp"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def conformance(url: str, revision: str, folder: Path) -> Counter[tuple[str, str, str]]:
    """Run the official suite against ``url``; how often each (scenario, check, status) came out."""
    command = [node_tool("conformance"), "server", "--url", url, "--requirements", revision, "-o", str(folder)]
    path = f"{NODE_TOOLS}{os.pathsep}{os.environ['PATH']}"  # its shebang must find Node 22
    subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, timeout=SUITE_LIMIT_S, check=False)
    found: Counter[tuple[str, str, str]] = Counter()
    for file in folder.glob("server-*/checks.json"):
        scenario = STAMP.sub("", file.parent.name)
        found.update((scenario, check["id"], check["status"]) for check in json.loads(file.read_text()))
    return found

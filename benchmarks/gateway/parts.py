"""The processes of a run: started on free loopback ports, measured by /proc, stopped by their ids."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from benchmarks.gateway.world import ROOT, World

LITELLM = ROOT / ".venv-litellm" / "bin" / "litellm"
START_LIMIT_S = 120.0
STOP_LIMIT_S = 15.0
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Part:
    """A contestant: how it is asked (a wrk script and a port), and the process that does its work."""

    name: str
    title: str
    port: int
    script: str
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/chat/completions"

    def cpu_s(self) -> float:
        """User and system time of the process and its children so far."""
        return sum(cpu_of(Path("/proc", str(pid))) for pid in family(self.process.pid))

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Absent(Exception):
    """A contestant that cannot be had on this machine; the message says why."""


class Stage:
    """Starts parts and stops every one of them on leaving."""

    def __init__(self, world: World) -> None:
        self.world, self.parts, self.absent = world, list[Part](), dict[str, str]()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for part in reversed(self.parts):
            part.stop()

    def start(self, name: str) -> Part | None:
        """The part once it answers; None, with its reason in ``absent``, when it cannot be had."""
        try:
            title, port, script, command = self._command(name)
        except Absent as reason:
            self.absent[name] = str(reason)
            return None
        environment = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONPATH": str(ROOT)}
        if name == "litellm":
            environment["PATH"] = f"{LITELLM.parent}:{environment['PATH']}"
        with (self.world.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=ROOT)
        part = Part(name, title, port, script, process)
        self.parts.append(part)
        self._wait_for(part)
        return part

    def _command(self, name: str) -> tuple[str, int, str, list[str]]:
        folder, ports = self.world.folder, self.world.ports
        python, settings = [sys.executable, "-m"], str(folder / f"{name}.yaml")
        match name:
            case "stub":
                nginx = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
                if nginx is None:
                    raise Absent("nginx is not installed (Debian: nginx-light)")
                return "stub upstream, directly", ports.stub, "plain", [nginx, "-c", str(folder / "nginx.conf")]
            case "passthrough":
                command = [*python, "benchmarks.gateway.passthrough", "--port", str(ports.passthrough)]
                return "bare pass-through", ports.passthrough, "plain", [*command, "--upstream", self.world.stub_url]
            case "recorded":
                command = [*python, "benchmarks.gateway.passthrough", "--port", str(ports.recorded)]
                command += ["--upstream", self.world.stub_url, "--config", settings]
                return "pass-through and two records", ports.recorded, "plain", command
            case "gateway":
                command = [*python, "controlplane.cli", "gateway", "--config", settings]
                return "gateway", ports.gateway, "gateway", command
            case "gateway-casbin":
                command = [*python, "controlplane.cli", "gateway", "--config", settings]
                return "gateway, engine casbin", ports.gateway_casbin, "gateway", command
            case "without-casbin":
                command = [*python, "benchmarks.gateway.without_casbin", "--config", settings]
                return "gateway, rules at no cost", ports.without_casbin, "gateway", command
        if not LITELLM.exists():
            raise Absent("no .venv-litellm with the LiteLLM proxy")
        command = [str(LITELLM), "--config", settings, "--host", "127.0.0.1", "--port", str(ports.litellm)]
        return "LiteLLM proxy", ports.litellm, "litellm", [*command, "--num_workers", "1"]

    def _wait_for(self, part: Part) -> None:
        until = time.monotonic() + START_LIMIT_S
        while not _answers(part.port):
            if part.process.poll() is not None or time.monotonic() > until:
                log = (self.world.folder / f"{part.name}.log").read_text("utf-8", "replace")
                raise SystemExit(f"{part.title} did not start:\n{log[-2000:]}")
            time.sleep(0.1)


def _answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def family(pid: int) -> list[int]:
    """``pid`` and everything it started."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += family(int(child))
    return found


def cpu_of(proc: Path) -> float:
    """User and system time in /proc/PID/stat, seconds; names may contain spaces, so count from the last bracket."""
    fields = (proc / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S

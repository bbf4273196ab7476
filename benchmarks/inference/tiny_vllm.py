"""A real vLLM with the tiny model, to be frozen, put to sleep, paused, killed and started again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from examples.tiny_llm.serve import ENVIRONMENT, FLAGS

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
DEVELOPER_MODE = {"VLLM_SERVER_DEV_MODE": "1"}  # what adds /sleep and /pause
ENGINE = ("EngineCore", "Worker")  # in the names of the processes that compute
START_LIMIT_S = 300.0
STOP_LIMIT_S = 30.0
POLL_S = 0.25


def is_installed() -> bool:
    return PYTHON.exists()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]  # type: ignore[no-any-return]


@dataclass
class TinyVllm:
    """Keeps its port over a restart. ``folder`` holds the model (made when it is not there) and the log."""

    folder: Path
    flags: Sequence[str] = ()
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        model = self.folder / "tiny"
        if not (model / "config.json").exists():
            subprocess.run(
                [PYTHON, ROOT / "examples/tiny_llm/make.py", model],
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        command = [str(PYTHON), "-m", "vllm.entrypoints.openai.api_server", f"--model={model}", "--host=127.0.0.1"]
        command += [f"--port={self.port}", *FLAGS, *self.flags]
        with (self.folder / f"vllm-{self.port}.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env=os.environ | ENVIRONMENT | DEVELOPER_MODE, stdout=log, stderr=subprocess.STDOUT
            )

    def await_ready(self) -> float:
        """Seconds it took from now."""
        began = time.monotonic()
        while not self.is_up():
            waited_s = time.monotonic() - began
            if self.process is None or self.process.poll() is not None or waited_s > START_LIMIT_S:
                raise TimeoutError(f"vLLM did not start; see {self.folder}/vllm-{self.port}.log")
            time.sleep(POLL_S)
        return time.monotonic() - began

    def is_up(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.origin}/health", timeout=2):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def engine(self) -> list[int]:
        """The processes that compute, without the one that answers HTTP."""
        assert self.process is not None
        return [
            pid for pid in descendants(self.process.pid) if "EngineCore" in name_of(pid) or "Worker" in name_of(pid)
        ]

    def freeze(self) -> None:
        for pid in self.engine():
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        for pid in self.engine():
            os.kill(pid, signal.SIGCONT)

    def post(self, path: str) -> None:
        request = urllib.request.Request(f"{self.origin}{path}", method="POST")
        with urllib.request.urlopen(request, timeout=30):
            return

    def kill(self) -> None:
        """The whole of it at once, as when a machine goes."""
        assert self.process is not None
        for pid in (*descendants(self.process.pid), self.process.pid):
            os.kill(pid, signal.SIGKILL)
        self.process.wait(STOP_LIMIT_S)

    def stop(self) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.thaw()
        self.process.terminate()
        try:
            self.process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.kill()


def descendants(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []
    children = [int(child) for task in tasks for child in _read(task / "children").split()]
    return children + [grandchild for child in children for grandchild in descendants(child)]


def name_of(pid: int) -> str:
    return _read(Path(f"/proc/{pid}/comm")) + _read(Path(f"/proc/{pid}/cmdline"))


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""

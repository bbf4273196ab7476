"""A real Airflow 3 as small as it goes: an API server, a DAG processor and a scheduler that runs tasks itself.

`airflow standalone` starts the same and a triggerer, one process above another. Here each is our own child, so that one
of them can be killed alone. Each leads a session. What they start is of that session, or (the programs of tasks) of one
of its own and still has AIRFLOW_HOME in its environment, so that everything is found at the end.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.real.conftest import ROOT, free_port

AIRFLOW = ROOT / ".venv-airflow" / "bin" / "airflow"
START_S, STOP_S = 600.0, 60.0
USER = "monitor"


@dataclass
class AirflowServer:
    """``home`` holds everything of this Airflow: its settings, its database, its logs, its DAGs."""

    home: Path
    port: int = field(default_factory=free_port)
    parts: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    sessions: set[int] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def dags(self) -> Path:
        return self.home / "dags"

    def environment(self) -> dict[str, str]:
        ours = {
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.dags),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": "2",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API_AUTH__JWT_SECRET": "a secret of this test alone, of 64 bytes and more, for HS512 wants it",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
            "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
            "AIRFLOW__WORKERS__MAX_FAILED_HEARTBEATS": "1000",  # else a task gives up before a server is up again
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
        }
        path = f"{AIRFLOW.parent}:{os.environ['PATH']}"
        kept = {name: said for name, said in os.environ.items() if not name.startswith(("AIRFLOW", "PYTHON"))}
        return kept | ours | {"PATH": path}

    def start(self, part: str) -> None:
        with (self.home / f"{part}.log").open("ab") as log:
            self.parts[part] = subprocess.Popen(
                [AIRFLOW, part], env=self.environment(), stdout=log, stderr=log, start_new_session=True
            )
            self.sessions.add(self.parts[part].pid)

    def kill(self, part: str) -> None:
        self.parts[part].kill()
        self.parts[part].wait()

    def said(self) -> str:
        """The last words of every part, for whoever looks into a failure."""
        return "\n".join(f"--- {log.name}\n{log.read_text('utf-8')[-3_000:]}" for log in self.home.glob("*.log"))

    def wait_until_healthy(self) -> None:
        self._wait_until(lambda: all(self._health(part) == "healthy" for part in ("scheduler", "dag_processor")))

    def wait_for_dags(self, *names: str) -> None:
        self._wait_until(lambda: all(self.ask("GET", f"/api/v2/dags/{name}")[0] == 200 for name in names))

    def _health(self, part: str) -> str:
        said = self.ask("GET", "/api/v2/monitor/health", token="")[1]
        return str(said.get(part, {}).get("status"))

    def _wait_until(self, holds: Any) -> None:
        give_up = time.monotonic() + START_S
        while time.monotonic() < give_up:
            assert all(part.poll() is None for part in self.parts.values()), self.said()
            with suppress(OSError):
                if holds():
                    return
            time.sleep(0.5)  # a foreign process has no event to wait for
        pytest.fail(self.said())

    def token(self) -> str:
        """As its owner gets one: by the password that Airflow made."""
        passwords = json.loads((self.home / "simple_auth_manager_passwords.json.generated").read_text("utf-8"))
        status, said = self.ask("POST", "/auth/token", {"username": USER, "password": passwords[USER]}, token="")
        assert status == 201, said
        return str(said["access_token"])

    def ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, token: str | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Raises ``OSError``: nobody is there."""
        headers = {"content-type": "application/json"}
        shown = self.token() if token is None else token
        if shown:
            headers["authorization"] = f"Bearer {shown}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return reply.status, json.loads(reply.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, {}

    def newest_run(self, dag: str) -> str:
        runs = self.ask("GET", f"/api/v2/dags/{dag}/dagRuns?order_by=-id&limit=1")[1]["dag_runs"]
        return str(runs[0]["state"]) if runs else ""

    def stop(self) -> list[int]:
        """End everything, also what a killed part left behind; the pids that would not go."""
        for part in self.parts.values():
            part.terminate()
        give_up = time.monotonic() + STOP_S
        while (left := self.pids()) and time.monotonic() < give_up:
            if time.monotonic() > give_up - STOP_S / 2:
                for pid in left:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(0.2)
        for part in self.parts.values():
            part.wait(STOP_S)
        return left

    def pids(self) -> list[int]:
        """Every live process of this Airflow, whoever started it."""
        found = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and self._is_ours(entry)]
        return sorted(found)

    def _is_ours(self, process: Path) -> bool:
        with suppress(OSError):
            state, _, _, session = (process / "stat").read_text("utf-8").rpartition(")")[2].split()[:4]
            wanted = f"AIRFLOW_HOME={self.home}".encode()
            return state != "Z" and (
                int(session) in self.sessions or wanted in (process / "environ").read_bytes().split(b"\0")
            )
        return False


@contextmanager
def running_airflow(home: Path, dags: dict[str, str]) -> Generator[AirflowServer]:
    """``dags`` are texts by file name. Skips the test where Airflow is not installed."""
    if not AIRFLOW.exists():
        pytest.skip("no .venv-airflow: Airflow is not installed (make .venv-airflow/installed)")
    server = AirflowServer(home)
    server.dags.mkdir()
    for name, text in dags.items():
        (server.dags / name).write_text(text)
    try:
        subprocess.run([AIRFLOW, "db", "migrate"], env=server.environment(), check=True, capture_output=True)
        for part in ("api-server", "dag-processor", "scheduler"):
            server.start(part)
        server.wait_until_healthy()
        yield server
    finally:
        left = server.stop()
    assert left == [], "of Airflow something is left"

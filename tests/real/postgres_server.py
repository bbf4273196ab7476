"""PostgreSQL itself on a free port, in a directory of the test's own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

psycopg = pytest.importorskip("psycopg", reason="the package psycopg is not installed (extra: queue)")

PATIENCE_S = 120.0


@dataclass(frozen=True)
class PostgresServer:
    port: int
    process: subprocess.Popen[bytes]

    @property
    def dsn(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def ask(self, statement: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def empty(self) -> None:
        """As it was when it started."""
        self.ask("DROP SCHEMA public CASCADE")
        self.ask("CREATE SCHEMA public")


@contextmanager
def running_postgres() -> Generator[PostgresServer]:
    """Skips the test where there is none. PostgreSQL refuses to run as root, so root runs it as ``postgres``."""
    initdb, server = shutil.which("initdb") or _debians("initdb"), shutil.which("postgres") or _debians("postgres")
    if initdb is None or server is None:
        pytest.skip("PostgreSQL is not installed (Debian package postgresql)")
    become = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    data = Path(tempfile.mkdtemp(prefix="controlplane-postgres-"))  # pytest's own are closed to other users
    if become:
        shutil.chown(data, "postgres", "postgres")
    made = [*become, initdb, "-D", str(data), "-U", "postgres", "--auth=trust", "-E", "UTF8", "--no-sync"]
    subprocess.run(made, check=True, capture_output=True, cwd="/")
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = int(found.getsockname()[1])
    options = ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off"]
    command = [server, "-D", str(data), "-p", str(port), *options]
    with subprocess.Popen(
        command,
        user="postgres" if become else None,
        group="postgres" if become else None,
        cwd="/",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        running = PostgresServer(port, process)
        try:
            _wait_until_ready(running)
            yield running
        finally:
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGQUIT)  # PostgreSQL's immediate shutdown: nothing here is kept
            process.wait(PATIENCE_S)
            shutil.rmtree(data, ignore_errors=True)


def _debians(program: str) -> str | None:
    return next((str(path) for path in sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"))), None)


def _wait_until_ready(server: PostgresServer) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up:
        try:
            server.ask("SELECT 1")
        except psycopg.OperationalError:
            time.sleep(0.05)  # a foreign process has no event to wait for
        else:
            return
    pytest.fail("PostgreSQL did not get ready")

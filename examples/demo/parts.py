"""Starting the parts of the demo as the processes they are, waiting until each is ready, and stopping them again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

READY_LIMIT_S = 180.0
STOP_LIMIT_S = 60.0  # of a part that is told to end, on a machine that is busy with other things
_given: set[int] = set()


class PartFailed(Exception):
    """A part ended, or did not become ready; the message names its log."""


def free_port(wanted: int = 0) -> int:
    """``wanted`` where nobody listens there, otherwise any. None twice: who was given it need not listen yet.

    The kernel does give one twice. Of stages with eight ports each, one in 200 had some port for two of its parts.
    """
    try:
        with socket.create_server(("127.0.0.1", wanted)) as probe:
            port = int(probe.getsockname()[1])
    except OSError:
        return free_port()
    if port in _given:
        return free_port()
    _given.add(port)
    return port


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass
class Part:
    name: str
    argv: Sequence[str]
    log: Path
    process: subprocess.Popen[bytes]

    def stop(self, how: int = signal.SIGTERM) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, how)
            try:
                self.process.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(STOP_LIMIT_S)


@dataclass
class Parts:
    """All running parts. Leaving the context stops them, the last started first."""

    folder: Path
    running: dict[str, Part] = field(default_factory=dict)

    def __enter__(self) -> Self:
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        for part in reversed(self.running.values()):
            part.stop()

    def start(self, name: str, argv: Sequence[str], ready: Callable[[], bool], *, python: str = sys.executable) -> Part:
        """Start ``argv`` in the interpreter ``python`` and return when ``ready`` says so.

        Raises:
            PartFailed: it ended first, or was not ready in time.
        """
        log = self.folder / "logs" / f"{name}.log"
        with log.open("ab") as out:
            process = subprocess.Popen(
                [python, *argv],
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        part = self.running[name] = Part(name, argv, log, process)
        deadline_s = time.monotonic() + READY_LIMIT_S
        while not ready():
            if process.poll() is not None:
                raise PartFailed(f"{name} ended with status {process.returncode}; see {log}")
            if time.monotonic() > deadline_s:
                raise PartFailed(f"{name} is not ready after {READY_LIMIT_S:.0f} s; see {log}")
            time.sleep(0.1)
        return part

    def restart(self, name: str, ready: Callable[[], bool]) -> Part:
        return self.start(name, self.running[name].argv, ready)

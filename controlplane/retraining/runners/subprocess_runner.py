"""Training as a subprocess: limited in time and memory, and killed with whatever it started.

The trainer is any program. It reads ``{rows}`` (an ``.npz`` with ``inputs`` and ``labels``), makes the directory
``{out}`` and leaves a version in it, writes JSON objects to its standard output, one a line, as it likes, and ends with
0. The last ``metrics`` (a mapping of numbers) that it wrote goes into the provenance.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import time
import uuid
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controlplane.retraining import limited
from controlplane.retraining.runners.description import (
    METRICS,
    STATUS,
    Description,
    is_full,
    plain,
    read_metrics,
    write_json,
)
from controlplane.retraining.settings import TrainingSettings
from controlplane.retraining.trainer import DiskFull, OutputInvalid, Progress, TrainingFailed, TrainingTimeout

LONGEST_LINE_BYTES = 65_536
KEPT_COMPLAINT_LINES = 20
GUARDIAN = (sys.executable, "-I", "-S", limited.__file__)  # it imports nothing of ours and no package: begins sooner
LOOK_EVERY_S = 0.5
STATUS_EVERY_S = 0.5  # a trainer that says a thousand lines a second writes two files a second


@dataclass(frozen=True, slots=True)
class SubprocessRunner:
    """A ``Runner`` on this machine. What it leaves appears under ``description.out`` only when the program ended well:
    a second process with the same job cannot mix its files into it, and what is there need not be made again.
    """

    settings: TrainingSettings

    async def run(self, description: Description, progress: Progress) -> Mapping[str, Any]:
        if description.out.exists():  # left whole by a process that was killed before it could say so
            return read_metrics(description.place)
        filled = description.place / f".{uuid.uuid4().hex}" / str(description.new_version)
        filled.parent.mkdir()
        try:
            metrics = await self._run(description, filled, progress)
            if not filled.exists():
                raise OutputInvalid("the trainer left no model")
            write_json(description.place / METRICS, metrics)
            filled.rename(description.out)
        except TrainingFailed as error:  # before what it left is removed
            if is_full(description.place, self.settings.disk_free_bytes):
                raise DiskFull(str(error)) from error
            raise
        except OSError:
            if not description.out.exists():  # somebody who was thought dead was not, and came first
                raise
        finally:
            shutil.rmtree(filled.parent, ignore_errors=True)
        return read_metrics(description.place)

    async def _run(self, description: Description, out: Path, progress: Progress) -> dict[str, Any]:
        places = {"{python}": sys.executable, "{rows}": str(description.rows), "{out}": str(out)}
        command = [places.get(word, word) for word in self.settings.command]
        process = await asyncio.create_subprocess_exec(
            *GUARDIAN,
            str(os.getpid()),
            str(self.settings.memory_bytes),
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LONGEST_LINE_BYTES,
            start_new_session=True,
        )
        told = _Told(description.place / STATUS, progress)
        try:
            async with asyncio.timeout(self.settings.timeout_s):
                async with asyncio.TaskGroup() as readers:
                    metrics = readers.create_task(_metrics_from(process.stdout, told.tell))
                    complaint = readers.create_task(_last_lines(process.stderr))
                    code = await _ended(process)
        except TimeoutError:
            raise TrainingTimeout(f"not done after {self.settings.timeout_s:g} s") from None
        finally:
            await _end(process)
        if code != 0:
            raise TrainingFailed(f"ended with {code}: {complaint.result()}", _reason_for(code, complaint.result()))
        return metrics.result()


@dataclass(slots=True)
class _Told:
    """Passes progress on, and keeps the last of it beside the job for whoever looks from elsewhere."""

    status: Path
    progress: Progress
    written_s: float = float("-inf")

    def tell(self, said: Mapping[str, Any]) -> None:
        self.progress(said)
        if (now := time.monotonic()) - self.written_s >= STATUS_EVERY_S:
            self.written_s = now
            with suppress(OSError):  # progress is worth less than the training
                write_json(self.status, said)


def _reason_for(code: int, complaint: str) -> str:
    """A word for how it ended. Its last line is all that a Python program says of a limit on its memory."""
    last = complaint.rpartition("\n")[2].partition(":")[0]
    if last.endswith("MemoryError"):
        return "training_out_of_memory"
    return "training_killed" if code < 0 else "training_failed"


async def _metrics_from(stream: asyncio.StreamReader | None, progress: Progress) -> dict[str, Any]:
    """Pass progress on; what is no JSON object is the trainer's chatter and is left alone."""
    metrics: dict[str, Any] = {}
    async for line in _lines(stream):
        try:
            said = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(said, dict):
            progress(said)
            if isinstance(said.get("metrics"), dict):
                metrics = plain(said["metrics"])
    return metrics


async def _last_lines(stream: asyncio.StreamReader | None) -> str:
    kept: deque[str] = deque(maxlen=KEPT_COMPLAINT_LINES)
    async for line in _lines(stream):
        kept.append(line.decode(errors="replace").rstrip())
    return "\n".join(kept)


async def _lines(stream: asyncio.StreamReader | None) -> AsyncGenerator[bytes]:
    while stream is not None:
        try:
            line = await stream.readline()
        except ValueError:  # longer than LONGEST_LINE_BYTES: dropped by the reader, the next one follows
            continue
        if not line:
            return
        yield line


async def _ended(process: asyncio.subprocess.Process) -> int:
    """Its status, also where it left something running: that holds its output open, and ``wait`` waits for that."""
    ended = asyncio.ensure_future(process.wait())
    try:
        while not ended.done():
            await asyncio.wait([ended], timeout=LOOK_EVERY_S)
            if process.returncode is not None:
                _kill_all_of(process)
        return ended.result()
    finally:
        ended.cancel()


def _kill_all_of(process: asyncio.subprocess.Process) -> None:
    """The trainer and whatever it started: it leads a session of its own."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


async def _end(process: asyncio.subprocess.Process) -> None:
    _kill_all_of(process)
    await process.wait()

"""Training as a subprocess: limited in time and memory, one at a time a model, published whole or not at all.

The trainer is any program. It reads ``{rows}`` (an ``.npz`` with ``inputs`` and ``labels``), makes the directory
``{out}`` and leaves a version in it, writes JSON objects to its standard output, one a line, as it likes, and ends with
0. The last ``metrics`` (a mapping of numbers) that it wrote goes into the manifest.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import signal
import sys
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controlplane.retraining.settings import TrainingSettings
from controlplane.retraining.trainer import (
    Candidate,
    Progress,
    TrainerBusy,
    TrainingFailed,
    TrainingJob,
    TrainingTimeout,
)
from controlplane.retraining.versions import Versions, digest_of

LONGEST_LINE_BYTES = 65_536
KEPT_COMPLAINT_LINES = 20


@dataclass(slots=True)
class SubprocessTrainer:
    """A ``Trainer`` whose candidates lie under ``root``."""

    settings: TrainingSettings
    root: Path
    _running: set[str] = field(default_factory=set)

    async def train(self, job: TrainingJob, progress: Progress) -> Candidate:
        with self._alone(job.model):
            versions = Versions(self.root, job.model)
            earlier = versions.candidate(job.new_version, job.key)
            if earlier is not None:
                return earlier
            versions.clear_leftovers()
            workplace = versions.workplace()
            out = workplace / str(job.new_version)
            try:
                metrics = await self._run(job, out, progress)
                if not out.is_dir() or not any(out.iterdir()):
                    raise TrainingFailed("the trainer left no model")
                return versions.accept(out, job.new_version, self._manifest(job, metrics))
            except OSError as error:
                raise TrainingFailed(str(error)) from error
            finally:
                shutil.rmtree(workplace, ignore_errors=True)

    @contextmanager
    def _alone(self, model: str) -> Iterator[None]:
        if model in self._running:
            raise TrainerBusy(model)
        self._running.add(model)
        try:
            yield
        finally:
            self._running.discard(model)

    def _manifest(self, job: TrainingJob, metrics: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "job": job.key,
            "model": job.model,
            "version": job.new_version,
            "parent_version": job.parent_version,
            "data_sha256": hashlib.sha256(job.rows.read_bytes()).hexdigest(),
            "code_sha256": digest_of(self.settings.code),
            "metrics": dict(metrics),
        }

    async def _run(self, job: TrainingJob, out: Path, progress: Progress) -> dict[str, Any]:
        places = {"{python}": sys.executable, "{rows}": str(job.rows), "{out}": str(out)}
        command = [places.get(word, word) for word in self.settings.command]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "controlplane.retraining.limited",
            str(self.settings.memory_bytes),
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LONGEST_LINE_BYTES,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(self.settings.timeout_s):
                async with asyncio.TaskGroup() as readers:
                    metrics = readers.create_task(_metrics_from(process.stdout, progress))
                    complaint = readers.create_task(_last_lines(process.stderr))
                code = await process.wait()
        except TimeoutError:
            raise TrainingTimeout(f"not done after {self.settings.timeout_s:g} s") from None
        finally:
            await _end(process)
        if code != 0:
            raise TrainingFailed(f"ended with {code}: {complaint.result()}")
        return metrics.result()


async def _metrics_from(stream: asyncio.StreamReader | None, progress: Progress) -> dict[str, Any]:
    """Pass progress on; what is no JSON object is the trainer's chatter and is left alone."""
    metrics: dict[str, Any] = {}
    async for line in _lines(stream):
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if isinstance(said, dict):
            progress(said)
            if isinstance(said.get("metrics"), dict):
                metrics = said["metrics"]
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


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill the trainer and whatever it started: it leads a session of its own."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()

"""The one ``Trainer``: describes a job, has a runner do it, checks what was left, and publishes it whole or not at all.

A runner has no power over what is shown to servers: it fills a directory that no server looks at, and whatever it says,
only what passes ``output.py`` becomes a candidate. The provenance beside the model says from what and by what it came.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from controlplane.retraining.runners.description import Description, describe, digest_of_file, is_full, plain
from controlplane.retraining.runners.output import check_output
from controlplane.retraining.settings import TrainingSettings
from controlplane.retraining.trainer import (
    Candidate,
    DiskFull,
    Progress,
    TrainerBusy,
    TrainingError,
    TrainingFailed,
    TrainingJob,
    training_error_for,
)
from controlplane.retraining.versions import MANIFEST, Versions, digest_of

LEFTOVER_S = 86_400.0  # nobody trains for a day without touching a file; a younger one may be another process's


class Runner(Protocol):
    async def run(self, description: Description, progress: Progress) -> Mapping[str, Any]:
        """Have the job done: ``description.out`` is filled on return. Returns the metrics that the trainer found.

        MUST take up a job again that it was already asked for. MUST raise only ``TrainingError`` and ``OSError``. When
        cancelled, MUST leave no process of this machine behind.
        """
        ...


@dataclass(slots=True)
class PublishingTrainer:
    """A ``Trainer`` whose candidates lie under ``root``."""

    settings: TrainingSettings
    root: Path
    runner: Runner
    now_s: Callable[[], float] = time.time
    _running: set[str] = field(default_factory=set)

    async def train(self, job: TrainingJob, progress: Progress) -> Candidate:
        with self._alone(job.model):
            versions = Versions(self.root, job.model)
            earlier = versions.candidate(job.new_version, job.key)
            if earlier is not None:
                return earlier
            try:
                return await self._train(versions, job, progress)
            except (TrainingError, OSError) as error:
                published = versions.candidate(job.new_version, job.key)
                if published is not None:  # another process had the same job, and took its directory away
                    return published
                if isinstance(error, OSError):
                    raise training_error_for(error) from error
                raise

    @contextmanager
    def _alone(self, model: str) -> Iterator[None]:
        if model in self._running:
            raise TrainerBusy(model)
        self._running.add(model)
        try:
            yield
        finally:
            self._running.discard(model)

    async def _train(self, versions: Versions, job: TrainingJob, progress: Progress) -> Candidate:
        versions.clear_leftovers(self.now_s() - LEFTOVER_S)
        place = versions.workplace(job.key)
        try:
            description = await asyncio.to_thread(self._describe, versions, job, place)
            metrics = await self._run(description, progress)
            candidate = await asyncio.to_thread(self._publish, versions, description, metrics)
        except (TrainingError, OSError):
            shutil.rmtree(place, ignore_errors=True)
            raise
        shutil.rmtree(place, ignore_errors=True)
        return candidate

    def _describe(self, versions: Versions, job: TrainingJob, place: Path) -> Description:
        if is_full(place, self.settings.disk_free_bytes):
            raise DiskFull(f"less than {self.settings.disk_free_bytes} bytes are free under {self.root}")
        with versions.alone():
            return describe(job, self.settings.output, digest_of(self.settings.code), place)

    async def _run(self, description: Description, progress: Progress) -> Mapping[str, Any]:
        """A trainer that failed while the disk was full failed because of it, whatever it says."""
        try:
            return await self.runner.run(description, progress)
        except TrainingFailed as error:
            if is_full(description.place, self.settings.disk_free_bytes):
                raise DiskFull(str(error)) from error
            raise

    def _publish(self, versions: Versions, description: Description, metrics: Mapping[str, Any]) -> Candidate:
        """Several processes may have waited for the same job: one of them publishes, the others find it published."""
        with versions.alone():
            published = versions.candidate(description.new_version, description.key)
            if published is not None:
                return published
            parent = versions.directory(description.parent_version)
            files = check_output(description.kind, description.out, parent)
            files.pop(MANIFEST, None)  # ours is written over whatever the trainer calls its provenance
            manifest = self._manifest(description, parent) | {"metrics": plain(metrics), "files": files}
            return versions.accept(description.out, description.new_version, manifest)

    def _manifest(self, description: Description, parent: Path) -> dict[str, Any]:
        manifest = description.as_json() | {"version": description.new_version, "runner": self.settings.runner}
        if (parent / MANIFEST).is_file():
            manifest["parent_sha256"] = digest_of_file(parent / MANIFEST)
        return {name: said for name, said in manifest.items() if name not in ("rows", "out", "name", "new_version")}

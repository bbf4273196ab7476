"""Where versions of a model lie, and how one becomes visible: whole, or not at all.

    <root>/<model>/<version>/            what model servers watch: integer names only
    <root>/<model>/.candidates/<version>/  trained, not promoted; servers ignore names that are not integers
    <root>/<model>/.candidates/.new-*/     a training job: its description, its rows, what it leaves; gone when it ended

Every step into place is a rename on one file system, after everything inside is on disk.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audit import MAX_INTEGER
from controlplane.retraining.trainer import Candidate
from inference.savedmodel import publishing
from inference.savedmodel.reader import number_in

MANIFEST = "provenance.json"
STRANGE = re.compile(r"[^A-Za-z0-9_.-]")
MOST_METRICS = 20  # that a ledger record takes; all of them stand in the provenance


@dataclass(frozen=True, slots=True)
class Versions:
    """The versions of one model under ``root``."""

    root: Path
    model: str

    def directory(self, version: int) -> Path:
        return self.root / self.model / str(version)

    def candidate_directory(self, version: int) -> Path:
        return self._candidates / str(version)

    @property
    def _candidates(self) -> Path:
        return self.root / self.model / ".candidates"

    def next_version(self) -> int:
        """One more than any version that exists, promoted or not."""
        found = [0]
        for folder in (self.root / self.model, self._candidates):
            if folder.is_dir():
                found += [number for entry in folder.iterdir() if (number := number_in(entry.name)) is not None]
        return max(found) + 1

    def workplace(self, job_key: str | None = None) -> Path:
        """A directory beside the candidates, on their file system: the job's own if there is a key, else a new one."""
        self._candidates.mkdir(parents=True, exist_ok=True)
        if job_key is None:
            return Path(tempfile.mkdtemp(prefix=".new-", dir=self._candidates))
        place = self._candidates / f".new-{digest_of_job(job_key)}"
        place.mkdir(exist_ok=True)
        return place

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no other process is between its first and last file of a short step, then be that process."""
        self._candidates.mkdir(parents=True, exist_ok=True)
        with (self._candidates / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def accept(self, filled: Path, version: int, manifest: Mapping[str, Any]) -> Candidate:
        """Make the directory ``filled`` the candidate ``version``; durable on return.

        Raises:
            FileExistsError: another job's candidate already has this number.
        """
        written = json.dumps(manifest, sort_keys=True, indent=1).encode()
        (filled / MANIFEST).write_bytes(written)
        target = publishing.publish(filled, self.candidate_directory(version))
        return _candidate(version, target, written)

    def candidate(self, version: int, job_key: str) -> Candidate | None:
        """The candidate that job ``job_key`` left earlier, wherever it lies now."""
        for folder in (self.candidate_directory(version), self.directory(version)):
            if (folder / MANIFEST).is_file():
                written = (folder / MANIFEST).read_bytes()
                if json.loads(written).get("job") == job_key:
                    return _candidate(version, folder, written)
        return None

    def publish(self, version: int) -> Path:
        """Show the candidate to model servers; doing it twice is doing it once.

        Raises:
            FileNotFoundError: there is no such candidate.
        """
        target = self.directory(version)
        source = self.candidate_directory(version)
        if target.exists() and not source.exists():
            return target
        return publishing.move(source, target)

    def withdraw(self, version: int) -> None:
        """Hide a version from model servers again: beside its siblings it would be the newest. Twice is once."""
        source, target = self.directory(version), self.candidate_directory(version)
        if source.exists() and not target.exists():
            publishing.move(source, target)

    def clear_leftovers(self, touched_before_s: float = math.inf) -> None:
        """Remove workplaces that a kill left and nobody touched since that instant (seconds since 1970)."""
        for leftover in self._candidates.glob(".new-*"):
            with suppress(OSError):  # its owner may be removing it now
                if leftover.stat().st_mtime < touched_before_s:
                    shutil.rmtree(leftover, ignore_errors=True)


def digest_of_job(key: str) -> str:
    """Names a job where its key may not stand: in paths, and in the names that other systems allow."""
    return hashlib.sha256(key.encode()).hexdigest()[:20]


def digest_of_bytes(said: bytes) -> str:
    return hashlib.sha256(said).hexdigest()


def _candidate(version: int, directory: Path, manifest: bytes) -> Candidate:
    digest = digest_of_bytes(manifest)
    facts = facts_of(json.loads(manifest)) | {"manifest_sha256": digest}
    return Candidate(version=version, directory=directory, manifest_digest=digest, facts=facts)


def facts_of(manifest: Mapping[str, Any]) -> dict[str, int | str]:
    """What the ledger is told of a provenance, in ints and strings: the ledger holds no fractions, so they are text."""
    names = ("job", "runner", "kind", "parent_version", "parent_sha256", "data_sha256", "data_rows", "code_sha256")
    facts = {name: manifest[name] for name in names if isinstance(manifest.get(name), int | str)}
    metrics = sorted(dict(manifest.get("metrics", {})).items())[:MOST_METRICS]
    return facts | {f"metric_{STRANGE.sub('_', name)[:64]}": _recordable(said) for name, said in metrics}


def _recordable(said: Any) -> int | str:
    """A trainer may measure what it likes; a number that the ledger does not take is text."""
    if type(said) is int and abs(said) <= MAX_INTEGER:
        return said
    return str(said)[:100].encode(errors="replace").decode()


def digest_of(files: Iterable[Path]) -> str:
    """Hex SHA-256 over the names and contents of ``files``, in the order of their names."""
    whole = hashlib.sha256()
    for path in sorted(files):
        content = path.read_bytes()
        whole.update(f"{path.name}\0{len(content)}\0".encode())
        whole.update(content)
    return whole.hexdigest()

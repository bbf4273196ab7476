"""Where versions of a model lie, and how one becomes visible: whole, or not at all.

    <root>/<model>/<version>/            what model servers watch: integer names only
    <root>/<model>/.candidates/<version>/  trained, not promoted; servers ignore names that are not integers
    <root>/<model>/.candidates/.new-*/     being filled; left over only by a kill

Every step into place is a rename on one file system, after everything inside is on disk.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controlplane.retraining.trainer import Candidate
from inference.savedmodel import publishing

MANIFEST = "manifest.json"


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
                found += [int(entry.name) for entry in folder.iterdir() if entry.name.isdigit()]
        return max(found) + 1

    def workplace(self) -> Path:
        """An empty directory beside the candidates, on their file system."""
        self._candidates.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=".new-", dir=self._candidates))

    def accept(self, filled: Path, version: int, manifest: Mapping[str, Any]) -> Candidate:
        """Make the directory ``filled`` the candidate ``version``; durable on return.

        Raises:
            FileExistsError: another job's candidate already has this number.
        """
        written = json.dumps(manifest, sort_keys=True, indent=1).encode()
        (filled / MANIFEST).write_bytes(written)
        target = publishing.publish(filled, self.candidate_directory(version))
        return Candidate(version=version, directory=target, manifest_digest=hashlib.sha256(written).hexdigest())

    def candidate(self, version: int, job_key: str) -> Candidate | None:
        """The candidate that job ``job_key`` left earlier, wherever it lies now."""
        for folder in (self.candidate_directory(version), self.directory(version)):
            if (folder / MANIFEST).is_file():
                written = (folder / MANIFEST).read_bytes()
                if json.loads(written).get("job") == job_key:
                    digest = hashlib.sha256(written).hexdigest()
                    return Candidate(version=version, directory=folder, manifest_digest=digest)
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

    def clear_leftovers(self) -> None:
        """Remove workplaces that a killed trainer left. Call only while none is running."""
        for leftover in self._candidates.glob(".new-*"):
            shutil.rmtree(leftover, ignore_errors=True)


def digest_of(files: Iterable[Path]) -> str:
    """Hex SHA-256 over the names and contents of ``files``, in the order of their names."""
    whole = hashlib.sha256()
    for path in sorted(files):
        content = path.read_bytes()
        whole.update(f"{path.name}\0{len(content)}\0".encode())
        whole.update(content)
    return whole.hexdigest()

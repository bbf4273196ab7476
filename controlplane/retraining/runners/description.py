"""The job as whoever trains it reads it: one directory on the file system of the models.

job.json         this description
rows.npz         ``inputs`` (n, features) float64 and ``labels`` (n,) int64
<version>/       what the trainer leaves: complete as soon as it has this name
metrics.json     optional: numbers that the trainer found, for the provenance
status.json      optional: what the trainer said last
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from controlplane.retraining.trainer import TrainingJob
from controlplane.retraining.versions import digest_of_job

SCHEMA = 1
JOB, ROWS, METRICS, STATUS = "job.json", "rows.npz", "metrics.json", "status.json"
LONGEST_JSON_BYTES = 1 << 20


class DescriptionInvalid(Exception):
    """The job's directory does not hold what its description says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """``place`` is the job's directory. ``data_sha256`` is the hex digest of its rows, ``data_rows`` their count."""

    key: str
    model: str
    parent_version: int
    new_version: int
    kind: str
    data_sha256: str
    data_rows: int
    code_sha256: str
    place: Path

    @property
    def name(self) -> str:
        """A name for systems that allow only letters, digits and hyphens; the same for the same job."""
        return f"retrain-{digest_of_job(self.key)}"

    @property
    def rows(self) -> Path:
        return self.place / ROWS

    @property
    def out(self) -> Path:
        return self.place / str(self.new_version)

    def as_json(self, place: Path | None = None) -> dict[str, Any]:
        """``place`` is where the reader has the job's directory, if not where we have it."""
        where = place or self.place
        return {
            "schema": SCHEMA,
            "job": self.key,
            "name": self.name,
            "model": self.model,
            "parent_version": self.parent_version,
            "new_version": self.new_version,
            "kind": self.kind,
            "data_sha256": self.data_sha256,
            "data_rows": self.data_rows,
            "code_sha256": self.code_sha256,
            "rows": str(where / ROWS),
            "out": str(where / str(self.new_version)),
            "metrics": str(where / METRICS),
        }


def describe(job: TrainingJob, kind: str, code_sha256: str, place: Path) -> Description:
    """Make ``place`` the job's directory; doing it twice is doing it once. Raises ``OSError``."""
    rows = place / ROWS
    if not rows.exists():
        shutil.copyfile(job.rows, place / f"{ROWS}.part")
        (place / f"{ROWS}.part").replace(rows)
    with np.load(rows, allow_pickle=False) as given:
        count = len(given["labels"])
    described = Description(
        key=job.key,
        model=job.model,
        parent_version=job.parent_version,
        new_version=job.new_version,
        kind=kind,
        data_sha256=digest_of_file(rows),
        data_rows=count,
        code_sha256=code_sha256,
        place=place,
    )
    write_json(place / JOB, described.as_json())
    return described


def place_there(description: Description, models_there: Path | None) -> Path:
    """The job's directory as a runner elsewhere has it: the same, under another mount of the models' file system."""
    if models_there is None:
        return description.place
    return models_there / description.model / description.place.parent.name / description.place.name


def read_description(place: Path) -> Description:
    """The job in ``place``, its rows checked against their digest.

    Raises:
        DescriptionInvalid: it is damaged, or of another schema.
        OSError: it cannot be read.
    """
    said = json.loads((place / JOB).read_bytes())
    try:
        if said["schema"] != SCHEMA:
            raise DescriptionInvalid(f"schema {said['schema']} is not {SCHEMA}")
        names = ("model", "parent_version", "new_version", "kind", "data_sha256", "data_rows", "code_sha256")
        found = Description(key=said["job"], place=place, **{name: said[name] for name in names})
    except (KeyError, TypeError) as error:
        raise DescriptionInvalid(f"{place / JOB}: {error!r}") from error
    if digest_of_file(found.rows) != found.data_sha256:
        raise DescriptionInvalid(f"{found.rows} is not what was described")
    return found


def is_full(place: Path, free_bytes: int) -> bool:
    """Whether less than ``free_bytes`` are left where the job lies."""
    return shutil.disk_usage(place).free < free_bytes


def read_metrics(place: Path) -> dict[str, Any]:
    """Numbers and short words that the trainer left; none if it left none, or something else."""
    return plain(read_plain(place / METRICS))


def read_plain(path: Path) -> dict[str, Any]:
    """A JSON object that somebody else wrote; empty if it is none, or too long."""
    try:
        if path.stat().st_size > LONGEST_JSON_BYTES:
            return {}
        said = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def plain(said: Mapping[str, Any]) -> dict[str, Any]:
    """What of it may stand in a provenance: text and finite numbers."""
    return {str(name): each for name, each in said.items() if isinstance(each, str | int) or _is_finite(each)}


def _is_finite(said: Any) -> bool:
    return isinstance(said, float) and math.isfinite(said)


def write_json(path: Path, said: Mapping[str, Any]) -> None:
    """Readers see the old text or the new one. Raises ``OSError``."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(dict(said), sort_keys=True, indent=1), "utf-8")
    unfinished.replace(path)


def digest_of_file(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()

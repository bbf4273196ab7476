"""Rows are held against the reference of the version that is about to see them, and while its data is at fault, calls
with rows that violate it go down the fallback ladder.

A Backend around the backend of all versions, where the version is fixed and its breaker not yet asked: rows that are
wrong say nothing about the model. A call is answered by one model: **one bad row sends the whole call down**. Splitting
it would give one answer of two models, with two versions and two prices, to a caller who asked for one.

Outside of DATA_FAULT rows are only counted. A model without a fallback keeps its calls: a worse answer is better than
none. Fails open: without a reference, and for what cannot be read, calls go on as they are. A model that does not ask
for it costs one look into a set.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from controlplane.drift.guard import RowGuard
from controlplane.drift.guard_settings import GuardSettings
from controlplane.drift.reference import InvalidReference, RowReference, read_reference
from inference.backend import Backend, BackendReply, BackendRequest
from inference.errors import BackendUnavailable
from inference.tfserving.rows import RowFinder

GUARDED = "Predict"
VIOLATION = "rows_out_of_range"
IN_VERSION, BESIDE = "assets.extra/row_reference.json", "references"
CHECKED_BYTES = 256 * 1024
"""Larger requests are looked at in their first rows and no further: a look must not hold up other calls."""
log = logging.getLogger(__name__)

Version = tuple[str, int]


@dataclass(slots=True)
class RowCounts:
    """Since the gateway started. ``fallen`` are calls that were sent to the fallback for their rows."""

    calls: int = 0
    rows: int = 0
    violating: int = 0
    fallen: int = 0


@dataclass(slots=True)
class VersionGuard:
    """The guard of one version; a guard for each number type that its callers send."""

    reference: RowReference
    finder: RowFinder = field(init=False)
    counts: RowCounts = field(default_factory=RowCounts)
    _guards: dict[np.dtype[Any], RowGuard] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.finder = RowFinder(self.reference.input, len(self.reference.columns))

    def violating(self, body: bytes) -> int:
        """How many rows of a request violate; counted."""
        rows = self.finder.find(body)
        if rows is None:
            return 0
        if rows.nbytes > CHECKED_BYTES:
            rows = rows[: max(1, CHECKED_BYTES * len(rows) // rows.nbytes)]
        guard = self._guards.get(rows.dtype)
        if guard is None:
            guard = self._guards[rows.dtype] = RowGuard.of(self.reference, np.dtype(rows.dtype))
        violating, counts = guard.violating(rows), self.counts
        counts.calls += 1
        counts.rows += len(rows)
        counts.violating += violating
        return violating


class RowGuards:
    """The guards of the models that asked for one, learnt once a version as signatures are."""

    def __init__(self, settings: GuardSettings) -> None:
        self._settings = settings
        self._known: dict[Version, VersionGuard] = {}
        self._complained: set[Path] = set()
        self.faulty: frozenset[str] = frozenset()  # models whose data is at fault just now

    def __contains__(self, model: str) -> bool:
        return model in self._settings.models

    def known(self, model: str, version: int | None) -> VersionGuard | None:
        return self._known.get((model, version or 0))

    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """By version, as ``risk/2``."""
        return {f"{model}/{version}": asdict(guard.counts) for (model, version), guard in self._known.items()}

    def learn(self, model: str, version: int, base: str) -> None:
        """Look for the reference of a version unless it is known. Blocks for a small file."""
        if model not in self._settings.models or (model, version) in self._known:
            return
        for path in self._places(model, version, base):
            reference = self._read(path)
            if reference is not None:
                self._known[model, version] = VersionGuard(reference)
                log.info("rows are guarded", extra={"model": model, "version": version, "reference": str(path)})
                return

    def _places(self, model: str, version: int, base: str) -> Iterator[Path]:
        if self._settings.folder is not None:
            yield self._settings.folder / model / f"{version}.json"
        elif base:
            yield Path(base) / str(version) / IN_VERSION
            yield Path(base) / BESIDE / f"{version}.json"

    def _read(self, path: Path) -> RowReference | None:
        try:
            return read_reference(path.read_bytes())
        except FileNotFoundError:
            return None
        except (InvalidReference, OSError) as error:
            if path not in self._complained:
                self._complained.add(path)
                log.warning("a row reference cannot be used", extra={"path": str(path), "cause": str(error)})
            return None


@dataclass(frozen=True, slots=True)
class GuardedRows:
    """``has_fallback`` says whether somebody else can answer for a model."""

    inner: Backend
    guards: RowGuards
    has_fallback: Callable[[str], bool]

    def send(self, request: BackendRequest) -> AbstractAsyncContextManager[BackendReply]:
        """See ``Backend.send``.

        Raises:
            BackendUnavailable: ``rows_out_of_range``; the version was not asked.
        """
        if request.operation == GUARDED and request.target in self.guards:
            self._check(request)
        return self.inner.send(request)

    def _check(self, request: BackendRequest) -> None:
        guard = self.guards.known(request.target, request.version)
        if guard is None or not guard.violating(request.body):
            return
        if request.target in self.guards.faulty and self.has_fallback(request.target):
            guard.counts.fallen += 1
            raise BackendUnavailable(VIOLATION, f"rows of this call are not such as {request.target} was made for")

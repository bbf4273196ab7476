"""A watched model as the console shows it, and where it gets that from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from controlplane.calls import Principal


class PointView(Protocol):
    """``drift.shelf.Point``."""

    @property
    def version(self) -> int: ...
    @property
    def at_ms(self) -> int: ...
    @property
    def detector(self) -> str: ...
    @property
    def evidence(self) -> float: ...
    @property
    def threshold(self) -> float: ...
    @property
    def arl_rows(self) -> float: ...
    @property
    def tolerated(self) -> float: ...
    @property
    def crossings(self) -> int: ...


class ReportView(Protocol):
    """``drift.shelf.KeptReport``."""

    @property
    def id(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def at_ms(self) -> int: ...
    @property
    def cause(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    @property
    def drifted(self) -> int: ...
    @property
    def columns(self) -> int: ...
    @property
    def of_columns(self) -> int: ...
    @property
    def top(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SentReport:
    """A report as the monitor hands it over. ``scores`` in thousandths, by column, the largest first."""

    version: int
    cause: str
    columns: int
    of_columns: int
    drifted: int
    scores: Mapping[str, int]
    html_gzip: bytes


class Recorded(Protocol):
    @property
    def event_id(self) -> str: ...
    @property
    def index(self) -> int: ...


class DriftView(Protocol):
    """Methods but ``take_report`` block and may be called from any thread; what cannot be read is an empty answer."""

    def points(self, model: str, since_ms: int = 0) -> Sequence[PointView]: ...
    def reports(self, model: str) -> Sequence[ReportView]: ...
    def html(self, model: str, report_id: str) -> bytes | None: ...

    def take_points(self, model: str, version: int, at_ms: int, detectors: Sequence[Mapping[str, Any]]) -> None: ...

    async def take_report(self, model: str, report: SentReport, by: Principal) -> Recorded:
        """Its digest and scores into the ledger, then kept. Raises ``audit.AuditUnavailable``."""
        ...

"""A watched model as the console shows it, and where it gets that from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from audit import LedgerReceipt
from controlplane.calls import Principal
from controlplane.drift.shelf import KeptReport, Point


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


class DriftView(Protocol):
    """Methods but ``take_report`` block and may be called from any thread; what cannot be read is an empty answer."""

    def points(self, model: str, since_ms: int = 0) -> Sequence[Point]: ...
    def reports(self, model: str) -> Sequence[KeptReport]: ...
    def html(self, model: str, report_id: str) -> bytes | None: ...

    def take_points(self, model: str, version: int, at_ms: int, detectors: Sequence[Mapping[str, Any]]) -> None: ...

    async def take_report(self, model: str, report: SentReport, by: Principal) -> LedgerReceipt:
        """Its digest and scores into the ledger, then kept. Raises ``audit.AuditUnavailable``."""
        ...

"""A ledger around the ledger: the same records, and telemetry told how long each took."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from audit import AuditUnavailable, Ledger, LedgerReceipt
from controlplane.telemetry.metrics import Metrics


class MeteredLedger:
    def __init__(self, inner: Ledger, metrics: Metrics) -> None:
        self.inner, self.metrics = inner, metrics

    async def append(
        self,
        kind: str,
        body: Mapping[str, Any],
        *,
        event_id: str | None = None,
        opens: bool = False,
        closes: str | None = None,
    ) -> LedgerReceipt:
        started_s = time.perf_counter()
        try:
            receipt = await self.inner.append(kind, body, event_id=event_id, opens=opens, closes=closes)
        except AuditUnavailable as error:
            self.metrics.observe_append_failed(error.reason)
            raise
        self.metrics.observe_append(kind=kind, duration_s=time.perf_counter() - started_s)
        return receipt

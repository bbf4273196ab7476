"""A ledger around the ledger: the same records, and telemetry told how long each took."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Unpack

from audit import AuditUnavailable, Ledger, LedgerReceipt, Pairing
from controlplane.telemetry.metrics import Metrics


class MeteredLedger:
    def __init__(self, inner: Ledger, metrics: Metrics) -> None:
        self.inner, self.metrics = inner, metrics

    async def append(self, kind: str, body: Mapping[str, Any], **pairing: Unpack[Pairing]) -> LedgerReceipt:
        started_s = time.perf_counter()
        try:
            receipt = await self.inner.append(kind, body, **pairing)
        except AuditUnavailable as error:
            self.metrics.observe_append_failed(error.reason)
            raise
        self.metrics.observe_append(kind=kind, duration_s=time.perf_counter() - started_s)
        return receipt

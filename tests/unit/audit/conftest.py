from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from audit import AuditSettings, SqliteLedger


@pytest.fixture
def settings(tmp_path: Path) -> AuditSettings:
    return AuditSettings(
        path=tmp_path / "ledger.sqlite",
        signing_key=tmp_path / "signing.key",
        commitment_key=tmp_path / "commitment.key",
        origin="test.local/audit",
        node="test",
        writer="thread",
        stall_limit_s=30,
        retry_ms=10,
    )


@pytest.fixture
async def ledger(settings: AuditSettings) -> AsyncIterator[SqliteLedger]:
    ledger = SqliteLedger(settings)
    await ledger.open()
    yield ledger
    await ledger.close()

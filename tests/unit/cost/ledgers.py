"""A real ledger with calls in it, written as the gateway writes them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from audit import AuditSettings, SqliteLedger
from controlplane.calls import new_call_id


def ledger_settings(folder: Path) -> AuditSettings:
    return AuditSettings(
        writer="thread",
        path=folder / "ledger.sqlite",
        signing_key=folder / "signing.key",
        commitment_key=folder / "commitment.key",
    )


@dataclass
class Written:
    """``begin`` writes an intent, ``end`` its outcome."""

    ledger: SqliteLedger
    opened: list[str] = field(default_factory=list)

    async def begin(
        self,
        model: str = "/model/tiny",
        *,
        tenant: str = "acme",
        agent: str = "agent:a",
        run: str = "",
        budget: Mapping[str, Any] | None = None,
    ) -> str:
        duties = [] if budget is None else [{"name": "budget", "parameters": dict(budget)}]
        body: dict[str, Any] = {
            "principal": {"subject": agent, "tenant": tenant},
            "action": {"kind": "infer", "name": model},
            "decision": {"effect": "allow", "obligations": duties},
        }
        if run:
            body["trace"] = {"traceparent": f"00-{run}-{'b' * 16}-01"}
        receipt = await self.ledger.append("intent", body, event_id=new_call_id(), opens=True)
        return receipt.event_id

    async def end(self, call: str, micro_usd: int | None = None, **more: Any) -> None:
        outcome = {"status": "ok", "rung": "primary", "served_by": "tiny", "cost": {}} | more
        if micro_usd is not None:
            outcome["cost"] = outcome["cost"] | {"micro_usd": micro_usd}
        await self.ledger.append("outcome", {"outcome": outcome}, closes=call)

    async def call(self, micro_usd: int, **begun: Any) -> None:
        await self.end(await self.begin(**begun), micro_usd)


@asynccontextmanager
async def written(folder: Path) -> AsyncGenerator[Written]:
    ledger = SqliteLedger(ledger_settings(folder))
    await ledger.open()
    try:
        yield Written(ledger)
    finally:
        await ledger.close()

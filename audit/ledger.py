"""What those who record need of a ledger, whatever it is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypedDict, Unpack

from audit.entry import LedgerReceipt


class Pairing(TypedDict, total=False):
    """How a record stands to others; see ``SqliteLedger.append``."""

    event_id: str | None
    opens: bool
    closes: str | None


class Ledger(Protocol):
    async def append(self, kind: str, body: Mapping[str, Any], **pairing: Unpack[Pairing]) -> LedgerReceipt:
        """See ``SqliteLedger.append``."""
        ...

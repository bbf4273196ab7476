"""What those who record, and those who read back, need of a ledger, whatever it is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypedDict, Unpack

from audit.entry import LedgerReceipt, Record


class Pairing(TypedDict, total=False):
    """How a record stands to others; see ``SqliteLedger.append``."""

    event_id: str | None
    opens: bool
    closes: str | None


class Ledger(Protocol):
    async def append(self, kind: str, body: Mapping[str, Any], **pairing: Unpack[Pairing]) -> LedgerReceipt:
        """See ``SqliteLedger.append``."""
        ...


class RecordReader(Protocol):
    def read(
        self, after: int = -1, limit: int = 100, *, newest: bool = False, kinds: Sequence[str] | None = None
    ) -> list[Record]:
        """See ``LedgerReader.read``. Blocks; may be called from any thread."""
        ...


class ReadableLedger(Ledger, RecordReader, Protocol):
    """For those who read back at a start what they have recorded."""

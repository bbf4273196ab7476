"""What can go wrong with the ledger. Reasons are stable words, for they become labels and answers.

AuditError
├── AuditUnavailable     cannot be made durable now; nothing may happen
│   └── LedgerInUse      another process is the writer of this file
├── RecordRefused        the record itself cannot be canonical; a caller's mistake
├── IntentAlreadyOpen    an event id may open one intent
├── IntentNotOpen        nothing to close: never durable, or already closed
├── LedgerCorrupt        what is stored contradicts itself or its signature
├── KeyRefused           a key file that cannot be trusted
└── NoteRefused          not a checkpoint signed by the key we know
"""

from __future__ import annotations


class AuditError(Exception):
    """Root of everything this package raises on purpose."""


class AuditUnavailable(AuditError):
    """The record is not acknowledged as durable.

    ``reason`` is one of ``closed``, ``disk_full``, ``fenced``, ``file_replaced``, ``in_use``, ``io_error``,
    ``locked``, ``queue_full``, ``read_only``, ``stalled``, ``writer_lost``.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class LedgerInUse(AuditUnavailable):
    def __init__(self) -> None:
        super().__init__("in_use")


class RecordRefused(AuditError):
    """``reason`` is one of ``not_canonical``, ``reserved_field``, ``too_large``, ``bad_event_id``, ``bad_kind``."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


class IntentAlreadyOpen(AuditError):
    def __init__(self, event_id: str) -> None:
        super().__init__(event_id)
        self.event_id = event_id


class IntentNotOpen(AuditError):
    def __init__(self, event_id: str) -> None:
        super().__init__(event_id)
        self.event_id = event_id


class LedgerCorrupt(AuditError):
    pass


class KeyRefused(AuditError):
    pass


class NoteRefused(AuditError):
    pass

"""The ledger: what was asked, decided and done, durable and provable. Ground floor; usable without the rest.

The writer's side is exported here; the auditor's side is ``audit.verify`` and does not need it.

Fails closed: what cannot be made durable within the stall limit is refused with a reason.
"""

from audit.entry import (
    MAX_INTEGER,
    Commitments,
    LedgerHead,
    LedgerReceipt,
    Record,
    new_event_id,
)
from audit.errors import (
    AuditError,
    AuditUnavailable,
    IntentAlreadyOpen,
    IntentNotOpen,
    KeyRefused,
    LedgerCorrupt,
    LedgerInUse,
    NoteRefused,
    RecordRefused,
)
from audit.keys import load_commitment_key
from audit.ledger import Ledger, Pairing, ReadableLedger, RecordReader
from audit.log import SqliteLedger
from audit.reader import LedgerReader
from audit.settings import AuditSettings

__all__ = [
    "MAX_INTEGER",
    "AuditError",
    "AuditSettings",
    "AuditUnavailable",
    "Commitments",
    "IntentAlreadyOpen",
    "IntentNotOpen",
    "KeyRefused",
    "Ledger",
    "LedgerCorrupt",
    "LedgerHead",
    "LedgerInUse",
    "LedgerReader",
    "LedgerReceipt",
    "NoteRefused",
    "Pairing",
    "ReadableLedger",
    "Record",
    "RecordReader",
    "RecordRefused",
    "SqliteLedger",
    "load_commitment_key",
    "new_event_id",
]

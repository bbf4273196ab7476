"""The ledger's tables in SQLite. Data only: the writer makes them, the auditor's side compares them.

One b-tree grows with the log; ``head`` has one row and ``open_intent`` only what is in flight. Every column of ``log``
but ``body`` is a projection of it, for reading; what counts is the body.
"""

from __future__ import annotations

TABLES = {
    "log": "CREATE TABLE log(idx INTEGER PRIMARY KEY, event_id TEXT NOT NULL, kind TEXT NOT NULL, "
    "time_ms INTEGER NOT NULL, closes TEXT, leaf BLOB NOT NULL, body BLOB NOT NULL)",
    "head": "CREATE TABLE head(id INTEGER PRIMARY KEY CHECK(id = 1), size INTEGER NOT NULL, frontier BLOB NOT NULL, "
    "checkpoint TEXT NOT NULL)",
    "open_intent": "CREATE TABLE open_intent(event_id TEXT PRIMARY KEY, idx INTEGER NOT NULL) WITHOUT ROWID",
}

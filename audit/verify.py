"""The auditor's side: is this file the log that this key signed, whole and unchanged? Needs only the public key.

Imports neither the appender nor the store, and believes no column: every body is hashed again, every projection, the
tree, the head, the sequence and the pairing of intents and outcomes are computed again from the bodies. A log rebuilt
with the signing key, or cut back to an earlier state, passes all of this; only a checkpoint or receipt kept elsewhere
exposes it, so keep some and pass them in.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from audit.checkpoint import Checkpoint, VerifierKey, open_checkpoint
from audit.entry import VERSION, LedgerReceipt, from_canonical, from_json, is_event_id
from audit.errors import AuditUnavailable, NoteRefused
from audit.merkle import EMPTY_ROOT, Frontier, leaf_hash
from audit.reader import connect_read_only
from audit.schema import TABLES

MAX_FAULTS = 100
EVERY_RECORD = "SELECT idx, event_id, kind, time_ms, closes, leaf, body FROM log ORDER BY idx"
NOT_NOW = {
    sqlite3.SQLITE_BUSY: "locked",
    sqlite3.SQLITE_LOCKED: "locked",
    sqlite3.SQLITE_CANTOPEN: "io_error",
    sqlite3.SQLITE_READONLY: "io_error",  # a journal lies there that only a writer may play back
}
"""Errors that say nothing about what is stored: there is no verdict then."""

Anchor = str | bytes | Checkpoint | LedgerReceipt
Projection = tuple[object, object, object, object]  # event_id, kind, time_ms, closes


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong. ``index`` is the leaf index it is about; None when it is about the whole log."""

    index: int | None
    reason: str
    detail: str = ""

    def __str__(self) -> str:
        where = "log" if self.index is None else f"record {self.index}"
        return f"{where}: {self.reason}" + (f" ({self.detail})" if self.detail else "")


@dataclass(slots=True)
class Report:
    """What was found. At most 100 faults are kept; ``fault_count`` counts all."""

    size: int = 0
    root: bytes = EMPTY_ROOT
    checkpoint: str = ""
    anchors: int = 0
    open_intents: dict[str, int] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)
    faults: list[Fault] = field(default_factory=list)
    fault_count: int = 0

    @property
    def is_sound(self) -> bool:
        return self.fault_count == 0

    def blame(self, index: int | None, reason: str, detail: str = "") -> None:
        self.fault_count += 1
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(Fault(index, reason, detail))


def verify(path: Path, verifier_key: str | VerifierKey, *, since: Anchor | Iterable[Anchor] | None = None) -> Report:
    """Verify the ledger in ``path``; ``since`` are earlier checkpoints or receipts that it must still contain.

    Never raises for what is stored: damage is in the report. May run beside the writer; sees one snapshot.

    Raises:
        NoteRefused: ``verifier_key`` or an anchor is not what it should be; nothing can be said then.
        FileNotFoundError: there is no file.
        AuditUnavailable: the file is locked, or may not be opened.
    """
    key = verifier_key if isinstance(verifier_key, VerifierKey) else VerifierKey.parse(verifier_key)
    audit = _Audit(key, _anchors(since, key))
    if not path.exists():
        raise FileNotFoundError(path)
    try:
        with closing(connect_read_only(path)) as connection:
            # A flipped byte in a text column must not stop the reading, nor be taken for what a body can say.
            connection.text_factory = partial(str, encoding="utf-8", errors="surrogateescape")
            connection.execute("BEGIN")
            audit.run(connection)
    except (sqlite3.Error, TypeError, ValueError, OverflowError) as error:
        reason = NOT_NOW.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
        if reason is not None:
            raise AuditUnavailable(reason) from error
        audit.report.blame(audit.report.size, "unreadable", str(error))
    return audit.report


def _anchors(
    since: Anchor | Iterable[Anchor] | None, key: VerifierKey
) -> list[tuple[Checkpoint, LedgerReceipt | None]]:
    if since is None:
        return []
    several = [since] if isinstance(since, str | bytes | Checkpoint | LedgerReceipt) else list(since)
    return [_anchor(item, key) for item in several]


def _anchor(item: Anchor, key: VerifierKey) -> tuple[Checkpoint, LedgerReceipt | None]:
    if isinstance(item, LedgerReceipt):
        checkpoint = open_checkpoint(item.checkpoint, key)
        if item.index >= checkpoint.size:
            raise NoteRefused("the receipt's checkpoint does not cover its record")
        return checkpoint, item
    return open_checkpoint(item.text if isinstance(item, Checkpoint) else item, key), None


class _Audit:
    """One pass over the log, in order of the index."""

    def __init__(self, key: VerifierKey, anchors: list[tuple[Checkpoint, LedgerReceipt | None]]) -> None:
        self.report = Report(anchors=len(anchors))
        self._key = key
        self._frontier = Frontier()
        self._node_seq: dict[str, int] = {}
        self._promised = {receipt.index: receipt for _, receipt in anchors if receipt is not None}
        self._roots: dict[int, set[bytes]] = {}
        for checkpoint, _ in anchors:
            self._roots.setdefault(checkpoint.size, set()).add(checkpoint.root)

    def run(self, connection: sqlite3.Connection) -> None:
        self._schema(connection)
        self._compare_root()
        for index, event_id, kind, time_ms, closes, leaf, stored in connection.execute(EVERY_RECORD):
            self._leaf(index, leaf, stored)
            body = self._decoded(index, stored)
            if body is not None:
                self._projection(index, body, (event_id, kind, time_ms, closes))
                self._envelope(index, body)
                self._pairing(index, body)
        if self.report.size == 0:
            self.report.blame(None, "empty", "not even the record that every log begins with")
        self.report.root = self._frontier.root()
        self._head(connection)
        self._open_table(connection)
        self._repeated(connection)
        for size in sorted(self._roots):
            self.report.blame(None, "rolled_back", f"a checkpoint over {size} records exists, here are fewer")
        for (answer,) in connection.execute("PRAGMA integrity_check"):
            if answer != "ok":
                self.report.blame(None, "file_damaged", answer)

    def _schema(self, connection: sqlite3.Connection) -> None:
        """No trigger, view or index may stand in the file: it could change what is written or read."""
        if set(connection.execute("SELECT name, sql FROM sqlite_master")) != set(TABLES.items()):
            self.report.blame(None, "schema_changed")

    def _leaf(self, index: int, leaf: object, stored: object) -> None:
        """The place of a record in the tree."""
        report = self.report
        if index != report.size:
            report.blame(report.size, "gap", f"the next stored index is {index}")
        if not isinstance(stored, bytes):
            raise TypeError("its body is not stored as bytes")
        computed = leaf_hash(stored)
        if computed != leaf:
            report.blame(index, "body_altered", "the stored bytes do not hash to the stored leaf hash")
        if index in self._promised and self._promised.pop(index).leaf_hash != computed:
            report.blame(index, "not_as_promised", "a receipt shows another record here")
        self._frontier.extend((computed,))
        report.size += 1
        if self._roots:
            self._compare_root()

    def _decoded(self, index: int, stored: bytes) -> dict[str, Any] | None:
        body = from_canonical(stored)
        if body is None:
            try:
                body = from_json(stored)
            except ValueError as error:
                self.report.blame(index, "not_json", str(error))
            else:
                self.report.blame(index, "not_canonical")
        return body

    def _projection(self, index: int, body: Mapping[str, Any], stored: Projection) -> None:
        """Their types count: a kind stored as a blob says the same, and no search by kind would find it."""
        if (body.get("event_id"), body.get("kind"), body.get("time_ms"), body.get("closes")) != stored:
            self.report.blame(index, "projection_altered", "a column differs from the body")

    def _envelope(self, index: int, body: Mapping[str, Any]) -> None:
        kind = str(body.get("kind"))
        self.report.kinds[kind] += 1
        if body.get("v") != VERSION or not is_event_id(str(body.get("event_id"))):
            self.report.blame(index, "bad_envelope")
        if (kind == "genesis") != (index == 0):
            self.report.blame(index, "genesis_misplaced")
        if kind == "genesis" and not self._is_named_by(body.get("log")):
            self.report.blame(index, "another_log", "the genesis record names another key")
        boot, sequence = str(body.get("boot_id")), body.get("node_seq")
        if not isinstance(sequence, int) or sequence <= self._node_seq.get(boot, 0):
            self.report.blame(index, "out_of_sequence", f"node_seq {sequence} in boot {boot}")
        else:
            self._node_seq[boot] = sequence

    def _is_named_by(self, log: object) -> bool:
        return isinstance(log, dict) and log.get("verifier_key") == str(self._key)

    def _pairing(self, index: int, body: Mapping[str, Any]) -> None:
        """Exactly one outcome per intent, and after it."""
        intents, kind, closes = self.report.open_intents, body.get("kind"), body.get("closes")
        if (kind == "intent" and body.get("opens") is not True) or (kind == "outcome" and closes is None):
            self.report.blame(index, "unpaired", f"an {kind} that pairs with nothing")
        if closes is not None:
            opened = intents.pop(str(closes), None)
            if opened is None:
                self.report.blame(index, "second_outcome", f"{closes} is not open: closed before, or never opened")
            elif opened != body.get("closes_index"):
                self.report.blame(index, "wrong_intent", f"closes_index is not {opened}")
        if body.get("opens"):
            event_id = str(body.get("event_id"))
            if event_id in intents:
                self.report.blame(index, "repeated_intent", event_id)
            intents[event_id] = index

    def _compare_root(self) -> None:
        """Whenever the tree reaches the size of an anchor."""
        for root in self._roots.pop(self.report.size, ()):
            if root != self._frontier.root():
                self.report.blame(None, "forked", f"the first {self.report.size} records are not those of a checkpoint")

    def _head(self, connection: sqlite3.Connection) -> None:
        rows = connection.execute("SELECT id, size, frontier, checkpoint FROM head").fetchall()
        if len(rows) != 1:
            self.report.blame(None, "head_altered", f"{len(rows)} head rows")
            return
        _, size, frontier, note = rows[0]
        if size != self.report.size:
            self.report.blame(None, "size_differs", f"{self.report.size} records, the head says {size}")
        if frontier != self._frontier.pack():
            self.report.blame(None, "frontier_differs")
        if self.report.size == 0 and not note:
            return
        try:
            checkpoint = open_checkpoint(_text(note), self._key)
        except NoteRefused as error:
            self.report.blame(None, "checkpoint_refused", str(error))
            return
        self.report.checkpoint = checkpoint.text
        if (checkpoint.size, checkpoint.root) != (self.report.size, self.report.root):
            self.report.blame(None, "root_differs", f"signed for {checkpoint.size} records with another root hash")

    def _open_table(self, connection: sqlite3.Connection) -> None:
        stored = dict(connection.execute("SELECT event_id, idx FROM open_intent"))
        for event_id in sorted({str(event_id) for event_id, _ in stored.items() ^ self.report.open_intents.items()}):
            self.report.blame(self.report.open_intents.get(event_id), "open_intents_altered", event_id)

    def _repeated(self, connection: sqlite3.Connection) -> None:
        statement = "SELECT event_id, max(idx) FROM log GROUP BY event_id HAVING count(*) > 1"
        for event_id, index in connection.execute(statement):
            self.report.blame(index, "repeated_event", str(event_id))


def _text(note: object) -> bytes:
    """The bytes of a text cell, whatever they are."""
    if not isinstance(note, str):
        raise NoteRefused("not stored as text")
    return note.encode(errors="surrogateescape")

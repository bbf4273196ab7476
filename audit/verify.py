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
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from audit.checkpoint import Checkpoint, VerifierKey, open_checkpoint
from audit.entry import VERSION, LedgerReceipt, is_canonical, is_event_id
from audit.errors import NoteRefused
from audit.merkle import EMPTY_ROOT, Frontier, leaf_hash
from audit.reader import connect_read_only
from audit.schema import TABLES

MAX_FAULTS = 100
EVERY_RECORD = "SELECT idx, event_id, kind, time_ms, closes, leaf, body FROM log ORDER BY idx"

Anchor = str | bytes | Checkpoint | LedgerReceipt
_decode = msgspec.json.Decoder(dict[str, Any]).decode


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
    """
    key = verifier_key if isinstance(verifier_key, VerifierKey) else VerifierKey.parse(verifier_key)
    audit = _Audit(key, _anchors(since, key))
    if not path.exists():
        raise FileNotFoundError(path)
    try:
        with closing(connect_read_only(path)) as connection:
            connection.text_factory = bytes  # a flipped byte in a text column must not stop the reading
            connection.execute("BEGIN")
            audit.run(connection)
    except (sqlite3.Error, TypeError, ValueError, OverflowError) as error:
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


class _Row(NamedTuple):
    """A row of ``log`` as stored; text as bytes."""

    idx: int
    event_id: bytes
    kind: bytes
    time_ms: int
    closes: bytes | None
    leaf: bytes
    body: bytes


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
        for row in connection.execute(EVERY_RECORD):
            self._record(_Row(*row))
        self.report.root = self._frontier.root()
        self._head(connection)
        self._open_table(connection)
        self._repeated(connection)
        for size in sorted(self._roots):
            self.report.blame(None, "rolled_back", f"a checkpoint over {size} records exists, here are fewer")
        for (answer,) in connection.execute("PRAGMA integrity_check"):
            if answer != b"ok":
                self.report.blame(None, "file_damaged", answer.decode(errors="replace"))

    def _schema(self, connection: sqlite3.Connection) -> None:
        """No trigger, view or index may stand in the file: it could change what is written or read."""
        expected = {(name.encode(), sql.encode()) for name, sql in TABLES.items()}
        if set(connection.execute("SELECT name, sql FROM sqlite_master")) != expected:
            self.report.blame(None, "schema_changed")

    def _record(self, row: _Row) -> None:
        index, stored = row.idx, row.body
        position = self.report.size
        if index != position:
            self.report.blame(position, "gap", f"the next stored index is {index}")
        computed = leaf_hash(stored)
        if computed != row.leaf:
            self.report.blame(index, "body_altered", "the stored bytes do not hash to the stored leaf hash")
        promised = self._promised.pop(index, None)
        if promised is not None and promised.leaf_hash != computed:
            self.report.blame(index, "not_as_promised", "a receipt shows another record here")
        self._frontier.extend((computed,))
        self.report.size += 1
        self._compare_root()
        body = self._decoded(index, stored)
        if body is None:
            return
        projected = (
            _bytes(body.get("event_id")),
            _bytes(body.get("kind")),
            body.get("time_ms"),
            _bytes(body.get("closes")),
        )
        if projected != (row.event_id, row.kind, row.time_ms, row.closes):
            self.report.blame(index, "projection_altered", "a column differs from the body")
        self._envelope(index, body)
        self._pairing(index, body)

    def _decoded(self, index: int, stored: bytes) -> dict[str, Any] | None:
        try:
            body = _decode(stored)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self.report.blame(index, "not_json", str(error))
            return None
        if not is_canonical(stored, body):
            self.report.blame(index, "not_canonical")
        return body

    def _envelope(self, index: int, body: Mapping[str, Any]) -> None:
        kind = str(body.get("kind"))
        self.report.kinds[kind] += 1
        if body.get("v") != VERSION or not is_event_id(str(body.get("event_id"))):
            self.report.blame(index, "bad_envelope")
        if (kind == "genesis") != (index == 0):
            self.report.blame(index, "genesis_misplaced")
        log = body.get("log")
        if kind == "genesis" and not (isinstance(log, dict) and log.get("verifier_key") == str(self._key)):
            self.report.blame(index, "another_log", "the genesis record names another key")
        boot, sequence = str(body.get("boot_id")), body.get("node_seq")
        if not isinstance(sequence, int) or sequence <= self._node_seq.get(boot, 0):
            self.report.blame(index, "out_of_sequence", f"node_seq {sequence} in boot {boot}")
        else:
            self._node_seq[boot] = sequence

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
            checkpoint = open_checkpoint(note, self._key)
        except NoteRefused as error:
            self.report.blame(None, "checkpoint_refused", str(error))
            return
        self.report.checkpoint = checkpoint.text
        if (checkpoint.size, checkpoint.root) != (self.report.size, self.report.root):
            self.report.blame(None, "root_differs", f"signed for {checkpoint.size} records with another root hash")

    def _open_table(self, connection: sqlite3.Connection) -> None:
        stored = {_text(row[0]): row[1] for row in connection.execute("SELECT event_id, idx FROM open_intent")}
        for event_id in stored.keys() ^ self.report.open_intents.keys():
            index = self.report.open_intents.get(event_id)
            self.report.blame(index, "open_intents_altered", event_id)

    def _repeated(self, connection: sqlite3.Connection) -> None:
        statement = "SELECT event_id, max(idx) FROM log GROUP BY event_id HAVING count(*) > 1"
        for event_id, index in connection.execute(statement):
            self.report.blame(index, "repeated_event", _text(event_id))


def _bytes(value: object) -> bytes | None:
    return None if value is None else str(value).encode(errors="replace")


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)

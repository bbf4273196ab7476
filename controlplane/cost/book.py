"""What was spent, summed from the ledger: by day, tenant, agent and model, by run, and by budget.

The ledger alone is the truth; the book is a fold over it that can be thrown away and made again. A snapshot beside it
saves reading everything at each start, and is believed only when the ledger still holds the record it ends with.
Whoever is told of every record (``learn``) reads the ledger at its start only, and again where a record was missed.
Blocking, but for ``learn``: call from a thread. Raises ``audit.AuditUnavailable`` when the ledger cannot be read.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import msgspec

from audit import Record, RecordReader
from controlplane.cost.budgets import Account

log = logging.getLogger(__name__)

MODEL = "/model/"
KINDS = ("intent", "outcome")
ASKED_RUNGS = frozenset({"", "primary", "cached", "cache"})
SAVED_RUNGS = frozenset({"cached", "cache"})
OTHERS = "_others"
BATCH = 2_000
HEARD_AT_MOST = 4_096  # records that wait while the book is read or reported; what is lost here is read from the ledger
DAY_MS = 86_400_000
SNAPSHOT_VERSION = 1


class Ledger(RecordReader, Protocol):
    """``audit.LedgerReader``."""

    def get(self, index: int) -> Record | None: ...


class Sums(msgspec.Struct):
    """Of calls to models that went out. ``estimated`` of them were billed by an estimate; ``saved`` cost nothing."""

    calls: int = 0
    micro_usd: int = 0
    saved_micro_usd: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    energy_uwh: int = 0
    estimated: int = 0
    saved: int = 0

    def add(self, other: Sums) -> None:
        self.calls += other.calls
        self.micro_usd += other.micro_usd
        self.saved_micro_usd += other.saved_micro_usd
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.cached_tokens += other.cached_tokens
        self.energy_uwh += other.energy_uwh
        self.estimated += other.estimated
        self.saved += other.saved

    def count(self, outcome: Mapping[str, Any]) -> None:
        """One more call, by what the ledger says came of it."""
        cost, is_saved = outcome.get("cost", {}), outcome.get("rung", "") in SAVED_RUNGS
        self.calls += 1
        self.micro_usd += cost.get("micro_usd", 0)
        self.saved_micro_usd += cost.get("saved_micro_usd", 0)
        self.energy_uwh += cost.get("energy_uwh", 0)
        self.estimated += cost.get("estimated", 0)
        if is_saved:
            self.saved += 1
            return
        tokens = outcome.get("tokens", {})
        self.input_tokens += tokens.get("in", 0)
        self.output_tokens += tokens.get("out", 0)
        self.cached_tokens += tokens.get("cached", 0)


class Key(msgspec.Struct, frozen=True):
    day: str
    tenant: str
    agent: str
    model: str


class Opened(msgspec.Struct):
    """A call that has gone out and not ended."""

    key: Key
    run: str
    accounts: list[Account]
    held_micro_usd: int


class Snapshot(msgspec.Struct):
    version: int
    index: int
    leaf_hash: str
    rows: list[tuple[Key, Sums]]
    runs: list[tuple[str, str, Sums]]
    accounts: list[tuple[Account, int]]
    opened: dict[str, Opened]


_read_snapshot = msgspec.json.Decoder(Snapshot).decode


@dataclass(frozen=True, slots=True)
class Row:
    """One group of a report; the parts of the key that it was not grouped by are ""."""

    key: Key
    sums: Sums


class CostBook:
    """``file`` is where the snapshot goes; None keeps none. ``hears``: ``learn`` is told of every record."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        file: Path | None = None,
        max_rows: int = 100_000,
        max_runs: int = 10_000,
        hears: bool = False,
    ) -> None:
        self._hears = hears
        self._ledger, self._file, self._max_rows, self._max_runs = ledger, file, max_rows, max_runs
        self._lock = Lock()
        self._heard: deque[Record] = deque(maxlen=HEARD_AT_MOST)
        self._is_complete = False  # nothing was missed between the record read last and the first one heard
        self._forget()
        self._restore()

    @property
    def index(self) -> int:
        """The ledger record that was read last; -1 before the first."""
        return self._index

    def learn(self, record: Record) -> None:
        """See ``audit.SqliteLedger.listen``. Never waits: what comes while others use the book is taken up later."""
        self._heard.append(record)
        if self._is_complete and self._lock.acquire(blocking=False):
            try:
                self._take_up()
            finally:
                self._lock.release()

    def catch_up(self, limit: int | None = None) -> bool:
        """Know everything, after reading ``limit`` records at most. True when nothing was left to read."""
        with self._lock:
            if self._is_complete:
                self._take_up()
            if not self._is_complete:
                if not self._read_on(limit):
                    return False
                self._is_complete = self._hears
                self._take_up()
        return True

    def report(
        self, by: Iterable[str], tenants: Iterable[str] | None = None, since: str = "", until: str = ""
    ) -> list[Row]:
        """Sums grouped by any of ``day``, ``tenant``, ``agent`` and ``model``; days as ``2026-11-21``, both included.

        ``tenants`` limits whose; None is everybody's.
        """
        wanted, seen = set(by), None if tenants is None else frozenset(tenants)
        found: dict[Key, Sums] = {}
        with self._lock:
            for key, sums in self._rows.items():
                if (seen is None or key.tenant in seen) and key.day >= since and (not until or key.day <= until):
                    parts = {name: getattr(key, name) if name in wanted else "" for name in key.__struct_fields__}
                    found.setdefault(Key(**parts), Sums()).add(sums)
        return [
            Row(key, found[key]) for key in sorted(found, key=lambda key: (key.day, key.tenant, key.agent, key.model))
        ]

    def tenants(self) -> set[str]:
        with self._lock:
            return {key.tenant for key in self._rows}

    def run(self, tenant: str, run: str) -> Sums | None:
        """The sums of one run (a W3C trace id) of one tenant; None when it is not known, or no longer."""
        with self._lock:
            sums = self._runs.get((tenant, run))
            return None if sums is None else msgspec.structs.replace(sums)

    def spent(self, now_s: float, *, with_open: bool = True) -> Mapping[Account, int]:
        """By budget, in the windows that last. Calls that have not ended count with what was held back for them."""
        with self._lock:
            spent = dict(self._accounts)
            for opened in self._opened.values() if with_open else ():
                for account in opened.accounts:
                    spent[account] = spent.get(account, 0) + opened.held_micro_usd
        return {account: micro_usd for account, micro_usd in spent.items() if account.until_s > now_s}

    def save(self) -> None:
        """Write the snapshot; one that cannot be written is only read for longer."""
        if self._file is None or self._index < 0:
            return
        with self._lock:
            text = msgspec.json.encode(self._snapshot())
        beside = self._file.with_name(self._file.name + ".new")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            beside.write_bytes(text)
            beside.replace(self._file)
        except OSError as error:
            log.warning("the cost snapshot was not written", extra={"cause": str(error)})

    def _forget(self) -> None:
        self._index, self._leaf_hash = -1, b""
        self._rows: dict[Key, Sums] = {}
        self._runs: OrderedDict[tuple[str, str], Sums] = OrderedDict()
        self._accounts: dict[Account, int] = {}
        self._opened: dict[str, Opened] = {}

    def _read_on(self, limit: int | None) -> bool:
        left = limit
        while left is None or left > 0:
            records = self._ledger.read(self._index, BATCH if left is None else min(BATCH, left))
            for record in records:
                self._fold(record)
            left = None if left is None else left - len(records)
            if not records:
                return True
        return False

    def _take_up(self) -> None:
        """What was heard, up to a gap: from there on the ledger is read."""
        while self._heard:
            record = self._heard.popleft()
            if record.index > self._index + 1:
                self._is_complete = False
                return
            if record.index > self._index:
                self._fold(record)

    def _fold(self, record: Record) -> None:
        self._index, self._leaf_hash = record.index, record.leaf_hash
        kind = record.kind
        if kind == "intent":
            opened = opened_by(record)
            if opened is not None:
                self._opened[record.event_id] = opened
        elif kind == "outcome":
            opened = self._opened.pop(str(record.body.get("closes", "")), None)
            if opened is not None:
                self._close(opened, record.body.get("outcome", {}), record.time_ms)

    def _close(self, opened: Opened, outcome: Mapping[str, Any], now_ms: int) -> None:
        key = opened.key if outcome.get("rung", "") in ASKED_RUNGS else billed(opened.key, outcome)
        if key not in self._rows and len(self._rows) >= self._max_rows:
            key = Key(key.day, key.tenant, OTHERS, key.model)
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = Sums()
        row.count(outcome)
        if opened.run:
            self._count_in_run((key.tenant, opened.run), outcome)
        spent = outcome.get("cost", {}).get("micro_usd", opened.held_micro_usd)
        for account in opened.accounts:
            self._accounts[account] = self._accounts.get(account, 0) + spent
        if opened.accounts and len(self._accounts) > self._max_rows:
            self._accounts = {
                account: each for account, each in self._accounts.items() if account.until_s > now_ms / 1000
            }

    def _count_in_run(self, run: tuple[str, str], outcome: Mapping[str, Any]) -> None:
        self._runs.setdefault(run, Sums()).count(outcome)
        self._runs.move_to_end(run)
        if len(self._runs) > self._max_runs:
            self._runs.popitem(last=False)

    def _snapshot(self) -> Snapshot:
        return Snapshot(
            SNAPSHOT_VERSION,
            self._index,
            self._leaf_hash.hex(),
            list(self._rows.items()),
            [(*run, sums) for run, sums in self._runs.items()],
            list(self._accounts.items()),
            self._opened,
        )

    def _restore(self) -> None:
        if self._file is None or not self._file.exists():
            return
        try:
            found = _read_snapshot(self._file.read_bytes())
        except (OSError, ValueError) as error:
            log.warning("the cost snapshot cannot be read; reading the ledger anew", extra={"cause": str(error)})
            return
        last = self._ledger.get(found.index)
        if found.version != SNAPSHOT_VERSION or last is None or last.leaf_hash.hex() != found.leaf_hash:
            log.warning("the cost snapshot is of another ledger; reading this one anew")
            return
        self._index, self._leaf_hash, self._opened = found.index, last.leaf_hash, found.opened
        self._rows, self._accounts = dict(found.rows), dict(found.accounts)
        self._runs = OrderedDict(((tenant, run), sums) for tenant, run, sums in found.runs)


def opened_by(record: Record) -> Opened | None:
    """What an intent promises to cost; None when it is none of a model."""
    body = record.body
    action, principal = body.get("action", {}), body.get("principal", {})
    name = str(action.get("name", ""))
    if action.get("kind") != "infer" or not name.startswith(MODEL):
        return None
    day = _day(record.time_ms // DAY_MS)
    tenant = str(principal.get("tenant", ""))
    key = Key(day, tenant, str(principal.get("subject", "")), name.removeprefix(MODEL))
    trace_id = str(body.get("trace", {}).get("traceparent", ""))[3:35]
    held, accounts = 0, []
    for duty in body.get("decision", {}).get("obligations", []):
        if duty.get("name") == "budget" and "held_micro_usd" in duty.get("parameters", {}):
            held, accounts = duty["parameters"]["held_micro_usd"], list(_accounts(duty["parameters"], tenant))
    return Opened(key, trace_id, accounts, held)


@lru_cache(maxsize=64)
def _day(number: int) -> str:
    return datetime.fromtimestamp(number * DAY_MS // 1000, UTC).strftime("%Y-%m-%d")


def _accounts(duty: Mapping[str, Any], tenant: str) -> Iterator[Account]:
    for limit in duty["limits"]:
        yield Account(limit["key"], tenant, limit["who"], limit["per"], limit["name"], limit["since_s"])


def billed(key: Key, outcome: Mapping[str, Any]) -> Key:
    """A lighter model answered, and is billed under its own name."""
    served_by = str(outcome.get("served_by", "")).partition("/")[0]
    return Key(key.day, key.tenant, key.agent, served_by or key.model)

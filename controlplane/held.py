"""Holds that outlive the process: what people and other gateways said is read back from the ledger at start.

A breaker that a person holds must not open its gate because the gateway was restarted. Verdicts on models have their
own records, and whoever reads those does so first; here they are only let go where another gateway's release is newer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from audit import Record, RecordReader
from controlplane.console.changes import CHANGE, HOLD
from controlplane.resilience.breakers import Breakers, target_in

SHARED = "breaker.shared"
PAGE = 1000


class Said(NamedTuple):
    """The latest that was said of one hold; wall milliseconds."""

    is_held: bool
    at_ms: int


def restore(ledger: RecordReader, breakers: Breakers, moved_ms: Mapping[str, int]) -> dict[tuple[str, str], Said]:
    """Put people's holds back. Blocking; call before serving, and after verdicts have been taken up again.

    ``moved_ms``: when each model's state moved last. Returns what is true of each (breaker, word) that was spoken of.
    """
    said = {
        hold: Said(True, moved_ms[target_in(hold[0])]) for hold in breakers.holds() if target_in(hold[0]) in moved_ms
    }
    for hold, latest in _latest(ledger).items():
        name, word = hold
        if word == HOLD and latest.is_held:
            breakers.hold(name, word)
        elif not latest.is_held and latest.at_ms >= said.get(hold, latest).at_ms:
            breakers.release(name, word)
        else:
            continue  # a verdict, of which its own records know more
        said[hold] = latest
    return said


def _latest(ledger: RecordReader) -> dict[tuple[str, str], Said]:
    latest: dict[tuple[str, str], Said] = {}
    for record in _records(ledger):
        change = record.body["change"]
        if change["what"] in ("breaker.hold", "breaker.release"):
            hold = change["breaker"], change.get("word", HOLD)
            latest[hold] = Said(change["what"] == "breaker.hold", change.get("at_ms", record.time_ms))
    return latest


def _records(ledger: RecordReader) -> Iterator[Record]:
    seen = -1
    while records := ledger.read(seen, PAGE, kinds=[CHANGE, SHARED]):
        yield from records
        seen = records[-1].index

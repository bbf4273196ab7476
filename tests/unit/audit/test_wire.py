"""What the gateway and its writer say to each other arrives whole, however the bytes were cut on the way."""

from __future__ import annotations

import msgspec
import pytest

from audit import AuditUnavailable, KeyRefused, LedgerCorrupt, LedgerInUse
from audit.writing import wire

SAID = [
    wire.Put("e1", "intent", 1, b"{}", opens=True, closes=None, is_dropped=False, is_probe=False),
    wire.Drop(),
    wire.Put("e2", "outcome", 2, b"x" * 300, opens=False, closes="e1", is_dropped=True, is_probe=False),
    wire.Put("", "", 3, b"", opens=False, closes=None, is_dropped=False, is_probe=True),
    wire.End(),
]
decode = msgspec.msgpack.Decoder(wire.ToWriter).decode


@pytest.mark.parametrize("piece_bytes", [1, 2, 3, 4, 5, 7, 64, 10_000])
def test_messages_arrive_whole_and_in_order_however_they_are_cut(piece_bytes: int) -> None:
    sent, frames = b"".join(map(wire.framed, SAID)), wire.Frames()
    pieces = [sent[start : start + piece_bytes] for start in range(0, len(sent), piece_bytes)]
    assert [decode(message) for piece in pieces for message in frames.fed(piece)] == SAID


@pytest.mark.parametrize(
    "error", [LedgerInUse(), LedgerCorrupt("head: no"), KeyRefused("not ours"), AuditUnavailable("file_replaced")]
)
def test_a_refusal_is_the_same_error_on_the_other_side(error: Exception) -> None:
    heard = wire.error_of(wire.refusal_of(error))
    assert (type(heard), str(heard)) == (type(error), str(error))

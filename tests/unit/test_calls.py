"""Call ids: unique over the stock's refills and over forks, and true UUIDv7."""

from __future__ import annotations

import os
import uuid

from controlplane.calls import new_call_id


def test_call_ids_never_repeat_over_many_refills_of_the_stock() -> None:
    ids = [new_call_id() for _ in range(2000)]

    assert len(set(ids)) == len(ids)
    assert len({each[-12:] for each in ids}) == len(ids)  # the random half alone, whatever the clock says


def test_call_ids_are_version_7_of_the_rfc_variant() -> None:
    parsed = uuid.UUID(new_call_id())

    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)


def test_a_forked_child_does_not_hand_out_its_parents_ids() -> None:
    new_call_id()  # the stock is filled
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, "".join(new_call_id()[-12:] for _ in range(10)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reader, 4096).decode()
    os.close(reader)
    os.close(writer)

    assert not {theirs[at : at + 12] for at in range(0, 120, 12)} & {new_call_id()[-12:] for _ in range(10)}

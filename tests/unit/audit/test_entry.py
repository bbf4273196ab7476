from __future__ import annotations

import uuid
from typing import Any

import pytest

from audit.entry import MAX_BYTES, canonical, event_time_ms, is_event_id, new_event_id
from audit.errors import RecordRefused


def test_event_ids_are_uuid_version_7_and_sort_by_time() -> None:
    ids = [new_event_id(milliseconds * 1_000_000) for milliseconds in range(1_700_000_000_000, 1_700_000_000_500)]
    assert sorted(ids) == ids
    for number, event_id in enumerate(ids):
        parsed = uuid.UUID(event_id)
        assert (parsed.version, parsed.variant, str(parsed)) == (7, uuid.RFC_4122, event_id)
        assert is_event_id(event_id)
        assert event_time_ms(event_id) == 1_700_000_000_000 + number


@pytest.mark.parametrize("text", ["", "x", str(uuid.uuid4()), new_event_id().upper(), new_event_id() + "\n"])
def test_what_is_not_a_canonical_uuid_7_is_no_event_id(text: str) -> None:
    assert not is_event_id(text)


@pytest.mark.parametrize("value", [b"bytes", "\ud800", object(), {1: 2}, 1j])
def test_what_json_cannot_say_is_refused(value: Any) -> None:
    with pytest.raises(RecordRefused, match="not_canonical"):
        canonical({"value": value})


def test_nesting_has_a_limit() -> None:
    body: dict[str, Any] = {"leaf": 1}
    for _ in range(7):
        body = {"inner": body}
    canonical(body)
    for _ in range(3):
        body = {"inner": body}
    with pytest.raises(RecordRefused, match="not_canonical"):
        canonical(body)


def test_a_record_fits_a_tile_entry_or_is_refused() -> None:
    canonical({"a": "x" * (MAX_BYTES - len('{"a":""}'))})
    with pytest.raises(RecordRefused, match="too_large"):
        canonical({"a": "x" * (MAX_BYTES - len('{"a":""}') + 1)})

"""What the monitor gets to see: successful predictions, labels, and how much it missed."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.calls import Call, Decision, Effect, Principal, Receipt
from controlplane.drift.observed import Copied, decode_page
from controlplane.gateway.gateway import Admission
from controlplane.gateway.outcome import Outcome
from controlplane.observations import PAGE_BYTES, Label, Observations
from controlplane.settings import ObservationSettings

MIB = 1024 * 1024


def observations(capacity: int = 100, capacity_bytes: int = 64 * MIB) -> Observations:
    settings = ObservationSettings(capacity=capacity, capacity_bytes=capacity_bytes)
    return Observations(settings, lambda call: call.version or 5, lambda: 1.5)


def admission(number: int = 1, body: bytes = b"asked", operation: str = "Predict", **more: Any) -> Admission:
    call = Call(id="c", door="d", action="infer", resource="/model/risk", body=body, operation=operation, **more)
    decision = Decision(effect=Effect.ALLOW, reason="granted", revision="r1")
    return Admission(call, Principal(subject="agent:one", tenant="acme"), decision, Receipt(f"e{number}", 0, ""), 0, 0)


def outcome(status: str = "ok", served_by: str = "risk/2", rung: str = "primary", body: bytes = b"answered") -> Outcome:
    outcome = Outcome(0.0, status=status, served_by=served_by, rung=rung, http_status=200, ended_s=2.0)
    outcome.saw(body, 1.0)
    return outcome


def seen(watching: Observations, after: int = 0, limit: int = 1000) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = watching.page(after, limit)["observations"]
    return listed


def test_a_prediction_is_shown_as_it_passed() -> None:
    watching = observations()
    watching.observe(admission(), outcome(), recorded=True)
    (told,) = seen(watching)
    assert told == {
        "seq": 1,
        "kind": "prediction",
        "call_id": "e1",
        "at_ms": 1500,
        "model": "risk",
        "version": 2,
        "principal": "agent:one",
        "rung": "primary",
        "latency_us": 2_000_000,
        "micro_usd": 0,
        "request": base64.b64encode(b"asked").decode(),
        "reply": base64.b64encode(b"answered").decode(),
    }


@pytest.mark.parametrize("operation", ["Classify", "Regress", "GetModelMetadata", "chat", "embeddings", ""])
def test_only_predictions_are_shown(operation: str) -> None:
    watching = observations()
    watching.observe(admission(operation=operation), outcome(), recorded=True)
    assert seen(watching) == []


@pytest.mark.parametrize("status", ["error", "cancelled"])
def test_what_failed_is_no_prediction(status: str) -> None:
    watching = observations()
    watching.observe(admission(), outcome(status), recorded=True)
    assert seen(watching) == []


@pytest.mark.parametrize(
    ("status", "error", "values"),
    [
        ("timeout", "timeout", {"timeout": 1.0}),
        ("error", "invalid_argument", {"timeout": 0.0, "schema": 1.0}),
        ("error", "rows_out_of_range", {"timeout": 0.0, "schema": 1.0}),
    ],
)
def test_a_failure_that_says_something_of_the_model_or_its_rows_is_a_signal(
    status: str, error: str, values: dict[str, float]
) -> None:
    watching, failed = observations(), outcome(status)
    failed.error = error
    watching.observe(admission(), failed, recorded=True)
    (told,) = seen(watching)
    assert (told["kind"], told["model"], told["values"]) == ("signals", "risk", values)


def test_a_reply_that_was_too_long_to_keep_is_not_shown_in_part() -> None:
    watching, long = observations(), outcome(body=b"x" * 65_000)
    long.saw(b"y" * 65_000, 2.0)
    watching.observe(admission(), long, recorded=True)
    assert seen(watching) == []
    assert watching.dropped_by_reason["not_whole"] == 1


@pytest.mark.parametrize(
    ("served_by", "rung", "asked", "version"),
    [
        ("risk/2", "primary", None, 2),
        ("risk/2", "primary", 7, 2),
        ("risk", "primary", None, 5),
        ("risk-baseline/9", "lighter", None, 5),
        ("risk/9", "cache", 7, 7),
    ],
)
def test_the_version_is_that_which_answered_or_should_have(
    served_by: str, rung: str, asked: int | None, version: int
) -> None:
    watching = observations()
    watching.observe(admission(version=asked), outcome(served_by=served_by, rung=rung), recorded=True)
    assert (seen(watching)[0]["version"], seen(watching)[0]["rung"]) == (version, rung)


def test_labels_come_after_the_predictions_they_are_about() -> None:
    watching = observations()
    watching.observe(admission(), outcome(), recorded=True)
    watching.take_labels([Label("e1", 0, 1), Label("e1", 1, 0)])
    assert [each["kind"] for each in seen(watching)] == ["prediction", "label", "label"]
    assert seen(watching, 1)[0] == {"seq": 2, "kind": "label", "call_id": "e1", "row": 0, "label": 1}


def test_a_reader_goes_on_where_it_stopped_and_learns_what_it_lost() -> None:
    watching = observations(capacity=100)
    watching.take_labels([Label("e", row, 0) for row in range(150)])
    page = watching.page(0, 10)
    assert (page["lost"], page["next"], len(page["observations"])) == (50, 60, 10)
    page = watching.page(page["next"], 1000)
    assert (page["lost"], page["next"], len(page["observations"])) == (0, 150, 90)
    assert watching.page(150, 10)["observations"] == []
    assert watching.page(150, 10)["next"] == 150
    assert watching.dropped == 50


def test_what_was_read_before_it_went_is_not_lost() -> None:
    watching = observations(capacity=100)
    watching.take_labels([Label("e", row, 0) for row in range(100)])
    assert watching.page(watching.page(0, 1000)["next"], 1000)["lost"] == 0
    watching.take_labels([Label("e", row, 0) for row in range(130)])
    assert dict(watching.dropped_by_reason) == {"overwritten": 30, "too_large": 0, "not_whole": 0}
    assert watching.status()["held"] == 100


def test_the_packed_page_says_the_same_as_the_one_for_people() -> None:
    watching = observations()
    watching.observe(admission(body=bytes(range(256))), outcome(), recorded=True)
    watching.take_labels([Label("e1", 0, 1)])
    failed = outcome("timeout")
    watching.observe(admission(2), failed, recorded=True)
    watching.keep(Copied("e1", 2, "risk", 3, 900, "", b"\x00asked", b"\xffsaid"))
    page, said = decode_page(watching.packed(0, 10)), watching.page(0, 10)
    assert [{"seq": seq, **item.as_json()} for seq, item in enumerate(page.items, page.first)] == said["observations"]
    assert (page.next, page.lost, page.boot) == (said["next"], said["lost"], said["boot"]) == (4, 0, page.boot)
    assert decode_page(watching.packed(4, 10)).items == []


def test_each_life_has_a_name_of_its_own() -> None:
    first, second = observations(), observations()
    assert first.page(0, 1)["boot"] == first.page(0, 1)["boot"] != second.page(0, 1)["boot"]


def test_how_long_nobody_has_asked_is_told() -> None:
    now = [100.0]
    watching = Observations(ObservationSettings(), lambda _: 5, lambda: now[0])
    now[0] += 400
    assert (watching.unread_s, watching.status()["unread_s"]) == (400.0, 400.0)
    watching.page(0, 10)
    assert watching.unread_s == 0.0
    now[0] += 7
    watching.packed(0, 10)
    now[0] += 1
    assert watching.unread_s == 1.0


def test_large_requests_do_not_fill_the_memory() -> None:
    watching = observations(capacity=1000, capacity_bytes=10 * MIB)
    for number in range(50):
        watching.observe(admission(number, body=b"x" * MIB), outcome(), recorded=True)
    page, found, lost = watching.page(0, 1000), [], 0
    while page["observations"]:
        found += [each["call_id"] for each in page["observations"]]
        lost += page["lost"]
        page = watching.page(page["next"], 1000)
    assert found == [f"e{number}" for number in range(41, 50)], "the newest that fit"
    assert lost == watching.dropped == 41


@given(st.lists(st.tuples(st.integers(0, 130), st.integers(1, 60)), max_size=8), st.booleans())
def test_what_is_lost_to_a_reader_is_what_is_counted_as_dropped(steps: list[tuple[int, int]], looks: bool) -> None:
    """However writing and reading take turns. Who looks at the count between may see more: what is on its way there."""
    watching, after, lost, read = observations(capacity=100), 0, 0, 0
    for written, wanted in steps:
        watching.take_labels([Label("e", row, 0) for row in range(written)])
        if looks:
            assert watching.dropped >= lost
        page = watching.page(after, wanted)
        after, lost, read = page["next"], lost + page["lost"], read + len(page["observations"])
    page = watching.page(after, 1_000)
    assert watching.page(page["next"], 1)["lost"] == 0
    lost += page["lost"]
    assert watching.dropped >= lost if looks else watching.dropped == lost
    assert lost + read + len(page["observations"]) == sum(written for written, _ in steps)


def test_what_is_lost_is_counted_once_however_often_one_looks() -> None:
    watching = observations(capacity=100)
    watching.take_labels([Label("e", row, 0) for row in range(150)])
    assert [watching.dropped for _ in range(3)] == [50] * 3
    assert watching.page(0, 10)["lost"] == 50
    assert watching.status()["dropped"]["overwritten"] == 50


def test_a_version_is_read_from_who_answered_whoever_answered_before() -> None:
    watching = observations()
    served = [f"risk/{number % 1_500}" for number in range(1, 3_000)]
    seen_versions = [watching.version(admission().call, outcome(served_by=one)) for one in served]
    assert seen_versions == [number % 1_500 or 5 for number in range(1, 3_000)]


def test_what_is_larger_than_everything_is_passed_over() -> None:
    watching = observations(capacity_bytes=MIB)
    watching.observe(admission(1), outcome(), recorded=True)
    watching.observe(admission(2, body=b"x" * 2 * MIB), outcome(), recorded=True)
    watching.take_labels([Label("e1", 0, 1)])
    assert [each["call_id"] for each in seen(watching)] == ["e1", "e1"]
    assert watching.dropped == 1


def test_a_page_of_large_predictions_is_short_but_never_empty() -> None:
    watching = observations()
    for number in range(3):
        watching.observe(admission(number, body=b"x" * (PAGE_BYTES + 1)), outcome(), recorded=True)
    pages = [watching.page(after, 1000) for after in range(3)]
    assert [len(page["observations"]) for page in pages] == [1, 1, 1]
    assert [page["next"] for page in pages] == [1, 2, 3]


def test_memory_is_given_back_as_items_are_overwritten() -> None:
    """The count of bytes must not drift, or one day nothing fits any more."""
    watching = observations(capacity=100, capacity_bytes=MIB)
    for number in range(1000):
        watching.observe(admission(number, body=b"x" * 5_000), outcome(), recorded=True)
        watching.take_labels([Label(f"e{number}", 0, 1)])
    assert len(seen(watching)) == 100
    assert seen(watching)[-1]["call_id"] == "e999"

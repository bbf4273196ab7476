from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import numpy as np

from controlplane.drift.rows import LabelledRow
from controlplane.drift.settings import WatchSettings
from controlplane.drift.states import Event
from controlplane.drift.watch import Counted, Verdict, Watch, resumed

KNOWN = WatchSettings(reference_rows=5_000, reference_errors=500)
CHANGE = 2_000


def row(principal: str, error: int, *, rung: str = "primary", version: int = 1) -> LabelledRow:
    return LabelledRow(
        call_id="c",
        row=0,
        at_ms=0,
        model="risk",
        version=version,
        principal=principal,
        rung=rung,
        inputs=np.zeros(1),
        predicted=error,
        label=0,
    )


def stream(rate: Callable[[int, str], float], rows: int, principals: int = 20) -> Iterator[tuple[int, LabelledRow]]:
    chance = random.Random(7)
    for number in range(1, rows + 1):
        principal = f"agent-{number % principals}"
        yield number, row(principal, int(chance.random() < rate(number, principal)))


def verdicts(watch: Watch, rows: Iterator[tuple[int, LabelledRow]]) -> list[tuple[int, Verdict]]:
    found = [(number, watch.take(number, one)) for number, one in rows]
    return [(number, verdict) for number, verdict in found if verdict is not None]


def test_no_verdict_while_nothing_changes() -> None:
    assert verdicts(Watch(1, KNOWN), stream(lambda _, __: 0.10, 30_000)) == []


def test_a_change_shown_by_many_is_a_verdict_with_its_evidence() -> None:
    found = verdicts(Watch(1, KNOWN), stream(lambda number, _: 0.10 if number <= CHANGE else 0.40, CHANGE + 100))
    number, verdict = found[0]
    assert verdict.event is Event.RISK_LEFT_BAND
    assert number - CHANGE <= 60
    assert abs(verdict.change_row - CHANGE) <= 20
    assert verdict.evidence["reference_errors"] == 500
    assert int(verdict.evidence["error_ppm"]) > 200_000
    assert all(isinstance(value, int | str) for value in verdict.evidence.values())


def test_the_verdict_is_given_once() -> None:
    found = verdicts(Watch(1, KNOWN), stream(lambda number, _: 0.10 if number <= CHANGE else 0.40, CHANGE + 2_000))
    assert [verdict.event for _, verdict in found] == [Event.RISK_LEFT_BAND]


def test_one_poisoned_principal_makes_a_suspicion_and_not_a_verdict() -> None:
    found = verdicts(
        Watch(1, KNOWN),
        stream(lambda number, who: 1.0 if who == "agent-3" and number > CHANGE else 0.10, 20_000),
    )
    assert {verdict.event for _, verdict in found} == {Event.SUSPECTED, Event.QUIET}
    assert found[0][1].evidence["principal"] == "agent-3"


def test_a_flooding_principal_has_no_more_seats_than_the_others() -> None:
    watch = Watch(1, KNOWN.model_copy(update={"block_offered_rows": 10_000}))
    chance = random.Random(1)
    for number in range(1, 10_001):
        flood = number % 20 != 0
        found = watch.take(number, row("flood" if flood else f"agent-{number // 20 % 10}", int(chance.random() < 0.1)))
        assert found is None
    counted = [one.principal for one in watch._window]
    assert counted.count("flood") <= len(counted) * 0.11
    assert watch.skipped > 8_000


def test_a_change_that_two_principals_see_is_a_verdict_even_when_nobody_else_calls() -> None:
    found = verdicts(Watch(1, KNOWN), stream(lambda number, _: 0.10 if number <= 500 else 0.60, 20_000, principals=2))
    assert found[-1][1].event is Event.RISK_LEFT_BAND


def test_a_sole_principal_is_only_suspected_unless_the_operator_says_that_it_is_alone() -> None:
    def rate(number: int, _: str) -> float:
        return 0.10 if number <= 500 else 0.60

    careful = verdicts(Watch(1, KNOWN), stream(rate, 20_000, principals=1))
    assert [verdict.event for _, verdict in careful] == [Event.SUSPECTED]
    alone = KNOWN.model_copy(update={"corroborating_principals": 1, "rows_per_principal_per_block": 50})
    trusting = verdicts(Watch(1, alone), stream(rate, 700, principals=1))
    assert trusting[0][1].event is Event.RISK_LEFT_BAND


def test_only_the_version_itself_is_judged() -> None:
    watch = Watch(1, KNOWN)
    for number in range(1, 2_000):
        assert watch.take(number, row(f"agent-{number % 20}", 1, rung="lighter")) is None
        assert watch.take(number, row(f"agent-{number % 20}", 1, version=2)) is None


def test_the_reference_is_learnt_before_anything_is_judged() -> None:
    learning = WatchSettings(reference_rows=1_000)
    found = verdicts(Watch(1, learning), stream(lambda _, __: 0.30, 5_000))
    ((number, verdict),) = found
    assert (number, verdict.event) == (1_000, Event.REFERENCE_LEARNT)
    assert 200 < int(verdict.evidence["reference_errors"]) < 400


def test_a_suspicion_clears_and_the_principal_is_heard_again() -> None:
    settings = KNOWN.model_copy(update={"quiet_rows": 100, "false_alarm_rows": 100_000})
    watch = Watch(1, settings)
    found = verdicts(watch, stream(lambda n, who: 1.0 if who == "agent-3" and 200 < n < 2_000 else 0.1, 8_000))
    assert [verdict.event for _, verdict in found][-1] is Event.QUIET
    assert "agent-3" in {one.principal for one in watch._window}


def test_a_resumed_watch_gives_the_same_verdict_at_the_same_row() -> None:
    rows = list(stream(lambda number, _: 0.10 if number <= CHANGE else 0.30, CHANGE + 1_000))
    whole = verdicts(Watch(1, KNOWN), iter(rows))
    for cut in (1, 1_000, CHANGE + 10, whole[0][0] - 1):
        first = Watch(1, KNOWN)
        verdicts(first, iter(rows[:cut]))
        kept = [Counted(one.number, one.principal, one.error) for one in first._window]
        again = resumed(first.snapshot(), KNOWN, kept)
        assert verdicts(again, iter(rows[cut:]))[0] == whole[0]

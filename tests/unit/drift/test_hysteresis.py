from __future__ import annotations

import json
from itertools import count

from controlplane.drift.hysteresis import BlockSettings, Hysteresis, resumed_hysteresis
from controlplane.drift.states import Event, Serving, State, line_of, serving_after

SETTINGS = BlockSettings()


class Model:
    """A model whose state follows the table, and agents that ask about one row each, in turn."""

    def __init__(self, settings: BlockSettings = SETTINGS) -> None:
        self.blocks = Hysteresis(settings)
        self.state, self.serving = State.HEALTHY, Serving.PRIMARY
        self.heard: list[Event] = []
        self.rows = count()

    def ask(self, *broken: bool, principal: str = "") -> None:
        for one in broken:
            who = principal or f"agent-{next(self.rows) % 20}"
            for event, evidence in self.blocks.take(who, [one], self.state, self.serving):
                assert all(isinstance(value, int | str) for value in evidence.values())
                self.enter(event)

    def enter(self, event: Event) -> None:
        line = line_of(self.state, event)
        self.state, self.serving = line.target, serving_after(self.serving, line)
        self.heard.append(event)

    def suspect(self) -> None:
        self.blocks.suspect(self.state)
        if self.state is State.HEALTHY:
            self.enter(Event.SUSPECTED)

    def block(self, broken: int = 0) -> None:
        self.ask(*[True] * broken, *[False] * (SETTINGS.rows - broken))

    def quiet_until_healthy(self) -> int:
        blocks = 0
        while self.state is not State.HEALTHY:
            self.block()
            blocks += 1
        return blocks


def test_one_broken_row_in_twenty_is_no_fault_and_a_few_more_are() -> None:
    model = Model()
    model.block(2)
    assert model.state is State.HEALTHY
    model.block(3)
    assert (model.state, model.serving) == (State.DATA_FAULT, Serving.FALLBACK_FOR_BROKEN_ROWS)


def test_when_most_rows_are_broken_all_get_the_fallback() -> None:
    model = Model()
    model.block(26)
    assert model.heard == [Event.ROWS_MOSTLY_BROKEN]
    assert model.serving is Serving.FALLBACK
    other = Model()
    other.block(10)
    other.block(30)
    assert other.heard == [Event.ROWS_BROKEN, Event.ROWS_MOSTLY_BROKEN]
    other.block(30)
    assert len(other.heard) == 2, "what is told already is not told again"


def test_a_fault_is_over_after_ten_quiet_blocks_in_a_row() -> None:
    model = Model()
    model.block(10)
    for _ in range(9):
        model.block()
    model.block(10)
    assert model.state is State.DATA_FAULT
    assert model.quiet_until_healthy() == 10
    assert model.serving is Serving.PRIMARY


def test_each_relapse_doubles_what_is_asked_for_and_a_long_peace_forgets_it() -> None:
    model, waited = Model(), []
    for _ in range(4):
        model.block(10)
        waited.append(model.quiet_until_healthy())
        model.block()
    assert waited == [10, 20, 40, 80]
    for _ in range(2 * 80):
        model.block()
    model.block(10)
    assert model.quiet_until_healthy() == 10


def test_a_flapping_feed_is_told_a_few_times() -> None:
    model = Model()
    for block in range(2_000):
        model.block(10 if block % 15 == 0 else 0)
    assert model.heard.count(Event.ROWS_BROKEN) <= 3


def test_a_suspicion_clears_by_itself_and_comes_back_with_a_longer_hold() -> None:
    model = Model()
    model.suspect()
    assert model.state is State.WARN
    model.block()
    assert model.quiet_until_healthy() == 10
    model.suspect()
    model.block()
    assert model.quiet_until_healthy() == 20
    assert model.serving is Serving.PRIMARY


def test_one_principal_alone_opens_nothing_for_everybody() -> None:
    model = Model()
    for _ in range(2_000):
        model.ask(True, principal="attacker")
    assert Event.ROWS_MOSTLY_BROKEN not in model.heard
    assert model.serving is not Serving.FALLBACK


def test_one_wild_row_is_nothing() -> None:
    model = Model()
    for _ in range(40):
        model.ask(*[False] * 49, True)
    assert model.heard == []


def test_a_resumed_one_goes_on_in_the_middle_of_a_block() -> None:
    whole, cut = Model(), Model()
    for model in (whole, cut):
        model.block(10)
        model.ask(*[True] * 2, *[False] * 20)
    cut.blocks = resumed_hysteresis(json.loads(json.dumps(cut.blocks.snapshot())), SETTINGS)
    for model in (whole, cut):
        model.ask(*[False] * 28)
        model.block(1)
    assert cut.blocks.snapshot() == whole.blocks.snapshot()

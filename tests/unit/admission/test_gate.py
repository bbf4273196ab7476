"""Who gets in, who waits, who is sent away and told when to come back."""

from __future__ import annotations

from controlplane.admission.gate import Gate
from controlplane.admission.gates import Gates
from controlplane.admission.line import Standing, Ticket
from controlplane.admission.settings import AdmissionSettings


class Counts:
    def __init__(self) -> None:
        self.causes: list[str] = []

    def waited(self, gate: str, seconds: float) -> None: ...

    def shed(self, gate: str, cause: str) -> None:
        self.causes.append(cause)


def full_gate(limit: int = 2, **settings: float) -> Gate:
    gate = Gate("tfs", AdmissionSettings(limit_calls=limit, **settings))
    for _ in range(limit):
        assert gate.enter(5)
    return gate


def waiting(gate: Gate, priority: int = 5, agent: str = "a", expires_s: float = 1e6, now_s: float = 0.0) -> Ticket:
    assert not gate.enter(priority)
    ticket = Ticket(("acme", agent), priority, expires_s)
    gate.wait(ticket, now_s)
    return ticket


def test_below_the_limit_everybody_enters_whatever_his_priority() -> None:
    gate = Gate("tfs", AdmissionSettings(limit_calls=10))
    assert all(gate.enter(priority) for priority in range(10))
    assert not gate.enter(0)


def test_place_that_becomes_free_goes_to_the_most_urgent() -> None:
    gate = full_gate()
    low, high = waiting(gate, 9), waiting(gate, 0)
    gate.leave(1.0, 1.0)
    assert (high.standing, low.standing) == (Standing.ADMITTED, Standing.WAITING)


def test_settled_is_told_once() -> None:
    gate, told = full_gate(1), []
    gate.wait(Ticket(("acme", "a"), 5, 100.0, told.append), 0.0)
    gate.leave(1.0, 1.0)
    gate.expire(told[0], 2.0)
    assert len(told) == 1


def test_who_hangs_up_while_waiting_leaves_the_line() -> None:
    gate = full_gate()
    gone, other = waiting(gate), waiting(gate)
    gate.abandon(gone, 0.5)
    gate.leave(1.0, 1.0)
    assert other.standing is Standing.ADMITTED
    assert gate.running == 2


def test_who_hangs_up_when_it_was_just_his_turn_gives_it_to_the_next() -> None:
    gate = full_gate()
    gone, other = waiting(gate), waiting(gate)
    gate.leave(1.0, 1.0)
    gate.abandon(gone, 1.0)
    assert other.standing is Standing.ADMITTED
    assert gate.running == 2


def test_expired_ticket_is_shed_and_its_turn_is_not_wasted() -> None:
    gate = full_gate()
    late, other = waiting(gate, expires_s=1.0), waiting(gate)
    gate.leave(1.0, 1.5)  # its timer has not rung yet
    assert (late.standing, late.cause) == (Standing.SHED, "waited_too_long")
    assert other.standing is Standing.ADMITTED


def test_call_that_cannot_finish_in_its_time_is_not_even_queued() -> None:
    gate = full_gate(window_calls=5)
    for _ in range(5):
        gate.answered(3.0, 0.0)
    assert gate.patience_s(2.5) < 0
    ticket = waiting(gate, expires_s=gate.patience_s(2.5))
    assert (ticket.standing, ticket.cause) == (Standing.SHED, "deadline")
    assert gate.patience_s(5.0) == 2.0, "five seconds, and three of them belong to the answer"


def test_full_line_sends_the_least_urgent_newest_away() -> None:
    counts = Counts()
    gate = Gate("tfs", AdmissionSettings(limit_calls=1, queue_calls=2), counts)
    gate.enter(5)
    older, newer = waiting(gate, 7), waiting(gate, 7)
    urgent, low = waiting(gate, 1), waiting(gate, 9)
    assert (older.standing, newer.standing) == (Standing.WAITING, Standing.SHED)
    assert (urgent.standing, low.standing) == (Standing.WAITING, Standing.SHED)
    assert counts.causes == ["displaced", "queue_full"]


def test_no_line_at_all_sheds_at_once() -> None:
    gate = full_gate(queue_calls=0)
    assert waiting(gate).cause == "queue_full"


def test_retry_after_is_how_long_the_line_really_takes() -> None:
    gate = full_gate(2, queue_calls=10)
    for at_s in range(1, 200):
        gate.leave(4.0, at_s)
        assert gate.enter(5)
    for _ in range(10):
        waiting(gate, now_s=200.0)
    assert waiting(gate, now_s=200.0).retry_after_s == 11 * 4.0 / 2
    assert gate.retry_after_s(0, 200.0) == 2.0, "an urgent call would be next"


def test_retry_after_grows_when_nothing_moves_any_more() -> None:
    gate = full_gate(2)
    gate.leave(0.1, 0.0)
    assert gate.enter(5)
    waiting(gate, now_s=0.0)
    assert gate.retry_after_s(5, 0.01) == 1.0
    assert gate.retry_after_s(5, 10.0) == 20.0
    assert gate.retry_after_s(5, 1000.0) == 60.0


def test_long_quiet_before_a_burst_is_no_stall() -> None:
    gate = full_gate(2)
    gate.leave(0.1, 0.0)
    assert gate.enter(5)
    waiting(gate, now_s=3600.0)
    assert gate.retry_after_s(5, 3600.0) == 1.0


def test_throttle_leaves_half_of_what_was_running_and_lets_urgent_calls_pass() -> None:
    gate = Gate("tfs", AdmissionSettings(limit_calls=100))
    for _ in range(8):
        gate.enter(5)
    gate.throttle(1, 0.0)
    assert not gate.enter(5)
    assert gate.enter(2)
    for _ in range(6):
        gate.leave(1.0, 1.0)
    assert gate.running == 3
    assert gate.enter(5)
    assert not gate.enter(5)


def test_each_step_of_a_throttle_halves_again_and_never_closes() -> None:
    gate = Gate("tfs", AdmissionSettings(limit_calls=100))
    for _ in range(8):
        gate.enter(5)
    rooms = []
    for steps in (1, 2, 3, 4, 5, 1, 0):
        gate.throttle(steps, 0.0)
        rooms.append(gate.room)
    assert rooms == [4, 2, 1, 1, 1, 4, 100]


def test_lifting_a_throttle_lets_those_in_who_wait() -> None:
    gate = Gate("tfs", AdmissionSettings(limit_calls=10))
    for _ in range(4):
        gate.enter(5)
    gate.throttle(1, 0.0)
    tickets = [waiting(gate) for _ in range(3)]
    gate.throttle(0, 1.0)
    assert all(ticket.standing is Standing.ADMITTED for ticket in tickets)


def test_while_throttled_a_free_place_goes_to_urgent_calls_alone() -> None:
    gate = Gate("tfs", AdmissionSettings(limit_calls=2))
    gate.enter(5)
    gate.enter(5)
    gate.throttle(1, 0.0)
    ordinary, urgent = waiting(gate, 5), waiting(gate, 0)
    gate.leave(1.0, 1.0)
    assert (ordinary.standing, urgent.standing) == (Standing.WAITING, Standing.ADMITTED)
    gate.leave(1.0, 2.0)
    assert ordinary.standing is Standing.WAITING
    gate.leave(1.0, 3.0)
    assert ordinary.standing is Standing.ADMITTED


def test_limit_that_grew_lets_those_in_who_wait() -> None:
    gate = Gate("tfs", AdmissionSettings(adaptive=True, limit_calls=8, window_calls=5))
    for _ in range(8):
        gate.enter(5)
    ticket = waiting(gate)
    for _ in range(5):
        gate.answered(0.1, 1.0)
    assert ticket.standing is Standing.ADMITTED


def test_stronger_throttle_of_one_and_all_holds_also_for_gates_made_later() -> None:
    gates = Gates(lambda _: AdmissionSettings(), lambda: 0.0)
    first = gates.of("tfs")
    gates.throttle("tfs", 2)
    gates.throttle_all(1)
    assert [gate.throttle_steps for gate in (first, gates.of("vllm"))] == [2, 1]
    gates.throttle("tfs", 0)
    assert first.throttle_steps == 1
    gates.throttle_all(0)
    assert [status.throttle for status in gates.snapshot()] == [0, 0]

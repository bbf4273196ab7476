"""Truth about predictions teaches the choice, row by row, so long as the prediction is remembered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from controlplane import choice_labels
from controlplane.calls import Call, Decision, Effect, Principal, Receipt
from controlplane.choice_labels import LabelLearning, classes_in
from controlplane.gateway.gateway import Admission
from controlplane.gateway.outcome import Outcome
from inference.selection import Candidate, Evidence, SelectionSettings
from inference.tfserving import wire
from inference.tfserving.tensors import write
from tests.unit.selection.models import a_candidate

ACME = Principal(subject="agent:one", tenant="acme")
ALLOW = Decision(effect=Effect.ALLOW, reason="granted", revision="r")
SCORES = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], np.float32)


@dataclass(frozen=True)
class Label:
    call_id: str
    row: int
    label: int


def reply(**outputs: Any) -> bytes:
    message = wire.PredictResponse()
    for name, array in outputs.items():
        write(np.asarray(array), message.outputs[name])
    return bytes(message.SerializeToString())


class World:
    def __init__(self) -> None:
        self.evidence = Evidence(SelectionSettings(prior_weight=0))
        self.known = {"risk": a_candidate("risk", quality=None)}
        self.learning = LabelLearning(self.evidence, self.candidate, lambda: 1000.0)

    def candidate(self, name: str) -> Candidate | None:
        return self.known.get(name)

    def predicts(self, call_id: str = "c1", body: bytes = b"", **changes: Any) -> None:
        call = Call(id=call_id, door="d", action="infer", resource="/model/risk", operation="Predict")
        outcome = Outcome(0.0, status=changes.pop("status", "ok"), rung=changes.pop("rung", "primary"))
        outcome.saw(body or reply(probabilities=SCORES), 1.0)
        admission = Admission(call, ACME, ALLOW, Receipt(call_id, 0, ""), 0.0, 0.0)
        self.learning.observe(admission, outcome, recorded=True)

    def answers(self, tenant: str = "acme") -> tuple[int, float]:
        judged = self.evidence.judged(tenant, "chat", "risk")
        return (judged.answers, judged.quality.mean) if judged else (0, -1.0)


def test_each_labelled_row_is_a_judged_answer_for_its_tenant() -> None:
    world = World()
    world.predicts()
    world.learning.take([Label("c1", 0, 0), Label("c1", 1, 1), Label("c1", 2, 1)])
    answers, _ = world.answers()
    assert answers == 3
    assert world.answers("globex") == (0, -1.0)


def test_right_raises_and_wrong_lowers_what_is_believed() -> None:
    right, wrong = World(), World()
    for world, shift in ((right, 0), (wrong, 1)):
        for number in range(50):
            world.predicts(f"c{number}")
            world.learning.take([Label(f"c{number}", 1, 1 - shift)])
    assert right.answers()[1] > 0.95
    assert wrong.answers()[1] < 0.05


def test_the_first_label_of_a_row_counts() -> None:
    world = World()
    world.predicts()
    for _ in range(5):
        world.learning.take([Label("c1", 0, 0)])
    assert world.answers()[0] == 1


@pytest.mark.parametrize("label", [Label("c2", 0, 0), Label("c1", 3, 0), Label("c1", -1, 0)])
def test_a_label_for_nothing_teaches_nothing(label: Label) -> None:
    world = World()
    world.predicts()
    world.learning.take([label])
    assert world.answers() == (0, -1.0)


@pytest.mark.parametrize("changes", [{"status": "error"}, {"rung": "lighter"}, {"rung": "cache"}])
def test_what_another_answered_teaches_nothing_of_the_model_asked(changes: dict[str, str]) -> None:
    world = World()
    world.predicts(**changes)
    world.learning.take([Label("c1", 0, 0)])
    assert world.answers() == (0, -1.0)


def test_a_model_that_left_the_catalogue_teaches_nothing() -> None:
    world = World()
    world.predicts()
    world.known.clear()
    world.learning.take([Label("c1", 0, 0)])
    assert world.answers() == (0, -1.0)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice_labels, "MOST_BYTES", 3 * len(reply(probabilities=SCORES)))
    world = World()
    for number in range(10):
        world.predicts(f"c{number}")
    world.learning.take([Label(f"c{number}", 0, 0) for number in range(10)])
    assert world.answers()[0] == 3


@pytest.mark.parametrize(
    ("body", "is_read"),
    [
        (reply(probabilities=SCORES), True),
        (reply(probabilities=SCORES, classes=np.array([0, 1, 0])), True),
        (reply(a=SCORES, b=SCORES), False),
        (reply(a=SCORES[:, 0]), False),
        (b"\xff\xff", False),
        (b"", False),
    ],
)
def test_classes_are_read_where_there_is_no_doubt_which_they_are(body: bytes, is_read: bool) -> None:
    found = classes_in(body)
    assert (found is not None) is is_read
    if found is not None:
        assert found.tolist() == [0, 1, 0]

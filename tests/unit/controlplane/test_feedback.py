"""Feedback through the whole gateway: whose it may be, that it counts once, what it moves, what outlives a restart."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from audit import AuditUnavailable
from controlplane.calls import new_call_id
from controlplane.choice_memory import Given, NotUnderReview
from controlplane.gateway.gateway import Denied
from inference.errors import BackendBroke, BackendRejected
from inference.selection import SelectionSettings
from tests.unit.controlplane.choosing_rig import ANALYST, OPERATOR, SECOND, STRANGER, Rig

QUICK = SelectionSettings(explore_share=0.0, review_answers=5, prior_weight=5)
HOUR_S = 3600.0


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncGenerator[Rig]:
    made = Rig(tmp_path, QUICK)
    made.prepare()
    await made.begin()
    yield made
    await made.end()


async def refused(rig: Rig, call_id: str, by: object = ANALYST) -> str:
    with pytest.raises(BackendRejected) as caught:
        await rig.say(call_id, 1.0, by)  # type: ignore[arg-type]
    return caught.value.reason


def believed(rig: Rig, model: str, tenant: str = "acme") -> float:
    candidate = rig.choosing.choice.candidate(model)
    assert candidate is not None
    return rig.choosing.evidence.qualities(tenant, [candidate])[0]


async def test_feedback_is_recorded_and_moves_the_choice(rig: Rig) -> None:
    for _ in range(9):
        await rig.say(await rig.ask(), 0.0)
    asked = [call.resource for call in rig.backends.asked]
    assert asked[0] == "/model/good"
    assert "/model/poor" in asked
    record = rig.records("feedback")[0]
    assert record.body["feedback"] == {
        "call": rig.records("intent")[0].event_id,
        "by": "agent:analyst",
        "tenant": "acme",
        "task": "chat",
        "model": "good",
        "score_ppm": 0,
    }


async def test_the_answer_names_the_record_that_holds_it(rig: Rig) -> None:
    call_id = await rig.ask()
    told = await rig.say(call_id, 0.25)
    (record,) = rig.records("feedback")
    assert told == {
        "call_id": call_id,
        "model": "good",
        "score": 0.25,
        "event_id": record.event_id,
        "ledger_index": record.index,
    }


async def test_a_comment_is_committed_to_and_kept_nowhere(rig: Rig) -> None:
    await rig.say(await rig.ask(), 1.0, comment="my name is Kari")
    (record,) = rig.records("feedback")
    assert record.body["feedback"]["comment_chars"] == 15
    assert record.body["feedback"]["comment_commit"] == "commit:15"
    await rig.choosing.memory.save()
    for file in rig.root.rglob("*"):
        assert not file.is_file() or b"Kari" not in file.read_bytes()


async def test_a_call_is_judged_once_by_each_principal(rig: Rig) -> None:
    call_id = await rig.ask()
    await rig.say(call_id, 1.0)
    assert await refused(rig, call_id) == "feedback_given"
    await rig.say(call_id, 0.0, SECOND)
    assert [record.body["feedback"]["by"] for record in rig.records("feedback")] == ["agent:analyst", "agent:support"]


async def test_of_two_at_once_one_counts(rig: Rig) -> None:
    call_id = await rig.ask()
    said = await asyncio.gather(rig.say(call_id, 1.0), rig.say(call_id, 0.0), return_exceptions=True)
    assert sorted(type(one).__name__ for one in said) == ["BackendRejected", "dict"]
    assert len(rig.records("feedback")) == 1


async def test_nobody_judges_the_calls_of_another_tenant(rig: Rig) -> None:
    call_id = await rig.ask()
    with pytest.raises(Denied):
        await rig.say(call_id, 0.0, STRANGER)  # not even permitted to give feedback
    rig.folder.write(
        "tenants/globex/rules.yaml",
        "tenant: globex\nrules:\n  - {id: globex.feedback, on: /feedback, do: write, effect: allow,"
        " principals: ['agent:courier']}\n",
    )
    assert rig.policy.reload(), rig.policy.status().error
    assert await refused(rig, call_id, STRANGER) == "not_found"
    assert rig.records("feedback") == []


async def test_what_is_no_answer_of_a_model_cannot_be_judged(rig: Rig) -> None:
    assert await refused(rig, new_call_id()) == "not_found"
    await rig.say(await rig.ask(), 1.0)
    of_feedback = [one for one in rig.records("intent") if one.body["action"]["name"] == "/feedback"][-1]
    assert await refused(rig, of_feedback.event_id) == "not_a_model_call"


async def test_a_refused_call_cannot_be_judged(rig: Rig) -> None:
    with pytest.raises(Denied):
        await rig.ask("secret")
    (deny,) = rig.records("deny")
    assert await refused(rig, deny.event_id) == "not_found"


async def test_a_call_without_a_whole_answer_cannot_be_judged(rig: Rig) -> None:
    rig.backends.fails = BackendBroke("cut")
    with pytest.raises(BackendBroke):
        await rig.ask()
    assert await refused(rig, rig.records("intent")[0].event_id) == "call_unfinished"


async def test_an_old_call_cannot_be_judged(rig: Rig) -> None:
    call_id = await rig.ask()
    rig.now.ahead_s = QUICK.feedback_window_s + 60
    assert await refused(rig, call_id) == "feedback_late"


async def test_who_answered_in_its_place_is_judged(rig: Rig) -> None:
    rig.backends.rung, rig.backends.served_by = "lighter", "rows/3"
    await rig.say(await rig.ask(), 0.0)
    (record,) = rig.records("feedback")
    assert (record.body["feedback"]["model"], record.body["feedback"]["task"]) == ("rows", "classification")
    assert believed(rig, "good") == 0.9
    assert believed(rig, "rows") < 0.7


async def test_feedback_that_cannot_be_recorded_is_not_learnt_and_may_be_said_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    call_id, append = await rig.ask(), rig.ledger.append

    async def failing(kind: str, *args: object, **more: object) -> object:
        if kind == "feedback":
            raise AuditUnavailable("disk_full")
        return await append(kind, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(rig.ledger, "append", failing)
    with pytest.raises(AuditUnavailable):
        await rig.say(call_id, 0.0)
    assert believed(rig, "good") == 0.9
    monkeypatch.undo()
    await rig.say(call_id, 0.0)
    assert believed(rig, "good") < 0.9


async def test_what_was_learnt_outlives_a_restart(rig: Rig) -> None:
    call_id = await rig.ask()
    await rig.say(call_id, 0.0)
    before = believed(rig, "good")
    await rig.restart()
    assert believed(rig, "good") == before
    assert rig.choosing.evidence.as_json()["latencies"]
    assert await refused(rig, call_id) == "feedback_given"


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"format": 1}', '{"format": 99}'])
async def test_without_its_file_everything_is_read_from_the_ledger(rig: Rig, content: str | None) -> None:
    call_id = await rig.ask()
    await rig.say(call_id, 0.0)
    before = believed(rig, "good")
    await rig.end()
    file = rig.root / "state/selection.json"
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
    await rig.begin()
    assert believed(rig, "good") == pytest.approx(before)
    assert await refused(rig, call_id) == "feedback_given"


async def test_what_the_file_missed_is_read_from_the_ledger_once(rig: Rig) -> None:
    await rig.say(await rig.ask(), 0.0)
    await rig.choosing.memory.save()
    kept = (rig.root / "state/selection.json").read_text()
    await rig.say(await rig.ask(), 0.0)
    before = believed(rig, "good")
    await rig.end()
    (rig.root / "state/selection.json").write_text(kept)
    await rig.begin()
    assert believed(rig, "good") == pytest.approx(before)


async def test_what_stands_in_the_ledger_twice_counts_once(rig: Rig) -> None:
    """A record that was refused as late may have landed all the same, and then the agent said it again."""
    await rig.say(await rig.ask(), 0.0)
    before = believed(rig, "good")
    await rig.ledger.append("feedback", {"feedback": rig.records("feedback")[0].body["feedback"]})
    await rig.end()
    (rig.root / "state/selection.json").unlink()
    await rig.begin()
    assert believed(rig, "good") == pytest.approx(before)


async def spoil(rig: Rig) -> None:
    """Five wrong answers in a row, and then three choices of the model that gave them."""
    rig.fleet.gone.add("poor")
    for _ in range(5):
        await rig.say(await rig.ask(), 0.0)
    for _ in range(3):
        await rig.ask()
    rig.fleet.gone.discard("poor")
    rig.choosing.choice._menu.open_to.clear()


async def kept(rig: Rig) -> None:
    """One turn of what runs in the background."""
    await rig.choosing.memory._record_reviews()
    await rig.choosing.memory.save()


async def test_a_model_that_lost_its_accuracy_leaves_the_choice_until_a_person_clears_it(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        await spoil(rig)
    assert "under review" in caplog.text
    await rig.ask()
    assert rig.backends.asked[-1].resource == "/model/poor"
    await rig.ask("good")  # by its name it may still be asked
    await kept(rig)
    (record,) = rig.records("selection.review")
    told = record.body["selection"]
    assert (told["tenant"], told["task"], told["model"]) == ("acme", "chat", "good")
    assert (told["reference_ppm"], told["accuracy_ppm"], told["choices"]) == (900_000, 0, 3)
    await rig.restart()
    rig.fleet.gone.add("poor")
    with pytest.raises(Denied) as caught:
        await rig.ask()
    assert caught.value.decision.reason == "no_model_cleared"
    rig.fleet.gone.discard("poor")
    receipt = await rig.choosing.control().clear("chat", "good", OPERATOR, "prompt mended")
    (cleared,) = rig.records("selection.cleared")
    assert cleared.event_id == receipt.event_id
    assert cleared.body["selection"]["by"] == "user:operator"
    assert rig.choosing.selector.reviews == {}
    await rig.restart()
    assert rig.choosing.selector.reviews == {}


async def test_a_review_of_one_tenant_leaves_the_model_to_others(rig: Rig) -> None:
    await spoil(rig)
    assert [view.under_review for view in rig.choosing.control().view(ANALYST) if view.model == "good"] == [True]
    assert [view.under_review for view in rig.choosing.control().view(STRANGER) if view.model == "good"] == [False]


async def test_a_review_waits_for_the_ledger_and_the_model_does_not(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await spoil(rig)

    async def failing(*_: object, **__: object) -> object:
        raise AuditUnavailable("disk_full")

    monkeypatch.setattr(rig.ledger, "append", failing)
    with pytest.raises(AuditUnavailable):
        await kept(rig)
    assert rig.choosing.selector.reviews
    with pytest.raises(AuditUnavailable):
        await rig.choosing.control().clear("chat", "good", OPERATOR, "looked at it")
    assert rig.choosing.selector.reviews, "not recorded, therefore not cleared"
    monkeypatch.undo()
    await kept(rig)
    assert len(rig.records("selection.review")) == 1


async def test_what_was_not_recorded_as_a_review_is_none_after_a_restart(rig: Rig) -> None:
    await spoil(rig)
    await rig.choosing.memory.save()
    said = json.loads((rig.root / "state/selection.json").read_text())
    assert said["reviews"] == []


async def test_nobody_clears_what_is_not_under_review(rig: Rig) -> None:
    with pytest.raises(NotUnderReview):
        await rig.choosing.memory.clear("acme", "chat", "good", OPERATOR, "why not")
    assert rig.records("selection.cleared") == []


def test_calls_as_old_as_a_forgotten_one_are_refused() -> None:
    given = Given(limit=2)
    ids = [
        f"{1_700_000_000_000 + n:012x}"[:8] + "-" + f"{1_700_000_000_000 + n:012x}"[8:] + "-7000-8000-000000000000"
        for n in range(4)
    ]
    for call_id in ids[:3]:
        given.add(f"{call_id} agent:a b")
    assert given.is_forgotten(ids[0])
    assert not given.is_forgotten(ids[1])
    assert f"{ids[1]} agent:a b" in given
    assert not given.is_forgotten(ids[3])

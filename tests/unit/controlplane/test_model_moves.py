"""Moves of models are recorded before they act, once each, and survive whoever dies. Real ledger, real model server."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import suppress
from typing import Any

import anyio
import pytest

from audit import AuditUnavailable
from controlplane.model_moves import KEYS_KEPT, MoveRefused, _serving_in, parse_move
from inference.errors import BackendError, BackendRejected, BackendUnavailable
from inference.tfserving.deployment import Deployment, DeploymentError
from inference.tfserving.served import Shadow
from tests.unit.controlplane.rig import MONITOR, Rig, publish


async def refused(rig: Rig, *move: str, **more: Any) -> str:
    with pytest.raises(MoveRefused) as caught:
        await rig.ask(*move, **more)
    return caught.value.reason


async def test_a_move_is_in_the_ledger_with_who_asked_and_why(rig: Rig) -> None:
    await rig.ask("LEARNING", "reference_learnt", "HEALTHY", evidence={"rows": 100, "ratio": 0.25})
    (record,) = rig.recorded()
    assert record.body["drift"] == {
        "key": "k1",
        "model": "risk",
        "version": 1,
        "from": "LEARNING",
        "to": "HEALTHY",
        "reason": "reference_learnt",
        "evidence": {"rows": 100, "ratio": "0.25"},
        "by": MONITOR.subject,
        "serving": "primary",
    }
    assert rig.moves.states["risk"].state == "HEALTHY"


async def test_what_cannot_be_recorded_holds_nothing(rig: Rig) -> None:
    await rig.ask("LEARNING", "reference_learnt", "HEALTHY")
    await rig.ledger.close()
    with pytest.raises(AuditUnavailable):
        await rig.ask("HEALTHY", "risk_left_band", "DEGRADED")
    assert rig.holds() == ()
    assert rig.moves.states["risk"].state == "HEALTHY"


async def test_a_degraded_version_answers_until_its_fallback_is_better(rig: Rig) -> None:
    await rig.ask("LEARNING", "reference_learnt", "HEALTHY")
    state = await rig.ask("HEALTHY", "risk_left_band", "DEGRADED")
    assert (rig.holds(), state.serving) == ((), "primary")
    state = await rig.ask("DEGRADED", "fallback_better", "DEGRADED")
    assert (rig.holds(), state.serving) == (("drift",), "fallback")


async def test_a_degraded_version_is_held_until_a_human_has_reviewed_it(rig: Rig) -> None:
    await rig.degrade()
    assert rig.holds() == ("drift",)
    await rig.ask("DEGRADED", "reviewed", "HEALTHY")
    assert rig.holds() == ()


async def test_the_same_key_again_is_recorded_once(rig: Rig) -> None:
    await rig.ask("LEARNING", "reference_learnt", "HEALTHY", key="one")
    state = await rig.ask("LEARNING", "reference_learnt", "HEALTHY", key="one")
    assert state.state == "HEALTHY"
    assert len(rig.recorded()) == 1


async def test_the_same_key_twice_at_once_is_recorded_once(rig: Rig) -> None:
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(lambda: rig.ask("LEARNING", "reference_learnt", "HEALTHY", key="one"))
    assert len(rig.recorded()) == 1


async def test_two_moves_from_one_state_at_once_leave_one(rig: Rig) -> None:
    """Both were right when they were asked for; only the first still is when it is its turn."""
    await rig.ask("LEARNING", "reference_learnt", "HEALTHY")
    asked = rig.ask("HEALTHY", "suspected", "WARN"), rig.ask("HEALTHY", "risk_left_band", "DEGRADED")
    told = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(each).__name__ for each in told] == ["ModelState", "MoveRefused"]
    assert len(rig.recorded()) == 2


async def test_a_known_key_cannot_carry_another_move_past_the_ledger(rig: Rig) -> None:
    await rig.reach_shadow()
    publish(rig.server.folder / "risk", 2)
    assert await refused(rig, "SHADOW", "won", "PROMOTED", new_version=2, key="k1") == "key_reused"
    deployment = rig.fleet.deployment_of("risk")
    assert deployment is not None
    assert deployment.models["risk"].labels.get("stable") != 2


async def test_an_old_key_again_does_not_undo_what_came_after(rig: Rig) -> None:
    await rig.degrade()
    await rig.ask("DEGRADED", "reviewed", "HEALTHY")
    state = await rig.ask("HEALTHY", "risk_left_band", "DEGRADED", key="k2")
    assert state.state == "HEALTHY"
    assert rig.holds() == ()
    assert len(rig.recorded()) == 4


@pytest.mark.parametrize(
    ("move", "more", "reason"),
    [
        (("HEALTHY", "retrain", "RETRAINING"), {}, "illegal_transition"),
        (("HEALTHY", "risk_left_band", "WARN"), {}, "illegal_transition"),
        (("DEGRADED", "retrain", "RETRAINING"), {}, "out_of_step"),
        (("HEALTHY", "suspected", "WARN"), {"version": 7}, "out_of_step"),
        (("HEALTHY", "suspected", "NOWHERE"), {}, "malformed"),
        (("HEALTHY", "bored", "WARN"), {}, "malformed"),
        (("HEALTHY", "suspected", "WARN"), {"version": 0}, "malformed"),
        (("HEALTHY", "suspected", "WARN"), {"version": "one"}, "malformed"),
        (("HEALTHY", "suspected", "WARN"), {"evidence": {"rows": 2**60}}, "malformed"),
        (("SHADOW", "won", "PROMOTED"), {}, "malformed"),
        (("SHADOW", "won", "PROMOTED"), {"new_version": 1}, "malformed"),
        (("SHADOW", "shadow_passed", "CANARY"), {"new_version": 2}, "malformed"),
        (("SHADOW", "shadow_passed", "CANARY"), {"new_version": 2, "percent": 101}, "malformed"),
        (("SHADOW", "shadow_passed", "CANARY"), {"percent": 10}, "malformed"),
        (("SHADOW", "won", "PROMOTED"), {"new_version": 2, "percent": 10}, "malformed"),
        (("RETRAINING", "trained", "SHADOW"), {"new_version": 2, "percent": 0}, "malformed"),
        (("RETRAINING", "trained", "SHADOW"), {"percent": 10}, "malformed"),
    ],
)
async def test_a_move_that_cannot_be_is_refused_and_not_recorded(
    rig: Rig, move: tuple[str, str, str], more: dict[str, Any], reason: str
) -> None:
    await rig.ask("LEARNING", "reference_learnt", "HEALTHY")
    assert await refused(rig, *move, **more) == reason
    assert len(rig.recorded()) == 1


async def test_a_move_refused_by_the_ledger_may_be_mended_and_asked_again(rig: Rig) -> None:
    assert await refused(rig, "LEARNING", "reference_learnt", "HEALTHY", evidence={"x": "y" * 70_000}) == "malformed"
    assert (await rig.ask("LEARNING", "reference_learnt", "HEALTHY")).state == "HEALTHY"


async def test_a_life_begins_with_learning(rig: Rig) -> None:
    """Whoever holds the monitor's token cannot begin at the end."""
    assert await refused(rig, "SHADOW", "won", "PROMOTED", new_version=2) == "out_of_step"


async def test_an_unknown_model_is_refused(rig: Rig) -> None:
    with pytest.raises(MoveRefused) as caught:
        await rig.moves.ask("nobody", {"key": "k", "version": 1, "from": "LEARNING", "to": "HEALTHY",
                                       "reason": "reference_learnt"}, MONITOR)  # fmt: skip
    assert caught.value.reason == "unknown_model"


async def test_states_and_holds_survive_a_restart(rig: Rig) -> None:
    await rig.degrade()
    before = rig.moves.states
    await rig.restart()
    assert rig.holds() == ("drift",)
    assert {name: (state.state, state.version, state.reason) for name, state in rig.moves.states.items()} == {
        name: (state.state, state.version, state.reason) for name, state in before.items()
    }
    await rig.ask("HEALTHY", "risk_left_band", "DEGRADED", key="k2")
    assert len(rig.recorded()) == 3


async def test_a_released_hold_stays_released_after_a_restart(rig: Rig) -> None:
    await rig.degrade()
    await rig.ask("DEGRADED", "reviewed", "HEALTHY")
    await rig.restart()
    assert rig.holds() == ()


async def promoted(rig: Rig) -> None:
    deployment = rig.fleet.deployment_of("risk")
    assert deployment is not None
    await deployment.start()
    await rig.reach_shadow()
    publish(rig.server.folder / "risk", 2)
    await rig.ask("SHADOW", "won", "PROMOTED", new_version=2)


async def test_an_operator_releases_what_drift_held_when_it_is_nobody_s_version_any_more(rig: Rig) -> None:
    await promoted(rig)
    assert rig.holds("risk/1") == ("drift",)
    await rig.moves.release("risk", 1, MONITOR, "looked at it; the labels were wrong")
    assert rig.holds("risk/1") == ()
    await rig.restart()
    assert rig.holds("risk/1") == (), "the release is read back, too"
    (record,) = rig.ledger.read(kinds=["drift.release"])
    assert record.body["drift"] == {
        "model": "risk",
        "version": 1,
        "by": MONITOR.subject,
        "reason": "looked at it; the labels were wrong",
    }


async def test_the_version_under_watch_is_reviewed_and_not_released(rig: Rig) -> None:
    await rig.degrade()
    with pytest.raises(MoveRefused) as caught:
        await rig.moves.release("risk", 1, MONITOR, "because")
    assert caught.value.reason == "under_watch"
    assert rig.holds() == ("drift",)


async def test_what_is_not_held_is_not_released(rig: Rig) -> None:
    await promoted(rig)
    with pytest.raises(MoveRefused) as caught:
        await rig.moves.release("risk", 2, MONITOR, "because")
    assert caught.value.reason == "not_held"
    assert rig.ledger.read(kinds=["drift.release"]) == []


async def test_a_release_that_cannot_be_recorded_is_not_done(rig: Rig) -> None:
    await promoted(rig)
    await rig.ledger.close()
    with pytest.raises(AuditUnavailable):
        await rig.moves.release("risk", 1, MONITOR, "because")
    assert rig.holds("risk/1") == ("drift",)


async def test_a_promotion_loads_the_version_and_moves_the_label(rig: Rig) -> None:
    deployment = rig.fleet.deployment_of("risk")
    assert deployment is not None
    await deployment.start()
    await rig.reach_shadow()
    publish(rig.server.folder / "risk", 2)
    state = await rig.ask("SHADOW", "won", "PROMOTED", new_version=2)
    assert (state.state, state.version) == ("PROMOTED", 2)
    assert deployment.models["risk"].labels == {"stable": 2}
    assert deployment.resolve("risk") == 2
    assert rig.holds("risk/1") == ("drift",), "nobody has cleared the old version"
    assert rig.holds("risk/2") == ()
    settled = await rig.ask("PROMOTED", "settled", "HEALTHY", version=2)
    assert settled.version == 2


async def test_a_promotion_that_the_server_would_not_follow_is_done_when_asked_again(rig: Rig) -> None:
    deployment = rig.fleet.deployment_of("risk")
    assert deployment is not None
    await deployment.start()
    await rig.reach_shadow()
    publish(rig.server.folder / "risk", 2)
    await rig.server.stop()
    with pytest.raises((BackendUnavailable, DeploymentError)):
        await rig.ask("SHADOW", "won", "PROMOTED", new_version=2, key="won")
    assert deployment.resolve("risk") == 1
    await rig.restart()
    await rig.server.start()
    deployment = rig.fleet.deployment_of("risk")
    assert deployment is not None
    await deployment.start()  # as ``keep_deployed`` does when the server is back
    await rig.ask("SHADOW", "won", "PROMOTED", new_version=2, key="won")
    assert deployment.resolve("risk") == 2
    assert len(rig.recorded()) == 6


async def test_a_move_whose_asker_left_is_still_known(rig: Rig) -> None:
    asking = asyncio.create_task(rig.ask("LEARNING", "reference_learnt", "HEALTHY", key="one"))
    while not rig.ledger.waiting:  # noqa: ASYNC110  it tells nobody
        await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait([asking])
    assert asking.cancelled()
    assert [state.state for state in rig.moves.states.values()] == ["HEALTHY"]
    await rig.ask("LEARNING", "reference_learnt", "HEALTHY", key="one")
    assert len(rig.recorded()) == 1


async def test_a_late_record_that_was_refused_is_found_and_not_repeated(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk was slow, the caller was refused, and the record landed all the same."""
    append = rig.ledger.append

    async def lands_too_late(*told: Any, **more: Any) -> Any:
        await append(*told, **more)
        raise AuditUnavailable("stalled")

    with monkeypatch.context() as patched:
        patched.setattr(rig.ledger, "append", lands_too_late)
        with pytest.raises(AuditUnavailable):
            await rig.ask("LEARNING", "reference_learnt", "HEALTHY", key="one")
    state = await rig.ask("LEARNING", "reference_learnt", "HEALTHY", key="one")
    assert state.state == "HEALTHY"
    assert len(rig.recorded()) == 1


async def test_a_refused_record_that_never_landed_is_recorded_when_asked_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuses(*_told: Any, **_more: Any) -> Any:
        raise AuditUnavailable("queue_full")

    with monkeypatch.context() as patched:
        patched.setattr(rig.ledger, "append", refuses)
        with pytest.raises(AuditUnavailable):
            await rig.ask("LEARNING", "reference_learnt", "HEALTHY", key="one")
    await rig.ask("LEARNING", "reference_learnt", "HEALTHY", key="one")
    assert len(rig.recorded()) == 1


async def test_an_unreadable_ledger_lets_no_doubtful_move_pass(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuses(*_told: Any, **_more: Any) -> Any:
        raise AuditUnavailable("stalled")

    def unreadable(*_told: Any, **_more: Any) -> Any:
        raise AuditUnavailable("io_error")

    with monkeypatch.context() as patched:
        patched.setattr(rig.ledger, "append", refuses)
        with pytest.raises(AuditUnavailable):
            await rig.ask("LEARNING", "reference_learnt", "HEALTHY", key="one")
    with monkeypatch.context() as patched:
        patched.setattr(rig.ledger, "read", unreadable)
        with pytest.raises(AuditUnavailable):
            await rig.ask("LEARNING", "reference_learnt", "HEALTHY", key="one")
    assert rig.recorded() == []


async def test_remembered_keys_are_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert KEYS_KEPT >= 1000
    monkeypatch.setattr("controlplane.model_moves.KEYS_KEPT", 3)
    await rig.ask("LEARNING", "reference_learnt", "HEALTHY")
    for _ in range(4):
        await rig.ask("HEALTHY", "suspected", "WARN")
        await rig.ask("WARN", "quiet", "HEALTHY")
    assert len(rig.moves._known) == 3


def test_a_move_is_read_back_from_its_own_facts() -> None:
    said = {"key": "k", "version": 1, "from": "SHADOW", "to": "PROMOTED", "reason": "won", "new_version": 2}
    move = parse_move(said | {"evidence": {"rows": 7, "ratio": 0.5, "none": None}})
    assert parse_move(move.facts()) == move


async def test_the_ledger_of_moves_verifies(rig: Rig) -> None:
    await rig.reach_shadow()
    with sqlite3.connect(rig.folder / "ledger.sqlite") as db:
        kinds = [row[0] for row in db.execute("SELECT kind FROM log ORDER BY idx")]
    assert kinds == ["genesis", *["drift.transition"] * 5]


async def in_canary(rig: Rig, percent: int = 10) -> Deployment:
    deployment = rig.fleet.deployment_of("risk")
    assert deployment is not None
    await deployment.start()
    await rig.reach_shadow()
    publish(rig.server.folder / "risk", 2)
    await rig.ask("SHADOW", "shadow_passed", "CANARY", new_version=2, percent=percent)
    return deployment


def shared(deployment: Deployment) -> tuple[int, int]:
    served = deployment.models["risk"]
    return served.labels.get("canary", 0), served.canary_percent


async def test_a_canary_grows_by_label_and_share_and_ends_with_its_promotion(rig: Rig) -> None:
    deployment = await in_canary(rig, 1)
    assert shared(deployment) == (2, 1)
    await rig.ask("CANARY", "step_passed", "CANARY", new_version=2, percent=50)
    assert shared(deployment) == (2, 50)
    assert deployment.resolve("risk") == 1
    state = await rig.ask("CANARY", "won", "PROMOTED", new_version=2)
    assert (shared(deployment)[1], deployment.resolve("risk"), state.version) == (0, 2, 2)
    assert [record.body["drift"].get("percent") for record in rig.recorded()][-3:] == [1, 50, None]


async def test_a_canary_that_lost_answers_nobody(rig: Rig) -> None:
    deployment = await in_canary(rig)
    state = await rig.ask("CANARY", "lost", "ROLLED_BACK", new_version=2)
    assert (shared(deployment), deployment.resolve("risk"), state.version) == ((0, 0), 1, 1)
    assert deployment.models["risk"].versions == (1,), "it is unloaded"
    assert rig.holds() == ("drift",), "the old version is no better for it"


async def in_shadow(rig: Rig, percent: int = 10) -> Deployment:
    deployment = rig.fleet.deployment_of("risk")
    assert deployment is not None
    await deployment.start()
    await rig.degrade()
    await rig.ask("DEGRADED", "retrain", "RETRAINING", new_version=2)
    publish(rig.server.folder / "risk", 2)
    await rig.ask("RETRAINING", "trained", "SHADOW", new_version=2, percent=percent)
    return deployment


async def test_a_challenger_in_its_shadow_is_loaded_for_copies_and_answers_nobody(rig: Rig) -> None:
    deployment = await in_shadow(rig)
    assert deployment.models["risk"].shadow == Shadow(2, 10, on_trial=True)
    assert (deployment.models["risk"].labels, deployment.models["risk"].versions) == ({"stable": 1}, (1, 2))
    with pytest.raises(BackendRejected):
        deployment.resolve("risk", 2)
    await rig.ask("SHADOW", "shadow_passed", "CANARY", new_version=2, percent=1)
    assert (deployment.models["risk"].shadow, deployment.resolve("risk", 2)) == (None, 2)


async def test_a_challenger_that_lost_in_its_shadow_is_unloaded(rig: Rig) -> None:
    deployment = await in_shadow(rig)
    await rig.ask("SHADOW", "lost", "ROLLED_BACK", new_version=2)
    assert (deployment.models["risk"].shadow, deployment.models["risk"].versions) == (None, (1,))


async def test_what_the_server_cannot_unload_now_is_unloaded_when_it_is_asked_again(rig: Rig) -> None:
    deployment = await in_canary(rig)
    await rig.server.stop()
    with pytest.raises((BackendError, DeploymentError)):
        await rig.ask("CANARY", "lost", "ROLLED_BACK", new_version=2, key="lost")
    assert (shared(deployment)[1], rig.moves.states["risk"].state) == (0, "ROLLED_BACK")
    await rig.server.start()
    with anyio.fail_after(60):
        while deployment.models["risk"].versions != (1,):
            with suppress(BackendError, DeploymentError):
                await rig.ask("CANARY", "lost", "ROLLED_BACK", new_version=2, key="lost")
    assert len([each for each in rig.recorded() if each.body["drift"]["to"] == "ROLLED_BACK"]) == 1


async def test_a_share_is_known_after_a_restart_and_asked_again_it_is_given_again(rig: Rig) -> None:
    await in_canary(rig, 10)
    await rig.restart()
    deployment = rig.fleet.deployment_of("risk")
    assert deployment is not None
    await deployment.start()
    assert shared(deployment) == (2, 10)
    await rig.ask("SHADOW", "shadow_passed", "CANARY", new_version=2, percent=10, key=f"k{rig.step}")
    assert len(rig.recorded()) == 6


async def test_calls_with_broken_rows_fall_while_the_data_is_at_fault(rig: Rig) -> None:
    await rig.ask("LEARNING", "reference_learnt", "HEALTHY")
    await rig.ask("HEALTHY", "rows_broken", "DATA_FAULT")
    assert (rig.fleet.guards.faulty, rig.holds()) == ({"risk"}, ())
    await rig.restart()
    assert rig.fleet.guards.faulty == {"risk"}
    await rig.ask("DATA_FAULT", "rows_mostly_broken", "DATA_FAULT")
    assert (rig.fleet.guards.faulty, rig.holds()) == (set(), ("drift",)), "all calls fall, whatever their rows"
    await rig.ask("DATA_FAULT", "rows_sound", "HEALTHY")
    assert (rig.fleet.guards.faulty, rig.holds()) == (set(), ())


async def test_what_a_human_says_is_recorded_and_known_until_the_version_is_degraded_no_more(rig: Rig) -> None:
    with pytest.raises(MoveRefused) as caught:
        await rig.moves.review("risk", "healthy", MONITOR, "no reason")
    assert caught.value.reason == "not_degraded"
    await rig.degrade()
    receipt = await rig.moves.review("risk", "retrain", MONITOR, "the labels of last night were wrong")
    (record,) = rig.ledger.read(kinds=["drift.review"])
    assert (record.index, record.body["drift"]["answer"]) == (receipt.index, "retrain")
    await rig.restart()
    said = rig.moves.review_of("risk")
    assert said is not None
    assert (said.id, said.answer) == (str(receipt.index), "retrain")
    await rig.ask("DEGRADED", "reviewed", "HEALTHY")
    assert rig.moves.review_of("risk") is None


async def test_an_answer_that_nobody_asked_for_is_refused(rig: Rig) -> None:
    await rig.degrade()
    with pytest.raises(MoveRefused) as caught:
        await rig.moves.review("risk", "whatever", MONITOR, "because")
    assert caught.value.reason == "malformed"
    assert rig.ledger.read(kinds=["drift.review"]) == []


async def test_a_review_that_cannot_be_recorded_is_not_said(rig: Rig) -> None:
    await rig.degrade()
    await rig.ledger.close()
    with pytest.raises(AuditUnavailable):
        await rig.moves.review("risk", "healthy", MONITOR, "because")
    assert rig.moves.review_of("risk") is None


@pytest.mark.parametrize(("target", "serving"), [("DEGRADED", "fallback"), ("WARN", "primary")])
def test_records_of_an_earlier_release_say_who_answered_by_their_state(target: str, serving: str) -> None:
    reason = "risk_left_band" if target == "DEGRADED" else "suspected"
    said = {"key": "k", "version": 1, "from": "HEALTHY", "to": target, "reason": reason}
    assert _serving_in(said, parse_move(said)) == serving

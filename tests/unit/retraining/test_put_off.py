"""A training that nobody takes is no failed training: it is asked for again, later and later, and costs no attempt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from controlplane.retraining.acting_settings import ActingSettings
from controlplane.retraining.course import Course
from controlplane.retraining.ports import Review
from controlplane.retraining.trainer import Candidate, Progress, TrainerBusy, TrainerUnavailable, TrainingJob

from .gateway_with_memory import RememberingGateway
from .toy import Toy, ToyTrainer, work

MINUTE_S = 60.0


@dataclass
class AbsentTrainer(ToyTrainer):
    absent: int = 0  # askings that nobody takes
    asked: int = 0
    error: type[TrainerBusy | TrainerUnavailable] = TrainerUnavailable

    async def train(self, job: TrainingJob, progress: Progress) -> Candidate:
        self.asked += 1
        if self.asked <= self.absent:
            raise self.error("nobody is there")
        return await super().train(job, progress)


def degraded(path: Path, absent: int, jobs_per_day: int = 100) -> tuple[Toy, AbsentTrainer]:
    toy = Toy(path, acting=ActingSettings(canary_rows=100, jobs_per_day=jobs_per_day))
    toy.trainer = trainer = AbsentTrainer(path / "models", absent=absent)
    toy.calls(100, turned=False)
    toy.calls(100, turned=True)
    return toy, trainer


def reasons(gateway: RememberingGateway) -> list[str]:
    return [move["reason"] for move in gateway.ledger]


@pytest.mark.parametrize("error", [TrainerBusy, TrainerUnavailable])
async def test_no_attempt_and_no_job_of_the_day_is_spent(
    tmp_path: Path, error: type[TrainerBusy | TrainerUnavailable]
) -> None:
    toy, trainer = degraded(tmp_path, absent=5, jobs_per_day=1)
    trainer.error = error
    monitor = toy.start()
    for _ in range(6):
        await work(toy, monitor)
        toy.now_s += 60 * MINUTE_S
    await monitor.close()
    put_off = [move for move in toy.gateway.ledger if move["reason"] == "training_put_off"]
    assert [move["evidence"]["cause"] for move in put_off] == [error.reason] * 5
    tries = {move["evidence"]["attempt"] for move in toy.gateway.ledger if move["reason"] == "retrain"}
    assert (trainer.asked, tries, len(trainer.jobs)) == (6, {1}, 1)
    assert (toy.gateway.version, reasons(toy.gateway)[-1]) == (2, "settled")


async def test_it_is_asked_for_again_only_when_the_wait_is_over_and_over_a_restart(tmp_path: Path) -> None:
    toy, trainer = degraded(tmp_path, absent=1)
    first = toy.start()
    await work(toy, first)
    toy.now_s += 0.9 * MINUTE_S
    await work(toy, first)
    await first.close()
    second = toy.start()
    await work(toy, second)
    assert (trainer.asked, reasons(toy.gateway)[-1]) == (1, "training_put_off")
    toy.now_s += 0.2 * MINUTE_S
    await work(toy, second)
    await second.close()
    assert (trainer.asked, toy.gateway.version) == (2, 2)


async def test_a_human_is_asked_once_and_may_have_it_tried_at_once(tmp_path: Path) -> None:
    toy, trainer = degraded(tmp_path, absent=4)
    monitor = toy.start()
    for _ in range(4):
        await work(toy, monitor)
        toy.now_s += 60 * MINUTE_S
    asked = [move["evidence"]["cause"] for move in toy.gateway.ledger if move["reason"] == "human_asked"]
    assert (asked, trainer.asked) == (["trainer_unavailable"], 4)
    toy.now_s -= 60 * MINUTE_S
    await work(toy, monitor)
    assert trainer.asked == 4, "the wait is not over"
    toy.gateway.said = Review("7", "retrain")
    await work(toy, monitor)
    await monitor.close()
    assert (trainer.asked, toy.gateway.version) == (5, 2)


def test_waits_double_up_to_an_hour_and_do_not_outlive_a_clock_that_was_set_back() -> None:
    course, waits = Course(model="risk", version=1), []
    for _ in range(20):
        course.put_off(0)
        waits.append(course.not_before_ms // 60_000)
    assert waits[:8] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert waits[-1] == 60
    assert course.waits_for_trainer(1)
    assert not course.waits_for_trainer(-1_000)
    assert not course.waits_for_trainer(course.not_before_ms)

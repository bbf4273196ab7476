"""A runner elsewhere, on a clock of our own."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from controlplane.retraining.runners.polled import JobState, JobStatus, PolledRunner
from controlplane.retraining.runners.publishing_trainer import PublishingTrainer
from controlplane.retraining.settings import TrainingSettings
from controlplane.retraining.trainer import TrainerUnavailable, TrainingError

from .training_fakes import DONE, RUNNING, Clock, RememberedJobs, job_in, leftovers, write_model


def trainer_of(tmp_path: Path, jobs: RememberedJobs, clock: Clock, timeout_s: float = 100.0) -> PublishingTrainer:
    runner = PolledRunner(jobs, timeout_s, 2.0, clock.sleep, clock.now_s)
    return PublishingTrainer(TrainingSettings(runner="webhook"), tmp_path / "models", runner)


async def test_a_job_is_asked_for_followed_and_published(tmp_path: Path) -> None:
    heard: list[Any] = []
    clock, jobs = Clock(), RememberedJobs([RUNNING, RUNNING, DONE], write_model(tmp_path / "1"))
    candidate = await trainer_of(tmp_path, jobs, clock).train(job_in(tmp_path), heard.append)
    assert candidate.facts["metric_rows"] == 5
    assert candidate.facts["runner"] == "webhook"
    assert heard == [{"epoch": 1}], "said once, however often it is read"
    assert clock.slept == [2.0, 2.0]
    assert jobs.ended == []


async def test_a_runner_that_is_down_is_asked_again_and_less_and_less_often(tmp_path: Path) -> None:
    clock, jobs = Clock(), RememberedJobs([DONE], write_model(tmp_path / "1"), unreachable=4)
    assert (await trainer_of(tmp_path, jobs, clock).train(job_in(tmp_path), lambda _: None)).version == 2
    assert clock.slept == [2.0, 4.0, 8.0, 16.0]


async def test_an_outage_while_it_trains_loses_nothing(tmp_path: Path) -> None:
    answers = [RUNNING, TrainerUnavailable("x"), TrainerUnavailable("x"), DONE]
    jobs = RememberedJobs(answers, write_model(tmp_path / "1"))
    assert (await trainer_of(tmp_path, jobs, Clock()).train(job_in(tmp_path), lambda _: None)).version == 2


@pytest.mark.parametrize(
    ("answers", "unreachable", "reason", "ended"),
    [
        ([DONE], 10**9, "trainer_unavailable", 0),
        ([TrainerUnavailable("x")], 0, "trainer_unavailable", 1),
        ([AttributeError("'str' object has no attribute 'get'")], 0, "trainer_unavailable", 1),
        ([RUNNING], 0, "training_timeout", 1),
        ([RUNNING, JobStatus(JobState.LOST)], 0, "job_lost", 0),
        ([JobStatus(JobState.FAILED)], 0, "training_failed", 0),
        ([JobStatus(JobState.FAILED, reason="training_out_of_memory")], 0, "training_out_of_memory", 0),
        ([DONE], 0, "output_invalid", 0),
    ],
    ids=["down", "gone", "odd", "late", "lost", "failed", "word", "empty"],
)
async def test_every_end_elsewhere_has_its_word_and_leaves_nothing(
    tmp_path: Path, answers: list[JobStatus | Exception], unreachable: int, reason: str, ended: int
) -> None:
    clock, jobs = Clock(), RememberedJobs(answers, None, unreachable)
    with pytest.raises(TrainingError) as raised:
        await trainer_of(tmp_path, jobs, clock).train(job_in(tmp_path), lambda _: None)
    assert raised.value.reason == reason
    assert len(jobs.ended) == ended, "what may still be running elsewhere is ended"
    assert leftovers(tmp_path / "models") == []
    assert clock.at_s <= 100.0


async def test_a_restarted_monitor_finds_the_job_that_it_asked_for(tmp_path: Path) -> None:
    jobs = RememberedJobs([RUNNING, KeyboardInterrupt()], write_model(tmp_path / "1"))  # type: ignore[list-item]
    with pytest.raises(KeyboardInterrupt):
        await trainer_of(tmp_path, jobs, Clock()).train(job_in(tmp_path), lambda _: None)
    jobs.answers = [DONE]
    assert (await trainer_of(tmp_path, jobs, Clock()).train(job_in(tmp_path), lambda _: None)).version == 2
    assert len(jobs.submitted) == 1


async def test_a_cancellation_that_a_library_lost_is_found(tmp_path: Path) -> None:
    class Deaf(RememberedJobs):
        async def status(self, job: str) -> JobStatus:
            if not asked.is_set():
                asked.set()
                with suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()
            return await super().status(job)

    asked = asyncio.Event()
    training = asyncio.create_task(trainer_of(tmp_path, Deaf([RUNNING]), Clock()).train(job_in(tmp_path), print))
    await asked.wait()
    training.cancel()
    with pytest.raises(asyncio.CancelledError):
        await training

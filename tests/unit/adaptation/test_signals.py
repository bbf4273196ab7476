"""What the sources read: calls, machine, replicas, and what other rooms know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from controlplane.adaptation.calls import ModelCalls, quantile
from controlplane.adaptation.machine import MACHINE, QUOTA, USAGE, CpuMeter
from controlplane.adaptation.replicas import ReplicaSignals
from controlplane.adaptation.settings import AdaptationSettings
from controlplane.adaptation.signals import GATEWAY, Sources, Subject
from controlplane.adaptation.states import BreakerSeen, Chosen, breakers, drift, selection

RISK, REPLICA = Subject("model", "risk"), Subject("replica", "vllm-0")
SETTINGS = AdaptationSettings(min_calls=10, memory_window_s=100.0)


def test_enough_calls_have_quantiles_and_a_share_of_errors() -> None:
    calls = ModelCalls(SETTINGS, lambda: ["risk"])
    for number in range(100):
        calls.answered("risk", number / 1000, 0.0)
    for _ in range(25):
        calls.failed("risk", 0.0)
    assert calls(10.0)[RISK] == {
        "calls": 125,
        "error_ratio": 0.2,
        "latency_p95_ms": pytest.approx(94.0),
        "latency_p99_ms": pytest.approx(98.0),
    }


@pytest.mark.parametrize(
    ("count", "ratio", "expected"), [(1, 0.95, 0), (20, 0.95, 18), (100, 0.95, 94), (100, 1.0, 99)]
)
def test_quantile_is_a_value_that_was_seen(count: int, ratio: float, expected: int) -> None:
    assert quantile([float(number) for number in range(count)], ratio) == expected


def test_too_few_calls_say_only_that_there_were_some_until_enough_have_come() -> None:
    calls = ModelCalls(SETTINGS, lambda: ["risk"])
    for _ in range(6):
        calls.answered("risk", 0.1, 0.0)
    assert calls(10.0)[RISK] == {"calls": 6}
    for _ in range(6):
        calls.answered("risk", 0.3, 10.0)
    assert calls(20.0)[RISK]["latency_p95_ms"] == pytest.approx(300.0)
    assert calls(30.0)[RISK] == {"calls": 0}, "each call is judged once"


def test_calls_that_are_too_few_for_too_long_are_forgotten() -> None:
    calls = ModelCalls(SETTINGS, list)
    for _ in range(9):
        calls.answered("risk", 9.0, 0.0)
    calls(70.0)
    calls.answered("risk", 0.1, 71.0)
    assert calls(80.0)[RISK] == {"calls": 1}


def test_flood_of_calls_is_bounded_and_its_newest_are_kept() -> None:
    calls = ModelCalls(SETTINGS, list)
    for number in range(5000):
        calls.answered("risk", 0.1 if number < 3000 else 0.9, 0.0)
    readings = calls(10.0)[RISK]
    assert readings["calls"] == 5000
    assert readings["latency_p95_ms"] == pytest.approx(900.0)


class Kernel:
    def __init__(self, **files: str) -> None:
        self.files = {QUOTA: "", USAGE: "", MACHINE: "cpu 0 0 0 0 0 0 0 0 0 0", **files}

    def __call__(self, path: str) -> str:
        if not self.files[path]:
            raise FileNotFoundError(path)
        return self.files[path]


def test_share_of_the_machine_between_two_readings() -> None:
    kernel = Kernel()
    kernel.files[MACHINE] = "cpu 100 0 100 800 0 0 0 0 50 0\ncpu0 1"
    meter = CpuMeter(kernel)
    assert meter(0.0) == {}
    kernel.files[MACHINE] = "cpu 150 0 125 810 15 0 0 0 90 0\ncpu0 1"  # 75 busy, 25 idle or waiting for a disk
    assert meter(10.0) == {GATEWAY: {"cpu_ratio": 0.75}}
    assert meter(20.0) == {}, "no tick has passed"


def test_container_is_measured_against_its_own_quota() -> None:
    kernel = Kernel(**{QUOTA: "50000 100000\n", USAGE: "usage_usec 1000000\nuser_usec 1\n"})
    meter = CpuMeter(kernel)
    meter(0.0)
    kernel.files[USAGE] = "usage_usec 5500000\nuser_usec 1\n"
    assert meter(10.0) == {GATEWAY: {"cpu_ratio": 0.9}}  # 4.5 of the 5 seconds that half a CPU has in ten


def test_container_without_a_quota_has_the_machine() -> None:
    kernel = Kernel(**{QUOTA: "max 100000\n"})
    meter = CpuMeter(kernel)
    kernel.files[MACHINE] = "cpu 0 0 0 10 0 0 0 0"
    meter(0.0)
    kernel.files[MACHINE] = "cpu 10 0 0 10 0 0 0 0"
    assert meter(1.0) == {GATEWAY: {"cpu_ratio": 1.0}}


def test_this_machine_can_be_read() -> None:
    meter = CpuMeter()
    meter(0.0)
    assert all(0 <= readings["cpu_ratio"] <= 1 for readings in meter(10.0).values())


@dataclass
class Replica:
    name: str = "vllm-0"
    models: tuple[str, ...] = ("risk",)
    kv_ratio: float | None = None
    gpu_ratio: float | None = None
    waiting: int | None = None
    rss_bytes: int | None = None
    is_progressing: bool | None = None


def test_model_is_as_full_as_its_fullest_replica_and_all_queues_are_its_queue() -> None:
    seen = [Replica("a", kv_ratio=0.2, waiting=3), Replica("b", kv_ratio=0.5, gpu_ratio=0.9, waiting=4), Replica("c")]
    found = ReplicaSignals(SETTINGS, lambda: seen)(0.0)
    assert found[RISK] == {"gpu_or_kv_ratio": 0.9, "waiting": 7}
    assert found[Subject("replica", "a")] == {"gpu_or_kv_ratio": 0.2, "waiting": 3}
    assert found[Subject("replica", "c")] == {}


def test_failed_checks_are_counted_in_a_row_and_silence_is_none() -> None:
    replica = Replica()
    signals, counts = ReplicaSignals(SETTINGS, lambda: [replica]), []
    for progressing in (None, False, False, None, False, True, False):
        replica.is_progressing = progressing
        counts.append(signals(0.0)[REPLICA].get("failed_checks"))
    assert counts == [None, 1, 2, 2, 3, 0, 1]


def growth_of(*sizes: tuple[float, int]) -> float | None:
    replica = Replica()
    signals, found = ReplicaSignals(SETTINGS, lambda: [replica]), None
    for at_s, replica.rss_bytes in sizes:
        found = signals(at_s)[REPLICA].get("memory_growth_ratio")
    return found


def test_growth_is_measured_over_a_whole_window() -> None:
    assert growth_of((0.0, 1000), (50.0, 1200), (100.0, 1400)) == pytest.approx(0.4)
    assert growth_of((0.0, 1000), (50.0, 1400), (150.0, 1540)) == pytest.approx(0.1)


def test_replica_that_is_still_loading_does_not_grow() -> None:
    assert growth_of((0.0, 10), (50.0, 9000), (99.0, 9000)) is None


def test_restart_begins_a_new_window() -> None:
    assert growth_of((0.0, 1000), (50.0, 100), (100.0, 1400)) is None
    assert growth_of((0.0, 1000), (50.0, 100), (150.0, 140)) == pytest.approx(0.4)


def test_replica_that_went_and_came_has_no_past() -> None:
    seen = [Replica(is_progressing=False)]
    signals = ReplicaSignals(SETTINGS, lambda: seen)
    signals(0.0)
    gone = seen.pop()
    signals(1.0)
    seen.append(gone)
    assert signals(2.0)[REPLICA]["failed_checks"] == 1


def test_model_has_an_open_breaker_when_one_of_its_versions_has() -> None:
    seen = [BreakerSeen("risk", "closed"), BreakerSeen("risk", "held"), BreakerSeen("tiny", "closed")]
    found = breakers(lambda: seen, lambda: ["risk", "other"])(0.0)
    assert {str(subject): readings["breaker_open"] for subject, readings in found.items()} == {
        "model:risk": 1,
        "model:tiny": 0,
        "model:other": 0,
    }


def test_drift_states_have_levels_and_unknown_words_none() -> None:
    found = drift(lambda: {"risk": "DEGRADED", "tiny": "HEALTHY", "odd": "WHATEVER"})(0.0)
    assert found == {RISK: {"drift_level": 3}, Subject("model", "tiny"): {"drift_level": 0}}


def test_every_state_of_drift_has_a_level() -> None:
    from controlplane.adaptation.states import DRIFT_LEVELS  # noqa: PLC0415  beside what it is compared with
    from controlplane.drift.states import State  # noqa: PLC0415  a room that adaptation may not import

    assert set(DRIFT_LEVELS) == {state.value for state in State}


def test_selection_says_who_is_under_review_and_that_others_are_well() -> None:
    found = selection(lambda: [Chosen("risk", 3, 0.12), Chosen("risk", 4, 0.11)], lambda: ["risk", "tiny"])(0.0)
    assert found == {
        RISK: {"chosen_in_a_row": 4, "accuracy_drop_ratio": 0.12},
        Subject("model", "tiny"): {"chosen_in_a_row": 0, "accuracy_drop_ratio": 0.0},
    }


def test_signals_of_one_subject_come_together_and_the_machines_are_everybodys() -> None:
    sources = Sources([lambda _: {GATEWAY: {"cpu_ratio": 0.5}}, lambda _: {RISK: {"calls": 1}},
                       lambda _: {RISK: {"waiting": 2}}])  # fmt: skip
    assert sources.read(0.0) == {GATEWAY: {"cpu_ratio": 0.5}, RISK: {"cpu_ratio": 0.5, "calls": 1, "waiting": 2}}


def test_broken_source_leaves_its_signals_unknown_and_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_now_s: float) -> Mapping[Subject, Mapping[str, float]]:
        raise OSError("no such file")

    sources = Sources([broken, lambda _: {RISK: {"calls": 1}}])
    assert sources.read(0.0) == sources.read(1.0) == {GATEWAY: {}, RISK: {"calls": 1}}
    assert len(caplog.records) == 1

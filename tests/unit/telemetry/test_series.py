"""Our own series are exposed exactly as the library's would be."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest

from controlplane.telemetry.series import Counter, Gauge, Histogram

BOUNDS = (0.1, 1, 10)
OBSERVED = (0.05, 0.1, 0.5, 10, 10.5)


def exposed(*metrics: Any) -> bytes:
    registry = CollectorRegistry()
    for metric in metrics:
        registry.register(metric)
    return generate_latest(registry)


@pytest.fixture(autouse=True)
def without_the_times_of_birth() -> None:
    prometheus_client.disable_created_metrics()


def test_everything_is_exposed_as_the_library_exposes_it() -> None:
    theirs = (
        prometheus_client.Counter("asked_total", "Asked.", ("who",), registry=None),
        prometheus_client.Gauge("running", "Running.", ("who",), registry=None),
        prometheus_client.Histogram("took_seconds", "Took.", ("who",), buckets=BOUNDS, registry=None),
    )
    ours = (
        Counter("asked_total", "Asked.", ("who",)),
        Gauge("running", "Running.", ("who",)),
        Histogram("took_seconds", "Took.", ("who",), BOUNDS),
    )
    for counter, gauge, histogram in (theirs, ours):
        for who in ("a", 'b"\n'):
            counter.labels(who).inc()
            counter.labels(who).inc(2.5)
            gauge.labels(who).inc()
            gauge.labels(who).dec()
            gauge.labels(who).set(7)
            for value in OBSERVED:
                histogram.labels(who).observe(value)
    assert exposed(*ours) == exposed(*theirs)


def test_what_has_no_labels_is_exposed_before_anything_was_observed() -> None:
    theirs = (
        prometheus_client.Counter("asked_total", "Asked.", registry=None),
        prometheus_client.Gauge("running", "Running.", registry=None),
        prometheus_client.Histogram("took_seconds", "Took.", buckets=BOUNDS, registry=None),
    )
    ours = (
        Counter("asked_total", "Asked.", ()),
        Gauge("running", "Running.", ()),
        Histogram("took_seconds", "Took.", (), BOUNDS),
    )
    assert exposed(*ours) == exposed(*theirs)


def test_an_example_stands_beside_its_bucket() -> None:
    ours = Histogram("took_seconds", "Took.", (), BOUNDS)
    ours.labels().observe(0.5, {"trace_id": "abc"})
    assert b'le="1.0"} 1.0 # {trace_id="abc"} 0.5' in exposed(ours)


def test_a_counter_only_goes_up() -> None:
    with pytest.raises(ValueError, match="only goes up"):
        Counter("asked_total", "Asked.", ()).labels().inc(-1)


@pytest.fixture
def restless_threads() -> Iterator[None]:
    """Threads take turns as often as the interpreter lets them."""
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before_s)


@pytest.mark.usefixtures("restless_threads")
def test_no_observation_of_any_thread_is_lost_and_a_scrape_sees_whole_ones() -> None:
    counter, gauge, histogram = Counter("a_total", "A.", ()), Gauge("b", "B.", ()), Histogram("c", "C.", (), BOUNDS)
    count, level, spread = counter.labels(), gauge.labels(), histogram.labels()
    each, threads = 40_000, 4

    def tell() -> None:
        for _ in range(each):
            count.inc()
            level.inc(2.0)
            level.dec()
            spread.observe(2.0)

    def scrape() -> None:
        buckets, total = spread.read()
        assert total == 2.0 * buckets[-1][1]

    with ThreadPoolExecutor(threads) as pool:
        telling = [pool.submit(tell) for _ in range(threads)]
        while not all(one.done() for one in telling):
            scrape()
    assert [one.exception() for one in telling] == [None] * threads
    assert count.value == level.value == spread.read()[0][-1][1] == each * threads

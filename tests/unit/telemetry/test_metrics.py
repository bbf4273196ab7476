"""Metrics: what is observed is exposed, labels stay bounded, and nothing that breaks reaches the caller."""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Iterable
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from controlplane.telemetry.inventory import PREFIX
from controlplane.telemetry.metrics import Metrics
from controlplane.telemetry.settings import LabelCaps


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(PREFIX + name, labels)


def finish(metrics: Metrics, *, tenant: str = "acme", **over: Any) -> None:
    call: dict[str, Any] = {"door": "openai", "resource_kind": "model", "outcome": "ok", "duration_s": 0.3} | over
    metrics.observe_outcome(tenant=tenant, **call)


def test_an_admitted_call_is_in_flight_until_its_outcome() -> None:
    metrics = Metrics()
    metrics.observe_admitted(door="openai", overhead_s=0.002)
    assert value(metrics, "calls_inflight", door="openai") == 1
    finish(metrics)
    assert value(metrics, "calls_inflight", door="openai") == 0
    labels = {"tenant": "acme", "door": "openai", "resource_kind": "model", "effect": "allow", "outcome": "ok"}
    assert value(metrics, "calls_total", **labels) == 1
    assert value(metrics, "gateway_overhead_seconds_count", door="openai") == 1


def test_a_refusal_is_no_failure() -> None:
    metrics = Metrics()
    metrics.observe_refused(tenant="acme", door="mcp", resource_kind="tool")
    labels = {"tenant": "acme", "door": "mcp", "resource_kind": "tool", "effect": "deny", "outcome": "refused"}
    assert value(metrics, "calls_total", **labels) == 1
    assert value(metrics, "call_duration_seconds_count", door="mcp", resource_kind="tool") is None


def test_tenants_over_the_cap_are_counted_together() -> None:
    metrics = Metrics(caps=LabelCaps(tenant=2))
    for tenant in ("a", "b", "c", "d", "a"):
        metrics.observe_rate_limited(tenant=tenant, limit="requests")
    assert value(metrics, "rate_limited_total", tenant="a", limit="requests") == 2
    assert value(metrics, "rate_limited_total", tenant="c", limit="requests") is None
    assert value(metrics, "rate_limited_total", tenant="_other", limit="requests") == 2
    assert value(metrics, "metric_label_overflow_total", label="tenant") == 2


def test_a_flood_of_names_stays_within_the_series_budget() -> None:
    """Whatever callers invent, a registry stays small enough to scrape: the default caps' budget for one family."""
    metrics = Metrics()
    for number in range(5000):
        name = f"name-{number}"
        finish(metrics, tenant=name, door=name, resource_kind=name, outcome=name, reason=name)
        metrics.observe_tokens(tenant=name, model=name, input_tokens=1, output_tokens=1)
        metrics.observe_breaker(upstream=name, state="open")
        metrics.observe_unauthenticated(name * 50)
    series = sum(len(family.samples) for family in metrics.registry.collect())
    assert series < 3000


def test_an_overlong_value_gets_no_series_of_its_own() -> None:
    metrics = Metrics()
    metrics.observe_unauthenticated("x" * 129)
    assert value(metrics, "unauthenticated_total", reason="_other") == 1


def test_a_breaker_is_in_one_state_and_begins_closed() -> None:
    metrics = Metrics()
    for state in ("closed", "closed", "open", "half_open", "closed"):
        metrics.observe_breaker(upstream="risk", state=state)
    states = {s: value(metrics, "breaker_state", upstream="risk", state=s) for s in ("closed", "open", "half_open")}
    assert states == {"closed": 1, "open": 0, "half_open": 0}
    assert value(metrics, "breaker_transitions_total", upstream="risk", to="closed") == 1
    assert value(metrics, "breaker_transitions_total", upstream="risk", to="open") == 1


def test_a_breaker_that_is_first_heard_of_when_it_opens_has_moved() -> None:
    metrics = Metrics()
    metrics.observe_breaker(upstream="risk", state="open")
    assert value(metrics, "breaker_transitions_total", upstream="risk", to="open") == 1


def test_a_checkpoint_told_twice_is_no_newer() -> None:
    """Or an alert on a ledger that stands still could never fire."""
    metrics = Metrics()
    metrics.observe_checkpoint(tree_size=0, now_s=10.0)
    metrics.observe_checkpoint(tree_size=5, now_s=20.0)
    metrics.observe_checkpoint(tree_size=5, now_s=30.0)
    assert value(metrics, "ledger_checkpoint_timestamp_seconds") == 20
    assert value(metrics, "ledger_tree_size_entries") == 5


def test_a_broken_change_that_is_taken_back_is_no_longer_stale() -> None:
    metrics = Metrics()
    metrics.observe_policy_loaded(revision="a" * 64, now_s=10.0)
    metrics.observe_policy_reload_failed()
    metrics.observe_policy_sound()
    assert value(metrics, "policy_stale") == 0
    assert value(metrics, "policy_loaded_timestamp_seconds") == 10


def test_a_crowd_of_upstreams_is_in_no_state() -> None:
    metrics = Metrics(caps=LabelCaps(upstream=1))
    metrics.observe_breaker(upstream="one", state="closed")
    metrics.observe_breaker(upstream="two", state="open")
    assert value(metrics, "breaker_state", upstream="_other", state="open") is None


def test_policy_info_names_only_the_revision_in_force() -> None:
    metrics = Metrics()
    metrics.observe_policy_reload_failed()
    assert value(metrics, "policy_loaded") == 0
    metrics.observe_policy_loaded(revision="a" * 64, now_s=10.0)
    metrics.observe_policy_loaded(revision="b" * 64, now_s=20.0)
    metrics.observe_policy_reload_failed()
    assert value(metrics, "policy_info", revision="a" * 12) is None
    assert value(metrics, "policy_info", revision="b" * 12) == 1
    assert value(metrics, "policy_loaded") == 1
    assert value(metrics, "policy_stale") == 1
    assert value(metrics, "policy_loaded_timestamp_seconds") == 20


def test_the_inventory_is_what_is_exposed() -> None:
    metrics = Metrics()
    exercise(metrics)
    exposed = {
        sample.name: set(sample.labels)
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name.startswith(PREFIX)
    }
    declared = {name: set(labels) for info in metrics.inventory().values() for name, labels in info.samples().items()}
    assert exposed == declared


def test_every_metric_has_a_unit_or_is_a_count_and_a_sentence() -> None:
    for info in Metrics().inventory().values():
        assert info.help.endswith("."), info
        assert info.name.endswith("_total") == (info.type == "counter"), info
        if info.type == "histogram":
            assert info.name.endswith("_seconds"), info
        assert not {"subject", "call_id", "session", "path"} & set(info.labels), info


def arguments_for(observe: Any) -> dict[str, Any]:
    samples = {"str": "x", "float": 1.0, "int": 1, "float | None": 1.0, "int | None": 1, "bool": True}
    return {name: samples[p.annotation] for name, p in inspect.signature(observe).parameters.items()}


def exercise(metrics: Metrics) -> None:
    """Call every ``observe_`` method once, so that every metric has a series."""
    for name, observe in inspect.getmembers(metrics, inspect.ismethod):
        if name.startswith("observe_"):
            observe(
                **arguments_for(observe) | {"trace_id": ""} if name == "observe_outcome" else arguments_for(observe)
            )
    metrics.observe_unauthenticated("y" * 200)
    metrics.observe_breaker(upstream="x", state="y")
    metrics.broke("test", ValueError("seen"))


def test_a_broken_registry_never_breaks_a_call(caplog: pytest.LogCaptureFixture) -> None:
    """Every metric object of ours is taken away; observing goes on silently, and says so once."""
    metrics = Metrics()
    for name in vars(metrics):
        if name not in {"registry", "_complained", "_inventory"}:
            setattr(metrics, name, None)
    with caplog.at_level(logging.ERROR):
        exercise(metrics)
        exercise(metrics)
    assert [record.getMessage() for record in caplog.records].count("telemetry broke; calls go on") == 2  # two parts


def test_a_break_is_counted() -> None:
    metrics = Metrics()
    metrics.observe_orphan_intents(-1)  # a counter cannot go down
    assert value(metrics, "telemetry_failures_total", part="metrics") == 1


async def test_exposition_is_rendered_off_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics(component="gateway", version="1.2.3")
    threads: list[int] = []
    collect = metrics.registry.collect

    def watched() -> Iterable[Metric]:
        threads.append(threading.get_ident())
        return collect()

    monkeypatch.setattr(metrics.registry, "collect", watched)
    body, content_type = await metrics.exposition()
    assert content_type.startswith("text/plain")
    assert threads
    assert threading.get_ident() not in threads
    families = {family.name for family in text_string_to_metric_families(body.decode())}
    assert "controlplane_build_info" in families
    assert "process_resident_memory_bytes" in families


async def test_a_kept_trace_becomes_an_exemplar_in_open_metrics() -> None:
    metrics = Metrics()
    finish(metrics, trace_id="0af7651916cd43dd8448eb211c80319c")
    body, content_type = await metrics.exposition("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert b'# {trace_id="0af7651916cd43dd8448eb211c80319c"}' in body
    assert b"_created" not in body

"""A real Prometheus scrapes a running exposition, and every query of the board finds something in it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from controlplane.telemetry.asgi import MetricsEndpoint
from controlplane.telemetry.metrics import Metrics
from tests.real.prometheus_server import PANELS, Prometheus, scraping, substituted

pytestmark = pytest.mark.real("prometheus")

ROOT = Path(__file__).parents[2]
SCRAPED_TIMES = 4


def exercise(metrics: Metrics) -> None:
    """One of everything, as a short and eventful life of gateway and monitor would leave it."""
    call = {"tenant": "acme", "door": "openai", "resource_kind": "model"}
    for outcome, reason in (("ok", ""), ("error", "refused"), ("timeout", "deadline"), ("cancelled", "")):
        metrics.observe_decision(effect="allow", reason="rule_allowed", duration_s=0.0002)
        metrics.observe_admitted(door="openai", overhead_s=0.003)
        metrics.observe_outcome(**call, outcome=outcome, duration_s=0.4, reason=reason)
    metrics.observe_refused(**call)
    metrics.observe_unauthenticated("expired")
    metrics.observe_unadmitted(door="openai", reason="ledger_unavailable")
    metrics.observe_tokens(tenant="acme", model="small", input_tokens=10, output_tokens=20)
    metrics.observe_first_token(model="small", duration_s=0.2)
    metrics.observe_rate_limited(tenant="acme", limit="model")
    metrics.observe_fallback(model="small", rung="cache")
    metrics.observe_policy_loaded(revision="ab" * 32, now_s=time.time())
    metrics.observe_policy_reload_failed()
    for state in ("closed", "open"):
        metrics.observe_breaker(upstream="small", state=state)
    metrics.observe_append(kind="intent", duration_s=0.004)
    metrics.observe_append_failed("disk_full")
    metrics.observe_checkpoint(tree_size=9, now_s=time.time())
    metrics.observe_drift_state(model="risk/1", state="DEGRADED")
    metrics.observe_verdict(model="risk/1", verdict="degraded")
    metrics.observe_retraining_started()
    metrics.observe_retraining_ended(model="risk", outcome="succeeded")
    metrics.observe_promotion(model="risk", outcome="promoted")
    metrics.observe_monitor_pass(observations=5, now_s=time.time())
    loaded(metrics)
    metrics.observe_spans_dropped(1, reason="queue_full")
    metrics.observe_unauthenticated("x" * 200)
    metrics.broke("tracing", ValueError("seen"))


def loaded(metrics: Metrics) -> None:
    """What replicas, gates, shadows, the choice, money and saved answers leave."""
    metrics.observe_replica(backend="vllm", replica="a:1", is_ready=False, in_flight=3, waiting=1, kv_ratio=0.5)
    metrics.observe_gate(gate="small", limit=8, running=8, waiting=2)
    metrics.observe_waited(gate="small", duration_s=0.2)
    metrics.observe_shed(gate="small", cause="line_full")
    metrics.observe_adaptation(rule="kv.throttle", target="model:small", level=1, direction="up")
    metrics.observe_shadow("risk", "answered", 5, 4)
    metrics.observe_selection(model="small", why="best")
    metrics.observe_feedback(model="small", score=0.5)
    metrics.observe_selection_reviews(1)
    metrics.observe_drift_report(model="risk", outcome="made")
    metrics.observe_drift_evidence(model="risk", detector="error", ratio=0.4)
    metrics.observe_behaviour(rule="slow.down", answer="throttle", mode="enforce", change="begins")
    metrics.observe_behaviour_memory(agents=3, unknown_rules=0)
    metrics.observe_playbook(playbook="wake", result="done")
    metrics.observe_playbook_left(playbook="wake", left=2)
    metrics.observe_breakers_shared(False)
    metrics.observe_observation_dropped(reason="overwritten")
    metrics.observe_guarded_rows(model="risk", sound=9, violating=1)
    metrics.observe_rows_skipped(model="risk", reason="over_share", count=2)
    for event in ("hit", "miss", "store"):
        metrics.observe_response_cache("small", event)
    metrics.observe_response_cache_bytes(100)
    metrics.observe_shared_cache_failed("timeout")
    metrics.observe_cost(tenant="acme", model="small", micro_usd=7, saved_micro_usd=3, energy_uwh=9)
    metrics.observe_budget_use(tenant="acme", budget="subject/day", ratio=0.5)
    metrics.observe_budget_warning(tenant="acme", budget="subject/day")
    metrics.observe_approval("asked")
    metrics.observe_approvals_waiting(1, 20.0)


@dataclass(frozen=True)
class Scraped:
    """Where metrics are, and how to make more of them; ``stir`` MUST leave every metric with a series."""

    url: str
    stir: Callable[[], None]


@pytest.fixture(scope="module")
def scraped() -> Generator[Scraped]:
    """What Prometheus scrapes: CONTROLPLANE_METRICS_URL when it is set, else an exposition that this test exercises."""
    given = os.environ.get("CONTROLPLANE_METRICS_URL")
    if given:
        yield Scraped(given, lambda: None)
        return
    metrics = Metrics(component="gateway", version="test")
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(MetricsEndpoint(metrics), log_config=None, access_log=False, lifespan="off"))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        exercise(metrics)
        yield Scraped(f"http://127.0.0.1:{listening.getsockname()[1]}/metrics", lambda: exercise(metrics))
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


@pytest.fixture(scope="module")
def prometheus(scraped: Scraped, tmp_path_factory: pytest.TempPathFactory) -> Generator[Prometheus]:
    with scraping([scraped.url], tmp_path_factory.mktemp("prometheus")) as running:
        running.wait_for_scrapes(SCRAPED_TIMES - 2)
        scraped.stir()
        running.wait_for_scrapes(SCRAPED_TIMES)
        yield running


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_every_query_of_a_panel_finds_something(prometheus: Prometheus, panel: dict[str, Any]) -> None:
    empty = [target["expr"] for target in panel["targets"] if not prometheus.query(substituted(target["expr"]))]
    assert not empty


def test_the_rules_are_loaded_and_evaluate_without_error(prometheus: Prometheus) -> None:
    rules = [rule for group in prometheus.get("api/v1/rules")["groups"] for rule in group["rules"]]
    assert len(rules) > 20
    assert [rule["name"] for rule in rules if rule["health"] == "err"] == []


def test_a_real_scrape_makes_alerts_fire(prometheus: Prometheus) -> None:
    """The exercised registry lost spans, broke a breaker and a model: its alerts are at least pending."""
    prometheus.wait_until(lambda: prometheus.alerts().get("ControlplaneModelDegraded") == "firing")
    prometheus.wait_until(lambda: "ControlplaneBreakerOpen" in prometheus.alerts())
    assert "ControlplaneNoPolicy" not in prometheus.alerts()


def test_the_target_is_healthy_and_nothing_was_dropped(prometheus: Prometheus) -> None:
    (target,) = prometheus.get("api/v1/targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")


def test_promtool_finds_no_fault_in_the_exposition(scraped: Scraped) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")
    with urllib.request.urlopen(
        urllib.request.Request(scraped.url, headers={"Accept": "text/plain"}), timeout=60
    ) as page:
        body = page.read()
    run = subprocess.run([promtool, "check", "metrics"], input=body, capture_output=True, check=False)
    assert run.returncode == 0, run.stderr.decode()

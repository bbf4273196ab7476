"""A real Prometheus scrapes a running exposition, and every query of the board finds something in it."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import yaml

from controlplane.telemetry.asgi import MetricsEndpoint
from controlplane.telemetry.metrics import Metrics

pytestmark = pytest.mark.real("prometheus")

ROOT = Path(__file__).parents[2]
BOARD = json.loads((ROOT / "dashboards" / "overview.json").read_text("utf-8"))
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
SCRAPED_TIMES = 4
PATIENCE_S = 30.0


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
    metrics.observe_spans_dropped(1, reason="queue_full")
    metrics.observe_unauthenticated("x" * 200)
    metrics.broke("tracing", ValueError("seen"))


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


class Prometheus:
    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **query: str) -> Any:
        address = f"{self.url}/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(error.read().decode()) from None

    def query(self, expression: str) -> list[dict[str, Any]]:
        return list(self.get("api/v1/query", query=expression)["result"])

    def scrapes(self) -> int:
        found = self.query("sum(count_over_time(up[1h]))")
        return int(found[0]["value"][1]) if found else 0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up:
        assert process.poll() is None, "prometheus ended"
        try:
            if ready():
                return
        except (OSError, AssertionError):
            pass  # not listening yet
        time.sleep(0.1)  # a foreign process has no event to wait for
    pytest.fail("prometheus did not get ready")


@pytest.fixture(scope="module")
def prometheus(scraped: Scraped, tmp_path_factory: pytest.TempPathFactory) -> Generator[Prometheus]:
    binary = shutil.which("prometheus")
    if binary is None:
        pytest.skip("prometheus is not installed (Debian package prometheus)")
    folder = tmp_path_factory.mktemp("prometheus")
    where = urllib.parse.urlsplit(scraped.url)
    job = {"job_name": "controlplane", "metrics_path": where.path, "static_configs": [{"targets": [where.netloc]}]}
    settings = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "scrape_configs": [job],
        "rule_files": [str(ROOT / "dashboards" / "rules.yml")],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    port = free_port()
    command = [
        binary,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--enable-feature=exemplar-storage",
        "--log.level=error",
    ]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        running = Prometheus(f"http://127.0.0.1:{port}")
        try:
            wait_until(lambda: running.scrapes() >= SCRAPED_TIMES - 2, process)
            scraped.stir()
            wait_until(lambda: running.scrapes() >= SCRAPED_TIMES, process)
            yield running
        finally:
            process.terminate()
            process.wait(10)


def substituted(expression: str) -> str:
    expression = re.sub(r"\$__(rate_interval|range)", "1m", expression)
    return expression.replace("$tenant", ".*")


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
    states = {alert["labels"]["alertname"]: alert["state"] for alert in prometheus.get("api/v1/alerts")["alerts"]}
    assert states.get("ControlplaneModelDegraded") == "firing"
    assert "ControlplaneBreakerOpen" in states
    assert "ControlplaneNoPolicy" not in states


def test_the_target_is_healthy_and_nothing_was_dropped(prometheus: Prometheus) -> None:
    (target,) = prometheus.get("api/v1/targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")


def test_promtool_finds_no_fault_in_the_exposition(scraped: Scraped) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")
    with urllib.request.urlopen(
        urllib.request.Request(scraped.url, headers={"Accept": "text/plain"}), timeout=5
    ) as page:
        body = page.read()
    run = subprocess.run([promtool, "check", "metrics"], input=body, capture_output=True, check=False)
    assert run.returncode == 0, run.stderr.decode()

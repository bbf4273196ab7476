"""The whole story, told against the running gateway and monitor while a real Prometheus scrapes both."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from examples.demo.__main__ import tell
from examples.demo.cast import start_all
from examples.demo.parts import Parts
from examples.demo.stage import Stage
from examples.demo.terminal import Terminal
from tests.real.prometheus_server import PANELS, Prometheus, scraping, substituted

pytestmark = pytest.mark.real("prometheus")

NOT_IN_THE_STORY = {
    "Failed calls": "every call is answered in it, by a fallback if need be",
    "Failures by cause": "as above",
    "First token": "no language model in it",
    "Tokens": "no language model in it",
    "Telemetry's own losses": "telemetry loses nothing in it",
    "Turned away by our own faults": "ledger and identity stay well in it",
    "Waiting and failing": "every append succeeds in it",
}

SILENT_IN_THE_STORY = {
    "controlplane_behaviour_findings_total": "every agent in it behaves as rules allow",
    "controlplane_breakers_shared": "one gateway shares nothing",
    "controlplane_adaptation": "no rule of adaptation has to act in it, unless the machine is full",
    "controlplane_budget": "nobody in it has a budget",
    "controlplane_cost_saved_usd_total": "no answer in it is saved, and no model has a price",
    "controlplane_drift_evidence_ratio": "told every quarter of a minute, and the story may be over before",
    "controlplane_energy_joules_total": "no model in it has an energy factor",
    "controlplane_feedback": "nobody in it judges an answer",
    "controlplane_guarded_rows_total": "no model in it has opted into the row guard",
    "controlplane_overload": "nobody in it has to wait",
    "controlplane_playbook": "no playbook is set in it",
    "controlplane_replica_kv_cache_ratio": "only vLLM says it",
    "controlplane_replica_ready": "asked for those that are not ready, of which there are none for long",
    "controlplane_replica_waiting_calls": "only vLLM says it",
    "controlplane_response_cache": "no rule in it gives leave to save answers",
    "controlplane_selections_total": "nobody in it leaves the choice of a model to us",
    "controlplane_shadow": "no version in it is copied to",
}
"""Metrics by the beginnings of their names; each is shown by its room's own tests."""


@pytest.fixture(scope="module")
async def observed(one_loop: None, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Prometheus]:
    folder: Path = tmp_path_factory.mktemp("story")
    stage, terminal = Stage(folder / "stage"), Terminal()
    stage.set_up(terminal)
    urls = [f"http://127.0.0.1:{port}/metrics" for port in (stage.metrics, stage.monitor_metrics)]
    with Parts(stage.folder) as parts:
        start_all(parts, stage, terminal)
        with scraping(urls, folder) as running:
            running.wait_for_scrapes(2)
            await tell(stage, parts, terminal)
            running.wait_until(lambda: bool(running.query("controlplane_drift_reports_total")))  # slower than the story
            running.wait_for_scrapes(running.scrapes() + 3)
            assert not terminal.failed
            yield running


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_every_panel_shows_what_happened(observed: Prometheus, panel: dict) -> None:
    answers = {target["expr"]: observed.query(substituted(target["expr"])) for target in panel["targets"]}
    if panel["title"] not in NOT_IN_THE_STORY:
        silent = [expression for expression, series in answers.items() if not series]
        assert [one for one in silent if not any(name in one for name in SILENT_IN_THE_STORY)] == []


def test_the_rules_evaluate_on_the_running_product(observed: Prometheus) -> None:
    rules = [rule for group in observed.get("api/v1/rules")["groups"] for rule in group["rules"]]
    assert [rule["name"] for rule in rules if rule["health"] == "err"] == []


def test_the_loop_can_be_read_off_the_metrics(observed: Prometheus) -> None:
    promoted = observed.query('sum(controlplane_promotions_total{model="risk",outcome="won"})')
    assert promoted[0]["value"][1] == "1"
    served = observed.query('sum by (rung) (controlplane_fallback_answers_total{model="risk"})')
    assert {series["metric"]["rung"] for series in served} == {"cache", "lighter"}

"""Every query of the board and of the rules parses, and every metric and label in it is one that the code exposes."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from controlplane.telemetry.metrics import Metrics

DASHBOARDS = Path(__file__).parents[2] / "dashboards"
BOARD = json.loads((DASHBOARDS / "overview.json").read_text("utf-8"))
RULES = yaml.safe_load((DASHBOARDS / "rules.yml").read_text("utf-8"))
RULE_TESTS = yaml.safe_load((DASHBOARDS / "rules_test.yml").read_text("utf-8"))

FROM_SCRAPING = {"job", "instance"}
FOREIGN = {"process_start_time_seconds": frozenset[str]()}  # the process collector's


@cache
def known_series() -> dict[str, frozenset[str]]:
    ours = {name: labels for info in Metrics().inventory().values() for name, labels in info.samples().items()}
    recorded = {rule["record"]: frozenset[str]() for rule in rules() if "record" in rule}
    return ours | recorded | FOREIGN


def rules() -> Iterator[dict[str, Any]]:
    for group in RULES["groups"]:
        yield from group["rules"]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def panels() -> list[dict[str, Any]]:
    return [panel for panel in BOARD["panels"] if panel["type"] != "row"]


def substituted(expression: str) -> str:
    """A panel's query as Grafana sends it."""
    expression = re.sub(r"\$__(rate_interval|range)", "5m", expression)
    return expression.replace("$tenant", ".*")


QUERIES = {
    **{f"panel {p['title']} {t['refId']}": substituted(t["expr"]) for p in panels() for t in p["targets"]},
    **{f"rule {rule.get('alert') or rule['record']}": rule["expr"] for rule in rules()},
}


def faults_in(query: str, series: dict[str, frozenset[str]]) -> list[str]:
    """Unknown metrics, and labels that the metrics they stand on do not have."""
    faults: list[str] = []
    named: set[str] = set()

    def visit(node: Any) -> None:
        if not isinstance(node, promql_parser.VectorSelector):
            return
        named.add(node.name or "")
        if node.name not in series:
            faults.append(f"no metric {node.name}")
            return
        labels = series[node.name] | FROM_SCRAPING
        faults.extend(f"{node.name} has no label {m.name}" for m in node.matchers.matchers if m.name not in labels)

    promql_parser.walk(promql_parser.parse(query), visit)
    anywhere = FROM_SCRAPING.union(*(series.get(name, frozenset()) for name in named))
    grouped = re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", query)
    wanted = {label.strip() for group in grouped for label in group.split(",")} - {""}
    faults.extend(f"no metric here has the label {label}" for label in sorted(wanted - anywhere))
    return faults


@pytest.mark.parametrize("name", QUERIES)
def test_every_metric_and_label_exists(name: str) -> None:
    assert not faults_in(QUERIES[name], known_series())


@pytest.mark.parametrize(
    "query",
    [
        "sum(rate(controlplane_call_total[5m])) or vector(0)",  # misspelt, and hidden by the vector
        'controlplane_breaker_state{stat="open"}',
        "sum by (tenat) (controlplane_calls_total)",
        "controlplane_call_duration_seconds",  # a histogram has no series of its bare name
    ],
)
def test_a_misspelt_query_is_found(query: str) -> None:
    assert faults_in(query, known_series())


def test_every_metric_is_shown_or_alerted_on() -> None:
    """A metric that nobody looks at is noise."""
    text = "\n".join(QUERIES.values())
    unseen = [name for name in Metrics().inventory() if not re.search(rf"\b{name}(_bucket|_sum|_count)?\b", text)]
    assert not unseen


def test_the_committed_board_is_the_generated_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(DASHBOARDS)  # as for the script, which stands there
    written = runpy.run_path(str(DASHBOARDS / "generate.py"))["rendered"]()
    assert written == (DASHBOARDS / "overview.json").read_text("utf-8")


def test_panels_say_what_they_are_and_know_no_data_source_by_name() -> None:
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in panels():
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            assert "$__interval" not in target["expr"]


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def test_every_variable_in_a_query_is_declared() -> None:
    declared = {variable["name"] for variable in BOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(BOARD["panels"])))
    assert used <= declared


def test_every_alert_has_a_severity_a_summary_and_a_page_in_the_runbook() -> None:
    headings = {line[3:] for line in (DASHBOARDS / "runbook.md").read_text("utf-8").splitlines() if line[:3] == "## "}
    assert headings == {alert["alert"] for alert in alerts()}
    for alert in alerts():
        assert alert["labels"]["severity"] in {"page", "ticket"}
        assert alert["annotations"]["summary"]
        assert alert["annotations"]["runbook_url"] == f"dashboards/runbook.md#{alert['alert'].lower()}"


def test_every_alert_is_shown_to_fire_and_not_to_fire() -> None:
    shown = [case for test in RULE_TESTS["tests"] for case in test["alert_rule_test"]]
    fires = {case["alertname"] for case in shown if case["exp_alerts"]}
    silent = {case["alertname"] for case in shown if not case["exp_alerts"]}
    assert fires == silent == {alert["alert"] for alert in alerts()}

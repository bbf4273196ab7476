# ruff: noqa: INP001  a script beside its output, not a package
"""Writes overview.json, the Grafana board. Run it after a change: ``python dashboards/generate.py``.

Plain Python; the panels are tables, in ``rows/``. A test compares the committed file with what this writes; other tests
parse every query, hold it against the product's metric inventory and run it in a real Prometheus. Grafana itself has
not seen it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rows import calls, choices, health, ledger, load, models, money, permission
from rows.panel import Panel

BOARD = Path(__file__).with_name("overview.json")
SCHEMA_VERSION = 39  # Grafana 11
COLUMNS = 24
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
ROWS = [row.ROW for row in (health, calls, permission, ledger, load, models, choices, money)]  # from above down


def target(index: int, query: str, legend: str) -> dict[str, Any]:
    return {
        "datasource": DATASOURCE,
        "expr": query.replace("{}", ""),
        "legendFormat": legend or "__auto",
        "refId": chr(ord("A") + index),
    }


def panel(number: int, what: Panel, x: int, y: int, height: int) -> dict[str, Any]:
    return {
        "id": number,
        "type": what.kind,
        "title": what.title,
        "description": what.description,
        "datasource": DATASOURCE,
        "gridPos": {"x": x, "y": y, "w": what.width, "h": height},
        "fieldConfig": {"defaults": {"unit": what.unit, "min": 0}, "overrides": []},
        "targets": [target(index, *query) for index, query in enumerate(what.queries)],
    }


def panels() -> list[dict[str, Any]]:
    laid: list[dict[str, Any]] = []
    y = 0
    for row in ROWS:
        laid.append(
            {
                "id": len(laid) + 1,
                "type": "row",
                "title": row.title,
                "collapsed": False,
                "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
                "panels": [],
            }
        )
        x, y = 0, y + 1
        height = 4 if all(each.kind == "stat" for each in row.panels) else 8
        for each in row.panels:
            if x + each.width > COLUMNS:
                x, y = 0, y + height
            laid.append(panel(len(laid) + 1, each, x, y, height))
            x += each.width
        y += height
    return laid


def variables() -> list[dict[str, Any]]:
    return [
        {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"},
        {
            "name": "tenant",
            "type": "query",
            "label": "Tenant",
            "datasource": DATASOURCE,
            "query": "label_values(controlplane_calls_total, tenant)",
            "includeAll": True,
            "allValue": ".*",
            "multi": True,
            "refresh": 2,
        },
    ]


def board() -> dict[str, Any]:
    return {
        "uid": "controlplane-overview",
        "title": "Control plane: overview",
        "tags": ["controlplane"],
        "timezone": "browser",
        "schemaVersion": SCHEMA_VERSION,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": variables()},
        "panels": panels(),
    }


def rendered() -> str:
    return json.dumps(board(), indent=2) + "\n"


if __name__ == "__main__":
    BOARD.write_text(rendered(), "utf-8")

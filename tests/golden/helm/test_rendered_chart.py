"""The rendered chart, kept as files: a change of a template shows its effect in review.

Rewrite with ``REWRITE_GOLDEN=1 python -m pytest tests/golden/helm`` and read the difference. What only copies other
files (policies, rules, board) and their checksums is left out; other tests compare those to the byte.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
CHART = ROOT / "helm" / "controlplane"
HERE = Path(__file__).parent
COPIED = ("-policies", "-dashboards")


def without_copies(each: dict[str, Any]) -> dict[str, Any]:
    if each["kind"] == "ConfigMap" and each["metadata"]["name"].endswith(COPIED):
        each["data"] = "(files)"
    if each["kind"] == "PrometheusRule":
        each["spec"] = "(rules)"
    template = each["spec"].get("template", {}) if isinstance(each.get("spec"), dict) else {}
    annotations = template.get("metadata", {}).get("annotations", {})
    for name in annotations:
        if name.startswith("checksum/"):
            annotations[name] = "(checksum)"
    for volume in template.get("spec", {}).get("volumes", []):
        if volume["name"] == "policies":
            volume["configMap"]["items"] = "(files)"
    return each


@pytest.mark.parametrize("name", ["dev", "prod", "gpu", "queue"])
def test_the_chart_renders_as_it_did(name: str) -> None:
    helm: Any = pytest.importorskip("helm_python", reason="helm-python-sdk is not installed (dev group)")
    values = yaml.safe_load((CHART / "examples" / f"values-{name}.yaml").read_text("utf-8"))
    files = helm.Chart.load(CHART).render(values, name="r1", namespace="agents")
    texts = [text for path, text in sorted(files.items()) if path.endswith(".yaml")]
    objects = [without_copies(each) for text in texts for each in yaml.safe_load_all(text) if each]
    rendered = yaml.safe_dump_all(objects, sort_keys=True, width=120)
    golden = HERE / f"{name}.yaml"
    if os.environ.get("REWRITE_GOLDEN"):
        golden.write_text(rendered, "utf-8")
    assert rendered == golden.read_text("utf-8")

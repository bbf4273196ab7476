"""The chart as the real Helm engine renders it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

CHART = Path(__file__).parents[3] / "helm" / "controlplane"

Render = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="session")
def helm() -> Any:
    return pytest.importorskip("helm_python", reason="helm-python-sdk is not installed (dev group)")


@pytest.fixture(scope="session")
def render(helm: Any) -> Render:
    chart = helm.Chart.load(CHART)

    def rendered(values: dict[str, Any]) -> list[dict[str, Any]]:
        files = chart.render(values, name="r1", namespace="agents")
        texts = [text for name, text in sorted(files.items()) if name.endswith(".yaml")]
        return [each for text in texts for each in yaml.load_all(text, Loader=yaml.CSafeLoader) if each]

    return rendered

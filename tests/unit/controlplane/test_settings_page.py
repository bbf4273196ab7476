"""``docs/SETTINGS.md`` is what the classes say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def generator() -> Any:
    spec = importlib.util.spec_from_file_location("generate_settings", ROOT / "docs/generate_settings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_as_the_classes_are(generator: Any) -> None:
    assert (ROOT / "docs/SETTINGS.md").read_text("utf-8") == generator.page(), "run: python docs/generate_settings.py"


@pytest.mark.parametrize(
    "row",
    [
        "| `server.http_port` | integer | `8080` |",
        "| `identity.issuer` | text | **required** |",
        "| `backends.NAME.base_url` | URL | **required** |",
        "| `telemetry.tracing.sample_ratio` | number | `0.05` |",
        "| `telemetry.metrics_port` | integer | `9465` |",
        "| `models[].watch.block_rows` | integer | `50` |",
    ],
)
def test_settings_of_every_depth_are_on_the_page(generator: Any, row: str) -> None:
    assert row in generator.page()

# ruff: noqa: INP001  a script beside its output, not a package
"""Writes the table of values into the chart's README, from the schema and the defaults: ``generate_readme.py``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).with_name("controlplane")
README = CHART / "README.md"
BEGIN, END = "<!-- values: begin -->\n", "<!-- values: end -->\n"


def rows(schema: dict[str, Any], defaults: Any, path: str = "") -> Iterator[str]:
    for name, inner in schema["properties"].items():
        if not isinstance(inner, dict) or name == "global":
            continue
        here = f"{path}.{name}".removeprefix(".")
        default = defaults[name]
        if inner.get("additionalProperties") is False:
            yield f"| **`{here}`** | | {inner['description']} |"
            yield from rows(inner, default, here)
        else:
            yield f"| `{here}` | `{json.dumps(default, ensure_ascii=False)}` | {inner['description']} |"


def table() -> str:
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    defaults = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    return "\n".join(["| value | default | what it is |", "|---|---|---|", *rows(schema, defaults), ""])


def rendered(readme: str) -> str:
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + table() + END + after


if __name__ == "__main__":
    README.write_text(rendered(README.read_text("utf-8")), "utf-8")

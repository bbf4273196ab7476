"""The option ``--config`` of the commands that read a settings file: the gateway's or the monitor's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


def _config(default: str, variable: str, text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False),
        default=Path(default),
        show_default=True,
        envvar=variable,
        help=text,
    )


GATEWAY_CONFIG = _config("controlplane.yaml", "CONTROLPLANE_CONFIG", "Settings file (YAML); see docs/SETTINGS.md.")
MONITOR_CONFIG = _config(
    "monitor.yaml", "CONTROLPLANE_MONITOR_CONFIG", "The monitor's settings file (YAML); see docs/SETTINGS.md."
)

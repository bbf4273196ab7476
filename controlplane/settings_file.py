"""A settings file, the gateway's or the monitor's: the option that names it, and where it says what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import click
from pydantic import ValidationError

Place = tuple[int | str, ...]


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


class Lines(Protocol):
    """A YAML document that knows on which line everything stands."""

    @property
    def name(self) -> str: ...
    @property
    def lines(self) -> Mapping[Place, int]: ...


def problems_of(error: ValidationError, document: Lines, variables: Mapping[Place, str] | None = None) -> list[str]:
    """Every fault, after the line of the file or the one of ``variables`` of the environment that it came from."""
    problems = []
    for fault in error.errors():
        place = fault["loc"]
        where = _variable(place, document, variables or {}) or _line(place, document)
        said = fault["msg"].removeprefix("Value error, ")
        problems.append(": ".join(filter(None, (where, ".".join(map(str, place)), said))))
    return problems


def _ways(place: Place) -> Iterator[Place]:
    """``place`` as written: without the tag that a union puts after a backend's name; then everything above it."""
    yield place
    yield place[:2] + place[3:]
    yield from (place[:length] for length in range(len(place) - 1, 0, -1))


def _variable(place: Place, document: Lines, variables: Mapping[Place, str]) -> str:
    exact, untagged, *above = _ways(place)
    asked = [exact, untagged] if exact in document.lines else [exact, untagged, *above]
    return next((f"environment: {variables[each]}" for each in asked if each in variables), "")


def _line(place: Place, document: Lines) -> str:
    """Of something that is missing altogether there is no line."""
    line = next((document.lines[each] for each in _ways(place) if each and each in document.lines), None)
    return document.name if line is None else f"{document.name}:{line}"

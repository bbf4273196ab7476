"""Writes ``docs/SETTINGS.md`` from the settings classes: ``python docs/generate_settings.py``. A test compares them."""

# ruff: noqa: INP001  a script in a folder of documents, not a package
from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from pydantic import BaseModel  # noqa: E402  the project may not be installed
from pydantic.fields import FieldInfo  # noqa: E402  as above
from pydantic_core import PydanticUndefined  # noqa: E402  as above

from controlplane.monitor import MonitorSettings  # noqa: E402  as above
from controlplane.settings import PREFIX, Settings  # noqa: E402  as above

PAGE = ROOT / "docs/SETTINGS.md"
HEAD = f"""# Settings

Made from the settings classes by `python docs/generate_settings.py`; do not edit it here.

Both processes read one YAML file at start, given with `--config`. Unknown keys, repeated keys and impossible
combinations refuse to start, and everything that is wrong is listed at once, with its line. Secrets are named by file.

The gateway also reads environment variables, and they beat the file: `{PREFIX}` and the names in capitals, joined by
two underscores. `{PREFIX}SERVER__HTTP_PORT=9000` sets `server.http_port`.
"""
GATEWAY = "The gateway: `controlplane gateway --config controlplane.yaml`"
MONITOR = "The monitor: `controlplane monitor --config monitor.yaml`"


def page() -> str:
    parts = [HEAD, *_part(GATEWAY, Settings), *_part(MONITOR, MonitorSettings)]
    return "\n".join(parts).rstrip() + "\n"


def _part(title: str, settings: type[BaseModel]) -> Iterator[str]:
    yield f"## {title}\n"
    yield from _section("", settings)


def _section(path: str, settings: type[BaseModel], given: BaseModel | None = None, note: str = "") -> Iterator[str]:
    """One table for the plain settings of a class, then one for each class inside it.

    ``given`` holds what the class above says where its own defaults differ.
    """
    inner: list[tuple[str, type[BaseModel], BaseModel | None]] = []
    rows: list[str] = []
    for name, info in settings.model_fields.items():
        default = info.get_default(call_default_factory=True) if given is None else getattr(given, name)
        found = list(_classes(info.annotation, f"{path}{name}"))
        inner += [(where, each, default if isinstance(default, each) else None) for where, each in found]
        if not found or not isinstance(info.annotation, type):
            rows.append(_row(f"{path}{name}", info, default))
    if rows:
        if path:
            yield f"### {path.rstrip('.')}{note}\n"
        yield from ["| setting | type | default | |", "|---|---|---|---|", *rows, ""]
    for where, each, default in inner:
        yield from _section(f"{where}.", each, default, _kind_of(each))


def _classes(annotation: Any, path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """The settings classes that a field holds, and the path at which their fields are."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield path, annotation
    elif origin is Annotated:
        yield from _classes(arguments[0], path)
    elif origin in (Union, UnionType):
        for each in arguments:
            yield from _classes(each, path)
    elif origin in (dict, Mapping):
        yield from _classes(arguments[1], f"{path}.NAME")
    elif origin in (tuple, list):
        yield from _classes(arguments[0], f"{path}[]")


def _kind_of(settings: type[BaseModel]) -> str:
    """Siblings are told apart by the one word that their ``kind`` may be."""
    kind = settings.model_fields.get("kind")
    return f" with `kind: {get_args(kind.annotation)[0]}`" if kind else ""


def _row(path: str, info: FieldInfo, default: Any) -> str:
    said = (info.description or "").replace("|", "\\|").replace("<", "&lt;")
    bounds = ", ".join(filter(None, map(_bound, info.metadata)))
    return f"| `{path}` | {_type(info.annotation)} | {_default(default)} | {said}{f' ({bounds})' if bounds else ''} |"


def _bound(rule: Any) -> str:
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤", "min_length": "length ≥", "max_length": "length ≤"}
    return next((f"{sign} {getattr(rule, name)}" for name, sign in signs.items() if hasattr(rule, name)), "")


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0])
    if origin is Literal:
        return " or ".join(f"`{each}`" for each in arguments)
    if origin in (Union, UnionType):
        return " or ".join(_type(each) for each in arguments if each is not NoneType)
    if origin in (dict, Mapping):
        return f"{_type(arguments[0])} → {_type(arguments[1])}"
    if origin in (tuple, list, set, frozenset):
        return f"list of {_type(arguments[0])}"
    names = {"str": "text", "int": "integer", "float": "number", "bool": "true or false", "HttpUrl": "URL"}
    plain = str(getattr(annotation, "__name__", annotation))
    return (
        "section"
        if isinstance(annotation, type) and issubclass(annotation, BaseModel)
        else names.get(plain, plain.lower())
    )


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return "**required**"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, set | frozenset):
        value = sorted(value)
    if isinstance(value, tuple | list):
        return ", ".join(f"`{each}`" for each in value) or "none"
    return "none" if value is None or value in ("", {}) else f"`{value}`"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")

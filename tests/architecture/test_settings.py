"""Settings are frozen, refuse unknown keys, and every field says what it is."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
from pydantic import BaseModel

ROOT = Path(__file__).parents[2]
FILES = sorted(
    path.relative_to(ROOT)
    for top in ("audit", "inference", "controlplane")
    for path in (ROOT / top).rglob("settings.py")
)


def classes_of(path: Path) -> list[type[BaseModel]]:
    module = importlib.import_module(".".join(path.with_suffix("").parts))
    return [
        found
        for _, found in inspect.getmembers(module, inspect.isclass)
        if issubclass(found, BaseModel) and found.__module__ == module.__name__
    ]


def speaks_for_itself(annotation: object) -> bool:
    """A field that holds another settings class, or the one word that tells a class from its siblings."""
    if inspect.isclass(annotation):
        return issubclass(annotation, BaseModel)
    return get_origin(annotation) is Literal and len(get_args(annotation)) == 1


@pytest.mark.parametrize("path", FILES, ids=str)
def test_settings_are_frozen_and_refuse_unknown_keys(path: Path) -> None:
    assert classes_of(path)
    for found in classes_of(path):
        assert found.model_config.get("frozen"), found
        assert found.model_config.get("extra") == "forbid", found


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_setting_is_described(path: Path) -> None:
    silent = [
        f"{found.__name__}.{name}"
        for found in classes_of(path)
        for name, field in found.model_fields.items()
        if not field.description and not speaks_for_itself(field.annotation)
    ]
    assert not silent

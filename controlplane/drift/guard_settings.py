"""What an operator may set about the guard that looks at rows before a model does."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, Field


class GuardSettings(BaseModel, frozen=True, extra="forbid"):
    """The range guard of predictions. A model that is not named here costs nothing."""

    models: frozenset[str] = Field(
        default=frozenset(), description="Models whose rows are held against the reference of their version."
    )
    folder: Path | None = Field(
        default=None,
        description="Folder of references, <model>/<version>.json; none: beside the versions, where the model server's "
        "base path is ours to read too.",
    )

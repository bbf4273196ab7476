"""Rows that a model version was not made for, by the same references as the gateway's guard."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from controlplane.drift.guard import RowGuard
from controlplane.drift.reference import InvalidReference, read_reference, reference_of, write_reference

IN_VERSION, BESIDE = "assets.extra/row_reference.json", "references"
SENT = np.dtype(np.float32)  # what models are sent; bounds are rounded as the gateway rounds them


@dataclass(slots=True)
class Ranges:
    """References of one model's versions under ``<root>/<model>``. Without one, no row of a version is broken."""

    base: Path
    tensor: str
    names: tuple[str, ...]
    _guards: dict[int, RowGuard] = field(default_factory=dict)

    def broken(self, version: int, inputs: NDArray[np.float64]) -> NDArray[np.bool_]:
        """(n,) which of ``inputs`` (n, features) violate. A value that is too large for a float32 does."""
        guard = self._guard(version)
        if guard is None:
            return np.zeros(len(inputs), bool)
        with np.errstate(over="ignore"):
            return guard.broken(inputs.astype(SENT))

    def describe(self, version: int, inputs: NDArray[np.float64]) -> None:
        """Leave a reference for a version that was trained on ``inputs``, unless nobody guards this model."""
        if self._guards and self._guard(version) is None:
            path = self.base / BESIDE / f"{version}.json"
            write_reference(path, reference_of(self.names, inputs, tensor=self.tensor))

    def _guard(self, version: int) -> RowGuard | None:
        if version in self._guards:
            return self._guards[version]
        for path in (self.base / str(version) / IN_VERSION, self.base / BESIDE / f"{version}.json"):
            try:
                reference = read_reference(path.read_bytes())
            except (OSError, InvalidReference):  # the gateway complains of a file that cannot be read
                continue
            if len(reference.columns) == len(self.names):
                self._guards[version] = RowGuard.of(reference, SENT)
                return self._guards[version]
        return None

"""What rows of one model version look like when all is well, as a small file beside the version.

A column's range is that of its 0.1 and 99.9 percent quantiles; where it has few values, of those that occur more than
once: one wild value among the reference rows must not make the range endless. What an operator or a trainer has
declared beats what was seen.

Each of thirty independent columns leaves its quantiles in two rows of a thousand, so six in a hundred healthy rows
would break some range. The ranges are therefore widened together, by the same part of each column's width, until at
most one reference row in a thousand, or one of fewer, breaks any of those that were seen. Declared bounds are meant as
they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

FORMAT = "row-reference/1"
LOW, HIGH = 0.001, 0.999
HEALTHY_RATIO = 0.001  # of the reference rows may break a range
SELDOM_MISSING = 0.001  # a column that misses less often may not miss at all
FEW_VALUES = 20
LONGEST_BYTES = 4 * 1024 * 1024

Bounds = Mapping[str, tuple[float | None, float | None]]


class InvalidReference(ValueError):
    """A file that is not a reference; the message says what is wrong."""


class ColumnReference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``low`` and ``high`` belong to the range; None: there is no bound. ``missing_ratio`` is that of the reference."""

    name: str
    low: float | None
    high: float | None
    missing_ratio: float = 0.0

    @property
    def may_miss(self) -> bool:
        return self.missing_ratio > SELDOM_MISSING


class RowReference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``input`` is the tensor whose rows these are, ``rows`` how many were seen."""

    columns: tuple[ColumnReference, ...]
    input: str
    rows: int
    format: str = FORMAT

    def as_file(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=1)


def read_reference(raw: bytes) -> RowReference:
    """Raises ``InvalidReference``."""
    if len(raw) > LONGEST_BYTES:
        raise InvalidReference(f"more than {LONGEST_BYTES} bytes")
    try:
        reference = msgspec.json.decode(raw, type=RowReference)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidReference(str(error)) from None
    if reference.format != FORMAT or not reference.columns:
        raise InvalidReference(f"no {FORMAT} with columns")
    for column in reference.columns:
        if column.low is not None and column.high is not None and column.low > column.high:
            raise InvalidReference(f"{column.name}: low is above high")
    return reference


def reference_of(
    names: Sequence[str], rows: NDArray[np.float64], *, tensor: str, declared: Bounds | None = None
) -> RowReference:
    """From rows (n, k), NaN for missing. Raises ``ValueError`` when there are none or they do not fit ``names``."""
    if rows.ndim != 2 or rows.shape[1] != len(names) or not len(rows):  # noqa: PLR2004  rows and columns
        raise ValueError(f"rows of shape {rows.shape} for {len(names)} columns")
    ranges = np.array([_range(column) for column in rows.T])
    widened = _widened(rows, ranges[:, 0], ranges[:, 1])
    missing = np.isnan(rows).mean(axis=0).tolist()
    said = declared or {}
    columns = [
        ColumnReference(name, *said[name], miss) if name in said else ColumnReference(name, low, high, miss)
        for name, (low, high), miss in zip(names, widened, missing, strict=True)
    ]
    return RowReference(tuple(columns), tensor, len(rows))


def write_reference(path: Path, reference: RowReference) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    beside.write_bytes(reference.as_file())
    beside.replace(path)


def _range(column: NDArray[np.float64]) -> tuple[float, float]:
    """(nan, nan) for a column that was never there, which any value fits."""
    present = column[np.isfinite(column)]
    if not len(present):
        return math.nan, math.nan
    values, counts = np.unique(present, return_counts=True)
    if len(values) <= FEW_VALUES:
        kept = values[counts > 1] if (counts > 1).any() else values
        return float(kept[0]), float(kept[-1])
    low, high = np.quantile(present, (LOW, HIGH)).tolist()
    return low, high


def _widened(
    rows: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]
) -> list[tuple[float | None, float | None]]:
    width = high - low
    with np.errstate(invalid="ignore"):  # a missing value leaves no range
        beyond = np.nan_to_num(np.maximum(low - rows, rows - high), nan=0.0, posinf=np.inf)
    elastic = width > 0
    excess = (beyond[:, elastic] / width[elastic]).max(axis=1) if elastic.any() else np.zeros(len(rows))
    part = max(0.0, float(np.quantile(excess, 1 - HEALTHY_RATIO, method="lower")))
    part = part if math.isfinite(part) else 0.0
    bounds = np.stack((low - part * width, high + part * width), axis=1).tolist()
    return [(None, None) if math.isnan(least) else (least, most) for least, most in bounds]

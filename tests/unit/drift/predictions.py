"""Predictions as the monitor remembers them."""

from __future__ import annotations

import numpy as np

from controlplane.drift.rows import Prediction


def prediction(call_id: str, rows: int = 3) -> Prediction:
    return Prediction(
        call_id=call_id,
        at_ms=1,
        model="risk",
        version=1,
        principal="agent",
        rung="primary",
        inputs=np.arange(rows * 2, dtype=np.float64).reshape(rows, 2),
        predicted=np.ones(rows, np.int64),
    )

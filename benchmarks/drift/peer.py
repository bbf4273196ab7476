"""Another library's alarms on given rows, in that library's own environment: ``python peer.py NAME IN.npz OUT.json``.

``IN`` has pairs ``reference0`` (n, k) and ``current0`` (m, k), ``reference1``, …; for error streams a ``current`` is
(m,) of 0 and 1. ``OUT`` is ``{"version": …, "answers": [{"alarms": {rule: [row, …]}, "cpu_s": …}, …]}``, rows counted
from 0. Each rule is the library's default.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

WINDOW = 1_000


def evidently(reference: Any, current: Any) -> dict[str, list[int]]:
    """What ``DataDriftPreset`` computes for large references, without its figures: seen to give the same scores."""
    import pandas as pd  # noqa: PLC0415 - this peer's environment
    from evidently.legacy.calculations.stattests import wasserstein_stat_test  # noqa: PLC0415 - this peer's environment
    from evidently.legacy.core import ColumnType  # noqa: PLC0415 - this peer's environment

    held = [pd.Series(column) for column in reference.T]
    alarms: dict[str, list[int]] = {"share of columns >= .5": [], "any column >= .1": [], "any score > .3": []}
    for end in range(WINDOW, len(current) + 1, WINDOW):
        window = current[end - WINDOW : end]
        scores = np.array(
            [
                wasserstein_stat_test.func(past, pd.Series(column), ColumnType.Numerical, 0.1)[0]
                for past, column in zip(held, window.T, strict=True)
            ]
        )
        found = ((scores >= 0.1).mean() >= 0.5, (scores >= 0.1).any(), (scores > 0.3).any())
        for name, alarm in zip(alarms, found, strict=True):
            alarms[name] += [end - 1] if alarm else []
    return alarms


def nannyml(reference: Any, current: Any) -> dict[str, list[int]]:
    import nannyml as nml  # noqa: PLC0415 - this peer's environment
    import pandas as pd  # noqa: PLC0415 - this peer's environment

    names = [f"c{j}" for j in range(reference.shape[1])]
    calculator = nml.UnivariateDriftCalculator(column_names=names, chunk_size=WINDOW)
    calculator.fit(pd.DataFrame(reference, columns=names))
    found = calculator.calculate(pd.DataFrame(current, columns=names)).filter(period="analysis").to_df()
    alerts = found.loc[:, [column for column in found.columns if column[-1] == "alert"]].any(axis=1)
    return {"any column": [(chunk + 1) * WINDOW - 1 for chunk in np.flatnonzero(alerts).tolist()]}


def adwin(_: Any, current: Any) -> dict[str, list[int]]:
    from river.drift import ADWIN  # noqa: PLC0415 - this peer's environment

    detectors = [ADWIN() for _ in current[0]]
    alarms = []
    for row, values in enumerate(current.tolist()):
        fired = False
        for detector, value in zip(detectors, values, strict=True):
            detector.update(value)
            fired |= detector.drift_detected
        if fired:
            alarms.append(row)
    return {"any column": alarms}


def errors(_: Any, current: Any) -> dict[str, list[int]]:
    from river.drift import ADWIN, PageHinkley, binary  # noqa: PLC0415 - this peer's environment

    alarms: dict[str, list[int]] = {}
    for make in (ADWIN, PageHinkley, binary.DDM, binary.EDDM, binary.HDDMA, binary.HDDMW, binary.FHDDM):
        detector, found = make(), []
        for row, value in enumerate(current.astype(int).tolist()):
            detector.update(value)
            if detector.drift_detected:
                found.append(row)
        alarms[make.__name__] = found
    return alarms


PEERS = {"evidently": evidently, "nannyml": nannyml, "adwin": adwin, "errors": errors}


def main() -> None:
    name, rows, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    library = __import__({"adwin": "river", "errors": "river"}.get(name, name))
    with np.load(rows) as loaded:
        pairs = [(loaded[f"reference{i}"], loaded[f"current{i}"]) for i in range(len(loaded.files) // 2)]
    answers = []
    for reference, current in pairs:
        start = time.process_time()
        alarms = PEERS[name](reference, current)
        answers.append({"alarms": alarms, "cpu_s": time.process_time() - start})
    out.write_text(json.dumps({"version": library.__version__, "answers": answers}))


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    main()

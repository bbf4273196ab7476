"""The Evidently report beside a verdict: ``python -I report.py ROWS OUT BYTES``, in whatever environment has Evidently.

A process of its own: the library takes seconds and hundreds of megabytes to import, and may fail, without anybody
waiting for it. It explains a verdict and never makes one: its drift scores depend on the window size, flag harmless
shifts, and are blind to a change of the labels' meaning.

``ROWS`` is an ``.npz`` with ``reference`` and ``current`` (rows, features) and ``names`` (features). Two files are
written into ``OUT``: ``report.html.gz`` and ``scores.json``. How it ended stands in the exit status, see ``EXITS``.
Run by its path, it imports nothing of ours, so that its environment needs nothing but Evidently.
"""

from __future__ import annotations

import gzip
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

FEW_VALUES = 5  # up to so many distinct values a column counts as categorical, as the library itself has it
NUMERICAL, CATEGORICAL = "wasserstein", "jensenshannon"
"""Distances, whatever the number of rows. By default the library turns to p-values for references of up to 1,000 rows:
then a small score means drift, and a large one means none."""
NOT_INSTALLED, OUT_OF_MEMORY = 3, 4
EXITS = {NOT_INSTALLED: "not_installed", OUT_OF_MEMORY: "out_of_memory"}
ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Every thread of a linear algebra library sets address space aside, which the memory limit counts."""


def scores_of(run: dict[str, Any]) -> dict[str, Any]:
    """What is worth keeping of a run's dictionary: one score a column, and how many columns are said to drift."""
    columns = {}
    drifted: dict[str, Any] = {}
    for metric in run["metrics"]:
        config = metric["config"]
        if "column" in config:
            method, threshold = config.get("method"), config.get("threshold")
            columns[config["column"]] = {"score": float(metric["value"]), "method": method, "threshold": threshold}
        elif isinstance(metric["value"], dict) and "share" in metric["value"]:
            drifted = {name: float(value) for name, value in metric["value"].items()}
    return {"columns": columns, "drifted": drifted}


def write_report(rows: Path, out: Path) -> dict[str, Any]:
    # Imported late: after the memory limit is set, and only where the extra is installed. None of them has types.
    import numpy as np  # noqa: PLC0415
    import pandas as pd  # type: ignore[import-untyped]  # noqa: PLC0415
    from evidently import DataDefinition, Dataset, Report  # type: ignore[import-untyped]  # noqa: PLC0415
    from evidently.presets import DataDriftPreset  # type: ignore[import-untyped]  # noqa: PLC0415

    with np.load(rows, allow_pickle=False) as loaded:
        names = [str(name) for name in loaded["names"]]
        reference = pd.DataFrame(loaded["reference"], columns=names)
        current = pd.DataFrame(loaded["current"], columns=names)
    categorical = [name for name in names if reference[name].nunique() <= FEW_VALUES]
    definition = DataDefinition(
        numerical_columns=[name for name in names if name not in categorical], categorical_columns=categorical
    )
    preset = DataDriftPreset(num_method=NUMERICAL, cat_method=CATEGORICAL)
    run = Report([preset]).run(
        Dataset.from_pandas(current, data_definition=definition),
        Dataset.from_pandas(reference, data_definition=definition),
    )
    scores = scores_of(run.dict())
    out.mkdir(parents=True, exist_ok=True)
    html = gzip.compress(run.get_html_str(as_iframe=False).encode(), mtime=0)
    (out / "report.html.gz").write_bytes(html)
    (out / "scores.json").write_text(json.dumps(scores, sort_keys=True, indent=1))
    return scores


def main(arguments: list[str]) -> int:
    rows, out, memory_bytes = Path(arguments[0]), Path(arguments[1]), int(arguments[2])
    os.environ |= {"DO_NOT_TRACK": "1"} | dict.fromkeys(ONE_THREAD, "1")
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    try:
        write_report(rows, out)
    except MemoryError as error:
        sys.stderr.write(f"out of memory: {error}\n")
        return OUT_OF_MEMORY
    except ImportError as error:
        is_memory = "failed to map" in str(error) or "allocate memory" in str(error)
        sys.stderr.write(f"cannot be imported: {error}\n")
        return OUT_OF_MEMORY if is_memory else NOT_INSTALLED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

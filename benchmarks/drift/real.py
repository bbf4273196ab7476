"""Real rows that ship inside libraries, with changes of our own making said so.

* Census: US Census ACS, employment in Massachusetts, 2015 (reference) to 2018, 16 features with a model's predictions
  and labels; from the nannyml wheel. Rows of one year come in the file's order, which is not time, and are shuffled.
* Survey: the RAND Health Insurance Experiment, 9 features, from the statsmodels wheel; the example's rows.
* Digits: 1,797 handwritten digits, 64 features, from scikit-learn: too few for a reference, which must be said.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyarrow import parquet
from sklearn.datasets import load_digits

from benchmarks.drift.peers import ROOT, Peers
from benchmarks.drift.streams import Rows
from controlplane.drift.panel import Panel, Reference, Verdict
from examples.risk_model.data import FEATURES, load

REFERENCE_ROWS = 20_000
NOT_FEATURES = ("id", "employed", "year", "prediction", "predicted_probability")


@dataclass(frozen=True, slots=True)
class Line:
    """One sentence of the table: what was done to which rows, and what came of it."""

    rows: str
    change: str
    watched: int
    verdicts: int
    delay: float | None = None
    stream: str = ""
    per_window: dict[str, str] | None = None

    def document(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, eq=False)
class Census:
    names: list[str]
    reference: Rows
    reference_labels: NDArray[np.int64]
    reference_errors: Rows
    later: Rows
    later_labels: NDArray[np.int64]
    later_errors: Rows
    years: NDArray[np.int64]


def census() -> Census | str:
    """The rows, or why they cannot be had."""
    folder = ROOT / ".venv-nannyml" / "lib"
    found = sorted(folder.glob("python*/site-packages/nannyml/datasets/data/employment_MA_reference.pq"))
    if not found:
        return "nannyml's environment is not there"

    def table(name: str) -> dict[str, NDArray[Any]]:
        columns = parquet.read_table(Path(found[0]).with_name(name)).to_pydict()
        return {key: np.array(values) for key, values in columns.items()}

    reference, later = table("employment_MA_reference.pq"), table("employment_MA_analysis.pq")
    target = table("employment_MA_analysis_target.pq")
    place = {key: i for i, key in enumerate(target["id"].tolist())}
    truth = target["employed"][[place[key] for key in later["id"].tolist()]].astype(np.int64)
    names = [name for name in reference if name not in NOT_FEATURES]
    random = np.random.default_rng(0)
    first = random.permutation(len(reference["id"]))
    order = np.concatenate(
        [random.permutation(np.flatnonzero(later["year"] == year)) for year in np.unique(later["year"])]
    )
    return Census(
        names,
        np.column_stack([reference[name] for name in names]).astype(float)[first],
        reference["employed"].astype(np.int64)[first],
        (reference["prediction"].astype(np.int64) != reference["employed"].astype(np.int64)).astype(float)[first],
        np.column_stack([later[name] for name in names]).astype(float)[order],
        truth[order],
        (later["prediction"].astype(np.int64) != truth).astype(float)[order],
        later["year"].astype(np.int64)[order],
    )


def _line(rows: str, change: str, verdicts: list[Verdict], watched: int, at: int | None = None) -> Line:
    if at is None:
        return Line(rows, change, watched, len(verdicts), None, ", ".join(sorted({v.stream for v in verdicts})))
    after = [verdict for verdict in verdicts if verdict.row > at]
    delay = after[0].row - at if after else float("inf")
    return Line(rows, change, watched, len(verdicts), delay, after[0].stream if after else "")


def census_lines(found: Census, asked: Peers) -> list[Line]:
    errors = Reference(int(found.reference_errors.sum()), len(found.reference_errors))
    panel = Panel.enrol(found.names, found.reference[:REFERENCE_ROWS], {"error": errors})
    enrolment = panel.enrolment()
    verdicts = panel.feed(signals={"error": found.later_errors})
    lines = [_line("census 2016-18, labels", "none", verdicts, len(found.later_errors))]
    lines += [_year(found, enrolment, year, asked) for year in np.unique(found.years).tolist()]
    lines += [_flipped(found, enrolment, share) for share in (0.05, 0.10, 0.20)]
    random = np.random.default_rng(2)
    rows = found.later[random.permutation(len(found.later))[:20_000]].copy()
    age, hit = found.names.index("AGEP"), random.random(20_000) < 0.3
    hit[:5_000] = False
    rows[hit, age] *= 12
    verdicts = Panel.restored(enrolment).feed(rows)
    lines.append(_line("census", "injected: age in months in 30 % of rows", verdicts, len(rows), 5_000))
    rows = found.later[random.permutation(len(found.later))[:20_000]].copy()
    rows[5_000:][random.random(15_000) < 0.1, age] = np.nan
    verdicts = Panel.restored(enrolment).feed(rows)
    lines.append(_line("census", "injected: age missing in 10 % of rows", verdicts, len(rows), 5_000))
    return lines


def _year(found: Census, enrolment: bytes, year: int, asked: Peers) -> Line:
    """Nothing injected: what a year's own change in the inputs brings, beside what the peers say of the same rows."""
    rows = found.later[found.years == year][:40_000]
    verdicts = Panel.restored(enrolment).feed(rows)
    said: dict[str, str] = {}
    for name in ("evidently", "nannyml"):
        for answer in asked.alarms(name, [(found.reference[:REFERENCE_ROWS], rows)]):
            said |= {f"{name} {rule}": f"{len(ends)}/{len(rows) // 1_000}" for rule, ends in answer.alarms.items()}
    line = _line(f"census {year}, inputs", "none (model errs as before)", verdicts, len(rows))
    return Line(line.rows, line.change, line.watched, line.verdicts, None, line.stream, said)


def _flipped(found: Census, enrolment: bytes, share: float) -> Line:
    errors = found.later_errors[:60_000].copy()
    hit = np.random.default_rng(3).random(60_000) < share
    hit[:20_000] = False
    errors[hit] = 1 - errors[hit]
    verdicts = Panel.restored(enrolment).feed(signals={"error": errors})
    return _line("census, labels", f"injected: {share:.0%} of labels turned", verdicts, 60_000, 20_000)


def survey_lines() -> list[Line]:
    """The example's rows: 12,000 are the reference, the rest the stream."""
    parts = load()
    everything = np.concatenate([parts.training.inputs, parts.reference.inputs, parts.stream.inputs])
    reference, stream = everything[:12_000], everything[12_000:]
    enrolment = Panel.enrol(list(FEATURES), reference).enrolment()
    lines = [_line("survey", "none", Panel.restored(enrolment).feed(stream), len(stream))]
    for name, amount in (("disea", 0.5), ("disea", 1.0), ("lpi", 1.0)):
        rows, j = stream.copy(), FEATURES.index(name)
        rows[2_000:, j] += amount * reference[:, j].std()
        verdicts = Panel.restored(enrolment).feed(rows)
        lines.append(_line("survey", f"injected: {name} +{amount:g} sd", verdicts, len(rows), 2_000))
    return lines


def digits_line() -> Line:
    rows = load_digits().data.astype(float)
    panel = Panel.enrol([f"p{j}" for j in range(rows.shape[1])], rows[:1_200])
    unarmed = ", ".join(f"{name} {why}" for name, why in panel.unarmed.items())
    return Line("digits", f"none; {unarmed}", len(rows) - 1_200, len(panel.feed(rows[1_200:])))

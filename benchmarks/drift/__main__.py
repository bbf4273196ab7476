"""What the drift detectors find, how soon, and how often for nothing; beside Evidently, river and NannyML.

    python -m benchmarks.drift [--parts inputs peers labels real loop costs] [--quick] [--json FILE]

Synthetic rows, whose truth is known, and real rows that ship inside libraries. Every change is injected by us and said
so. False alarms count while nothing changes; a delay is in rows from the change, the median over seeds. Peers run in
environments of their own with their defaults, on the same rows; river and NannyML are installed on first use.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.drift import costs, inputs, labels, loop, real, report
from benchmarks.drift.peers import Peers
from benchmarks.drift.streams import KINDS
from benchmarks.gateway.report import machine


@dataclass(slots=True)
class Run:
    """One run: what it prints as it goes, and what stays of it."""

    quick: bool
    asked: Peers = field(default_factory=Peers)
    targets: list[report.Target] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)

    def say(self, text: str) -> None:
        print(text, end="\n\n", flush=True)

    def inputs(self) -> None:
        rows, seeds = (40_000, range(2)) if self.quick else (200_000, range(10))
        found = []
        for kind in KINDS:
            for columns in inputs.SIZES[kind]:
                many = columns > 30
                found.append(
                    inputs.ours(kind, columns, rows=rows // 2 if many else rows, seeds=seeds[: 5 if many else None])
                )
        self.say(report.inputs_table(found))
        self.targets += report.inputs_targets(found)
        self.results["inputs"] = [each.document() for each in found]

    def peers(self) -> None:
        rows, seeds = (10_000, range(1)) if self.quick else (60_000, range(3))
        found = []
        for kind in KINDS:
            found.append(inputs.ours(kind, inputs.PEER_COLUMNS, rows=len(seeds) * 20_000, seeds=seeds))
            found.append(inputs.windows(kind, rows=len(seeds) * 20_000, seeds=seeds))
            found += inputs.peers(kind, self.asked, rows=rows, seeds=seeds)
        self.say(report.inputs_table(found))
        self.results["peers"] = [each.document() for each in found]

    def labels(self) -> None:
        quiet, seeds = (200_000, range(10)) if self.quick else (1_000_000, range(50))
        errors, signals = labels.ours(quiet_rows=quiet, seeds=seeds), labels.signals(seeds=seeds)
        rivals = labels.peers(self.asked, quiet_rows=quiet, seeds=seeds[:3] if self.quick else seeds[:10])
        self.say(report.labels_table([*errors, *rivals]))
        self.say(report.signals_table(signals))
        self.targets += report.labels_targets(errors, signals)
        self.results["labels"] = [each.document() for each in (*errors, *rivals, *signals)]

    def real(self) -> None:
        found = real.census()
        lines = [] if isinstance(found, str) else real.census_lines(found, self.asked)
        if isinstance(found, str):
            self.asked.absent["census"] = found
        lines += [*real.survey_lines(), real.digits_line()]
        self.say(report.real_table(lines))
        self.results["real"] = [line.document() for line in lines]

    def loop(self) -> None:
        found = real.census()
        if isinstance(found, str):
            self.asked.absent["loop"] = found
            return
        courses = loop.compare(found, seeds=range(1) if self.quick else range(10), say=self.say)
        self.say(loop.table(courses))
        self.targets += loop.targets(courses)
        self.results["loop"] = [asdict(course) for course in courses]

    def costs(self) -> None:
        measured = [costs.panel(columns) for columns in (10, 30, 100, 300)]
        self.say(report.costs_table(measured))
        self.targets += [
            report.Target("rows/s/core at 30 columns and 9 signals", measured[1].rows_per_s, 50_000, at_least=True),
            report.Target("bytes of state at 30 columns and 9 signals", measured[1].state_bytes, 40 * 1024),
            report.Target("us of a ring append", costs.ring_us(), 5.0),
        ]
        for champion, challenger in ((0.17, 0.17), (0.17, 0.175), (0.24, 0.17), (0.17, 0.30)):
            share, refused, rows = costs.promotion(champion, challenger, seeds=50 if self.quick else 300)
            print(
                f"{champion} against {challenger:<6} promoted {share:.3f} refused {refused:.3f} median {rows:.0f} rows"
            )
            if champion == challenger:
                self.targets.append(report.Target("share of equal challengers promoted", share, 0.01))
        print()
        self.results["costs"] = [asdict(each) for each in measured]


PARTS: dict[str, Callable[[Run], None]] = {
    "inputs": Run.inputs,
    "peers": Run.peers,
    "labels": Run.labels,
    "real": Run.real,
    "loop": Run.loop,
    "costs": Run.costs,
}


def main() -> None:
    options = read_options()
    run = Run(options.quick)
    for name in options.parts:
        PARTS[name](run)
    for target in run.targets:
        print(target)
    for name, version in run.asked.versions.items():
        print(f"{name}: version {version}")
    for name, reason in run.asked.absent.items():
        print(f"{name} skipped: {reason}")
    if options.json:
        about = {"machine": machine(), "command": sys.argv, "versions": run.asked.versions, "absent": run.asked.absent}
        found = {**about, "targets": [target.document() for target in run.targets], "results": run.results}
        options.json.write_text(json.dumps(found, indent=1, default=str) + "\n", "utf-8")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="fewer rows and seeds: a look, not a measurement")
    parser.add_argument("--json", type=Path, help="where the figures go as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()

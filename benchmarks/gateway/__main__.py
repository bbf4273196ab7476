"""What one governed call costs: wrk against the stub, a bare pass-through, the same with two durable records of each
call, the gateway and LiteLLM, in turns.

    python -m benchmarks.gateway [--rounds 3] [--seconds 4] [--rules 50] [--json FILE] [--profile]

All parts stand ready from the beginning and are measured in turns, round by round, so that a busy moment of the machine
hurts all alike; the figures are medians over the rounds. At the end the gateway's ledger is verified and must hold an
intent and an outcome for every answered call.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from audit.verify import verify
from benchmarks.gateway.measure import Sample, middle, run_wrk
from benchmarks.gateway.parts import Part, Stage, free_ports
from benchmarks.gateway.profiling import profile
from benchmarks.gateway.report import MANY, ONE, document, figures, table, verdicts
from benchmarks.gateway.world import ROOT, Ports, World

PARTS = ("stub", "passthrough", "recorded", "gateway", "without-casbin", "litellm")
ON_DEMAND = ("gateway-casbin",)  # the gateway decides by the compiled snapshot, this one by casbin itself
WARM_UP_S = 1.0


def main() -> None:
    options = read_options()
    if shutil.which("wrk") is None:
        print("skipped: wrk is not installed (Debian: wrk)")
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        world = World(Path(folder), Ports(*free_ports(7)))
        world.make(options.rules)
        with Stage(world) as stage:
            if stage.start("stub") is None:
                print(f"skipped: {stage.absent['stub']}")
                return
            if options.profile:
                show_profile(stage, options.seconds)
            else:
                compare(stage, options)
        if not options.profile and "gateway" in options.parts:
            print(ledger_report(world))


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each run of wrk")
    parser.add_argument("--rules", type=int, default=50, help="policy rules that a call is held against")
    parser.add_argument("--parts", nargs="+", choices=PARTS + ON_DEMAND, default=PARTS)
    parser.add_argument("--json", type=Path, help="where the figures go as JSON")
    parser.add_argument("--folder", type=Path, default=ROOT / "var" / "bench", help="on the disk that holds the ledger")
    parser.add_argument("--profile", action="store_true", help="instead: where the time of a call goes (py-spy)")
    return parser.parse_args()


def compare(stage: Stage, options: argparse.Namespace) -> None:
    for name in options.parts:
        if name != "stub":
            stage.start(name)
    parts = [part for part in stage.parts if part.name in options.parts]
    for part in parts:
        run_wrk(stage.world, part, MANY, WARM_UP_S)
    results = in_turns(stage.world, parts, options)
    print(table({part.name: part.title for part in parts}, results))
    for name, reason in stage.absent.items():
        print(f"{name} skipped: {reason}")
    found = figures(results) if {"gateway", "passthrough"} <= results.keys() else {}
    if found:
        print(verdicts(found))
    if options.json:
        about = {"command": sys.argv, "rules": options.rules, "rounds": options.rounds, "absent": stage.absent}
        options.json.write_text(json.dumps(document(results, found, about), indent=1) + "\n", "utf-8")


def in_turns(world: World, parts: Sequence[Part], options: argparse.Namespace) -> dict[str, dict[int, Sample]]:
    runs: dict[tuple[str, int], list[Sample]] = {}
    for _ in range(options.rounds):
        for connections in (ONE, MANY):
            for part in parts:
                sample = run_wrk(world, part, connections, options.seconds)
                runs.setdefault((part.name, connections), []).append(sample)
    return {part.name: {n: middle(runs[part.name, n]) for n in (ONE, MANY)} for part in parts}


def show_profile(stage: Stage, seconds: float) -> None:
    gateway = stage.start("gateway")
    assert gateway is not None
    run_wrk(stage.world, gateway, MANY, WARM_UP_S)
    cost = run_wrk(stage.world, gateway, MANY, seconds)
    print(f"CPU per call {cost.cpu_us:,.0f} us at {cost.per_s:,.0f} calls/s, load {cost.load:.2f}")
    for step, share in profile(stage.world, gateway, max(seconds, 8)).items():
        print(f"{step:<28}{share:>6.1%} {share * cost.cpu_us:>8.0f} us")
    kept = stage.world.folder.parent / "stacks.txt"
    shutil.copyfile(stage.world.folder / "stacks.txt", kept)
    print(f"stacks in {kept}")


def ledger_report(world: World) -> str:
    """The ledger of the measured gateway, verified: intents and outcomes must be as many as each other."""
    path = world.ledger("gateway")
    report: Any = verify(path, path.with_name("signing.key.pub").read_text("utf-8"))
    state = "sound" if report.is_sound else f"BROKEN: {report.faults}"
    return f"the gateway's ledger holds {report.size:,} records and is {state}"


if __name__ == "__main__":
    main()
